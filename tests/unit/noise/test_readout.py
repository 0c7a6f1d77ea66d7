"""Cameras: densities that sum to one, samples that follow them, slopes and information."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from helpers.noise import EMCCD, SCMOS, Poisson, PoissonGauss, to_electrons

RATES, VARIANCES = (0.5, 3.0, 30.0, 1000.0), (1.0, 25.0, 100.0)
GAIN = 300.0


def density(noise, rate, counts):
    counts = np.asarray(counts, dtype=float)
    return np.exp(-noise.nll(np.full(counts.shape, rate), counts, reduction="none"))


def grid(rate, variance, step):
    """Counts over which a camera of this mean and variance spreads."""
    spread = np.sqrt(variance)
    return np.arange(-8 * np.sqrt(variance), rate + 10 * spread + 20, step)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_mixture_integrates_to_one_with_the_right_mean_and_variance(rate, variance):
    step = np.sqrt(variance) / 4
    counts = grid(rate, rate + variance, step)
    p = density(PoissonGauss(variance), rate, counts) * step
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p * counts).sum() == pytest.approx(rate, abs=1e-6)
    assert (p * (counts - rate) ** 2).sum() == pytest.approx(rate + variance, rel=1e-6)


def test_the_mixture_is_the_plain_sum():
    counts = np.array([-3.2, 0.4, 2.0, 9.7, 31.0])
    k = np.arange(200)
    for rate, variance in ((0.5, 1.0), (8.0, 0.09), (20.0, 25.0)):
        terms = stats.poisson.pmf(k, rate) * stats.norm.pdf(counts[:, None], k, variance**0.5)
        expected = terms.sum(1)
        np.testing.assert_allclose(density(PoissonGauss(variance), rate, counts), expected)
    dark = density(PoissonGauss(4.0), 0.0, counts)
    np.testing.assert_allclose(dark, stats.norm.pdf(counts, 0, 2))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("variance", VARIANCES)
def test_shifted_counts_sum_to_one(rate, variance):
    counts = np.arange(-variance, rate + 10 * np.sqrt(rate + variance) + 20)
    p = density(SCMOS(variance), rate, counts)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p * counts).sum() == pytest.approx(rate)


def multiplied(noise, rate):
    """Panels of quadrature over the counts of a multiplying camera: nodes and weights."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    spread = noise.variance**0.5 / noise.gain
    top = rate + 12 * np.sqrt(2 * rate + 1) + 40
    edges = np.unique(
        np.concatenate([np.linspace(-8, 8, 33) * spread, np.geomspace(1e-9, top, 90)])
    )
    half = np.diff(edges)[:, None] / 2
    middle = (edges[:-1, None] + edges[1:, None]) / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("variance", [0.0, 50.0**2, 300.0**2])
def test_multiplied_counts_integrate_to_one_with_twice_the_variance(rate, variance):
    noise = EMCCD(GAIN, variance)
    counts, weights = multiplied(noise, rate)
    p = density(noise, rate, counts) * weights
    dark = density(noise, rate, [0.0])[0] if variance == 0 else 0.0
    assert p.sum() + dark == pytest.approx(1, abs=1e-7)
    mean = (p * counts).sum()
    assert mean == pytest.approx(rate, rel=1e-6)
    second = (p * counts**2).sum() - mean**2
    assert (second - variance / GAIN**2) / mean == pytest.approx(2, abs=1e-4)


def test_multiplication_is_the_sum_over_photo_electrons():
    counts, k = np.array([0.01, 0.7, 3.0, 12.0]), np.arange(1, 120)
    shot, spread = stats.poisson.pmf(k, 4.0), 0.3
    expected = (shot * stats.gamma.pdf(counts[:, None], k)).sum(1)
    np.testing.assert_allclose(density(EMCCD(GAIN), 4.0, counts), expected)

    def blurred(count):
        def integrand(t):
            return (shot * stats.gamma.pdf(t, k)).sum() * stats.norm.pdf(count - t, 0, spread)

        smooth = integrate.quad(integrand, 0, count + 10 * spread, limit=200)[0]
        return smooth + np.exp(-4.0) * stats.norm.pdf(count, 0, spread)

    noisy = density(EMCCD(GAIN, (spread * GAIN) ** 2), 4.0, counts)
    np.testing.assert_allclose(noisy, [blurred(count) for count in counts], rtol=1e-6)


