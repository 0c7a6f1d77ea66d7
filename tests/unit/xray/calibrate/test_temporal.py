"""The clock of the slow camera, found in simulated movies whose clocks differ."""

import numpy as np
import pytest

from helpers.io import save_h5
from helpers.xray.calibrate import TemporalCalibration, temporal
from helpers.xray.simulate import Experiment, simulate


def movie(seed, n_frames=91, shape=(176, 176), **options):
    return simulate(Experiment(shape=shape, n_frames=n_frames, **options), seed)


@pytest.fixture(scope="module")
def movies():
    """Offsets and rates that are no whole numbers, and what was recorded."""
    clocks = {2020: (0.37, 1.004), 2021: (-0.62, 1.0)}
    return {
        clock: movie(seed, time_offset=clock[0], clock_rate=clock[1])
        for seed, clock in clocks.items()
    }


def test_offset_and_rate_are_found_with_the_help_of_the_clock(movies):
    for (offset, rate), m in movies.items():
        found = temporal(m.hr, m.lr, key_times=m.key_times)
        error = np.array([found.offset - offset, found.rate - rate])
        assert abs(error[0]) < 0.25 and abs(error[1]) < 5e-3
        away = found.times(m.key_times) - (offset + rate * m.key_times)
        assert np.abs(away).max() < 0.25
        assert error @ np.linalg.solve(found.covariance, error) < 15  # chi-square of two numbers


def test_offset_and_rate_are_found_from_the_images_alone(movies):
    for (offset, rate), m in list(movies.items())[:1]:
        found = temporal(m.hr, m.lr)
        assert abs(found.offset - offset) < 0.25
        assert abs(found.rate / 10 - rate) < 5e-3


def test_a_clock_that_agrees_stays(movies):
    offset, rate = list(movies)[1]
    assert rate == 1.0
    m = movies[offset, rate]
    assert abs(temporal(m.hr, m.lr, key_times=m.key_times).rate - 1) < 5e-3


def test_without_noise_nothing_is_left_to_err():
    m = movie(2023, 41, (128, 128), time_offset=0.31, lr_photons=1e6, hr_photons=1e7)
    found = temporal(m.hr, m.lr, key_times=m.key_times)
    assert abs(found.offset - 0.31) < 0.06


def test_noise_does_not_draw_the_clock_to_half_a_frame():
    """The mean over the photon noise of one movie, with few photons: a bias would stay."""
    clear = movie(2024, 41, (128, 128), time_offset=0.2, lr_photons=1e6)
    errors = []
    for seed in range(12):
        noisy = np.random.default_rng(seed).poisson(clear.lr * 1000) / 1000
        errors.append(temporal(clear.hr, noisy, key_times=clear.key_times).offset - 0.2)
    assert abs(np.mean(errors)) < 0.25 and np.std(errors) < 0.5


def test_the_curve_has_its_minimum_at_the_offset(movies):
    for m in movies.values():
        found = temporal(m.hr, m.lr, key_times=m.key_times)
        shifts, cost = found.curve.T
        assert cost.min() == 0 and abs(shifts[cost.argmin()] - found.offset) < 0.3
        assert cost[0] > 10 and cost[-1] > 10


STILL = np.ones((6, 8, 8)) + np.random.default_rng(0).normal(0, 0.01, (6, 8, 8))
SHARP = np.ones((2, 32, 32))


@pytest.mark.parametrize(
    ("hr", "lr", "options", "message"),
    [
        (SHARP, STILL, {}, "nothing moves in the fast movie"),
        (SHARP[:1], STILL, {}, "give two slow and four fast frames"),
        (SHARP, STILL[:3], {}, "give two slow and four fast frames"),
        (SHARP[:, :28], STILL, {}, "not a quarter: register them first"),
        (SHARP * np.nan, STILL, {}, "NaN or infinite"),
        (SHARP, STILL, {"key_times": [0, 0]}, "give 2 rising times"),
        (SHARP, STILL, {"key_times": [0, 1, 2]}, "give 2 rising times"),
        (SHARP, STILL, {"search": 0}, "search is 0"),
    ],
)
def test_bad_input_is_named(hr, lr, options, message):
    with pytest.raises(ValueError, match=message):
        temporal(hr, lr, **options)


def test_a_clock_that_is_further_off_than_the_search_is_not_believed():
    m = movie(2030, 41, (128, 128), time_offset=2.5)
    with pytest.raises(ValueError, match="edge of the search, 1 frames off"):
        temporal(m.hr, m.lr, key_times=m.key_times, search=1.0)
    assert abs(temporal(m.hr, m.lr, key_times=m.key_times).offset - 2.5) < 0.2


def test_a_calibration_is_kept(tmp_path):
    found = TemporalCalibration(0.37, 1.004, 1e-4 * np.eye(2), np.arange(10.0).reshape(5, 2))
    found.save(tmp_path / "clock.h5")
    again = TemporalCalibration.load(tmp_path / "clock.h5")
    assert (again.offset, again.rate) == (0.37, 1.004)
    np.testing.assert_array_equal(again.covariance, found.covariance)
    np.testing.assert_array_equal(again.curve, found.curve)
    save_h5(tmp_path / "other.h5", {"x": 1.0})
    with pytest.raises(ValueError, match="holds no temporal calibration"):
        TemporalCalibration.load(tmp_path / "other.h5")
