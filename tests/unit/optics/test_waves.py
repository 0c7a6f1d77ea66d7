"""Propagation against integrals that know nothing of Fourier transforms."""

import numpy as np
import pytest
import torch

from helpers.optics import axial, directions, propagate

WAVELENGTH, PIXEL = 0.5, 0.125


def axis(n, pixel=PIXEL):
    """Centres of n pixels, with zero in the middle."""
    return (np.arange(n) - n // 2) * pixel


def spot(n=128, waist=1.2, tilt=(0.0, 0.0), centre=(0.0, 0.0), pixel=PIXEL):
    """A Gaussian spot with a tilted phase, tilt in units of numerical aperture."""
    y, x = axis(n, pixel)[:, None] - centre[0], axis(n, pixel) - centre[1]
    phase = 2 * np.pi / WAVELENGTH * (tilt[0] * y + tilt[1] * x)
    return torch.from_numpy(np.exp(-(y**2 + x**2) / waist**2 + 1j * phase))


def rayleigh_sommerfeld(field, distance, points, index, pixel=PIXEL):
    """The first Rayleigh-Sommerfeld integral at (y, x) points of a parallel plane, summed."""
    k = 2 * np.pi * index / WAVELENGTH
    y, x = axis(field.shape[0], pixel)[:, None], axis(field.shape[1], pixel)
    values = []
    for py, px in points:
        r = np.sqrt((py - y) ** 2 + (px - x) ** 2 + distance**2)
        kernel = distance / r * (1 / r - 1j * k) * np.exp(1j * k * r) / (2 * np.pi * r)
        values.append((field.numpy() * kernel).sum() * pixel**2)
    return np.array(values)


@pytest.mark.parametrize("index", [1.0, 1.33])
@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.25, -0.1)])
def test_it_is_the_diffraction_integral(index, tilt):
    field, distance = spot(tilt=tilt), 5.0
    there = propagate(field, distance, PIXEL, WAVELENGTH, index)
    at = [(0, 0), (3, -5), (-8, 2), (11, 7), (0, -12), (9, -4)]
    pixels = there[[64 + i for i, _ in at], [64 + j for _, j in at]].numpy()
    points = [(i * PIXEL, j * PIXEL) for i, j in at]
    expected = rayleigh_sommerfeld(field, distance, points, index)
    assert abs(expected).max() > 0.3
    assert abs(pixels - expected).max() < 2e-4


def test_a_gaussian_beam_spreads_and_turns_as_it_must():
    """Width, curvature and Gouy phase of a wide beam after one Rayleigh length."""
    pixel, waist, n = 0.5, 6.0, 128
    rayleigh = np.pi * waist**2 / WAVELENGTH
    y, x = axis(n, pixel)[:, None], axis(n, pixel)
    r2 = y**2 + x**2
    there = propagate(spot(n, waist, pixel=pixel), rayleigh, pixel, WAVELENGTH).numpy()
    k = 2 * np.pi / WAVELENGTH
    expected = np.exp(-r2 / (2 * waist**2)) / np.sqrt(2)
    phase = k * rayleigh + k * r2 / (4 * rayleigh) - np.pi / 4
    bright = expected > 0.05
    assert abs(abs(there) - expected)[bright].max() < 2e-3
    assert abs(there * np.exp(-1j * phase) - expected)[bright].max() < 5e-3


def test_a_tilted_beam_walks_along_its_direction():
    """q = n sin(theta): it moves by z tan(theta), sideways and the right way round."""
    index, tilt, z = 1.33, (0.4, -0.2), 8.0
    there = propagate(spot(256, 2.5, tilt), z, PIXEL, WAVELENGTH, index).abs() ** 2
    centre = [
        float((there.sum(1 - a) * torch.from_numpy(axis(256))).sum() / there.sum()) for a in (0, 1)
    ]
    cosine = np.sqrt(index**2 - tilt[0] ** 2 - tilt[1] ** 2)
    assert centre == pytest.approx([z * tilt[0] / cosine, z * tilt[1] / cosine], rel=0.02)


