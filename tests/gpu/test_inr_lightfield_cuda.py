"""The light-field operator and Richardson-Lucy give on CUDA what they give on the CPU."""

import numpy as np
import pytest
import torch

from helpers.inr.deconvolve import choose_iterations, richardson_lucy, view_enhanced
from helpers.inr.lightfield import LightField
from helpers.inr.phantoms import simulate
from helpers.operators import check_adjoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def sim():
    return simulate(seed=2, shape=(9, 33, 32), n_tubes=5)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-10)])
def test_the_adjoint_is_the_adjoint(sim, dtype, bound):
    op = sim.op.to("cuda", getattr(torch, dtype))
    assert check_adjoint(op, dtype=dtype, device="cuda") < bound
    three = LightField(op.psf[[1, 3, 5]], (33, 32), (40, 41))
    assert check_adjoint(three, dtype=dtype, device="cuda") < bound


def test_the_views_are_the_same(sim):
    np.testing.assert_allclose(
        sim.op.to("cuda")(sim.truth), sim.op(sim.truth), atol=1e-4 * sim.views.max()
    )


@pytest.mark.parametrize("solver", [richardson_lucy, view_enhanced])
def test_the_solvers_agree(sim, solver):
    cpu, cuda = (solver(sim.op, sim.views, 20, 4.0, device=d).volume for d in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda, cpu, atol=1e-2 * cpu.max())


def test_the_same_stop_is_chosen(sim):
    settings = {"background": 4.0, "read_noise": 1.5, "n_max": 60}
    cpu, cuda = (
        choose_iterations(sim.op, sim.views, device=d, **settings) for d in ("cpu", "cuda")
    )
    np.testing.assert_allclose(cuda.score, cpu.score, rtol=1e-4)
    assert isinstance(richardson_lucy(sim.op, sim.views, 2, 4.0, device="cuda").volume, np.ndarray)
