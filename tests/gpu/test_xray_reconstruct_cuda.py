"""Whole movies on CUDA as on the CPU, and how fast."""

import numpy as np
import pytest
import torch

from helpers import xray
from helpers.xray.reconstruct import reconstruct
from helpers.xray.simulate import Experiment, simulate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("name", ["flowfuse", "edvr", "swin"])
def test_the_movie_is_the_same(name):
    movie = simulate(Experiment(shape=(192, 192), n_frames=11), 2040)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        here, there = (
            reconstruct(xray.load(name, device), movie, tile=128, overlap=32, device=device)
            for device in ("cpu", "cuda")
        )
    assert np.abs(here.frames - there.frames).max() < 1e-3
    print(f"{name}: CPU {here.rate:.1f}, CUDA {there.rate:.1f} frames of 192 x 192 per second")
