"""The microscope and the fit of a field give on CUDA what they give on the CPU."""

import time
from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr.fields import MLP, FeatureGrid, Field, Softplus, Voxels, extent_of, pyramid
from helpers.inr.fit import Stage, fit
from helpers.inr.fit.losses import hessian, poisson
from helpers.inr.lightfield import LightField
from helpers.inr.phantoms import simulate
from helpers.metrics import psnr
from helpers.operators import check_adjoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
SCHEDULES = {
    "whole": Stage(150, 3e-2),
    "stages": (
        Stage(60, 3e-2, coarsen=2),
        Stage(80, 3e-2, block=20),
        Stage(80, 2e-2, block=20, sampling="error", refresh=20),
    ),
}


@pytest.fixture(scope="module")
def scene():
    """Mitochondria small enough for the CPU, simulated with twice as many planes."""
    return simulate(shape=(8, 32, 32), seed=1, n_tubes=4, view_pad=12)


def field_of(sim):
    generator = torch.Generator().manual_seed(0)
    shape = sim.op.in_shape
    levels = pyramid(shape, 3)
    network = MLP(4 * len(levels), 16, 2, generator=generator)
    mean = float((sim.views - sim.background).sum()) / np.prod(shape)
    extent = extent_of(shape, sim.voxel_size)
    return Field(FeatureGrid(levels, 4, generator=generator), network, Softplus(mean), extent)


def run(sim, device, schedule, field=None):
    begin = time.perf_counter()
    result = fit(
        field_of(sim) if field is None else field,
        sim.op,
        sim.views,
        background=sim.background,
        loss=partial(poisson, read_noise=sim.read_noise),
        prior=lambda volume: 0.05 * hessian(volume, weights=(0.64, 1, 1), smooth=1e-2),
        schedule=schedule,
        generator=torch.Generator().manual_seed(3),
        device=device,
    )
    return result, time.perf_counter() - begin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "view_shape"), [((32, 32), (56, 56)), ((31, 28), (33, 45))])
def test_the_microscope_is_the_same(scene, shape, view_shape, dtype):
    here = LightField(scene.op.psf.to(dtype), shape, view_shape)
    there = here.to("cuda")
    assert there.psf.is_cuda and there.psf.dtype == dtype and there.out_shape == here.out_shape
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(here.in_shape, generator=generator, dtype=dtype)
    views = torch.rand(here.out_shape, generator=generator, dtype=dtype)
    close = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(there(volume.cuda()).cpu(), here(volume), **close)
    torch.testing.assert_close(there.adjoint(views.cuda()).cpu(), here.adjoint(views), **close)
    torch.testing.assert_close(there.sensitivity.cpu(), here.sensitivity, **close)
    some = there.select([0, 3])(volume.cuda()).cpu()
    torch.testing.assert_close(some, here(volume)[[0, 3]], **close)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("float64", 1e-10)])
def test_the_adjoint_is_one_on_the_device(scene, dtype, most):
    op = scene.op.to("cuda", getattr(torch, dtype))
    assert check_adjoint(op, dtype=dtype, device="cuda") < most


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_fit_is_as_good(scene, name):
    """The steps of hundreds of roundings part, but not what they lead to: within 0.2 dB."""
    here, cpu = run(scene, "cpu", SCHEDULES[name])
    there, gpu = run(scene, "cuda", SCHEDULES[name])
    scores = [psnr(result.volume, scene.truth, scaled=True) for result in (here, there)]
    print(f"{name}: CPU {scores[0]:.2f} dB in {cpu:.1f} s, CUDA {scores[1]:.2f} dB in {gpu:.1f} s")
    assert there.settings["device"].startswith("cuda") and isinstance(there.volume, np.ndarray)
    assert next(there.field.parameters()).is_cuda
    flat = psnr(np.ones_like(scene.truth), scene.truth, scaled=True)
    assert scores[0] > flat + 3, "the fit must have found something"
    assert abs(scores[0] - scores[1]) < 0.2
    np.testing.assert_allclose(
        there.history["objective"][:5], here.history["objective"][:5], rtol=1e-3
    )


def test_free_voxels_take_the_same_steps(scene):
    """No random start and no network: the volumes themselves agree."""
    mean = float(scene.truth.mean())
    volumes = [
        run(scene, device, Stage(40, 0.1), Voxels(scene.op.in_shape, Softplus(mean)))[0].volume
        for device in ("cpu", "cuda")
    ]
    assert abs(volumes[0] - volumes[1]).max() < 1e-2 * volumes[0].max()


def test_a_fit_begun_on_one_device_goes_on_on_the_other(scene, tmp_path):
    path = tmp_path / "fit.safetensors"
    kw = {
        "background": scene.background,
        "schedule": SCHEDULES["stages"],
        "checkpoint": path,
    }
    field = field_of(scene)
    begun = fit(
        field, scene.op, scene.views, device="cuda", callback=lambda step, *_: step == 150, **kw
    )
    assert begun.n_iter == 150 and path.exists()
    ended = fit(field, scene.op, scene.views, device="cpu", **kw)
    assert ended.n_iter == 220 and not next(ended.field.parameters()).is_cuda
    whole = fit(field, scene.op, scene.views, device="cuda", **{**kw, "checkpoint": None})
    scores = [psnr(result.volume, scene.truth, scaled=True) for result in (ended, whole)]
    assert abs(scores[0] - scores[1]) < 0.2


def test_tensors_come_back_on_the_device(scene, monkeypatch):
    monkeypatch.delenv("HELPERS_DEVICE", raising=False)
    views = torch.from_numpy(scene.views)
    result = fit(field_of(scene), scene.op, views, background=scene.background, schedule=Stage(2))
    assert result.volume.is_cuda and result.settings["device"].startswith("cuda")
