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
from ._unknown import Evaluation, Least, Unknown
from .ptychography import Ptychography

UNKNOWN = ("aberration", "pupil", "absorption", "gains", "background")
RIDGE = 0.1  # of a number in its unit; it decides what no image shows
DEFOCUS = (0.0, -0.5, 0.5)  # radians RMS from what is known, to start from
SPAN = 10  # iterations over which the fall of the objective tells whether it has settled
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
        "objective" at the start of each iteration, and "seconds" at its end; the objective falls
        anew from each start, and from where the dark-field LEDs come in.
    n_iter : int
        Iterations made.
    converged : bool
        Whether the fit ended by `tol`.
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
    n_iter: int = 200,
    tol: float = 0.01,
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
        Iterations at most. Where there are dark-field LEDs, or the aberration is learned, the first
        half looks at the bright field alone.
    tol : float
        The fit ends when the last ten iterations with all LEDs have lowered the objective by less
        than this share of it. 0 for `n_iter` iterations.
    checkpoint : str or Path, optional
        File into which the fit is saved, and from which the same fit goes on, bit for bit. Same are
        images, model and `learn`; of `n_iter`, that the iterations made had the same LEDs and
        starts.
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
        an unknown name in `learn`, no iteration, a `tol` that is no share, or another fit's
        checkpoint.
    FloatingPointError
        The objective is no longer finite.

    Notes
    -----
    .. math:: \min_{t, \ldots} \sum_{m, r} \Bigl( \sqrt{I_m(r)} - \sqrt{y_m(r)} \Bigr)^2

    by L-BFGS. Every LED looks at another part of the spectrum :math:`\hat t`, the middle is seen
    often and the rim once. So the unknown is :math:`\hat t` times the root of how often it is
    seen, and every other number in a unit that changes the sum about as much. Where the amplitude
    is right, its step is that of alternating projections, and with the pupil in `learn` it is the
    joint form of embedded pupil recovery :cite:p:`ou2014`.

    Bright-field LEDs overlap in the middle of the spectrum and find object and pupil there; with
    all LEDs from the beginning, the dark ones fit their noise to a wrong pupil first. A defocus of
    the wrong sign is a local minimum. Where the aberration is learned, the iterations without dark
    fields are therefore shared by three starts, one as known and two with half a radian RMS of
    defocus more and less, and the one with the smallest misfit goes on. L-BFGS forgets the
    curvature it has seen at each of these borders. The background of a dark field that is said to
    be zero starts at its darkest pixels: at zero, the root is infinitely steep.

    Each frequency is seen by several LEDs, so more iterations hardly fit more noise: the fit ends
    when it has settled, which needs no data that are held out. Where hidden LEDs get worse with
    more iterations, look for an error of the model: without a `margin` the field repeats at its
    border, or LEDs are not at their place. `helpers.inr.fit.fit` finds the same under a prior, or
    with a field.

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
    if not 0 <= tol < 1:
        raise ValueError(f"tol is {tol}: give a share of the objective, 0 or more, below 1")
    if isinstance(learn, str) or len(learn):
        check_learn(model, learn)
    device = pick_device(device)
    y = to_tensor(intensity, device, torch.float32)
    check_data(model, y)
    _check_units(model, y)
    amplitude, every = y.sqrt(), np.arange(len(model.leds))
    bright = every[to_numpy(model.bright)]
    plan = _Plan(n_iter, "aberration" in learn, 0 < len(bright) < len(every))
    unknown = Unknown(model.to(device), y, learn)
    starts = Least(unknown)
    search = torch.optim.LBFGS(
        unknown.parameters(), max_iter=1, max_eval=MOST_TRIALS, history_size=10,
        line_search_fn="strong_wolfe", tolerance_change=0, tolerance_grad=0,
    )  # fmt: skip
    run = Run(
        unknown,
        search,
        n_iter,
        lambda step: 1.0,
        look=plan.look,
        identity=lambda: {"data": fingerprint(y), "model": told(model), "learn": list(learn)},
        parts={"unknown": unknown, "starts": (starts.state_dict, starts.load_state_dict)},
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

    few = bright if len(bright) else every
    alone, together = (Evaluation(unknown, partial(misfit, leds)) for leds in (few, every))

    def objective(step: int) -> Evaluation:
        if step in plan.borders:  # another problem: what L-BFGS has seen of the last is dropped
            if step:
                starts.look(alone().item())
            if step < plan.first:
                unknown.begin(plan.defocus(step))
            elif step:
                starts.restore()
            unknown.look_at(few if step < plan.first else every)
            search.state.clear()
        return alone if step < plan.first else together

    def settled() -> bool:
        last = run.history[plan.first :]
        return len(last) > SPAN and last[-1 - SPAN] - last[-1] < tol * last[-1]

    def over(step: Step) -> bool:
        return bool(callback and callback(step)) or settled()

    if not settled():
        run(objective, callback=over, progress=progress, unit="iteration")
    with torch.no_grad():
        instrument, x = unknown(every)
        predicted = instrument(x)
    volume = to_numpy(x)
    return TransmissionFit(
        transmission=instrument.transmission(volume),
        volume=volume,
        model=instrument,
        history=run.record,
        n_iter=len(run.history),
        converged=settled(),
        explained=explained(predicted, y),
        settings={
            "learn": tuple(learn),
            "n_iter": n_iter,
            "tol": tol,
            "defocus": plan.starts[starts.at] if starts.numbers else 0.0,
            "device": str(device),
        },
        interrupted=run.interrupted,
    )


class _Plan:
    """Iterations with the bright field alone, from each start, and then with all LEDs."""

    def __init__(self, n_iter: int, aberrated: bool, dark: bool) -> None:
        self.starts = DEFOCUS if aberrated else (0.0,)
        self.length = n_iter // 2 // len(self.starts) if aberrated or dark else 0
        self.first = self.length * len(self.starts)
        self.borders = {number * self.length for number in range(len(self.starts) + 1)}

    def defocus(self, step: int) -> float:
        return self.starts[step // self.length]

    def look(self, step: int) -> dict[str, Any]:
        """LEDs and start of a step, which a fit that goes on must share."""
        if step < self.first:
            return {"leds": "bright field", "defocus": self.defocus(step)}
        return {"leds": "all"}


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
