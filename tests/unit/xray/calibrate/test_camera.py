"""The coarse camera, measured on movies that other code has made, and the warnings by cause."""

import re

import numpy as np
import pytest

from helpers.xray import CoarseCamera, baselines
from helpers.xray.calibrate import SpatialCalibration, camera
from helpers.xray.calibrate._camera import Mended, hot_pixels, inspect, mend, single_hits
from helpers.xray.cameras import Transform
from helpers.xray.data import ActualPairs, match_clocks
from helpers.xray.data.metadata import FastRecord, SlowRecord
from helpers.xray.data.recording import Recording
from helpers.xray.reconstruct import reconstruct
from helpers.xray.simulate import Experiment, simulate

SEEDS = range(3000, 3010)
TRUE = 2.2**2 - 0.6**2  # square of the blur between the cameras


def recorded(seed, **changes):
    return simulate(Experiment(generator=("standard", "other")[seed % 2], **changes), seed)


@pytest.fixture(scope="module")
def movies():
    return [recorded(seed) for seed in SEEDS]


@pytest.mark.parametrize("lr_psf", [0.6, 1.0, 2.2, 3.0])
def test_blur_and_gain_are_found(lr_psf):
    """To a tenth of a sharp pixel; the gain to 0.3 %.

    The simulator blurs in Fourier space on half pixels; the sharp camera has a blur, too.
    """
    for seed in (3000, 3001, 3002):
        movie = recorded(seed, lr_psf=lr_psf)
        found = camera(1.05 * movie.lr, movie.hr, movie.key_times)
        if lr_psf > 0.6:
            assert abs(found.sigma - np.sqrt(lr_psf**2 - 0.6**2)) < 0.1
        else:
            assert found.sigma < 0.5  # a width of zero is found from its square
        assert abs(found.gain / 1.05 - 1) < 0.003
        assert abs(found.photons / 3000 - 1) < 0.2


def test_errors_are_those_of_repeated_measurements(movies):
    truth = np.sqrt(TRUE)
    found = [camera(m.lr, m.hr, m.key_times) for m in movies]
    z = np.array([(c.sigma - truth) / c.errors["sigma"] for c in found])
    assert 0.05 < np.sqrt(np.mean(z**2)) < 3
    z = np.array([(c.gain - 1) / c.errors["gain"] for c in found])
    assert 0.05 < np.sqrt(np.mean(z**2)) < 3


def test_an_offset_is_found_where_it_is_asked_for(movies):
    movie = movies[0]
    found = camera(1.02 * movie.lr + 0.05, movie.hr, movie.key_times, offset=True)
    assert abs(found.offset - 0.05) < 0.01 and abs(found.gain - 1.02) < 0.01
    assert found.errors["offset"] < 0.01


def test_other_ratios_and_times_between_frames():
    rng = np.random.default_rng(0)
    sharp = simulate(Experiment(), 3003).truth[:9]
    sharp = sharp[..., :126, :126]
    for scale in (2, 3, 6):
        true = CoarseCamera(1.8, scale, gain=1.03, photons=3000.0)
        lr = true.gain * rng.poisson(CoarseCamera(1.8, scale)(sharp).clip(0) * 3000) / 3000
        found = camera(lr, sharp[[1, 4, 7]], [1, 4, 7], scale=scale)
        assert abs(found.sigma - 1.8) < 0.1 and abs(found.gain - 1.03) < 0.004, scale
    halfway = (sharp[3] + sharp[4])[None] / 2
    lr = CoarseCamera(1.8)(sharp[..., :124, :124])
    assert abs(camera(lr, halfway[..., :124, :124], [3.5]).sigma - 1.8) < 0.05


