"""Every operator of the package: linear, with an exact adjoint that autograd finds, too."""

from __future__ import annotations

import inspect
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.inr.diffraction import Born, Microscope, ring, spiral
from helpers.inr.lightfield import LightField, Optics, psf
from helpers.inr.tomography import ParallelBeam
from helpers.operators import Gradient, check_adjoint
from helpers.renderer.deconvolve import Blur
from helpers.renderer.renderers import Convolution
from helpers.xray import CoarseCamera
from tests.doors import faces

OPTICS = Microscope()
SEEDS = st.integers(0, 2**16)
# random kernels are no point images, and the package says so
pytestmark = pytest.mark.filterwarnings("ignore:the point image has flaws")


def sides(n, low=2, high=9):
    return st.tuples(*[st.integers(low, high)] * n)


@st.composite
def gradients(draw):
    shape = draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    return Gradient(shape, draw(st.integers(1, min(3, len(shape)))))


@st.composite
def blurs(draw):
    n = draw(st.integers(2, 3))
    field, periodic = draw(sides(n)), draw(st.booleans())
    size = draw(st.tuples(*[st.integers(1, m if periodic else 12) for m in field]))
    margin = 0 if periodic else draw(st.tuples(*[st.integers(0, 3)] * n))
    kernel = np.random.default_rng(draw(SEEDS)).random(size)
    return Blur(kernel / kernel.sum(), field, margin=margin, periodic=periodic)


@st.composite
def convolutions(draw):
    """The blur of a renderer, which takes and gives a batch."""
    kernel = np.random.default_rng(draw(SEEDS)).random(draw(sides(2, 2, 6)))
    return Convolution(draw(sides(2, 6, 10)), kernel, margin=draw(st.integers(0, 3))).blur


@st.composite
def beams(draw):
    angles = draw(st.lists(st.floats(-180, 180), min_size=1, max_size=5))
    op = ParallelBeam(angles, draw(sides(3)), draw(st.none() | st.integers(3, 9)))
    return draw(st.sampled_from([op, op.select([len(angles) - 1])]))


@st.composite
def light_fields(draw):
    """Also what a fit makes of one: some views, a block, a coarser grid."""
    rng = np.random.default_rng(draw(SEEDS))
    h = rng.random((draw(st.integers(1, 3)), draw(st.integers(1, 3)), *draw(sides(2, 4, 9))))
    op = LightField(h, draw(sides(2, 4)), draw(st.none() | sides(2, 4)))
    change = draw(st.sampled_from(["none", "select", "block"]))
    return {
        "none": lambda: op,
        "select": lambda: op.select([0]),
        "block": lambda: op.block((4, 4)),
    }[change]()


@st.composite
def born(draw):
    leds = draw(st.sampled_from([spiral(3, 0.6), ring(4, 0.5)]))
    op = Born(OPTICS, leds, (draw(st.integers(2, 4)), *draw(sides(2, 14, 18))))
    return op.select(draw(st.sampled_from([slice(None), [0, 2]])))


@st.composite
def coarse_cameras(draw):
    """Any ratio of the pixels, whole or not, any blur and gain."""
    scale = draw(st.sampled_from([2, 2.5, 2.92, 3, 4, 5, 8]))
    side = draw(sides(2, 2, 5))
    camera = CoarseCamera(draw(st.floats(0, 4)), scale, gain=draw(st.floats(0.5, 2)), offset=0.1)
    return camera.on(tuple(math.ceil(n * scale) for n in side))


OPERATORS = {
    "Gradient": gradients(),
    "Blur": blurs(),
    "Convolution.blur": convolutions(),
    "ParallelBeam": beams(),
    "LightField": light_fields(),
    "Born": born(),
    "CoarseCamera": coarse_cameras(),
}


@pytest.mark.parametrize("name", OPERATORS)
@given(data=st.data())
def test_the_adjoint_is_exact(name, data):
    op = data.draw(OPERATORS[name])
    assert check_adjoint(op) < 1e-10
    if isinstance(op, LightField):  # its precision is that of its PSF
        op = op.to(dtype=torch.float32)
    assert check_adjoint(op, dtype="float32") < 1e-5


@pytest.mark.parametrize("name", OPERATORS)
@given(data=st.data())
def test_it_is_linear_and_autograd_goes_back_by_the_adjoint(name, data):
    op = data.draw(OPERATORS[name])
    a, b, y = (
        torch.from_numpy(np.random.default_rng(k).normal(size=shape))
        for k, shape in enumerate((op.in_shape, op.in_shape, op.out_shape))
    )
    torch.testing.assert_close(op(2 * a - b), 2 * op(a) - op(b), rtol=1e-9, atol=1e-9)
    a.requires_grad_()
    (slope,) = torch.autograd.grad((op(a) * y).sum(), a)
    torch.testing.assert_close(slope, op.adjoint(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPERATORS)
@given(data=st.data())
def test_numpy_gives_numpy_with_the_same_numbers(name, data):
    op = data.draw(OPERATORS[name])
    x, y = (np.random.default_rng(0).random(shape) for shape in (op.in_shape, op.out_shape))
    for call, value in ((op, x), (op.adjoint, y)):
        out = call(value)
        assert isinstance(out, np.ndarray) and out.dtype == value.dtype
        np.testing.assert_array_equal(out, call(torch.from_numpy(value)).numpy())


@pytest.mark.parametrize("n_pixels", [32, 33])
def test_the_adjoint_is_exact_for_the_psf_of_a_microscope(n_pixels):
    h = torch.from_numpy(psf(Optics(), [-2.0, 0.0, 1.0], n_pixels, "hex3")).double()
    op = LightField(h, (20, 24), (36, 28))
    assert check_adjoint(op) < 1e-10
    assert check_adjoint(op.coarsened(2)) < 1e-10


def test_the_table_has_every_public_operator():
    public = [
        thing
        for face in faces()
        for thing in vars(import_module(f"helpers.{face}")).values()
        if inspect.isclass(thing) and callable(getattr(thing, "adjoint", None))
    ]
    names = {thing.__name__ for thing in public if thing.__name__[0] != "_"}
    assert names - {"Operator"} <= set(OPERATORS)
