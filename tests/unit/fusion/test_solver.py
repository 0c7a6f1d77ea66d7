"""Fusion: the cost it minimises, where both solvers go, and how a run ends."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from helpers.fusion import element_weights, fuse, normalize
from helpers.fusion._simulate import twin_dysco3
from helpers.fusion.backends.steps import TorchSteps, WavefrontSteps
from helpers.tv import prox_tv, tv
from tests.unit.fusion.equation import KINDS, NUMBERS, SOLVERS, array, cost, gradient, scene


def each(value, n_elements, dtype=torch.float32):
    """A setting of `Steps`: one number for each element."""
    return torch.full((n_elements,), value, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_reported_terms_are_those_of_the_equation(kind, solver, dtype):
    haadf, maps = scene()
    kw = {"gamma": 1.8, "lambda_haadf": 0.4, "lambda_chem": 0.1, "lambda_tv": 0.07}
    kw |= {"background": 0.3, "kind": kind}
    weights = [0.5, 1.9, 0.3]
    result = fuse(
        haadf, maps, NUMBERS[:3], weights=weights, solver=solver, dtype=dtype, n_iter=8, **kw
    )
    for k, x in ((0, maps), (-1, result.maps)):
        reported = [result.cost[name][k] for name in ("haadf", "chem", "tv")]
        np.testing.assert_allclose(
            reported,
            cost(x, haadf, maps, weights, **kw),
            rtol=2e-6 if dtype == "float32" else 1e-11,
        )
    np.testing.assert_array_equal(
        result.cost.total, result.cost.haadf + result.cost.chem + result.cost.tv
    )
    modelled = np.tensordot(weights, array(result.maps).astype(float) ** 1.8, 1)
    np.testing.assert_allclose(result.haadf, modelled, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 1.6, 2.3])
def test_the_gradient_against_finite_differences(gamma):
    haadf, maps = (torch.tensor(a) for a in scene(2, (5, 4)))
    weights = torch.tensor([0.7, 1.3], dtype=torch.float64)
    flat = each(0.0, 2, torch.float64), each(0.24, 2, torch.float64)
    steps = TorchSteps(maps, haadf, weights, gamma, 0.5, 0.08, *flat, "isotropic")
    x = torch.rand(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    found, h = steps._gradient(x)[0].clone(), 1e-6
    for i in np.ndindex(*x.shape):
        up, down = x.clone(), x.clone()
        up[i], down[i] = x[i] + h, x[i] - h
        slope = (sum(steps.evaluate(up, up)[0]) - sum(steps.evaluate(down, down)[0])) / (2 * h)
        assert float(found[i]) == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("steps_class", [TorchSteps, WavefrontSteps])
def test_the_sums_that_measure_the_curvature(steps_class):
    """The two scalars of a step and of a cost: (x-z)^2, and the slopes at both ends."""
    haadf, maps = (a.astype("float32") for a in scene())
    w = element_weights(NUMBERS[:3])
    steps = steps_class(
        *(torch.tensor(a, dtype=torch.float32) for a in (maps, haadf, w)),
        1.6, 1 / 3, 0.08, each(0.15, 3), each(0.24, 3), "isotropic",
    )  # fmt: skip
    z = torch.tensor(maps)
    x, square, along = steps.prox_gradient(z, 0.3, 4, warm=False)
    moved = (x - z).numpy().astype(float)
    assert square == pytest.approx((moved**2).sum(), rel=1e-5)
    assert along == pytest.approx(
        (moved * gradient(maps.astype(float), haadf, maps, w)).sum(), rel=1e-4
    )
    terms, along_x = steps.evaluate(x, z)
    expected = (moved * gradient(x.numpy().astype(float), haadf, maps, w)).sum()
    assert along_x == pytest.approx(expected, rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(terms, cost(x, haadf, maps, w), rtol=1e-6)


@pytest.mark.parametrize("x", [0.01, 0.3, 1.0, 4.0])
def test_the_first_curvature_bounds_the_true_one(x):
    haadf, maps = scene(2, (6, 5))
    w, start = element_weights(NUMBERS[:2]), np.full((2, 6, 5), x)
    tensors = (torch.tensor(a) for a in (maps, haadf, w))
    same = each(0.1, 2, torch.float64), each(0.24, 2, torch.float64)
    steps = TorchSteps(*tensors, 1.6, 0.5, 0.08, *same, "isotropic")
    bound = steps.curvature_bound(torch.tensor(start))
    h, rng = 1e-5, np.random.default_rng(0)
    for _ in range(20):
        d = rng.standard_normal(start.shape)
        slopes = [gradient(start + s * h * d, haadf * 0, maps, w) for s in (1, -1)]
        # Where the model is too dark its term is concave: the bound is on the positive curvature,
        # and without that term's residual. A black HAADF makes the residual part positive.
        curvature = (d * (slopes[0] - slopes[1])).sum() / (2 * h) / (d**2).sum()
        residual = 0.5 * 1.6 * 0.6 * (w * x ** (-0.4)).max() * (w.sum() * x**1.6)
        assert curvature <= bound + residual


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_total_cost_never_rises(crystal, kind, dtype):
    for kw in (crystal.settings, {"lambda_chem": 2.0, "lambda_tv": 0.01, "background": 0.02}):
        result = fuse(
            crystal.haadf, crystal.maps, crystal.numbers,
            **{**kw, "n_iter": 60, "kind": kind, "dtype": dtype},
        )  # fmt: skip
        assert (np.diff(result.cost.total) <= 0).all()
        assert result.cost.total[-1] < result.cost.total[0]


def test_the_minimiser_is_stationary(crystal):
    """A proximal gradient step, with an exact projection, no longer moves the maps."""
    maps = array(crystal.maps)[:, :30, :24]
    haadf = crystal.haadf[:30, :24]
    step, w = 0.1, element_weights(list(crystal.numbers))

    def moved(n_iter):
        result = fuse(
            haadf,
            maps,
            list(crystal.numbers),
            dtype="float64",
            **{**crystal.settings, "n_iter": n_iter},
        )
        y = result.maps - step * gradient(result.maps, haadf, maps, w)
        return abs(prox_tv(y, step * 0.15, n_iter=3000).x - result.maps).max()

    assert moved(800) < 1e-4 < 0.1 * moved(10)


def test_the_minimum_does_not_depend_on_the_start_or_the_sweeps(crystal):
    def lowest(**change):
        kw = {**crystal.settings, "n_iter": 300, **change}
        return fuse(crystal.haadf, crystal.maps, crystal.numbers, **kw).cost.total[-1]

    flat = {e: np.full_like(m, m.mean()) for e, m in crystal.maps.items()}
    totals = [lowest(), lowest(start=flat), lowest(n_iter_tv=10)]
    assert max(totals) - min(totals) <= 2e-4 * abs(min(totals))


def test_the_tutorial_depends_on_its_sweeps_and_lies_higher(crystal):
    def total(solver, n):
        kw = {**crystal.settings, "n_iter_tv": n, "solver": solver, "n_iter": 100}
        return fuse(crystal.haadf, crystal.maps, crystal.numbers, **kw).cost.total[-1]

    assert total("tutorial", 3) > 1.02 * total("accelerated", 3)
    assert abs(total("tutorial", 3) - total("tutorial", 1)) > 0.005 * total("tutorial", 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tutorial_is_the_published_iteration(kind):
    """A unit step on both data terms, then the exact TV projection of every map."""
    haadf, maps = scene(3, (9, 8))
    w = 21 / (95 / 3), 66 / (95 / 3), 8 / (95 / 3)
    x = maps
    for _ in range(3):
        y = x - gradient(x, haadf, maps, w)
        x = np.stack([prox_tv(m, 0.15, n_iter=2000, kind=kind).x for m in y])
    result = fuse(
        haadf,
        maps,
        NUMBERS[:3],
        solver="tutorial",
        n_iter=3,
        n_iter_tv=2000,
        kind=kind,
        dtype="float64",
    )
    np.testing.assert_allclose(result.maps, x, atol=1e-5)


def test_every_sweep_of_the_tutorial_starts_anew():
    haadf, maps = scene()
    one, two = (fuse(haadf, maps, NUMBERS[:3], solver="tutorial", n_iter=n) for n in (1, 2))
    again = fuse(haadf, maps, NUMBERS[:3], solver="tutorial", n_iter=1, start=one.maps)
    np.testing.assert_array_equal(again.maps, two.maps)


@pytest.mark.parametrize(
    ("name", "kind", "most", "n_iter"),
    [
        ("dysco3", "isotropic", 7209.6, 150),
        ("core_shell", "isotropic", 322.7, 150),
        ("dysco3", "anisotropic", 7247.3, 200),
        ("core_shell", "anisotropic", 330.0, 300),
    ],
)
def test_the_minimiser_on_the_measured_data(measured, name, kind, most, n_iter):
    data = measured(name)
    start = data.start if name == "core_shell" else None
    kw = {**data.settings, "kind": kind, "start": start}
    result = fuse(data.haadf, data.maps, data.numbers, n_iter=n_iter, **kw)
    weights = element_weights(list(data.numbers.values()))
    total = sum(cost(array(result.maps), data.haadf, array(data.maps), weights, **kw))
    print(f"{name}, {kind}: {total:.2f} in {result.n_iter} iterations, at most {most}")
    assert total <= most
    assert result.cost.total[-1] == pytest.approx(total, rel=1e-6)
    assert (np.diff(result.cost.total) <= 0).all()


def test_total_variation_alone_is_the_prox_of_nothing():
    haadf, maps = scene()
    kw = {"lambda_haadf": 0, "lambda_chem": 0, "lambda_tv": 10.0, "n_iter": 1}
    result = fuse(
        haadf, maps, NUMBERS[:3], solver="tutorial", n_iter_tv=3000, dtype="float64", **kw
    )
    expected = np.broadcast_to(maps.mean(axis=(1, 2), keepdims=True), maps.shape)
    np.testing.assert_allclose(result.maps, expected, atol=1e-3)


def test_without_total_variation_and_haadf_the_maps_explain_the_counts():
    """The Poisson term alone has its minimum at maps - background."""
    haadf, maps = scene()
    result = fuse(
        haadf, maps, NUMBERS[:3], lambda_haadf=0, lambda_tv=0, n_iter=400, dtype="float64"
    )
    np.testing.assert_allclose(result.maps, np.maximum(maps - 0.24, 0), atol=1e-3)


def test_smoothing_is_what_the_total_variation_does(crystal):
    def roughness(weight):
        kw = {**crystal.settings, "lambda_tv": weight}
        return tv(array(fuse(crystal.haadf, crystal.maps, crystal.numbers, **kw).maps)).sum()

    assert roughness(0.5) < roughness(0.1) < roughness(0.0)


def test_the_callback_sees_every_iteration():
    haadf, maps = scene()
    seen = []
    result = fuse(
        haadf, maps, NUMBERS[:3], n_iter=5,
        callback=lambda k, x, c: seen.append((k, tuple(x.shape), len(c.total), c.total[-1])),
    )  # fmt: skip
    assert [s[:3] for s in seen] == [(k, (3, 40, 31), k + 1) for k in range(1, 6)]
    assert [s[3] for s in seen] == result.cost.total[1:].tolist() and result.n_iter == 5


def test_an_interrupt_gives_the_estimate_so_far():
    haadf, maps = scene()

    def stop(k, x, c):
        if k == 4:
            raise KeyboardInterrupt

    result = fuse(haadf, maps, NUMBERS[:3], n_iter=30, callback=stop)
    expected = fuse(haadf, maps, NUMBERS[:3], n_iter=4)
    assert result.n_iter == 4 and not result.converged and len(result.cost.total) == 5
    np.testing.assert_array_equal(result.maps, expected.maps)
    batch = fuse(haadf, np.stack([maps, maps, maps]), NUMBERS[:3], n_iter=30, callback=stop)
    assert batch.n_iter.tolist() == [4, 0, 0] and not batch.converged.any()
    np.testing.assert_array_equal(batch.maps[0], expected.maps)
    np.testing.assert_allclose(batch.maps[2], maps, rtol=1e-6)


@pytest.mark.parametrize("backend", ["wavefront", "torch"])
def test_an_interrupt_of_the_first_step_gives_a_copy_of_the_start(monkeypatch, backend):
    haadf, maps = (a.astype("float32") for a in scene())

    def stop(*args, **kw):
        raise KeyboardInterrupt

    for steps_class in (TorchSteps, WavefrontSteps):
        monkeypatch.setattr(steps_class, "prox_gradient", stop)
    result = fuse(haadf, maps, NUMBERS[:3], backend=backend)
    assert result.n_iter == 0 and len(result.cost.total) == 1
    np.testing.assert_array_equal(result.maps, maps)
    assert not np.shares_memory(result.maps, maps)


def test_an_error_in_the_callback_is_not_swallowed():
    haadf, maps = scene()
    with pytest.raises(ZeroDivisionError):
        fuse(haadf, maps, NUMBERS[:3], callback=lambda k, x, c: 1 / 0)


def test_a_tolerance_ends_the_run(crystal):
    loose, tight = (
        fuse(crystal.haadf, crystal.maps, crystal.numbers, n_iter=500, tol=tol, **crystal.settings)
        for tol in (1e-2, 1e-5)
    )
    assert loose.converged and tight.converged and 10 <= loose.n_iter < tight.n_iter < 500
    for run, tol in ((loose, 1e-2), (tight, 1e-5)):
        total = run.cost.total
        change = abs(total[10:] - total[:-10]) / abs(total[:-10])
        assert change[-1] <= tol and (change[:-1] > tol).all()  # always: there it ends
    short = fuse(
        crystal.haadf, crystal.maps, crystal.numbers, n_iter=3, tol=1e-2, **crystal.settings
    )
    assert not short.converged and short.n_iter == 3
    again = fuse(
        crystal.haadf,
        crystal.maps,
        crystal.numbers,
        start=tight.maps,
        tol=1e-2,
        **crystal.settings,
    )
    assert again.converged and again.n_iter == 10, "ten iterations are looked at, even from there"


def test_a_step_that_is_too_long_is_an_error_and_not_a_nan():
    haadf, maps = scene()
    with pytest.raises(FloatingPointError, match="cost became .* at iteration 2: .*accelerated"):
        fuse(haadf * 1e8, maps * 1e8, NUMBERS[:3], solver="tutorial", gamma=3)


def test_settings_hold_everything():
    haadf, maps = scene()
    chosen = {
        "gamma": 1.7, "lambda_haadf": 0.3, "lambda_chem": 0.1, "lambda_tv": 0.2, "background": 0.1,
        "n_iter": 2, "n_iter_tv": 4, "kind": "anisotropic", "solver": "tutorial", "tol": 1e-4,
        "weights": [1.0, 2.0, 3.0], "dtype": "float64", "backend": "torch",
    }  # fmt: skip
    settings = fuse(haadf, maps, NUMBERS[:3], start=maps, device="cpu", **chosen).settings
    assert {key: settings[key] for key in chosen} == chosen
    assert settings["start"] == "given" and settings["device"] == "cpu"
    assert settings["atomic_numbers"] == [21, 66, 8] and settings["elements"] is None


@pytest.mark.parametrize("origin", ["measured", "twin"])
def test_the_call_without_settings_keeps_every_lattice(measured, origin):
    """It erased two of three: r of Sc and O with their smoothed measured maps was 0.12 and 0.01."""
    if origin == "measured":
        data = measured("dysco3")
        haadf, maps = data.haadf, data.maps
    else:
        arrays = twin_dysco3()
        haadf, maps = normalize(arrays.pop("HAADF"), arrays)
    result = fuse(haadf, maps)
    assert result.converged
    for element, image in maps.items():
        smooth = gaussian_filter(image, 1.5)
        assert np.corrcoef(smooth.ravel(), result.maps[element].ravel())[0, 1] > 0.75
        assert result.maps[element].std() > 0.3 * smooth.std()
