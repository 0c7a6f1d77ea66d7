"""The jobs `xray-calibrate` and `xray-infer`: two cameras, from frames to a movie."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch

from ..io.files import load_h5, save_h5, save_tif
from ..xray._shipped import load
from ..xray.calibrate._spatial import SpatialCalibration, spatial
from ..xray.calibrate._temporal import TemporalCalibration, temporal
from ..xray.cameras import SCALE, CoarseCamera, Transform, pad_to, register
from ..xray.data.folders import ActualPairs
from ..xray.data.metadata import read_shimadzu
from ..xray.data.recording import read_recording
from ..xray.reconstruct.movie import MovieSamples, reconstruct, share
from ._declare import AtLeast, Count, Exactly, File, Positive
from ._run import Outcome, Task
from ._xray_train import trained, two

if TYPE_CHECKING:
    from distributed import Client


five = Exactly(5, "numbers: theta in radians, sx, sy, tx, ty")


def xray_calibrate(
    task: Task,
    *,
    movie: File | None = None,
    white: Annotated[list[float], two] | None = None,
    dark: Annotated[list[float], two] | None = None,
    mirrored: bool = True,
    scale: Positive = float(SCALE),
    near: Annotated[list[float], five] | None = None,
    search: Positive = 3.0,
) -> Outcome:
    """Find how two cameras lie to each other, from a grid.

    Parameters
    ----------
    task : Task
        Grid that stood still: folder of a recording, or an .h5 file with images of it, or with
        frames to be averaged: lr (y, x) or (T, y, x), hr (Y, X) or (K, Y, X).
    movie : Path, optional
        Something that moves, to check the clocks by: folder of a recording, or an .h5 file with
        the frames of both cameras, lr (T, y, x), hr (K, Y, X), and key_times (K,) in fast frames.
    white : list of float, optional
        Open beam of the fast and of the slow camera in grey levels; a recording needs it for the
        clocks. Left out, an .h5 file has transmission.
    dark : list of float, optional
        Signal without beam of the two cameras; 0 if left out.
    mirrored : bool
        The slow camera of a recording looks through one mirror more than the fast one.
    scale : float
        Sharp pixels along one coarse pixel, to 20 %.
    near : list of float, optional
        A guess of theta, sx, sy, tx, ty that decides which hole is which: for a grid without
        faults.
    search : float
        Fast frames that the clock of the slow camera may be off.

    Returns
    -------
    Outcome
        ``calibration.h5`` for xray-infer; beside it ``clock.h5`` if there was a movie.
    """
    target = task.folder / "calibration.h5"
    if movie is not None and movie.is_dir() and white is None:
        raise ValueError(f"{movie} has grey levels: the clocks need --white")
    lr, hr, _ = _both(task.path, mirrored, still=True)
    guess = None if near is None else Transform(*near)
    found = spatial(_mean(hr), _mean(lr), scale=scale, near=guess)
    found.save(target)
    names = ("theta", "sx", "sy", "tx", "ty")
    told: dict[str, Any] = {name: float(getattr(found.transform, name)) for name in names}
    middle = (np.array(found.lr_shape[::-1]) - 1) / 2
    told["error_px"] = float(np.linalg.norm(found.uncertainty(middle)))
    if found.pairs is not None:
        told["holes"] = len(found.pairs.lr)
    if movie is None:
        return Outcome(target, [target], told)
    clock = _clock(movie, found, white, dark or [0.0, 0.0], mirrored, search)
    clock.save(task.folder / "clock.h5")
    told |= {"offset_frames": clock.offset, "rate": clock.rate}
    told["offset_error"] = float(np.sqrt(clock.covariance[0, 0]))
    return Outcome(target, [target, task.folder / "clock.h5"], told)


def xray_infer(
    task: Task,
    *,
    network: Annotated[str, trained] = "flowfuse",
    calibration: File | None = None,
    clock: File | None = None,
    mode: Literal["continuous", "double"] = "continuous",
    white: Annotated[list[float], two] | None = None,
    dark: Annotated[list[float], two] | None = None,
    offset_ns: int = 0,
    mirrored: bool = True,
    pixel_size: Positive | None = None,
    tile: Count = 256,
    overlap: Annotated[int, AtLeast(0)] = 64,
    ensemble_std: bool = False,
    precision: Literal["float32", "bfloat16"] = "float32",
    chunk: Count = 8,
    client: Client | None = None,
) -> Outcome:
    """Make the sharp, fast movie of an experiment with two cameras.

    Parameters
    ----------
    task : Task
        Folder of a recording, or an .h5 file with the frames as transmission on one grid and one
        clock: lr (T, y, x), hr (K, 4y, 4x), and key_times (K,) in fast frames.
    network : str
        Name of a shipped network (flowfuse, edvr, swin), or a file of xray-train.
    calibration : Path, optional
        calibration.h5 of xray-calibrate, or of SpatialCalibration.save; a recording needs one.
    clock : Path, optional
        clock.h5 of xray-calibrate, or of TemporalCalibration.save.
    mode : str
        A frame for every moment of the fast camera; or each sharp frame held out and predicted,
        which has a score.
    white : list of float, optional
        Open beam of the fast and of the slow camera in grey levels; left out, a guess.
    dark : list of float, optional
        Signal without beam of the two cameras; 0 if left out.
    offset_ns : int
        How much later than its own clock says the slow camera is.
    mirrored : bool
        The slow camera looks through one mirror more than the fast one.
    pixel_size : float, optional
        Of the sharp camera in µm.
    tile : int
        Side of the tiles in sharp pixels.
    overlap : int
        Of neighbouring tiles, in sharp pixels.
    ensemble_std : bool
        Predict each frame four times, and give the standard deviation too.
    precision : str
        Of the large products; bfloat16 is faster where the processor or the GPU has it.
    chunk : int
        Frames that a worker takes at a time; each is kept as soon as it is made.
    client : distributed.Client, optional

    Returns
    -------
    Outcome
        The movie; beside it an .h5 file with times, inputs and scores of the frames.
    """
    opened = partial(
        _opened,
        task.path,
        calibration,
        clock,
        mode,
        white=None if white is None else tuple(white),
        dark=tuple(dark or (0.0, 0.0)),
        offset_ns=offset_ns,
        mirrored=mirrored,
    )
    net, movie = _network(network, task.device), opened()
    frames = task.unfinished("frames.zarr")
    options: dict[str, Any] = {"tile": tile, "overlap": overlap, "ensemble_std": ensemble_std}
    options |= {"precision": precision, "out": frames, "device": task.device}
    n_new = 0
    if client is not None:
        names: dict[str, Any] = {"network": network, "mode": mode, "key": task.key}
        work = partial(_shared, opened=opened, **names, **options)
        n_new = _side_by_side(client, work, chunk)
    # what the workers have made is there; it is scored here
    found = reconstruct(net, movie, mode, progress=task.progress, **options)
    found = replace(found, pixel_size=pixel_size)
    target, more = task.folder / "movie.tif", task.folder / "movie.h5"
    files = [target, more]
    save_tif(target, found.frames, axes="TYX", **found._calibration())
    if found.ensemble_std is not None:
        files.append(task.folder / "ensemble_std.tif")
        save_tif(files[-1], found.ensemble_std, axes="TYX", **found._calibration())
    save_h5(more, found._tree(), found._notes() | {"network": network})
    told: dict[str, Any] = {"frames": len(found.times), "frames_new": n_new + found.n_new}
    if found.score is not None:
        told |= {k: float(np.mean(found.table[k])) for k in ("psnr", "ssim", "aad")}
    return Outcome(target, files, told)


def _side_by_side(client: Client, work: Callable[..., tuple[int, int]], chunk: int) -> int:
    """Let the workers make all frames, the first before the others; gives how many were new."""
    from distributed import as_completed

    n_all, n_new = client.submit(work, range(1), pure=False).result()
    blocks = [range(at, min(at + chunk, n_all)) for at in range(1, n_all, chunk)]
    futures = client.map(work, blocks, pure=False)
    try:
        return n_new + sum(future.result()[1] for future in as_completed(futures))
    except BaseException:
        client.cancel(futures)
        raise


def _shared(
    numbers: Sequence[int],
    *,
    opened: Callable[[], Any],
    key: str,
    network: str,
    mode: str,
    device: str | None,
    **options: Any,
) -> tuple[int, int]:
    """Make some frames of the movie in a worker; gives the number of all, and of new ones."""
    net = _network(network, device)
    samples = _samples(opened, key, mode, getattr(net, "trained_for", None))
    return len(samples), share(net, samples, numbers, device=device, **options)


@lru_cache(1)
def _samples(
    opened: Callable[[], Any], key: str, mode: str, trained_for: CoarseCamera | None
) -> MovieSamples:
    """Samples of the movie; a worker opens it once, and the process that asked it does the warning.

    Paths stand for files, whose content is in the key.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MovieSamples(opened(), mode, None, trained_for)


