"""Shot noise: probabilities against SciPy, samples against their moments, thinning, Anscombe."""

import numpy as np
import pytest
import torch
from scipy import stats

from helpers.noise import Poisson, anscombe, inverse_anscombe, thin

RATE = np.array([[0.3, 2.0, 7.5], [40.0, 0.0, 1e4]])
COUNTS = np.array([[0, 3, 5], [38, 0, 10100]])


def test_nll_is_the_probability_of_the_counts():
    each = Poisson().nll(RATE, COUNTS, reduction="none")
    np.testing.assert_allclose(each, -stats.poisson.logpmf(COUNTS, RATE), rtol=1e-10)
    assert Poisson().nll(RATE, COUNTS) == pytest.approx(each.sum())
    assert Poisson().nll(RATE, COUNTS, reduction="mean") == pytest.approx(each.mean())


def test_the_gradient_is_one_minus_counts_over_rate():
    rate = torch.tensor(RATE[RATE > 0], requires_grad=True)
    counts = torch.tensor(COUNTS[RATE > 0])
    Poisson().nll(rate, counts).backward()
    torch.testing.assert_close(rate.grad, 1 - counts / rate.detach())


def test_a_dark_pixel_explains_no_counts_only():
    assert Poisson().nll(np.zeros(2), np.zeros(2)) == 0
    assert Poisson().nll(np.zeros(1), np.ones(1)) == np.inf


def test_deviance_is_twice_the_loss_of_likelihood():
    noise = Poisson()
    best = noise.nll(COUNTS.astype(float), COUNTS)
    assert noise.deviance(RATE, COUNTS) == pytest.approx(2 * (noise.nll(RATE, COUNTS) - best))
    assert noise.deviance(COUNTS.astype(float), COUNTS) == 0


def test_mean_deviance_of_the_truth_is_near_one():
    rate = np.full(40_000, 200.0)
    counts = Poisson().sample(rate, np.random.default_rng(1))
    assert Poisson().deviance(rate, counts, reduction="mean") == pytest.approx(1, abs=0.03)


def test_kinds_are_kept():
    noise = Poisson()
    assert type(noise.nll(RATE, COUNTS)) is float
    assert isinstance(noise.nll(torch.tensor(RATE), torch.tensor(COUNTS)), torch.Tensor)
    assert isinstance(noise.nll(RATE, COUNTS, reduction="none"), np.ndarray)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_samples_have_mean_and_variance_of_the_rate_and_repeat(kind):
    def draw(seed):
        if kind == "numpy":
            return Poisson().sample(np.full(100_000, 6.0), np.random.default_rng(seed))
        generator = torch.Generator().manual_seed(seed)
        return Poisson().sample(torch.full((100_000,), 6.0), generator).numpy()

    counts = draw(0)
    assert counts.mean() == pytest.approx(6, abs=0.04) and counts.var() == pytest.approx(
        6, abs=0.15
    )
    np.testing.assert_array_equal(counts, draw(0))
    assert (counts != draw(1)).any()


@pytest.mark.parametrize("kind", ["int64", "float32", "torch"])
def test_thinning_gives_two_independent_poisson_images(kind):
    rate, fraction = 9.0, 0.3
    counts = np.random.default_rng(0).poisson(rate, 200_000)
    if kind == "torch":
        counts = torch.tensor(counts, dtype=torch.float32)
        kept, rest = thin(counts, fraction, torch.Generator().manual_seed(0))
        assert kept.dtype == torch.float32
        counts, kept, rest = (x.numpy() for x in (counts, kept, rest))
    else:
        counts = counts.astype(kind)
        kept, rest = thin(counts, fraction, np.random.default_rng(1))
        assert kept.dtype == kind
    np.testing.assert_array_equal(kept + rest, counts)
    for part, share in ((kept, fraction), (rest, 1 - fraction)):
        assert part.mean() == pytest.approx(share * rate, rel=0.01)
        assert part.var() == pytest.approx(share * rate, rel=0.02)
    assert abs(np.corrcoef(kept, rest)[0, 1]) < 0.01, "copies of one image would correlate"


def test_anscombe_evens_the_variance():
    rng = np.random.default_rng(0)
    for rate in (5, 20, 500):
        assert anscombe(rng.poisson(rate, 100_000)).var() == pytest.approx(1, abs=0.03)


def test_the_inverse_is_unbiased_where_the_algebraic_one_is_not():
    rates = np.array([0.5, 1, 2, 5, 20, 100])
    counts = np.arange(400)
    mean = (stats.poisson.pmf(counts, rates[:, None]) * anscombe(counts)).sum(axis=1)
    np.testing.assert_allclose(inverse_anscombe(mean), rates, atol=0.025)
    assert (rates - ((mean / 2) ** 2 - 0.375))[2:].min() > 0.2, "the plain inverse is too low"


def test_the_inverse_of_nothing_is_nothing():
    assert inverse_anscombe(np.array([-1.0, 0.0, 1.2])).tolist() == [0, 0, 0]
    values = torch.tensor([0.0, 5.0, 50.0])
    np.testing.assert_allclose(
        inverse_anscombe(values), inverse_anscombe(values.numpy()), rtol=1e-5
    )


@pytest.mark.parametrize("method", ["nll", "deviance"])
@pytest.mark.parametrize(
    ("rate", "counts", "message"),
    [
        ([1.0, 2.0], [1], r"rate is \(2,\) but counts are \(1,\)"),
        ([-1.0], [1], "negative values or NaN among the rate"),
        ([np.nan], [1], "negative values or NaN among the rate"),
        ([1.0], [-1], "negative values or NaN among the counts"),
    ],
)
def test_impossible_amounts_are_named(method, rate, counts, message):
    with pytest.raises(ValueError, match=message):
        getattr(Poisson(), method)(np.array(rate), np.array(counts))


@pytest.mark.parametrize(
    ("counts", "fraction", "message"),
    [
        ([1.5], 0.5, "not whole numbers: thinning needs the counts"),
        ([-1], 0.5, "negative values or NaN among"),
        ([np.nan], 0.5, "negative values or NaN"),
        ([1], 0.0, "fraction is 0.0"),
        ([1], 1.0, "fraction is 1.0"),
    ],
)
def test_only_counts_can_be_thinned(counts, fraction, message):
    with pytest.raises(ValueError, match=message):
        thin(np.array(counts), fraction, np.random.default_rng(0))


@pytest.mark.parametrize("draw", [Poisson().sample, lambda x, rng: thin(x, 0.5, rng)])
def test_the_generator_must_fit_the_array(draw):
    with pytest.raises(TypeError, match="for a Tensor: give a torch.Generator"):
        draw(torch.ones(2), np.random.default_rng(0))
    with pytest.raises(TypeError, match="for a ndarray: give a numpy.random.Generator"):
        draw(np.ones(2), torch.Generator())


def test_reductions_are_named():
    with pytest.raises(ValueError, match="reduction is 'total': use one of sum, mean, none"):
        Poisson().nll(RATE, COUNTS, reduction="total")
