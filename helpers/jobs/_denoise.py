"""The job `denoise`: noisy stacks in, estimates and their standard deviation out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..io.files import save_tif
from ..io.stacks import Stack
from ..renderer.denoise import denoise as learn
from ._declare import WrongCall
from ._record import Record, arguments, folders


def denoise(
    files: list[Path],
    out: Path,
    *,
    gain: float = 1.0,
    offset: float = 0.0,
    n_steps: int = 1000,
    width: int = 32,
    seed: int = 0,
    resume: bool = True,
    device: str | None = None,
    progress: bool = False,
    report: Callable[[dict[str, Any]], None] = print,
) -> int:
    """Denoise a stack by a network that is trained on the stack alone.

    Parameters
    ----------
    files : list of Path
        Stacks of images of one kind, in any format of `helpers.io.Stack`.
    out : Path
        Folder of the results; each stack gets a folder of its name in it.
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
    resume : bool
        Go on with the training where it stopped, and take what is done.
    device : str, optional
        cpu, cuda or mps; left out, the best one.
    progress : bool
        Show a bar.
    report : callable
        Called with a dict for each stack.

    Returns
    -------
    int
        Stacks that failed.
    """
    settings = arguments(locals())
    for name, value in (("gain", gain), ("n_steps", n_steps), ("width", width)):
        if not value > 0:
            raise WrongCall(f"{name} is {value}: give a number above 0")
    failed = 0
    for path, folder in zip(files, folders(files, out), strict=True):
        try:
            report({"input": str(path), **_stack(path, folder, settings, progress)})
        except (ValueError, OSError, ArithmeticError) as error:
            report({"input": str(path), "error": f"{type(error).__name__}: {error}"})
            failed += 1
    return failed


def _stack(path: Path, folder: Path, settings: dict[str, Any], progress: bool) -> dict[str, Any]:
    record = Record(denoise, settings, path, folder)
    target, spread = folder / "denoised.tif", folder / "spread.tif"
    if settings["resume"] and record.is_done():
        return {"output": str(target), "new": False}
    with Stack(path, gain=settings["gain"], offset=settings["offset"]) as stack:
        images, known = np.asarray(stack.frames), stack.calibration
        axes, shape = stack.axes, stack.shape
    folder.mkdir(exist_ok=True)
    training = folder / f"training-{record.key[:12]}"  # of the same input and settings only
    result = learn(
        images,
        n_steps=settings["n_steps"],
        width=settings["width"],
        seed=settings["seed"],
        folder=training if settings["resume"] else None,
        progress=progress,
        device=settings["device"],
    )
    sizes = {"z_step": known.z_step, "time_step": known.time_step}
    sizes["channel_names"] = known.channel_names if "C" in axes else None
    if known.pixel_size is not None:
        sizes |= {"pixel_size": (known.pixel_size_y, known.pixel_size), "unit": known.unit}
    for file, values in ((target, result.images), (spread, result.spread)):
        save_tif(file, np.asarray(values, np.float32).reshape(shape), axes=axes, **sizes)
    record.write([target, spread])
    assert result.noise is not None  # found by the training
    intercept, slope = result.noise
    told = {"read_variance": float(intercept), "variance_per_mean": float(slope)}
    return {"output": str(target), "images": len(images), "new": True, **told}
