"""From the images of an LED array to a complex transmission, with the instrument if need be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..._arrays import Array, Device, to_numpy, to_tensor
from ...devices import pick_device
from .._checks import check_data
from ..fit._learn import check_learn
from .ptychography import Ptychography

UNKNOWN = ("aberration", "pupil", "absorption", "gains", "background")
STEPS = {"aberration": 0.1, "pupil": 0.1, "absorption": 0.1}  # radians: of unit curvature, about
RIDGE = 0.1  # of a number in that unit; it decides what no image shows


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
        "objective" and "seconds" of each evaluation; the objective rises where the dark-field LEDs
        come in.
    n_iter : int
    converged : bool
        Whether the last tenth of the evaluations lowered the objective by less than a hundredth.
    explained : (L,) array
        Share of the variance of each image's amplitude that the model explains.
    settings : dict
    """

    transmission: np.ndarray
    volume: np.ndarray = field(repr=False)
    model: Ptychography = field(repr=False)
    history: dict[str, np.ndarray] = field(repr=False)
    n_iter: int
    converged: bool
    explained: np.ndarray = field(repr=False)
    settings: dict


def fit_transmission(
    model: Ptychography,
    intensity: Array,
    *,
    learn: Sequence[str] = UNKNOWN,
    n_iter: int = 100,
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
    device : str or torch.device, optional

    Returns
    -------
    TransmissionFit

    Raises
    ------
    ValueError
        NaN, negative intensities, shapes that do not fit, images not in units of the bright field,
        an unknown name in `learn`, or no iteration.

    Notes
    -----
    .. math:: \min_{t, \ldots} \sum_{m, r} \Bigl( \sqrt{I_m(r)} - \sqrt{y_m(r)} \Bigr)^2

    by L-BFGS. Every LED looks at another part of the spectrum :math:`\hat t`, the middle is seen
    often and the rim once. So the unknown is :math:`\hat t` times the root of how often it is
    seen, and every other number in a unit that changes the sum about as much. Where the amplitude
    is right, its step is that of alternating projections, and with the pupil in `learn` it is the
    joint form of embedded pupil recovery :cite:p:`ou2014`. Bright-field LEDs overlap in the middle
    of the spectrum and find object and pupil there; with all LEDs from the beginning, the dark
    ones fit their noise to a wrong pupil first. `helpers.inr.fit.fit` finds the same under a
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
    amplitude, model = y.sqrt(), model.to(device)
    start = {name: value.float() for name, value in model.parameters().items()}
    unit = _units(model, y) | {"leds": 0.1 * model._step.float()}
    free = {name: torch.zeros_like(start[name], requires_grad=True) for name in learn}
    spectrum = torch.zeros((*model.in_shape[1:], 2), device=device, requires_grad=True)
    weight = torch.zeros(model.in_shape[1:], device=device)

    def here(leds: np.ndarray) -> tuple[Ptychography, torch.Tensor]:
        t = torch.fft.ifft2(torch.view_as_complex(spectrum) * weight)
        part, values = model.select(leds), {}
        for name, change in free.items():
            step, known = unit[name] * change, start[name]
            if name in model.of_each_view:
                step, known = step[leds], known[leds]
            values[name] = known + part.without_freedom(name, step)
        return part.at(values), torch.stack([t.real, t.imag])

    record: list[tuple[float, float]] = []
    made, last, began = 0, 0, time.monotonic()
    for leds, n in _stages(model, n_iter):
        last = len(record)
        seen = model.select(leds).seen().float()
        # zero where no LED looks
        size = seen.numel() ** 0.5
        wanted = torch.where(seen > 0, seen.clamp(min=0.5).rsqrt(), 0) * size
        with torch.no_grad():
            spectrum *= torch.where(wanted > 0, weight / wanted.clamp(min=1e-12), 0)[..., None]
        weight, shown = wanted, amplitude[leds]
        search = torch.optim.LBFGS(
            [spectrum, *free.values()], max_iter=n, max_eval=2 * n, history_size=10,
            line_search_fn="strong_wolfe", tolerance_change=0, tolerance_grad=0,
        )  # fmt: skip

        def closure(search: Any = search, leds: Any = leds, shown: Any = shown) -> torch.Tensor:
            search.zero_grad()
            instrument, x = here(leds)
            predicted = instrument(x).clamp(min=1e-8).sqrt()
            value = (predicted - shown).square().sum()
            for change in free.values():
                value = value + RIDGE * change.square().sum()
            value.backward()
            record.append((value.item(), time.monotonic() - began))
            return value

        search.step(closure)
        made += int(search.state[spectrum]["n_iter"])
    with torch.no_grad():
        instrument, x = here(leds)
        predicted = instrument(x)
    objective, seconds = np.array(record).T
    if not np.isfinite(objective[-1]):
        raise FloatingPointError("the objective is not finite: check the units of the images")
    best = np.minimum.accumulate(objective[last:])
    volume = to_numpy(x)
    return TransmissionFit(
        transmission=instrument.transmission(volume),
        volume=volume,
        model=instrument,
        history={"objective": objective, "seconds": seconds},
        n_iter=made,
        converged=len(best) > 1 and bool(best[-1 - max(1, len(best) // 10)] < 1.01 * best[-1]),
        explained=explained(predicted, y),
        settings={"learn": tuple(learn), "device": str(device)},
    )


def _stages(model: Ptychography, n_iter: int) -> list[tuple[np.ndarray, int]]:
    """LEDs and iterations of each stage: the bright field alone, then all."""
    every = np.arange(len(model.leds))
    bright = every[to_numpy(model.bright)]
    first = n_iter // 2
    if not first or len(bright) in (0, len(every)):
        return [(every, n_iter)]
    return [(bright, first), (every, n_iter - first)]


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


def _units(model: Ptychography, y: torch.Tensor) -> dict[str, float | torch.Tensor]:
    """Changes of each number that change the misfit about as much as one of the spectrum's."""
    same = 2 / model.finer**2
    bright = y.flatten(1).sum(1).clamp(min=1e-6)
    dark = y.clamp(min=1e-3).reciprocal().flatten(1).sum(1)
    return STEPS | {
        "gains": (2 * same / bright).sqrt(),
        "background": (2 * same / dark).sqrt(),
    }


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
