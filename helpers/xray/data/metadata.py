"""Metadata of the two cameras: frame times, flags and folders of frames."""

from __future__ import annotations

import configparser
import re
import warnings
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import TreeBuilder
from xml.parsers import expat

import numpy as np

from ...io.files import load_tif
from ...io.stacks import Stack

DAY_NS = 86_400 * 10**9
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9}
CLOCK = re.compile(r"(\d+):(\d+):(\d+)\.(\d{3})\s+(\d{3})\.(\d{1,3})(?:\s+(\w))?\s*")


@dataclass(frozen=True)
class FastRecord:
    """Times of the frames of the fast camera.

    Attributes
    ----------
    period_ns : int
        Time from frame to frame, as set.
    times_ns : (T,) int64 array
        Time of each frame, as measured; the first is 0.
    """

    period_ns: int
    times_ns: np.ndarray


@dataclass(frozen=True)
class SlowRecord:
    """Times of the frames of the slow camera.

    Attributes
    ----------
    rate_hz : float
        Frames per second, as set.
    numbers : (K,) int64 array
        The camera's own frame numbers, one after the other.
    times_ns : (K,) int64 array
        Time of each frame since the first one.
    exposing : (K,) bool array
        The flag "E": the fast camera was recording at that moment.
    """

    rate_hz: float
    numbers: np.ndarray
    times_ns: np.ndarray
    exposing: np.ndarray

    def only(self, which: np.ndarray | slice) -> SlowRecord:
        """The record of some of the frames."""
        times = self.times_ns[which]
        return replace(
            self,
            numbers=self.numbers[which],
            times_ns=times - times[:1],
            exposing=self.exposing[which],
        )

    def started(self, number: int, duration_ns: float) -> SlowRecord:
        """The record with the flag on frame `number` and those that follow for a time.

        Raises
        ------
        ValueError
            There is no such frame.
        """
        at = np.flatnonzero(self.numbers == number)
        if not at.size:
            raise ValueError(
                f"start is {number}: the slow camera's frames are {self.numbers[0]} to "
                f"{self.numbers[-1]}"
            )
        since = self.times_ns - self.times_ns[at[0]]
        return replace(self, exposing=(since >= 0) & (since <= duration_ns))


@dataclass(frozen=True)
class Timing:
    """Frames of one camera matched with those of the other; made by `match_clocks`.

    Attributes
    ----------
    key_times : (K,) float array
        When each slow frame was taken, in LR frames; NaN where the fast camera did not record.
    between : (n, 3) int array
        Rows (LR frame, slow frame at or before it, slow frame after it).
    matched : (m, 2) int array
        Rows (slow frame, LR frame of the same moment).
    times_ns : (T,) int array
        Times of the LR frames.
    """

    key_times: np.ndarray
    between: np.ndarray
    matched: np.ndarray
    times_ns: np.ndarray

    def held_out(self) -> list[int]:
        """Give the slow frames that have matched neighbours on both sides, to predict and compare.

        Where the slow period is no whole multiple of the fast one, few frames are of the same
        moment. Then each slow frame counts that lies within half a fast frame of one.

        Returns
        -------
        list of int

        Raises
        ------
        ValueError
            Fewer than three in a row, or frames that are not consecutive: a held-out frame would
            have a neighbour whose gap is another one.
        """
        numbers = self.matched[:, 0]
        if len(numbers) < 3 or (np.diff(numbers) != 1).any():
            in_movie = (self.key_times > -0.5) & (self.key_times < len(self.times_ns) - 0.5)
            near = np.flatnonzero(in_movie)
            ratio = float(np.polyfit(near, self.key_times[near], 1)[0]) if len(near) > 2 else 1.0
            if abs(ratio - round(ratio)) > 0.005:
                off = np.abs(self.key_times[near] - np.rint(self.key_times[near])).max()
                warnings.warn(
                    f"the slow period is {ratio:.2f} fast ones, no whole number: held-out frames "
                    f"are predicted from fast frames up to {off:.2f} frames away, and their scores "
                    "are low for what moves fast",
                    stacklevel=3,
                )
                numbers = near
        if len(numbers) < 3:
            raise ValueError(
                f"{len(numbers)} slow frames have a fast frame of the same moment, and three in a "
                "row are needed to hold one out: record for longer, or widen tolerance_ns"
            )
        jumps = np.flatnonzero(np.diff(numbers) != 1)
        if jumps.size:
            first, then = numbers[jumps[0]], numbers[jumps[0] + 1]
            raise ValueError(
                f"the matched slow frames are not consecutive: {then} follows {first}. Make the "
                "slow period a whole multiple of the fast one, or widen tolerance_ns"
            )
        return numbers[1:-1].tolist()


