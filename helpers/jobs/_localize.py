"""The job `localize`: movies in, tables of molecules out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..io.stacks import Stack
from ..io.tables import save_table
from ..noise.counting import Poisson
from ..noise.readout import PoissonGauss
from ..renderer.detect import find_drift, link, select
from ..renderer.detect import localize as find_molecules
from ..scale import map_chunks
from ._declare import Count, NotNegative, Positive
from ._run import Outcome, Task

if TYPE_CHECKING:
    from distributed import Client

ENDS = {"own": ".h5", "csv": ".csv", "parquet": ".parquet"}
ENDS |= {"picasso": ".hdf5", "thunderstorm": ".csv"}


def localize(
    task: Task,
    *,
    psf: Positive,
    gain: Positive = 1.0,
    offset: float = 0.0,
    read_noise: NotNegative = 0.0,
    false_alarms: Positive = 0.01,
    saturation: Positive | None = None,
    table: Literal["own", "csv", "parquet", "picasso", "thunderstorm"] = "own",
    pixel_size: Positive | None = None,
    max_std: Positive | None = None,
    drift_windows: int = 0,
    link_radius: NotNegative = 0.0,
    chunk: Count = 1000,
    client: Client | None = None,
) -> Outcome:
    """Find and fit the molecules of every frame of a movie.

    Parameters
    ----------
    task : Task
        A movie, in any format of helpers.io.Stack.
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
    max_std : float, optional
        Largest error of a position in px; other molecules are left out.
    drift_windows : int
        Pieces of the movie between which drift is found and taken off; 0 leaves it.
    link_radius : float
        Step in px up to which molecules of neighbouring frames are joined to one blink; 0 joins
        none.
    chunk : int
        Frames that are kept together; a stop loses one such chunk. Multiples of 200 give the
        bits of the call in memory.
    client : distributed.Client, optional

    Returns
    -------
    Outcome
        The table.
    """
    work = partial(
        _chunk,
        psf=psf,
        read_noise=read_noise,
        false_alarms=false_alarms,
        saturation=saturation,
        device=task.device,
    )
    target = task.folder / f"molecules{ENDS[table]}"
    with Stack(task.path, gain=gain, offset=offset) as stack:
        frames = stack.frames
        pixel = pixel_size or _nm(frames)
        if table == "thunderstorm" and pixel is None:
            raise ValueError("the file has no pixel size: thunderstorm needs --pixel-size in nm")
        done = map_chunks(
            work,
            frames,
            task.folder / "chunks",
            chunk=chunk,
            client=client,
            resume=task.resume,
            progress=task.progress,
        )
        more: dict[str, Any] = {"shape": frames.shape[1:], "frames": len(frames)}
    more["pixel_size"] = pixel
    found: Any = done.open()
    told: dict[str, Any] = {}
    if max_std is not None:
        limits = {name: (0.0, max_std) for name in ("x_std", "y_std")}
        found, taken = select(np.asarray(found).view(np.recarray), limits)
        told = {f"left_out_{name}": n for name, n in taken.items() if name != "kept"}
    if drift_windows:
        found = find_drift(found, windows=drift_windows).correct(found)
    if link_radius:
        found = link(found, link_radius)
    if table in ("picasso", "thunderstorm"):
        save_table(target, found, {"sigma": psf}, format=table, **more)
    elif table == "csv":
        save_table(target, found)
    else:
        save_table(target, found, {"psf_px": psf}, **more)
    files = [target] if table != "picasso" else [target, target.with_suffix(".yaml")]
    told |= {"molecules": len(found), "frames": more["frames"]}
    return Outcome(target, files, told | {"chunks_new": done.n_new, "chunks": done.n_chunks})


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