def test_each_cause_is_named_and_nothing_else(movies):
    rng = np.random.default_rng(1)
    rung, wrong = {}, []
    for m in movies:
        hot = m.lr.copy()
        places = rng.choice(28 * 28, 5, replace=False)
        hot[:, 2 + places // 28, 2 + places % 28] = 1.3
        dim = (rng.poisson(m.lr.clip(0) * 333) / 333).astype("f")  # 300 with what was there
        told = CoarseCamera(np.sqrt(TRUE))
        cases = {
            "": (m.lr, told),
            "wrong gain": (1.05 * m.lr, told),
            "hot pixels": (hot, told),
            "low photons": (dim, told),
            "wrong sigma": (m.lr, CoarseCamera(told.sigma + 0.5)),
        }
        for name, (lr, given) in cases.items():
            said = inspect(lr, m.hr, m.key_times, given).warnings_for(given)
            causes = [line.split(":")[0] for line in said]
            rung.setdefault(name, []).append(name in causes or not name)
            wrong += [(name, c) for c in causes if c != name]
    assert all(np.mean(seen) >= 0.95 for seen in rung.values()), rung
    assert len(wrong) <= 0.05 * 5 * len(movies), wrong


def test_hot_pixels_are_mended_before_the_network(movies):
    movie = movies[1]
    hot = movie.lr.copy()
    hot[:, 10, 12] = 1.3
    found = inspect(hot, movie.hr, movie.key_times)
    assert found.hot[10, 12] and found.hot.sum() == 1
    assert np.abs(found.lr[:][:, 10, 12] - movie.lr[:, 10, 12]).max() < 0.4
    broken = type("Movie", (), vars(movie) | {"lr": hot})()
    with pytest.warns(UserWarning, match="hot pixels: 1 pixel"):
        mended = reconstruct(baselines.detail_injection, broken, device="cpu")
    clean = reconstruct(baselines.detail_injection, movie, device="cpu")
    assert mended.table["psnr"].mean() > clean.table["psnr"].mean() - 0.2


def test_what_lies_beyond_the_border_is_no_hot_pixel():
    rows = np.indices((16, 16)).sum(0) % 2 - 0.5  # in place of noise
    sharp = np.full((2, 64, 64), 0.8)
    seen = CoarseCamera(2.0)(sharp) + 0.01 * rows
    edge, hot = seen.copy(), seen.copy()
    edge[:, 6:8, -1] += 0.3, 0.2
    hot[:, 6, -1] += 0.3
    assert not hot_pixels(edge, sharp, CoarseCamera(2.0)).any()
    assert np.argwhere(hot_pixels(hot, sharp, CoarseCamera(2.0))).tolist() == [[6, 15]]


def test_a_hit_in_one_frame_is_found_and_what_moves_is_not(movies):
    movie = movies[2]
    found = camera(movie.lr, movie.hr, movie.key_times)
    assert single_hits(movie.lr, found).mean() < 1e-4
    hit = movie.lr.copy()
    hit[7, 20, 5] += 0.5
    mask = single_hits(hit, found)
    assert mask[7, 20, 5]
    assert abs(mend(hit, mask)[7, 20, 5] - movie.lr[7, 20, 5]) < 0.2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_frames_are_mended_alike_in_any_pieces(movies, size):
    movie = movies[2]
    found = camera(movie.lr, movie.hr, movie.key_times)
    lr, hot = movie.lr.copy(), np.zeros(movie.lr.shape[1:], bool)
    hot[4, 4] = True
    lr[:, 4, 4] = 1.3
    for t in (0, 1, 7, 8, len(lr) - 1):
        lr[t, 20, 5 + t % 2] += 0.5
    whole = mend(lr, single_hits(lr, found) | hot)
    assert (whole != lr).sum() >= len(lr) + 4
    mended = Mended(lr, found, hot)
    pieces = [mended[at : at + size] for at in range(0, len(lr), size)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_wrong_gain_is_said_and_corrected(movies):
    movie = movies[3]
    bright = type("Movie", (), vars(movie) | {"lr": 1.1 * movie.lr})()
    clean = reconstruct(baselines.adaptive_blend, movie, device="cpu")
    with pytest.warns(UserWarning, match=r"wrong gain: the fast camera reads \+(9|10)"):
        found = reconstruct(baselines.adaptive_blend, bright, device="cpu")
    assert abs(found.table["psnr"].mean() - clean.table["psnr"].mean()) < 0.1
    assert found.settings["camera_from"] == "measured"
    gain = float(re.search(r"gain=([\d.]+)", found.settings["camera"])[1])
    assert abs(gain - 1.1) < 0.01


def test_the_double_mode_measures_on_no_key_frame_that_is_held_out():
    movie = recorded(3004, n_frames=41)
    ruined = type("Movie", (), vars(movie) | {"hr": movie.hr.copy()})()
    ruined.hr[2] = 0.5
    clean, other = (
        reconstruct(baselines.linear, m, "double", device="cpu") for m in (movie, ruined)
    )
    assert clean.settings["camera"] == other.settings["camera"]


def as_files(movie, lr16):
    hr16 = (3000 * movie.hr).round().clip(0).astype(np.uint16)
    n = len(movie.hr)
    timing = match_clocks(
        FastRecord(200, 200 * np.arange(len(lr16))),
        SlowRecord(5e5, np.arange(n), 2000 * np.arange(n), np.full(n, True)),
    )
    return Recording(lr16, hr16, timing)


def test_a_recording_is_inspected_too():
    movie = recorded(3006, shape=(64, 64), n_frames=41)
    lr16 = (3000 * movie.lr).round().clip(0).astype(np.uint16)
    aligned = SpatialCalibration(Transform(), 1e-6 * np.eye(5), None, (64, 64), (16, 16), (1, 0))
    white = (2700.0, 3000.0)
    for mode in ("continuous", "double"):
        pairs = ActualPairs(as_files(movie, lr16), aligned, mode=mode, white=white)
        with pytest.warns(UserWarning, match=r"wrong gain: the fast camera reads \+1[01]"):
            found = reconstruct(baselines.adaptive_blend, pairs, mode=mode, device="cpu")
        assert found.settings["camera_from"] == "measured"
        assert re.search(r"sigma=2\.[0-3].*gain=1\.1", found.settings["camera"])
    hot = lr16.copy()
    hot[:, 7, 6] = 4000
    pairs = ActualPairs(as_files(movie, hot), aligned, white=(3000.0, 3000.0))
    with pytest.warns(UserWarning, match="hot pixels: 1 pixel"):
        mended = reconstruct(baselines.detail_injection, pairs, mode="double", device="cpu")
    assert np.abs(mended.frames - movie.hr[1:-1])[:, 28:32, 24:28].mean() < 0.2


def test_a_guessed_open_beam_that_is_none_is_said():
    shape = (32, 64)  # the lower half, metal only
    aligned = SpatialCalibration(Transform(), 1e-6 * np.eye(5), None, shape, (8, 16), (1, 0))
    for seed in (3006, 3007, 3008):
        movie = recorded(seed, shape=(64, 64), n_frames=41)
        lr16 = (3000 * movie.lr).round().clip(0).astype(np.uint16)
        whole = as_files(movie, lr16)
        metal = Recording(whole.lr[:, 8:], whole.hr[:, 32:], whole.timing)
        with pytest.warns(UserWarning, match="no open beam"):
            ActualPairs(metal, aligned)


def test_refusals(movies):
    movie = movies[0]
    with pytest.raises(ValueError, match="expected"):
        camera(movie.lr[:, 1:], movie.hr, movie.key_times)
    with pytest.raises(ValueError, match="one time for each key frame"):
        camera(movie.lr, movie.hr, movie.key_times[:-1])
    with pytest.raises(ValueError, match="0 key frames have the time of a fast frame"):
        camera(movie.lr, movie.hr, movie.key_times + 1000)
