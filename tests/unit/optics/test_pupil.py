"""Zernikes against their published table, and point images against Airy's formula and the FFT."""

import numpy as np
import pytest
import torch
from scipy import optimize, special

from helpers.optics import (
    Pupil,
    disc,
    noll_to_osa,
    psf_from_pupil,
    pupil_axis,
    zernike,
)

NA, WAVELENGTH, INDEX = 1.4, 0.67, 1.518
# (n, m) of the OSA list, j = 0..20, and Noll's order of the same pairs, 1..21
OSA = [(0, 0), (1, -1), (1, 1), (2, -2), (2, 0), (2, 2), (3, -3), (3, -1), (3, 1), (3, 3)]
OSA += [(4, -4), (4, -2), (4, 0), (4, 2), (4, 4)]
OSA += [(5, -5), (5, -3), (5, -1), (5, 1), (5, 3), (5, 5)]
NOLL = [(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3)]
NOLL += [(4, 0), (4, 2), (4, -2), (4, 4), (4, -4)]
NOLL += [(5, 1), (5, -1), (5, 3), (5, -3), (5, 5), (5, -5)]


def make(samples=128, pixel_size=0.1, **others):
    return Pupil(NA, WAVELENGTH, INDEX, pixel_size, samples=samples, **others)


def airy(r):
    """Intensity of the ideal spot per area, for light of 1."""
    v = 2 * np.pi * NA / WAVELENGTH * np.maximum(r, 1e-9)
    return np.pi * (NA / WAVELENGTH) ** 2 * (2 * special.j1(v) / v) ** 2


def test_indices_are_those_of_the_published_lists():
    assert [(zernike(j).n, zernike(j).m) for j in range(21)] == OSA
    assert [(zernike(noll_to_osa(k)).n, zernike(noll_to_osa(k)).m) for k in range(1, 22)] == NOLL


def test_the_two_orders_are_a_bijection():
    whole_orders = 31 * 32 // 2
    assert sorted(noll_to_osa(k) for k in range(1, whole_orders + 1)) == list(range(whole_orders))


@pytest.mark.parametrize(
    ("j", "formula"),
    [
        (1, lambda r, p: 2 * r * np.sin(p)),
        (2, lambda r, p: 2 * r * np.cos(p)),
        (3, lambda r, p: 6**0.5 * r**2 * np.sin(2 * p)),
        (4, lambda r, p: 3**0.5 * (2 * r**2 - 1)),
        (5, lambda r, p: 6**0.5 * r**2 * np.cos(2 * p)),
        (7, lambda r, p: 8**0.5 * (3 * r**3 - 2 * r) * np.sin(p)),
        (8, lambda r, p: 8**0.5 * (3 * r**3 - 2 * r) * np.cos(p)),
        (12, lambda r, p: 5**0.5 * (6 * r**4 - 6 * r**2 + 1)),
        (18, lambda r, p: 12**0.5 * (10 * r**5 - 12 * r**3 + 3 * r) * np.cos(p)),
    ],
)
def test_polynomials_are_those_of_the_textbook(j, formula):
    u, v = np.random.default_rng(2000).uniform(-1, 1, (2, 50))
    np.testing.assert_allclose(zernike(j)(u, v), formula(np.hypot(u, v), np.arctan2(v, u)))


def test_polynomials_are_orthonormal():
    basis = np.stack([zernike(j).grid(512) for j in range(21)])
    weight = disc(512)
    gram = (basis * weight).reshape(21, -1) @ basis.reshape(21, -1).T / weight.sum()
    assert np.abs(gram - np.eye(21)).max() < 1e-3


def test_sixteen_modes_are_fitted_back():
    truth = np.random.default_rng(2000).normal(0, 0.05, 16)
    pupil = make(64, zernikes=dict(enumerate(truth)))
    inside = disc(64) == 1
    columns = np.stack([zernike(j).grid(64)[inside] for j in range(16)], 1)
    found = np.linalg.lstsq(columns, pupil.wavefront().numpy()[inside], rcond=None)[0]
    np.testing.assert_allclose(found, truth, atol=1e-10)


def test_coefficients_are_waves_rms():
    wavefront = make(256, zernikes={5: 0.03, 7: -0.04}).wavefront().numpy()
    assert np.sqrt((disc(256) * wavefront**2).sum() / disc(256).sum()) == pytest.approx(
        0.05, rel=1e-3
    )


def test_the_ideal_spot_is_airys():
    image = psf_from_pupil(make(128, 0.02), (101, 101))
    axis = (np.arange(101) - 50) * 0.02
    expected = airy(np.hypot(axis[:, None], axis)) * 0.02**2
    assert np.abs(image - expected).max() < 1e-4 * expected.max()


