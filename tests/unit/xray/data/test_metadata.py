"""Hand-made camera files against the tables that one works out on paper."""

import numpy as np
import pytest
import tifffile

from helpers.xray.data import match_clocks, read_phantom, read_shimadzu
from helpers.xray.data.metadata import FastRecord, SlowRecord, read_tif_folder
from tests.unit.xray.files import stamp, write_ini, write_tifs, write_xml

# The files


def test_the_ini_gives_times_from_the_first_frame(tmp_path):
    record = read_shimadzu(write_ini(tmp_path / "a.ini", [500, 1501, 2500, 3499]))
    assert record.period_ns == 1000
    assert record.times_ns.tolist() == [0, 1001, 2000, 2999]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp932"])
def test_the_ini_may_come_from_a_windows_computer(tmp_path, encoding):
    path = write_ini(tmp_path / "a.ini", [0, 10], "10 NS", encoding=encoding)
    path.write_bytes(path.read_bytes() + "\n[MEMO]\nText=試料".encode(encoding))
    assert read_shimadzu(path).period_ns == 10


def test_the_xml_gives_times_flags_and_numbers(tmp_path):
    stamps = [stamp(999990.01, ""), "14:33:06.000 000.01 E", "14:33:06.000 010.53 E"]
    record = read_phantom(write_xml(tmp_path / "a.xml", stamps, first=-2))
    assert record.rate_hz == 100000.5
    assert record.numbers.tolist() == [-2, -1, 0]
    assert record.times_ns.tolist() == [0, 10_000, 20_520]
    assert record.exposing.tolist() == [False, True, True]


def test_the_clock_runs_past_midnight_and_past_a_month(tmp_path):
    stamps = [
        ("Wed Jul 31 2024", "23:59:59.999 990.00 E"),
        ("Thu Aug  1 2024", "00:00:00.000 000.00 E"),
    ]
    assert read_phantom(write_xml(tmp_path / "a.xml", stamps)).times_ns.tolist() == [0, 10_000]


# The table


def test_the_table_is_the_one_worked_out_by_hand(tmp_path):
    """Slow frames every 4 fast ones; frame 0 is not flagged; the fast clock jitters by 5 ns."""
    fast = read_shimadzu(
        write_ini(tmp_path / "a.ini", [0, 1000, 2000, 3000, 4005, 5000, 6000, 7000, 8000, 9000])
    )
    stamps = [stamp(96.0, "")] + [stamp(t) for t in (100.0, 104.0, 108.0, 111.5)]
    slow = read_phantom(write_xml(tmp_path / "a.xml", stamps))
    timing = match_clocks(fast, slow)
    np.testing.assert_allclose(
        timing.key_times, [np.nan, 0, 3 + 1000 / 1005, 8, 9 + 2.5], equal_nan=True
    )
    assert timing.between.tolist() == [
        *([i, 1, 2] for i in range(4)),
        *([i, 2, 3] for i in range(4, 8)),
        *([i, 3, 4] for i in (8, 9)),
    ]
    assert timing.matched.tolist() == [[1, 0], [2, 4], [3, 8]]
    assert timing.held_out() == [2]


def test_a_fast_frame_at_the_moment_of_a_slow_one_lies_after_it():
    fast = FastRecord(10, np.arange(6) * 10)
    slow = SlowRecord(2e7, np.arange(2), np.array([0, 50]), np.full(2, True))
    timing = match_clocks(fast, slow)
    assert timing.between.tolist() == [[i, 0, 1] for i in range(5)]  # at 50 nothing comes after


@pytest.mark.parametrize(("late", "matches"), [(10, 3), (11, 2), (-10, 3), (-11, 2)])
def test_ten_nanoseconds_are_the_limit(late, matches):
    fast = FastRecord(100, np.arange(12) * 100)
    slow = SlowRecord(2.5e6, np.arange(3), np.array([0, 400 + late, 800]), np.full(3, True))
    assert len(match_clocks(fast, slow).matched) == matches
    assert len(match_clocks(fast, slow, tolerance_ns=11).matched) == 3


def test_an_estimated_offset_shifts_the_table():
    fast = FastRecord(100, np.arange(12) * 100)
    slow = SlowRecord(2.5e6, np.arange(3), np.arange(3) * 400, np.full(3, True))
    timing = match_clocks(fast, slow, offset_ns=150)
    np.testing.assert_allclose(timing.key_times, [1.5, 5.5, 9.5])
    assert timing.between[0].tolist() == [2, 0, 1] and len(timing.matched) == 0


def test_frames_that_are_not_consecutive_cannot_be_held_out():
    fast = FastRecord(100, np.arange(20) * 100)
    times = np.array([0, 400, 850, 1200, 1600])
    slow = SlowRecord(2.5e6, np.arange(5), times, np.full(5, True))
    timing = match_clocks(fast, slow)
    assert timing.matched[:, 0].tolist() == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="not consecutive: 3 follows 1"):
        timing.held_out()