def _opened(
    path: Path,
    calibration: Path | None,
    clock: Path | None,
    mode: str,
    *,
    white: Any,
    dark: Any,
    offset_ns: int,
    mirrored: bool,
) -> Any:
    """A recording on one grid, or a movie that is."""
    known = None if clock is None else TemporalCalibration.load(clock)
    if path.is_dir():
        if calibration is None:
            raise ValueError(f"{path} is a recording: it needs --calibration")
        late = offset_ns + (0 if known is None else _late_ns(path, known))
        recording = read_recording(path, mirrored=mirrored, offset_ns=late)
        found = SpatialCalibration.load(calibration)
        return ActualPairs(recording, found, mode=mode, white=white, dark=dark)
    lr, hr, key_times = _both(path, mirrored, lazy=True)
    key_times = key_times if known is None else known.times(key_times)
    return SimpleNamespace(truth=None, lr=lr, hr=hr, key_times=key_times)


def _both(path: Path, mirrored: bool, still: bool = False, lazy: bool = False) -> Any:
    """Frames of the fast and of the slow camera, and when the slow ones were taken.

    Those of a file may be left there, to be read when they are needed.
    """
    if path.is_dir():
        recording = read_recording(path, mirrored=mirrored, still=still)
        timing = recording.timing
        return recording.lr, recording.hr, None if timing is None else timing.key_times
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise ValueError(f"{path} is no recording: give its folder, or an .h5 file with lr and hr")
    tree, _ = load_h5(path, lazy=lazy)
    wanted = ("lr", "hr") if still else ("lr", "hr", "key_times")
    if lacks := [name for name in wanted if name not in tree]:
        raise ValueError(f"{path} has no {', '.join(lacks)}: it has {', '.join(tree) or 'none'}")
    return tree["lr"], tree["hr"], tree.get("key_times")


