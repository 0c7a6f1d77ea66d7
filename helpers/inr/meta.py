r"""Learn where to start: a field from which a few steps lead to any of many objects.

:doc:`/book/inr/04_meta_learning` compares what is here with the previous frame and with no start
at all.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np

from .._arrays import to_numpy, to_tensor
from ..devices import pick_device
from ._checks import check_data, check_objective, checked_background, moved
from .fit.losses import poisson

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
    """

    field: object
    history: dict = dataclass_field(repr=False)
    n_steps: int
    seen: frozenset = dataclass_field(repr=False)
    settings: dict

    def has_seen(self, data):
        """Whether `data` was among the tasks. What is to be judged on must not have been."""
        return fingerprint(data) in self.seen


def fingerprint(data):
    """Short name of an array that no other array has.

    Examples
    --------
    >>> fingerprint([1.0, 2.0]) == fingerprint(np.array([1, 2])), fingerprint([2.0, 1.0])[:6]
    (True, '194d2a')
    """
    values = np.ascontiguousarray(to_numpy(data), dtype=np.float32)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()[:16]


def reptile(
    make_field,
    tasks,
    *,
    n_outer=32,
    n_inner=15,
    epsilon=1.0,
    learning_rate=3e-2,
    betas=(0.5, 0.99),
    loss=poisson,
    prior=None,
    generator=None,
    progress=False,
    callback=None,
    device=None,
):
    r"""Find the field that is nearest, in steps, to all tasks.

    Parameters
    ----------
    make_field : callable or torch.nn.Module
        Gives a fresh field; or the field to start from, which is copied.
    tasks : sequence
        Each a tuple (operator, data, background), or a callable ``task(field)`` that gives an
        objective.
    n_outer : int
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
    progress : bool
        Show a bar.
    callback : callable, optional
        Called as ``callback(n_steps, objective, field)`` after each outer step; True ends it.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    MetaField

    Raises
    ------
    ValueError
        No tasks, or one whose data do not fit its operator or hold NaN.
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
    >>> start = reptile(make, tasks, n_outer=40, n_inner=5, learning_rate=0.1, device="cpu")
    >>> start.n_steps, [round(float(v)) for v in start.field.volume().flatten()]
    (200, [2, 2])
    """
    import torch
    from tqdm.auto import trange

    if n_outer < 1 or n_inner < 1 or not 0 < epsilon <= 1:
        raise ValueError(
            f"n_outer is {n_outer}, n_inner {n_inner}, epsilon {epsilon}: "
            "at least one step of each, and a share between 0 and 1"
        )
    device = pick_device(device)
    objectives, seen = _objectives(tasks, loss, prior, device)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    field = _fresh(make_field).to(device)
    parameters = [p for p in field.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(field.parameters(), lr=learning_rate, betas=betas)
    log, order = _Log(), []
    for outer in trange(n_outer, disable=not progress, leave=False, unit="task"):
        order = order or torch.randperm(len(objectives), generator=generator).tolist()
        objective = objectives[order.pop()]
        start = [p.detach().clone() for p in parameters]
        for p in parameters:
            if p in optimizer.state:  # the direction of the last task is of no use for this one
                optimizer.state[p]["exp_avg"].zero_()
        for _ in range(n_inner):
            log.step(objective(field), optimizer)
        share = epsilon * (1 - outer / n_outer)
        with torch.no_grad():
            for p, before in zip(parameters, start, strict=True):
                p.copy_(torch.lerp(before, p, share))
        if callback is not None and callback(len(log.objective), log.objective[-1], field):
            break
    return log.start(
        field,
        seen,
        method="reptile",
        n_tasks=len(objectives),
        n_outer=n_outer,
        n_inner=n_inner,
        epsilon=epsilon,
        learning_rate=learning_rate,
        betas=tuple(betas),
        device=str(device),
    )


def shared_decoder(
    make_field,
    tasks,
    *,
    n_rounds=200,
    learning_rate=3e-2,
    betas=(0.5, 0.99),
    freeze=True,
    loss=poisson,
    prior=None,
    progress=False,
    callback=None,
    device=None,
):
    r"""Train one network with an encoding of its own for each task, and keep the network.

    Parameters
    ----------
    make_field : callable
        Gives a fresh field with an ``encoding`` that has parameters, and a ``network``.
    tasks : sequence
        As for `reptile`.
    n_rounds : int
        Rounds; in each, every task takes one step, with its encoding and the common network.
    learning_rate, betas
        Of Adam; the rate falls as a cosine.
    freeze : bool
        The network of the field that is given back is fixed; only a new encoding is to be fitted.
    loss, prior, progress, callback, device
        As for `reptile`; the callback is called after each round.

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
    import torch
    from tqdm.auto import trange

    if n_rounds < 1:
        raise ValueError(f"n_rounds is {n_rounds}: at least 1")
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
    optimizer = torch.optim.Adam([*own, *network.parameters()], lr=learning_rate, betas=betas)
    log = _Log()
    for number in trange(n_rounds, disable=not progress, leave=False, unit="round"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (0.525 + 0.475 * math.cos(math.pi * number / n_rounds))
        for scene, objective in zip(scenes, objectives, strict=True):
            log.step(objective(scene), optimizer)
        if callback is not None and callback(len(log.objective), log.objective[-1], scenes):
            break
    field = _fresh(make_field).to(device)
    field.network.load_state_dict(network.state_dict())
    field.network.requires_grad_(not freeze)
    return log.start(
        field,
        seen,
        method="shared_decoder",
        n_tasks=len(objectives),
        n_rounds=n_rounds,
        learning_rate=learning_rate,
        betas=tuple(betas),
        freeze=freeze,
        device=str(device),
    )


class _Log:
    """Steps of an optimiser, written down."""

    def __init__(self):
        self.objective, self.seconds, self.begun = [], [], time.perf_counter()

    def step(self, value, optimizer):
        check_objective(value.item(), len(self.objective) + 1)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        self.objective.append(value.item())
        self.seconds.append(time.perf_counter() - self.begun)

    def start(self, field, seen, **settings):
        """The start that these steps led to."""
        return MetaField(
            field=field,
            history={"objective": np.array(self.objective), "seconds": np.array(self.seconds)},
            n_steps=len(self.objective),
            seen=seen,
            settings=settings,
        )


def _fresh(make_field):
    """A new field, or a copy of the one that was given."""
    import torch

    return copy.deepcopy(make_field) if isinstance(make_field, torch.nn.Module) else make_field()


def _objectives(tasks, loss, prior, device):
    """What each task minimises, as a function of a field; and fingerprints of all data."""
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
        objectives.append(_objective(moved(operator, device), y, b, loss, prior))
    return objectives, frozenset(seen)


def _objective(operator, data, background, loss, prior):
    def objective(field):
        volume = field.volume(operator.in_shape)
        value = loss(operator(volume) + background, data)
        return value if prior is None else value + prior(volume)

    return objective
