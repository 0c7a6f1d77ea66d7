"""The jobs `field`, `film` and `tomogram`: views or projections in, volumes out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch

from ...inr.align.tilts import tilts as align_tilts
from ...inr.fit import losses
from ...inr.fit._reconstruct import reconstruct
from ...inr.fit.sampling import Stage
from ...inr.fit.sequences import fit_sequence
from ...inr.lightfield.operator import LightField
from ...inr.tomography import ParallelBeam, sirt
from ...io._calibration import METRES
from ...io.files import atomic_path, save_tif
from ...io.stacks import Stack
from ...io.tilts import TILTS, load_tilt_angles
from ...lucy import richardson_lucy
from ...scale import map_chunks
from .._declare import Count, Exactly, File, NotNegative, Positive, positive
from .._run import Outcome, Task, assembled, uninterrupted

if TYPE_CHECKING:
    from distributed import Client


three = Exactly(3, "lengths in µm: z y x", positive)


def field(
    task: Task,
    *,
    psf: File,
    method: Literal["field", "lucy"] = "field",
    n_steps: Count = 150,
    n_iter: Count = 30,
    gain: Positive = 1.0,
    offset: float = 0.0,
    background: NotNegative = 0.0,
    read_noise: NotNegative = 0.0,
    voxel_size: Annotated[list[float], three] | None = None,
    seed: int = 0,
) -> Outcome:
    """Reconstruct a volume from its views through a light field.

    Parameters
    ----------
    task : Task
        Views (V, Y, X), or those of several times (T, V, Y, X), in any format of
        helpers.io.Stack.
    psf : Path
        .npy file with the point spread functions (V, Z, P, Q), such as helpers.inr.lightfield.psf
        gives, in the order of the views.
    method : str
        A field whose prior is chosen by held-out pixels, or iterations without a prior.
    n_steps : int
        Of the fit of a field.
    n_iter : int
        Iterations of lucy.
    gain : float
        ADU per photo-electron.
    offset : float
        ADU without light.
    background : float
        Photo-electrons in a pixel that are not of the object.
    read_noise : float
        Standard deviation in photo-electrons.
    voxel_size : list of float, optional
        Of the volume in µm: z y x. Left out, the prior takes cubes.
    seed : int
        Of the field and of the held-out pixels.

    Returns
    -------
    Outcome
        The volume in photo-electrons of a voxel.
    """
    kernels = _kernels(psf)
    target = task.folder / "volume.tif"
    told: dict[str, Any] = {}
    with Stack(task.path, gain=gain, offset=offset) as stack:
        views = np.maximum(np.asarray(stack, np.float32), 0)
        times = views[None] if views.ndim == 3 else views
        size, unit, step = stack.pixel_size, stack.unit, stack.time_step
    _check_views(task.path, views.shape, kernels)
    operator = LightField(kernels, shape=times.shape[-2:], voxel_size=voxel_size)
    options: dict[str, Any] = {"background": background, "read_noise": read_noise}
    options |= {"device": task.device, "progress": task.progress}
    weights, deviances = [], []
    with assembled(task.folder, (len(times), *operator.in_shape)) as volumes:
        for number, frame in enumerate(times):
            kept = task.unfinished(f"volume-{number:05d}.npy")
            if method == "lucy" and not kept.exists():
                found = richardson_lucy(operator, frame, n_iter, **options)
                deviances.append(float(found.history[-1]))
                _keep(kept, found.volume)
            elif not kept.exists():
                fit = reconstruct(
                    operator,
                    frame,
                    n_steps=n_steps,
                    seed=seed,
                    checkpoint=task.unfinished(f"fit-{number:05d}.safetensors"),
                    **options,
                )
                uninterrupted(fit)
                weights.append(fit.settings["choice"].weight)
                _keep(kept, fit.volume)
            volumes[number] = np.load(kept)
        known = _sizes(voxel_size, size, unit)
        axes, result = ("ZYX", volumes[0]) if views.ndim == 3 else ("TZYX", volumes)
        save_tif(target, result, axes=axes, time_step=step if axes == "TZYX" else None, **known)
    if weights:
        told["prior"] = weights if len(weights) > 1 else weights[0]
    if deviances:
        told["deviance"] = deviances if len(deviances) > 1 else deviances[0]
    return Outcome(target, [target], {"shape": list(result.shape), **told})


def film(
    task: Task,
    *,
    psf: File,
    chain: Count | None = None,
    init: Literal["previous", "scratch"] = "previous",
    prior: Positive | None = None,
    n_steps: Count = 150,
    rounds: Count = 8,
    tol: NotNegative = 0.01,
    gain: Positive = 1.0,
    offset: float = 0.0,
    background: NotNegative = 0.0,
    read_noise: NotNegative = 0.0,
    voxel_size: Annotated[list[float], three] | None = None,
    seed: int = 0,
    client: Client | None = None,
) -> Outcome:
    """Reconstruct a light-field film, each volume from the one before.

    Parameters
    ----------
    task : Task
        Views of several times (T, V, Y, X), in any format of helpers.io.Stack.
    psf : Path
        .npy file with the point spread functions (V, Z, P, Q), in the order of the views.
    chain : int, optional
        Frames that follow each other in one process, which holds their volumes; chains start
        anew and may run side by side. Left out, the whole film is one chain.
    init : str
        A frame of a chain starts at the one before it, or from scratch.
    prior : float, optional
        Weight of the prior. Left out, held-out pixels of the first frame choose it.
    n_steps : int
        Of the first frame of a chain; from scratch, of every frame.
    rounds : int
        Most rounds of ten steps of a later frame.
    tol : float
        A later frame is done when its misfit is at most 1 + tol times that of the first.
    gain : float
        ADU per photo-electron.
    offset : float
        ADU without light.
    background : float
        Photo-electrons in a pixel that are not of the object.
    read_noise : float
        Standard deviation in photo-electrons.
    voxel_size : list of float, optional
        Of the volume in µm: z y x. Left out, the prior takes cubes.
    seed : int
        Of the field and of the held-out pixels.
    client : distributed.Client, optional

    Returns
    -------
    Outcome
        The volumes in photo-electrons of a voxel, one scale for all frames.
    """
    kernels = _kernels(psf)
    target = task.folder / "film.tif"
    options: dict[str, Any] = {"background": background, "device": task.device}
    with Stack(task.path, gain=gain, offset=offset) as stack:
        _check_views(task.path, stack.shape, kernels, film=True)
        operator = LightField(kernels, shape=stack.shape[-2:], voxel_size=voxel_size)
        # warns of views that no volume explains; chains start at its field
        first = reconstruct(
            operator,
            _light(stack[0], read_noise),
            n_steps=n_steps,
            seed=seed,
            read_noise=read_noise,
            checkpoint=task.unfinished("first.safetensors"),
            progress=task.progress,
            **options,
        )
        uninterrupted(first)
        weight = prior or first.settings["choice"].weight
        work = partial(
            _chain,
            psf=kernels,
            voxel_size=voxel_size,
            field=first.field.cpu(),
            prior=partial(
                _hessian,
                weight=weight,
                steps=losses.step_weights(voxel_size or (1.0, 1.0, 1.0)),
                smooth=1e-3 * float(first.volume.mean()),
            ),
            read_noise=read_noise,
            init=init,
            schedule=Stage(n_steps, 0.3),
            rounds=rounds,
            tol=tol,
            checkpoint=task.unfinished("chain"),
            **options,
        )
        done = map_chunks(
            work,
            stack,
            task.unfinished("volumes"),
            chunk=min(chain or len(stack), len(stack)),
            client=client,
            resume=task.resume,
            progress=task.progress,
        )
        parts: Any = done.open()
        known = _sizes(voxel_size, stack.pixel_size, stack.unit)
        with assembled(task.folder, parts["volumes"].shape) as volumes:
            for number in range(len(volumes)):
                volumes[number] = parts["volumes"][number]
            save_tif(target, volumes, axes="TZYX", time_step=stack.time_step, **known)
            shape = list(volumes.shape)
    told = {"shape": shape, "prior": weight, "chains": done.n_chunks, "chains_new": done.n_new}
    told |= {"n_steps": parts["n_steps"][:].tolist(), "misfit": parts["misfit"][:].tolist()}
    return Outcome(target, [target], told)


def tomogram(
    task: Task,
    *,
    angles: File | None = None,
    align: Literal["no", "axis", "drift"] = "no",
    method: Literal["sirt", "field"] = "sirt",
    thickness: Count | None = None,
    n_iter: Count = 30,
    n_steps: Count = 150,
    binning: Count = 1,
    invert: bool = False,
    counts: bool = False,
    background: float | None = None,
    nonnegative: bool = True,
    noise: Positive | None = None,
    seed: int = 0,
    volume: Literal["tif", "mrc"] = "tif",
) -> Outcome:
    """Reconstruct a volume from a tilt series.

    Parameters
    ----------
    task : Task
        A tilt series (.ali, .st, .mrc, TIFF ...), the tilt axis along y, and in the middle unless
        it is aligned here.
    angles : Path, optional
        .tlt, .rawtlt or .xf file; left out, the one beside the series with its name.
    align : str
        The series is aligned; or find place and turn of its axis; or also the drift of each image.
    method : str
        Iterations without a prior, or a field whose prior is chosen by held-out pixels.
    thickness : int, optional
        Slices of the volume, after binning; left out, as many as the images are wide.
    n_iter : int
        Iterations of sirt.
    n_steps : int
        Of the fit of a field.
    binning : int
        Side of the squares of pixels that are averaged first.
    invert : bool
        Dense matter is dark in the images: turn the sign.
    counts : bool
        The images are photons, or electrons that were counted: the noise of field is Poisson's.
    background : float, optional
        Level of the images without specimen. Left out, 0 for counts, and otherwise the median of
        each image.
    nonnegative : bool
        Keep the volume of sirt at zero or above.
    noise : float, optional
        Standard deviation in a pixel, of field; left out, found from neighbouring pixels.
    seed : int
        Of the field and of the held-out pixels.
    volume : str
        Format of the result.

    Returns
    -------
    Outcome
        The volume.
    """
    beside = angles or _beside(task.path)
    tilts = load_tilt_angles(beside)
    with Stack(task.path) as stack:
        images = stack.frames
        if len(images) != len(tilts):
            raise ValueError(
                f"{beside} has {len(tilts)} angles but {task.path} {len(images)} images"
            )
        views = np.stack([_binned(np.asarray(images[k]), binning) for k in range(len(images))])
        pixel = None if stack.pixel_size is None else binning * stack.pixel_size
        unit = stack.unit
    level: Any = background or 0.0
    if background is None and not counts:
        level = np.median(views, axis=(1, 2), keepdims=True)
    empty = views - level
    signal = -empty if invert else empty
    depth = thickness or views.shape[2]
    geometry, told = {}, {}
    if align != "no":
        where = align_tilts(signal, tilts, drift=align == "drift")
        geometry = where.geometry
        told = {"axis_px": where.offset, "axis_deg": where.axis_deg}
        told |= {"unexplained_before": where.misfit_before, "unexplained": where.misfit}
        if align == "drift":
            told["drift_px"] = where.shifts.tolist()
    operator = ParallelBeam(tilts, (depth, *views.shape[1:]), width=views.shape[2], **geometry)
    options: dict[str, Any] = {"device": task.device, "progress": task.progress}
    if method == "sirt":
        found = sirt(operator, signal, n_iter, nonnegative=nonnegative, **options)
        result = found.volume
        told["misfit"] = float(found.history[-1])
    else:
        likelihood: dict[str, Any] = {"background": level}
        if not counts:
            likelihood = {"loss": partial(losses.gaussian, sigma=noise or _noise(signal))}
        fit = reconstruct(
            operator,
            views if counts else signal,
            n_steps=n_steps,
            seed=seed,
            checkpoint=task.unfinished("fit.safetensors"),
            **likelihood,
            **options,
        )
        uninterrupted(fit)
        result = fit.volume
        told["prior"] = fit.settings["choice"].weight
    target = task.folder / f"tomogram.{volume}"
    result = np.asarray(result, np.float32)
    if volume == "mrc":
        _save_mrc(target, result, pixel, unit)
    else:
        known: dict[str, Any] = (
            {"unit": unit, "pixel_size": pixel, "z_step": pixel} if pixel else {}
        )
        save_tif(target, result, axes="ZYX", **known)
    return Outcome(target, [target], {"shape": list(result.shape), "tilts": len(tilts), **told})


def _check_views(
    path: Path, shape: tuple[int, ...], kernels: np.ndarray, film: bool = False
) -> None:
    """Raise a ValueError unless there is a point spread function for each view."""
    wanted = "(times, views, Y, X)" if film else "(views, Y, X) or (times, views, Y, X)"
    if len(shape) not in ((4,) if film else (3, 4)) or shape[-3] != len(kernels):
        raise ValueError(
            f"{path} is {shape} and the point spread function has {len(kernels)} views: "
            f"give {wanted}"
        )


def _sizes(voxel_size: list[float] | None, pixel: float | None, unit: str) -> dict[str, Any]:
    """Sizes of a volume, as `save_tif` takes them: given, or along y and x those of the views."""
    if voxel_size:
        return {"pixel_size": tuple(voxel_size[1:]), "z_step": voxel_size[0], "unit": "µm"}
    return {} if pixel is None else {"pixel_size": pixel, "unit": unit}


def _light(views: np.ndarray, read_noise: float) -> np.ndarray:
    """Photo-electrons; without read noise none are below zero, whatever the offset was."""
    views = np.asarray(views, np.float32)
    return views if read_noise else np.maximum(views, 0)


def _hessian(
    volume: torch.Tensor, *, weight: float, steps: tuple[float, ...], smooth: float
) -> torch.Tensor:
    return weight * losses.hessian(volume, weights=steps, smooth=smooth)


def _chain(
    block: np.ndarray,
    start: int,
    *,
    psf: np.ndarray,
    voxel_size: list[float] | None,
    field: torch.nn.Module,
    read_noise: float,
    checkpoint: Path,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Volumes of one chain; a chain that was stopped goes on after its last whole frame."""
    found = fit_sequence(
        field,
        LightField(psf, shape=block.shape[-2:], voxel_size=voxel_size),
        _light(block, read_noise),
        loss=partial(losses.poisson, read_noise=read_noise),
        checkpoint=checkpoint.with_name(f"{checkpoint.name}-{start:05d}"),
        **options,
    )
    volumes = np.asarray(found.volumes, np.float32)
    return {"volumes": volumes, "misfit": found.misfit, "n_steps": found.n_steps}


