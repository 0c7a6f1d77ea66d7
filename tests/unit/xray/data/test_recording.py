"""A hand-made experiment on disk: what is read, and which samples come of it."""

import numpy as np
import pytest
import tifffile
import torch

from helpers.xray import baselines
from helpers.xray.calibrate import SpatialCalibration
from helpers.xray.cameras import Transform, coarsen
from helpers.xray.data import ActualPairs, match_clocks, read_recording
from helpers.xray.data.metadata import FastRecord, SlowRecord
from helpers.xray.data.recording import Recording
from helpers.xray.reconstruct import reconstruct
from helpers.xray.simulate import Experiment, simulate
from tests.unit.xray.files import stamp, write_ini, write_tifs, write_xml

HR, LR = (10, 18), (3, 5)  # not divisible by 4
WHITE = (1000.0, 1000.0)


def write_experiment(root, n_fast=25, n_slow=8, ratio=4, before=1, jitter=0):
    """Slow frame k has grey value 500 + k, fast frame i 500 + i; the first one is not flagged."""
    (root / "TIFF16").mkdir(parents=True)
    write_ini(root / "fast.ini", [1000 * i for i in range(n_fast)])
    write_tifs(root / "TIFF16" / "0001", range(n_fast), LR, offset=500, suffix="tiff")
    slow = write_tifs(root / "phantom", range(n_slow), HR, offset=500)
    first = np.full(HR, 500, np.uint16)
    first[:, 0] = 900  # a mark at the left
    tifffile.imwrite(slow / "img_000000.tif", first)
    moments = [100.0 + ratio * (k - before) + jitter * k for k in range(n_slow)]
    stamps = [stamp(moment, "E" * (k >= before)) for k, moment in enumerate(moments)]
    write_xml(slow / "phantom.xml", stamps, first=0)
    return root


@pytest.fixture
def recording(tmp_path):
    return read_recording(write_experiment(tmp_path / "run"))


ALIGNED = SpatialCalibration(Transform(), np.eye(5), None, HR, LR, (1.0, 0.0))


def values(sample):
    images = [*sample.lr, *sample.hr, *([] if sample.target is None else [sample.target])]
    return [round(1000 * float(image[0, 0, 0]) - 500) for image in images]


def test_an_experiment_is_read(recording):
    assert recording.lr.shape == (25, *LR) and recording.hr.shape == (8, *HR)
    assert recording.lr[:, 0, 0].tolist() == list(range(500, 525))
    assert (recording.hr[0, :, -1] == 900).all(), "the slow camera's frames are mirrored"
    np.testing.assert_array_equal(recording.timing.key_times, [np.nan, 0, 4, 8, 12, 16, 20, 24])
    assert recording.timing.held_out() == [2, 3, 4, 5, 6]


def test_frames_may_stay_as_they_are(tmp_path):
    recording = read_recording(write_experiment(tmp_path / "run"), mirrored=False)
    assert (recording.hr[0, :, 0] == 900).all()


def test_double_samples_hold_the_frames_of_the_table(recording):
    pairs = ActualPairs(recording, ALIGNED, white=WHITE)
    assert len(pairs) == 5
    assert values(pairs[0]) == [3, 4, 5, 1, 3, 2]
    assert values(pairs[4]) == [19, 20, 21, 5, 7, 6]
    assert pairs[2].tau == 0.5
    for i in range(len(pairs)):  # at both ends as well
        *_, before, after, target = values(pairs[i])
        assert before < target < after


def test_continuous_samples_have_no_target(recording):
    pairs = ActualPairs(recording, ALIGNED, mode="continuous", white=WHITE)
    assert len(pairs) == 24
    assert all(pairs[i].target is None for i in range(24))
    assert values(pairs[0]) == [0, 0, 1, 1, 2] and pairs[0].tau == 0
    assert values(pairs[5]) == [4, 5, 6, 2, 3] and pairs[5].tau == 0.25
    assert values(pairs[23]) == [22, 23, 24, 6, 7] and pairs[23].tau == 0.75


def test_sizes_are_padded_to_the_stride(recording):
    sample = ActualPairs(recording, ALIGNED, white=WHITE, stride=4)[0]
    assert sample.lr.shape == (3, 1, 4, 8)
    assert sample.hr.shape == (2, 1, 16, 32) and sample.target.shape == (1, 16, 32)


def test_white_and_dark_give_transmission(recording):
    pairs = ActualPairs(recording, ALIGNED, white=(600.0, np.full(HR, 700.0)), dark=(500.0, 490.0))
    sample = pairs[0]
    np.testing.assert_allclose(sample.lr[:, 0, 0, 0], [0.03, 0.04, 0.05], atol=1e-6)
    np.testing.assert_allclose(sample.target[0, :10, :18], 12 / 210, atol=1e-6)
    guessed = ActualPairs(recording, ALIGNED)[0]  # the brightest movie level is the open beam
    assert 0.9 < guessed.target.max() <= 1


