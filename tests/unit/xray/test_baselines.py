"""Classical fusions by hand, and their order on simulated movies."""

import numpy as np
import pytest
import torch

from helpers import metrics
from helpers.xray import baselines
from helpers.xray.cameras import coarsen
from helpers.xray.simulate import Experiment, simulate
from tests.margins.seeds import published

METHODS = "bicubic", "nearest_key", "linear", "detail_injection"


def batch(seed=0, n=2):
    generator = torch.Generator().manual_seed(seed)
    lr = torch.rand(n, 3, 1, 4, 6, generator=generator)
    hr = torch.rand(n, 2, 1, 16, 24, generator=generator)
    return lr, hr, torch.tensor([0.25, 0.75])


@pytest.mark.parametrize("name", METHODS)
def test_shapes_and_refusals(name):
    method = getattr(baselines, name)
    lr, hr, tau = batch()
    assert method(lr, hr, tau).shape == (2, 1, 16, 24)
    with pytest.raises(ValueError, match=r"lr is .* give \(B, 3, 1, h, w\)"):
        method(lr[:, :2], hr, tau)
    with pytest.raises(ValueError, match=r"give \(2, 2, 1, 16, 24\)"):
        method(lr, hr[..., :20], tau)
    with pytest.raises(ValueError, match="one number for each of 2"):
        method(lr, hr, tau[:1])


def test_mixes_in_time():
    lr, hr, tau = batch()
    assert torch.equal(baselines.nearest_key(lr, hr, tau)[0], hr[0, 0])
    assert torch.equal(baselines.nearest_key(lr, hr, tau)[1], hr[1, 1])
    mixed = 0.25 * hr[1, 0] + 0.75 * hr[1, 1]
    assert torch.allclose(baselines.linear(lr, hr, tau)[1], mixed)


def test_detail_injection_agrees_with_the_coarse_frame():
    """What it adds is smooth, so that the coarse camera sees most of what was missing."""
    lr, hr, tau = batch()
    yes, no = baselines.detail_injection(lr, hr, tau), baselines.linear(lr, hr, tau)
    assert (coarsen(yes[:, 0]) - lr[:, 1, 0]).std() < 0.8 * (coarsen(no[:, 0]) - lr[:, 1, 0]).std()
    assert torch.equal(baselines.bicubic(lr, hr, tau), baselines.bicubic(lr, 0 * hr, tau))


def test_on_melt_pools_each_baseline_beats_the_one_before():
    """Near the numbers for which the scenes were made; networks are trained on them."""
    scores = {name: [] for name in METHODS}
    for seed in range(2000, 2004):
        with published():  # the movies of the numbers below
            movie = simulate(Experiment(), seed)
        lr, hr = (torch.from_numpy(x)[:, None] for x in (movie.lr, movie.hr))
        for t in (4, 7, 14, 17):
            k, tau = divmod(t, 10)
            inputs = lr[None, t - 1 : t + 2], hr[None, k : k + 2], torch.tensor([tau / 10])
            for name in METHODS:
                frame = getattr(baselines, name)(*inputs)[0, 0].clamp(0, 1)
                scores[name].append(metrics.psnr(frame, movie.truth[t].clip(0, 1), data_range=1))
    means = [float(np.mean(scores[name])) for name in METHODS]
    assert all(b > a + 0.3 for a, b in zip(means, means[1:], strict=False)), means
    np.testing.assert_allclose(means, [23.93, 25.02, 26.03, 26.82], atol=0.02)
