"""The job `localize`: movies in, tables of molecules out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..io.stacks import Stack
from ..io.tables import save_table
from ..noise.counting import Poisson
from ..noise.readout import PoissonGauss
from ..renderer.detect import localize as find_molecules
from ..scale import map_chunks
from ._declare import WrongCall
from ._record import Record, arguments, folders

ENDS = {"own": ".h5", "csv": ".csv", "parquet": ".parquet"}
ENDS |= {"picasso": ".hdf5", "thunderstorm": ".csv"}


def localize(
    files: list[Path],
    out: Path,
    *,
    psf: float,
    gain: float = 1.0,
    offset: float = 0.0,
    read_noise: float = 0.0,
    false_alarms: float = 0.01,
    saturation: float | None = None,
    table: Literal["own", "csv", "parquet", "picasso", "thunderstorm"] = "own",
    pixel_size: float | None = None,
    chunk: int = 1000,
    workers: int = 0,
    scheduler: str | None = None,
    resume: bool = True,
    device: str | None = None,
    progress: bool = False,
    report: Callable[[dict[str, Any]], None] = print,
) -> int:
    """Find and fit the molecules of every frame of a movie.

    Parameters
    ----------
    files : list of Path
        Movies, in any format of `helpers.io.Stack`.
    out : Path
        Folder of the results; each movie gets a folder of its name in it.
    psf : float
        Standard deviation of a spot in px.
    gain : float
        ADU per photo-electron.
    offset : float
        ADU without light.
    read_noise : float
        Standard deviation of the camera's read noise in photo-electrons.
    false_alarms : float
        Molecules that noise alone may feign, on average, in a frame.
    saturation : float, optional
        Photo-electrons at or above which a pixel is left out.
    table : str
        Format of the table.
    pixel_size : float, optional
        Of the camera in nm; thunderstorm needs it. Left out, that of the file.
    chunk : int
        Frames that are kept together; a stop loses one such chunk. Multiples of 200 give the
        bits of the call in memory.
    workers : int
        Processes that work side by side; 0 is this one.
    scheduler : str, optional
        Address of a Dask scheduler whose workers do the chunks.
    resume : bool
        Take chunks that are done from the folder of the results.
    device : str, optional
        cpu, cuda or mps; left out, the best one.
    progress : bool
        Show a bar.
    report : callable
        Called with a dict for each movie.

    Returns
    -------
    int
        Movies that failed.
    """
    settings = arguments(locals())
    for name, value in (("psf", psf), ("gain", gain), ("false_alarms", false_alarms)):
        if not value > 0:
            raise WrongCall(f"{name} is {value}: give a number above 0")
    if read_noise < 0 or chunk < 1 or workers < 0:
        raise WrongCall("read_noise and workers are at least 0, chunk at least 1")
    targets = folders(files, out)
    failed = 0
    work = partial(
        _chunk, psf=psf, read_noise=read_noise, false_alarms=false_alarms, saturation=saturation
    )
    with _client(workers, scheduler) as client:
        for path, folder in zip(files, targets, strict=True):
            try:
                with Stack(path, gain=gain, offset=offset) as stack:
                    result = _movie(stack.frames, folder, work, settings, client, progress)
                report({"input": str(path), **result})
            except (ValueError, OSError, RuntimeError) as error:
                report({"input": str(path), "error": f"{type(error).__name__}: {error}"})
                failed += 1
    return failed


def _movie(
    frames: Stack,
    folder: Path,
    work: Callable[..., np.recarray],
    settings: dict[str, Any],
    client: Any,
    progress: bool,
) -> dict[str, Any]:
    pixel = settings["pixel_size"] or _nm(frames)
    kind = settings["table"]
    if kind == "thunderstorm" and pixel is None:
        raise ValueError("the file has no pixel size: thunderstorm needs --pixel-size in nm")
    record = Record(localize, settings, frames.path, folder)
    options = {"chunk": settings["chunk"], "client": client, "progress": progress}
    work = partial(work, device=settings["device"])
    done = map_chunks(work, frames, folder / "chunks", resume=settings["resume"], **options)
    found: Any = done.open()
    target = folder / f"molecules{ENDS[kind]}"
    more: dict[str, Any] = {"pixel_size": pixel, "shape": frames.shape[1:], "frames": len(frames)}
    if kind in ("picasso", "thunderstorm"):
        save_table(target, found, {"sigma": settings["psf"]}, format=kind, **more)
    elif kind == "csv":
        save_table(target, found)
    else:
        save_table(target, found, {"psf_px": settings["psf"]}, **more)
    record.write([target])
    return {
        "output": str(target),
        "molecules": len(found),
        "frames": len(frames),
        "chunks_new": done.n_new,
        "chunks": done.n_chunks,
    }


def _chunk(
    block: np.ndarray,
    start: int,
    *,
    psf: float,
    read_noise: float,
    false_alarms: float,
    saturation: float | None,
    device: str | None,
) -> np.recarray:
    """Molecules of one chunk; the frames count from the start of the movie."""
    noise: Any = PoissonGauss(read_noise**2) if read_noise else Poisson()
    if not read_noise:
        block = np.maximum(block, 0)  # an offset that is a little too high
    options: dict[str, Any] = {"false_alarms": false_alarms, "saturation": saturation}
    found = find_molecules(block, psf, noise, device=device, **options)
    found.frame += start
    return found


def _nm(stack: Stack) -> float | None:
    scale = {"nm": 1.0, "µm": 1e3, "Å": 0.1, "pm": 1e-3, "mm": 1e6}.get(stack.unit)
    return None if scale is None or stack.pixel_size is None else stack.pixel_size * scale


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of Dask, or None for this process."""
    if scheduler is None and workers == 0:
        yield None
        return
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise OSError(f"no scheduler answers at {scheduler}: check address and port") from error
        with client:
            yield client
        return
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client
