"""A movie from which no gain can be read, and what then still works."""

import warnings

import numpy as np
import pytest

from helpers.noise import Poisson, check_camera
from helpers.renderer.detect import localize


@pytest.fixture(scope="module")
def movie():
    """Dark parts are the noisier ones, as where dim molecules move about."""
    mean = np.tile(np.linspace(70, 200, 64), (64, 1))
    noise = np.random.default_rng(0).normal(0, np.sqrt(250 - mean), (40, 64, 64))
    return mean + noise


@pytest.mark.parametrize("constants", [{}, {"gain": 1.0, "offset": 0.0}, {"variance": 2.0}])
def test_a_slope_below_zero_says_nothing(movie, constants):
    found = check_camera(movie, **constants)
    assert found.gain < 0 and found.gain_std == np.inf
    assert not {"gain", "offset"} & set(found.findings)
    assert not found.read_noise < 0  # always: it is none, or that of the variance


def test_localize_takes_such_a_movie(movie):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        localize(movie[:8], 1.3, Poisson(), device="cpu")
