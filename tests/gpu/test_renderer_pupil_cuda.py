"""A pupil that is retrieved on CUDA is the one that the CPU finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.optics import Pupil
from helpers.renderer.pupil import retrieve, retrieve_from_blinks
from helpers.renderer.simulate import bead_stack, blinks
from tests.gpu.timing import seconds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
OIL = Pupil(1.4, 0.67, 1.518, 0.1, samples=64)
MIXED = {3: 0.04, 5: -0.08, 6: 0.03, 8: 0.06, 12: -0.05}


def agree(there, here):
    assert there.settings["device"].startswith("cuda") and there.converged and here.converged
    assert there.coefficients.keys() == here.coefficients.keys()
    for j, c in here.coefficients.items():
        assert there.coefficients[j] == pytest.approx(c, abs=1e-5)
    np.testing.assert_allclose(there.covariance, here.covariance, rtol=1e-3, atol=1e-12)
    for name in ("x", "y", "z"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), atol=1e-4)


def test_from_a_stack():
    bead = bead_stack(MIXED, x=0.3, z=0.05, seed=2000)
    there, gpu = seconds(lambda: retrieve(bead.images, bead.planes, OIL, device="cuda"))
    here, cpu = seconds(lambda: retrieve(bead.images, bead.planes, OIL, device="cpu"))
    print(f"pupil from a stack: CUDA {gpu:.2f} s, CPU {cpu:.2f} s")
    agree(there, here)
    tensor = torch.tensor(bead.images, device="cuda")
    agree(retrieve(tensor, bead.planes, OIL), here)


def test_from_blinks():
    seen = blinks(MIXED, 100, seed=2000)
    start = replace(OIL, zernikes={5: -0.05})
    there, gpu = seconds(lambda: retrieve_from_blinks(seen.images, start, device="cuda"))
    here, cpu = seconds(lambda: retrieve_from_blinks(seen.images, start, device="cpu"))
    print(f"pupil from 100 blinks: CUDA {gpu:.2f} s, CPU {cpu:.2f} s")
    agree(there, here)
