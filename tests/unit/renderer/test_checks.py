"""Counts that are nearly all zero, through every solver: no error, no NaN, no false confidence."""

import numpy as np
import pytest

from helpers.noise import Poisson
from helpers.optics import Pupil
from helpers.renderer.deconvolve import Blur, map_tv, richardson_lucy
from helpers.renderer.mle import fit
from helpers.renderer.pupil import retrieve_from_blinks
from helpers.renderer.renderers import Gaussian2D

DARK = np.random.default_rng(0).poisson(0.02, (40, 15, 15)).astype(np.float32)


@pytest.mark.parametrize("images", [DARK, np.zeros_like(DARK)], ids=["dim", "empty"])
def test_dark_images_end_no_fit(images):
    fits = fit(images, Gaussian2D((15, 15)), Poisson())
    assert all(np.isfinite(value).all() for value in fits.params.values())
    assert fits.converged.mean() < 0.6  # nothing to find, and it says so


def test_dark_blinks_end_no_retrieval():
    start = Pupil(1.4, 0.67, 1.518, 0.1, samples=16, zernikes={5: 0.05})
    found = retrieve_from_blinks(DARK, start, modes=(3, 5), n_iter=6, device="cpu")
    assert all(np.isfinite(c) for c in found.coefficients.values())


@pytest.mark.parametrize("solve", [richardson_lucy, map_tv])
def test_dark_volumes_stay_dark(solve):
    op = Blur(np.ones((3, 3, 3)) / 27, DARK.shape)
    options = {"weight": 0.01} if solve is map_tv else {}
    volume = solve(op, DARK, background=0.01, n_iter=10, device="cpu", **options).volume
    assert np.isfinite(volume).all() and (volume >= 0).all() and volume.mean() < 0.1