def test_frames_are_registered_once_and_the_field_is_known(recording):
    shifted = SpatialCalibration(Transform(tx=5.5), np.eye(5), None, HR, LR, (1.0, 0.0))
    pairs = ActualPairs(recording, shifted, white=WHITE)
    assert pairs.valid.shape == HR
    assert not pairs.valid[:, :4].any() and pairs.valid[:, 4:].all()
    assert pairs[0].lr.shape == (3, 1, 3, 5)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda r: (r / "fast.ini").unlink(), FileNotFoundError, "lacks a .ini file of the fast"),
        (lambda r: (r / "b.ini").write_text("x"), ValueError, r"2 times a .ini file .*b.ini, fast"),
        (lambda r: (r / "phantom/phantom.xml").unlink(), FileNotFoundError, "lacks a .xml file"),
        (lambda r: (r / "phantom/b.xml").write_text("x"), ValueError, "2 times a .xml file"),
        (lambda r: (r / "TIFF16").rename(r / "TIFF8"), FileNotFoundError, "TIFF16 lacks a folder"),
        (lambda r: (r / "TIFF16/0002").mkdir(), ValueError, "2 times a folder with frames"),
        (lambda r: (r / "other").mkdir(), ValueError, "2 times a folder beside TIFF16"),
        (
            lambda r: (r / "TIFF16/0001/img_000024.tiff").unlink(),
            ValueError,
            "24 frames but the metadata tell of 25: 1 missing",
        ),
        (
            lambda r: write_tifs(r / "phantom", [8], HR),
            ValueError,
            "9 frames but the metadata tell of 8: 1 too many",
        ),
        (
            lambda r: write_tifs(r / "TIFF16/0001", [3], LR, dtype=np.uint8, suffix="tiff"),
            ValueError,
            "uint8, expected uint16",
        ),
    ],
)
def test_a_spoilt_experiment_is_named(tmp_path, spoil, error, message):
    root = write_experiment(tmp_path / "run")
    spoil(root)
    with pytest.raises(error, match=message):
        read_recording(root)


def test_a_missing_experiment_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_recording(tmp_path / "none")


def test_experiments_that_cannot_be_used_are_named(tmp_path, recording):
    drifting = read_recording(write_experiment(tmp_path / "drift", jitter=0.3))
    with pytest.raises(ValueError, match="slow frames have a fast frame of the same moment"):
        ActualPairs(drifting, ALIGNED, white=WHITE)
    short = read_recording(write_experiment(tmp_path / "short", n_slow=3))
    with pytest.raises(ValueError, match="three in a row are needed"):
        ActualPairs(short, ALIGNED, white=WHITE)
    with pytest.raises(ValueError, match="mode is 'virtual': use 'double' or 'continuous'"):
        ActualPairs(recording, ALIGNED, mode="virtual")
    other = SpatialCalibration(Transform(), np.eye(5), None, (12, 18), LR, (1.0, 0.0))
    with pytest.raises(ValueError, match=r"\(10, 18\) but the calibration was made for \(12, 18\)"):
        ActualPairs(recording, other)
    with pytest.raises(ValueError, match="fast camera's open beam is not above its dark"):
        ActualPairs(recording, ALIGNED, white=(100.0, 1000.0), dark=(100.0, 0.0))


# Levels of the two cameras


@pytest.mark.parametrize(
    ("white", "message"),
    [
        (3000.0, "white is 3000.0: give two, of the fast and of the slow camera"),
        ((np.full((5, 7), 900.0), 900.0), r"white of the fast camera is \(5, 7\) and its frames"),
        ((900.0, np.full(7, 900.0)), r"white of the slow camera is \(7,\) and its frames"),
        ((np.full(HR, 900.0), np.full(LR, 900.0)), "the two maps of white are exchanged"),
        ((0.0, 900.0), "the fast camera's open beam is not above its dark level"),
        ((900.0, np.zeros(HR)), "the slow camera's open beam is not above its dark level"),
    ],
)
def test_levels_that_do_not_fit_are_named(recording, white, message):
    with pytest.raises(ValueError, match=message):
        ActualPairs(recording, ALIGNED, white=white)


