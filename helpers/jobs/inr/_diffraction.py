"""The job `diffraction`: images under an LED array in, a transmission or a complex index out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import torch

from ..._arrays import to_numpy, to_tensor
from ...devices import pick_device
from ...inr.diffraction.born import Born, linear_inverse
from ...inr.diffraction.led_array import Microscope
from ...inr.diffraction.ptychography import Ptychography
from ...inr.diffraction.transmission import UNKNOWN, explained, fit_transmission
from ...io.files import save_h5, save_tif
from .._declare import AtLeast, Count, Exactly, File, Positive
from .._run import Outcome, Task, uninterrupted
from ._leds import Array, Recording, record

WEIGHTS = tuple(10 ** (k / 2 - 4) for k in range(7))  # from 1e-4 to 0.1
TUNING = 0.2  # of the LEDs that are fitted: they choose the weight
INSIDE = 0.95  # of na: the images of LEDs nearer to its rim are dark in places
FEWEST = 5  # LEDs of a tomography


def share(value: float) -> None:
    """Raise a ValueError unless it is a share below one."""
    if not 0 <= value < 1:
        raise ValueError("give a share of one: 0 or more, and below 1")


Share = Annotated[float, share]
place = Exactly(2, "lengths in mm: y x")
between = Exactly(2, "depths in µm: first last")


def diffraction(
    task: Task,
    *,
    wavelength: Positive,
    na: Positive,
    method: Literal["ptychography", "tomography"] = "ptychography",
    pixel_size: Positive | None = None,
    magnification: Positive = 1.0,
    leds: File | None = None,
    pitch: Positive | None = None,
    distance: Positive | None = None,
    order: Literal["spiral", "rows"] = "spiral",
    shift: Annotated[list[float], place] | None = None,
    align: Literal["no", "place", "distance"] = "no",
    dataset: str | None = None,
    offset: float = 0.0,
    crop: Count | None = None,
    hidden: Share = 0.25,
    seed: int = 0,
    finer: Count = 3,
    margin: Annotated[int, AtLeast(0)] = 8,
    edge: Share = 0.0,
    pupil: bool = True,
    n_iter: Count = 200,
    tol: Share = 0.01,
    depths: Annotated[list[float], between] | None = None,
    z_step: Positive | None = None,
    index: Positive = 1.33,
    absorption: bool = True,
    weight: Positive | None = None,
) -> Outcome:
    """Reconstruct an object from its images under an LED array.

    Parameters
    ----------
    task : Task
        One image an LED (L, Y, X), in any format of helpers.io.Stack; in a .mat file (Y, X, L).
    wavelength : float
        In vacuum, in µm.
    na : float
        Numerical aperture of the objective.
    method : str
        Fourier ptychography of a thin object, with bright and dark fields; or intensity
        diffraction tomography of a faint thick one, with bright fields.
    pixel_size : float, optional
        Of the camera in µm, over the magnification; left out, that of the file.
    magnification : float
        By which pixel_size is divided; 1 where it is the size on the object.
    leds : Path, optional
        Table of the LEDs in the order of the images, columns y and x: places in mm from the axis;
        with pitch, numbers on the grid; without distance, directions n sin(theta). Left out, the
        LEDs are a square grid.
    pitch : float, optional
        From one LED to the next, in mm.
    distance : float, optional
        From the array to the object, in mm.
    order : str
        Of a grid without a table: a square spiral from its middle, first along +x, then along +y;
        or row by row.
    shift : list of float, optional
        Added to all places, in mm: y x.
    align : str
        The LEDs are where they are said to be; or find place and handedness of the array; or also
        its distance.
    dataset : str, optional
        Name of the images in a file with several arrays.
    offset : float
        ADU without light.
    crop : int, optional
        Side in pixels of the square in the middle of the images that is reconstructed; the LEDs
        are found with the whole images.
    hidden : float
        Share of the LEDs that are not fitted, and judge the result.
    seed : int
        Of the choice of these LEDs.
    finer : int
        Of ptychography: object pixels along one of the camera.
    margin : int
        Of ptychography: camera pixels of the object around the images; some widths of the blur.
    edge : float
        Of ptychography: width of the aperture's soft rim, as a share of na; at least one frequency.
    pupil : bool
        Of ptychography: find the aberrations of the lens with the object.
    n_iter : int
        Of ptychography: iterations at most.
    tol : float
        Of ptychography: it ends when ten iterations lower the misfit by less than this share.
    depths : list of float, optional
        Of tomography: first and last depth in µm from the focus, along the light.
    z_step : float, optional
        Of tomography: from slice to slice, in µm; left out, half the depth of focus.
    index : float
        Of tomography: refractive index around the object.
    absorption : bool
        Of tomography: the object absorbs; otherwise it only delays light.
    weight : float, optional
        Of tomography: weight of the squared contrast; left out, chosen by LEDs that are not
        fitted.

    Returns
    -------
    Outcome
        Amplitude and phase, or index contrast and absorption in depth.
    """
    if method == "tomography" and (depths is None or not depths[0] < depths[1]):
        raise ValueError(
            f"depths are {depths}: tomography needs the first and the last, in µm from the focus"
        )
    recording = record(
        task.path,
        Array(leds, pitch, distance, order, shift),
        wavelength=wavelength,
        na=na,
        pixel_size=pixel_size,
        magnification=magnification,
        align=align,
        dataset=dataset,
        offset=offset,
        crop=crop,
    )
    rng = np.random.default_rng(seed)
    if method == "ptychography":
        learn = UNKNOWN if pupil else ("gains", "background")
        options = {"wavelength": wavelength, "na": na}
        options |= {"finer": finer, "margin": margin, "edge": edge}
        stop = {"n_iter": n_iter, "tol": tol}
        found = _ptychography(recording, hidden, rng, options, learn, stop, task)
    else:
        pixel = recording.pixel_size
        optics = Microscope(wavelength, na, index, (z_step or 1.0, pixel, pixel))
        if z_step is None:
            optics = replace(optics, voxel_size=(optics.focal_depth / 2, pixel, pixel))
        limits = np.array(depths, float)
        found = _tomography(recording, hidden, rng, optics, limits, absorption, weight, task.device)
    target, instrument = task.folder / f"{found.name}.tif", task.folder / "instrument.h5"
    save_tif(target, found.image, unit="µm", **found.known)
    save_h5(instrument, {**found.tree, "scores": found.told, "array": recording.told})
    told = {"shape": list(found.image.shape), **found.told, **recording.told}
    return Outcome(target, [target, instrument], told)


@dataclass(frozen=True)
class _Found:
    """Name, pixels and sizes of an image, the numbers beside it, and those of the line."""

    name: str
    image: np.ndarray
    known: dict[str, Any]
    tree: dict[str, Any]
    told: dict[str, Any]


def _ptychography(
    recording: Recording,
    hidden: float,
    rng: np.random.Generator,
    options: dict[str, Any],
    learn: tuple[str, ...],
    stop: dict[str, Any],
    task: Task,
) -> _Found:
    """Transmission of a thin object; see `fit_transmission`."""
    images, leds = recording.images, recording.leds
    pixel_size = recording.pixel_size
    model = Ptychography(leds, images.shape[1:], pixel_size=pixel_size, **options)
    bright = to_numpy(model.bright)
    level = float(np.median(images[bright])) if bright.any() else 0.0
    if not level > 0:
        raise ValueError(
            f"{bright.sum()} of {len(leds)} LEDs are in the bright field of na {model.na}, with a "
            f"median of {level:.3g}: check na, distance, places and offset, or use align"
        )
    # the fit keeps about so many complex fields of each LED for its gradient
    fields = len(leds) * np.prod([n + 2 * model.margin for n in images.shape[1:]])
    _check_room(12 * 8 * int(fields), "images", images.shape)
    images = images / level
    judges = _held_out(leds, hidden, rng)
    found = fit_transmission(
        model.select(~judges),
        images[~judges],
        learn=learn,
        **stop,
        checkpoint=task.unfinished("fit.safetensors"),
        progress=task.progress,
        device=task.device,
    )
    uninterrupted(found)
    numbers = {name: to_numpy(v) for name, v in found.model.parameters().items()}
    lens = {name: numbers[name] for name in ("aberration", "pupil", "absorption")}
    told: dict[str, Any] = {"leds": len(leds), "hidden": int(judges.sum())}
    told |= {"n_iter": found.n_iter, "converged": found.converged}
    if "aberration" in learn:
        told["start_defocus"] = found.settings["defocus"]
    for field, judged in (("bright", judges & bright), ("dark", judges & ~bright)):
        if judged.any():
            predicted = to_numpy(model.at(lens).select(judged)(found.volume))
            neighbour = images[_nearest(leds, ~judges, judged)]
            told[f"explained_{field}"] = _by_amplitude(predicted, images[judged])
            told[f"by_neighbour_{field}"] = _by_amplitude(neighbour, images[judged])
    t = found.transmission
    phase = np.angle(t * np.exp(-1j * np.angle(t.sum())))  # about its mean: no image has a zero
    tree = {
        "transmission": t,
        "leds": leds,
        "hidden": judges,
        "explained": found.explained,
        "gains": numbers["gains"],
        "background": numbers["background"],
        "pupil": {
            "phase": found.model.phase,
            "amplitude": model.aperture * np.exp(-numbers["absorption"]),
            "y": model.frequencies[0],
            "x": model.frequencies[1],
        },
        "objective": found.history["objective"],
    }
    known = {
        "axes": "CYX",
        "channel_names": ("amplitude", "phase"),
        "pixel_size": model.object_pixel,
    }
    image = np.stack([np.abs(t), phase]).astype(np.float32)
    return _Found("transmission", image, known, tree, told)


def _tomography(
    recording: Recording,
    hidden: float,
    rng: np.random.Generator,
    optics: Microscope,
    depths: np.ndarray,
    absorption: bool,
    weight: float | None,
    device: str | None,
) -> _Found:
    """Complex index contrast of a faint object; see `linear_inverse`."""
    step, *_, pixel = optics.voxel_size
    # steeper LEDs are dark, at the rim, or show detail that no pixel carries
    carried = 0.99 * (optics.wavelength / (2 * pixel) - optics.na)
    used = np.hypot(*recording.leds.T) < min(carried, INSIDE * optics.na)
    if used.sum() < FEWEST:
        raise ValueError(
            f"{used.sum()} of {len(used)} LEDs are inside the aperture {optics.na}, with detail "
            f"that pixels of {pixel:.3g} µm carry: tomography needs {FEWEST}; check na, distance "
            "and pixel_size"
        )
    images, leds = recording.images[used], recording.leds[used]
    level = np.median(images, (1, 2), keepdims=True)
    if not level.all():
        raise ValueError(
            f"image {np.flatnonzero(used)[level.ravel() == 0][0]} is dark, but its LED is said to "
            "be in the bright field: check na, distance, places and offset, or use align"
        )
    images = images / level
    shape = (max(1, round(float(np.diff(depths)[0]) / step)), *images.shape[1:])
    parts = 2 if absorption else 1
    # the transfer function, three times while it is made
    _check_room(3 * 4 * parts * len(leds) * int(np.prod(shape)), "volume", shape)
    op = Born(
        optics, leds, shape, absorption=absorption, middle=float(depths.mean()), on_grid=False
    )
    y = to_tensor(images, pick_device(device))
    judges = _held_out(leds, hidden, rng)

    def tried(weight: float, fitted: np.ndarray, judged: np.ndarray) -> tuple[torch.Tensor, float]:
        """Contrast from some LEDs, and the share of the others' variance that it explains."""
        volume = to_tensor(linear_inverse(op.select(fitted), y[fitted], weight))
        predicted = to_numpy(op.select(judged)(volume)) if judged.any() else images[judged]
        return volume, _by_intensity(predicted, images[judged])

    if weight is None:
        shown, tuning = np.flatnonzero(~judges), np.zeros_like(judges)
        tuning[shown[_held_out(leds[shown], TUNING, rng)]] = True
        scores = {w: tried(w, ~judges & ~tuning, tuning)[1] for w in WEIGHTS}
        weight = max(scores, key=lambda w: scores[w])
    contrast, score = tried(weight, ~judges, judges)
    told: dict[str, Any] = {"leds": len(leds), "hidden": int(judges.sum()), "weight": weight}
    if judges.any():
        neighbour = images[_nearest(leds, ~judges, judges)]
        told |= {"explained": score, "by_neighbour": _by_intensity(neighbour, images[judges])}
    tree = {"leds": leds, "numbers": np.flatnonzero(used), "hidden": judges}
    tree |= {"depths": op.depths.numpy(), "level": level.ravel()}
    known: dict[str, Any] = {"axes": "ZYX", "pixel_size": pixel, "z_step": step}
    known["attributes"] = {"first_slice_um": float(op.depths[0])}
    if absorption:
        known |= {"axes": "CZYX", "channel_names": ("index", "absorption")}
    return _Found("volume", to_numpy(contrast).astype(np.float32), known, tree, told)