def test_energy_is_kept_and_the_way_back_leads_home():
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(3, 31, 40, dtype=torch.complex128, generator=generator)
    field = propagate(field, 0.0, PIXEL, WAVELENGTH)  # only what propagates
    there = propagate(field, 7.3, PIXEL, WAVELENGTH)
    assert not torch.allclose(there, field, atol=0.1)
    energy = (field.abs() ** 2).sum((-2, -1))
    torch.testing.assert_close((there.abs() ** 2).sum((-2, -1)), energy, rtol=1e-12, atol=0)
    torch.testing.assert_close(propagate(there, -7.3, PIXEL, WAVELENGTH), field)
    halves = propagate(propagate(field, 3.0, PIXEL, WAVELENGTH), 4.3, PIXEL, WAVELENGTH)
    torch.testing.assert_close(halves, there)


def test_the_wave_back_is_the_conjugate_of_the_wave_on():
    field = spot(tilt=(0.1, 0.3))
    on = propagate(field.conj(), 4.0, PIXEL, WAVELENGTH).conj()
    torch.testing.assert_close(propagate(field, -4.0, PIXEL, WAVELENGTH), on)


@pytest.mark.parametrize("distance", [0.0, 1.0, -1.0])
def test_evanescent_waves_are_removed(distance):
    """A grating finer than the wavelength sends nothing away; one a little coarser does."""
    n, x = 40, torch.arange(40, dtype=torch.float64)
    for lines, kept in ((9, True), (11, False)):  # per 5 um: q = 0.9 and 1.1
        wave = torch.exp(2j * torch.pi * lines * x / n).expand(n, n)
        there = propagate(wave, distance, PIXEL, WAVELENGTH)
        expected = torch.ones(n, n, dtype=torch.float64) * kept
        torch.testing.assert_close(there.abs(), expected, atol=1e-12, rtol=0)
    in_glass = propagate(wave, distance, PIXEL, WAVELENGTH, index=1.5)
    torch.testing.assert_close(in_glass.abs(), torch.ones_like(expected), atol=1e-12, rtol=0)


def test_each_field_goes_its_own_distance():
    fields = torch.stack([spot(64), spot(64, tilt=(0.2, 0.0)), spot(64, 2.0)])
    distances = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    together = propagate(fields, distances, PIXEL, WAVELENGTH, 1.33)
    for field, distance, there in zip(fields, distances, together, strict=True):
        alone = propagate(field, float(distance), PIXEL, WAVELENGTH, 1.33)
        torch.testing.assert_close(there, alone)
    stack = propagate(spot(64), distances, PIXEL, WAVELENGTH)  # one field to several planes
    assert stack.shape == (3, 64, 64)
    torch.testing.assert_close(stack[2], propagate(spot(64), 3.0, PIXEL, WAVELENGTH))


def test_precision_is_that_of_the_field():
    single = propagate(spot(64).to(torch.complex64), 2.0, PIXEL, WAVELENGTH)
    assert single.dtype == torch.complex64
    double = propagate(spot(64), 2.0, PIXEL, WAVELENGTH)
    assert double.dtype == torch.complex128
    torch.testing.assert_close(single.to(torch.complex128), double, atol=1e-5, rtol=0)


def test_gradients_go_through_it():
    field = spot(6, waist=0.3).requires_grad_(True)
    distance = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f, z: propagate(f, z, PIXEL, WAVELENGTH).abs() ** 2, (field, distance)
    )


def test_directions_are_those_of_the_fft():
    qy, qx = directions((6, 5), 0.25, 0.5)
    assert qy.shape == (6, 1) and qx.shape == (1, 5) and qy.dtype == torch.float64
    step = 0.5 / (6 * 0.25)
    np.testing.assert_allclose(qy[:, 0] / step, [0, 1, 2, -3, -2, -1])
    np.testing.assert_allclose(qx[0] / (0.5 / (5 * 0.25)), [0, 1, 2, -2, -1], atol=1e-12)
    wave = np.exp(2j * np.pi * float(qx[0, 2]) * np.arange(5) * 0.25 / 0.5)
    spectrum = abs(np.fft.fft(wave))
    assert spectrum.argmax() == 2 and spectrum[2] == pytest.approx(5)


def test_the_axial_direction_is_a_cosine():
    theta = np.linspace(0, 1.5, 7)
    q = torch.from_numpy((1.5 * np.sin(theta)) ** 2)
    np.testing.assert_allclose(axial(q, 1.5), 1.5 * np.cos(theta), atol=1e-12)
    assert float(axial(torch.tensor(2.3), 1.5)) == 0