# The folder


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    folder = write_tifs(tmp_path / "a", [9, 11, 10])
    (folder / "notes.xml").write_text("<a/>")
    tifffile.imwrite(folder / "x12.tiff", np.full((3, 4), 65535, np.uint16))
    frames = read_tif_folder(folder, n_frames=4)
    assert frames.dtype == np.uint16 and frames.shape == (4, 3, 4)
    assert frames[:, 0, 0].tolist() == [9, 10, 11, 65535]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "img_000002.tif").unlink(), r"lacks the frames 2: copy"),
        (lambda f: (f / "img_000004.tif").unlink(), r"4 frames but .* tell of 5: 1 missing"),
        (lambda f: write_tifs(f, [5, 6]), r"7 frames but .* tell of 5: 2 too many, remove"),
        (lambda f: (f / "img_2.tif").write_bytes(b""), "have the same number"),
        (lambda f: (f / "mean.tif").write_bytes(b""), "mean.tif has no frame number"),
        (lambda f: write_tifs(f, [3], dtype=np.uint8), "000003.tif is uint8, expected uint16"),
        (lambda f: write_tifs(f, [3], shape=(4, 4)), "000003.tif is 4 x 4, expected .* 3 x 4"),
        (lambda f: write_tifs(f, [0], shape=(2, 3, 4)), "000000.tif is 2 x 3 x 4"),
        (lambda f: (f / "img_000001.tif").write_bytes(b"II*"), "not a whole TIFF"),
        (lambda f: [p.unlink() for p in f.iterdir()], "holds no .tif"),
    ],
)
def test_a_spoilt_folder_is_named(tmp_path, spoil, message):
    folder = write_tifs(tmp_path / "a", range(5))
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        read_tif_folder(folder, n_frames=5)


def test_missing_files_are_named(tmp_path):
    for read in (read_shimadzu, read_phantom, read_tif_folder):
        with pytest.raises(FileNotFoundError, match="nowhere is not a f"):
            read(tmp_path / "nowhere")


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><chd>&c;</chd>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/hostname"><chd/>'


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_text("<chd><a></chd>"), "not readable XML .*mismatched"),
        (lambda p: p.write_bytes(b""), "not readable XML"),
        (lambda p: write_xml(p, [stamp(1)]) and p.write_bytes(p.read_bytes()[:-9]), "truncated"),
        (lambda p: p.write_text(BOMB), "has a DOCTYPE"),
        (lambda p: p.write_bytes(BOMB.encode("utf-16")), "has a DOCTYPE"),
        (lambda p: p.write_text(OUTSIDE), "has a DOCTYPE"),
        (lambda p: p.write_text("<chd/>"), "FrameRateDouble is nothing: expected a number"),
        (lambda p: write_xml(p, [stamp(1)], rate="fast"), "FrameRateDouble is 'fast'"),
        (lambda p: write_xml(p, [stamp(1)], gamma="0.45"), "gamma is 0.45: record again"),
        (lambda p: write_xml(p, []), "has no Time"),
        (lambda p: write_xml(p, ["14:33:05"]), "Time is '14:33:05', expected such as"),
        (lambda p: write_xml(p, [stamp(1)], day="18.7.2024"), "Date is '18.7.2024', expected"),
        (lambda p: write_xml(p, [stamp(2), stamp(1)]), "time of frame 1 .* is not after"),
    ],
)
def test_bad_xml_is_named(tmp_path, write, message):
    path = tmp_path / "a.xml"
    write(path)
    with pytest.raises(ValueError, match=message):
        read_phantom(path)


def test_frames_without_a_number_are_named(tmp_path):
    path = write_xml(tmp_path / "a.xml", [stamp(1)])
    path.write_text(path.read_text().replace('Time Frame="-1"', 'Time Frame="x"'))
    with pytest.raises(ValueError, match="a Time has no whole number as its Frame"):
        read_phantom(path)


def test_gaps_in_the_xml_are_named(tmp_path):
    path = write_xml(tmp_path / "a.xml", [stamp(1), stamp(2), stamp(3)], first=4)
    text = path.read_text()
    path.write_text(text.replace('<Time Frame="5">14:33:05.000 002.00 E</Time>', ""))
    with pytest.raises(ValueError, match="lacks the times of frames 5"):
        read_phantom(path)
    path.write_text(text.replace('<Date Frame="5">', '<Date Frame="9">'))
    with pytest.raises(ValueError, match="frame 5 has a Time but no Date"):
        read_phantom(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_text("no section"), "not an INI file"),
        (lambda p: p.write_bytes(b"\x81\x00\xff"), "is not text"),
        (lambda p: p.write_text("[REC_INFO]\nRecFrame=1"), r"no RecSpeed in \[REC_INFO\]"),
        (lambda p: write_ini(p, [0, 1], "5"), "RecSpeed .* is '5', expected a time such as"),
        (lambda p: write_ini(p, [0, 1], n_frames="two"), "RecFrame .* 'two', expected a whole"),
        (lambda p: write_ini(p, [0, 1], n_frames=3), r"no ImageRelative in \[IMAGE_INFO_3\]"),
        (lambda p: write_ini(p, [0, 1.5]), "no whole nanoseconds"),
        (lambda p: write_ini(p, [0, 5, 5]), "time of frame 2 .* is not after"),
    ],
)
def test_bad_ini_is_named(tmp_path, write, message):
    write(tmp_path / "a.ini")
    with pytest.raises(ValueError, match=message):
        read_shimadzu(tmp_path / "a.ini")


@pytest.mark.parametrize(
    ("n_fast", "flag", "message"),
    [(2, True, "2 fast frames: a clip needs at least three"), (9, False, "no slow frame carries")],
)
def test_clocks_that_cannot_be_matched_are_named(n_fast, flag, message):
    fast = FastRecord(10, np.arange(n_fast) * 10)
    slow = SlowRecord(1.0, np.arange(3), np.arange(3) * 40, np.full(3, flag))
    with pytest.raises(ValueError, match=message):
        match_clocks(fast, slow)


def test_two_matches_are_too_few_to_hold_one_out():
    fast = FastRecord(10, np.arange(6) * 10)
    slow = SlowRecord(1.0, np.arange(2), np.arange(2) * 40, np.full(2, True))
    with pytest.raises(ValueError, match="2 slow frames have a fast frame of the same moment"):
        match_clocks(fast, slow).held_out()