def _mean(frames: np.ndarray) -> np.ndarray:
    """The image of what stood still."""
    return frames.mean(0, dtype=np.float64) if frames.ndim == 3 else frames


def _clock(
    path: Path,
    found: SpatialCalibration,
    white: list[float] | None,
    dark: list[float],
    mirrored: bool,
    search: float,
) -> TemporalCalibration:
    """The clocks, from the largest square box around the middle that both cameras have seen."""
    lr, hr, key_times = _both(path, mirrored)
    bright = white or [1.0, 1.0]
    fast, slow = (
        (np.asarray(frames, np.float32) - low) / np.float32(high - low)
        for frames, low, high in zip((lr, hr), dark, bright, strict=True)
    )
    known = np.isfinite(key_times)  # the others are of a time when the fast camera did not record
    coarse = register(fast, found)
    sharp = pad_to(slow[known], SCALE)
    seen = pad_to(found.seen(), SCALE)
    rim = next(
        (m for m in range(1, min(coarse.shape[1:]) // 2) if seen[_inner(m * SCALE)].all()), 0
    )
    if not rim:
        raise ValueError(f"{path}: the cameras share no field around the middle: align them first")
    box = (slice(None), *_inner(rim))
    wide = (slice(None), *_inner(rim * SCALE))
    return temporal(sharp[wide], coarse[box], key_times=key_times[known], search=search)


def _inner(rim: int) -> tuple[slice, slice]:
    return slice(rim, -rim), slice(rim, -rim)


def _late_ns(folder: Path, clock: TemporalCalibration) -> int:
    """Delay of the slow camera in the middle of a recording, whose frames take one offset."""
    ticks = read_shimadzu(next(folder.glob("*.ini"))).times_ns
    middle = (len(ticks) - 1) / 2
    late = float(clock.times(np.array(middle))) - middle
    return round(late * float(np.median(np.diff(ticks))))


@cache
def _network(name: str, device: str | None) -> torch.nn.Module:
    return load(name, device)
