"""The place and the handedness of an LED array, from images of another model."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.inr.align import leds
from helpers.inr.diffraction import Ptychography, fit_transmission, led_directions
from helpers.metrics import psnr

WAVELENGTH, NA, PIXEL, FINER, N = 0.6, 0.12, 1.5, 3, 48
BUILT = led_directions(4.0 * np.mgrid[-3:4, -3:4].reshape(2, -1).T, 90)
OFF = np.array([0.031, -0.026])  # 0.04 together
camera = dict(wavelength=WAVELENGTH, na=NA, pixel_size=PIXEL)


def cells(n):
    """Discs on a lattice that is not quite regular, all by hand."""
    y, x = np.mgrid[:n, :n] / n
    thick = np.zeros((n, n))
    for k in range(40):
        row, column = (0.37 + 0.618 * k) % 1, (0.11 + 0.755 * k) % 1
        dy, dx = (y - row + 0.5) % 1 - 0.5, (x - column + 0.5) % 1 - 0.5
        thick += 0.5 / (1 + np.exp((np.hypot(dy, dx) - 0.02 - 0.0008 * k) * 150))
    return np.exp((1j - 0.1) * thick)


@pytest.fixture(scope="module")
def images():
    """Of a field a third wider than the camera, so that nothing repeats at its border."""
    wide = N * 4 // 3
    n = wide * FINER
    place, along = np.arange(n) * PIXEL / FINER, np.fft.fftfreq(n, PIXEL / FINER) * WAVELENGTH
    step = WAVELENGTH / (wide * PIXEL)
    pupil = 1 / (1 + np.exp((np.hypot(along[:, None], along) / NA - 1) / 0.03))
    t, found = cells(n), []
    for q in np.rint((BUILT + OFF) / step) * step:
        wave = np.exp(2j * np.pi * (q[0] * place[:, None] + q[1] * place) / WAVELENGTH)
        field = np.fft.ifft2(np.fft.fft2(wave * t) * pupil)[::FINER, ::FINER]
        found.append(np.abs(field[:N, :N]) ** 2)
    return np.array(found)


@pytest.mark.parametrize(
    ("turn", "matrix"),
    [
        ("as given", [[1, 0], [0, 1]]),
        ("mirrored", [[1, 0], [0, -1]]),
        ("transposed", [[0, 1], [1, 0]]),
        ("turned by 90 degrees", [[0, 1], [-1, 0]]),
    ],
)
def test_place_and_handedness_are_found(images, turn, matrix):
    found = leds(images, BUILT @ np.array(matrix, float).T, **camera)
    assert found.turn == turn
    np.testing.assert_allclose(found.offset, OFF, atol=0.006)
    np.testing.assert_allclose(found.leds, BUILT + OFF, atol=0.006)
    others = [value for name, value in found.contrast.items() if name != turn]
    assert found.contrast[turn] > max(others) + 0.1
    assert 0 < found.offset_error.max() < 0.01


def test_a_displaced_array_costs_nothing_once_it_is_found(images):
    inner = slice(8 * FINER, -8 * FINER)
    truth = np.angle(cells(N * 4 // 3 * FINER)[: N * FINER, : N * FINER])[inner, inner]

    def quality(directions):
        model = Ptychography(directions, (N, N), finer=FINER, edge=0.2, **camera)
        result = fit_transmission(model, images, learn=("gains",), n_iter=50, device="cpu")
        phase = np.angle(result.transmission)[inner, inner]
        return psnr(phase - phase.mean(), truth - truth.mean())

    right = quality(BUILT + OFF)
    assert quality(leds(images, BUILT, **camera).leds) > right - 0.3
    assert quality(BUILT) < right - 1


def test_what_cannot_tell_the_place_is_refused(images):
    for arguments, message in [
        ((images[:3], BUILT), "give .L, Y, X"),
        ((np.full_like(images, np.nan), BUILT), "NaN"),
        ((np.ones_like(images), BUILT), "bright field"),
    ]:
        with pytest.raises(ValueError, match=message):
            leds(*arguments, **camera)
