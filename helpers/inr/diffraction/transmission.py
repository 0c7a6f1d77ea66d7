"""From the images of an LED array to a complex transmission, with the instrument if need be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..._arrays import Array, Device, to_numpy, to_tensor
from ...devices import pick_device
from ...training.identity import fingerprint, told
from ...training.loop import Run, Step
from .._checks import check_data
from ..fit._learn import check_learn
from ._unknown import Evaluation, Unknown
from .ptychography import Ptychography

UNKNOWN = ("aberration", "pupil", "absorption", "gains", "background")
RIDGE = 0.1  # of a number in its unit; it decides what no image shows
MOST_TRIALS = 100  # of a step in a line search: never reached


@dataclass(frozen=True)
class TransmissionFit:
    """A transmission, and the instrument that was found with it.

    Attributes
    ----------
    transmission : (Y, X) complex array
        On the object's grid, without the model's margins.
    volume : (2, Y, X) array
        The same with margins, minus one, as the model is called with it.
    model : Ptychography
        With the numbers that were found, of the LEDs that were given.
    history : dict of arrays
        "objective" at the start of each iteration, and "seconds" at its end; the objective rises
        where the dark-field LEDs come in.
    n_iter : int
    converged : bool
        Whether the last tenth of the iterations with all LEDs lowered the objective by less than a
        hundredth.
    explained : (L,) array
        Share of the variance of each image's amplitude that the model explains.
    settings : dict
    interrupted : bool
        Ctrl-C ended it after an iteration.
    """

    transmission: np.ndarray
    volume: np.ndarray = field(repr=False)
    model: Ptychography = field(repr=False)
    history: dict[str, np.ndarray] = field(repr=False)
    n_iter: int
    converged: bool
    explained: np.ndarray = field(repr=False)
    settings: dict
    interrupted: bool = False


def fit_transmission(
    model: Ptychography,
    intensity: Array,
    *,
    learn: Sequence[str] = UNKNOWN,
    n_iter: int = 100,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
    callback: Callable[[Step], Any] | None = None,
    progress: bool = False,
    device: Device = None,
) -> TransmissionFit:
    r"""Find the transmission of a thin object, and the numbers of the instrument in `learn`.

    Parameters
    ----------
    model : Ptychography
        With what is known of the instrument; the object starts as an empty slide.
    intensity : (L, Y, X) array
        Measured, in units of about the bright field; zero or more.
    learn : sequence of str
        Names in ``model.parameters()``. () for an instrument that is known.
    n_iter : int
        Iterations at most; where there are dark-field LEDs, the first half without them.
    checkpoint : str or Path, optional
        File into which the fit is saved, and from which the same fit goes on, bit for bit. Same are
        images, model and `learn`; of `n_iter`, that the iterations made had the same LEDs.
    checkpoint_every : int
        Iterations between two saves.
    callback : callable, optional
        ``callback(step)`` after each iteration, with a `helpers.training.Step`; True ends the fit.
    progress : bool
        Show a bar.
    device : str or torch.device, optional

    Returns
    -------
    TransmissionFit

    Raises
    ------
    ValueError
        NaN, negative intensities, shapes that do not fit, images not in units of the bright field,
        an unknown name in `learn`, no iteration, or a checkpoint of another fit.
    FloatingPointError
        The objective is no longer finite.

    Notes
    -----
    .. math:: \min_{t, \ldots} \sum_{m, r} \Bigl( \sqrt{I_m(r)} - \sqrt{y_m(r)} \Bigr)^2

    by L-BFGS. Every LED looks at another part of the spectrum :math:`\hat t`, the middle is seen
    often and the rim once. So the unknown is :math:`\hat t` times the root of how often it is
    seen, and every other number in a unit that changes the sum about as much. Where the amplitude
    is right, its step is that of alternating projections, and with the pupil in `learn` it is the
    joint form of embedded pupil recovery :cite:p:`ou2014`. Bright-field LEDs overlap in the middle
    of the spectrum and find object and pupil there; with all LEDs from the beginning, the dark
    ones fit their noise to a wrong pupil first. Where they come in, L-BFGS forgets the curvature it
    has seen; within a half it is saved with the rest. `helpers.inr.fit.fit` finds the same under a
    prior, or with a field.

    Derived in :doc:`/book/inr/10_measured_leds`.

    Examples
    --------
    >>> from helpers.inr.diffraction import led_directions
    >>> leds = led_directions([[0, 0], [0, 9], [9, 0]], 80)
    >>> model = Ptychography(leds, (32, 32), wavelength=0.5, na=0.2, pixel_size=1.0, finer=3)
    >>> x = np.zeros(model.in_shape)
    >>> x[1, 40:50, 40:50] = 0.5
    >>> found = fit_transmission(model, model(x), learn=(), n_iter=30, device="cpu")
    >>> bool(found.explained.min() > 0.95)
    True
    """
    if n_iter < 1:
        raise ValueError(f"n_iter is {n_iter}: give one iteration or more")
    if isinstance(learn, str) or len(learn):
        check_learn(model, learn)
    device = pick_device(device)
    y = to_tensor(intensity, device, torch.float32)
    check_data(model, y)
    _check_units(model, y)
    amplitude, every = y.sqrt(), np.arange(len(model.leds))
    bright = every[to_numpy(model.bright)]
    first = n_iter // 2 if 0 < len(bright) < len(every) else 0
    unknown = Unknown(model.to(device), y, learn)
    search = torch.optim.LBFGS(
        unknown.parameters(), max_iter=1, max_eval=MOST_TRIALS, history_size=10,
        line_search_fn="strong_wolfe", tolerance_change=0, tolerance_grad=0,
    )  # fmt: skip
    run = Run(
        unknown,
        search,
        n_iter,
        lambda step: 1.0,
        look=lambda step: {"leds": "bright field" if step < first else "all"},
        identity=lambda: {"data": fingerprint(y), "model": told(model), "learn": list(learn)},
        parts={"unknown": unknown},
        checkpoint=checkpoint,
        save_every=checkpoint_every,
        card={"data": f"{tuple(y.shape)} intensities", "seed": 0},
        advice="check the units of the images",
    )

    def misfit(leds: np.ndarray) -> torch.Tensor:
        instrument, x = unknown(leds)
        predicted = instrument(x).clamp(min=1e-8).sqrt()
        value = (predicted - amplitude[leds]).square().sum()
        for change in unknown.change.values():
            value = value + RIDGE * change.square().sum()
        return value

    alone, together = (Evaluation(unknown, partial(misfit, leds)) for leds in (bright, every))

    def objective(step: int) -> Evaluation:
        if step in (0, first):  # other LEDs are another problem: what was learned of it is dropped
            unknown.look_at(bright if step < first else every)
            search.state.clear()
        return alone if step < first else together

    run(objective, callback=callback, progress=progress, unit="iteration")
    with torch.no_grad():
        instrument, x = unknown(every)
        predicted = instrument(x)
    volume = to_numpy(x)
    best = np.minimum.accumulate(run.history[first:] or [np.inf])
    return TransmissionFit(
        transmission=instrument.transmission(volume),
        volume=volume,
        model=instrument,
        history=run.record,
        n_iter=len(run.history),
        converged=len(best) > 1 and bool(best[-1 - max(1, len(best) // 10)] < 1.01 * best[-1]),
        explained=explained(predicted, y),
        settings={"learn": tuple(learn), "device": str(device)},
        interrupted=run.interrupted,
    )


def explained(predicted: Array, measured: Array) -> np.ndarray:
    """Share of the variance of each image's amplitude that is predicted; brightness is left free.

    Parameters
    ----------
    predicted, measured : (L, Y, X) array or tensor
        Intensities, each in a unit of its own; below zero counts as zero.

    Returns
    -------
    (L,) array
        1 for images that differ by a factor only. Used in :doc:`/book/inr/10_measured_leds`.

    Examples
    --------
    >>> image = np.arange(16.0).reshape(1, 4, 4)
    >>> explained(4 * image, image).round(6).tolist()
    [1.0]
    """
    a, b = (np.sqrt(np.maximum(to_numpy(v), 0)).reshape(len(v), -1) for v in (predicted, measured))
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    scale = (a * b).sum(1) / np.maximum((a * a).sum(1), 1e-12)
    return 1 - ((b - scale[:, None] * a) ** 2).sum(1) / np.maximum((b * b).sum(1), 1e-12)


def _check_units(model: Ptychography, y: torch.Tensor) -> None:
    if not bool((y >= 0).all()):
        raise ValueError("the images have values below zero: subtract less, or cut them at zero")
    bright = y[model.bright.to(y.device)]
    level = float(bright.median()) if len(bright) else 1.0
    if not 0.2 < level < 5:
        raise ValueError(
            f"the bright-field images have a median of {level:.3g}: divide all images by one "
            "without a sample, so that it is near 1"
        )
