"""Complex contrast in the first order, judged by a simulation that shares no code with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.inr.align import leds as align_leds
from helpers.inr.diffraction import (
    Born,
    Microscope,
    MultiSlice,
    fit_contrast,
    led_directions,
    linear_inverse,
    ring,
    rings,
)
from helpers.inr.phantoms._led_arrays import algae
from helpers.operators import check_adjoint

OPTICS = Microscope(0.6, 0.25, 1.33, (8.0, 0.6, 0.6))
SHAPE, MIDDLE = (6, 48, 48), 20.0
LEDS = rings(20, 0.22)


def multislice(contrast, leds, middle):
    """Images (L, Y, X) by hand: screens, free space, back to the focus, pupil; complex contrast."""
    wavelength, na, n0, (dz, pixel, _) = 0.6, 0.25, 1.33, OPTICS.voxel_size
    n = contrast.shape[-1]
    k = np.fft.fftfreq(n, pixel) * wavelength
    up = np.sqrt(n0**2 - k[:, None] ** 2 - k**2)
    place, last = np.arange(n) * pixel, middle + (len(contrast) - 1) / 2 * dz
    images = []
    for q in leds:
        cosine = np.sqrt(n0**2 - q @ q) / n0
        wave = np.exp(2j * np.pi / wavelength * (q[0] * place[:, None] + q[1] * place))
        for number, layer in enumerate(contrast):
            wave = wave * np.exp(2j * np.pi / wavelength * dz / cosine * layer)
            there = dz if number < len(contrast) - 1 else -last
            wave = np.fft.ifft2(np.fft.fft2(wave) * np.exp(2j * np.pi / wavelength * there * up))
        pupil = k[:, None] ** 2 + k**2 <= na**2
        images.append(np.abs(np.fft.ifft2(np.fft.fft2(wave) * pupil)) ** 2)
    return np.array(images)


def blobs():
    """A dense one that does not absorb, and a dark one that does not delay, at two depths."""
    z, y, x = np.indices(SHAPE)
    dense = np.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 18) * (z == 1)
    dark = np.exp(-((y - 32) ** 2 + (x - 30) ** 2) / 18) * (z == 4)
    return dense + 1j * dark


@pytest.fixture(scope="module")
def on_grid():
    return np.asarray(Born(OPTICS, LEDS, SHAPE).leds)


def test_the_first_order_is_the_limit_of_many_screens(on_grid):
    op = Born(OPTICS, on_grid, SHAPE, absorption=True, middle=MIDDLE)
    contrast = blobs()
    left = []
    for strength in (1e-5, 2e-5):
        exact = multislice(strength * contrast, on_grid, MIDDLE) - 1
        first = op(strength * np.stack([contrast.real, contrast.imag]))
        left.append(np.linalg.norm(exact - first) / np.linalg.norm(exact))
    assert left[0] < 1e-3 and left[1] == pytest.approx(2 * left[0], rel=0.2)


def test_index_and_absorption_are_told_apart_at_their_depths(on_grid):
    images = multislice(1e-3 * blobs(), on_grid, MIDDLE)
    op = Born(OPTICS, on_grid, SHAPE, absorption=True, middle=MIDDLE)
    index, absorption = linear_inverse(op, images, 1e-4)
    assert np.unravel_index(index.argmax(), SHAPE) == (1, 16, 16)
    assert np.unravel_index(absorption.argmax(), SHAPE) == (4, 32, 30)
    assert abs(index[:, 32, 30]).max() < 0.4 * index.max()
    assert abs(absorption[:, 16, 16]).max() < 0.4 * absorption.max()
    assert [float(d) for d in op.depths[[1, 4]]] == [8.0, 32.0]


@pytest.mark.parametrize("chunk", [None, 7])
def test_many_screens_that_absorb(on_grid, chunk):
    """Light that is halved, dark fields, and a volume beside the focus."""
    contrast = 0.02 * blobs()
    leds = np.concatenate([on_grid, np.asarray(MultiSlice(OPTICS, ring(3, 0.4), SHAPE).leds)])
    model = MultiSlice(OPTICS, leds, SHAPE, absorption=True, middle=MIDDLE, chunk=chunk)
    assert model.in_shape == (2, *SHAPE) and model.bright.tolist() == 20 * [True] + 3 * [False]
    expected = multislice(contrast, leds, MIDDLE)
    assert expected[:20].min() < 0.5
    found = model(np.stack([contrast.real, contrast.imag]))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    some = model.select([21, 4])
    np.testing.assert_allclose(some(np.stack([contrast.real, contrast.imag])), expected[[21, 4]])
    plain = MultiSlice(OPTICS, leds, SHAPE, middle=MIDDLE)
    np.testing.assert_allclose(plain(contrast.real), multislice(contrast.real, leds, MIDDLE))


def test_a_slab_absorbs_as_beer_and_lambert_say(on_grid):
    """Half the wave is lost in so many micrometres of a tilted path."""
    model = MultiSlice(OPTICS, on_grid, SHAPE, absorption=True)
    k, thickness = 1e-3, SHAPE[0] * 8.0
    cosine = np.sqrt(1 - (on_grid**2).sum(1) / 1.33**2)
    expected = np.exp(-4 * np.pi / 0.6 * k * thickness / cosine)
    x = np.stack([np.full(SHAPE, 0.01), np.full(SHAPE, k)])
    np.testing.assert_allclose(model(x), expected[:, None, None] * np.ones(SHAPE[1:]), rtol=1e-9)


def test_the_gradient_of_screens_that_absorb():
    model = MultiSlice(OPTICS, ring(2, 0.1), (2, 8, 8), absorption=True, middle=9.0)
    x = 0.01 * torch.rand(
        (2, 2, 8, 8), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    assert torch.autograd.gradcheck(model, x.requires_grad_(), atol=1e-6)


def test_a_fit_of_phase_alone_refuses_a_model_that_absorbs():
    model = MultiSlice(OPTICS, ring(4, 0.1), (2, 8, 8), absorption=True)
    with pytest.raises(ValueError, match="the model absorbs.*or use linear_inverse"):
        fit_contrast(model, np.ones((4, 8, 8)), photons=100)
    with pytest.raises(ValueError, match=r"contrast is \(2, 8, 8\), the model has voxels \(2, 2"):
        model(np.zeros((2, 8, 8)))


def test_an_array_turned_by_half_a_turn_is_a_mirror_in_depth(on_grid):
    x = np.random.default_rng(0).normal(size=(2, *SHAPE))
    op = Born(OPTICS, on_grid, SHAPE, absorption=True, middle=MIDDLE)
    turned = Born(OPTICS, -on_grid, SHAPE, absorption=True, middle=-MIDDLE)
    mirrored = x[:, ::-1] * np.array([-1, 1])[:, None, None, None]
    np.testing.assert_allclose(turned(mirrored), op(x), atol=1e-5 * abs(op(x)).max())


@pytest.mark.parametrize("on", [True, False])
def test_the_adjoint_and_some_leds(on):
    op = Born(OPTICS, LEDS, (3, 16, 18), absorption=True, middle=7.0, on_grid=on)
    assert op.in_shape == (2, 3, 16, 18) and check_adjoint(op) < 1e-6
    x = np.random.default_rng(1).normal(size=op.in_shape)
    np.testing.assert_allclose(op.select([2, 5])(x), op(x)[[2, 5]], rtol=1e-5, atol=1e-6)


def test_the_inverse_is_that_of_the_normal_equations():
    op = Born(OPTICS, rings(9, 0.22), (2, 10, 10), absorption=True, on_grid=False)
    y = np.abs(np.random.default_rng(2).normal(1, 0.1, op.out_shape))
    x = linear_inverse(op, y, 1e-3)
    weight = 1e-3 * float(op.transfer.abs().square().sum((0, 1)).max())
    slope = op.adjoint(op(x) - (y - 1)) + weight * x
    assert np.abs(slope).max() < 1e-4 * np.abs(op.adjoint(y - 1)).max()


def test_coarse_pixels_are_refused_for_the_field_and_told_for_the_image():
    coarse = Microscope(0.6, 0.25, 1.33, (8.0, 0.65, 0.65))
    Born(coarse, ring(4, 0.2), SHAPE)
    with pytest.warns(UserWarning, match=r"pixels are 0.65 um.* need 0.6\d* um"):
        Born(coarse, ring(4, 0.249), SHAPE, on_grid=False)


def test_the_distance_of_the_array_is_found_from_the_disc():
    data = algae(1)
    places = 4.0 * (data["led_index_yx"] - 17) * (1, -1)  # mm; light goes away from its LED
    built = led_directions(places, 75.0)
    found = align_leds(
        data["images"][:, 64:224, 64:224], built,
        wavelength=0.63, na=0.25, pixel_size=0.64548, scale=True,
    )  # fmt: skip
    assert found.turn == "as given"
    assert 75 / found.scale == pytest.approx(81, rel=0.03)
    np.testing.assert_allclose(found.offset * 81, [-1.0, 0.4], atol=0.8)  # a fifth of the pitch
    assert np.abs(found.leds - led_directions(places + [1.0, -0.4], 81.0)).max() < 0.01