def read_shimadzu(path: str | Path) -> FastRecord:
    """Read the frame times from the INI file of a Shimadzu camera.

    Parameters
    ----------
    path : str or Path
        With ``RecSpeed`` (such as ``1,000ns``, ``10us``) and ``RecFrame`` in the section
        ``REC_INFO``, and ``ImageRelative`` (ns, where it says no unit) in a section
        ``IMAGE_INFO_i`` for every frame i, from 1.

    Returns
    -------
    FastRecord

    Raises
    ------
    FileNotFoundError, ValueError
        No file, no INI file, an entry is missing or no number, or times that do not rise.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(_text(path))
    except configparser.Error as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not an INI file ({reason}): export it again") from error

    def entry(section: str, name: str, pattern: str, shape: str) -> Any:
        text = parser.get(section, name, fallback=None)
        if text is None:
            raise ValueError(f"{path} has no {name} in [{section}]: it may be of another camera")
        match = re.fullmatch(pattern, text.strip(), re.I)
        if not match:
            raise ValueError(f"{path}: {name} in [{section}] is {text!r}, expected {shape}")
        return match

    def moment(section: str, name: str, need_unit: str) -> int:
        pattern = rf"(-?[\d,]+(?:\.\d+)?)\s*([nuµμm]?s){need_unit}"
        match = entry(section, name, pattern, "a time such as '1,000ns' or '10us'")
        value, unit = Decimal(match[1].replace(",", "")), (match[2] or "ns").lower()
        nanoseconds = value * UNITS[unit]
        if nanoseconds != int(nanoseconds):
            raise ValueError(f"{path}: {name} in [{section}] is {match[0]}: no whole nanoseconds")
        return int(nanoseconds)

    period = moment("REC_INFO", "RecSpeed", "")
    found = entry("REC_INFO", "RecFrame", r"([\d,]+)", "a whole number")
    n_frames = int(found[1].replace(",", ""))
    times = [moment(f"IMAGE_INFO_{i}", "ImageRelative", "?") for i in range(1, n_frames + 1)]
    return FastRecord(period, _rising(times, path))


def read_phantom(path: str | Path) -> SlowRecord:
    """Read the frame times and flags from the XML file of a Phantom camera.

    Parameters
    ----------
    path : str or Path
        With ``FrameRateDouble`` and ``Gamma`` in ``CameraSetup``, and in ``TIMEBLOCK`` a ``Date``
        (``Thu Jul 18 2024``) and a ``Time`` (``14:33:05.123 456.78 E``) for every ``Frame``.

    Returns
    -------
    SlowRecord

    Raises
    ------
    FileNotFoundError, ValueError
        No file, no XML, a document with a DOCTYPE (entities are never expanded), an entry missing
        or unreadable, frames missing, times that do not rise, or a gamma other than 0: the grey
        values would not be proportional to the light.
    """
    root = _parse_xml(path)

    def number(name: str) -> Any:
        text = root.findtext(f"CameraSetup/{name}")
        try:
            return float(text)
        except (TypeError, ValueError) as error:
            found = "nothing" if text is None else repr(text)
            raise ValueError(f"{path}: CameraSetup/{name} is {found}: expected a number") from error

    rate, gamma = number("FrameRateDouble"), number("Gamma")
    if gamma != 0:
        raise ValueError(f"{path}: gamma is {gamma:g}: record again with gamma 0")
    days = {_frame(node, path): _day(node.text, path) for node in root.iterfind("TIMEBLOCK/Date")}
    moments, exposing = {}, {}
    for node in root.iterfind("TIMEBLOCK/Time"):
        frame = _frame(node, path)
        if frame not in days:
            raise ValueError(f"{path}: frame {frame} has a Time but no Date: export it again")
        time, flag = _clock(node.text, path)
        moments[frame], exposing[frame] = days[frame] * DAY_NS + time, flag == "E"
    if not moments:
        raise ValueError(f"{path} has no Time in TIMEBLOCK: export the XML with the time stamps")
    numbers = sorted(moments)
    if absent := sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)):
        raise ValueError(f"{path} lacks the times of frames {_some(absent)}: export it again")
    times = _rising([moments[n] for n in numbers], path)
    return SlowRecord(rate, np.array(numbers), times, np.array([exposing[n] for n in numbers]))


def match_clocks(
    fast: FastRecord, slow: SlowRecord, *, offset_ns: int = 0, tolerance_ns: int = 10
) -> Timing:
    r"""Bring the frame times of the two cameras onto one axis.

    Parameters
    ----------
    fast : FastRecord
    slow : SlowRecord
    offset_ns : float
        Time of the first flagged slow frame after the first fast frame. The cameras do not tell
        it; 0 is an assumption, which `helpers.xray.calibrate.temporal` checks on the images.
    tolerance_ns : float
        Two frames are of the same moment if they differ by no more. The slow clock ticks in 10 ns.

    Returns
    -------
    Timing

    Raises
    ------
    ValueError
        No slow frame carries the flag, or there are fewer than three fast frames.

    Notes
    -----
    With :math:`t_i` the times of the fast frames, the time of a slow frame in LR frames is the
    piecewise linear :math:`i(t)` through :math:`i(t_i) = i`, continued beyond the ends. See
    :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> fast = FastRecord(100, np.arange(9) * 100)
    >>> slow = SlowRecord(2.5e6, np.arange(3), np.arange(3) * 400, np.full(3, True))
    >>> timing = match_clocks(fast, slow)
    >>> timing.key_times.tolist(), timing.matched.tolist(), timing.held_out()
    ([0.0, 4.0, 8.0], [[0, 0], [1, 4], [2, 8]], [1])
    """
    if len(fast.times_ns) < 3:
        raise ValueError(f"{len(fast.times_ns)} fast frames: a clip needs at least three")
    flagged = np.flatnonzero(slow.exposing)
    if not flagged.size:
        raise ValueError(
            "no slow frame carries the flag 'E': the fast camera did not record while the slow one "
            "did, or its exposure signal was not connected; say at which slow frame it began: "
            "read_recording(folder, start=); a grid that stands still needs no times: "
            "read_recording(folder, still=True)"
        )
    ticks = fast.times_ns.astype(float)
    moments = (slow.times_ns[flagged] - slow.times_ns[flagged[0]]).astype(float) + offset_ns
    cell = np.clip(np.searchsorted(ticks, moments, "right") - 1, 0, len(ticks) - 2)
    places = cell + (moments - ticks[cell]) / np.diff(ticks)[cell]
    key_times = np.full(len(slow.times_ns), np.nan)
    key_times[flagged] = places

    later = np.searchsorted(moments, ticks, "right")  # the first slow frame after each fast one
    inside = np.flatnonzero((later > 0) & (later < len(moments)))
    after = later[inside]
    between = np.stack([inside, flagged[after - 1], flagged[after]], axis=1)

    nearest = np.abs(ticks - moments[:, None]).argmin(1)
    close = np.abs(ticks[nearest] - moments) <= tolerance_ns
    matched = np.stack([flagged[close], nearest[close]], axis=1)
    return Timing(key_times, between, matched, fast.times_ns)


def read_tif_folder(folder: str | Path, *, n_frames: int | None = None) -> np.ndarray:
    """Read the numbered 16-bit frames of a folder, (T, Y, X), in the order of the numbers.

    A folder with one file of many pages is read, too. Other files are ignored. A missing or double
    number, another count than `n_frames`, a broken file, another type or size is an error.
    """
    files = TifFolder(folder)
    if n_frames is not None and len(files) != n_frames:
        excess = len(files) - n_frames
        raise ValueError(
            f"{folder} holds {len(files)} frames but the metadata tell of {n_frames}: "
            f"{abs(excess)} {'too many, remove them' if excess > 0 else 'missing, copy it again'}"
        )
    return files[:]


class TifFolder:
    """Frames of a folder of TIFF files, one each, or of one file with many pages.

    Attributes
    ----------
    numbers : (T,) int array or None
        From the names of the files; None for the pages of one file.

    Raises
    ------
    FileNotFoundError, ValueError
        No folder, no TIFF in it, or a missing or double number.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is not a folder: check the name")
        endings = (".tif", ".tiff")
        self.paths = [p for p in self.folder.iterdir() if p.suffix.lower() in endings]
        if not self.paths:
            raise ValueError(
                f"{self.folder} holds no .tif or .tiff file: give the folder of the frames"
            )
        self.pages = Stack(self.paths[0]) if len(self.paths) == 1 else None
        self.numbers: np.ndarray | None = None
        if self.pages is None or len(self.pages) == 1:
            self.pages = None
            self._number()

    def _number(self) -> None:
        files: dict[int, Path] = {}
        for path in self.paths:
            ending = re.search(r"(\d+)$", path.stem)
            if not ending:
                raise ValueError(f"{path} has no frame number at the end of its name: remove it")
            if (other := files.setdefault(int(ending[1]), path)) != path:
                raise ValueError(f"{path} and {other.name} have the same number: keep one of them")
        numbers = sorted(files)
        if absent := sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)):
            raise ValueError(f"{self.folder} lacks the frames {_some(absent)}: copy it again")
        self.numbers, self.paths = np.array(numbers), [files[n] for n in numbers]

    def __len__(self) -> int:
        return len(self.paths) if self.pages is None else len(self.pages)

    def __getitem__(self, which: slice) -> np.ndarray:
        """Frames (n, Y, X), uint16."""
        if self.pages is not None:
            images = self.pages[which]
            self._check(images, self.paths[0], images.shape[1:])
            return images
        frames = np.empty((0, 0, 0), np.uint16)
        paths = self.paths[which]
        for place, path in enumerate(paths):
            image = load_tif(path).image
            if place == 0:
                frames = np.empty((len(paths), *image.shape), np.uint16)
            self._check(image, path, frames.shape[1:])
            frames[place] = image
        return frames

    @staticmethod
    def _check(image: np.ndarray, path: Path, shape: tuple[int, ...]) -> None:
        if image.dtype != np.uint16:
            raise ValueError(
                f"{path} is {image.dtype}, expected uint16: export 16-bit frames, "
                "8 bits lose the weak contrast"
            )
        if len(shape) != 2 or image.shape[-2:] != shape:
            size = " x ".join(map(str, shape))
            found = " x ".join(map(str, image.shape))
            raise ValueError(f"{path} is {found}, expected one image of {size}")


