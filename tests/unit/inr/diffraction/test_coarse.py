"""Diffraction on merged pixels and on parts of the field: the images of the fine, whole model."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr.diffraction import Born, Microscope, MultiSlice, Ptychography, ring, rings
from helpers.inr.diffraction.contrast import linear_start
from helpers.inr.fields import Identity, Softplus, Voxels
from helpers.inr.fit import Stage, fit, losses
from helpers.operators import check_adjoint

OPTICS = Microscope(0.6, 0.25, 1.33, (8.0, 0.6, 0.6))
Z, N = 4, 96
LEDS = np.concatenate([rings(8, 0.22), ring(3, 0.34)])  # the last three are dark fields
BRIGHT, WIDE, PEAK = slice(0, 8), 4.0, 0.01  # px, and index contrast


def bumps(factor=1, wide=WIDE):
    """Index and absorption (2, Z, Y, X) of smooth bumps, in the middle of wider voxels."""
    at = (np.arange(N // factor) + 0.5) * factor - 0.5
    y, x = at[:, None], at
    volume = np.zeros((2, Z, N // factor, N // factor))
    for part, layer, height, row, column in [
        (0, 1, PEAK, 46, 45), (1, 2, 0.6 * PEAK, 52, 50), (0, 2, 0.4 * PEAK, 51, 42),
    ]:  # fmt: skip
        away = (y - row) ** 2 + (x - column) ** 2
        volume[part, layer] += height * np.exp(-away / (2 * wide**2))
    return volume


def binned(images, factor):
    shape = [part for n in images.shape[-2:] for part in (n // factor, factor)]
    return images.reshape(*images.shape[:-2], *shape).mean((-3, -1))


def beyond(delay, wide, factor):
    """Bound of the wave that a coarse grid cannot carry, for a delay in radians of a bump.

    The nth order of exp(i delay) is a bump narrower by the root of n, and its spectrum at the
    highest frequency of the grid is that of a Gaussian.
    """
    return sum(
        delay**n / math.factorial(n) * math.exp(-((math.pi * wide / factor) ** 2) / (2 * n))
        for n in range(1, 12)
    )


@pytest.mark.parametrize("chunk", [None, 4])
def test_coarse_screens_show_the_merged_images_of_fine_ones(chunk):
    """Also where merged pixels do not carry the light: 2.4 um, and this aperture needs 1.2."""
    model = MultiSlice(OPTICS, LEDS, (Z, N, N), absorption=True, middle=10.0, chunk=chunk)
    empty = model(0 * bumps())[:, :1, :1]
    for factor in (2, 4):
        wide = WIDE * factor / 2
        coarse, fine = model.coarsened(factor), binned(model(bumps(wide=wide)), factor)
        assert coarse.in_shape[1:] == (Z, N // factor, N // factor)
        assert coarse.out_shape == (11, N // factor, N // factor)
        assert coarse.voxel_size == (8.0, 0.6 * factor, 0.6 * factor)
        error = abs(coarse(bumps(factor, wide)) - fine).max((1, 2))
        lost = beyond(2 * np.pi / 0.6 * 8 * 2 * PEAK, wide, factor)  # the bumps overlap
        assert (error < 2 * lost * np.sqrt(fine.max((1, 2))) + lost**2).all()
        assert (error < 0.02 * abs(fine - empty).max((1, 2)))[BRIGHT].all()
    twice = model.coarsened(2).coarsened(2)
    np.testing.assert_array_equal(twice(bumps(4)), coarse(bumps(4)))
    coarse = model.coarsened(2)
    some = model.select([9, 2])
    np.testing.assert_allclose(some.coarsened(2)(bumps(2)), coarse(bumps(2))[[9, 2]], atol=1e-12)
    np.testing.assert_allclose(coarse.select([9, 2])(bumps(2)), coarse(bumps(2))[[9, 2]])


def test_means_of_voxels_do_nearly_as_well():
    """A mean is the middle and a share of the curvature, which a bump of this width bounds."""
    model = MultiSlice(OPTICS, LEDS[BRIGHT], (Z, N, N), absorption=True, middle=10.0)
    fine = binned(model(bumps()) - 1, 2)
    off = np.linalg.norm(model.coarsened(2)(binned(bumps(), 2)) - 1 - fine) / np.linalg.norm(fine)
    curvature = math.sqrt(2) / WIDE**2  # of a Gaussian, relative to itself
    assert 1e-3 < off < 2 * (2**2 - 1) / 24 * curvature


@pytest.mark.parametrize("on_grid", [True, False])
def test_the_coarse_first_order_is_that_of_merged_images(on_grid):
    shape = (Z, N, 72)
    op = Born(OPTICS, LEDS[BRIGHT], shape, absorption=True, middle=10.0, on_grid=on_grid)
    coarse = op.coarsened(2)
    fine, wide = (volume[..., 12 // factor : 84 // factor] for factor, volume in FINE_AND_WIDE)
    expected = binned(op(fine), 2)
    np.testing.assert_allclose(coarse(wide), expected, atol=1e-4 * abs(expected).max())
    assert coarse.voxel_size == (8.0, 1.2, 1.2) and check_adjoint(coarse) < 1e-6
    model = MultiSlice(OPTICS, op.leds, shape, absorption=True, middle=10.0).coarsened(2)
    if on_grid:
        faint = 1e-3 * wide
        np.testing.assert_allclose(
            model(faint) - 1, coarse(faint), atol=1e-3 * abs(coarse(faint)).max()
        )


FINE_AND_WIDE = [(factor, bumps(factor)) for factor in (1, 2)]


def test_a_start_is_found_on_coarse_voxels():
    model = MultiSlice(OPTICS, LEDS, (Z, N, N))
    images = model(bumps()[0])
    coarse = linear_start(model.coarsened(2), binned(images, 2))
    fine = binned(linear_start(model, images), 2)
    assert coarse.shape == (Z, N // 2, N // 2)
    assert np.linalg.norm(coarse - fine) < 0.2 * np.linalg.norm(fine)


# -- a thin object ---------------------------------------------------------------------------------

WAVE, NA, PIXEL, CAMERA, FINER, MARGIN = 0.6, 0.12, 1.5, 32, 3, 4
STEP = WAVE / (40 * PIXEL)


def thin_model():
    directions = STEP * (5.0 * np.mgrid[-2:3, -2:3].reshape(2, -1).T + (1, -1.3))
    model = Ptychography(
        directions, (CAMERA, CAMERA), wavelength=WAVE, na=NA, pixel_size=PIXEL, finer=FINER,
        margin=MARGIN,
    )  # fmt: skip
    n = len(directions)
    return model.at(
        {
            "gains": np.linspace(0.8, 1.2, n),
            "background": np.linspace(0, 0.02, n),
            "aberration": 0.4 * np.cos(np.arange(12)),
        }
    )


def thin(factor, wide=5.0):
    at = (np.arange(120 // factor) + 0.5) * factor - 0.5
    y, x = at[:, None], at
    delay = np.zeros((len(at), len(at)))
    for height, row, column in [(0.8, 48, 50), (-0.5, 70, 66), (0.4, 62, 45)]:
        delay += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * wide**2))
    change = np.exp((1j - 0.2) * delay) - 1
    return np.stack([change.real, change.imag])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_coarse_thin_object_shows_the_merged_images(factor):
    model = thin_model()
    coarse, wide = model.coarsened(factor), 2.5 * factor
    assert coarse.in_shape == (2, 120 // factor, 120 // factor)
    assert coarse.out_shape == (25, CAMERA // factor, CAMERA // factor)
    assert coarse.object_pixel == pytest.approx(0.5 * factor)
    fine = binned(model(thin(1, wide)), factor)
    error = abs(coarse(thin(factor, wide)) - fine).max((1, 2))
    lost = beyond(1.3, wide, factor)  # two bumps overlap
    assert (error < 2 * lost * np.sqrt(fine.max((1, 2))) + lost**2).all()
    assert coarse.transmission(thin(factor, wide)).shape == 2 * (96 // factor,)
    assert coarse.seen().shape == coarse.in_shape[1:]
    if factor == 2:  # no LED sees beyond this grid: its frequencies are the first of the finer one
        assert float(coarse.seen().sum()) == pytest.approx(float(model.seen().sum()))
    np.testing.assert_array_equal(coarse.select([3, 1])(thin(factor)), coarse(thin(factor))[[3, 1]])


# -- parts of the field ----------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [0.8, 0.95])
def test_a_block_lacks_the_light_from_beyond_its_reach_and_no_more(energy):
    """Of voxels without correlation: what is cut off at one border comes in at the other."""
    model = MultiSlice(OPTICS, LEDS, (Z, N, N), middle=10.0)
    op = Born(OPTICS, LEDS[BRIGHT], (Z, N, N), middle=10.0)
    x = 1e-4 * np.random.default_rng(0).normal(size=model.in_shape)
    for whole, empty in ((model.select(BRIGHT), 1.0), (op, 0.0)):
        part = whole.block((12, 16), energy)
        assert part.out_shape == (8, 12, 16) and part.in_shape[0] == Z
        margin = (part.in_shape[1] - 12) // 2
        assert margin == (part.in_shape[2] - 16) // 2 > 0
        np.testing.assert_array_equal(part.leds, whole.leds)
        rows = np.arange(42 - margin, 54 + margin)[:, None]
        crop = x[:, rows % N, np.arange(40 - margin, 56 + margin) % N]
        expected = whole(x)[:, 42:54, 40:56] - empty
        off = np.linalg.norm(part(crop) - empty - expected) / np.linalg.norm(expected)
        assert off < math.sqrt(2 * (1 - energy))
    assert check_adjoint(op.block((12, 16), energy)) < 1e-6
    wide = [whole.block((12, 12), share).in_shape[1] for share in (0.8, 0.95, 0.99)]
    assert wide == sorted(wide) and wide[0] < wide[2]


def test_blocks_show_dark_fields_too():
    model = MultiSlice(OPTICS, LEDS, (Z, N, N), absorption=True, middle=10.0)
    part = model.block((24, 24), 0.97)
    margin = (part.in_shape[-1] - 24) // 2
    assert part.in_shape[-1] < N
    inner = slice(36 - margin, 60 + margin)
    found, expected = part(bumps()[..., inner, inner]), model(bumps())[:, 36:60, 36:60]
    empty = np.where(np.arange(11) < 8, 1.0, 0.0)[:, None, None]
    off = np.linalg.norm(found - expected, axis=(1, 2))
    assert (off < 0.25 * np.linalg.norm(expected - empty, axis=(1, 2))).all()


# -- fits ------------------------------------------------------------------------------------------

LIKELY = partial(losses.amplitude, sigma=0.01)


@pytest.mark.parametrize("stage", [Stage(40, 0.3, coarsen=2), Stage(100, 0.3, block=48)])
@pytest.mark.parametrize("kind", [MultiSlice, Born])
def test_a_stage_on_a_coarse_grid_or_on_blocks_explains_the_whole(kind, stage):
    model = kind(OPTICS, LEDS[BRIGHT], (Z, N, N))
    data = model(bumps()[0])
    start = Voxels(model.in_shape, Softplus(mean=1e-4, scale=0.01))
    loss = partial(losses.gaussian, sigma=0.01)
    found = fit(start, model, data, loss=loss, schedule=stage, device="cpu")
    left, empty = (model(v) - data for v in (found.volume, np.zeros(model.in_shape)))
    assert np.linalg.norm(left) < 0.35 * np.linalg.norm(empty)


def test_a_thin_object_from_coarse_to_fine():
    model = thin_model()
    data = model(thin(1))
    start = Voxels(model.in_shape, Identity())
    stages = Stage(150, 0.03, coarsen=2), Stage(20, 0.01)
    found = [
        fit(start, model, data, loss=LIKELY, schedule=stages[:n], device="cpu") for n in (1, 2)
    ]
    first, second, empty = (
        np.linalg.norm(np.sqrt(model(v)) - np.sqrt(data))
        for v in (found[0].volume, found[1].volume, np.zeros(model.in_shape))
    )
    assert second < 0.5 * first < 0.1 * empty


def test_what_cannot_be_coarse_or_a_part_is_refused():
    model, op = (kind(OPTICS, LEDS[BRIGHT], (Z, 48, 45)) for kind in (MultiSlice, Born))
    for whole in (model, op):
        with pytest.raises(ValueError, match=r"sizes \(48, 45\) do not divide by 2"):
            whole.coarsened(2)
        with pytest.raises(ValueError, match="factor is 1.5"):
            whole.coarsened(1.5)
        with pytest.raises(ValueError, match="energy is 1"):
            whole.block((8, 8), energy=1)
        with pytest.raises(ValueError, match="take the block first"):
            whole.coarsened(3).block((8, 8))
        with pytest.raises(ValueError, match="coarsen the whole one"):
            whole.block((8, 9), 0.5).coarsened(1)
    with pytest.raises(ValueError, match=r"do not divide by 3"):
        thin_model().coarsened(3)
    with pytest.raises(TypeError, match="a model for each crop"):
        thin_model().block((8, 8))
    data = torch.ones(25, CAMERA, CAMERA)
    with pytest.raises(TypeError, match="or leave out block"):
        start = Voxels(thin_model().in_shape, Identity())
        fit(start, thin_model(), data, schedule=Stage(2, block=8), loss=LIKELY)
