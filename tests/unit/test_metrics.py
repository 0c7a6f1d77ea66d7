"""Metrics against closed forms."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from helpers.metrics import FRC, affine_fit, fourier_correlation, frc, nrmse, psnr, ssim

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(2.0, 3.0, (200, 200))
NOISE = RNG.normal(0.0, 1.0, (200, 200))


def test_affine_fit_undoes_scale_and_offset():
    scale, offset = affine_fit((TRUTH - 7) / 4, TRUTH)
    assert (scale, offset) == (pytest.approx(4), pytest.approx(7))
    assert affine_fit(np.ones(3), np.array([1.0, 2.0, 6.0])) == (0, 3)


def test_affine_fit_is_the_least_squares_answer():
    estimate = TRUTH + NOISE
    columns = np.stack([estimate.ravel(), np.ones(estimate.size)], axis=1)
    expected = np.linalg.lstsq(columns, TRUTH.ravel(), rcond=None)[0]
    np.testing.assert_allclose(affine_fit(estimate, TRUTH), expected, rtol=1e-9)


def test_nrmse_is_error_over_spread():
    assert nrmse(TRUTH, TRUTH) == 0
    assert nrmse(np.full_like(TRUTH, TRUTH.mean()), TRUTH) == pytest.approx(1)
    assert nrmse(TRUTH + NOISE, TRUTH) == pytest.approx(1 / 3, rel=0.02)
    assert nrmse(5 * TRUTH - 2, TRUTH) > 1
    assert nrmse(5 * TRUTH - 2, TRUTH, affine=True) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(64, 48), (16, 20, 24)])
@pytest.mark.parametrize("data_range", [None, 3.0])
def test_psnr_and_ssim_are_those_of_scikit_image(shape, data_range):
    rng = np.random.default_rng(1)
    truth = rng.normal(2.0, 3.0, shape)
    estimate = truth + rng.normal(size=shape)
    span = np.ptp(truth) if data_range is None else data_range
    expected = peak_signal_noise_ratio(truth, estimate, data_range=span)
    assert psnr(estimate, truth, data_range=data_range) == pytest.approx(expected, rel=1e-12)
    window = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    expected = structural_similarity(truth, estimate, data_range=span, **window)
    assert ssim(estimate, truth, data_range=data_range) == pytest.approx(expected, rel=1e-9)


def test_psnr_of_a_known_error():
    truth = np.array([[0.0, 4.0]])
    assert psnr(truth + 0.4, truth) == pytest.approx(20)
    assert psnr(truth + 0.4, truth, data_range=40) == pytest.approx(40)


def test_ssim_falls_with_noise_and_has_its_closed_form():
    assert ssim(TRUTH, TRUTH) == pytest.approx(1)
    assert 0 < ssim(TRUTH + 2 * NOISE, TRUTH) < ssim(TRUTH + NOISE, TRUTH) < 1
    dark, bright, c1 = np.full((32, 32), 0.2), np.full((32, 32), 0.6), 0.01**2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert ssim(dark, bright, data_range=1) == pytest.approx(expected)


def test_ssim_is_that_of_its_authors():
    def mean(x):
        return gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]

    x, y, c1, c2 = TRUTH, TRUTH + NOISE, (0.01 * np.ptp(TRUTH)) ** 2, (0.03 * np.ptp(TRUTH)) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    each = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(y, x) == pytest.approx(each.mean(), rel=1e-9)


def test_frc_of_a_copy_is_one_and_of_noise_is_nothing():
    assert frc(TRUTH, 2 * TRUTH - 5).correlation == pytest.approx(np.ones(100))
    assert frc(TRUTH, -TRUTH).correlation == pytest.approx(-np.ones(100))
    noise = frc(TRUTH, NOISE)
    scatter = noise.correlation * np.sqrt(noise.n_samples)
    assert scatter[3:].std() == pytest.approx(1, rel=0.2)


def test_frc_measures_the_signal_to_noise_of_each_ring():
    rng = np.random.default_rng(3)
    signal, s = rng.normal(size=(256, 256)), 4.0
    a, b = (signal + rng.normal(size=signal.shape) / np.sqrt(s) for _ in range(2))
    curve = frc(a, b)
    mean = np.average(curve.correlation, weights=curve.n_samples)
    assert mean == pytest.approx(s / (s + 1), abs=0.01)


def test_frc_rings_are_frequencies_also_when_not_square():
    y, x = np.mgrid[:96, :64]
    wave = np.cos(2 * np.pi * x / 8)
    rng = np.random.default_rng(0)
    curve = frc(*(wave + 0.1 * rng.normal(size=wave.shape) for _ in range(2)))
    assert curve.frequency[np.argmax(curve.correlation)] == pytest.approx(1 / 8, abs=0.01)
    assert curve.frequency[-1] <= 0.5 and len(curve.frequency) == 32
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(64), indexing="ij"))
    assert curve.n_samples.sum() == (radius[radius * 64 >= 0.5] <= 0.5).sum()


def test_resolution_is_where_the_curve_crosses():
    frequency = np.array([0.1, 0.2, 0.3, 0.4])
    curve = FRC(frequency, np.array([1.0, 0.6, 0.2, 0.5]), np.ones(4, int))
    assert curve.resolution(0.4, pixel_size=2.0) == pytest.approx(2 / 0.25)
    assert curve.resolution(0.1) == 2
    assert curve.resolution(1.1) == np.inf


def test_tensors_give_the_same_floats():
    estimate = TRUTH + NOISE
    for metric in (nrmse, psnr, ssim):
        value = metric(torch.tensor(estimate), torch.tensor(TRUTH))
        assert type(value) is float and value == metric(estimate, TRUTH)


@pytest.mark.parametrize("metric", [nrmse, psnr, ssim, affine_fit, frc])
def test_shapes_and_gaps_are_checked(metric):
    with pytest.raises(ValueError, match=r"shapes are \(20, 20\) and \(20, 21\)"):
        metric(np.ones((20, 20)), np.ones((20, 21)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        metric(np.full((20, 20), np.nan), TRUTH[:20, :20])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nrmse(NOISE, np.ones_like(NOISE)), "truth is constant"),
        (lambda: psnr(NOISE, np.ones_like(NOISE)), "data_range is 0"),
        (lambda: ssim(np.ones((8, 20)), np.eye(8, 20)), "needs 11 px"),
        (lambda: frc(np.ones(20), np.ones(20)), "give two 2D images"),
    ],
)
def test_meaningless_questions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_scaled_psnr_forgives_brightness_and_nothing_else():
    truth = np.random.default_rng(0).random((6, 7, 8))
    estimate = truth + 0.1 * np.random.default_rng(1).normal(size=truth.shape)
    factor = (estimate * truth).sum() / (estimate**2).sum()
    expected = psnr(factor * estimate, truth)
    assert psnr(37 * estimate, truth, scaled=True) == pytest.approx(expected)
    assert psnr(37 * estimate, truth) < expected - 20
    assert psnr(estimate + 0.5, truth, scaled=True) < expected - 1


def test_the_correlation_in_a_cone_sees_that_cone_alone():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(24, 24, 24))
    kz, ky, kx = np.meshgrid(*3 * [np.fft.fftfreq(24)], indexing="ij")
    axial = np.degrees(np.arctan2(abs(kz), np.hypot(ky, kx))) > 50
    spectrum = np.fft.fftn(truth)
    without = np.fft.ifftn(np.where(axial, np.fft.fftn(rng.normal(size=truth.shape)), spectrum))
    voxel, band = (2.0, 2.0, 2.0), (0.05, 0.25)
    assert abs(fourier_correlation(without.real, truth, voxel, band=band)) < 0.15
    lateral = fourier_correlation(without.real, truth, voxel, band=band, elevation=(0, 49))
    assert lateral == pytest.approx(1)
    # In flatter voxels the same samples are at higher axial frequencies: others enter the cone.
    assert fourier_correlation(without.real, truth, (1.0, 2.0, 2.0), band=band) > 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((4, 4)), np.ones((4, 4)), 1.0), "give volumes"),
        ((np.ones((4, 4, 4)), np.ones((4, 4, 4)), (1.0, 0.0, 1.0)), "lengths > 0"),
        ((np.ones((4, 4, 4)), np.ones((4, 4, 5)), 1.0), "crop both"),
        ((np.ones((4, 4, 4)), np.ones((4, 4, 4)), 1e3), "no frequency lies in the band"),
    ],
)
def test_a_correlation_in_a_cone_needs_volumes_and_frequencies(arguments, message):
    with pytest.raises(ValueError, match=message):
        fourier_correlation(*arguments)
