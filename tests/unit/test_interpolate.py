"""Splines against SciPy, polynomials and finite differences; shifts against formulas."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from helpers.interpolate import bspline, fft_shift, spline_prefilter, spline_sample

RNG = np.random.default_rng(2000)
VOLUME = RNG.normal(size=(9, 14, 11))


@pytest.mark.parametrize("shape", [(40,), (12, 17), (9, 14, 11), (2, 3), (1, 5)])
def test_coefficients_are_those_of_scipy(shape):
    samples = RNG.normal(size=shape)
    expected = ndimage.spline_filter(samples, order=3, mode="mirror")
    np.testing.assert_allclose(spline_prefilter(samples), expected, atol=1e-12)


def test_axes_are_filtered_as_chosen():
    expected = ndimage.spline_filter1d(VOLUME, order=3, axis=1, mode="mirror")
    np.testing.assert_allclose(spline_prefilter(VOLUME, 1), expected, atol=1e-12)
    both = ndimage.spline_filter1d(expected, order=3, axis=-1, mode="mirror")
    np.testing.assert_allclose(spline_prefilter(VOLUME, (1, -1)), both, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_values_are_those_of_scipy_beyond_the_ends_too(ndim):
    samples = VOLUME[(0,) * (3 - ndim)]
    positions = [RNG.uniform(-6, n + 5, 500) for n in samples.shape]
    values = spline_sample(spline_prefilter(samples), positions)
    expected = ndimage.map_coordinates(samples, positions, order=3, mode="mirror")
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_it_passes_through_its_samples():
    grid = np.meshgrid(*map(np.arange, VOLUME.shape), indexing="ij")
    values = spline_sample(spline_prefilter(VOLUME), grid)
    np.testing.assert_allclose(values, VOLUME, atol=1e-12)


def test_a_cubic_is_reproduced_away_from_the_ends():
    def cubic(x):
        return 2 - x + 0.3 * x**2 - 0.01 * x**3

    def slope(x):
        return -1 + 0.6 * x - 0.03 * x**2

    x = np.linspace(30, 35, 21)
    coefficients = spline_prefilter(cubic(np.arange(65.0)))
    values, slopes = spline_sample(coefficients, [x], derivatives=True)
    np.testing.assert_allclose(values, cubic(x), rtol=1e-12)
    np.testing.assert_allclose(slopes[0], slope(x), rtol=1e-10)


def test_derivatives_are_finite_differences():
    coefficients = spline_prefilter(VOLUME)
    positions = np.stack([RNG.uniform(-3, n + 2, 50) for n in VOLUME.shape])
    values, derivatives = spline_sample(coefficients, list(positions), derivatives=True)
    assert derivatives.shape == (3, 50)
    for axis in range(3):
        step = 1e-5 * np.eye(3)[axis][:, None]
        above = spline_sample(coefficients, list(positions + step))
        below = spline_sample(coefficients, list(positions - step))
        np.testing.assert_allclose(derivatives[axis], (above - below) / 2e-5, atol=1e-8)
    np.testing.assert_allclose(values, spline_sample(coefficients, list(positions)))


def test_gradients_go_to_samples_and_positions():
    samples = torch.tensor(VOLUME[0, :5, :4], requires_grad=True)
    y, x = (torch.tensor(RNG.uniform(0, 3, 3), requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda s, y, x: spline_sample(spline_prefilter(s), [y, x]), (samples, y, x)
    )


def test_a_batch_shares_its_positions():
    coefficients = spline_prefilter(VOLUME, (-2, -1))
    y, x = RNG.uniform(0, 10, (7, 1)), RNG.uniform(0, 10, 6)
    together = spline_sample(coefficients, [y, x])
    assert together.shape == (9, 7, 6)
    np.testing.assert_allclose(together[4], spline_sample(coefficients[4], [y, x]))


def test_the_weights_are_a_partition_of_one():
    weights, slopes = bspline(torch.linspace(0, 1, 11, dtype=torch.float64))
    torch.testing.assert_close(sum(weights), torch.ones(11, dtype=torch.float64))
    torch.testing.assert_close(sum(slopes), torch.zeros(11, dtype=torch.float64))


def gaussian(n, centre, sigma=2.0):
    return np.exp(-((np.arange(n) - centre) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("shift", [0.37, -1.5, 3.0])
def test_a_shifted_gaussian_is_the_gaussian_elsewhere(n, shift):
    moved = fft_shift(gaussian(n, 15), [shift])
    assert np.abs(moved - gaussian(n, 15 + shift)).max() < 1e-6


def test_each_image_gets_its_own_shift():
    image = np.outer(gaussian(32, 14), gaussian(40, 20))
    dy, dx = np.array([0.3, -1.2, 2.0]), np.array([-0.7, 0.0, 1.1])
    moved = fft_shift(image, [dy, dx])
    for one, y, x in zip(moved, dy, dx, strict=True):
        expected = np.outer(gaussian(32, 14 + y), gaussian(40, 20 + x))
        np.testing.assert_allclose(one, expected, atol=1e-6)
    columns = fft_shift(image, [1.0])
    np.testing.assert_allclose(columns, np.roll(image, 1, 1), atol=1e-12)


@pytest.mark.parametrize("n", [8, 9])
def test_whole_shifts_roll_and_there_and_back_is_home(n):
    noise = RNG.normal(size=(n, n))
    np.testing.assert_allclose(fft_shift(noise, [2, -3]), np.roll(noise, (2, -3), (0, 1)))
    if n % 2:  # an even image loses its Nyquist frequency at half a pixel
        np.testing.assert_allclose(fft_shift(fft_shift(noise, [0.4, 0.1]), [-0.4, -0.1]), noise)
    assert np.isrealobj(fft_shift(noise, [0.5, 0.5]))


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_axes_are_moved_independently(kind):
    """Also at the Nyquist frequencies of both axes at once, where the sign is lost."""
    noise = RNG.normal(size=(8, 6)) + (1j * RNG.normal(size=(8, 6)) if kind == "complex" else 0)
    one_by_one = fft_shift(fft_shift(noise, [0.4, 0.0]), [0.0, 0.3])
    np.testing.assert_allclose(fft_shift(noise, [0.4, 0.3]), one_by_one, atol=1e-12)


def test_gradients_go_through_a_shift():
    image = torch.tensor(VOLUME[0, :6, :5], requires_grad=True)
    d = torch.tensor([[0.2, -0.4], [1.3, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, d: fft_shift(i, [d[:, 0], d[:, 1]]), (image, d))


def test_kinds_are_kept():
    assert isinstance(fft_shift(VOLUME, [0.5]), np.ndarray)
    assert isinstance(spline_prefilter(VOLUME), np.ndarray)
    single = torch.tensor(VOLUME, dtype=torch.float32)
    assert fft_shift(single, [0.5]).dtype == torch.float32
    assert spline_sample(spline_prefilter(single), [1.5, 2, 3]).dtype == torch.float32


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="NaN or infinite samples"):
        spline_prefilter(np.array([0.0, np.nan, 1.0]))
    with pytest.raises(ValueError, match="4 positions for coefficients of 3 axes"):
        spline_sample(VOLUME, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="4 shifts for 3 axes"):
        fft_shift(VOLUME, [1.0, 0.0, 0.0, 0.0])
