"""Molecules found on CUDA are those found on the CPU."""

import numpy as np
import pytest
import torch

from helpers.noise import SCMOS
from helpers.renderer.detect import localize, match
from helpers.renderer.renderers import Spline2D
from helpers.renderer.simulate import crowded_frames, spots_image
from tests.gpu.timing import seconds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def agree(frames, psf, noise):
    there, gpu = seconds(lambda: localize(frames, psf, noise, device="cuda"))
    here, cpu = seconds(lambda: localize(frames, psf, noise, device="cpu"))
    print(f"{len(frames)} frames, {len(here)} molecules: CUDA {gpu:.2f} s, CPU {cpu:.2f} s")
    pairs = match(there, here, 0.1)
    assert pairs.n_missed + pairs.n_extra <= 0.01 * len(here)
    assert pairs.rmse < 0.01
    np.testing.assert_allclose(
        np.median(there.x_std[pairs.found]), np.median(here.x_std[pairs.truth]), rtol=1e-2
    )


def test_whole_frames():
    agree(crowded_frames(300, seed=2000)[0], 5**0.5, SCMOS(1e4))


def test_regions_with_a_map_of_read_noise_and_a_spline():
    shape = (60, 80)
    frames = crowded_frames(
        100, shape, emitters=8, present=1, photons=(800, 1200), background=(5, 5), sigma=1.3,
        read_noise=1, seed=2001,
    )[0]  # fmt: skip
    noise = SCMOS(np.linspace(0.5, 1.5, 60 * 80).reshape(shape))
    agree(frames, 1.3, noise)
    spline = Spline2D((15, 15), spots_image([0.0], [0.0], [1.0], 1.3, (25, 25)))
    agree(frames, spline, noise)
