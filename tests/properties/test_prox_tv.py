"""What must hold for the total-variation prox of every image, whatever its shape and values."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.operators import Gradient
from helpers.tv import prox_tv, tv

kinds = st.sampled_from(["isotropic", "anisotropic"])
weights = st.floats(1e-3, 2)
numbers = st.floats(-3, 3).map(lambda v: round(v, 3))


def images(n=1, least=1):
    """`n` images of one shape."""
    shapes = st.tuples(st.just(n), st.integers(least, 6), st.integers(least, 6))
    return shapes.flatmap(lambda shape: arrays(float, shape, elements=numbers))


def prox(y, weight, kind, n_iter=400, **box):
    return prox_tv(y, weight, n_iter=n_iter, kind=kind, **box)


@given(images(least=2), weights, kinds)
def test_moreau(y, weight, kind):
    """``y - prox(y)`` is the projection of y on the dual set: ``<y - x, x> = weight TV(x)``."""
    y = y[0]
    result = prox(y, weight, kind, lower=None)
    x, rest = result.x, y - result.x
    np.testing.assert_allclose(rest, weight * Gradient(y.shape).adjoint(result.dual), atol=1e-12)
    slack = weight * tv(x, kind) - (rest * x).sum()
    assert -1e-9 <= slack <= result.gap + 1e-9
    assert result.gap <= 1e-3 * (1 + np.square(y).sum())
    # No image is raised more by the rest than its total variation allows.
    other = np.random.default_rng(0).standard_normal(y.shape)
    bound = weight * tv(other, kind) + 1e-9
    assert (rest * other).sum() <= bound  # always: the rest is in the dual set


@given(images(2), weights, kinds, st.booleans())
def test_firm_non_expansiveness(pair, weight, kind, boxed):
    box = {"lower": 0.0, "upper": 1.0} if boxed else {"lower": None}
    result = prox(pair, weight, kind, **box)
    moved, given_move = result.x[1] - result.x[0], pair[1] - pair[0]
    # Each image is known to sqrt(gap): the exact inequality is loosened by as much.
    error = 2 * np.sqrt(result.gap.max()) * (2 * np.linalg.norm(moved) + np.linalg.norm(given_move))
    assert np.square(moved).sum() <= (moved * given_move).sum() + error + 1e-9


@given(images(), weights, kinds, st.floats(-5, 5))
def test_a_constant_moves_along(y, weight, kind, constant):
    still, moved = (prox(a, weight, kind, n_iter=40, lower=None).x for a in (y, y + constant))
    np.testing.assert_allclose(moved, still + constant, atol=1e-9)


@given(images(), weights, kinds, st.sampled_from([0.1, 3.0, 100.0]))
def test_units_do_not_matter(y, weight, kind, unit):
    one, other = prox(y, weight, kind, 40), prox(unit * y, unit * weight, kind, 40)
    np.testing.assert_allclose(other.x, unit * one.x, atol=1e-9 * unit)
    np.testing.assert_allclose(other.gap, unit**2 * one.gap, atol=1e-9 * unit**2)


@given(images(), weights, kinds)
def test_rows_and_columns_are_alike(y, weight, kind):
    straight = prox(y, weight, kind, 40).x
    across = prox(y.swapaxes(-1, -2), weight, kind, 40).x
    np.testing.assert_allclose(across.swapaxes(-1, -2), straight, atol=1e-12)


@given(images(), weights, st.sampled_from([-1, -2]))
def test_the_anisotropic_prox_of_a_mirror_image_is_the_mirrored_prox(y, weight, axis):
    straight = prox(y, weight, "anisotropic", 40).x
    mirrored = prox(np.flip(y, axis), weight, "anisotropic", 40).x
    np.testing.assert_allclose(np.flip(mirrored, axis), straight, atol=1e-12)


@given(images(), weights, kinds)
def test_the_mean_is_kept_and_the_range_is_not_left(y, weight, kind):
    x = prox(y, weight, kind, 40, lower=None).x
    assert abs(x.mean() - y.mean()) < 1e-12
    exact = prox(y, weight, kind, lower=None)
    room = np.sqrt(exact.gap.max())
    assert y.min() - room - 1e-9 <= exact.x.min() and exact.x.max() <= y.max() + room + 1e-9


@given(images(), st.lists(weights, min_size=2, max_size=2).map(sorted), kinds)
def test_a_larger_weight_leaves_less_variation(y, pair, kind):
    less, more = (prox(y, w, kind, lower=None) for w in pair)
    room = (less.gap + more.gap) / max(pair[1] - pair[0], 1e-9)
    assert (tv(more.x, kind) <= tv(less.x, kind) + room + 1e-9).all()


@given(images(), weights, kinds, st.integers(1, 30), st.sampled_from(["gp", "fgp"]))
def test_the_gap_is_never_negative_and_bounds_the_distance(y, weight, kind, n_iter, method):
    exact = prox(y, weight, kind)
    early = prox_tv(y, weight, n_iter=n_iter, kind=kind, method=method)
    assert (early.gap >= 0).all()
    distance = np.linalg.norm((early.x - exact.x)[0])
    # A gap is a difference of energies: below their rounding it is no longer seen.
    unseen = np.sqrt(np.finfo(float).eps) * np.linalg.norm(y[0])
    assert distance <= np.sqrt(early.gap[0]) + np.sqrt(exact.gap[0]) + 2 * unseen + 1e-12
