"""The one call for data of your own: the strength of the prior is chosen by the data alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..._arrays import Array, Device, like, to_tensor
from ...devices import pick_device
from ...operators import Operator
from .._checks import check_data, checked_background, to_device
from ..fields.encodings import extent_of
from ..fields.field import Field, Softplus, Sum, Voxels
from ..fields.grids import FeatureGrid, pyramid
from ..fit.loop import FieldFit
from ..fit.losses import Loss, Prior
from . import losses
from ._learn import check_learn
from .loop import check_negative, fit, goodness_of_views, uninterrupted
from .sampling import Stage

STRENGTHS = (0.8, 0.4, 0.2, 0.1, 0.05, 0.025)
SHORT = (0.8, 0.95)  # memory of Adam: every step sees all data, so there is no noise to average
LEARN_STEPS = 200  # of the fit that finds the numbers of the operator
MOST_MISFIT = 3.0  # of a view, in variances of its noise, before a warning
N_GROUPS = 64  # of held-out pixels, from which the standard error is estimated


@dataclass(frozen=True)
class PriorChoice:
    """Score of each strength of the prior on the held-out pixels.

    Attributes
    ----------
    weights : array (S,)
        Weight of the prior, strongest first.
    misfit : array (S,)
        Loss on the held-out pixels.
    standard_error : array (S,)
        Of the difference to the smallest misfit.
    best : int
        The strongest prior within one standard error of the smallest misfit.
    """

    weights: np.ndarray
    misfit: np.ndarray
    standard_error: np.ndarray
    best: int

    @property
    def weight(self) -> float:
        """The chosen weight."""
        return float(self.weights[self.best])


def reconstruct(
    operator: Operator,
    data: Array,
    *,
    background: float | Array = 0.0,
    read_noise: float = 0.0,
    mask: Array | None = None,
    loss: Loss | None = None,
    learn: Sequence[str] = (),
    strengths: Sequence[float] = STRENGTHS,
    n_steps: int = 150,
    seed: int = 0,
    device: Device = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> FieldFit:
    r"""Reconstruct a volume from its views; every setting is chosen without a truth.

    Parameters
    ----------
    operator : linear operator
        ``operator(volume)`` and ``operator.adjoint(data)``, such as `LightField`. Where it has a
        ``voxel_size`` the prior respects it.
    data : array or tensor
        Counts in photons, background included. With `read_noise` they may be below zero: a
        camera whose offset was subtracted reads so in the dark.
    background : float or array
        Photons in each pixel that are not of the object.
    read_noise : float
        Standard deviation in electrons.
    mask : bool array, in the shape of the data, optional
        True where a pixel counts; a hot pixel or a dead view is left out.
    loss : callable, optional
        ``loss(prediction, data)``, summed over pixels, for data that are not counts, such as
        ``partial(losses.gaussian, sigma=2.0)``.
    learn : sequence of str
        Numbers of the operator that are found with the volume, among the names of
        ``operator.parameters()``: ["shifts"] of a light field or a tilt series.
    strengths : sequence of float
        Strengths of the prior to choose from, in units of the noise that the operator carries
        back into a voxel.
    n_steps : int
        Of the final fit.
    seed : int
        Of the held-out pixels and of the field's start.
    device, progress
        As for `fit`.
    checkpoint : str or Path, optional
        For the final fit, as for `fit`.

    Returns
    -------
    FieldFit
        ``volume`` is (Z, Y, X) in photons. ``settings["choice"]`` is a `PriorChoice`, whose
        misfit on held-out pixels also tells with and without `learn` apart. ``learned`` and
        ``errors`` have what was learned, ``operator`` has it built in.

    Warns
    -----
    UserWarning
        A view, or some pixels, that the volume does not explain: dead, hot, exchanged, moved, or
        not in photons.

    Raises
    ------
    ValueError
        NaN, negative counts without read noise, data of another shape than the operator gives, no
        light above the background, or names in `learn` that the operator does not have.

    Notes
    -----
    A sixth of the pixels, drawn at random, is held out. Free voxels are fitted to the others with
    each strength of `losses.hessian`, from the strongest to the weakest, each from the last. Noise
    is independent from pixel to pixel, so the held-out pixels judge without bias; of the strengths
    within one standard error of the best, the strongest is taken. The field, grids from coarse to
    fine that are added up, is then fitted to all pixels. What is learned of the operator is found
    first, with free voxels under a prior of middle strength, and followed to the end.

    Derived in :doc:`/book/inr/03_neural_field`; with `learn` in
    :doc:`/book/inr/08_find_the_instrument`.

    Examples
    --------
    >>> from helpers.inr import phantoms
    >>> sim = phantoms.simulate(shape=(4, 24, 24), seed=1, n_tubes=2)
    >>> result = reconstruct(sim.op, sim.views, background=4, read_noise=1.5, n_steps=20)
    >>> result.volume.shape, bool(result.volume.min() >= 0)
    ((4, 24, 24), True)
    """
    schedule = Stage(n_steps, 0.3, betas=SHORT)
    relative = _checked_settings(operator, strengths, read_noise, seed)
    if isinstance(learn, str) or len(learn):
        check_learn(operator, learn)
    device = pick_device(device)
    y = to_tensor(data, device, torch.float32)
    used = _checked_mask(mask, y)
    y = torch.where(used, y, y.new_zeros(()))
    check_data(operator, y)
    b = checked_background(background, y)
    counts = loss is None
    if loss is None:
        check_negative(y, read_noise)
        if not bool((b >= 0).all()):
            raise ValueError(
                f"the background is negative, down to {float(b.min()):.3g}: give photons that are "
                "not of the object, zero or more"
            )
        loss = partial(losses.poisson, read_noise=read_noise)
    operator = to_device(operator, device)
    whole = y, b
    if mask is not None:
        operator, y, b = _Pixels(operator, used), y[used], b[used]
    mean = _mean(operator, y - b)
    generator = torch.Generator().manual_seed(seed)
    prior = partial(losses.hessian, weights=steps(operator), smooth=1e-3 * mean)
    unit = _noise_in_a_voxel(operator, y, b, loss, generator)
    weights = unit * relative
    if len(learn):
        first = fit(
            Voxels(operator.in_shape, Softplus(mean, scale=10 * mean)), operator, y, background=b,
            loss=loss, prior=_times(float(weights[len(weights) // 2]), prior), learn=learn,
            schedule=Stage(LEARN_STEPS, 0.3, betas=SHORT), device=device, progress=progress,
        )  # fmt: skip
        operator = cast(Any, uninterrupted(first).operator)
    choice = choose_prior(operator, y, b, loss, prior, weights, mean, generator, progress=progress)

    shape = operator.in_shape
    levels = pyramid(shape, 4)
    field = Field(
        FeatureGrid(levels, 1, generator=generator),
        Sum(),
        Softplus(mean, scale=10 * mean),
        extent_of(shape, getattr(operator, "voxel_size", None) or 1.0),
    )
    result = fit(
        field, operator, y, background=b, loss=loss, prior=_times(choice.weight, prior),
        learn=learn, schedule=schedule, generator=generator, checkpoint=checkpoint,
        progress=progress, device=device,
    )  # fmt: skip
    settings = result.settings | {"choice": choice, "seed": seed}
    found = getattr(result.operator, "operator", result.operator)  # without the mask
    volume = to_tensor(result.volume, device)
    goodness = goodness_of_views(found, volume, *whole, loss, used)
    if counts:
        _warn(found, volume, *whole, read_noise, used, goodness)
    return replace(
        result, volume=like(volume, data), settings=settings, operator=found,
        goodness=goodness,
    )  # fmt: skip


def _checked_settings(
    operator: Operator, strengths: float | Sequence[float], read_noise: float, seed: int
) -> np.ndarray:
    """The strengths of the prior, strongest first; every setting is checked before any work."""
    if not hasattr(operator, "adjoint"):
        raise TypeError(
            f"{type(operator).__name__} has no `adjoint`, but the strength of the prior is found "
            "with it: give a linear operator, or use fit, or fit_contrast for a MultiSlice"
        )
    found = np.atleast_1d(np.asarray(strengths, dtype=float))
    if found.ndim != 1 or not found.size or not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(f"strengths is {strengths}: give one number or more, zero or above")
    if not 0 <= read_noise < np.inf:
        raise ValueError(f"read_noise is {read_noise}: give electrons, zero or more")
    if not isinstance(seed, int | np.integer):
        raise ValueError(f"seed is {seed!r}: give a whole number")
    return np.sort(found)[::-1]


def _warn(
    operator: Any,
    volume: torch.Tensor,
    data: torch.Tensor,
    background: torch.Tensor,
    read_noise: float,
    used: torch.Tensor,
    goodness: np.ndarray | None,
) -> None:
    """Say which views or pixels the volume does not explain."""
    if goodness is None or goodness.max() <= MOST_MISFIT:
        return
    wrong = np.flatnonzero(goodness > MOST_MISFIT)
    with torch.no_grad():
        prediction = operator(volume) + background
    sigma = (prediction.clamp(min=0) + read_noise**2 + 1e-6).sqrt()
    hot = int((used & ((data - prediction).abs() > 8 * sigma)).sum())
    many = len(wrong) > len(goodness) / 2
    views = "most views" if many else f"view {', '.join(map(str, wrong))}"
    warnings.warn(
        f"{views}: the volume explains them to {goodness.max():.3g} times the variance of their "
        f"noise, where 1 is right; {hot} pixels are off by 8 standard deviations. Look for hot "
        "pixels and dead views (leave them out with mask=), views that were moved or exchanged "
        "(learn=), and counts that are not photons",
        stacklevel=3,
    )


def _checked_mask(mask: Array | None, y: torch.Tensor) -> torch.Tensor:
    if mask is None:
        return torch.ones_like(y, dtype=torch.bool)
    used = to_tensor(mask if torch.is_tensor(mask) else np.asarray(mask), y.device) > 0
    if used.shape != y.shape:
        raise ValueError(f"mask has shape {tuple(used.shape)} and the data {tuple(y.shape)}")
    if not bool(used.any()):
        raise ValueError("the mask leaves no pixel: it is True where a pixel counts")
    return used


def choose_prior(
    operator: Operator,
    data: torch.Tensor,
    background: torch.Tensor,
    loss: Loss,
    prior: Prior,
    weights: Sequence[float] | np.ndarray,
    mean: float,
    generator: torch.Generator | None,
    *,
    held_out: float = 1 / 6,
    progress: bool = False,
) -> PriorChoice:
    """Choose the weight of a prior, of `weights` strongest first, by pixels held out of the fit.

    A voxel starts at `mean`; `held_out` is the share of the pixels.
    """
    keep = (torch.rand(data.shape, generator=generator) >= held_out).to(data.device)
    seen = _Pixels(operator, keep)
    groups = torch.randint(N_GROUPS, (int((~keep).sum()),), generator=generator)
    start: Any = Voxels(operator.in_shape, Softplus(mean, scale=10 * mean))
    found = []
    for n, weight in enumerate(weights):
        start = fit(
            start, seen, data[keep], background=background[keep], loss=loss,
            prior=_times(float(weight), prior), device=data.device, progress=progress,
            schedule=Stage(80 if n == 0 else 40, 0.6, betas=SHORT),
        )  # fmt: skip
        uninterrupted(start)
        with torch.no_grad():
            prediction = (operator(start.volume) + background)[~keep]
        unseen = data[~keep]
        found.append(
            [float(loss(prediction[groups == g], unseen[groups == g])) for g in range(N_GROUPS)]
        )
    misfits = np.array(found)
    total = misfits.sum(axis=1)
    apart = misfits - misfits[total.argmin()]
    standard_error = apart.std(axis=1, ddof=1) * np.sqrt(N_GROUPS)
    best = int(np.argmax(total <= total.min() + standard_error))
    return PriorChoice(np.asarray(weights, dtype=float), total, standard_error, best)


def steps(operator: Any) -> tuple[float, ...]:
    """Weights of second differences along (z, y, x): the finest step counts one."""
    return losses.step_weights(getattr(operator, "voxel_size", None) or (1.0, 1.0, 1.0))


class _Pixels:
    """An operator of which only some pixels are looked at."""

    def __init__(self, operator: Operator, keep: torch.Tensor) -> None:
        self.operator, self.keep = operator, keep
        self.in_shape, self.out_shape = operator.in_shape, (int(keep.sum()),)
        self.voxel_size = getattr(operator, "voxel_size", None)

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        return self.operator(volume)[self.keep]

    def parameters(self) -> dict[str, torch.Tensor]:
        """Those of the whole operator."""
        return cast(Any, self.operator).parameters()

    def at(self, values: Mapping[str, Any]) -> _Pixels:
        """The same pixels of the operator with other values."""
        return _Pixels(cast(Any, self.operator).at(values), self.keep)

    def without_freedom(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """As of the whole operator."""
        return cast(Any, self.operator).without_freedom(name, value)

    def adjoint(self, values: torch.Tensor) -> torch.Tensor:
        """Smear the values of these pixels back; the others hold nothing."""
        whole = values.new_zeros(self.keep.shape)
        whole[self.keep] = values
        return self.operator.adjoint(whole)


def _mean(operator: Operator, signal: torch.Tensor) -> float:
    """Mean of a voxel that explains the light in all pixels together."""
    sensitivity = operator.adjoint(torch.ones_like(signal))
    mean = float(signal.sum() / sensitivity.sum())
    if not mean > 0:
        raise ValueError(
            "the data hold no light above the background: check the background, which is in "
            "photons for each pixel"
        )
    return mean


def _noise_in_a_voxel(
    operator: Operator,
    data: torch.Tensor,
    background: torch.Tensor,
    loss: Loss,
    generator: torch.Generator,
) -> float:
    """Standard deviation of the slope of the loss at a voxel, from the noise alone."""
    # the curvature of the loss is one over the variance of a pixel, and so of its slope's noise
    at = torch.maximum(data, background + 1e-3 * data.abs().max()).requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(at, data), at, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), at)
    random = torch.randn(data.shape, generator=generator).to(data.device)
    return float(operator.adjoint(random * curvature.clamp(min=0).sqrt()).std())


def _times(weight: float, prior: Prior) -> Prior:
    return lambda volume: weight * prior(volume)
