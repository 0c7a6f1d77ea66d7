"""Each likelihood and prior against a formula that was written down a second time."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import trapezoid
from skimage.metrics import structural_similarity

from helpers.inr.fit.losses import (
    amplitude,
    gaussian,
    hessian,
    hessian_energy,
    hessian_separate,
    l1,
    mse_ssim,
    poisson,
)

RNG = np.random.default_rng(0)


def double(x):
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def test_poisson_is_the_likelihood_of_scipy():
    p = RNG.uniform(0.1, 30, (3, 8, 8))
    y = RNG.poisson(p)
    y[0, 0, 0] = 0
    ours = float(poisson(double(p), double(y)))
    expected = (stats.poisson.logpmf(y, y) - stats.poisson.logpmf(y, p)).sum()
    assert ours == pytest.approx(expected, rel=1e-10)
    # and adds read noise to both sides
    shifted = float(poisson(double(p) + 2.25, double(y) + 2.25))
    assert float(poisson(double(p), double(y), read_noise=1.5)) == pytest.approx(shifted, rel=1e-12)


def poisson_gauss(rate, y, sigma):
    """Density of a Poisson count plus Gaussian noise: the sum over all counts."""
    k = np.arange(400)[:, None]
    return (stats.poisson.pmf(k, rate) * stats.norm.pdf(y, k, sigma)).sum(0)


def slope(rate, y, sigma):
    """Of the exact log-likelihood in the rate."""
    step = 1e-4 * rate
    up, down = (np.log(poisson_gauss(rate + d, y, sigma)) for d in (step, -step))
    return (up - down) / (2 * step)


@pytest.mark.parametrize(
    ("rate", "most"), [(0.5, 0.12), (1.0, 0.07), (4.0, 0.02), (10.0, 0.007), (100.0, 0.002)]
)
@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_with_read_noise_it_is_close_to_the_exact_convolution(rate, sigma, most):
    """It knows nearly what the exact likelihood knows of the rate, and weighs it the same.

    Its slope, averaged over the data, is zero at the true rate; of the exact Fisher information it
    keeps 98 % at the rate of a usual background, 4 photons. Without read noise in the likelihood
    the information of such a pixel would be taken for half as much again, or more.
    """
    y = np.linspace(-6 * sigma, rate + 8 * np.sqrt(rate + sigma**2), 2001)
    weight = poisson_gauss(rate, y, sigma)
    assert trapezoid(weight, y) == pytest.approx(1, abs=1e-6)
    at = torch.full(y.shape, rate, dtype=torch.float64, requires_grad=True)
    poisson(at, double(y), read_noise=sigma).backward()
    ours, exact = -at.grad.numpy(), slope(rate, y, sigma)

    def mean(values):
        return trapezoid(weight * values, y)

    information = mean(exact**2)
    assert abs(mean(ours)) < 0.03 * np.sqrt(mean(ours**2))
    efficiency = mean(ours * exact) ** 2 / (mean(ours**2) * information)
    assert 1 - most <= efficiency <= 1.0001
    assert 1 / (rate + sigma**2) == pytest.approx(information, rel=most)
    assert 1 / rate > (1 + 0.85 * sigma**2 / rate) * information


@pytest.mark.parametrize(("rate", "most"), [(30.0, 0.14), (100.0, 0.02)])
def test_its_curve_is_that_of_the_exact_likelihood(rate, most):
    """Two standard deviations to each side, where a curve has risen by two."""
    sigma, spread = 1.5, np.sqrt(rate + 1.5**2)
    rates = rate + spread * np.linspace(-2, 2, 41)
    for y in rate + spread * np.array([-1.5, 0, 1.5]):
        ours = [float(poisson(double(p), double(y), read_noise=sigma)) for p in rates]
        exact = [-np.log(poisson_gauss(p, np.array([y]), sigma)[0]) for p in rates]
        apart = (ours - np.min(ours)) - (exact - np.min(exact))
        assert abs(apart).max() < most
        assert np.ptp(exact) > 1.9


def test_poisson_never_falls_without_end():
    """A head with a slope below zero can predict less than nothing, and must be driven back."""
    p = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    for count in (0.0, 3.0):
        (grad,) = torch.autograd.grad(poisson(p, torch.full_like(p, count)), p)
        assert torch.isfinite(grad).all()
        assert (grad[p < 0] < 0).all()
        assert (grad[p > count] > 0).all()
    # counts that read noise made negative ask for darkness, no more
    value = [float(poisson(double(v), double(-4.0), read_noise=1.5)) for v in (0.0, 1.0, 2.0)]
    assert np.diff(value) == pytest.approx([1, 1])


def test_the_gaussian_is_that_of_scipy():
    p, y, sigma = RNG.normal(size=(3, 4, 5)), RNG.normal(size=(3, 4, 5)), RNG.uniform(1, 2, 5)
    ours = float(gaussian(double(p), double(y), sigma=double(sigma)))
    expected = (stats.norm.logpdf(y, y, sigma) - stats.norm.logpdf(y, p, sigma)).sum()
    assert ours == pytest.approx(expected)
    assert float(gaussian(double(p), double(y))) == pytest.approx(((p - y) ** 2).sum() / 2)


def test_the_amplitude_is_the_poisson_likelihood_near_the_data():
    y = RNG.uniform(50, 100, 200)
    p = y * RNG.uniform(0.95, 1.05, 200)
    ours = float(amplitude(double(p), double(y)))
    assert ours == pytest.approx((2 * (np.sqrt(p) - np.sqrt(y)) ** 2).sum())
    assert ours == pytest.approx(float(poisson(double(p), double(y))), rel=0.02)
    assert float(amplitude(double([4.0]), double([9.0]), sigma=0.1)) == pytest.approx(50)
    assert np.isfinite(float(amplitude(double([-1.0]), double([-2.0]))))


@pytest.mark.parametrize("window", [7, 5])
def test_the_published_loss_has_the_ssim_of_scikit_image(window):
    y = RNG.poisson(20, (3, 24, 30)).astype(float)
    p = y + RNG.normal(0, 4, y.shape)
    peak, weight = y.max(), 0.3
    maps = [
        structural_similarity(a, b, data_range=1, win_size=window, use_sample_covariance=False)
        for a, b in zip(p / peak, y / peak, strict=True)
    ]
    expected = ((p - y) ** 2).mean() / peak**2 + weight * (1 - np.mean(maps))
    ours = float(mse_ssim(double(p), double(y), ssim_weight=weight, window=window))
    assert ours == pytest.approx(y.size * expected, rel=1e-9)
    assert float(mse_ssim(double(y), double(y))) == pytest.approx(0, abs=1e-9)
    # the peak may be that of a larger whole, of which this is a block
    doubled = float(mse_ssim(double(p), double(y), ssim_weight=0, peak=2 * peak))
    assert 4 * doubled == pytest.approx(float(mse_ssim(double(p), double(y), ssim_weight=0)))


def test_the_published_loss_says_what_it_cannot_judge():
    with pytest.raises(ValueError, match=r"images are \(6, 9\): at least 7 px for SSIM"):
        mse_ssim(torch.ones(1, 6, 9), torch.ones(1, 6, 9))
    with pytest.raises(ValueError, match="peak is 0.0: SSIM needs data with a positive value"):
        mse_ssim(torch.ones(1, 9, 9), torch.zeros(1, 9, 9))


def matrices(volume, weights):
    """The matrix of second differences at every voxel, with loops over the axes."""
    f = np.pad(volume, 1, mode="edge")
    inner = (slice(1, -1),) * 3
    matrix = np.zeros((3, 3, *volume.shape))
    for a in range(3):
        for b in range(3):
            if a == b:
                second = np.roll(f, -1, a) - 2 * f + np.roll(f, 1, a)
            else:
                along = (np.roll(f, -1, a) - np.roll(f, 1, a)) / 2
                second = (np.roll(along, -1, b) - np.roll(along, 1, b)) / 2
            matrix[a, b] = second[inner] * weights[a] * weights[b]
    return matrix


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.64, 1, 0.5)])
def test_the_hessian_is_the_norm_of_the_matrix(weights):
    f = RNG.normal(size=(4, 5, 6))
    matrix = matrices(f, weights)
    energy = (matrix**2).sum((0, 1))
    np.testing.assert_allclose(hessian_energy(double(f), weights), energy)
    expected = np.sqrt(energy).sum()
    assert float(hessian(double(f), weights=weights, smooth=0)) == pytest.approx(expected)
    smoothed = (np.sqrt(energy + 0.04) - 0.2).sum()
    assert float(hessian(double(f), weights=weights, smooth=0.2)) == pytest.approx(smoothed)
    separate = float(hessian_separate(double(f), weights=weights))
    assert separate == pytest.approx(abs(matrix).sum())
    assert float(l1(double(f))) == pytest.approx(abs(f).sum())


def test_a_batch_costs_the_sum_of_its_volumes():
    batch = double(RNG.normal(size=(2, 3, 4, 5, 6)))
    for prior in (hessian, hessian_separate, l1):
        together = float(prior(batch))
        assert together == pytest.approx(sum(float(prior(f)) for f in batch.flatten(0, 1)))


def test_constants_and_ramps_cost_nothing():
    constant = torch.full((3, 4, 5), 7.0, dtype=torch.float64)
    z, y, x = np.meshgrid(*map(np.arange, (7, 8, 9)), indexing="ij")
    ramp = double(2.0 * z - 3.0 * y + 0.5 * x)
    for prior in (hessian, hessian_separate):
        assert float(prior(constant)) == 0
        assert float(prior(ramp)) > 1  # at the border, where the volume goes on flat
        assert float(prior(-3 * ramp + 5)) == pytest.approx(3 * float(prior(ramp)), rel=1e-3)
    inner = (slice(1, -1),) * 3
    assert float(hessian_energy(ramp)[inner].max()) < 1e-20
    assert float(hessian_energy(ramp)[:, :, 0].min()) > 0.2


def ridge(degrees, n=61, width=3.0):
    """A ridge through the middle of a square, at some angle, and a mask of its middle part."""
    y, x = np.mgrid[:n, :n] - n // 2
    angle = np.deg2rad(degrees)
    across = x * np.cos(angle) + y * np.sin(angle)
    return double(np.exp(-(across**2) / (2 * width**2))[None]), np.hypot(y, x) < n // 2 - 2


def test_the_isotropic_hessian_does_not_mind_directions_and_the_separate_one_does():
    """A ridge along the diagonal costs the published prior twice as much as one along an axis."""

    def costs(degrees):
        f, middle = ridge(degrees)
        energy = hessian_energy(f)[0].numpy()[middle]
        return np.sqrt(energy).sum(), abs(matrices(f.numpy(), (1, 1, 1))[..., middle]).sum()

    isotropic, separate = np.array([costs(d) for d in (0, 15, 30, 45, 70, 90)]).T
    assert np.ptp(isotropic) < 0.06 * isotropic.mean()
    angles = np.deg2rad([0, 15, 30, 45, 70, 90])
    np.testing.assert_allclose(separate / separate[0], 1 + np.sin(2 * angles), rtol=0.06)


def test_weights_make_the_prior_one_of_micrometres():
    """The same blob on voxels twice as deep: half as many voxels, the same second derivative."""

    def cost(step, weights):
        n = round(40 / step)
        z = (np.arange(n) - (n - 1) / 2) * step
        y = np.arange(33) - 16
        blob = np.exp(-(z[:, None, None] ** 2 + y[:, None] ** 2 + y**2) / (2 * 4.0**2))
        return float(hessian(double(blob), weights=weights, smooth=0))

    cubes, deep = cost(1, (1, 1, 1)), 2 * cost(2, (0.5, 1, 1))
    assert deep == pytest.approx(cubes, rel=0.03)
    assert abs(2 * cost(2, (1, 1, 1)) / cubes - 1) > 0.3


@pytest.mark.parametrize(
    "loss",
    [poisson, partial(poisson, read_noise=1.5), gaussian, amplitude, mse_ssim],
    ids=["poisson", "read noise", "gaussian", "amplitude", "mse_ssim"],
)
def test_likelihoods_have_the_gradient_they_claim(loss):
    p = double(RNG.uniform(0.5, 5, (2, 8, 9))).requires_grad_(True)
    y = double(RNG.poisson(3, (2, 8, 9)))
    assert torch.autograd.gradcheck(lambda x: loss(x, y), p)


@pytest.mark.parametrize("prior", [l1, hessian, hessian_separate])
def test_priors_have_the_gradient_they_claim(prior):
    f = double(RNG.normal(size=(3, 4, 5))).requires_grad_(True)
    assert torch.autograd.gradcheck(prior, f)


def test_there_is_a_gradient_where_nothing_bends():
    flat = torch.zeros(4, 5, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(hessian(flat), flat)
    assert float(grad.abs().max()) == 0
    counts = torch.tensor([0.0, 0.0, 5.0])
    dark = torch.tensor([0.0, 1e-20, 1e-20], requires_grad=True)
    (grad,) = torch.autograd.grad(poisson(dark, counts), dark)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 1), (3, 4, 17), (2, 5, 9, 12)])
@pytest.mark.parametrize("smooth", [0.0, 0.2])
def test_the_compiled_hessian_has_value_and_slope_of_the_other(shape, smooth):
    single = torch.tensor(RNG.standard_normal(shape), dtype=torch.float32, requires_grad=True)
    exact = single.detach().double().requires_grad_()
    found, expected = (
        3 * hessian(f, weights=(0.4, 0.9, 1.0), smooth=smooth) for f in (single, exact)
    )
    assert found.dtype == torch.float32 and found.shape == ()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    if smooth or np.prod(shape) > 1:  # at one voxel without rounding the norm has no slope
        found.backward(), expected.backward()
        np.testing.assert_allclose(single.grad, exact.grad, atol=2e-5)


def test_the_compiled_hessian_is_flat_at_a_flat_volume():
    flat = torch.ones(3, 4, 5, requires_grad=True)
    hessian(flat, smooth=0).backward()
    assert not flat.grad.any()
