"""Linear operators: the gradient, its adjoint and norm, and the test of adjoints itself."""

import math

import numpy as np
import pytest
import torch

from helpers.operators import Gradient, check_adjoint, operator_norm

SHAPES = [((7,), 1), ((1, 8), 2), ((8, 1), 2), ((2, 5, 1, 3), 3), ((2, 3, 4, 6, 5), 3)]


def test_the_gradient_is_the_forward_difference_and_zero_at_the_far_edge():
    x = np.random.default_rng(0).random((3, 5, 4))
    g = Gradient(x.shape, 2)(x)
    np.testing.assert_array_equal(g[0, :, :-1], np.diff(x, axis=1))
    np.testing.assert_array_equal(g[1, :, :, :-1], np.diff(x, axis=2))
    assert not g[0, :, -1].any() and not g[1, :, :, -1].any()


@pytest.mark.parametrize(("shape", "dims"), SHAPES)
def test_the_adjoint_is_exact_also_for_thin_images(shape, dims):
    assert check_adjoint(Gradient(shape, dims)) < 1e-14


def test_a_single_pixel_has_no_gradient():
    op = Gradient((1, 1))
    assert not op(torch.ones(1, 1)).any() and not op.adjoint(torch.ones(2, 1, 1)).any()


def test_the_adjoint_ignores_what_lies_beyond_the_edge():
    op = Gradient((4, 3))
    beyond = np.zeros(op.out_shape)
    beyond[0, -1], beyond[1, :, -1] = 7, 7
    assert not op.adjoint(beyond).any()


@pytest.mark.parametrize("n", [2, 5, 16])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_norm_is_that_of_the_cosine_transform(n, dims):
    op = Gradient((n,) * dims, dims)
    exact = 2 * math.sqrt(dims) * math.cos(math.pi / (2 * n))
    assert operator_norm(op, n_iter=400) == pytest.approx(exact, rel=1e-3)
    assert exact**2 < op.norm_squared_bound == 4 * dims


def test_kinds_are_kept():
    op = Gradient((4, 3))
    assert isinstance(op(np.ones((4, 3))), np.ndarray)
    assert isinstance(op.adjoint(torch.ones(2, 4, 3)), torch.Tensor)
    assert (
        op(np.ones((4, 3), "float32")).dtype == op.adjoint(np.ones((2, 4, 3), "f4")).dtype == "f4"
    )


def test_the_gradient_can_be_differentiated():
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Gradient((4, 3)), x)


class Shift:
    """One pixel to the right, the last one lost; its adjoint goes `back` pixels to the left."""

    in_shape = out_shape = (9,)

    def __init__(self, back):
        self.back = back

    def __call__(self, x):
        return torch.cat([torch.zeros_like(x[:1]), x[:-1]])

    def adjoint(self, y):
        return torch.cat([y[self.back :], torch.zeros_like(y[: self.back])])


def usual(op, **kw):
    """What `check_adjoint` says of an operator of few values, the median of many draws."""
    return float(np.median([check_adjoint(op, seed=seed, **kw) for seed in range(40)]))


def test_a_wrong_adjoint_is_found():
    assert check_adjoint(Shift(1)) < 1e-15
    assert usual(Shift(2)) > 1e-2
    assert check_adjoint(Shift(1), dtype="complex128") < 1e-15


def test_an_adjoint_that_forgets_to_conjugate_is_found():
    class Phase(Shift):
        def __call__(self, x):
            return 1j * x

        def adjoint(self, y):
            return self.back * 1j * y

    assert check_adjoint(Phase(-1), dtype="complex128") < 1e-15
    assert usual(Phase(1), dtype="complex128") > 1e-2


def test_an_operator_that_lies_about_its_shape_is_named():
    op = Gradient((4, 3))
    op.out_shape = (2, 3, 4)
    op.__class__ = type("Liar", (Gradient,), {"__call__": lambda self, x: Gradient((4, 3))(x)})
    with pytest.raises(ValueError, match=r"op\(x\) has shape \(2, 4, 3\), but out_shape is"):
        check_adjoint(op)


@pytest.mark.parametrize("dims", [0, 3])
def test_the_space_must_fit_the_shape(dims):
    with pytest.raises(ValueError, match=rf"spatial_dims is {dims}, but the shape is \(4, 3\)"):
        Gradient((4, 3), dims)
