"""Phantom .cine files, written byte by byte from the description of the format."""

import struct

import numpy as np
import pytest

from helpers.xray.data import read_frames, read_recording
from helpers.xray.data.cine import Cine
from tests.unit.xray.files import write_ini, write_tifs

BITS = {8: np.uint8, 16: "<u2"}


def write_cine(
    path,
    frames,
    times_ns,
    *,
    bits=16,
    packing=0,
    compression=0,
    cfa=0,
    first=-3,
    version=1,
    height=None,
    with_times=True,
    note=b"",
):
    """CINEFILEHEADER, BITMAPINFOHEADER, SETUP, tagged blocks, places of the images, images."""
    n, rows, columns = frames.shape
    off_bitmap, off_setup = 44, 84
    length = 1000
    blocks = b""
    if with_times:
        stamps = b""
        for t in times_ns:
            whole, part = divmod(int(t) + 1_700_000_000 * 10**9, 10**9)
            stamps += struct.pack("<II", round(part * 2**32 / 1e9), whole)
        exposures = struct.pack("<IHH", 8 + 4 * n, 1003, 1) + bytes(4 * n)
        blocks = exposures + struct.pack("<IHH", 8 + len(stamps), 1002, 0) + stamps
    off_places = off_setup + length + len(blocks)
    images, place, places = b"", off_places + (8 if version else 4) * n, []
    for frame in frames:
        if packing == 1024:  # two pixels in three bytes, the higher bits first, from the top
            pairs = frame.reshape(-1, 2).tolist()
            data = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in pairs)
        else:
            upside_down = frame[::-1] if (height or rows) > 0 else frame
            data = upside_down.astype(BITS[bits]).tobytes()
        head = struct.pack("<I", 8 + len(note)) + note + struct.pack("<I", len(data))
        places.append(place)
        images += head + data
        place += len(head) + len(data)
    header = struct.pack("<2sHHH", b"CI", 44, compression, version)
    header += struct.pack("<iIiI", first, n, first, n)
    header += struct.pack("<III", off_bitmap, off_setup, off_places) + struct.pack("<II", 0, 0)
    bitmap = struct.pack("<IiiHHI", 40, columns, height or rows, 1, bits, packing)
    bitmap += struct.pack("<IiiII", 0, 0, 0, 0, 0)
    setup = bytearray(length)
    setup[140:144] = struct.pack("<2sH", b"ST", length)
    setup[768:772] = struct.pack("<I", 71428)
    setup[808:812] = struct.pack("<I", cfa)
    table = struct.pack(f"<{n}{'q' if version else 'I'}", *places)
    path.write_bytes(header + bitmap + bytes(setup) + blocks + table + images)
    return path


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 4096, (5, 6, 8)).astype(np.uint16)


TIMES = 14_000 * np.arange(5)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"note": b"camera 1"},
        {"version": 0},
        {"height": -6},
        {"packing": 1024},
        {"bits": 8},
    ],
)
def test_frames_numbers_and_times(tmp_path, frames, kind):
    if kind.get("bits") == 8:
        frames = (frames // 16).astype(np.uint8)
    cine = Cine(write_cine(tmp_path / "a.cine", frames, TIMES, **kind))
    assert cine.shape == (5, 6, 8)
    read = cine[:]
    assert read.dtype == frames.dtype
    np.testing.assert_array_equal(read, frames)
    np.testing.assert_array_equal(cine[3:1:-1], frames[3:1:-1])
    assert cine.record.numbers.tolist() == [-3, -2, -1, 0, 1]
    np.testing.assert_array_equal(cine.record.times_ns, TIMES)
    assert cine.record.rate_hz == 71428 and not cine.record.exposing.any()
    np.testing.assert_array_equal(
        read_frames(tmp_path / "a.cine", mirrored=True)[..., 0], frames[..., -1]
    )


def test_times_across_a_full_second(tmp_path, frames):
    times = 999_980_000 + 14_000 * np.arange(5)
    found = Cine(write_cine(tmp_path / "a.cine", frames, times)).record.times_ns
    np.testing.assert_array_equal(found, TIMES)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ({"compression": 1}, "compressed as JPEG: save it as a plain grey"),
        ({"cfa": 3}, "in colour"),
        ({"packing": 256}, "10 bits, which are not proportional to the light"),
        ({"packing": 2}, "of 16 bits, packing 2"),
        ({"with_times": False}, "has no times of its frames"),
    ],
)
def test_other_kinds_are_refused_in_one_line(tmp_path, frames, kind, match):
    path = write_cine(tmp_path / "a.cine", frames, TIMES, **kind)
    with pytest.raises(ValueError, match=match) as refused:
        Cine(path)
    assert "\n" not in str(refused.value)


def test_broken_files_are_told(tmp_path, frames):
    whole = write_cine(tmp_path / "a.cine", frames, TIMES).read_bytes()
    path = tmp_path / "b.cine"
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="stops in the middle of frame 4: copy it again"):
        Cine(path)[:]
    path.write_bytes(whole[:600])
    with pytest.raises(ValueError, match="middle of its header"):
        Cine(path)
    path.write_bytes(b"II" + whole[2:])
    with pytest.raises(ValueError, match="is no .cine: it does not begin with CI"):
        Cine(path)
    path.write_bytes(whole[:224] + b"xx" + whole[226:])
    with pytest.raises(ValueError, match="no setup of a Phantom"):
        Cine(path)
    path = write_cine(tmp_path / "c.cine", frames, TIMES[[0, 2, 1, 3, 4]])
    with pytest.raises(ValueError, match="time of frame 2"):
        Cine(path)
    with pytest.raises(FileNotFoundError, match="check the name"):
        Cine(tmp_path / "none.cine")


@pytest.mark.parametrize("where", ["", "phantom"])
def test_a_recording_with_a_cine_needs_its_first_frame(tmp_path, frames, where):
    write_ini(tmp_path / "fast.ini", [7000 * k for k in range(5)], speed="7us")
    (tmp_path / "TIFF16").mkdir()
    write_tifs(tmp_path / "TIFF16" / "run", range(5))
    (tmp_path / where).mkdir(exist_ok=True)
    write_cine(tmp_path / where / "run.cine", frames, TIMES)
    found = read_recording(tmp_path, start=-2)
    np.testing.assert_array_equal(found.hr, frames[1:4, :, ::-1])
    assert found.numbers.tolist() == [-2, -1, 0]
    assert found.timing.key_times.tolist() == [0, 2, 4]
    assert found.timing.held_out() == [1]
    still = read_recording(tmp_path, still=True, mirrored=False)
    np.testing.assert_array_equal(still.hr, frames)
    with pytest.raises(ValueError, match=r"say at which slow frame it began: .*start="):
        read_recording(tmp_path)
    with pytest.raises(ValueError, match="start is 7: the slow camera's frames are -3 to 1"):
        read_recording(tmp_path, start=7)
