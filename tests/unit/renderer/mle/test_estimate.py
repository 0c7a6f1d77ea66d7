"""Fits against the information limit, on spots that SciPy drew; every refusal."""

import numpy as np
import pytest
import torch
from scipy.stats import gamma, norm, poisson

from helpers.noise import EMCCD, SCMOS, Poisson, PoissonGauss
from helpers.renderer.mle import crlb, fit, levenberg
from helpers.renderer.mle import initial as starts
from helpers.renderer.mle.cpu import dispatch as compiled
from helpers.renderer.mle.cpu import likelihood
from helpers.renderer.mle.goodness import deviance_moments, moment_table
from helpers.renderer.renderers import Gaussian2D, Gaussian3D, Template
from helpers.renderer.renderers.base import Renderer
from helpers.renderer.simulate import gaussian_spots
from helpers.renderer.simulate.spots import astigmatic_spots

SPOT = Gaussian2D((13, 13))
LIGHT = [(200, 2), (500, 10), (1000, 10), (5000, 10), (20000, 50)]


class LeastSquares:
    """The loss of a fit that takes every pixel for equally sure."""

    variance = 1.0

    def score(self, rate, counts):
        return (rate - counts) / self.variance

    def information(self, rate):
        return torch.full_like(rate, 1 / self.variance)

    def deviance(self, rate, counts, *, reduction="sum"):
        return (rate - counts) ** 2 / self.variance


@pytest.fixture
def in_torch(monkeypatch):
    """The loop that serves every renderer, also where there is a compiled one."""
    monkeypatch.setattr(compiled, "serves", lambda problem: False)


def limits_reached(spots, fits, bound, names=("x", "y")):
    """What a good estimate does, for every name: a dict of four numbers by name."""
    found = {}
    for name in names:
        error = fits.params[name] - spots.truth[name]
        z = error / fits.crlb_std[name]
        found[name] = {
            "ratio": np.sqrt(np.mean(error**2) / np.mean(bound[name] ** 2)),
            "bias": abs(error.mean()) / bound[name].mean() * np.sqrt(len(error)),
            "z": z.std(),
            "coverage": np.mean(abs(z) < 1.96),
        }
    return found


def check_limits(found, most=1.05):
    for name, values in found.items():
        assert 0.95 < values["ratio"] < most, (name, values)
        assert values["bias"] < 5, (name, values)
        assert 0.95 < values["z"] < 1.05, (name, values)
        assert 0.935 < values["coverage"] < 0.965, (name, values)


@pytest.mark.parametrize(("photons", "background"), LIGHT)
def test_positions_reach_the_cramer_rao_bound(photons, background):
    spots = gaussian_spots(5000, photons=photons, background=background, seed=2000 + photons % 97)
    fits = fit(spots.images, SPOT, Poisson())
    bound = crlb(SPOT, spots.truth, Poisson())
    assert fits.converged.all()
    found = limits_reached(spots, fits, bound)
    check_limits(found)
    every = limits_reached(spots, fits, bound, spots.truth)
    assert all(0.94 < values["ratio"] < 1.08 for values in every.values()), every


def test_least_squares_does_not_reach_it():
    spots = gaussian_spots(2500, photons=5000, background=10, seed=2001)
    fits = fit(spots.images, SPOT, LeastSquares(), tol=1.0)
    found = limits_reached(spots, fits, crlb(SPOT, spots.truth, Poisson()))
    assert found["x"]["ratio"] > 1.1 and found["y"]["ratio"] > 1.1
    assert found["x"]["coverage"] < 0.9


def test_elliptical_and_astigmatic_spots_reach_it_too():
    widths = {"sigma_x": (1.0, 1.3), "sigma_y": (1.5, 2.0)}
    spots = gaussian_spots(2000, (15, 17), photons=(1000, 4000), sigma=widths, seed=2002)
    elliptical = Gaussian2D((15, 17), elliptical=True)
    fits = fit(spots.images, elliptical, Poisson())
    bound = crlb(elliptical, spots.truth, Poisson())
    found = limits_reached(spots, fits, bound, spots.truth)
    assert all(0.93 < values["ratio"] < 1.08 for values in found.values()), found
    spots = astigmatic_spots(2000, (15, 15), seed=2003)
    deep = Gaussian3D((15, 15))
    fits = fit(spots.images, deep, Poisson())
    bound = crlb(deep, spots.truth, Poisson())
    found = limits_reached(spots, fits, bound, spots.truth)
    assert all(0.93 < values["ratio"] < 1.08 for values in found.values()), found
    assert np.mean(abs(fits.params["z"] - spots.truth["z"]) > 0.3) < 0.01


