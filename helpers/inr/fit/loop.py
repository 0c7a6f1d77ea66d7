"""Fit a field so that its views, seen through the physics, are the views that were measured."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..._arrays import Array, Device, like, to_numpy, to_tensor
from ...devices import pick_device
from ...operators import Operator
from ...training.identity import fingerprint, name_of, told
from ...training.loop import Run, Step, adapted
from .._checks import ADVICE, check_data, checked_background, to_device
from ._learn import Learnt, curvature_of
from .losses import Loss, Prior, poisson
from .sampling import Stage, sampler

ONE_STAGE = Stage()


@dataclass(frozen=True)
class FieldFit:
    """A fitted field.

    Attributes
    ----------
    volume : array (Z, Y, X)
        The field on the grid of the operator, in the unit of its head.
    field : torch.nn.Module
        On the device of the fit; `helpers.inr.render.render` draws it on any grid.
    history : dict of arrays
        "objective" of each step, and "seconds" since the start.
    n_iter : int
        Steps taken.
    converged : bool
        Whether the last tenth of the steps of the last stage lowered the objective by less than a
        thousandth of its whole fall in that stage.
    settings : dict
    moments : dict
        State of the optimiser, for a fit that goes on from here.
    interrupted : bool
        Ctrl-C ended it after a step.
    operator : operator
        The one that the volume was fitted through, with what was learned.
    learned : dict of arrays
        By name: what was found of the operator with the volume.
    errors : dict of arrays
        Standard error of each of these numbers if the volume and the others were known, from the
        curvature of the loss; the true ones are larger. A map, such as a pupil, has none.
    goodness : array (V,)
        Of each view: mean of the squared residual over the variance that the loss assumes. About
        1 where the model explains the view; a view or a few that stand out are wrong.
    """

    volume: Array
    field: nn.Module
    history: dict[str, np.ndarray]
    n_iter: int
    converged: bool
    settings: dict[str, Any]
    moments: dict[str, Any] = dataclass_field(repr=False)
    interrupted: bool = False
    operator: Operator | Callable[[torch.Tensor], torch.Tensor] | None = dataclass_field(
        default=None, repr=False
    )
    learned: dict[str, np.ndarray] = dataclass_field(default_factory=dict)
    errors: dict[str, np.ndarray] = dataclass_field(default_factory=dict)
    goodness: np.ndarray | None = None


def fit(
    field: nn.Module | FieldFit,
    operator: Operator | Callable[[torch.Tensor], torch.Tensor],
    data: Array,
    *,
    loss: Loss = poisson,
    prior: Prior | None = None,
    schedule: Stage | Sequence[Stage] = ONE_STAGE,
    background: float | Array = 0.0,
    learn: Sequence[str] = (),
    generator: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
    progress: bool = False,
    callback: Callable[[Step], Any] | None = None,
    device: Device = None,
) -> FieldFit:
    r"""Minimise ``loss(operator(volume) + background, data) + prior(volume)`` over a field.

    Parameters
    ----------
    field : torch.nn.Module or FieldFit
        Has ``volume(shape, roi=None)``, such as `helpers.inr.fields.Field` or `Voxels`. It is
        copied, not changed. A `FieldFit`, or anything else with a `field` and `moments`, goes on
        from its field and its moments of Adam.
    operator : callable
        Volume to prediction, with ``in_shape``; a linear operator or any differentiable model.
    data : array or tensor
        What was measured, in the shape that the operator gives.
    loss : callable
        ``loss(prediction, data)``, see `helpers.inr.fit.losses`.
    prior : callable, optional
        ``prior(volume)``.
    schedule : Stage or sequence of Stage
    background : float or array
        Added to every prediction; an array broadcasts against the data.
    learn : sequence of str
        Numbers of the operator that are found with the volume, among the names of
        ``operator.parameters()``, such as ["shifts"]. Steps then look at all data.
    generator : torch.Generator, optional
        On the CPU, for blocks and views drawn at random. Default: seed 0.
    checkpoint : str or Path, optional
        File into which the fit is saved, and from which the same fit goes on, bit for bit; so
        does one with more stages. Same are data, background, operator, `learn`, loss, prior,
        start and generator, each with all its settings.
    checkpoint_every : int
        Steps between two saves.
    progress : bool
        Show a bar.
    callback : callable, optional
        ``callback(step)`` after each step, with a `helpers.training.Step`; True ends the fit.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    FieldFit
        With a NumPy volume for NumPy data.

    Raises
    ------
    ValueError
        Data with NaN or of the wrong shape, negative counts under shot noise, a background that
        does not fit, a stage that does not suit the operator, or a checkpoint of another fit.
    FloatingPointError
        The objective is no longer finite.

    Notes
    -----
    .. math:: \min_\theta \; -\log p\bigl(y \mid A f_\theta + b\bigr) + R(f_\theta)

    by Adam :cite:p:`kingma2015`. In stages that look at a part, likelihood and prior are scaled
    up by the share that was seen, so that a step sees the whole objective on average. Derived in
    :doc:`/book/inr/03_neural_field`.

    Examples
    --------
    >>> import torch
    >>> from helpers.inr import fields, lightfield
    >>> h = lightfield.psf(lightfield.Optics(), [0.0, 1.0], 32)
    >>> op = lightfield.LightField(h, shape=(16, 16))
    >>> views = op(np.ones(op.in_shape, np.float32))
    >>> start = fields.Voxels(op.in_shape, fields.Softplus(mean=0.5))
    >>> result = fit(start, op, views, schedule=Stage(20, 0.3), device="cpu")
    >>> result.volume.shape, result.history["objective"][-1] < result.history["objective"][0]
    ((2, 16, 16), np.True_)
    """
    stages = (schedule,) if isinstance(schedule, Stage) else tuple(schedule)
    if not stages:
        raise ValueError("schedule is empty: give at least one Stage")
    callback = adapted(callback, lambda step: (int(step), step.loss, step.model))
    device = pick_device(device)
    y = to_tensor(data, device, torch.float32)
    check_data(operator, y)
    _check_counts(loss, y)
    b = checked_background(background, y)
    operator = to_device(operator, device)
    learnt = _learnt(operator, learn, stages, device)
    seen_through: Any = learnt or operator
    plan = _Plan(stages, [sampler(stage, seen_through, y, b) for stage in stages])
    moments = getattr(field, "moments", None)
    model: Any = getattr(field, "field", field)
    model = copy.deepcopy(model).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=stages[0].learning_rate)
    if moments is not None and not learnt:
        optimizer.load_state_dict(copy.deepcopy(moments))  # Adam works in place
    if learnt:
        optimizer.add_param_group({"params": list(learnt.change.values())})
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    run = Run(
        model,
        optimizer,
        plan.n_steps,
        plan.rate,
        look=plan.settings,
        identity=lambda: {
            "data": fingerprint([y, b]),
            "operator": told(operator),
            "learn": list(learn),
            "loss": told(loss),
            "prior": prior and told(prior),
            "start": fingerprint([model, moments]),
            "seed": generator.initial_seed(),
        },
        parts={
            "field": model,
            "generator": generator,
            "memory": (plan.get_memory, plan.set_memory),
        }
        | ({"learned": learnt.change} if learnt else {}),
        checkpoint=checkpoint,
        save_every=checkpoint_every,
        card={"data": f"{tuple(y.shape)} numbers", "seed": generator.initial_seed()},
        advice=ADVICE,
    )

    def objective(step: int) -> torch.Tensor:
        stage, draw = plan.at(step)
        seen = draw(model, generator)
        value = loss(seen.prediction, seen.data) / seen.share_of_data
        if prior is not None and stage.coarsen == 1 and seen.volume is not None:
            value = value + prior(seen.volume) / seen.share_of_volume
        return value

    run(objective, callback=callback, progress=progress)
    with torch.no_grad():
        volume = model.volume(cast(Any, operator).in_shape)
        found = learnt.found() if learnt else operator
        goodness = goodness_of_views(found, volume, y, b, loss)
    if not bool(torch.isfinite(volume).all()):
        raise FloatingPointError(
            f"the volume is not finite after step {len(run.history)}: {ADVICE}"
        )
    return FieldFit(
        volume=like(volume, data),
        field=model,
        history=run.record,
        n_iter=len(run.history),
        converged=_converged(run.history[plan.n_steps - stages[-1].n_steps :]),
        settings={
            "schedule": [asdict(stage) for stage in stages],
            "loss": name_of(loss),
            "prior": None if prior is None else name_of(prior),
            "seed": generator.initial_seed(),
            "device": str(device),
        },
        moments=optimizer.state_dict(),
        interrupted=run.interrupted,
        operator=found,
        learned={k: to_numpy(v) for k, v in learnt.values().items()} if learnt else {},
        errors=learnt.errors(volume, b, y, loss) if learnt else {},
        goodness=goodness,
    )


def _learnt(
    operator: Any, learn: Sequence[str], stages: Sequence[Stage], device: torch.device
) -> Learnt | None:
    """The operator with its learned numbers as parameters; None where nothing is learned."""
    if isinstance(learn, str) or len(learn):
        learnt = Learnt(operator, learn, stages[0].learning_rate, device)
        if any(s.coarsen > 1 or s.block or s.views for s in stages):
            raise ValueError(
                "a stage that looks at a part cannot learn: leave out coarsen, block and views, "
                "or leave out learn"
            )
        return learnt
    return None


def goodness_of_views(
    operator: Any,
    volume: torch.Tensor,
    data: torch.Tensor,
    background: torch.Tensor,
    loss: Loss,
    used: torch.Tensor | None = None,
) -> np.ndarray | None:
    """Mean squared residual of each view, over the variance that the loss assumes.

    None where the loss has no second derivative.
    """
    with torch.no_grad():
        prediction = operator(volume) + background
    with torch.enable_grad():
        try:
            # the expected curvature: of data that are what was predicted
            at = prediction.clamp(min=1e-3 * float(data.abs().max()))
            weight = curvature_of(loss, at, at)
        except RuntimeError:
            return None
    squared = weight * (prediction - data) ** 2
    squared = squared.flatten(1) if data.ndim > 1 else squared[None]
    if used is None:
        return to_numpy(squared.mean(1))
    used = used.flatten(1)
    return to_numpy((squared * used).sum(1) / used.sum(1).clamp(min=1))


def uninterrupted(part: FieldFit) -> FieldFit:
    """The fit, where it is one of several; Ctrl-C during one ends all of them."""
    if part.interrupted:
        raise KeyboardInterrupt
    return part


class _Plan:
    """Stages one after the other: for each step its stage, and what that looks at."""

    def __init__(self, stages: Sequence[Stage], draws: list[Any]) -> None:
        self.stages, self.draws = stages, draws
        self.ends = np.cumsum([stage.n_steps for stage in stages]).tolist()
        self.n_steps, self.made = self.ends[-1], 0

    def place(self, step: int) -> tuple[int, int]:
        """Number of the stage of a step, and the step within it."""
        number = bisect.bisect_right(self.ends, step)
        return number, step - self.ends[number] + self.stages[number].n_steps

    def at(self, step: int) -> tuple[Stage, Any]:
        self.made = step + 1
        number, _ = self.place(step)
        return self.stages[number], self.draws[number]

    def rate(self, step: int) -> float:
        number, within = self.place(step)
        return self.stages[number].rate(within)

    def settings(self, step: int) -> dict[str, Any]:
        """Settings of a step that a fit which goes on must share: its data, the memory of Adam."""
        stage = asdict(self.stages[self.place(step)[0]])
        return {
            k: v for k, v in stage.items() if k not in ("n_steps", "learning_rate", "final_rate")
        }

    def get_memory(self) -> dict[str, Any]:
        """The steps made, and what the stage of the last one has found out about the data."""
        number, _ = self.place(self.made - 1)
        return {"made": self.made, "memory": self.draws[number].memory}

    def set_memory(self, kept: dict[str, Any]) -> None:
        self.made = kept["made"]
        number, _ = self.place(self.made - 1)
        if self.draws[number].memory is not None:
            self.draws[number].memory = kept["memory"]


def _check_counts(loss: Loss, data: torch.Tensor) -> None:
    """Refuse negative counts under shot noise alone."""
    settings: dict[str, Any] = {}
    form: Any = loss
    while isinstance(form, partial):
        form, settings = form.func, form.keywords | settings
    if form is poisson:
        check_negative(data, settings.get("read_noise", 0.0))


def check_negative(data: torch.Tensor, read_noise: float) -> None:
    """Refuse counts below zero, unless read noise may have put them there."""
    least = float(data.min())
    if not read_noise and least < -1e-5 * float(data.max()):  # by more than an FFT leaves
        raise ValueError(
            f"data has negative counts, down to {least:.3g}: give photons with the background left "
            "in, tell the read noise of the camera, or use losses.gaussian for data that are not "
            "counts"
        )
    if read_noise and least < -10 * read_noise:
        raise ValueError(
            f"data has negative counts, down to {least:.3g}, and read noise of {read_noise:g} "
            "electrons does not reach so far: leave the background in, and subtract the camera's "
            "offset alone"
        )


def _converged(objective: list[float]) -> bool:
    tenth = max(1, len(objective) // 10)
    if len(objective) <= tenth:
        return False
    best = np.minimum.accumulate(objective)
    return bool(best[-1 - tenth] - best[-1] < 1e-3 * (best[0] - best[-1]))
