"""Phantom .cine files: grey frames with their numbers and times."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from .metadata import SlowRecord

HEADER = struct.Struct("<2sHHHiIiIIIIQ")  # CINEFILEHEADER
BITMAP = struct.Struct("<IiiHHI")  # beginning of BITMAPINFOHEADER
BLOCK = struct.Struct("<IHH")  # size, type and reserved word before a tagged block
TIMES = 1002  # type of the block with a TIME64 for each image
# places in SETUP, which is packed
MARK, FRAME_RATE, CFA = 140, 768, 808
PLAIN, PACKED_10, PACKED_12 = 0, 256, 1024  # biCompression


class Cine:
    """A Phantom .cine file, opened; frames are read when they are asked for.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    shape : (int, int, int)
        Frames, rows, columns.
    record : SlowRecord
        Numbers count from the trigger. The format says nothing of other cameras, so that no frame
        is `exposing`.

    Raises
    ------
    FileNotFoundError, ValueError
        No file, no .cine, one that stops in the middle, or frames that are not plain grey: colour,
        JPEG, or packed in 10 bits, which are not proportional to the light.

    Notes
    -----
    All numbers are little-endian. A header of 44 bytes tells where a BITMAPINFOHEADER, the SETUP
    and the places of the images are; tagged blocks between SETUP and images hold the times, as 32
    bits of seconds above 32 bits of a fraction. Before the pixels of an image stands an
    annotation. Rows come from the bottom up, but from the top down where pixels are packed in
    12 bits, two in three bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file: check the name")
        self.size = self.path.stat().st_size
        kind, _, compression, version, _, _, first, count, bitmap, setup, places, _ = self._unpack(
            HEADER, 0
        )
        if kind != b"CI":
            raise ValueError(f"{self.path} is no .cine: it does not begin with CI")
        _, width, height, _, self.bits, self.packing = self._unpack(BITMAP, bitmap)
        mark, length = self._unpack(struct.Struct("<2sH"), setup + MARK)
        if mark != b"ST":
            raise ValueError(f"{self.path} has no setup of a Phantom camera: copy it again")
        self._check_kind(compression, self._number(setup, CFA, length))
        self.shape = count, abs(height), width
        self.upwards = height > 0 and self.packing == PLAIN
        self.places = self._array(places, count, "<u8" if version else "<u4").astype(np.int64)
        rate = self._number(setup, FRAME_RATE, length)
        self.record = SlowRecord(
            float(rate),
            first + np.arange(count),
            self._times(setup + length, places, count),
            np.zeros(count, bool),
        )

    def __getitem__(self, which: slice) -> np.ndarray:
        """Frames (n, Y, X), uint8 or uint16."""
        numbers = range(self.shape[0])[which]
        kind = np.uint8 if self.bits == 8 and self.packing == PLAIN else np.uint16
        frames = np.empty((len(numbers), *self.shape[1:]), kind)
        with self.path.open("rb") as file:
            for k, n in enumerate(numbers):
                frames[k] = self._frame(file, n)
        return frames

    def _frame(self, file: Any, n: int) -> np.ndarray:
        _, height, width = self.shape
        file.seek(self.places[n])
        head = file.read(4)
        skip = int.from_bytes(head, "little")
        file.seek(self.places[n] + skip)
        bits = 12 if self.packing == PACKED_12 else self.bits
        wanted = height * width * bits // 8
        data = np.frombuffer(file.read(wanted), np.uint8)
        if len(head) < 4 or skip < 8 or len(data) < wanted:
            raise ValueError(f"{self.path} stops in the middle of frame {n}: copy it again")
        if self.packing == PACKED_12:
            a, b, c = (part.astype(np.uint16) for part in data.reshape(-1, 3).T)
            pixels = np.stack([a << 4 | b >> 4, (b & 15) << 8 | c], axis=1).reshape(height, width)
        else:
            pixels = data.view("<u2" if bits == 16 else np.uint8).reshape(height, width)
        return pixels[::-1] if self.upwards else pixels

    def _check_kind(self, compression: int, colours: int) -> None:
        found = None
        if compression == 1:
            found = "compressed as JPEG"
        elif colours or self.bits in (24, 48):
            found = "in colour"
        elif self.packing == PACKED_10:
            found = "packed in 10 bits, which are not proportional to the light"
        elif self.packing not in (PLAIN, PACKED_12) or self.bits not in (8, 16):
            found = f"of {self.bits} bits, packing {self.packing}"
        if found:
            raise ValueError(f"{self.path} is {found}: save it as a plain grey cine of 16 bits")

    def _times(self, start: int, end: int, count: int) -> np.ndarray:
        """Nanoseconds since the first frame."""
        while start + BLOCK.size <= end:
            size, kind, more = self._unpack(BLOCK, start)
            if kind == TIMES:
                stamps = self._array(start + BLOCK.size, count, "<u8")
                seconds = (stamps >> np.uint64(32)).astype(np.int64)
                parts = (stamps & np.uint64(2**32 - 1)).astype(np.float64) / 2**32
                times = (seconds - seconds[0]) * 10**9 + np.rint(parts * 1e9).astype(np.int64)
                if (late := np.flatnonzero(np.diff(times) <= 0)).size:
                    raise ValueError(
                        f"{self.path}: the time of frame {late[0] + 1} (from 0) is not after the "
                        "one before"
                    )
                return np.asarray(times - times[0])
            if not more or size < BLOCK.size:
                break
            start += size
        raise ValueError(f"{self.path} has no times of its frames: save it with them")

    def _number(self, setup: int, at: int, length: int) -> int:
        """A 32-bit number of SETUP; 0 in files too old to have it."""
        return int(self._unpack(struct.Struct("<I"), setup + at)[0]) if at + 4 <= length else 0

    def _unpack(self, layout: struct.Struct, at: int) -> tuple[Any, ...]:
        return layout.unpack(self._bytes(at, layout.size))

    def _array(self, at: int, count: int, kind: str) -> np.ndarray:
        return np.frombuffer(self._bytes(at, count * np.dtype(kind).itemsize), kind)

    def _bytes(self, at: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(at)
            data = file.read(size)
        if len(data) < size:
            raise ValueError(f"{self.path} stops in the middle of its header: copy it again")
        return data