def test_the_bound_of_a_gaussian_on_white_noise():
    """std(x) = sigma_n / (A sqrt(pi / 2)) for a well sampled Gaussian of peak A."""
    width, peak = 3.0, 200.0
    noise = LeastSquares()
    noise.variance = 25.0
    truth = {"sigma": width, "photons": 2 * np.pi * width**2 * peak, "background": 0.0}
    bound = crlb(Gaussian2D((41, 41)), truth, noise)
    assert bound["x"][0] == pytest.approx(5 / (peak * np.sqrt(np.pi / 2)), rel=0.01)


class ByAutograd(Gaussian2D):
    jacobian = Renderer.jacobian


def test_the_bound_by_forward_differentiation_is_the_analytic_one():
    truth = {"x": [0.3, -1.2], "y": [1.1, 0.2], "photons": [300.0, 4000.0], "background": 7.0}
    truth |= {"sigma_x": 1.2, "sigma_y": 1.7}
    closed = crlb(Gaussian2D((13, 11), elliptical=True), truth, Poisson())
    traced = crlb(ByAutograd((13, 11), elliptical=True), truth, Poisson())
    for name, value in closed.items():
        np.testing.assert_allclose(value, traced[name], rtol=1e-8)


def test_what_is_known_lowers_the_bound():
    truth = {"photons": 1000.0, "background": 10.0}
    free, known = crlb(SPOT, truth, Poisson()), crlb(SPOT, truth, Poisson(), fixed=["sigma"])
    assert "sigma" not in known
    assert known["photons"][0] < 0.95 * free["photons"][0]
    both = {name: torch.tensor([[1.0, 2.0]]) for name in ("x", "y")}
    several = crlb(SPOT, both | {"photons": torch.tensor([[500.0, 900.0]])}, Poisson())
    assert several["x"].shape == (1, 2) and several["background"].shape == (1,)


def problem(n=4, noise=None, dtype=torch.float64):
    spots = gaussian_spots(n, photons=800, seed=2004)
    y = torch.as_tensor(spots.images, dtype=dtype)
    names = list(SPOT.params)
    theta = torch.stack([torch.as_tensor(spots.truth[k], dtype=dtype) for k in names], 1) * 1.05
    low, high = torch.tensor([[-6.0, -6, 1, 0.1, 0.3], [6, 6, 1e6, 1e4, 9]], dtype=dtype)
    free = [(name, None) for name in names]
    return levenberg.Problem(
        y, torch.ones_like(y), SPOT, noise or Poisson(), free, {}, low, high
    ), theta


@pytest.mark.parametrize("noise", [Poisson(), SCMOS(4.0), PoissonGauss(4.0)])
def test_the_gradient_is_that_of_the_likelihood(noise):
    fits, theta = problem(noise=noise)
    theta.requires_grad_()
    nll = noise.nll(SPOT.render(fits.params(theta)), fits.images)
    (wanted,) = torch.autograd.grad(nll, theta)
    _, gradient, _ = fits.evaluate(theta.detach())
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("engine", [levenberg, compiled])
def test_the_deviance_never_rises(engine):
    fits, theta = problem(100)
    theta = theta + torch.tensor([1.5, -1.5, 300.0, 8.0, 1.0])  # far off, so that steps are refused
    ends = [engine.minimize(fits, theta, k, 1e-6) for k in (*range(9), 20)]
    deviance = torch.stack([end.deviance for end in ends])
    assert (deviance.diff(dim=0) <= 1e-9).all()
    first, _, _ = fits.evaluate(theta)
    torch.testing.assert_close(deviance[0], first)
    assert (ends[-1].deviance < first).all() and ends[-1].converged.float().mean() > 0.9
    last, _, information = fits.evaluate(ends[-1].theta)
    torch.testing.assert_close(ends[-1].deviance, last)
    bound = levenberg.standard_deviations(information)
    torch.testing.assert_close(ends[-1].bound, bound, rtol=1e-6, atol=0)
    assert (ends[-1].n_iter > 6).any()


