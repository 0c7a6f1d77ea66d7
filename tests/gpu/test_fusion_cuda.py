"""The same answers on CUDA as on the CPU."""

import numpy as np
import pytest
import torch

from helpers.fusion import fuse, normalize
from helpers.fusion._simulate import twin_dysco3
from helpers.tv import prox_tv
from tests.gpu.timing import seconds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
KINDS = ("isotropic", "anisotropic")


@pytest.fixture(scope="module")
def crystal():
    arrays = twin_dysco3()
    haadf, maps = normalize(arrays["HAADF"], {e: arrays[e] for e in ("Sc", "Dy", "O")})
    return haadf, np.stack(list(maps.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_prox_is_the_same(crystal, kind, dtype):
    y = torch.tensor(crystal[1], dtype=dtype)
    weight = [0.02, 0.1, 0.15]
    there, gpu = seconds(lambda: prox_tv(y.cuda(), weight, n_iter=100, kind=kind, upper=0.9))
    here, cpu = seconds(lambda: prox_tv(y, weight, n_iter=100, kind=kind, upper=0.9))
    print(f"prox, {kind}, {dtype}: CUDA {gpu:.3f} s, CPU {cpu:.3f} s")
    assert there.x.is_cuda and there.dual.is_cuda and there.gap.is_cuda and there.x.dtype == dtype
    most = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(there.x.cpu(), here.x, atol=most, rtol=0)
    again = prox_tv(y.cuda(), weight, n_iter=5, kind=kind, upper=0.9, warm_start=there)
    assert (again.gap <= there.gap * 1.01 + 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["accelerated", "tutorial"])
def test_the_fusion_is_the_same(crystal, solver, kind):
    kw = {"solver": solver, "kind": kind}
    there, gpu = seconds(lambda: fuse(*crystal, [21, 66, 8], device="cuda", **kw))
    here, cpu = seconds(lambda: fuse(*crystal, [21, 66, 8], device="cpu", **kw))
    print(f"fuse, {solver}, {kind}: CUDA {gpu:.3f} s, CPU {cpu:.3f} s")
    assert there.settings["device"].startswith("cuda") and there.settings["backend"] == "torch"
    assert isinstance(there.maps, np.ndarray)
    assert abs(there.maps - here.maps).max() <= 1e-4
    np.testing.assert_allclose(there.cost.total, here.cost.total, rtol=1e-5)


def test_tensors_stay_on_their_device(crystal):
    haadf, maps = (torch.tensor(a, dtype=torch.float32, device="cuda") for a in crystal)
    result = fuse(haadf, maps, [21, 66, 8], n_iter=3)
    assert result.maps.is_cuda and result.haadf.is_cuda
    moved = fuse(haadf.cpu(), maps, [21, 66, 8], n_iter=3)
    torch.testing.assert_close(moved.maps, result.maps, atol=1e-6, rtol=0)


def test_an_array_goes_to_the_device_that_is_there(crystal, monkeypatch):
    monkeypatch.delenv("HELPERS_DEVICE", raising=False)
    assert fuse(*crystal, [21, 66, 8], n_iter=1).settings["device"].startswith("cuda")
    with pytest.raises(ValueError, match="'wavefront' needs numba, a CPU"):
        fuse(*crystal, [21, 66, 8], backend="wavefront")
