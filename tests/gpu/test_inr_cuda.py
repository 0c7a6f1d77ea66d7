"""Neural fields and their operators: the same answers on CUDA as on the CPU."""

import numpy as np
import pytest
import torch

from helpers.inr.phantoms import simulate_opt
from helpers.inr.tomography import ParallelBeam, sirt
from helpers.operators import check_adjoint
from tests.gpu.timing import seconds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("shape", [(33, 9, 33), (32, 8, 40)])
def test_parallel_beams_are_the_same(shape, dtype, most):
    op = ParallelBeam(np.linspace(-60, 60, 13), shape)
    assert check_adjoint(op, dtype=dtype, device="cuda") < most
    volume = torch.rand(2, *shape, dtype=getattr(torch, dtype))
    there = volume.cuda().requires_grad_()
    views = op(there)
    assert views.is_cuda and views.dtype == volume.dtype
    torch.testing.assert_close(views.cpu(), op(volume), rtol=most, atol=most * float(views.max()))
    (gradient,) = torch.autograd.grad(views.square().sum(), there)
    expected = 2 * op.adjoint(op(volume))
    torch.testing.assert_close(
        gradient.cpu(), expected, rtol=most, atol=most * float(expected.max())
    )


def test_sirt_is_the_same():
    data = simulate_opt(13, shape=(64, 64, 64))
    y = data.projections - data.background
    there, gpu = seconds(lambda: sirt(data.op, y, 50, device="cuda"))
    here, cpu = seconds(lambda: sirt(data.op, y, 50, device="cpu"))
    print(f"SIRT, 64^3, 13 views, 50 iterations: CUDA {gpu:.3f} s, CPU {cpu:.3f} s")
    assert there.settings["device"].startswith("cuda") and isinstance(there.volume, np.ndarray)
    np.testing.assert_allclose(there.volume, here.volume, atol=1e-4 * here.volume.max())
    np.testing.assert_allclose(there.history, here.history, rtol=1e-4)