def test_some_steps_are_refused():
    """Else the test above could not fail."""
    fits, theta = problem(100)
    theta = theta + torch.tensor([1.5, -1.5, 300.0, 8.0, 1.0])
    found = [levenberg.minimize(fits, theta, k, 1e-6).deviance for k in (1, 2)]
    assert (found[0] == fits.evaluate(theta)[0]).any() or (found[1] == found[0]).any()


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_the_result_does_not_depend_on_the_batch(engine, monkeypatch):
    if engine == "torch":
        monkeypatch.setattr(compiled, "serves", lambda problem: False)
    images = gaussian_spots(100, photons=(200, 3000), seed=2005).images.astype(np.float64)
    whole = fit(images, SPOT, Poisson())
    order = np.random.default_rng(2006).permutation(len(images))
    pieces = fit(images[order], SPOT, Poisson(), chunk=7)
    alone = fit(images[:1], SPOT, Poisson())
    for name, value in whole.params.items():
        np.testing.assert_allclose(pieces.params[name], value[order], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(pieces.crlb_std[name], whole.crlb_std[name][order], rtol=1e-5)
        np.testing.assert_allclose(alone.params[name], value[:1], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(pieces.n_iter, whole.n_iter[order])


CASES = {
    "round": (SPOT, Poisson(), {}),
    "elliptical": (Gaussian2D((13, 13), elliptical=True), Poisson(), {}),
    "width known": (SPOT, Poisson(), {"fixed": {"sigma": 1.3}}),
    "astigmatic": (Gaussian3D((13, 13), cubic=0.1, quartic=(0.05, 0.1)), Poisson(), {}),
    "read noise": (SPOT, SCMOS(np.linspace(0.5, 30, 169).reshape(13, 13)), {}),
    "mask": (SPOT, Poisson(), {"mask": np.arange(169).reshape(13, 13) % 11 > 0}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_compiled_loop_gives_what_the_torch_loop_gives(case, monkeypatch):
    renderer, noise, options = CASES[case]
    images = gaussian_spots(60, photons=(300, 3000), seed=2007).images.astype(np.float64)
    fast = fit(images, renderer, noise, tol=1e-5, **options)
    monkeypatch.setattr(compiled, "serves", lambda problem: False)
    slow = fit(images, renderer, noise, tol=1e-5, **options)
    assert fast.converged.all() and slow.converged.all()
    for name, value in slow.params.items():
        np.testing.assert_allclose(fast.params[name], value, rtol=1e-6, atol=1e-6)
    for name, value in slow.crlb_std.items():
        np.testing.assert_allclose(fast.crlb_std[name], value, rtol=1e-5)
    np.testing.assert_allclose(fast.deviance, slow.deviance, rtol=1e-9)
    np.testing.assert_allclose(fast.goodness, slow.goodness, atol=1e-4)
    np.testing.assert_array_equal(fast.n_pixels, slow.n_pixels)


@pytest.fixture(params=["compiled", "torch"])
def either(request, monkeypatch):
    """Both loops, one after the other."""
    if request.param == "torch":
        monkeypatch.setattr(compiled, "serves", lambda problem: False)


@pytest.mark.usefixtures("either")
def test_the_last_step_is_taken():
    """So a fit ends much closer to the maximum than its tolerance."""
    images = gaussian_spots(300, photons=(1000, 5000), seed=2030).images.astype(np.float64)
    exact, rough = (fit(images, SPOT, Poisson(), tol=t) for t in (1e-6, 0.3))
    assert rough.n_iter.mean() < exact.n_iter.mean() - 1
    for name in SPOT.params:
        off = (rough.params[name] - exact.params[name]) / exact.crlb_std[name]
        assert np.sqrt(np.mean(off**2)) < 0.03, name


@pytest.mark.usefixtures("either")
def test_a_parameter_at_its_limit_lets_the_others_go_on():
    """Images darker than any background: the best one is the least that is allowed."""
    images = gaussian_spots(100, photons=2000, background=0, seed=2031).images.astype(np.float64)
    free = fit(images, SPOT, Poisson(), tol=1e-4)
    least = free.params["background"].min()
    held = free.params["background"] == least
    assert held.mean() > 0.3 and free.converged.mean() > 0.9
    known = fit(images, SPOT, Poisson(), tol=1e-4, fixed={"background": least})
    for name in ("x", "y", "photons", "sigma"):
        off = (free.params[name] - known.params[name])[held] / known.crlb_std[name][held]
        assert abs(off).max() < 1e-3, name


@pytest.mark.usefixtures("either")
def test_fewer_pixels_than_parameters_say_nothing():
    mask = np.zeros((13, 13), bool)
    mask[6, 5:8] = True
    images = gaussian_spots(20, seed=2032).images
    for kind in (np.float32, np.float64):
        fits = fit(images.astype(kind), SPOT, Poisson(), mask=mask)
        assert all(np.isnan(value).all() for value in fits.params.values())
        assert all(np.isinf(value).all() for value in fits.crlb_std.values())
        assert not fits.converged.any()


def test_compiled_starts_are_those_of_torch():
    counts = gaussian_spots(200, photons=(300, 3000), seed=2008).images
    apart = np.random.default_rng(2008).uniform(0, 0.01, counts.shape)  # equal sums: two maxima
    images = torch.as_tensor(counts + apart).double()
    use = (torch.arange(169).reshape(1, 13, 13) % 7 > 0).double().expand_as(images)
    unknown = torch.full((200,), torch.nan, dtype=torch.float64)
    here = starts._measure(images, use, unknown)
    there = starts._measure_compiled(images, use, unknown)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b)


def test_single_precision_on_any_device_reaches_the_bound(in_torch):
    """What a graphics card runs: float32, in batches."""
    spots = gaussian_spots(1500, photons=2000, seed=2009)
    fits = fit(spots.images, SPOT, Poisson())
    assert fits.converged.all() and fits.params["x"].dtype == np.float32
    found = limits_reached(spots, fits, crlb(SPOT, spots.truth, Poisson()))
    assert all(0.92 < values["ratio"] < 1.08 for values in found.values()), found


@pytest.mark.parametrize("noise", [PoissonGauss(9.0), EMCCD(200.0, 2500.0)])
def test_any_noise_model_serves(noise):
    rng = np.random.default_rng(2010)
    small = Gaussian2D((9, 9))
    truth = gaussian_spots(80, (9, 9), photons=2000, seed=2011).truth
    images = noise.sample(small.render(truth), rng).astype(np.float32)
    fits = fit(images, small, noise)
    bound = crlb(small, truth, noise)
    error = np.concatenate([(fits.params[k] - truth[k]) / bound[k] for k in ("x", "y")])
    assert 0.8 < np.sqrt(np.mean(error**2)) < 1.2 and fits.converged.all()
    assert bound["x"][0] > 1.02 * crlb(small, truth, Poisson())["x"][0]


def test_a_map_of_read_noise_helps_and_may_differ_from_image_to_image():
    rng = np.random.default_rng(2012)
    camera = rng.lognormal(2, 1.5, (64, 64)).clip(0, 500)
    corner = rng.integers(0, 64 - 13, (1000, 2))
    variance = np.stack([camera[a : a + 13, b : b + 13] for a, b in corner])
    spots = gaussian_spots(1000, photons=1000, background=10, seed=2013)
    noisy = spots.images + np.sqrt(variance) * rng.standard_normal(variance.shape)
    aware = fit(noisy, SPOT, SCMOS(variance), chunk=300)
    naive = fit(noisy, SPOT, SCMOS(variance.mean()))
    rmse = [np.sqrt(np.mean((f.params["x"] - spots.truth["x"]) ** 2)) for f in (aware, naive)]
    bound = crlb(SPOT, spots.truth, SCMOS(variance))["x"]
    assert rmse[0] < 1.12 * np.sqrt(np.mean(bound**2)) and rmse[1] > 1.03 * rmse[0]


def test_the_deviance_of_noise_alone_is_known():
    for rate in (0.1, 2.0, 30.0, 5000.0):
        counts = np.random.default_rng(2014).poisson(rate, 200_000)
        each = Poisson().deviance(np.full(counts.shape, rate), counts, reduction="none")
        mean, variance = deviance_moments(Poisson(), torch.tensor([rate]))
        assert float(mean) == pytest.approx(each.mean(), rel=0.02)
        assert float(variance) == pytest.approx(each.var(), rel=0.05)
    assert moment_table()[0, 0] < 0.02


@pytest.mark.parametrize(("photons", "background"), [(300, 0.3), (1000, 10)])
def test_goodness_of_fit_knows_one_spot_from_two(photons, background):
    spots = gaussian_spots(3000, photons=photons, background=background, seed=2015)
    good = fit(spots.images, SPOT, Poisson(), fixed={"sigma": 1.3}).goodness
    # for few photons the spread is given too large, never too small
    assert abs(good.mean()) < 0.1 and 0.8 < good.std() < 1.1 and np.mean(good > 4) < 0.005
    other = gaussian_spots(3000, photons=photons, background=0, scatter=3.5, seed=2016)
    apart = np.hypot(*(spots.truth[k] - other.truth[k] for k in ("x", "y"))) > 3
    both = fit(spots.images + other.images, SPOT, Poisson(), fixed={"sigma": 1.3})
    assert np.mean(both.goodness[apart] > 4) > 0.9


def test_two_emitters_are_fitted_together():
    rng = np.random.default_rng(2017)
    n = 400
    truth = {
        "x": np.stack([rng.uniform(-3, -1, n), rng.uniform(1, 3, n)], 1),
        "y": rng.uniform(-2, 2, (n, 2)),
        "photons": rng.uniform(800, 2000, (n, 2)),
        "background": np.full(n, 5.0),
    }
    images = rng.poisson(SPOT.render(truth | {"sigma": 1.3})).astype(np.float64)
    start = {name: truth[name] + 0.3 for name in ("x", "y")} | {"photons": truth["photons"] * 0.8}
    fits = fit(images, SPOT, Poisson(), start, fixed={"sigma": 1.3})
    assert fits.params["x"].shape == (n, 2) and fits.params["background"].shape == (n,)
    bound = crlb(SPOT, truth | {"sigma": 1.3}, Poisson(), fixed=["sigma"])
    for name in ("x", "y", "photons"):
        z = (fits.params[name] - truth[name]) / bound[name]
        assert 0.9 < np.sqrt(np.mean(z**2)) < 1.1, name
    for name, value in fits.crlb_std.items():
        np.testing.assert_allclose(value, bound[name], rtol=0.5)


def test_a_learned_template_is_fitted_as_well():
    """A renderer without a compiled image and with another closed form."""
    y, x = np.mgrid[-10:11, -10:11] / 2
    renderer = Template((13, 13), np.exp(-(x**2 + y**2) / (2 * 1.3**2)))
    truth = {"x": np.array([0.4, -1.1]), "y": np.array([0.0, 0.7]), "photons": 2000.0}
    images = renderer.render(truth | {"background": 5.0})
    fits = fit(images.astype(np.float64), renderer, Poisson())
    np.testing.assert_allclose(fits.params["x"], truth["x"], atol=0.01)
    np.testing.assert_allclose(fits.params["y"], truth["y"], atol=0.01)


def test_saturated_pixels_are_left_out_and_counted():
    spots = gaussian_spots(500, photons=5000, background=10, seed=2018)
    full = float(np.quantile(spots.images.max((1, 2)), 0.3)) * 0.7
    clipped = np.minimum(spots.images, full)
    masked = fit(clipped, SPOT, Poisson(), saturation=full)
    fooled = fit(clipped, SPOT, Poisson())
    assert (masked.n_pixels < 169).mean() > 0.9 and (masked.n_pixels > 150).all()
    np.testing.assert_array_equal(masked.n_pixels, (clipped < full).sum((1, 2)))
    assert abs(np.median(masked.params["sigma"]) - 1.3) < 0.02
    assert np.median(fooled.params["sigma"]) > 1.35
    assert np.median(fooled.goodness) > 1.5 > np.median(abs(masked.goodness))
    same = fit(clipped, SPOT, Poisson(), mask=clipped < full)
    np.testing.assert_array_equal(same.params["x"], masked.params["x"])


def test_an_empty_batch_has_an_empty_answer():
    for renderer in (SPOT, Gaussian3D((13, 13)), Template((13, 13))):
        fits = fit(np.zeros((0, 13, 13), np.float32), renderer, Poisson())
        assert set(fits.params) == set(renderer.params) == set(fits.crlb_std)
        assert all(value.shape == (0,) for value in fits.params.values())
        assert fits.converged.shape == fits.deviance.shape == (0,)


def test_an_image_without_light_or_without_pixels_does_no_harm():
    images = np.stack([np.zeros((13, 13)), np.full((13, 13), 7.0), np.ones((13, 13))])
    images = np.concatenate([images, gaussian_spots(1, seed=2019).images])
    use = np.ones(images.shape, bool)
    use[2] = False
    fits = fit(images, SPOT, Poisson(), mask=use)
    for value in fits.params.values():
        np.testing.assert_array_equal(np.isfinite(value), [True, True, False, True])
    assert np.isinf(fits.crlb_std["x"][2]) and fits.n_pixels[2] == 0
    assert fits.converged.tolist() == [False, False, False, True]
    assert np.isfinite(fits.crlb_std["x"][3])


def test_tensors_come_back_as_tensors_and_nothing_is_changed():
    images = torch.as_tensor(gaussian_spots(3, seed=2020).images)
    before, renderer = images.clone(), Gaussian3D((13, 13))
    fits = fit(images, renderer, Poisson())
    assert all(torch.is_tensor(value) for value in fits.params.values())
    assert torch.equal(images, before) and next(renderer.parameters()).dtype == torch.float32
    whole = fit(images.to(torch.int64), SPOT, Poisson())
    np.testing.assert_allclose(whole.params["x"], fit(images, SPOT, Poisson()).params["x"])


REFUSED = {
    "NaN": ({"images": np.full((2, 13, 13), np.nan)}, "2 of 2 images hold NaN"),
    "shape": ({"images": np.ones((2, 12, 13))}, r"\(2, 12, 13\) but the renderer makes"),
    "one image": ({"images": np.ones((13, 13))}, "one image too has B = 1"),
    "negative": ({"images": -np.ones((2, 13, 13))}, "negative values"),
    "mask": ({"mask": np.ones((13, 12), bool)}, r"mask is \(13, 12\)"),
    "name": ({"fixed": {"width": 1.0}}, "`fixed` has width"),
    "start name": ({"start": {"z": 1.0}}, "`start` has z"),
    "nothing": ({"fixed": dict.fromkeys(SPOT.params, 1.0)}, "every parameter is fixed"),
    "outside": ({"start": {"x": 20.0}}, "leaves -6.5 .. 6.5"),
    "start NaN": ({"start": {"photons": np.nan}}, "photons in `start`"),
    "count": ({"start": {"x": np.zeros(5)}}, "each of the 2 images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_is_refused(case):
    changed, message = REFUSED[case]
    arguments = {"images": np.ones((2, 13, 13))} | changed
    with pytest.raises(ValueError, match=message):
        fit(arguments.pop("images"), SPOT, Poisson(), **arguments)


@pytest.mark.parametrize(
    ("renderer", "noise", "error", "message"),
    [
        (SPOT, Poisson, TypeError, r"the class Poisson: give an instance, such as Poisson\(\)"),
        (SPOT, "poisson", TypeError, r"'poisson': give a model .* SCMOS\(variance\)"),
        (Gaussian2D, Poisson(), TypeError, "the class Gaussian2D: give an instance"),
        (
            SPOT,
            SCMOS(np.ones((12, 13))),
            ValueError,
            r"map of \(12, 13\) but images are",
        ),
    ],
)
def test_instances_and_maps_that_fit_are_wanted(renderer, noise, error, message):
    with pytest.raises(error, match=message):
        fit(np.ones((2, 13, 13)), renderer, noise)


def test_two_emitters_at_one_place_do_no_harm():
    """Their information is singular: more damping, and no exception."""
    images = np.random.default_rng(2021).poisson(0.3, (40, 13, 13)).astype(np.float32)
    corner = np.full((40, 2), 6.4)
    start = {"x": corner, "y": corner, "photons": np.full((40, 2), 1.0), "background": 0.3}
    fits = fit(images, SPOT, Poisson(), start, fixed={"sigma": 1.3})
    assert all(np.isfinite(value).all() for value in fits.params.values())
    assert not fits.converged.all()


def test_a_bound_needs_names_that_exist():
    with pytest.raises(ValueError, match="width cannot be fixed"):
        crlb(SPOT, {}, Poisson(), fixed=["width"])
    with pytest.raises(ValueError, match="every parameter is fixed"):
        crlb(SPOT, {}, Poisson(), fixed=list(SPOT.params))


def test_old_names_work_and_say_the_new_ones():
    images = gaussian_spots(3, seed=2022).images
    new = fit(images, SPOT, Poisson(), tol=1e-3)
    with pytest.warns(DeprecationWarning, match="tolerance is now tol"):
        old = fit(images, SPOT, Poisson(), tolerance=1e-3)
    np.testing.assert_array_equal(old.params["x"], new.params["x"])
    with pytest.warns(DeprecationWarning, match="crlb is now crlb_std"):
        assert old.crlb is old.crlb_std


# --- cameras with read noise or multiplication: beside the torch loop, the bound, sums by SciPy

EDGE = np.linspace(0.1, 20, 169).reshape(13, 13) ** 2  # from a good sCMOS pixel to a hot one
CAMERAS = {
    "hardly any read noise": PoissonGauss(0.01),
    "read noise": PoissonGauss(4.0),
    "read noise of 20": PoissonGauss(400.0),
    "map": PoissonGauss(EDGE),
    "only multiplied": EMCCD(300.0),
    "multiplied": EMCCD(200.0, 50.0**2),
    "hardly multiplied": EMCCD(20.0, 200.0**2),
}
ALIKE = [name for name in CAMERAS if name != "map"]  # cameras of which all pixels are alike


def weighed(noise, rate, counts):
    """Negative log-likelihood of all, scores and information of each, by the compiled code."""
    camera, n = compiled.camera_of(noise), counts.size
    drawn, mask, weights = np.full((1, n), float(rate)), np.ones(n), np.empty((2, n))
    if camera.kind == likelihood.MIXTURE:
        variance, rows = np.full(n, float(noise.variance)), np.empty(n)
        likelihood.rows_of(variance, camera.information, rows)
        tables = camera.factorials, camera.information, rows
        return likelihood.mixture(drawn, counts, variance, mask, *tables, weights), *weights
    column, taps = np.empty(n, np.int64), np.empty((4, n))
    blocks = camera.n_near, len(camera.electrons)
    likelihood.place_counts(counts, camera.spread, *blocks, column, taps)
    tables = camera.electrons, column, taps, camera.information
    return likelihood.multiplied(drawn, counts, camera.spread, mask, *tables, weights), *weights


def by_electrons(noise, rate, counts):
    """The same two sums over numbers of electrons: log-likelihood and score of each count."""
    k = np.arange(1, int(rate + 12 * np.sqrt(rate) + 40))
    none, some = np.exp(-rate), poisson.pmf(k, rate)
    if isinstance(noise, PoissonGauss):
        sigma = np.sqrt(noise.variance)
        each = norm.pdf(counts[:, None], k, sigma)
        dark = norm.pdf(counts, 0, sigma)
    elif noise.variance == 0:
        each, dark = gamma.pdf(counts[:, None], k), np.zeros(len(counts))
    else:  # trapezoids over what the read noise was added to
        sigma = np.sqrt(noise.variance) / noise.gain
        t = np.arange(0, counts.max() + 9 * sigma, min(sigma, 0.2) / 10)
        weights = np.full(len(t), t[1])
        weights[0] /= 2
        each = (norm.pdf(counts[:, None], t, sigma) * weights) @ gamma.pdf(t[:, None], k)
        dark = norm.pdf(counts, 0, sigma)
    total = none * dark + each @ some
    return np.log(total), 1 - each @ (some * k) / rate / total


@pytest.mark.parametrize("rate", [0.02, 0.6, 3.0, 25.0, 200.0])
@pytest.mark.parametrize("case", ALIKE)
def test_scores_are_those_of_sums_over_the_electrons(case, rate):
    noise = CAMERAS[case]
    multiplied = isinstance(noise, EMCCD)
    read = noise.variance / noise.gain**2 if multiplied else noise.variance
    width = np.sqrt((1 + multiplied) * rate + read)
    counts = rate + width * np.linspace(-3, 4, 15)
    counts = np.maximum(counts, -6 * np.sqrt(read) if read else rate / 20)  # nothing impossible
    value, score, information = weighed(noise, rate, counts)
    log_p, wanted = by_electrons(noise, rate, counts)
    off = abs(score - wanted) / np.sqrt(information)  # in standard deviations of a score
    assert off.max() < 5e-3
    other = weighed(noise, rate * 1.1, counts)[0]
    change = by_electrons(noise, rate * 1.1, counts)[0] - log_p
    assert other - value == pytest.approx(-change.sum(), abs=5e-3)


@pytest.mark.parametrize("case", ALIKE)
def test_information_is_that_of_the_noise_model(case):
    noise = CAMERAS[case]
    for rate in np.geomspace(0.01, 3000, 23):
        wanted = noise.information(torch.tensor(rate, dtype=torch.float64)[None])
        information = weighed(noise, rate, np.ones(1))[2][0]
        assert information == pytest.approx(wanted.item(), rel=1e-3)


def images_of(noise, n, seed):
    truth = gaussian_spots(n, photons=1000, background=10, seed=seed).truth
    return noise.sample(SPOT.render(truth), np.random.default_rng(seed)), truth


@pytest.mark.parametrize("case", CAMERAS)
def test_the_compiled_cameras_give_what_the_torch_loop_gives(case, monkeypatch):
    noise = CAMERAS[case]
    images, _ = images_of(noise, 5, seed=2060)
    mask = np.arange(169).reshape(13, 13) % 11 > 0
    fast = fit(images, SPOT, noise, tol=1e-4, mask=mask)
    monkeypatch.setattr(compiled, "serves", lambda problem: False)
    slow = fit(images, SPOT, noise, tol=1e-4, mask=mask)
    assert fast.converged.all() and slow.converged.all()
    for name, value in slow.params.items():
        assert (abs(fast.params[name] - value) < 5e-3 * slow.crlb_std[name]).all(), name
        np.testing.assert_allclose(fast.crlb_std[name], slow.crlb_std[name], rtol=2e-3)
    np.testing.assert_allclose(fast.deviance, slow.deviance, rtol=1e-4)
    np.testing.assert_allclose(fast.goodness, slow.goodness, atol=2e-3)


def test_a_map_for_each_image_is_served(monkeypatch):
    variance = np.random.default_rng(2061).lognormal(1, 1, (8, 13, 13))
    noise = PoissonGauss(variance)
    images, _ = images_of(noise, 8, seed=2062)
    fast = fit(images, SPOT, noise, tol=1e-4, chunk=3)
    monkeypatch.setattr(compiled, "serves", lambda problem: False)
    slow = fit(images, SPOT, noise, tol=1e-4)
    for name, value in slow.params.items():
        assert (abs(fast.params[name] - value) < 1e-3 * slow.crlb_std[name]).all(), name


@pytest.mark.parametrize("case", CAMERAS)
def test_every_camera_reaches_the_bound(case):
    noise = CAMERAS[case]
    images, truth = images_of(noise, 4000, seed=2063)
    fits, bound = fit(images, SPOT, noise), crlb(SPOT, truth, noise)
    error = np.concatenate([(fits.params[k] - truth[k]) / bound[k] for k in ("x", "y")])
    assert np.sqrt(np.mean(error**2)) < 1.05 and fits.converged.mean() > 0.999


def test_bright_pixels_lie_beyond_every_table():
    """More light than tables and sums hold: the fit still is at the bound."""
    truth = gaussian_spots(300, photons=2e6, background=100, seed=2064).truth
    for noise in (PoissonGauss(9.0), EMCCD(200.0, 2500.0)):
        images = noise.sample(SPOT.render(truth), np.random.default_rng(2064))
        fits, bound = fit(images, SPOT, noise), crlb(SPOT, truth, noise)
        error = np.concatenate([(fits.params[k] - truth[k]) / bound[k] for k in ("x", "y")])
        assert 0.85 < np.sqrt(np.mean(error**2)) < 1.15, type(noise).__name__
