"""The axis and the drift of a tilt series, on images made by closed formulas."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from helpers.inr import phantoms
from helpers.inr.align import TiltAlignment, tilts
from helpers.inr.align._match import lag, matched
from helpers.inr.tomography import ParallelBeam, sirt

ANGLES = tuple(np.arange(15) * 12.0)
GAUGE = np.stack([np.cos(np.deg2rad(ANGLES)), np.sin(np.deg2rad(ANGLES)), np.ones(15)], 1)


def series(offset=0.0, turn=0.0, shifts=None, seed=3, photons=500):
    """Cells whose noise-free images are turned and moved by a spline, then counted."""
    clean = phantoms.simulate_opt(15, shape=(28, 28, 28), seed=seed, photons=photons).expected - 4
    clean = np.pad(clean, ((0, 0), (4, 4), (4, 4)))
    shifts = np.zeros((15, 2)) if shifts is None else shifts
    alpha = np.deg2rad(turn)
    to_axis = np.array([[np.cos(alpha), -np.sin(alpha)], [np.sin(alpha), np.cos(alpha)]])
    middle = (np.array(clean.shape[1:]) - 1) / 2
    moved = [
        affine_transform(image, to_axis, middle - to_axis @ (middle + s + (0, offset)), order=5)
        for image, s in zip(clean, shifts, strict=True)
    ]
    rng = np.random.default_rng(seed)
    return rng.poisson(np.maximum(moved, 0) + 4).astype(float)


def drift(seed=0, size=1.5):
    shifts = np.random.default_rng(seed).normal(0, size, (15, 2))
    shifts[:, 0] -= shifts[:, 0].mean()
    shifts[:, 1] -= GAUGE @ np.linalg.lstsq(GAUGE, shifts[:, 1])[0]
    return shifts


def rms(values):
    return np.sqrt(np.mean(np.square(values), axis=0))


def test_the_axis_is_found_to_a_tenth_of_a_pixel():
    errors, stated = [], []
    for seed, offset in enumerate([-5.0, -1.37, 0.0, 2.5, 4.8]):
        found = tilts(series(offset, seed=seed), ANGLES, drift=False)
        assert isinstance(found, TiltAlignment)
        errors.append((found.offset - offset, found.axis_deg))
        stated.append((found.offset_error, found.axis_error))
        assert not found.shifts.any()
        if abs(offset) > 1:
            assert found.misfit < 0.9 * found.misfit_before
    assert np.abs(errors).max(0)[0] < 0.1
    assert np.median(np.abs(errors), axis=0)[1] < 0.7
    sized = rms(errors) / rms(stated)
    assert sized.max() < 3
    assert rms(stated)[0] < 0.1


def test_axis_turn_and_drift_are_found_together():
    errors, stated = [], []
    for seed in range(4):
        shifts = drift(seed)
        images = series(3.2, 2.5, shifts, seed)
        found = tilts(images, ANGLES)
        errors.append((found.offset - 3.2, found.axis_deg - 2.5, *rms(found.shifts - shifts)))
        stated.append((found.offset_error, found.axis_error, *rms(found.shift_errors)))
    off, turned, along, across = rms(errors)
    assert max(off, along, across) < 0.12
    assert turned < 1.5
    sized = rms(errors) / rms(stated)
    assert sized.max() < 5
    assert sized[2:].min() > 0.2
    # the operator takes what was found, and so does the aligned series
    op = ParallelBeam(
        ANGLES, (36, 48, 36), images.shape[2], height=images.shape[1], **found.geometry
    )
    through = sirt(op, images - 4, 15, device="cpu").history[-1]
    plain = ParallelBeam(ANGLES, (36, images.shape[1], 36), images.shape[2])
    straight = sirt(plain, found.apply(images), 15, device="cpu").history[-1]
    crooked = sirt(plain, images - 4, 15, device="cpu").history[-1]
    assert max(through, straight) < 0.85 * crooked


def test_an_axis_along_x_is_the_same():
    images = series(2.0)
    along_y, along_x = tilts(images, ANGLES), tilts(images.swapaxes(1, 2), ANGLES, axis="X")
    assert along_x.offset == along_y.offset
    np.testing.assert_array_equal(along_x.shifts, along_y.shifts)
    assert along_x.geometry["axis"] == "X"


@pytest.mark.parametrize("offset", [-3.0, 2.0])
def test_a_detector_narrower_than_the_specimen(offset):
    images = series(offset, photons=2000)[:, 4:-4, 13:-13]
    found = tilts(images, ANGLES, drift=False, turn=False)
    assert found.settings["truncated"]
    assert found.offset == pytest.approx(offset, abs=0.1)
    assert abs(found.offset - offset) / found.offset_error < 8
    assert found.offset_error < 0.1


def test_axis_turn_and_drift_are_found_where_the_specimen_leaves_the_detector():
    shifts = drift(size=0.7)
    found = tilts(series(2.2, 2.5, shifts, photons=2000)[:, :, 12:-12], ANGLES)
    assert found.settings["truncated"]
    assert found.offset == pytest.approx(2.2, abs=0.5)
    assert np.abs(found.axis_deg - 2.5) < 2.5
    assert (rms(found.shifts - shifts) < 0.5).all()


def test_the_background_is_read_from_the_dark():
    images = series()
    found = tilts(images + 100, ANGLES, drift=False)
    np.testing.assert_allclose(found.background, 104, atol=1.0)
    told = tilts(images + 100, ANGLES, drift=False, background=104.0)
    assert told.offset == pytest.approx(found.offset, abs=0.1)


def test_a_lag_is_found_between_samples():
    x = np.arange(60.0)
    hill = np.exp(-((x - 25) ** 2) / 30)
    for step in (-7.3, 0.0, 4.6):
        moved = np.exp(-((x - 25 - step) ** 2) / 30)
        assert lag(moved, hill) == pytest.approx(step, abs=0.05)


def test_a_match_finds_shift_whatever_brightness_and_background():
    y, x = np.mgrid[:24, :20].astype(float)
    model = np.exp(-((y - 11) ** 2 + (x - 9) ** 2) / 30)
    image = 3 * np.exp(-((y - 11.2) ** 2 + (x - 8.7) ** 2) / 30) + 5
    step, error = matched(image[None], model[None])
    np.testing.assert_allclose(step[0], (0.2, -0.3), atol=0.02)
    assert (error < 0.02).all()
    assert np.isinf(matched(image[None], np.zeros((1, 24, 20)))[1]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"angles_deg": ANGLES[1:]}, "15 images and 14 angles"),
        ({"angles_deg": np.linspace(0, 20, 15)}, "over 20 degrees"),
        ({"axis": "Z"}, "'Y' or 'X'"),
        ({"projections": np.zeros((15, 8))}, r"give \(N, Y, S\)"),
        ({"projections": np.zeros((15, 8, 8))}, "image 0 has no contrast"),
        ({"projections": np.full((15, 8, 8), np.nan)}, "NaN"),
    ],
)
def test_bad_series_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        tilts(
            **{"projections": np.random.default_rng(0).random((15, 8, 8)), "angles_deg": ANGLES}
            | change
        )
