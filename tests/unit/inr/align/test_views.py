"""Displacements of the views of a light-field camera, from images that were moved by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.inr import phantoms
from helpers.inr.align import views
from helpers.inr.lightfield import LightField

ROOM = 16  # px at each side, so that what leaves a view does not come back at its other end


def moved(images, shifts):
    """Images moved by their phase."""
    frame = np.pad(images, ((0, 0), (ROOM, ROOM), (ROOM, ROOM)))
    ky, kx = (np.fft.fftfreq(n) for n in frame.shape[1:])
    turns = shifts[:, 0, None, None] * ky[:, None] + shifts[:, 1, None, None] * kx
    found = np.fft.ifft2(np.fft.fft2(frame) * np.exp(-2j * np.pi * turns)).real
    return found[:, ROOM:-ROOM, ROOM:-ROOM].clip(0)


@pytest.fixture(scope="module")
def scene():
    return phantoms.simulate("microtubules", shape=(12, 32, 32), n_tubes=7, seed=0)


@pytest.fixture(scope="module")
def seen(scene):
    return {"background": scene.background, "read_noise": scene.read_noise}


def displaced(scene, rms, seed=0):
    """Displacements of so many px that the object cannot make, and the views with them."""
    rng = np.random.default_rng(seed)
    shifts = torch.as_tensor(rng.normal(size=(7, 2)))
    shifts = scene.op.without_freedom("shifts", shifts.to(scene.op.psf)).numpy()
    shifts *= rms / np.sqrt((shifts**2).mean())
    light = moved(scene.expected - scene.background, shifts) + scene.background
    return shifts, rng.poisson(light) + rng.normal(0, scene.read_noise, light.shape)


@pytest.mark.parametrize("rms", [1.0, 4.0])
def test_views_that_lie_pixels_away_are_found_to_a_tenth(scene, seen, rms):
    shifts, images = displaced(scene, rms)
    found = views(images, scene.op, **seen)
    assert np.sqrt(((found.shifts - shifts) ** 2).mean()) < 0.1
    assert found.misfit < 0.8 * found.misfit_before
    assert (found.errors > 0).all() and found.errors.max() < 0.1


def test_what_the_object_could_have_done_is_not_found(scene, seen):
    parallax = scene.op._parallax.double().numpy()
    moves = np.array([0.7, -0.4]) + parallax / np.abs(parallax).max()
    light = moved(scene.expected - scene.background, moves) + scene.background
    found = views(light, scene.op, **seen).shifts
    assert np.abs(found.mean(0)).max() < 1e-5
    assert abs((found * parallax).sum()) < 1e-4 * (parallax**2).sum()


def test_the_search_goes_on_from_the_shifts_of_the_operator(scene, seen):
    shifts, images = displaced(scene, 3.0)
    near = scene.op.at({"shifts": shifts})
    found = views(images, near, **seen)
    assert np.sqrt(((found.shifts - shifts) ** 2).mean()) < 0.1
    assert found.misfit_before < 1.5 * found.misfit


def test_sizes_that_cannot_be_merged_are_searched_pixel_by_pixel(scene, seen):
    shifts, images = displaced(scene, 1.0)
    crop = slice(0, 31)
    op = LightField(scene.op.psf, shape=(31, 31))
    found = views(images[:, crop, crop], op, **seen)
    assert np.isfinite(found.shifts).all()


def test_what_has_no_answer_is_refused(scene, seen):
    _, images = displaced(scene, 1.0)
    with pytest.raises(ValueError, match="data has shape"):
        views(images[:, 1:], scene.op, **seen)
    with pytest.raises(ValueError, match="NaN"):
        views(np.where(images > images.max() - 1, np.nan, images), scene.op, **seen)
    with pytest.raises(ValueError, match="3 views"):
        views(images[:3], scene.op.select([0, 1, 2]), **seen)
    flat = images.copy()
    flat[2] = 7
    with pytest.raises(ValueError, match="same in every pixel"):
        views(flat, scene.op, **seen)