def test_levels_may_come_as_one_array(recording):
    one, two = (ActualPairs(recording, ALIGNED, white=w)[1] for w in (WHITE, np.array(WHITE)))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_dead_pixel_of_the_open_beam_is_filled(recording):
    white = np.full(HR, 1000.0)
    white[4, 7] = 0
    with pytest.warns(UserWarning, match="1 pixels of the slow camera have no open beam"):
        pairs = ActualPairs(recording, ALIGNED, white=(1000.0, white))
    np.testing.assert_allclose(
        pairs[0].target, ActualPairs(recording, ALIGNED, white=WHITE)[0].target
    )


def recorded(columns, fast_level, slow_level):
    """A simulated movie as grey levels, of the fast camera only some columns."""
    movie = simulate(Experiment(shape=(64, 64), n_frames=21), seed=2001)
    levels = (fast_level, movie.lr[..., columns]), (slow_level, movie.hr)
    lr, hr = ((level * frames).round().astype(np.uint16) for level, frames in levels)
    fast = FastRecord(200, 200 * np.arange(21))
    slow = SlowRecord(5e5, np.arange(3), 2000 * np.arange(3), np.full(3, True))
    return Recording(lr, hr, match_clocks(fast, slow))


def test_guessed_open_beams_give_both_cameras_one_gain():
    movie = simulate(Experiment(shape=(64, 64), n_frames=21), seed=2001)
    lr, hr = (
        (gain * x).round().astype(np.uint16) for gain, x in ((2100, movie.lr), (3700, movie.hr))
    )
    fast = FastRecord(200, 200 * np.arange(21))
    slow = SlowRecord(5e5, np.arange(3), 2000 * np.arange(3), np.full(3, True))
    recording = Recording(lr, hr, match_clocks(fast, slow))
    calibration = SpatialCalibration(Transform(), np.eye(5), None, (64, 64), (16, 16), (1.0, 0.0))
    guessed = ActualPairs(recording, calibration)[0]
    ratio = coarsen(guessed.target[0]).mean() / guessed.lr[1, 0].mean()
    assert abs(ratio - 1) < 0.01
    told = ActualPairs(recording, calibration, white=(2100.0, 3700.0))[0]
    gains = [
        float(np.mean(g) / np.mean(t)) for g, t in ((guessed.lr, told.lr), (guessed.hr, told.hr))
    ]
    assert abs(gains[0] / gains[1] - 1) < 0.01


def test_a_grid_that_stands_still_needs_no_flag(tmp_path):
    folder = write_experiment(tmp_path / "grid", before=8)  # no frame carries the flag
    with pytest.raises(ValueError, match="still=True"):
        read_recording(folder)
    grid = read_recording(folder, still=True)
    assert grid.timing is None and grid.lr.mean(0).shape == LR and grid.hr.mean(0).shape == HR
    with pytest.raises(ValueError, match="its frames have no times"):
        ActualPairs(grid, ALIGNED, white=WHITE)


# What comes of it in a reconstruction


def test_a_result_has_the_size_of_the_slow_frames():
    recording = recorded(slice(None), 3000, 3000)
    cut = Recording(recording.lr, recording.hr[:, :62, :63], recording.timing)
    whole = SpatialCalibration(Transform(), np.eye(5), None, (62, 63), (16, 16), (1.0, 0.0))
    pairs = ActualPairs(cut, whole, white=(3000.0, 3000.0), stride=8)
    assert pairs[0].hr.shape == (2, 1, 64, 64)
    result = reconstruct(baselines.linear, pairs, mode="double", ensemble_std=True)
    assert result.frames.shape == result.ensemble_std.shape == (1, 62, 63)
    assert result.valid is None  # the fast camera saw all


def test_nothing_is_invented_or_scored_where_the_fast_camera_saw_nothing():
    recording = recorded(slice(8), 3000, 3000)
    half = SpatialCalibration(Transform(), np.eye(5), None, (64, 64), (16, 8), (1.0, 0.0))
    pairs = ActualPairs(recording, half, white=(3000.0, 3000.0))

    def wild(lr, hr, tau):
        """Right where the fast camera has seen, and wild elsewhere."""
        estimate = hr[:, 0] + 0.1
        estimate[..., ~torch.from_numpy(pairs.valid)] = 1e3
        return estimate

    result = reconstruct(wild, pairs, mode="double")
    assert result.valid.mean() == 0.5 and result.valid[:, :32].all()
    mixed = reconstruct(baselines.linear, pairs, mode="double")
    np.testing.assert_array_equal(result.frames[:, :, 32:], mixed.frames[:, :, 32:])
    error = result.frames[0] - pairs[0].target[0]
    expected = -10 * np.log10(np.mean(error[:, :32] ** 2))
    assert result.table["psnr"][0] == pytest.approx(expected, abs=1e-4)
    assert result.table["aad"][0] == pytest.approx(np.abs(error[:, :32]).mean(), rel=1e-5)
