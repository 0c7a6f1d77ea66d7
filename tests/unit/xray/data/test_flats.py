"""Flats and darks: means, pixels that are no use, the beam frame by frame."""

import numpy as np
import pytest

from helpers.xray.data import flat

SHAPE = (24, 32)
y, x = np.mgrid[-1:1:24j, -1:1:32j]
PROFILE = 3000 * (1 - 0.3 * (x**2 + y**2))  # bright in the middle
DRIFT = 1 + 0.05 * np.sin(np.arange(40))
DRIFT /= DRIFT.mean()
STEADY = PROFILE * DRIFT[:, None, None] + 120  # a beam without noise


@pytest.fixture
def beam():
    """Counted photons."""
    return (np.random.default_rng(5).poisson(STEADY - 120) + 120).astype(np.uint16)


def test_the_mean_and_the_drift_are_those_of_the_beam(beam):
    found = flat(STEADY, dark=120.0)
    assert found.mean.dtype == np.float32 and not found.bad.any()
    assert np.array_equal((found.mean / (PROFILE + 120)).round(5), np.ones(SHAPE))
    assert np.array_equal((found.drift / DRIFT).round(5), np.ones(40))
    assert not flat(beam, dark=120.0).bad.any()


def test_dead_hot_and_restless_pixels_are_found(beam):
    rng = np.random.default_rng(6)
    beam[:, 3, 4] = 0
    beam[:, 10, 11] = 65_000
    beam[:, 20, 30] = (3000 + 1500 * rng.normal(size=40)).clip(0)
    found = flat(beam, dark=120.0)
    assert np.argwhere(found.bad).tolist() == [[3, 4], [10, 11], [20, 30]]
    assert np.isnan(found.mean[found.bad]).all() and np.isfinite(found.mean[~found.bad]).all()


def test_darks_have_hot_pixels_and_no_drift():
    rng = np.random.default_rng(7)
    frames = rng.normal(120, 5, (30, *SHAPE))
    frames[:, 5, 6] += 300
    found = flat(frames)
    assert np.argwhere(found.bad).tolist() == [[5, 6]] and (found.drift == 1).all()
    lit = flat(rng.poisson(2000, (10, *SHAPE)) + 120.0, dark=found)
    assert not lit.bad.any() and np.isfinite(lit.drift).all()


def test_the_drift_of_a_recording_is_that_of_its_open_beam():
    moving = STEADY.copy()
    moving[:, 12:] *= 0.3 + 0.01 * np.arange(40)[:, None, None]
    where = np.zeros(SHAPE, bool)
    where[:10] = True
    found = flat(moving, dark=120.0, where=where)
    assert np.array_equal((found.drift / DRIFT).round(5), np.ones(40))
    brighter = 120 + 1.2 * (moving - 120)
    brighter[7, 3:5, 4:9] += 2000  # a droplet crosses
    found = flat(brighter, dark=120.0, white=flat(STEADY, dark=120.0), where=where)
    assert np.array_equal((found.drift / DRIFT).round(4), np.full(40, 1.2))


def test_wrong_inputs_are_named(beam):
    with pytest.raises(ValueError, match=r"frames are \(24, 32\): give \(T, Y, X\)"):
        flat(beam[0])
    with pytest.raises(ValueError, match=r"dark is \(3, 3\) and the frames \(24, 32\)"):
        flat(beam, dark=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="above the dark level: check both"):
        flat(beam, dark=9000.0)
    with pytest.raises(ValueError, match="widen `where`"):
        flat(beam, where=np.zeros(SHAPE, bool))
