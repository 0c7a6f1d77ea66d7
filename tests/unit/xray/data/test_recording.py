"""A hand-made experiment on disk: what is read, and which samples come of it."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from helpers.io import load_h5, load_tif, save_h5
from helpers.xray import baselines
from helpers.xray.calibrate import SpatialCalibration
from helpers.xray.cameras import Transform, coarsen, looked_up, register
from helpers.xray.data import ActualPairs, flat, match_clocks, read_recording
from helpers.xray.data.metadata import FastRecord, SlowRecord, read_shimadzu
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
    before_last = min(before, n_slow - 1)
    first = np.full(HR, 500 + before_last, np.uint16)
    first[:, 0] = 900  # a mark at the left
    tifffile.imwrite(slow / f"img_{before_last:06d}.tif", first)
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
    assert recording.lr.shape == (25, *LR) and recording.hr.shape == (7, *HR)
    assert recording.numbers.tolist() == [1, 2, 3, 4, 5, 6, 7], "one came before the fast camera"
    assert recording.lr[:, 0, 0].tolist() == list(range(500, 525))
    assert (recording.hr[0, :, -1] == 900).all(), "the slow camera's frames are mirrored"
    np.testing.assert_array_equal(recording.timing.key_times, [0, 4, 8, 12, 16, 20, 24])
    assert recording.timing.held_out() == [1, 2, 3, 4, 5]


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


class Counted:
    """Frames that note which of them were read."""

    def __init__(self, frames):
        self.frames, self.read = frames, set()
        self.shape, self.dtype, self.ndim = frames.shape, frames.dtype, frames.ndim

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, which):
        self.read |= set(np.atleast_1d(np.arange(len(self))[which]).tolist())
        return self.frames[which]


@pytest.mark.parametrize("white", [WHITE, None])
def test_frames_in_a_file_are_read_when_a_sample_needs_them(tmp_path, white):
    whole = read_recording(write_experiment(tmp_path / "run", n_fast=161, n_slow=41))
    save_h5(tmp_path / "run.h5", {"lr": whole.lr, "hr": whole.hr})
    tree, _ = load_h5(tmp_path / "run.h5", lazy=True)
    lr, hr = Counted(tree["lr"]), Counted(tree["hr"])
    shifted = SpatialCalibration(Transform(tx=2.5), np.eye(5), None, HR, LR, (1.0, 0.0))
    lazy = ActualPairs(replace(whole, lr=lr, hr=hr), shifted, white=white)
    first = lazy[0]
    assert len(lr.read) < 30 and len(hr.read) < 30  # always: no chance in it
    memory = ActualPairs(whole, shifted, white=white)
    for a, b in zip((first, lazy[9]), (memory[0], memory[9]), strict=True):
        for mine, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(mine, other)
    for mine, other in zip(lazy.co_exposed(), memory.co_exposed(), strict=True):
        np.testing.assert_array_equal(mine[:], other)


@pytest.mark.parametrize("white", [WHITE, None])
def test_fast_frames_are_registered_once(recording, white, monkeypatch):
    registered = []

    def counted(frames, places):
        registered.append(len(frames))
        return looked_up(frames, places)

    monkeypatch.setattr("helpers.xray.data.folders.looked_up", counted)
    turned = SpatialCalibration(Transform(theta=0.02, tx=2.5), np.eye(5), None, HR, LR, (1.0, 0.0))
    found, *_ = ActualPairs(recording, turned, white=white).co_exposed()
    assert sum(registered) == len(recording.lr) == 25
    expected = register(recording.lr.astype(np.float32), turned)
    np.testing.assert_allclose(found / found.mean(), expected / expected.mean(), rtol=1e-6)


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


def test_a_ratio_that_is_not_whole_holds_out_the_nearest_frames(tmp_path):
    """Slow frames every 4.3 fast ones: at 0, 4.3, 8.6, 12.9, 17.2, 21.5."""
    recording = read_recording(write_experiment(tmp_path / "run", n_slow=7, jitter=0.3))
    with pytest.warns(UserWarning, match=r"4.30 fast ones, no whole number: .* 0.50 frames away"):
        pairs = ActualPairs(recording, ALIGNED, white=WHITE)
    assert [s.target for s in pairs.selections] == [1, 2, 3, 4]
    assert [s.lr[1] for s in pairs.selections] == [4, 9, 13, 17]
    np.testing.assert_allclose([s.tau for s in pairs.selections], 0.5, atol=1e-6)
    assert values(pairs[1])[3:] == [2, 4, 3]
    _, hr, times = pairs.co_exposed()  # those that are no target
    np.testing.assert_allclose(times, [0, 21.5], atol=0.01)
    np.testing.assert_allclose(hr[:, 0, 0], [0.501, 0.506], atol=1e-6)


def test_a_part_of_the_slow_frames_goes_by_its_numbers(tmp_path):
    root = write_experiment(tmp_path / "run", n_slow=8)
    for n in (0, 1, 2, 7):
        (root / f"phantom/img_{n:06d}.tif").unlink()
    with pytest.warns(UserWarning, match="4 of the 8 frames of its XML: .* frames 3 to 6"):
        recording = read_recording(root, tolerance_ns=10)
    assert recording.numbers.tolist() == [3, 4, 5, 6]
    np.testing.assert_allclose(recording.timing.key_times, [0, 4, 8, 12])
    (root / "phantom/img_000003.tif").rename(root / "phantom/img_000008.tif")
    with pytest.raises(ValueError, match="lacks the frames 7"):
        read_recording(root)
    for n in (4, 5, 6):
        (root / f"phantom/img_{n:06d}.tif").unlink()
    with pytest.raises(ValueError, match="1 frames but the metadata tell of 8: 7 missing"):
        read_recording(root)


def test_one_file_of_many_pages_is_a_movie(tmp_path):
    root = write_experiment(tmp_path / "run")
    single = read_recording(root)
    for folder, name in ((root / "phantom", "movie_1.tif"), (root / "TIFF16/0001", "all.tiff")):
        paths = sorted(folder.glob("*.tif*"))
        pages = np.stack([tifffile.imread(path) for path in paths])
        for path in paths:
            path.unlink()
        tifffile.imwrite(folder / name, pages, photometric="minisblack")
    paged = read_recording(root)
    np.testing.assert_array_equal(paged.hr, single.hr)
    np.testing.assert_array_equal(paged.lr, single.lr)
    tifffile.imwrite(
        root / "phantom/movie_1.tif", np.zeros((3, *HR), "uint16"), photometric="minisblack"
    )
    with pytest.raises(ValueError, match="3 frames but the metadata tell of 8: 5 missing"):
        read_recording(root)


def test_the_fast_cameras_own_format_is_named(tmp_path):
    root = write_experiment(tmp_path / "run")
    shutil.rmtree(root / "TIFF16")
    (root / "run.dat").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"run.dat is in the fast camera's own format: export"):
        read_recording(root)


def test_without_the_flag_the_first_frame_is_given(tmp_path):
    root = write_experiment(tmp_path / "run", before=8)
    recording = read_recording(root, start=1)
    assert recording.numbers.tolist() == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(recording.timing.key_times, 4.0 * np.arange(7))


@pytest.mark.parametrize("speed", ["1,000ns", "1us", "1 µs", "0.001ms", "0.000001 s"])
def test_times_have_a_unit(tmp_path, speed):
    found = read_shimadzu(write_ini(tmp_path / "a.ini", ["0", "1,000", "2us"], speed=speed))
    assert found.period_ns == 1000 and found.times_ns.tolist() == [0, 1000, 2000]


def test_a_missing_experiment_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_recording(tmp_path / "none")


def test_experiments_that_cannot_be_used_are_named(tmp_path, recording):
    short = read_recording(write_experiment(tmp_path / "short", n_slow=3))
    with pytest.raises(ValueError, match="three in a row are needed"):
        ActualPairs(short, ALIGNED, white=WHITE)
    with pytest.raises(ValueError, match="mode is 'virtual': use 'double' or 'continuous'"):
        ActualPairs(recording, ALIGNED, mode="virtual")
    other = SpatialCalibration(Transform(), np.eye(5), None, (12, 18), LR, (1.0, 0.0))
    with pytest.raises(ValueError, match=r"\(10, 18\) but the calibration was made for \(12, 18\)"):
        ActualPairs(recording, other)
    other = SpatialCalibration(Transform(), np.eye(5), None, HR, (4, 6), (1.0, 0.0))
    with pytest.raises(ValueError, match=r"fast frames are \(3, 5\) but .* was made for \(4, 6\)"):
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


SEEN_ALL = SpatialCalibration(Transform(), np.eye(5), None, (64, 64), (16, 16), (1.0, 0.0))


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


def test_many_dead_pixels_are_filled_from_good_ones(recording):
    """A cluster has no good neighbour in its middle."""
    white = np.full(HR, 1000.0)
    white[3:8, 6:11] = 0
    with pytest.warns(UserWarning, match="25 pixels of the slow camera"):
        pairs = ActualPairs(recording, ALIGNED, white=(1000.0, white))
    whole = ActualPairs(recording, ALIGNED, white=WHITE)
    np.testing.assert_allclose(pairs[0].target, whole[0].target)
    white[3:8, 6:11] = np.nan  # who gives NaN knows of them
    dark = np.zeros(HR)
    dark[4, 8] = np.nan
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*pixels of the")
        pairs = ActualPairs(recording, ALIGNED, white=(1000.0, white), dark=(0.0, dark))
    np.testing.assert_allclose(pairs[0].target, whole[0].target)


def test_the_beam_may_drift(recording):
    drift = 1 + 0.1 * np.sin(np.arange(25)), 1 + 0.1 * np.cos(np.arange(7))
    lr, hr = (
        f * d[:, None, None] for f, d in zip((recording.lr, recording.hr), drift, strict=True)
    )
    drifting = replace(recording, lr=lr, hr=hr)
    corrected = ActualPairs(drifting, ALIGNED, white=WHITE, drift=drift)
    plain = ActualPairs(recording, ALIGNED, white=WHITE)
    for a, b in zip(corrected[2][:2], plain[2][:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    with pytest.raises(ValueError, match=r"drift of the slow camera is \(25,\) and it has 7"):
        ActualPairs(recording, ALIGNED, white=WHITE, drift=(None, drift[0]))


def test_saturated_frames_are_told():
    recording = recorded(slice(None), 3000, 3000)
    clipped = replace(recording, hr=np.minimum(recording.hr, 2400))
    with pytest.warns(UserWarning, match=r"saturated: .* % of the readings of the slow camera"):
        ActualPairs(clipped, SEEN_ALL, white=(3000.0, 3000.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ActualPairs(recording, SEEN_ALL, white=(3000.0, 3000.0))


# What comes of it in a reconstruction


def test_dust_that_stands_in_the_beam_goes_with_the_flats():
    recording = recorded(slice(None), 3000, 3000)
    y, x = np.mgrid[:64, :64]
    dust = 1 - 0.3 * np.exp(-((y - 9) ** 2 + (x - 40) ** 2) / 8)
    seen = dust.reshape(16, 4, 16, 4).mean((1, 3))
    lr, hr = recording.lr * seen, recording.hr * dust
    flats = tuple(flat(np.stack([3000 * d] * 3), dark=1e-6).mean for d in (seen, dust))
    clean, cleaned = (
        reconstruct(baselines.linear, ActualPairs(r, SEEN_ALL, mode="continuous", white=w))
        for r, w in (
            (recording, (3000.0, 3000.0)),
            (replace(recording, lr=lr, hr=hr), flats),
        )
    )
    np.testing.assert_allclose(cleaned.frames, clean.frames, atol=1e-5)


@pytest.mark.parametrize("ending", ["h5", "tif"])
def test_a_result_keeps_its_scale_and_its_clock(tmp_path, ending):
    recording = recorded(slice(None), 3000, 3000)
    pairs = ActualPairs(
        recording, SEEN_ALL, mode="continuous", white=(3000.0, 3000.0), pixel_size=1.31
    )
    result = reconstruct(baselines.linear, pairs)
    assert result.pixel_size == 1.31
    np.testing.assert_allclose(result.seconds, 2e-7 * np.arange(20))
    for k, path in enumerate((tmp_path / f"a.{ending}", tmp_path / f"b.{ending}")):
        if k:
            reconstruct(baselines.linear, pairs, out=path)
        else:
            result.save(path)
        if ending == "tif":
            tif = load_tif(path)
            assert (tif.pixel_size, tif.unit) == (pytest.approx(1.31), "µm")
            assert tif.time_step == pytest.approx(2e-7)
        else:
            tree, notes = load_h5(path)
            assert notes["pixel_size_um"] == 1.31
            np.testing.assert_array_equal(tree["seconds"], result.seconds)


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
