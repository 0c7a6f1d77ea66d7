"""Total variation and its proximal map: a convex solver, the duality gap, bad input."""

import cvxpy
import numpy as np
import pytest
import torch

from helpers import datasets
from helpers.fusion._simulate import twin_dysco3
from helpers.tv import ProxTV, prox_tv, tv

KINDS = ("isotropic", "anisotropic")


def image(shape=(24, 20), seed=0):
    """Two flat regions with noise, in [0, 1] and a little beyond."""
    rng = np.random.default_rng(seed)
    flat = np.zeros(shape)
    flat[..., shape[-2] // 3 :, shape[-1] // 4 : -2] = 0.8
    return flat + 0.2 * rng.standard_normal(shape)


def convex_solver(y, weight, kind, lower, upper):
    """Give the proximal point of an image or a volume by an interior-point method."""
    x = cvxpy.Variable(y.size)
    index = np.arange(y.size).reshape(y.shape)
    differences = []
    for axis in range(y.ndim):
        head = np.take(index, range(y.shape[axis] - 1), axis)
        tail = np.take(index, range(1, y.shape[axis]), axis)
        # The far edge has no difference: a pixel minus itself keeps the vectors of one length.
        pad = [(0, int(a == axis)) for a in range(y.ndim)]
        head, tail = (np.pad(part, pad, constant_values=0) for part in (head, tail))
        differences.append(x[tail.ravel()] - x[head.ravel()])
    order = 2 if kind == "isotropic" else 1
    roughness = cvxpy.sum(cvxpy.norm(cvxpy.vstack(differences), order, axis=0))
    box = [x >= lower] * (lower is not None) + [x <= upper] * (upper is not None)
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(x - y.ravel()) / 2 + weight * roughness), box
    )
    tight = {f"tol_{name}": 1e-11 for name in ("gap_abs", "gap_rel", "feas")}
    problem.solve(solver=cvxpy.CLARABEL, **tight)
    return x.value.reshape(y.shape)


def objective(x, y, weight, kind="isotropic"):
    return 0.5 * np.square(x - y).sum() + weight * tv(x, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.15, 0.022])
def test_an_independent_solver_finds_the_same_image(kind, weight):
    y = image()
    result = prox_tv(y, weight, n_iter=6000, kind=kind, upper=0.6)
    exact = convex_solver(y, weight, kind, 0.0, 0.6)
    assert (exact < 1e-6).any() and (exact > 0.6 - 1e-6).any(), "both sides of the box must bind"
    assert abs(result.x - exact).max() <= 1e-6


@pytest.mark.parametrize(("lower", "upper"), [(None, None), (0.0, None), (None, 0.6)])
def test_every_box_against_the_independent_solver(lower, upper):
    y = image((12, 10))
    result = prox_tv(y, 0.1, n_iter=4000, lower=lower, upper=upper)
    exact = convex_solver(y, 0.1, "isotropic", lower, upper)
    assert abs(result.x - exact).max() <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_against_the_independent_solver(kind):
    y = image((5, 6, 4))
    result = prox_tv(y, 0.08, n_iter=4000, kind=kind, spatial_dims=3)
    assert abs(result.x - convex_solver(y, 0.08, kind, 0.0, None)).max() <= 1e-6


def test_clipping_the_free_solution_is_another_image():
    y = image()
    boxed = prox_tv(y, 0.15, n_iter=3000, upper=0.6).x
    free = prox_tv(y, 0.15, n_iter=3000, lower=None).x
    assert abs(np.clip(free, 0, 0.6) - boxed).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_both_methods_go_to_the_same_image_and_momentum_is_faster(kind):
    y = image((9, 8))
    long = {m: prox_tv(y, 0.05, n_iter=8000, kind=kind, method=m) for m in ("gp", "fgp")}
    assert abs(long["gp"].x - long["fgp"].x).max() < 1e-6
    y = image()
    short = {m: prox_tv(y, 0.15, n_iter=60, kind=kind, method=m).gap for m in ("gp", "fgp")}
    assert short["fgp"] / short["gp"] < 0.3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fgp", "gp"])