def _held_out(leds: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mask (L,) of the LEDs that judge a fit; the one nearest to the axis is always fitted."""
    judges = np.zeros(len(leds), bool)
    others = np.delete(np.arange(len(leds)), np.hypot(*leds.T).argmin())
    n = round(share * len(leds))
    if len(leds) - n < 3:
        raise ValueError(
            f"{n} of {len(leds)} LEDs would be hidden: leave three or more for the fit"
        )
    judges[rng.choice(others, n, replace=False)] = True
    return judges


def _nearest(leds: np.ndarray, fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Numbers of the fitted LEDs that are nearest to those that judge."""
    away = np.hypot(*(leds[judged] - leds[fitted][:, None]).T).T
    return np.flatnonzero(fitted)[away.argmin(0)]


def _by_amplitude(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Share of the variance of amplitudes that is explained; each image's brightness is free."""
    weight = np.sqrt(measured).var((1, 2))
    return round(float(np.average(explained(predicted, measured), weights=weight)), 4)


def _by_intensity(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Share of the variance of intensities that is explained, each image without its mean."""
    x, y = (v - v.mean((1, 2), keepdims=True) for v in (predicted, measured))
    return round(1 - float(((x - y) ** 2).sum() / max((y**2).sum(), 1e-12)), 4)


def _check_room(n_bytes: int, name: str, shape: tuple[int, ...]) -> None:
    """Raise a ValueError if the memory of this machine is too small for a fit."""
    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise ValueError(
            f"a fit of {name} {' x '.join(map(str, shape))} takes {n_bytes / 1e9:.1f} GB of "
            f"memory, and {free / 1e9:.1f} GB are free: crop the images, or take thicker slices"
        )