def test_its_width_and_its_first_dark_ring():
    def profile(r):
        return float(psf_from_pupil(make(256, 0.01), (1, 1), x=-r / 0.01)[0, 0])

    half = optimize.brentq(lambda r: profile(r) - profile(0) / 2, 0.05, 0.2)
    assert 2 * half == pytest.approx(0.5145 * WAVELENGTH / NA, rel=2e-3)
    ring = optimize.minimize_scalar(profile, bounds=(0.25, 0.33), method="bounded").x
    assert ring == pytest.approx(0.61 * WAVELENGTH / NA, rel=2e-3)
    assert profile(ring) < 1e-6 * profile(0)


def test_light_is_kept_at_every_depth():
    zernikes = {5: 0.08, 7: 0.05, 12: 0.03}
    wide = psf_from_pupil(make(160, zernikes=zernikes), (301, 301), z=[-0.6, 0.0, 0.3, 0.6])
    light = wide.sum((1, 2))
    assert light.min() > 0.99 and light.max() < 1 + 1e-3
    assert np.ptp(light) < 1e-3


@pytest.mark.parametrize("aplanatic", [False, True])
def test_without_aberration_both_sides_of_the_focus_look_alike(aplanatic):
    above, below = psf_from_pupil(make(64, aplanatic=aplanatic), (31, 31), z=[0.5, -0.5])
    np.testing.assert_allclose(above, below, atol=1e-15)
    with_coma = make(64, zernikes={7: 0.05, 12: 0.05})
    above, below = psf_from_pupil(with_coma, (31, 31), z=[0.5, -0.5])
    assert np.abs(above - below).max() > 0.1 * above.max()


@pytest.mark.parametrize("samples", [32, 33])
def test_it_is_the_padded_fft(samples):
    """The pixel for which one period of the pupil's samples is a whole number of pixels."""
    n, z = 96, 0.3
    pupil = make(samples, samples * WAVELENGTH / (2 * NA) / n, zernikes={5: 0.07, 8: -0.05})
    u = pupil_axis(samples)
    squared = NA**2 * (u[:, None] ** 2 + u**2)
    kz = 2 * np.pi / WAVELENGTH * np.sqrt(np.maximum(INDEX**2 - np.minimum(squared, NA**2), 0))
    field = disc(samples) * np.exp(1j * (2 * np.pi * pupil.wavefront().numpy() + kz * z))
    padded = np.zeros((n, n), complex)
    padded[:samples, :samples] = field
    intensity = np.abs(np.fft.fftshift(np.fft.ifft2(padded))) ** 2 * n**2 / disc(samples).sum()
    image = psf_from_pupil(pupil, (n, n), x=0.5, y=0.5, z=z)  # the FFT's zero is a pixel
    assert np.abs(image - intensity).max() < 1e-10


@pytest.mark.parametrize(("x", "y"), [(0.3, -1.7), (-4.25, 2.0)])
def test_a_tilt_of_the_pupil_is_a_shift(x, y):
    image = psf_from_pupil(make(128, 0.05), (40, 41), x, y)
    rows, columns = ((np.arange(n) - (n - 1) / 2) * 0.05 for n in (40, 41))
    expected = airy(np.hypot(rows[:, None] - y * 0.05, columns - x * 0.05)) * 0.05**2
    assert np.abs(image - expected).max() < 1e-4 * expected.max()


@pytest.mark.parametrize("aplanatic", [False, True])
def test_defocus_and_apodisation_are_those_of_the_lens(aplanatic):
    """On the axis, the integral over the pupil in one dimension."""
    depth, q = 0.45, np.linspace(0, NA, 20001)
    cosine = np.sqrt(1 - (q / INDEX) ** 2)
    amplitude = cosine**-0.5 if aplanatic else np.ones_like(q)
    phase = 2 * np.pi / WAVELENGTH * depth * INDEX * cosine
    total = np.trapezoid(amplitude * np.exp(1j * phase) * q, q)
    light = np.trapezoid(amplitude**2 * q, q)
    expected = 2 * np.pi * abs(total) ** 2 / light / WAVELENGTH**2 * 0.01**2
    image = psf_from_pupil(make(128, 0.01, aplanatic=aplanatic), (1, 1), z=depth)
    assert image[0, 0] == pytest.approx(expected, rel=3e-3)


def test_one_index_is_two_equal_ones():
    z = np.array([0.2, -0.4])
    plain = psf_from_pupil(make(48), (21, 21), z=z + 0.1)
    matched = psf_from_pupil(make(48, medium_index=INDEX, stage=0.1), (21, 21), z=z)
    np.testing.assert_allclose(plain, matched, atol=1e-14)


def test_water_above_oil_shifts_the_focus_and_keeps_the_light():
    mismatched = make(128, medium_index=1.33, stage=-2.0)
    depths = np.linspace(1.0, 2.2, 13)
    images = psf_from_pupil(mismatched, (201, 201), z=depths)
    assert depths[images[:, 100, 100].argmax()] < 1.9  # shallower than the stage says
    assert images.sum((1, 2)) == pytest.approx(np.ones(13), abs=0.02)


def test_large_pixels_are_summed_from_points():
    coarse = make(64, 0.3)
    assert coarse.oversampling == 3
    fine = psf_from_pupil(make(64, 0.1), (27, 33), x=0.9, y=-0.6, z=0.2)
    image = psf_from_pupil(coarse, (9, 11), x=0.3, y=-0.2, z=0.2)
    np.testing.assert_allclose(image, fine.reshape(9, 3, 11, 3).sum((1, 3)), atol=1e-12)


