"""The loop of every training and of every fit of a field, and the one rule by which it goes on.

A run is known by what decides its result: data, operator, loss, prior, settings and seed. With a
checkpoint of the same run it goes on from there, bit for bit on a CPU, and also for more steps
where the steps already made had the same learning rates. Anything else is refused, and the message
says what differs.
"""

from __future__ import annotations

import inspect
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .. import checkpoints
from .identity import differences

ADVICE = "lower the learning rate, or look for NaN in the data"


class Step(int):
    """A callback's view of a training after a step: the number of steps made, and more.

    Attributes
    ----------
    loss : float
    model : torch.nn.Module
        The field or network that the training gives back.

    Examples
    --------
    >>> step = Step(20, 0.5, nn.Identity())
    >>> step % 10 == 0, step.loss
    (True, 0.5)
    """

    loss: float
    model: nn.Module

    def __new__(cls, number: int, loss: float, model: nn.Module) -> Step:
        """Make the number with its attributes."""
        step = super().__new__(cls, number)
        step.loss, step.model = loss, model
        return step


@dataclass(frozen=True, kw_only=True)
class Training:
    """Result of a training.

    Attributes
    ----------
    net : torch.nn.Module
        Ready to be called.
    history : (n_steps,) array
        Loss of each step, those before a restart included.
    n_steps : int
        Steps made in all.
    resumed : int
        The step at which this call took over, 0 for a fresh run.
    interrupted : bool
        Ctrl-C ended it; the same call goes on from there.
    settings : dict
    """

    net: nn.Module = field(repr=False)
    history: np.ndarray = field(repr=False)
    n_steps: int
    resumed: int
    interrupted: bool = False
    settings: dict


Access = tuple[Callable[[], Any], Callable[[Any], Any]]  # how a part of the state is read, and set