def _text(path: str | Path) -> str:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: check the name")
    raw = path.read_bytes()
    for encoding in ("utf-8-sig", "cp932"):  # the camera's computer may be a Japanese Windows
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError(f"{path} is not text: it may be damaged, export it again")


def _parse_xml(path: str | Path) -> Any:
    """The root element; a DOCTYPE, and with it every entity of one's own, is refused."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: check the name")

    def refuse(*_: Any) -> None:
        raise ValueError(f"{path} has a DOCTYPE, which camera files do not have: it is not read")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(
            f"{path} is not readable XML ({error}): it may be truncated, export it again"
        ) from error
    return builder.close()


def _frame(node: Any, path: str | Path) -> int:
    try:
        return int(node.get("Frame"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a {node.tag} has no whole number as its Frame") from error


def _day(text: str, path: str | Path) -> int:
    """Days since the beginning of the calendar, from ``Thu Jul 18 2024``."""
    try:
        _, month, day, year = text.split()
        return date(int(year), MONTHS.index(month) + 1, int(day)).toordinal()
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path}: Date is {text!r}, expected such as 'Thu Jul 18 2024'") from error


def _clock(text: str, path: str | Path) -> tuple[int, str]:
    """Nanoseconds since midnight and the flag, from ``14:33:05.123 456.78 E``."""
    match = CLOCK.fullmatch((text or "").strip())
    if not match:
        raise ValueError(f"{path}: Time is {text!r}, expected such as '14:33:05.123 456.78 E'")
    hours, minutes, seconds, milli, micro = (int(part) for part in match.groups()[:5])
    nano = int(match[6].ljust(3, "0"))
    whole = (hours * 60 + minutes) * 60 + seconds
    return ((whole * 1000 + milli) * 1000 + micro) * 1000 + nano, match[7]


def _rising(times: Any, path: str | Path) -> Any:
    # in Python's integers: nanoseconds since year 1 do not fit into 64 bits
    times = np.array([time - times[0] for time in times], dtype=np.int64)
    if (late := np.flatnonzero(np.diff(times) <= 0)).size:
        raise ValueError(
            f"{path}: the time of frame {late[0] + 1} (from 0) is not after the one before"
        )
    return times


def _some(numbers: Any) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
