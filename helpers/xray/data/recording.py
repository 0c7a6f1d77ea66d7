"""An experiment on disk, in the layout of the two cameras' programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .metadata import Timing, match_clocks, read_phantom, read_shimadzu, read_tif_folder


@dataclass(frozen=True)
class Recording:
    """An experiment as it came from the two cameras; made by `read_recording`.

    Attributes
    ----------
    lr : (T, y, x) uint16 array
    hr : (K, Y, X) uint16 array
        Mirrored, if it was asked for.
    timing : Timing or None
        None for a specimen that stood still.
    """

    lr: np.ndarray
    hr: np.ndarray
    timing: Timing | None


def read_recording(
    folder: str | Path,
    *,
    mirrored: bool = True,
    offset_ns: int = 0,
    tolerance_ns: int = 10,
    still: bool = False,
) -> Recording:
    """Read an experiment in the layout of the two cameras' programs.

    Parameters
    ----------
    folder : str or Path
        With one ``*.ini`` of the fast camera, ``TIFF16/<one folder>/*.tiff`` with its frames, and
        one other folder with the frames ``img_NNNNNN.tif`` and one ``*.xml`` of the slow camera.
    mirrored : bool
        The slow camera looks through one mirror more: turn its frames left to right.
    offset_ns, tolerance_ns : float
        See `helpers.xray.data.match_clocks`.
    still : bool
        Nothing moved, as with a grid: the clocks are not matched, no frame needs the flag E, and
        the recording has no `timing`.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError, ValueError
        A file or folder is missing, there are several, or they disagree.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: check the name")
    folders = [path for path in folder.iterdir() if path.is_dir()]
    fast = _only(_inside(folder, "*.ini"), folder, ".ini file of the fast camera")
    fast_frames = _only(
        [p for p in _inside(folder / "TIFF16", "*") if p.is_dir()],
        folder / "TIFF16",
        "folder with frames of the fast camera",
    )
    slow_frames = _only(
        [path for path in folders if path.name != "TIFF16"],
        folder,
        "folder beside TIFF16, with frames of the slow camera",
    )
    slow = _only(_inside(slow_frames, "*.xml"), slow_frames, ".xml file of the slow camera")
    fast_times, slow_times = read_shimadzu(fast), read_phantom(slow)
    timing = None
    if not still:
        timing = match_clocks(
            fast_times, slow_times, offset_ns=offset_ns, tolerance_ns=tolerance_ns
        )
    lr = read_tif_folder(fast_frames, n_frames=len(fast_times.times_ns))
    hr = read_tif_folder(slow_frames, n_frames=len(slow_times.times_ns))
    return Recording(lr, hr[:, :, ::-1] if mirrored else hr, timing)


def _inside(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _only(paths: list[Path], folder: Path, what: str) -> Path:
    if not paths:
        raise FileNotFoundError(f"{folder} lacks a {what}: copy the experiment again")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths[:4])
        raise ValueError(f"{folder} has {len(paths)} times a {what} ({names}): leave only one")
    return paths[0]