class Run:
    """Steps of an optimizer down a loss, written down, and saved so that they can go on.

    Parameters
    ----------
    model : torch.nn.Module
        What a callback is shown.
    optimizer : torch.optim.Optimizer
    n_steps : int
    rate : callable
        ``rate(step)`` is the learning rate of a step, counted from 0.
    identity : callable
        Gives what decides the result, by name, but for the number of steps and their rates. Called
        only where there is a checkpoint: to read all data takes time.
    parts : dict
        By name: modules, generators of torch, or pairs of functions that get and set a part of
        the state.
    look : callable, optional
        ``look(step)`` gives by name what else belongs to a step, such as the ``betas`` of Adam.
    clip : float, optional
        Largest norm of the gradient.
    checkpoint : str or Path, optional
    save_every : int
        Steps between two checkpoints; one more is written at the end.
    card : dict, optional
        Of the checkpoint: `data` and `seed`.
    writes : bool
        False for all processes but the first.
    advice : str
        For the error that says that a loss is not finite.

    Raises
    ------
    OSError
        The checkpoint cannot be written there.

    Notes
    -----
    A step may use the generators that are among `parts`, or be drawn from the seed and the number
    of the step alone; it must not depend on anything else that changes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        n_steps: int,
        rate: Callable[[int], float],
        *,
        identity: Callable[[], Mapping[str, Any]],
        parts: Mapping[str, nn.Module | torch.Generator | Access],
        look: Callable[[int], dict] | None = None,
        clip: float | None = None,
        checkpoint: str | Path | None = None,
        save_every: int = 200,
        card: Mapping[str, Any] | None = None,
        writes: bool = True,
        advice: str = ADVICE,
    ) -> None:
        self.model, self.optimizer, self.n_steps = model, optimizer, n_steps
        self.rate, self.look, self.clip, self.advice = rate, look, clip, advice
        self.parts = {
            name: _access(part) for name, part in {"optimizer": optimizer, **parts}.items()
        }
        self.modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        self.path = Path(checkpoint) if checkpoint else None
        self.save_every, self.card, self.writes = save_every, card or {}, writes
        self.history: list[Any] = []
        self.seconds: list[float] = []
        self.resumed, self.interrupted, self.identity = 0, False, {}
        if self.path:
            if writes:
                check_writable(self.path)
            self.identity = dict(identity())
            if self.path.exists():
                self._resume(self.path)

    def __call__(
        self,
        objective: Callable[[int], Any],
        *,
        after: Callable[[int], None] | None = None,
        callback: Callable[..., Any] | None = None,
        progress: bool = False,
        unit: str = "step",
    ) -> None:
        """Make the steps that are left.

        ``objective(step)`` gives the loss to go down, or a pair of it and what the history keeps in
        its place; ``after(step)`` follows the optimizer's step, ``callback(Step)`` that, and a true
        answer ends the run. Where a loss is not finite the step is not made; the last checkpoint is
        from before. For an optimizer that evaluates several times in a step, such as L-BFGS, it
        gives the function that evaluates.
        """
        from tqdm.auto import tqdm

        begun = time.perf_counter() - (self.seconds[-1] if self.seconds else 0.0)
        steps = range(len(self.history), self.n_steps)
        options = {"initial": len(self.history), "total": self.n_steps, "leave": False}
        with Interrupt() as interrupt:
            for step in tqdm(steps, disable=not progress, unit=unit, **options):
                value = self._down(step, objective(step))
                if after:
                    after(step)
                self.seconds.append(time.perf_counter() - begun)
                stop = callback is not None and callback(Step(step + 1, value, self.model))
                self.interrupted = interrupt.asked
                last = bool(stop) or self.interrupted or step + 1 == self.n_steps
                if last or (step + 1) % self.save_every == 0:
                    self._save()
                if last:
                    break

    @property
    def record(self) -> dict[str, np.ndarray]:
        """Objective of each step made, and seconds since the start."""
        return {"objective": np.array(self.history), "seconds": np.array(self.seconds)}

    def _down(self, step: int, loss: Any) -> float:
        if callable(loss):
            return self._search(step, loss)
        loss, kept = loss if isinstance(loss, tuple) else (loss, None)
        value = loss.item()
        kept = value if kept is None else kept
        if not (math.isfinite(value) and (not isinstance(kept, float) or math.isfinite(kept))):
            raise FloatingPointError(f"the loss of step {step} is {value}: {self.advice}")
        look = self.look(step) if self.look else {}
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
            group.update({name: look[name] for name in group.keys() & look.keys()})
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.history.append(kept)
        return value

    def _search(self, step: int, evaluate: Callable[[], Any]) -> float:
        value = cast(Any, self.optimizer.step(evaluate)).item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of step {step} is {value}: {self.advice}")
        self.history.append(value)
        return value

    def _save(self) -> None:
        if self.path is None or not self.writes:
            return
        done = len(self.history)
        state = {name: read() for name, (read, _) in self.parts.items()}
        state |= {
            "identity": self.identity,
            "history": np.array(self.history),
            "seconds": np.array(self.seconds),
            "rates": np.array([self.rate(step) for step in range(done)]),
            "looks": _spans(self.look, done),
        }
        last = np.ravel(self.history[-1])[0]
        card = {**self.card, "steps": done, "metric": {"loss": float(last)}}
        checkpoints.save(self.path, state, card)

    def _resume(self, path: Path) -> None:
        expected = {name: module.state_dict() for name, module in self.modules.items()}
        state, _ = checkpoints.load(path, expect=expected)
        if "identity" not in state:
            raise ValueError(f"{path} is of an earlier version: choose another name, or delete it")
        if wrong := differences(state["identity"], self.identity):
            raise _refusal(path, wrong)
        done = len(state["history"])
        self._check_steps(path, done, state)
        for name, (_, put) in self.parts.items():
            put(state[name])
        self.history, self.seconds = state["history"].tolist(), state["seconds"].tolist()
        self.resumed = done

    def _check_steps(self, path: Path, done: int, state: Mapping[str, Any]) -> None:
        """More steps are welcome; fewer, or others in the past, are another run."""
        if done > self.n_steps:
            raise _refusal(path, f"{done} steps made, not {self.n_steps}")
        now = np.array([self.rate(step) for step in range(done)])
        if other := np.flatnonzero(state["rates"] != now).tolist():
            n = other[0]
            then = f"another schedule: learning rate {state['rates'][n]:.4g}, not {now[n]:.4g}"
            raise _refusal(path, f"{then}, at step {n + 1}")
        spans = zip(_each(state["looks"]), _each(_spans(self.look, done)), strict=False)
        for n, (before, after) in enumerate(spans):
            if wrong := differences(before, after):
                raise _refusal(path, f"another schedule: {wrong}, at step {n + 1}")


def _access(part: Any) -> Access:
    if isinstance(part, torch.Generator):
        return part.get_state, part.set_state
    if isinstance(part, tuple):
        return part
    return part.state_dict, part.load_state_dict


def _refusal(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is of another run, with {why}: choose another name")


def _spans(look: Callable[[int], dict] | None, done: int) -> list:
    """The looks of the steps made, one entry for equal ones in a row: [number, look]."""
    spans: list = []
    for step in range(done if look else 0):
        found = look(step)  # type: ignore[misc]
        if spans and spans[-1][1] == found:
            spans[-1][0] += 1
        else:
            spans.append([1, found])
    return spans


def _each(spans: list) -> list:
    return [look for number, look in spans for _ in range(number)]


def check_writable(path: Path) -> None:
    """Raise OSError, before any work, where a checkpoint cannot be written."""
    probe = path.with_name(path.name + ".probe")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        message = f"checkpoint {path} cannot be written ({error}): choose another place"
        raise type(error)(message) from None


class Interrupt:
    """Ctrl-C asks for an end after the step; a second one ends at once."""

    def __enter__(self) -> Interrupt:
        self.asked = False
        self.usable = threading.current_thread() is threading.main_thread()
        if self.usable:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *error: object) -> None:
        if self.usable:
            signal.signal(signal.SIGINT, self.before)


def adapted(
    callback: Callable[..., Any] | None, old: Callable[[Step], tuple]
) -> Callable[[Step], Any] | None:
    """A callback of the one `Step`, also from one of the old arguments, with a warning."""
    try:
        inspect.signature(callback).bind(None)  # type: ignore[arg-type]
    except TypeError:
        if callback is None:
            return None
        message = "callback: it is now called with one argument, a Step with its loss and model"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        return lambda step: callback(*old(step))
    except ValueError:  # a builtin without a signature
        pass
    return callback