def _kernels(path: Path) -> np.ndarray:
    """Point spread functions (V, Z, P, Q) of an .npy file, or of any with four axes."""
    if path.suffix.lower() == ".npy":
        try:
            kernels = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is not a whole NPY file ({error}): save it again") from error
    else:
        with Stack(path) as stack:
            kernels = np.asarray(stack)
    if kernels.ndim != 4:
        raise ValueError(f"{path} is {kernels.shape}: give (views, depths, Y, X), as .npy")
    return kernels.astype(np.float32)


def _keep(path: Path, volume: Any) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(volume, np.float32))


def _beside(path: Path) -> Path:
    """File of tilt angles with the name of the series."""
    found = [path.with_suffix(end) for end in TILTS if path.with_suffix(end).exists()]
    if not found:
        names = " or ".join(path.with_suffix(end).name for end in TILTS)
        raise FileNotFoundError(f"{path} has no angles: put {names} beside it, or name them")
    return found[0]


def _binned(image: np.ndarray, n: int) -> np.ndarray:
    """Mean over squares of n pixels; what is left over at the far sides is cut off."""
    height, width = (side // n * n for side in image.shape)
    blocks = image[:height, :width].astype(np.float32).reshape(height // n, n, width // n, n)
    return np.asarray(blocks.mean((1, 3)))


def _noise(views: np.ndarray) -> float:
    """Standard deviation of white noise, from differences of differences of neighbours along x.

    Whatever is smooth over three pixels falls out; the median is not moved by edges.
    """
    second = views[..., :-2] - 2 * views[..., 1:-1] + views[..., 2:]
    return float(1.4826 * np.median(np.abs(second)) / np.sqrt(6))


def _save_mrc(path: Path, volume: np.ndarray, pixel: float | None, unit: str) -> None:
    import mrcfile

    with atomic_path(path) as temporary:
        with mrcfile.new(temporary, overwrite=True) as file:
            file.set_data(volume)
            file.set_volume()
            if pixel is not None:
                file.voxel_size = pixel * METRES[unit] / METRES["Å"]