def test_the_gap_bounds_the_excess_and_the_squared_distance(kind, method):
    y, weight = image(), 0.15
    best = prox_tv(y, weight, n_iter=5000, kind=kind).x
    lowest = objective(best, y, weight, kind)
    for n_iter in (0, 1, 3, 10, 40, 160):
        result = prox_tv(y, weight, n_iter=n_iter, kind=kind, method=method)
        excess = objective(result.x, y, weight, kind) - lowest
        assert 0 < excess <= result.gap  # always: weak duality
        near = np.square(result.x - best).sum() / 2
        assert excess + near <= result.gap * (1 + 1e-9)  # always: strong convexity


def measured():
    """The measured Dy map, where it is on this machine."""
    if datasets.find("dysco3") is None:
        pytest.skip("the measured DyScO3 map is not here: set HELPERS_DATA_DIR")
    return datasets.load("dysco3").arrays


@pytest.mark.parametrize("source", [measured, twin_dysco3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_hundred_sweeps_reach_a_gap_of_one_in_a_hundred_thousand(source, dtype):
    dy = source()["Dy"]
    y = ((dy - dy.min()) / np.ptp(dy)).astype(dtype)
    result = prox_tv(y, 0.022, n_iter=100)
    print(f"{source.__name__}: {result.gap / objective(result.x, y, 0.022):.2e}")
    assert 0 <= result.gap <= 1e-5 * objective(result.x, y, 0.022)


def test_total_variation_of_the_measured_map():
    dy = measured()["Dy"]
    y = (dy - dy.min()) / np.ptp(dy)
    assert tv(y) == pytest.approx(8592.54, abs=0.01)
    assert tv(y, "anisotropic") == pytest.approx(11042.2, abs=0.1)


def test_a_wide_image_is_the_transpose_of_a_tall_one():
    y = image((64, 128))
    wide, tall = (prox_tv(a, 0.1, n_iter=200).x for a in (y, y.T))
    assert abs(wide - tall.T).max() <= 1e-12


def test_total_variation_of_a_ramp_is_exact():
    ramp = np.tile(np.arange(8.0), (8, 1))
    for kind in KINDS:
        assert tv(ramp, kind) == tv(ramp.T, kind) == tv(ramp.astype(int), kind) == 56
    diagonal = ramp + ramp.T
    assert tv(diagonal, "anisotropic") == 112
    assert tv(diagonal) == pytest.approx(49 * np.sqrt(2) + 14)


def test_total_variation_of_volumes_and_batches():
    x = np.random.default_rng(0).random((3, 4, 5))
    assert tv(x).shape == (3,)
    np.testing.assert_allclose(tv(x), [tv(plane) for plane in x])
    d = [np.diff(x, axis=a, append=np.take(x, [-1], a)) for a in range(3)]
    assert tv(x, spatial_dims=3) == pytest.approx(np.sqrt(sum(np.square(d))).sum())
    assert tv(x, "anisotropic", spatial_dims=3) == pytest.approx(np.abs(d).sum())


def test_total_variation_can_be_differentiated_where_it_is_flat():
    x = torch.zeros(4, 4, requires_grad=True)
    tv(x).backward()
    assert not x.grad.any() and isinstance(tv(x), torch.Tensor)


def test_a_warm_start_continues_and_a_changed_weight_is_welcome():
    y = image()
    once = prox_tv(y, 0.1, n_iter=60)
    again = prox_tv(y, 0.1, n_iter=20, warm_start=once)
    cold = prox_tv(y, 0.1, n_iter=20)
    assert again.gap < once.gap < cold.gap
    same = prox_tv(y, 0.1, n_iter=0, warm_start=once)
    assert abs(same.x - once.x).max() < 1e-15 and same.gap == pytest.approx(once.gap)
    by_dual = prox_tv(y, 0.1, n_iter=20, warm_start=once.dual)
    np.testing.assert_array_equal(by_dual.x, again.x)
    smoother = prox_tv(y, 0.12, n_iter=20, warm_start=once)
    assert smoother.gap < prox_tv(y, 0.12, n_iter=20).gap


def test_a_warm_start_beyond_the_edge_does_no_harm():
    y = image()
    dual = np.ones((2, *y.shape))
    exact = prox_tv(y, 0.1, n_iter=3000).x
    assert abs(prox_tv(y, 0.1, n_iter=3000, warm_start=dual).x - exact).max() < 1e-6
    for n_iter in (0, 3):
        v, h = prox_tv(y, 0.1, n_iter=n_iter, warm_start=dual).dual
        assert not v[-1].any() and not h[:, -1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_dual_field_is_feasible_and_belongs_to_the_image(kind):
    y, weight = image(), 0.15
    result = prox_tv(y, weight, n_iter=7, kind=kind)
    length = np.sqrt(np.square(result.dual).sum(0)) if kind == "isotropic" else abs(result.dual)
    assert length.max() <= 1 + 1e-12
    v, h = result.dual
    v, h = np.pad(v, ((1, 0), (0, 0))), np.pad(h, ((0, 0), (1, 0)))
    divergence = np.diff(v, axis=0) + np.diff(h, axis=1)
    np.testing.assert_allclose(result.x, np.maximum(y + weight * divergence, 0), atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_images_one_by_one(kind):
    y = np.stack([image(seed=s) for s in range(6)]).reshape(2, 3, 24, 20)
    weights = np.linspace(0.01, 0.2, 6).reshape(2, 3)
    together = prox_tv(y, weights, n_iter=30, kind=kind)
    assert together.gap.shape == (2, 3) and together.dual.shape == (2, 2, 3, 24, 20)
    for i in np.ndindex(2, 3):
        alone = prox_tv(y[i], weights[i], n_iter=30, kind=kind)
        np.testing.assert_array_equal(together.x[i], alone.x)
        assert together.gap[i] == pytest.approx(alone.gap)


def test_a_tolerance_stops_early_and_is_kept():
    y = image()
    result = prox_tv(y, 0.1, n_iter=5000, tol=1e-5)
    assert result.converged and result.n_iter < 1000 and result.n_iter % 10 == 0
    assert result.gap <= 1e-5 * objective(result.x, y, 0.1)  # always: it stops there
    short = prox_tv(y, 0.1, n_iter=7, tol=1e-12)
    assert not short.converged and short.n_iter == 7
    assert not prox_tv(y, 0.1, n_iter=2).converged and prox_tv(y, 0.1, n_iter=400).converged
    batch = prox_tv(np.stack([y, np.zeros_like(y)]), 0.1, n_iter=2)
    assert not batch.converged, "one flat image does not make the other converge"


@pytest.mark.parametrize("kind", KINDS)
def test_weight_zero_only_clips(kind):
    y = image()
    result = prox_tv(y, 0.0, upper=0.6, kind=kind)
    np.testing.assert_array_equal(result.x, y.clip(0, 0.6))
    assert result.gap == 0 and result.converged and not result.dual.any()


def test_a_large_weight_gives_the_mean():
    y = image() + 1
    np.testing.assert_allclose(prox_tv(y, 1e3, n_iter=4000).x, y.mean(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (1, 1), (2, 3)])
def test_rows_columns_and_pixels(kind, shape):
    y = np.random.default_rng(0).random(shape)
    result = prox_tv(y, 0.1, n_iter=3000, kind=kind)
    assert result.x.shape == shape
    if min(shape) == 1 < max(shape):
        line = prox_tv(y.ravel(), 0.1, n_iter=3000, spatial_dims=1).x
        np.testing.assert_allclose(result.x.ravel(), line, atol=1e-6)
        np.testing.assert_allclose(
            line, convex_solver(y.ravel(), 0.1, "anisotropic", 0.0, None), atol=1e-6
        )
    if shape == (1, 1):
        np.testing.assert_array_equal(result.x, y)


def test_the_kind_and_the_precision_are_kept():
    y = image()
    exact = prox_tv(y, 0.1).x
    for dtype in ("float32", "float64"):
        result = prox_tv(torch.tensor(y, dtype=getattr(torch, dtype)), 0.1)
        for part in (result.x, result.dual, result.gap):
            assert isinstance(part, torch.Tensor) and str(part.dtype) == f"torch.{dtype}"
        assert prox_tv(y.astype(dtype), 0.1).x.dtype == dtype
    np.testing.assert_allclose(prox_tv(y.astype("f4"), 0.1).x, exact, atol=1e-6)
    assert type(prox_tv(y, 0.1).gap) is float and type(prox_tv(y, 0.1)) is ProxTV


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint16", "bool", ">f8"])
def test_other_types_are_taken(dtype):
    y = (image() * 5).clip(0).astype(dtype)
    result = prox_tv(y, 0.5).x
    assert result.dtype == ("float64" if dtype == ">f8" else "float32")
    np.testing.assert_allclose(result, prox_tv(y.astype(float), 0.5).x, atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", ["transposed", "strided", "backwards", "read-only", "list"])
def test_every_memory_layout_is_taken_and_left_alone(layout):
    y = image()
    given = {
        "transposed": np.ascontiguousarray(y.T).T,
        "strided": np.repeat(np.repeat(y, 2, 0), 3, 1)[::2, ::3],
        "backwards": y[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": y.copy(),
        "list": y.tolist(),
    }[layout]
    if layout == "read-only":
        given.flags.writeable = False
    np.testing.assert_array_equal(prox_tv(given, 0.1).x, prox_tv(y, 0.1).x)
    np.testing.assert_array_equal(given, y)


def test_a_tensor_that_is_being_learnt_is_taken_as_a_value():
    y = torch.tensor(image(), requires_grad=True)
    assert not prox_tv(y, 0.1).x.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.array([[0, np.nan]])}, "y has NaN or infinite values: mask or fill them"),
        ({"y": np.array([[0, np.inf]])}, "y has NaN or infinite values"),
        ({"y": np.zeros((0, 4))}, r"shape \(0, 4\): there are no pixels"),
        ({"y": np.zeros(4)}, r"shape \(4,\), but spatial_dims is 2"),
        ({"weight": -0.1}, "weight is -0.1.*: it must be finite and at least 0"),
        ({"weight": np.nan}, "weight is nan: it must be finite"),
        ({"weight": [0.1, 0.1]}, r"weight has shape \(2,\): give one number"),
        ({"kind": "tikhonov"}, "kind is 'tikhonov': use 'isotropic' or 'anisotropic'"),
        ({"method": "newton"}, "method is 'newton': use 'fgp' or 'gp'"),
        ({"lower": 1.0, "upper": 0.5}, "the box is empty: lower is 1.0 and upper is 0.5"),
        ({"upper": np.nan}, "the box is empty"),
        ({"n_iter": -1}, "n_iter is -1: it must be a whole number"),
        ({"n_iter": 2.5}, "n_iter is 2.5"),
        (
            {"warm_start": np.zeros((2, 3, 3))},
            r"warm_start has shape \(2, 3, 3\), expected \(2, 2,",
        ),
        ({"warm_start": np.full((2, 2, 2), np.nan)}, "warm_start has NaN"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"y": np.ones((2, 2)), "weight": 0.1} | change
    with pytest.raises(ValueError, match=message):
        prox_tv(**arguments)


def test_total_variation_names_bad_input():
    with pytest.raises(ValueError, match="kind is 'l2'"):
        tv(np.ones((2, 2)), "l2")
    with pytest.raises(ValueError, match="spatial_dims is 3"):
        tv(np.ones((2, 2)), spatial_dims=3)
    with pytest.raises(ValueError, match="no pixels"):
        tv(np.ones((2, 0)))
