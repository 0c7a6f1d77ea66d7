"""Of large frames and long movies the camera check reads a part, and says the same."""

import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from helpers.noise import SCMOS, camera, check_camera, to_electrons

GAIN = 2.1


@pytest.fixture(scope="module")
def movie():
    """A sloping background, and the maps of the camera."""
    rng = np.random.default_rng(2070)
    y, x = np.mgrid[:96, :96] / 96
    offset = 100 + 2 * rng.standard_normal((96, 96))
    variance = 6 * rng.lognormal(0, 0.5, (96, 96))
    electrons = rng.poisson(3 + 9 * x + 4 * y, (20, 96, 96))
    noise = np.sqrt(variance) * rng.standard_normal(electrons.shape)
    return np.round(GAIN * electrons + offset + noise).clip(0).astype("uint16"), offset, variance


@pytest.mark.parametrize("side", [64, 65])
def test_the_middle_of_a_large_frame_says_the_same(movie, side, monkeypatch):
    """Maps are cut about the same point in each of the eight orientations."""
    monkeypatch.setattr(camera, "SIDE", side)
    frames, offset, variance = movie
    for turn in (lambda a: a.T, lambda a: a[::-1, ::-1]):
        noise = SCMOS(turn(variance) / GAIN**2)
        with pytest.warns(UserWarning, match="maps of the camera fit") as told:
            camera.warn_of_camera(to_electrons(frames, GAIN, turn(offset)), noise)
        assert "moved" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = to_electrons(frames, GAIN, offset)
        camera.warn_of_camera(right, SCMOS(variance / GAIN**2), np.ones(offset.shape, bool))


def test_a_long_movie_is_not_read_as_a_whole(movie):
    frames, read = movie[0], []

    class Long(Sequence):
        def __len__(self):
            return 500

        def __getitem__(self, k):
            if k >= len(self):
                raise IndexError(k)
            read.append(k)
            return frames[k % len(frames)]

    check_camera(Long())
    assert len(set(read)) <= 65 and max(read) == 499
