"""Fit a field so that its views, seen through the physics, are the views that were measured."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from functools import partial
from pathlib import Path

import numpy as np

from ... import checkpoints
from ..._arrays import like, to_numpy, to_tensor
from ...devices import pick_device
from .._checks import ADVICE, check_data, check_objective, checked_background, moved
from .losses import poisson
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
    """

    volume: np.ndarray
    field: object
    history: dict
    n_iter: int
    converged: bool
    settings: dict
    moments: dict = dataclass_field(repr=False)


def fit(
    field,
    operator,
    data,
    *,
    loss=poisson,
    prior=None,
    schedule=ONE_STAGE,
    background=0.0,
    generator=None,
    checkpoint=None,
    checkpoint_every=200,
    progress=False,
    callback=None,
    device=None,
):
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
    generator : torch.Generator, optional
        On the CPU, for blocks and views drawn at random. Default: seed 0.
    checkpoint : str or Path, optional
        File from which an interrupted fit goes on, bit for bit, and into which it is saved.
    checkpoint_every : int
        Steps between two saves.
    progress : bool
        Show a bar.
    callback : callable, optional
        Called after each step as ``callback(step, objective, fit_field)``; True ends the fit.
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
    import torch
    from tqdm.auto import tqdm

    stages = (schedule,) if isinstance(schedule, Stage) else tuple(schedule)
    if not stages:
        raise ValueError("schedule is empty: give at least one Stage")
    device = pick_device(device)
    y = to_tensor(data, device, torch.float32)
    check_data(operator, y)
    _check_counts(loss, y)
    b = checked_background(background, y)
    operator = moved(operator, device)
    draws = [sampler(stage, operator, y, b) for stage in stages]
    moments = getattr(field, "moments", None)
    field = copy.deepcopy(getattr(field, "field", field)).to(device)
    optimizer = torch.optim.Adam(field.parameters(), lr=stages[0].learning_rate)
    if moments is not None:
        optimizer.load_state_dict(copy.deepcopy(moments))  # Adam works in place
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    run, memory = _Run(field, optimizer, generator), None
    if checkpoint is not None:
        run.identity = _identity(y, b, operator, stages, loss, prior)
        memory = run.resume(checkpoint)
    total = sum(stage.n_steps for stage in stages)
    bar = tqdm(total=total, initial=run.step, disable=not progress, leave=False, unit="step")
    begun = time.perf_counter() - (run.seconds[-1] if run.seconds else 0.0)
    end, stopped = 0, False
    for stage, draw in zip(stages, draws, strict=True):
        start, end = end, end + stage.n_steps
        if start < run.step < end and memory is not None:
            draw.memory = memory
        while run.step < end and not stopped:
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = stage.rate(run.step - start), stage.betas
            seen = draw(field, generator)
            objective = loss(seen.prediction, seen.data) / seen.share_of_data
            if prior is not None and stage.coarsen == 1 and seen.volume is not None:
                objective = objective + prior(seen.volume) / seen.share_of_volume
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
            run.record(objective.item(), time.perf_counter() - begun)
            bar.update()
            if callback is not None:
                stopped = bool(callback(run.step, run.objective[-1], field))
            due = stopped or run.step == total or run.step % checkpoint_every == 0
            if checkpoint is not None and due:
                run.save(checkpoint, draw.memory)
    bar.close()
    with torch.no_grad():
        volume = field.volume(operator.in_shape)
    if not bool(torch.isfinite(volume).all()):
        raise FloatingPointError(f"the volume is not finite after step {run.step}: {ADVICE}")
    return FieldFit(
        volume=like(volume, data),
        field=field,
        history={"objective": np.array(run.objective), "seconds": np.array(run.seconds)},
        n_iter=run.step,
        converged=_converged(run.objective[total - stages[-1].n_steps :]),
        settings={
            "schedule": [asdict(stage) for stage in stages],
            "loss": _name(loss),
            "prior": None if prior is None else _name(prior),
            "seed": generator.initial_seed(),
            "device": str(device),
        },
        moments=optimizer.state_dict(),
    )


class _Run:
    """What an interrupted fit must find again to go on bit for bit."""

    def __init__(self, field, optimizer, generator):
        self.field, self.optimizer, self.generator = field, optimizer, generator
        self.identity = None  # reading all data takes time, and only a checkpoint asks for it
        self.objective, self.seconds = [], []

    @property
    def step(self):
        return len(self.objective)

    def record(self, objective, seconds):
        check_objective(objective, self.step + 1)
        self.objective.append(objective)
        self.seconds.append(seconds)

    def save(self, path, memory):
        state = {
            "field": dict(self.field.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "memory": memory,
            "objective": np.array(self.objective),
            "seconds": np.array(self.seconds),
        }
        card = {
            "data": self.identity,
            "seed": self.generator.initial_seed(),
            "steps": self.step,
            "metric": {"objective": self.objective[-1]},
        }
        checkpoints.save(path, state, card)

    def resume(self, path):
        """Take over what is in the file, if there is one; give back the memory of the sampler."""
        if not Path(path).exists():
            return None
        state, card = checkpoints.load(path, expect={"field": dict(self.field.state_dict())})
        if card["data"] != self.identity:
            raise ValueError(
                f"{path} is of a fit to other data, or with other settings: "
                "give another name, or delete it to begin anew"
            )
        self.field.load_state_dict(state["field"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.objective, self.seconds = state["objective"].tolist(), state["seconds"].tolist()
        return state["memory"]


def _check_counts(loss, data):
    """Shot noise alone never gives negative counts; with read noise it may."""
    settings = {}
    while isinstance(loss, partial):
        loss, settings = loss.func, loss.keywords | settings
    below = bool(data.min() < -1e-5 * data.max())  # by more than an FFT leaves
    if loss is poisson and not settings.get("read_noise") and below:
        raise ValueError(
            "data has negative counts: leave the background in and give it as `background`, tell "
            "the loss the read noise, or use losses.gaussian for data that are not counts"
        )


def _identity(data, background, operator, stages, loss, prior):
    """What a fit is of: a checkpoint of another one is refused.

    Losses are known by their names alone: how their settings print may change from run to run.
    """
    names = [None if f is None else _name(f).partition("(")[0] for f in (loss, prior)]
    about = [asdict(stage) for stage in stages], list(data.shape), list(operator.in_shape), names
    digest = hashlib.sha256(json.dumps(about).encode())
    for tensor in (data, background):
        digest.update(to_numpy(tensor).tobytes())
    return digest.hexdigest()[:16]


def _converged(objective):
    tenth = max(1, len(objective) // 10)
    if len(objective) <= tenth:
        return False
    best = np.minimum.accumulate(objective)
    return bool(best[-1 - tenth] - best[-1] < 1e-3 * (best[0] - best[-1]))


def _name(function):
    """Name and bound settings of a loss or prior."""
    if isinstance(function, partial):
        settings = ", ".join(f"{key}={value}" for key, value in function.keywords.items())
        return f"{_name(function.func)}({settings})"
    return getattr(function, "__name__", type(function).__name__)
