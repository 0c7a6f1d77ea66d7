"""Deconvolution on CUDA gives what the CPU gives."""

import numpy as np
import pytest
import torch

from helpers.optics import Pupil
from helpers.renderer.deconvolve import (
    Blur,
    blind,
    choose_weight,
    map_tv,
    richardson_lucy,
    widefield_kernel,
)
from helpers.renderer.simulate import bars, widefield
from helpers.renderer.simulate.volumes import ABERRATION
from tests.gpu.timing import seconds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
SHAPE = (24, 64, 64)


@pytest.fixture(scope="module")
def scene():
    stack = widefield(bars(SHAPE, seed=2030), seed=2030)
    pupil = Pupil(1.3, 0.6, 1.515, 0.08, samples=96, zernikes=ABERRATION)
    kernel = widefield_kernel(pupil, [2 * n - 1 for n in SHAPE], 0.2, planes=SHAPE[0])
    return stack, Blur(kernel.astype(np.float32), SHAPE)


@pytest.mark.parametrize(
    "solve",
    [
        lambda op, y, device: richardson_lucy(op, y, 30, 5.0, device=device),
        lambda op, y, device: map_tv(op, y, 3e-4, 5.0, n_iter=30, tol=0, device=device),
    ],
)
def test_volumes_agree(scene, solve):
    stack, op = scene
    there, gpu = seconds(lambda: solve(op, stack.counts, "cuda"))
    here, cpu = seconds(lambda: solve(op, stack.counts, "cpu"))
    print(f"30 iterations: CUDA {gpu:.3f} s, CPU {cpu:.3f} s")
    assert np.linalg.norm(there.volume - here.volume) < 1e-3 * np.linalg.norm(here.volume)
    np.testing.assert_allclose(there.history, here.history, rtol=1e-3)


def test_the_weight_and_the_pupil_agree(scene):
    stack, op = scene
    choices = [choose_weight(op, stack.counts, 5.0, device=device) for device in ("cuda", "cpu")]
    assert choices[0].weight == choices[1].weight
    np.testing.assert_allclose(choices[0].score, choices[1].score, rtol=1e-4)
    pupil = Pupil(1.3, 0.6, 1.515, 0.08, samples=96)
    there, here = (
        blind(stack.counts, pupil, 3e-4, z_step=0.2, background=8.0, n_rounds=5, device=device)
        for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(there.path, here.path, atol=2e-3)
