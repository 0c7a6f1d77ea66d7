"""The wave equation against formulas, and the multi-slice model against the wave equation."""

import cmath
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.inr.diffraction import Microscope, MultiSlice, ring, rings
from helpers.inr.phantoms import worm
from helpers.inr.phantoms.helmholtz import Helmholtz

FINE = Microscope(voxel_size=(0.05, 0.2, 0.2))


def slab_transmission(index, contrast, thickness, led, wavelength):
    """Share of the light through a slab, all reflections inside it included."""
    k = 2 * math.pi / wavelength
    outside, inside = (k * math.sqrt(n**2 - led**2) for n in (index, index + contrast))
    r = (outside - inside) / (outside + inside)
    phase = cmath.exp(1j * inside * thickness)
    return abs((1 - r**2) * phase / (1 - r**2 * phase**2)) ** 2


@pytest.mark.parametrize("tilt", [0.0, 0.6])
@pytest.mark.parametrize("thickness", [0.6, 0.75])
def test_a_slab_sends_back_what_fresnel_says(thickness, tilt):
    contrast = np.zeros((40, 16, 16))
    contrast[4 : 4 + round(thickness / 0.025)] = 0.05
    fine = replace(FINE, voxel_size=(0.025, 0.2, 0.2))
    model = Helmholtz(fine, [[0.0, tilt]], contrast.shape, tol=1e-6)
    expected = slab_transmission(1.33, 0.05, thickness, float(model.leds[0, 1]), 0.532)
    np.testing.assert_allclose(1 - model(contrast), 1 - expected, rtol=0.05, atol=2e-6)


def test_thinner_slices_change_nothing():
    leds, images = rings(4, 0.62), []
    for planes, dz in ((20, 0.15), (40, 0.075)):
        shape = (planes, 32, 32)
        fine = replace(FINE, voxel_size=(dz, 0.2, 0.2))
        blob = 0.05 * np.exp(-sum(c**2 for c in centred(shape, fine.voxel_size)) / 0.7**2)
        images.append(Helmholtz(fine, leds, shape, tol=1e-5)(blob))
    assert images[0].std() > 0.05
    assert abs(images[0] - images[1]).max() < 2e-3


def centred(shape, voxel_size):
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, voxel_size, strict=True)]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def worms(strength):
    """Images of a worm by the wave equation, and by the coarse model through coarse voxels."""
    shape, leds = (10, 48, 48), rings(6, 0.62)
    optics = Microscope(voxel_size=(0.6, 0.2, 0.2))
    fine = replace(optics, voxel_size=(0.15, 0.2, 0.2))
    contrast = strength * worm((40, 48, 48), fine.voxel_size, seed=3)
    coarse = contrast.reshape(10, 4, 48, 48).mean(axis=1)
    exact = Helmholtz(fine, leds, contrast.shape)(contrast)
    return exact, MultiSlice(optics, leds, shape), coarse


def error(images, exact):
    return float(np.sqrt(np.mean((images - exact) ** 2)) / exact.std())


def test_the_multi_slice_model_is_near_the_wave_equation():
    exact, model, coarse = worms(1.0)
    assert error(model(coarse), exact) < 0.05


def test_the_tilted_path_is_needed():
    exact, model, coarse = worms(1.0)
    with_tilt = error(model(coarse), exact)
    model._delay = torch.full_like(model._delay, 2 * math.pi / 0.532 * 0.6)
    assert error(model(coarse), exact) > 2 * with_tilt


def test_fewer_pixels_show_the_same_intensity():
    """Smooth images: pixels of the sum of two are between the samples of a finer grid."""
    shape = (16, 48, 48)
    fine = Microscope(voxel_size=(0.1, 0.1, 0.1))
    z, y, x = centred(shape, fine.voxel_size)
    blob = 0.1 * np.exp(-((x - 0.6) ** 2 + (y + 0.3) ** 2 + z**2) / 0.6**2)
    leds = ring(2, 0.6)
    full = Helmholtz(fine, leds, shape)(blob)
    small = Helmholtz(fine, leds, shape, pixels=(24, 24))(blob)
    spectrum = np.fft.fft2(full)
    frequency = np.fft.fftfreq(48)
    shift = np.exp(2j * np.pi * (frequency[:, None] + frequency) * 0.5)
    between = np.fft.ifft2(spectrum * shift).real[:, ::2, ::2]
    assert full.std() > 0.05
    np.testing.assert_allclose(small, between, atol=1e-3)


SHAPE = (8, 16, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Helmholtz(Microscope(), [[0, 0]], SHAPE), "slices are 0.5 um: .* 0.2 um"),
        (lambda: Helmholtz(FINE, [[0, 0]], SHAPE, pixels=(8, 16)), r"pixels are \(8, 16\)"),
        (lambda: Helmholtz(FINE, [[0, 0]], SHAPE, pixels=(32, 16)), r"pixels are \(32, 16\)"),
        (lambda: Helmholtz(FINE, [[0, 0]], SHAPE)(np.zeros((8, 16, 15))), "the model has voxels"),
        (lambda: Helmholtz(FINE, [[0, 0]], SHAPE)(np.full(SHAPE, np.nan)), "NaN or infinity"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_series_that_grows_is_an_error():
    with pytest.raises(RuntimeError, match="no convergence in 40 rounds"):
        contrast = np.zeros((40, 24, 24))
        contrast[:, 6:18, 6:18] = 1.5
        Helmholtz(replace(FINE, voxel_size=(0.15, 0.2, 0.2)), [[0, 0]], contrast.shape)(contrast)