def test_three_points_a_side_are_nearly_the_integral():
    exact = psf_from_pupil(make(64, 0.1 / 15), (9 * 15, 9 * 15)).reshape(9, 15, 9, 15).sum((1, 3))
    three = psf_from_pupil(make(64, 0.1, oversampling=3), (9, 9))
    one = psf_from_pupil(make(64, 0.1), (9, 9))
    assert np.abs(three - exact).max() < 0.015 * exact.max() < np.abs(one - exact).max()


def test_everything_is_batched_together():
    rng = np.random.default_rng(2000)
    x, y, z = rng.uniform(-1, 1, (3, 4, 1))
    coefficients = torch.from_numpy(rng.normal(0, 0.05, (2, 3)))
    pupil = make(40, zernikes={5: coefficients[:, 0], 7: coefficients[:, 1], 12: 0.02})
    images = psf_from_pupil(pupil, (9, 11), x, y, z)
    assert images.shape == (4, 2, 9, 11)
    for i in range(4):
        for k in range(2):
            zernikes = {5: float(coefficients[k, 0]), 7: float(coefficients[k, 1]), 12: 0.02}
            alone = psf_from_pupil(make(40, zernikes=zernikes), (9, 11), x[i, 0], y[i, 0], z[i, 0])
            np.testing.assert_allclose(images[i, k], alone, atol=1e-14)


def test_a_map_is_a_sum_of_zernikes_by_other_means():
    zernikes = {5: 0.08, 12: -0.03}
    phase_map = make(40, zernikes=zernikes).wavefront()
    expected = psf_from_pupil(make(40, zernikes=zernikes), (9, 9), z=0.1)
    np.testing.assert_allclose(
        psf_from_pupil(make(40, phase_map=phase_map.numpy()), (9, 9), z=0.1), expected
    )
    given = psf_from_pupil(make(40), (9, 9), z=0.1, wavefront=phase_map)
    np.testing.assert_allclose(given, expected)


def test_gradients_reach_places_and_aberrations():
    values = torch.tensor([0.3, -0.2, 0.15, 0.05, -0.08], dtype=torch.float64, requires_grad=True)

    def image(v):
        pupil = make(16, zernikes={5: v[3], 7: v[4]})
        return psf_from_pupil(pupil, (4, 5), v[0], v[1], v[2])

    assert torch.autograd.gradcheck(image, (values,))
    phase_map = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda m: psf_from_pupil(make(8, phase_map=m), (3, 3), z=0.2), (phase_map,)
    )


def test_single_precision_and_kinds():
    z = torch.tensor([0.0, 0.5, -3.0])
    single = psf_from_pupil(make(64, zernikes={5: 0.1}), (15, 15), z=z)
    double = psf_from_pupil(make(64, zernikes={5: 0.1}), (15, 15), z=z.double())
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert float((single - double).abs().max() / double.max()) < 1e-5
    with torch.inference_mode():  # what is kept for later must still take gradients
        psf_from_pupil(make(18), (5, 5), z=z)
    x = torch.tensor(0.1, requires_grad=True)
    psf_from_pupil(make(18), (5, 5), x)[0, 0].backward()
    assert float(x.grad) != 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"na": 0}, "na is 0: give a positive"),
        ({"wavelength": np.nan}, "wavelength is nan"),
        ({"wavelength": 670}, "wavelength is 670: it is counted in µm"),
        ({"pixel_size": 100}, "pixel_size is 100: it is counted in µm"),
        ({"na": 1.52}, "below the index of the immersion"),
        ({"samples": 1}, "samples is 1"),
        ({"samples": 8.5}, r"samples is 8\.5"),
        ({"zernikes": {-1: 0.1}}, "j is -1"),
        ({"phase_map": np.zeros((5, 5))}, r"phase_map is \(5, 5\)"),
        ({"pixel_size": 0.3, "oversampling": 2}, "at least 3 points a side"),
    ],
)
def test_impossible_pupils_are_named(settings, message):
    good = {"na": NA, "wavelength": WAVELENGTH, "index": INDEX, "pixel_size": 0.1, "samples": 16}
    with pytest.raises(ValueError, match=message):
        Pupil(**good | settings)


def test_a_field_with_repetitions_is_refused():
    with pytest.raises(ValueError, match=r"field of 10 µm is larger .* samples of 42 or more"):
        psf_from_pupil(make(32), (10, 100))
    psf_from_pupil(make(42), (10, 100))
    with pytest.raises(ValueError, match="give"):
        psf_from_pupil(make(32), (3, 10, 10))


@pytest.mark.parametrize("call", [zernike, noll_to_osa])
@pytest.mark.parametrize("bad", [-1, 1.5])
def test_indices_are_whole(call, bad):
    with pytest.raises(ValueError, match=f"{bad}"):
        call(bad)