def cells(noise, rate):
    """Edges between which samples are counted, and the probability of each cell."""
    if isinstance(noise, SCMOS):
        variance = float(noise.variance)
        counts = np.arange(-variance, rate + 10 * np.sqrt(rate + variance) + 20)
        return np.append(counts, counts[-1] + 1) - 0.5, density(noise, rate, counts)
    spread = np.sqrt(2 * rate + 1)
    edges = np.linspace(rate - 8 * spread, rate + 8 * spread, 81)
    if isinstance(noise, EMCCD):
        edges = edges[edges > -1]
    nodes, weights = np.polynomial.legendre.leggauss(30)
    half = np.diff(edges)[:, None] / 2
    inside = (edges[:-1, None] + edges[1:, None]) / 2 + half * nodes
    p = density(noise, rate, inside.ravel()).reshape(inside.shape)
    return edges, (p * half * weights).sum(1)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("rate", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("noise", [SCMOS(4.0), PoissonGauss(1.0), EMCCD(GAIN, 100.0**2)])
def test_samples_follow_the_density(noise, rate, kind):
    if kind == "numpy":
        counts = noise.sample(np.full(20_000, rate), np.random.default_rng(2000))
    else:
        rates = torch.full((20_000,), rate, dtype=torch.float64)
        counts = noise.sample(rates, torch.Generator().manual_seed(2001)).numpy()
    edges, p = cells(noise, rate)
    seen, _ = np.histogram(counts, edges)
    often = p * len(counts) > 8
    seen = np.append(seen[often], len(counts) - seen[often].sum())
    expected = np.append(p[often], 1 - p[often].sum()) * len(counts)
    if expected[-1] < 1e-6:
        seen, expected = seen[:-1], expected[:-1] * seen[:-1].sum() / expected[:-1].sum()
    assert -np.log10(stats.chisquare(seen, expected).pvalue) < 6


def test_multiplied_samples_have_twice_the_variance():
    counts = EMCCD(GAIN).sample(np.full(2_000_000, 30.0), np.random.default_rng(2002))
    assert counts.var() / counts.mean() == pytest.approx(2, abs=0.01)
    dark = EMCCD(GAIN).sample(torch.zeros(5), torch.Generator())
    assert dark.tolist() == [0] * 5


CAMERAS = [Poisson(), SCMOS(4.0), PoissonGauss(4.0), EMCCD(GAIN, 900.0), EMCCD(GAIN)]
NAMES = ["Poisson", "SCMOS", "PoissonGauss", "EMCCD", "EMCCD without read noise"]


@pytest.mark.parametrize("noise", CAMERAS, ids=NAMES)
def test_the_score_is_the_slope_of_the_likelihood(noise):
    rate = torch.tensor([0.2, 2.0, 40.0, 900.0], dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([1.0, 3.4, 37.0, 950.0], dtype=torch.float64)
    (slope,) = torch.autograd.grad(noise.nll(rate, counts), rate)
    step = 1e-5 * rate.detach()
    above, below = (noise.nll(rate.detach() + s, counts, reduction="none") for s in (step, -step))
    torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(noise.score(rate.detach(), counts), slope)
    (twice,) = torch.autograd.grad(noise.deviance(rate, counts), rate)
    torch.testing.assert_close(twice, 2 * slope)


@pytest.mark.parametrize("noise", CAMERAS[:4], ids=NAMES[:4])
@pytest.mark.parametrize("rate", [0.05, 3.0, 30.0, 1000.0])
def test_information_is_the_mean_square_of_the_score(noise, rate):
    rates = torch.full((20_000,), rate, dtype=torch.float64)
    counts = noise.sample(rates, torch.Generator().manual_seed(2003))
    score = noise.score(rates, counts)
    assert float(score.mean()) == pytest.approx(0, abs=5 * float(score.std()) / len(score) ** 0.5)
    square = score**2
    information = float(noise.information(rates[:1]))
    error = float(square.std()) / len(square) ** 0.5
    assert information == pytest.approx(float(square.mean()), abs=5 * error)


def test_information_lies_between_the_variance_and_the_photons():
    rates = torch.logspace(-2, 4, 200, dtype=torch.float64)
    for variance in (0.005, 0.02, 1.0, 77.0, 900.0):
        information = PoissonGauss(variance).information(rates)
        assert bool((information * (rates + variance) > 1 - 1e-4).all())
        assert bool((information * rates < 1 + 1e-4).all())
    half = EMCCD(GAIN, 900.0).information(rates)
    assert bool((half * (2 * rates + 0.01) > 1 - 1e-4).all())
    assert float(half[-1] * rates[-1]) == pytest.approx(0.5, abs=1e-3)


def level(noise, counts):
    """Most likely common rate of each row of pixels, by Fisher scoring."""
    rate = counts.mean(1, keepdim=True).expand_as(counts)
    for _ in range(4):
        step = noise.score(rate, counts).sum(1) / noise.information(rate).sum(1)
        rate = (rate - step[:, None]).clamp_min(1.0)
    return rate[:, 0]


def test_a_map_of_variances_beats_one_number():
    """A level seen by pixels of very different read noise, estimated 1000 times."""
    variance = stats.lognorm(2.5, scale=np.e).ppf((np.arange(60) + 0.5) / 60)
    truth = PoissonGauss(variance)
    counts = truth.sample(np.full((1000, 60), 20.0), np.random.default_rng(2004))
    counts = torch.from_numpy(counts)
    aware, exact = level(SCMOS(variance), counts), level(truth, counts)
    naive = level(SCMOS(variance.mean()), counts)
    limit = float(truth.information(torch.full((60,), 20.0).double()).sum()) ** -0.5
    assert float(aware.std()) < 0.8 * float(naive.std())
    assert float(exact.std()) == pytest.approx(limit, rel=0.1)
    assert float(exact.mean()) == pytest.approx(20.0, abs=5 * limit / 1000**0.5)


def test_no_read_noise_is_shot_noise():
    counts = np.array([0, 3, 12])
    rate = np.array([1.0, 4.0, 10.0])
    assert SCMOS(0).nll(rate, counts) == pytest.approx(Poisson().nll(rate, counts))
    assert SCMOS(0).deviance(rate, counts) == pytest.approx(Poisson().deviance(rate, counts))


@pytest.mark.parametrize("noise", CAMERAS[1:4], ids=NAMES[1:4])
def test_a_far_and_a_dark_pixel_stay_finite(noise):
    rate = torch.tensor([1e-6, 0.0, 5.0, 1e5])
    counts = torch.tensor([30.0, 0.5, -6.0, 1.1e5])
    assert bool(noise.nll(rate, counts, reduction="none").isfinite().all())
    assert bool(noise.score(rate, counts)[[0, 2, 3]].isfinite().all())


@pytest.mark.parametrize("noise", CAMERAS[1:4], ids=NAMES[1:4])
def test_single_precision_is_good_enough(noise):
    rate = torch.tensor([0.5, 30.0, 900.0])
    counts = torch.tensor([1.2, 27.5, 940.0])
    single = noise.nll(rate, counts, reduction="none")
    assert single.dtype == torch.float32
    double = noise.nll(rate.double(), counts.double(), reduction="none")
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


def test_maps_belong_to_pixels():
    variance = np.array([[1.0, 100.0]])
    counts = np.random.default_rng(0).normal(20, 5, (3, 1, 2))
    for camera in (SCMOS, PoissonGauss):
        both = camera(variance).nll(np.full((3, 1, 2), 20.0), counts, reduction="none")
        one = camera(100.0).nll(np.full((3, 1), 20.0), counts[..., 1], reduction="none")
        np.testing.assert_allclose(both[..., 1], one)


def test_dark_pixels_of_a_multiplying_camera():
    noise = EMCCD(GAIN)
    assert noise.nll(np.array([2.5]), np.array([0.0])) == pytest.approx(2.5)
    expected = special.i1(2 * np.sqrt(2.5)) * np.sqrt(2.5) * np.exp(-3.5)
    assert density(noise, 2.5, [1.0])[0] == pytest.approx(expected)


def test_adu_become_electrons():
    adu = np.array([[100.0, 200.0]], dtype=np.float32)
    np.testing.assert_allclose(to_electrons(adu, np.array([[2.0, 4.0]]), 100), [[0, 25]])
    tensor = to_electrons(torch.tensor(adu), np.array([[2.0, 4.0]]), 100)
    torch.testing.assert_close(tensor.double(), torch.tensor([[0.0, 25.0]]).double())
    with pytest.raises(ValueError, match="gain has values that are not positive"):
        to_electrons(adu, np.array([[2.0, 0.0]]), 100)
    with pytest.raises(ValueError, match=r"offset is \(3,\) but frames are \(1, 2\)"):
        to_electrons(adu, 2.0, np.zeros(3))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int64", "float32"])
@pytest.mark.parametrize("offset", [100, np.full((1, 2), 100, "uint16"), 100.0])
def test_pixels_below_the_offset_become_negative_electrons(dtype, offset):
    adu = np.array([[[91, 145]]], dtype)
    np.testing.assert_allclose(to_electrons(adu, 2.25, offset), [[[-4.0, 20.0]]], rtol=1e-6)
    tensor = to_electrons(torch.from_numpy(adu.astype("int64")), 2.25, offset)
    np.testing.assert_allclose(tensor, [[[-4.0, 20.0]]], rtol=1e-6)


@pytest.mark.parametrize("camera", [SCMOS, PoissonGauss, lambda v: EMCCD(GAIN, v.ravel()[0])])
def test_negative_variances_are_refused(camera):
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match="negative values or NaN in the variance"):
            camera(np.array([[bad, 2.0]]))


def test_impossible_amounts_are_named():
    with pytest.raises(ValueError, match="some variances are zero"):
        PoissonGauss(np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="gain is 1: electron multiplication"):
        EMCCD(1)
    with pytest.raises(ValueError, match="negative values or NaN among the counts"):
        EMCCD(GAIN).nll(np.ones(1), -np.ones(1))
    for noise in CAMERAS[1:4]:
        with pytest.raises(ValueError, match="NaN or infinite values among the counts"):
            noise.nll(np.ones(1), np.array([np.nan]))
        with pytest.raises(ValueError, match="among the rate"):
            noise.sample(-np.ones(1), np.random.default_rng(0))
        with pytest.raises(TypeError, match=r"give a torch\.Generator"):
            noise.sample(torch.ones(1), np.random.default_rng(0))
