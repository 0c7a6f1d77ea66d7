"""The rival of the league: a volume as a sum of Gaussians."""

from functools import partial

import numpy as np
import torch

from helpers.inr import lightfield, phantoms
from helpers.inr.fit import Stage, fit, losses
from helpers.metrics import psnr
from tests.benchmarks.gaussians import REACH, Gaussians, drawn_from, rotations

SHAPE = (7, 11, 13)


def three():
    """Gaussians that differ in everything, one at the border, turned."""
    centres = torch.tensor([[3.2, 4.8, 6.1], [0.4, 9.3, 2.0], [5.0, 3.0, 10.5]])
    sizes = torch.tensor([[0.8, 1.5, 1.0], [0.5, 1.0, 2.0], [0.3, 0.2, 0.4]])
    field = Gaussians(centres, sizes, torch.tensor([5.0, 8.0, 2.0]))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return field


def written_out(field, shape=SHAPE):
    """The same volume by tensors, every Gaussian at every voxel, in double precision."""
    field = field.double()
    axes, variances = field.shapes()
    c = axes @ torch.diag_embed(variances) @ axes.mT
    grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1).double()
    offset = grid[..., None, :] - field.centres - field.shift
    square = torch.einsum("...ki,kij,...kj->...k", offset, torch.linalg.inv(c), offset)
    height = field.light * field.gain.exp() / ((2 * np.pi) ** 3 * torch.linalg.det(c)).sqrt()
    return (height * torch.exp(-square / 2) * (square < REACH**2)).sum(-1)


def test_a_volume_is_the_sum_written_out():
    found, expected = three().volume(SHAPE).detach(), written_out(three()).detach()
    assert (found - expected).abs().max() < 1e-5 * expected.max()
    assert (expected == 0).any()  # the reach is short enough to be seen


def test_the_slopes_are_those_of_the_sum_written_out():
    # a voxel at the reach of a Gaussian may be on either side of it
    weight = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    one, other = three(), three().double()
    (one.volume(SHAPE) * weight).sum().backward()
    (written_out(other) * weight).sum().backward()
    for (name, found), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        apart = (found.grad - expected.grad).abs().max() / expected.grad.abs().max()
        assert apart.log10() < -3, name


def test_a_gaussian_smaller_than_a_voxel_keeps_its_light():
    draw = torch.Generator().manual_seed(0)
    centres = torch.rand(4000, 3, generator=draw) * 6 + 5
    dots = Gaussians(centres, torch.full((4000, 3), 0.05), torch.ones(4000))
    # those in the middle of a voxel and those at its corner; alone they are off by more
    assert abs(float(dots.volume((17, 17, 17)).detach().sum()) / 4000 - 1) < 0.05


def test_a_long_thin_gaussian_is_drawn():
    """Its precision is known without an inverse, whose rounding would make it negative."""
    sheet = Gaussians([[3.0, 5.0, 6.0]], [[0.01, 2000.0, 2000.0]], [1e6])
    sheet.turn.data[:] = torch.tensor([[0.3, -0.2, 0.9]])
    volume = sheet.volume(SHAPE).detach()
    _, variances = sheet.shapes()
    peak = 1e6 / (2 * np.pi * variances.detach()).prod().sqrt()
    assert abs(float((volume.max() / peak).log10())) < 0.1


def test_a_turn_is_a_rotation():
    turn = torch.tensor([[0.3, -0.2, 0.9], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = rotations(turn)
    assert torch.allclose(found @ found.mT, torch.eye(3).expand(3, 3, 3), atol=1e-6)
    assert torch.equal(found[1], torch.eye(3))
    # 1 + k turns by a quarter
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.allclose(found[2], quarter, atol=1e-6)


def test_places_are_drawn_where_the_estimate_is_bright():
    estimate = np.zeros((8, 20, 20), np.float32)
    estimate[2, 5, 5], estimate[6, 12, 15] = 3.0, 1.0
    start = drawn_from(estimate, 400, (0.34, 0.2, 0.2), torch.Generator().manual_seed(0))
    near = (start.centres - torch.tensor([2.0, 5.0, 5.0])).abs().amax(1) <= 0.5
    assert 250 < int(near.sum()) < 350  # three quarters, by more than five standard deviations
    far = (start.centres - torch.tensor([6.0, 12.0, 15.0])).abs().amax(1) <= 0.5
    assert bool((near ^ far).all())
    assert torch.equal(start.light, torch.full((400,), 0.01))
    assert torch.allclose(start.sizes[:, 0] * 0.34, start.sizes[:, 1] * 0.2)


def test_a_fit_finds_beads():
    places = [(0.0, -1.2, -1.0), (0.3, 1.0, 0.5), (-0.4, 0.2, 1.5)]
    scene = phantoms.simulate("beads", shape=(6, 28, 28), positions=places, photons=200, seed=3)
    noise = {"background": scene.background, "read_noise": scene.read_noise}
    estimate = lightfield.richardson_lucy(scene.op, scene.views, 10, device="cpu", **noise).volume
    found = fit(
        drawn_from(estimate, 40, scene.voxel_size, torch.Generator().manual_seed(0)),
        scene.op,
        scene.views,
        loss=partial(losses.poisson, read_noise=scene.read_noise),
        schedule=Stage(100, 0.05, betas=(0.8, 0.95)),
        background=scene.background,
        device="cpu",
    ).volume
    gain = psnr(found, scene.truth, scaled=True) - psnr(estimate, scene.truth, scaled=True)
    assert gain > 1
    assert abs(found.sum() / scene.truth.sum() - 1) < 0.1
