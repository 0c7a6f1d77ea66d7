"""Simulated beads against closed forms and a padded FFT; their noise; wrong input."""

import math

import numpy as np
import pytest
from scipy.special import j1

from helpers.renderer.simulate import aberrated_psf, bead_stack, beads, blinks, random_aberrations
from helpers.renderer.simulate.beads import Microscope
from tests.margins.seeds import within

OIL = Microscope()
MIXED = {3: 0.04, 5: -0.07, 6: 0.03, 8: 0.06, 12: -0.05, 18: 0.02}


def test_without_aberrations_it_is_the_airy_disc_where_it_was_put():
    x, y = 1.3, -0.45
    psf = aberrated_psf((21, 25), {}, x, y)[0]
    down, along = np.mgrid[:21, :25] - np.array([10, 12])[:, None, None]
    r = np.hypot(along - x, down - y) * OIL.pixel_size
    v = 2 * math.pi * OIL.na / OIL.wavelength * r
    peak = math.pi * (OIL.na / OIL.wavelength * OIL.pixel_size) ** 2
    np.testing.assert_allclose(psf, peak * (2 * j1(v) / v) ** 2, atol=1e-9 * peak)


def padded_fft(shape, aberrations, z, n):
    """The same image on a grid of n pixels, cut out of it."""
    q = np.fft.fftfreq(n, OIL.pixel_size) * OIL.wavelength / OIL.na
    qx, qy = np.meshgrid(q, q)
    inside = np.hypot(qx, qy) < 1
    rho, phi = np.hypot(qx, qy), np.arctan2(qy, qx)
    defined = {  # written out, of unit RMS
        5: math.sqrt(6) * rho**2 * np.cos(2 * phi),
        7: math.sqrt(8) * (3 * rho**3 - 2 * rho) * np.sin(phi),
        12: math.sqrt(5) * (6 * rho**4 - 6 * rho**2 + 1),
    }
    phase = sum(c * defined[j] for j, c in aberrations.items())
    phase = phase + z * np.sqrt((OIL.index**2 - (OIL.na * rho) ** 2).clip(0)) / OIL.wavelength
    pupil = inside * np.exp(2j * np.pi * phase)
    image = np.abs(np.fft.ifft2(pupil)) ** 2 * n**2 / inside.sum()
    rows, columns = ((np.arange(m) - m // 2) % n for m in shape)
    return image[np.ix_(rows, columns)]


@pytest.mark.parametrize("z", [0.0, -0.6])
def test_it_agrees_with_a_padded_fft(z):
    aberrations = {5: 0.08, 7: -0.05, 12: 0.06}
    psf = aberrated_psf((25, 25), aberrations, z=z)[0]
    other = padded_fft((25, 25), aberrations, z, 1024)
    # the rim of the disc is a staircase on the grid
    np.testing.assert_allclose(psf, other, atol=3e-3 * psf.max())


def test_more_nodes_change_nothing(monkeypatch):
    usual = beads._nodes
    scenes = [((25, 25), 0.8), ((15, 15), 0.3), ((41, 31), 1.2)]
    found = [aberrated_psf(shape, MIXED, 0.4, 0.2, z) for shape, z in scenes]
    monkeypatch.setattr(beads, "_nodes", lambda a, b: usual(2 * a, 2 * b))
    for (shape, z), psf in zip(scenes, found, strict=True):
        np.testing.assert_allclose(
            psf, aberrated_psf(shape, MIXED, 0.4, 0.2, z), atol=2e-9 * psf.max()
        )


def test_wavefront_error_is_the_norm_of_the_coefficients():
    _, qx, qy, weights = beads._nodes(40, 80)
    modes = range(21)
    z = np.stack([beads._zernike(j, qx, qy) for j in modes])
    np.testing.assert_allclose((z * weights) @ z.T / math.pi, np.eye(21), atol=1e-12)
    assert len(random_aberrations(0.1, range(3, 9), seed=1)) == 6
    assert random_aberrations(0.1, [3, 5], seed=1) == random_aberrations(0.1, [3, 5], seed=1)


def test_noise_has_the_mean_and_variance_it_should():
    stack = bead_stack(MIXED, photons=2e4, background=30, read_noise=4.0, seed=2000)
    residual = stack.images - stack.expected
    assert stack.images.dtype == np.float32
    assert abs(residual.mean()) < 4 * np.sqrt(stack.expected.mean() / residual.size)
    chi = np.mean(residual**2 / (stack.expected + 16))
    assert abs(chi - 1) < 4 * math.sqrt(2 / residual.size)


def test_a_seed_makes_the_data_and_says_what_it_drew():
    one, two, other = (blinks(MIXED, 5, seed=s) for s in (2000, 2000, 2001))
    np.testing.assert_array_equal(one.images, two.images)
    assert (one.images != other.images).any()
    assert within(one.x, -1, 1) and one.z.std() > 0.05
    psf = aberrated_psf((15, 15), MIXED, one.x, one.y, one.z)
    np.testing.assert_allclose(
        one.expected, one.photons[:, None, None] * psf + one.background[:, None, None]
    )
    stack = bead_stack(MIXED, planes=3, z=0.1)
    np.testing.assert_allclose(
        stack.expected[2], 1e5 * aberrated_psf((25, 25), MIXED, z=0.9)[0] + 50
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aberrated_psf((0, 5), {}), "two positive whole numbers"),
        (lambda: aberrated_psf((5, 5), {-1: 0.1}), "no OSA index"),
        (lambda: aberrated_psf((5, 5), {}, x=math.nan), "x is nan"),
        (lambda: Microscope(na=1.6), "na is 1.6"),
        (lambda: Microscope(pixel_size=0), "positive lengths"),
        (lambda: bead_stack({}, planes=0), "planes is 0"),
        (lambda: bead_stack({}, photons=-1), "photons must not be negative"),
        (lambda: bead_stack({}, read_noise=-1), "read_noise"),
        (lambda: blinks({}, 0), "n_blinks is 0"),
        (lambda: random_aberrations(0.1, [], seed=0), "give a mode"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
