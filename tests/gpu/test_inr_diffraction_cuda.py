"""Diffraction tomography on CUDA: the same images, gradients and reconstructions as on the CPU."""

import time

import numpy as np
import pytest
import torch

from helpers.inr.diffraction import (
    Born,
    Microscope,
    MultiSlice,
    fit_contrast,
    linear_inverse,
    rings,
)
from helpers.inr.fit import Stage
from helpers.inr.phantoms import worm
from helpers.inr.phantoms.diffraction import simulate
from helpers.inr.phantoms.helmholtz import Helmholtz
from helpers.metrics import psnr
from helpers.operators import check_adjoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
OPTICS = Microscope(voxel_size=(0.6, 0.2, 0.2))
SHAPE = (20, 64, 64)


@pytest.fixture(scope="module")
def scan():
    return simulate(rings(20, 0.62), shape=SHAPE, optics=OPTICS, seed=0)


@pytest.mark.parametrize("chunk", [None, 6])
def test_images_and_gradients_are_the_same(scan, chunk):
    model = MultiSlice(OPTICS, scan.leds, SHAPE, chunk=chunk)
    results = []
    for device in ("cpu", "cuda"):
        contrast = torch.tensor(scan.truth, device=device, requires_grad=True)
        images = model(contrast)
        assert images.device.type == device
        (images**2).sum().backward()
        results.append((images.detach().cpu(), contrast.grad.cpu()))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-4, rtol=0)
    scale = float(results[0][1].abs().max())
    torch.testing.assert_close(results[1][1] / scale, results[0][1] / scale, atol=1e-4, rtol=0)


def test_the_linear_model_is_the_same(scan):
    op = Born(OPTICS, scan.leds, SHAPE)
    assert check_adjoint(op, device="cuda") < 1e-10
    y = torch.tensor(scan.intensity)
    here, there = (linear_inverse(op, y.to(d), 1e-3).cpu() for d in ("cpu", "cuda"))
    torch.testing.assert_close(there, here, atol=1e-5, rtol=0)


def test_the_wave_equation_is_the_same():
    fine = Microscope(voxel_size=(0.15, 0.2, 0.2))
    contrast = torch.tensor(worm((40, 48, 48), fine.voxel_size, seed=0))
    model = Helmholtz(fine, rings(3, 0.62), contrast.shape)
    torch.testing.assert_close(model(contrast.cuda()).cpu(), model(contrast), atol=1e-4, rtol=0)


def test_the_reconstruction_is_as_good(scan):
    model = MultiSlice(OPTICS, scan.leds, SHAPE)
    values, schedule = {}, Stage(60, 0.3, views=10)
    for device in ("cpu", "cuda"):
        begin = time.perf_counter()
        fit = fit_contrast(
            model, scan.intensity, photons=scan.photons, schedule=schedule, device=device
        )
        values[device] = psnr(fit.volume, scan.truth)
        print(f"{device}: {values[device]:.2f} dB in {time.perf_counter() - begin:.1f} s")
        assert isinstance(fit.volume, np.ndarray)
    assert values["cuda"] == pytest.approx(values["cpu"], abs=0.5)
