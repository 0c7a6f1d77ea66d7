"""The rival of the league: a learned denoiser as the prior of free voxels."""

import numpy as np
import torch

from tests.benchmarks import denoiser_prior
from tests.benchmarks.denoiser_prior import Denoiser, Denoising, noise, trained, turned


def disturbed(net):
    """The same network with a last layer that does something."""
    net.layers[-1].weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return net.requires_grad_(False)


def test_it_has_no_unit():
    net = disturbed(Denoiser(width=4, depth=3))
    volume = torch.rand(2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(net(30 * volume), 30 * net(volume), rtol=1e-4, atol=1e-4)


def test_the_prior_has_the_slope_of_regularisation_by_denoising():
    net = disturbed(Denoiser(width=4, depth=3))
    prior = Denoising(net, mean=2.0, hold=2)
    draw = torch.Generator().manual_seed(0)
    first, second, third = (3 * torch.rand(5, 8, 8, generator=draw) for _ in range(3))
    # what is denoised is that of every other call
    for volume, held in ((first, first), (second, first), (third, third)):
        v = volume.clone().requires_grad_()
        prior(v).backward()
        expected = (volume - net(held[None])[0]) / 2
        assert torch.allclose(v.grad, expected, atol=1e-5)


def test_noise_has_unit_variance_and_is_white_or_smooth():
    found = noise((40, 6, 24, 24), torch.Generator().manual_seed(0))
    assert torch.allclose(found.square().mean((1, 2, 3)), torch.ones(40), atol=1e-5)
    alike = (found[..., 1:] * found[..., :-1]).mean((1, 2, 3))
    assert alike.min() < 0.2 and alike.max() > 0.5


def test_volumes_are_turned_and_nothing_else():
    volumes = torch.arange(2.0 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    draw = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(100):
        found = turned(volumes, draw)
        assert torch.equal(found.flatten(1).sort().values, volumes.flatten(1))
        seen.add(tuple(found[0].flatten().tolist()))
    assert len(seen) == 16


def test_it_learns_from_all_kinds_but_one(monkeypatch):
    drawn = []

    def told(name):
        return lambda seed: drawn.append(name) or np.ones((4, 24, 24), np.float32)

    monkeypatch.setattr(denoiser_prior, "KINDS", {name: told(name) for name in "abc"})
    trained(without="b", n_steps=2)
    assert set(drawn) == {"a", "c"}


def test_it_learns_to_take_noise_away(monkeypatch):
    """From constant volumes in a haze, for a few steps."""
    monkeypatch.setattr(denoiser_prior, "KINDS", {"flat": lambda seed: np.ones((4, 24, 24), "f4")})
    monkeypatch.setattr(denoiser_prior, "VOLUMES", 1)
    net = trained(without="beads", n_steps=200)
    grain = 0.3 * torch.randn((1, 4, 24, 24), generator=torch.Generator().manual_seed(0))
    left = net(1 + grain) - 1
    assert left.square().mean() < 0.98 * grain.square().mean()
