"""The jobs `denoise` and `deconvolve`: images in, better images of the same place out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..io._calibration import Calibration
from ..io.files import save_tif
from ..io.stacks import Stack
from ..lucy import richardson_lucy
from ..renderer.deconvolve._map_tv import choose_weight, map_tv
from ..renderer.deconvolve.blur import Blur
from ..renderer.deconvolve.tiles import plan, solve_tile
from ..renderer.denoise import denoise as learn
from ..scale import map_chunks
from ._declare import Count, File, NotNegative, Positive
from ._run import Outcome, Task, assembled, uninterrupted

if TYPE_CHECKING:
    from distributed import Client


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
