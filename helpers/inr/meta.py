r"""Learn where to start: a field from which a few steps lead to any of many objects.

:doc:`/book/inr/04_meta_learning` compares what is here with the previous frame and with no start
at all.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .._arrays import Array, Device, to_numpy, to_tensor
from .._deprecated import renamed
from ..devices import pick_device
from ..training.identity import fingerprint as identity_of
from ..training.identity import told
from ..training.loop import Run, Step, adapted
from ._checks import ADVICE, check_data, checked_background, to_device
from .fit.losses import Loss, Prior, poisson

__all__ = ["MetaField", "reptile", "shared_decoder"]


@dataclass(frozen=True)
class MetaField:
    """A start that was learned from tasks.

    Attributes
    ----------
    field : torch.nn.Module
    history : dict of arrays
        "objective" of each gradient step, and "seconds" since the start.
    n_steps : int
        Gradient steps taken: the price of the start.
    seen : frozenset of str
        Fingerprints of the data of all tasks that are tuples, see `has_seen`.
    settings : dict
    interrupted : bool
        Ctrl-C ended it after a step.
    """

    field: nn.Module
    history: dict[str, np.ndarray] = dataclass_field(repr=False)
    n_steps: int
    seen: frozenset[str] = dataclass_field(repr=False)
    settings: dict[str, Any]
    interrupted: bool = False

    def has_seen(self, data: Array) -> bool:
        """True if `data` was among the tasks; data to judge a start by must not have been."""
        return fingerprint(data) in self.seen


def fingerprint(data: Array) -> str:
    """Short name of an array, such that no other array has the same.

    Examples
    --------
    >>> fingerprint([1.0, 2.0]) == fingerprint(np.array([1, 2])), fingerprint([2.0, 1.0])[:6]
    (True, '194d2a')
    """
    values = np.ascontiguousarray(to_numpy(data), dtype=np.float32)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()[:16]


@renamed(n_outer="n_iter")
def reptile(
    make_field: nn.Module | Callable[[], nn.Module],
    tasks: Sequence[Any],
    *,
    n_iter: int = 32,
    n_inner: int = 15,
    epsilon: float = 1.0,
    learning_rate: float = 3e-2,
    betas: tuple[float, float] = (0.5, 0.99),
    loss: Loss = poisson,
    prior: Prior | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
    progress: bool = False,
    callback: Callable[[Step], Any] | None = None,
    device: Device = None,
) -> MetaField:
    r"""Find the field that is nearest, in steps, to all tasks.

    Parameters
    ----------
    make_field : callable or torch.nn.Module
        Gives a fresh field; or the field to start from, which is copied.
    tasks : sequence
        Each a tuple (operator, data, background), or a callable ``task(field)`` that gives an
        objective.
    n_iter : int
        Times that a task is drawn: all in turn, in a new order for each round.
    n_inner : int
        Steps k of Adam on that task.
    epsilon : float
        How far the start moves to where these steps led; it falls linearly to zero.
    learning_rate, betas
        Of Adam. Its second moments are kept from task to task.
    loss, prior : callable
        As in `helpers.inr.fit.fit`, for the tasks that are tuples.
    generator : torch.Generator, optional
        Of the order of the tasks, on the CPU. Default: seed 0.
    checkpoint : str or Path, optional
        File into which the start is saved, and from which the same call goes on, bit for bit.
    checkpoint_every : int
        Gradient steps between two saves.
    progress : bool
        Show a bar.
    callback : callable, optional
        ``callback(step)`` after each outer step, with a `helpers.training.Step` that counts
        gradient steps; True ends it.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    MetaField

    Raises
    ------
    ValueError
        No tasks, one whose data do not fit its operator or hold NaN, or a checkpoint of another
        run.
    FloatingPointError
        An objective is no longer finite.

    Notes
    -----
    .. math:: \theta \leftarrow \theta + \epsilon \, (\theta_k - \theta)

    :cite:p:`nichol2018`, with :math:`\theta_k` the parameters after k steps on one task. For small
    steps it also turns towards places where the gradients of one task agree. Derived in
    :doc:`/book/inr/04_meta_learning`.

    Examples
    --------
    >>> from helpers.inr import fields
    >>> make = lambda: fields.Voxels((1, 1, 2), fields.Identity())
    >>> tasks = [lambda f, y=y: ((f.volume() - y) ** 2).sum() for y in (1.0, 3.0)]
    >>> start = reptile(make, tasks, n_iter=40, n_inner=5, learning_rate=0.1, device="cpu")
    >>> start.n_steps, [round(float(v)) for v in start.field.volume().flatten()]
    (200, [2, 2])
    """
    if n_iter < 1 or n_inner < 1 or not 0 < epsilon <= 1:
        raise ValueError(
            f"n_iter is {n_iter}, n_inner {n_inner}, epsilon {epsilon}: "
            "at least one step of each, and a share between 0 and 1"
        )
    device = pick_device(device)
    objectives, seen = _objectives(tasks, loss, prior, device)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    field = _fresh(make_field).to(device)
    optimizer = torch.optim.Adam(field.parameters(), lr=learning_rate, betas=betas)
    settings = {
        "method": "reptile",
        "n_tasks": len(objectives),
        "n_iter": n_iter,
        "n_inner": n_inner,
        "epsilon": epsilon,
        "learning_rate": learning_rate,
        "betas": tuple(betas),
        "device": str(device),
    }
    rounds = _Reptile(field, optimizer, len(objectives), n_inner, generator)

    def share(step: int) -> float:
        return epsilon * (1 - step // n_inner / n_iter)

    run = Run(
        field,
        optimizer,
        n_iter * n_inner,
        lambda step: learning_rate,
        look=lambda step: {"epsilon": share(step)},
        identity=lambda: {
            **{name: settings[name] for name in ("method", "n_inner", "betas")},
            **_decides(tasks, loss, prior, field),
            "seed": generator.initial_seed(),
        },
        parts={
            "field": field,
            "generator": generator,
            "rounds": (rounds.get_state, rounds.set_state),
        },
        checkpoint=checkpoint,
        save_every=checkpoint_every,
        card={"data": f"{len(objectives)} tasks", "seed": generator.initial_seed()},
        advice=ADVICE,
    )
    run(
        lambda step: objectives[rounds.task(step)](field),
        after=lambda step: rounds.end(step, share(step)),
        callback=_every(n_inner, callback),
        progress=progress,
    )
    return _start(run, field, seen, settings)


class _Reptile:
    """Order of the tasks, and the start of the round that a step belongs to."""

    def __init__(
        self,
        field: nn.Module,
        optimizer: torch.optim.Optimizer,
        n_tasks: int,
        n_inner: int,
        generator: torch.Generator,
    ) -> None:
        self.parameters = [p for p in field.parameters() if p.requires_grad]
        self.optimizer, self.n_tasks, self.n_inner = optimizer, n_tasks, n_inner
        self.generator, self.now = generator, 0
        self.order: list[int] = []
        self.before: list[torch.Tensor] = []

    def task(self, step: int) -> int:
        """Number of the task of a step; with the first of a round, the next one is drawn."""
        if step % self.n_inner == 0:
            if not self.order:
                self.order = torch.randperm(self.n_tasks, generator=self.generator).tolist()
            self.now = self.order.pop()
            self.before = [p.detach().clone() for p in self.parameters]
            for p in self.parameters:
                if p in self.optimizer.state:  # the direction of the last task is of no use here
                    self.optimizer.state[p]["exp_avg"].zero_()
        return self.now

    @torch.no_grad()
    def end(self, step: int, share: float) -> None:
        """After the last step of a round, move the start a share of the way."""
        if (step + 1) % self.n_inner == 0:
            for p, before in zip(self.parameters, self.before, strict=True):
                p.copy_(torch.lerp(before, p, share))

    def get_state(self) -> dict[str, Any]:
        return {"order": self.order, "now": self.now, "before": self.before}

    def set_state(self, state: dict[str, Any]) -> None:
        self.order, self.now = state["order"], state["now"]
        pairs = zip(state["before"], self.parameters, strict=True)
        self.before = [before.to(p.device) for before, p in pairs]


@renamed(n_rounds="n_iter")
def shared_decoder(
    make_field: Callable[[], nn.Module],
    tasks: Sequence[Any],
    *,
    n_iter: int = 200,
    learning_rate: float = 3e-2,
    betas: tuple[float, float] = (0.5, 0.99),
    freeze: bool = True,
    loss: Loss = poisson,
    prior: Prior | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
    progress: bool = False,
    callback: Callable[[Step], Any] | None = None,
    device: Device = None,
) -> MetaField:
    r"""Train one network with an encoding of its own for each task, and keep the network.

    Parameters
    ----------
    make_field : callable
        Gives a fresh field with an ``encoding`` that has parameters, and a ``network``.
    tasks : sequence
        As for `reptile`.
    n_iter : int
        Rounds; in each, every task takes one step, with its encoding and the common network.
    learning_rate, betas
        Of Adam; the rate falls as a cosine.
    freeze : bool
        The network of the field that is given back is fixed; only a new encoding is to be fitted.
    loss, prior, checkpoint, checkpoint_every, progress, callback, device
        As for `reptile`; the callback is called after each round, and the model of its step holds
        the fields of all tasks.

    Returns
    -------
    MetaField
        With a fresh encoding and the trained network.

    Raises
    ------
    ValueError
        As `reptile`, and a field without an encoding that can be learned.

    Notes
    -----
    .. math:: \min_{w, \phi_1 \dots \phi_N} \sum_n
        -\log p\bigl(y_n \mid A_n f_{w, \phi_n} + b_n\bigr) + R(f_{w, \phi_n})

    After :cite:t:`vyas2024`, who share the first layers of a coordinate network between images and
    learn the last anew. With a grid of features it is the other way round: the features say what
    is where, and that is what scenes do not share. Derived in :doc:`/book/inr/04_meta_learning`.
    """
    if n_iter < 1:
        raise ValueError(f"n_iter is {n_iter}: at least 1")
    device = pick_device(device)
    objectives, seen = _objectives(tasks, loss, prior, device)
    scenes = [_fresh(make_field).to(device) for _ in objectives]
    encoding, network = (getattr(scenes[0], name, None) for name in ("encoding", "network"))
    if encoding is None or network is None or not any(True for _ in encoding.parameters()):
        raise ValueError(
            f"{type(scenes[0]).__name__} has no encoding with parameters and a network: "
            "give a field such as Field(FeatureGrid(...), MLP(...), head)"
        )
    for scene in scenes:
        scene.network = network
    own = [p for scene in scenes for p in scene.encoding.parameters()]
    n_tasks, fields = len(objectives), nn.ModuleList(scenes)
    settings = {
        "method": "shared_decoder",
        "n_tasks": n_tasks,
        "n_iter": n_iter,
        "learning_rate": learning_rate,
        "betas": tuple(betas),
        "freeze": freeze,
        "device": str(device),
    }

    def rate(step: int) -> float:
        return learning_rate * (0.525 + 0.475 * math.cos(math.pi * (step // n_tasks) / n_iter))

    run = Run(
        fields,
        torch.optim.Adam([*own, *network.parameters()], lr=learning_rate, betas=betas),
        n_iter * n_tasks,
        rate,
        identity=lambda: {
            **{name: settings[name] for name in ("method", "betas")},
            **_decides(tasks, loss, prior, fields),
        },
        parts={"fields": fields},
        checkpoint=checkpoint,
        save_every=checkpoint_every,
        card={"data": f"{n_tasks} tasks", "seed": None},
        advice=ADVICE,
    )
    run(
        lambda step: objectives[step % n_tasks](scenes[step % n_tasks]),
        callback=_every(n_tasks, callback),
        progress=progress,
    )
    field = _fresh(make_field).to(device)
    field.network.load_state_dict(network.state_dict())
    field.network.requires_grad_(not freeze)
    return _start(run, field, seen, settings)


def _every(n: int, callback: Callable[..., Any] | None) -> Callable[[Step], Any] | None:
    """The callback after each round of n steps only."""
    at_step = adapted(callback, lambda step: (int(step), step.loss, step.model))
    return at_step and (lambda step: step % n == 0 and at_step(step))


def _decides(
    tasks: Sequence[Any], loss: Loss, prior: Prior | None, start: nn.Module
) -> dict[str, Any]:
    """Tasks, losses and first weights, which decide a start beside its settings."""
    return {
        "tasks": identity_of(list(tasks)),
        "loss": told(loss),
        "prior": prior and told(prior),
        "start": identity_of(start),
    }


def _start(run: Run, field: nn.Module, seen: frozenset[str], settings: dict[str, Any]) -> MetaField:
    """The start that the steps of a run led to."""
    return MetaField(
        field=field,
        history=run.record,
        n_steps=len(run.history),
        seen=seen,
        settings=settings,
        interrupted=run.interrupted,
    )


def _fresh(make_field: Any) -> Any:
    """A new field, or a copy of the one that was given."""
    return copy.deepcopy(make_field) if isinstance(make_field, nn.Module) else make_field()


def _objectives(
    tasks: Sequence[Any], loss: Loss, prior: Prior | None, device: torch.device
) -> tuple[list[Any], frozenset[str]]:
    """Objective of each task, a function of a field; and fingerprints of all data."""
    if len(tasks) == 0:
        raise ValueError("there are no tasks: give at least one (operator, data, background)")
    objectives, seen = [], set()
    for number, task in enumerate(tasks):
        if callable(task):
            objectives.append(task)
            continue
        try:
            operator, data, background = task
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"task {number} is a {type(task).__name__}: give (operator, data, background), or "
                "a function of a field"
            ) from error
        seen.add(fingerprint(data))
        y = to_tensor(data, device)
        try:
            check_data(operator, y)
            b = checked_background(background, y)
        except ValueError as error:
            raise ValueError(f"task {number}: {error}") from None
        objectives.append(_objective(to_device(operator, device), y, b, loss, prior))
    return objectives, frozenset(seen)


def _objective(
    operator: Any, data: torch.Tensor, background: torch.Tensor, loss: Loss, prior: Prior | None
) -> Callable[[Any], torch.Tensor]:
    def objective(field: Any) -> torch.Tensor:
        volume = field.volume(operator.in_shape)
        value = loss(operator(volume) + background, data)
        return value if prior is None else value + prior(volume)

    return objective
