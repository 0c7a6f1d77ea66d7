"""The jobs `beads`, `localize`, `denoise` and `deconvolve`: movies, stacks and volumes in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from ..io._calibration import Calibration, length_in
from ..io.files import save_tif
from ..io.stacks import Stack
from ..io.tables import save_table
from ..lucy import richardson_lucy
from ..noise.counting import Poisson
from ..noise.readout import PoissonGauss
from ..renderer.deconvolve._map_tv import choose_weight, map_tv
from ..renderer.deconvolve.blur import Blur
from ..renderer.deconvolve.tiles import plan, solve_tile
from ..renderer.denoise import denoise as learn
from ..renderer.detect import find_drift, link, select
from ..renderer.detect import localize as find_molecules
from ..renderer.pupil import Astigmatism, calibrate_astigmatism, psf_from_beads
from ..renderer.renderers import Gaussian3D, Spline2D, Spline3D
from ..scale import map_chunks
from ._declare import AtLeast, Count, Exactly, File, NotNegative, Positive
from ._run import Outcome, Task, assembled, uninterrupted

if TYPE_CHECKING:
    from distributed import Client

ENDS = {"own": ".h5", "csv": ".csv", "parquet": ".parquet"}
ENDS |= {"picasso": ".hdf5", "thunderstorm": ".csv"}
light = Exactly(2, "numbers: photons and background", AtLeast(0))
depths = Exactly(2, "depths in µm: the least and the largest")


def beads(
    task: Task,
    *,
    method: Literal["astigmatism", "psf"] = "astigmatism",
    z_step: Positive | None = None,
    pixel_size: Positive | None = None,
    gain: Positive = 1.0,
    offset: float = 0.0,
    size: Count | None = None,
    molecule: Annotated[list[float], light] | None = None,
    z_range: Annotated[list[float], depths] | None = None,
) -> Outcome:
    """Make the calibration that localize takes from a stack of beads.

    Parameters
    ----------
    task : Task
        A stack of a field of beads (Z, Y, X), or of psf an image (Y, X), in any format of
        helpers.io.Stack.
    method : str
        The widths of the spots of an astigmatic lens at each depth, or the measured point
        spread, which deconvolve takes as well.
    z_step : float, optional
        Distance of the planes in µm. Left out, that of the file.
    pixel_size : float, optional
        In the object, in µm; of psf only. Left out, that of the file.
    gain : float
        ADU per photo-electron.
    offset : float
        ADU without light.
    size : int, optional
        Side in px of what is cut about each bead, odd. Left out, 15 of astigmatism, 25 of psf.
    molecule : list of float, optional
        Photons of a usual molecule that will be fitted, and its background with the variance of
        the read noise; of astigmatism only. Left out, 1000 and 10.
    z_range : list of float, optional
        Depths in µm that the curves serve; of astigmatism only. Left out, those in which neither
        width is above three times its least.

    Returns
    -------
    Outcome
        ``lens.yaml``, which Picasso reads as well, or ``psf.tif``.
    """
    foreign: dict[str, Any] = {"molecule": molecule, "z_range": z_range}
    foreign = {"pixel_size": pixel_size} if method == "astigmatism" else foreign
    if given := [name for name, value in foreign.items() if value is not None]:
        raise ValueError(f"{method} takes no {', '.join(given)}: leave it out")
    with Stack(task.path, gain=gain, offset=offset) as stack:
        z_step = z_step or length_in("µm", stack.z_step, stack.unit)
        pixel_size = pixel_size or length_in("µm", stack.pixel_size, stack.unit)
        if stack.ndim > 3:
            raise ValueError(f"the stack is {stack.shape}, {stack.axes}: give one (Z, Y, X)")
        single = method == "psf" and (stack.ndim == 2 or len(stack) == 1)
        if z_step is None and not single:
            raise ValueError("the file has no z step: give --z-step in µm")
        if method == "psf" and pixel_size is None:
            raise ValueError("the file has no pixel size: give --pixel-size in µm")
        images = np.asarray(stack)
    options: dict[str, Any] = {"z_step": z_step, "size": size, "molecule": molecule}
    options |= {"z_range": z_range, "pixel_size": pixel_size if method == "psf" else None}
    options = {name: value for name, value in options.items() if value is not None}
    if method == "astigmatism":
        lens = calibrate_astigmatism(images, **options)
        target = task.folder / "lens.yaml"
        lens.save(target)
        told = {"beads": int(lens.beads["used"].sum()), "residual": round(lens.residual, 4)}
        return Outcome(target, [target], told | {"z_range": list(lens.z_range)})
    found = psf_from_beads(images, **options)
    target = task.folder / "psf.tif"
    psf = found.stack.astype(np.float32)
    planes: dict[str, Any] = {"axes": "YX"} if single else {"axes": "ZYX", "z_step": z_step}
    save_tif(target, psf[0] if single else psf, pixel_size=pixel_size, unit="µm", **planes)
    told = {"beads": len(found.residuals), "residual": round(float(np.median(found.residuals)), 4)}
    return Outcome(target, [target], told)


def localize(
    task: Task,
    *,
    psf: Positive | None = None,
    calibration: File | None = None,
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
    psf : float, optional
        Standard deviation of a spot in px. Either this or calibration must be given.
    calibration : Path, optional
        File of beads: .yaml of an astigmatic lens, also of Picasso, or .tif of a measured point
        spread. With planes, depths are found as well, in µm.
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
    if (psf is None) == (calibration is None):
        raise ValueError("give either psf, the width of a spot in px, or a calibration file")
    lens = None
    target = task.folder / f"molecules{ENDS[table]}"
    with Stack(task.path, gain=gain, offset=offset) as stack:
        frames = stack.frames
        pixel = pixel_size or length_in("nm", frames.pixel_size, frames.unit)
        if table == "thunderstorm" and pixel is None:
            raise ValueError("the file has no pixel size: thunderstorm needs --pixel-size in nm")
        spots: Any = psf
        if calibration is not None:
            lens, spots = _spots(calibration, frames.shape[1:])
        work = partial(
            _chunk,
            psf=spots,
            read_noise=read_noise,
            false_alarms=false_alarms,
            saturation=saturation,
            device=task.device,
        )
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
    shape: dict[str, Any] = {"psf_px": psf} if calibration is None else {"lens": calibration.name}
    if table in ("picasso", "thunderstorm"):
        columns = {name: np.asarray(found[name]) for name in found.dtype.names}
        if lens is not None:
            columns |= dict(zip(("sigma_x", "sigma_y"), lens.widths(columns["z"]), strict=True))
        save_table(target, columns, {} if psf is None else {"sigma": psf}, format=table, **more)
    elif table == "csv":
        save_table(target, found)
    else:
        save_table(target, found, shape, **more)
    files = [target] if table != "picasso" else [target, target.with_suffix(".yaml")]
    told |= {"molecules": len(found), "frames": more["frames"]}
    return Outcome(target, files, told | {"chunks_new": done.n_new, "chunks": done.n_chunks})


def denoise(
    task: Task,
    *,
    gain: Positive = 1.0,
    offset: float = 0.0,
    n_steps: Count = 1000,
    width: Count = 32,
    seed: int = 0,
) -> Outcome:
    """Denoise a stack by a network that is trained on the stack alone.

    Parameters
    ----------
    task : Task
        A stack of images of one kind, in any format of helpers.io.Stack.
    gain : float
        ADU per photo-electron.
    offset : float
        ADU without light.
    n_steps : int
        Steps of the training.
    width : int
        Channels of the network.
    seed : int
        Of weights and training squares.

    Returns
    -------
    Outcome
        The estimate, and beside it the standard deviation.
    """
    target, spread = task.folder / "denoised.tif", task.folder / "spread.tif"
    with Stack(task.path, gain=gain, offset=offset) as stack:
        images, sizes, shape = np.asarray(stack.frames), calibrated(stack), stack.shape
    result = learn(
        images,
        n_steps=n_steps,
        width=width,
        seed=seed,
        folder=task.unfinished("training"),
        progress=task.progress,
        device=task.device,
    )
    uninterrupted(result.training)
    for file, values in ((target, result.images), (spread, result.spread)):
        save_tif(file, np.asarray(values, np.float32).reshape(shape), **sizes)
    assert result.noise is not None  # found by the training
    intercept, slope = map(float, result.noise)
    told = {"images": len(images), "read_variance": intercept, "variance_per_mean": slope}
    return Outcome(target, [target, spread], told)


def deconvolve(
    task: Task,
    *,
    kernel: File,
    method: Literal["lucy", "map-tv"] = "lucy",
    n_iter: Count | None = None,
    weight: Positive | None = None,
    gain: Positive = 1.0,
    offset: float = 0.0,
    background: NotNegative = 0.0,
    read_noise: NotNegative = 0.0,
    saturation: Positive | None = None,
    tile: Count = 128,
    reach: list[int] | None = None,
    client: Client | None = None,
) -> Outcome:
    """Deconvolve images or volumes by their point spread function.

    Parameters
    ----------
    task : Task
        Images or volumes, in any format of helpers.io.Stack.
    kernel : Path
        File with the point spread function: (Y, X) for images, (Z, Y, X) for volumes.
    method : str
        Richardson-Lucy, or maximum a posteriori with total variation.
    n_iter : int, optional
        Iterations: 30 of lucy, at most 200 of map-tv.
    weight : float, optional
        Of the total variation. Left out, the brightest tile of the first image or volume chooses
        it by held-out photons.
    gain : float
        ADU per photo-electron.
    offset : float
        ADU without light.
    background : float
        Photo-electrons in a pixel that are not of the object.
    read_noise : float
        Standard deviation in photo-electrons; of lucy only.
    saturation : float, optional
        Photo-electrons at or above which a pixel is left out.
    tile : int
        Side of the parts that are solved one by one; a stop loses one of them.
    reach : list of int, optional
        Voxels that tiles share at each side, one number for each axis of the kernel; left out,
        the radius of the kernel.
    client : distributed.Client, optional

    Returns
    -------
    Outcome
        The estimate, in photo-electrons.
    """
    psf = read_kernel(kernel)
    target = task.folder / "deconvolved.tif"
    with Stack(task.path, gain=gain, offset=offset) as stack:
        field = stack.shape[-psf.ndim :]
        if len(field) < psf.ndim or (psf.ndim == 3 and stack.axes[-3] != "Z" and stack.ndim < 4):
            raise ValueError(
                f"the kernel is {psf.shape} and the images are {stack.shape}, {stack.axes}: a "
                "volume needs slices along z, and images need a kernel (Y, X)"
            )
        sizes = [min(tile, n) for n in field]
        cores, around = plan(field, psf, sizes, reach)
        ends: dict[str, Any] = {
            "n_iter": n_iter or (30 if method == "lucy" else 200),
            "saturation": saturation,
        }
        ends |= {"background": background, "device": task.device}
        solve: Any = partial(richardson_lucy, read_noise=read_noise, **ends)
        leading = stack.shape[: -psf.ndim]
        if method == "map-tv":
            weight = weight or _weight(stack, leading, cores, psf, background, task)
            solve = partial(map_tv, weight=weight, **ends)
        places = [
            (number, *((part.start, part.stop) for part in core))
            for number in range(math.prod(leading))
            for core in cores
        ]
        work = partial(_tile, stack=stack, kernel=psf, around=around, size=sizes, solve=solve)
        done = map_chunks(
            work,
            places,
            task.unfinished("tiles"),
            chunk=1,
            client=client,
            resume=task.resume,
            progress=task.progress,
        )
        tiles: Any = done.open()
        with assembled(task.folder, stack.shape) as result:
            for k, place in enumerate(places):
                at, core = _place(place, leading)
                part = tuple(slice(0, c.stop - c.start) for c in core)
                result[(*at, *core)] = tiles[k][part]
            save_tif(target, result, **calibrated(stack))
        told: dict[str, Any] = {"tiles": len(places), "tiles_new": done.n_new}
    if method == "map-tv":
        told["weight"] = weight
    return Outcome(target, [target], told)


def calibrated(stack: Stack) -> dict[str, Any]:
    """Axes, sizes and names of a stack, as `save_tif` takes them.

    Parameters
    ----------
    stack : Stack
    """
    known: Calibration = stack.calibration
    sizes: dict[str, Any] = {"axes": stack.axes, "time_step": known.time_step}
    sizes |= {"z_step": known.z_step, "channel_names": None}
    if "C" in stack.axes:
        sizes["channel_names"] = known.channel_names
    if known.pixel_size is not None:
        sizes |= {"pixel_size": (known.pixel_size_y, known.pixel_size), "unit": known.unit}
    return sizes


def read_kernel(path: Path) -> np.ndarray:
    """Read a point spread function of 2 or 3 axes, with a sum of one.

    Parameters
    ----------
    path : Path
        In any format of `helpers.io.Stack`.
    """
    with Stack(path) as stack:
        kernel = np.asarray(stack, np.float32)
    kernel = kernel[0] if kernel.ndim == 3 and len(kernel) == 1 else kernel
    if kernel.ndim not in (2, 3) or not kernel.sum() > 0 or not np.isfinite(kernel).all():
        raise ValueError(
            f"{path} is {kernel.shape} with a sum of {kernel.sum():g}: give a point spread "
            "function (Y, X) or (Z, Y, X), with its background taken off"
        )
    total = float(kernel.sum(dtype=np.float64))
    return kernel if abs(total - 1) < 1e-6 else kernel / np.float32(total)


def _tile(
    block: Sequence[Any],
    start: int,
    *,
    stack: Stack,
    kernel: np.ndarray,
    around: Sequence[int],
    size: Sequence[int],
    solve: Any,
) -> np.ndarray:
    """Solve the tile of one place; at the rim of the field it is filled up with zeros."""
    at, core = _place(block[0], stack.shape[: -kernel.ndim])
    volume, inner = solve_tile(_Part(stack, at), core, around, kernel, solve)
    result = np.zeros((1, *size), np.float32)
    filled: Any = (0, *(slice(0, c.stop - c.start) for c in core))
    result[filled] = volume[inner]
    return result


class _Part:
    """One image or volume of a stack, read where it is indexed; light below zero is none."""

    def __init__(self, stack: Stack, at: tuple[int, ...]) -> None:
        self.stack, self.at = stack, at
        self.shape = stack.shape[len(at) :]

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        counts = np.asarray(self.stack[(*self.at, *index)], np.float32)
        if not np.isfinite(counts).all():
            raise ValueError(f"{self.stack.path} holds NaN or infinity at {index}: replace them")
        return np.maximum(counts, 0)  # an offset that is a little too high


def _place(place: Sequence[Any], leading: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
    number, *edges = place
    at = tuple(int(k) for k in np.unravel_index(number, leading)) if leading else ()
    return at, tuple(slice(*edge) for edge in edges)


def _weight(
    stack: Stack, leading: tuple[int, ...], cores: Any, kernel: Any, background: float, task: Task
) -> float:
    """Weight of the total variation that held-out photons choose, in the brightest tile."""
    first = _Part(stack, (0,) * len(leading))
    core = max(cores, key=lambda core: float(first[core].mean()))
    counts = np.rint(first[core])  # it is their thinning that chooses
    choice = choose_weight(
        Blur(kernel, counts.shape), counts, background, device=task.device, progress=task.progress
    )
    return float(choice.weight)


def _chunk(
    block: np.ndarray,
    start: int,
    *,
    psf: float | Gaussian3D | Spline2D | Spline3D,
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


def _spots(
    path: Path, shape: Sequence[int]
) -> tuple[Astigmatism | None, Gaussian3D | Spline2D | Spline3D]:
    """The lens of a calibration, if it is one, and its spots on regions that hold them."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        lens = Astigmatism.load(path)
        widest = max(float(width.max()) for width in lens.widths(np.linspace(*lens.z_range, 101)))
        side = 2 * math.ceil(3 * widest) + 1
        return lens, lens.renderer([min(side, n) for n in shape])
    with Stack(path) as stack:
        psf, step = np.asarray(stack, np.float32), length_in("µm", stack.z_step, stack.unit)
    sides = [min(pair) for pair in zip(psf.shape[-2:], shape, strict=True)]
    if psf.ndim == 2 or len(psf) == 1:
        return None, Spline2D(sides, psf.reshape(psf.shape[-2:]))
    if step is None:
        raise ValueError(f"{path} has no z step: make it by cmx beads --method psf")
    return None, Spline3D(sides, psf, step)
