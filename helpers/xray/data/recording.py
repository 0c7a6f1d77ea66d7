"""An experiment on disk, in the layout of the two cameras' programs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .cine import Cine
from .metadata import (
    SlowRecord,
    TifFolder,
    Timing,
    match_clocks,
    read_phantom,
    read_shimadzu,
    read_tif_folder,
)

Frames: TypeAlias = Cine | TifFolder
CINE = (".cine", ".cin")


@dataclass(frozen=True)
class Recording:
    """An experiment as it came from the two cameras; made by `read_recording`.

    Attributes
    ----------
    lr : (T, y, x) uint16 array, or Stack
    hr : (K, Y, X) uint16 array, or Stack
        Mirrored, if it was asked for.
    timing : Timing or None
        None for a specimen that stood still.
    numbers : (K,) int array or None
        Of the slow frames, as the slow camera counts them.
    """

    lr: np.ndarray
    hr: np.ndarray
    timing: Timing | None
    numbers: np.ndarray | None = None


def read_recording(
    folder: str | Path,
    *,
    mirrored: bool = True,
    offset_ns: int = 0,
    tolerance_ns: int = 10,
    still: bool = False,
    start: int | None = None,
) -> Recording:
    """Read an experiment in the layout of the two cameras' programs.

    Parameters
    ----------
    folder : str or Path
        With one ``*.ini`` of the fast camera and ``TIFF16/<one folder>`` with its frames, and one
        other folder with the frames of the slow camera and one ``*.xml``: frames are TIFF files
        ``img_NNNNNN.tif``, or one with many pages. In place of that folder, or in it, there may
        be one Phantom ``.cine``; it needs no XML.
    mirrored : bool
        The slow camera looks through one mirror more: turn its frames left to right.
    offset_ns, tolerance_ns : float
        See `helpers.xray.data.match_clocks`.
    still : bool
        Nothing moved, as with a grid: the clocks are not matched, no frame needs the flag E, and
        the recording has no `timing`.
    start : int, optional
        Number of the slow frame at which the fast camera began, as the slow camera counts. It
        stands in for the flag E, which a .cine does not have.

    Returns
    -------
    Recording
        Slow frames from before and after the fast camera's recording are not read.

    Warns
    -----
    UserWarning
        Only a part of the slow frames was exported.

    Raises
    ------
    FileNotFoundError, ValueError
        A file or folder is missing, there are several, or they disagree.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: check the name")
    fast_times = read_shimadzu(
        _only(_inside(folder, "*.ini"), folder, ".ini file of the fast camera")
    )
    fast_frames = _fast_folder(folder)
    frames, slow_times = _slow_camera(folder)
    timing, kept = None, slice(None)
    if not still:
        if start is not None:
            slow_times = slow_times.started(start, float(fast_times.times_ns[-1]))
        seen = np.flatnonzero(slow_times.exposing)
        if seen.size:
            kept = slice(int(seen[0]), int(seen[-1]) + 1)
        slow_times = slow_times.only(kept)
        timing = match_clocks(
            fast_times, slow_times, offset_ns=offset_ns, tolerance_ns=tolerance_ns
        )
    lr = read_tif_folder(fast_frames, n_frames=len(fast_times.times_ns))
    hr = frames[kept]
    return Recording(lr, hr[:, :, ::-1] if mirrored else hr, timing, slow_times.numbers)


def read_frames(path: str | Path, *, mirrored: bool = False) -> np.ndarray:
    """Read the frames of one camera: flats, darks, or a grid.

    Parameters
    ----------
    path : str or Path
        A folder of numbered 16-bit TIFF files or with one of many pages, or a Phantom ``.cine``.
    mirrored : bool
        Turn them left to right, as `read_recording` does with those of the slow camera.

    Returns
    -------
    (T, Y, X) uint16 array
        uint8 from a .cine of 8 bits.

    Raises
    ------
    FileNotFoundError, ValueError
        Frames that are missing, broken, or not of one size and type.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> path = Path(tempfile.mkdtemp()) / "dark.tif"
    >>> pages = np.full((4, 8, 9), 120, "uint16")
    >>> tifffile.imwrite(path, pages, photometric="minisblack")
    >>> read_frames(path.parent).shape
    (4, 8, 9)
    """
    path = Path(path)
    source: Frames = Cine(path) if path.suffix.lower() in CINE else TifFolder(path)
    frames = source[:]
    return frames[:, :, ::-1] if mirrored else frames


def _fast_folder(folder: Path) -> Path:
    inside = [p for p in _inside(folder / "TIFF16", "*") if p.is_dir()]
    if not inside and (raw := _inside(folder, "*.dat")):
        raise ValueError(
            f"{raw[0]} is in the fast camera's own format: export the frames as 16-bit TIFF into "
            f"{folder / 'TIFF16'}/<one folder>"
        )
    return _only(inside, folder / "TIFF16", "folder with frames of the fast camera")


def _slow_camera(folder: Path) -> tuple[Frames, SlowRecord]:
    """Frames of the slow camera and their times, one for each."""
    cines = [path for path in _inside(folder, "*") if path.suffix.lower() in CINE]
    if cines:
        cine = Cine(_only(cines, folder, ".cine file"))
        return cine, cine.record
    inner = _only(
        [path for path in folder.iterdir() if path.is_dir() and path.name != "TIFF16"],
        folder,
        "folder beside TIFF16, with frames of the slow camera",
    )
    cines = [path for path in _inside(inner, "*") if path.suffix.lower() in CINE]
    tables = _inside(inner, "*.xml")
    if cines:
        cine = Cine(_only(cines, inner, ".cine file"))
        record = read_phantom(_only(tables, inner, ".xml file")) if tables else cine.record
        if len(record.numbers) != cine.shape[0]:
            raise ValueError(
                f"{cine.path} holds {cine.shape[0]} frames and {tables[0].name} tells of "
                f"{len(record.numbers)}: export the XML again"
            )
        return cine, record
    record = read_phantom(_only(tables, inner, ".xml file of the slow camera"))
    frames = TifFolder(inner)
    return frames, _exported(record, frames)


def _exported(record: SlowRecord, frames: TifFolder) -> SlowRecord:
    """The record of the frames that are there: all of them, or those with a number of the XML."""
    if len(frames) == len(record.numbers):
        return record
    numbers = frames.numbers
    few = numbers is not None and len(frames) < len(record.numbers)
    if not few or numbers is None or not np.isin(numbers, record.numbers).all():
        excess = len(frames) - len(record.numbers)
        raise ValueError(
            f"{frames.folder} holds {len(frames)} frames but the metadata tell of "
            f"{len(record.numbers)}: {abs(excess)} "
            f"{'too many, remove them' if excess > 0 else 'missing, copy it again'}"
        )
    warnings.warn(
        f"{frames.folder} holds {len(frames)} of the {len(record.numbers)} frames of its XML: they "
        f"are taken for its frames {numbers[0]} to {numbers[-1]}, as their names say",
        stacklevel=4,
    )
    return record.only(np.searchsorted(record.numbers, numbers))


def _inside(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _only(paths: list[Path], folder: Path, what: str) -> Path:
    if not paths:
        raise FileNotFoundError(f"{folder} lacks a {what}: copy the experiment again")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths[:4])
        raise ValueError(f"{folder} has {len(paths)} times a {what} ({names}): leave only one")
    return paths[0]
