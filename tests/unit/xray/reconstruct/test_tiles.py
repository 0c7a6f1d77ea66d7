"""Tiles cover every pixel once, whatever the sizes, and their seams are below the noise."""

import numpy as np
import pytest
import torch

from helpers import xray
from helpers.xray.reconstruct import by_tiles
from helpers.xray.simulate import Experiment, simulate


def first_key(lr, hr, tau):
    return hr[:, 0]


@pytest.mark.parametrize("shape", [(24, 32), (17, 40), (8, 50), (33, 9)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (64, 0), (40, 8)])
def test_a_method_without_reach_gives_the_same_with_tiles(shape, tile, overlap):
    generator = torch.Generator().manual_seed(0)
    h, w = shape
    lr = torch.rand(1, 3, 1, h, w, generator=generator)
    hr = torch.rand(1, 2, 1, 4 * h, 4 * w, generator=generator)
    seen = []

    def spy(lr, hr, tau):
        assert hr.shape[-2:] == (min(tile, 4 * shape[0]), min(tile, 4 * shape[1]))
        assert tau.tolist() == [0.25] * len(hr)
        seen.append(len(hr))
        # coarse and sharp cuts lie on each other
        return hr[:, 0] + lr[:, 1].repeat_interleave(4, -2).repeat_interleave(4, -1)

    frame = by_tiles(spy, lr, hr, torch.tensor([0.25]), tile=tile, overlap=overlap, batch=3)
    expected = hr[0, 0, 0] + lr[0, 1, 0].repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.allclose(frame, expected, atol=1e-6)
    assert max(seen) <= 3


def test_a_step_between_tiles_is_spread_over_the_overlap():
    """Each tile answers with a number of its own: the worst network for tiles."""
    count = iter(range(100))

    def stubborn(lr, hr, tau):
        return torch.stack([torch.full_like(x, next(count)) for x in hr[:, 0]])

    lr, hr = torch.ones(1, 3, 1, 16, 28), torch.ones(1, 2, 1, 64, 112)
    frame = by_tiles(stubborn, lr, hr, torch.ones(1), tile=64, overlap=16)
    row = frame[10].numpy()
    assert set(row[:48].tolist()) == {0.0} and set(row[64:].tolist()) == {1.0}
    np.testing.assert_allclose(np.diff(row[48:64]), 1 / 16, atol=1e-6)


@pytest.mark.parametrize(("tile", "overlap"), [(30, 4), (32, 6), (32, 20), (32, -4)])
def test_sizes_that_do_not_fit_are_refused(tile, overlap):
    lr, hr = torch.ones(1, 3, 1, 16, 16), torch.ones(1, 2, 1, 64, 64)
    with pytest.raises(ValueError, match="multiples of 4, the overlap at most half a tile"):
        by_tiles(first_key, lr, hr, torch.ones(1), tile=tile, overlap=overlap)


def test_seams_of_the_shipped_network_are_below_the_noise():
    movie = simulate(Experiment(shape=(320, 320), n_frames=11), seed=2020)
    net = xray.load("flowfuse", device="cpu")
    lr = torch.from_numpy(movie.lr[4:7])[None, :, None]
    hr = torch.from_numpy(movie.hr)[None, :, None]
    with torch.inference_mode():
        whole = by_tiles(net, lr, hr, torch.tensor([0.5]), tile=None)
        tiled = by_tiles(net, lr, hr, torch.tensor([0.5]), tile=192, overlap=64)
    noise = np.sqrt(movie.hr.mean() / movie.experiment.hr_photons)
    difference = (tiled - whole).abs()
    assert float((difference**2).mean().sqrt()) < 0.2 * noise
    assert float(difference.max()) < 3 * noise
    assert float(difference.max()) > 0  # the network does look beyond the overlap
