r"""Frame after frame: what one fit has learned is where the next one starts.

Every frame is fitted in the photons that were measured; nothing is scaled to its own maximum, so
what bleaches in the views bleaches in the volumes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..._arrays import Array, Device, is_tensor, to_numpy, to_tensor
from ..._deprecated import renamed
from ...devices import pick_device
from .._checks import check_data, to_device
from ._frame_store import FrameStore
from .loop import ONE_STAGE, FieldFit, fit, uninterrupted
from .losses import Loss, Prior, poisson
from .sampling import Stage
from .spacetime import Frames, LowRank

Found: TypeAlias = tuple[FieldFit, dict[str, np.ndarray], float]
"""Of a frame: the fit, its history with the misfit, and the seconds that it took."""

INITS = ("previous", "meta", "scratch", "joint")


@dataclass(frozen=True)
class SequenceFit:
    """A fitted sequence of T frames.

    Attributes
    ----------
    volumes : array (T, Z, Y, X)
        In the unit of the field's head, one scale for all frames.
    fits : tuple of FieldFit
        One for each frame; of a frame that took several rounds, the last one. For "joint", the
        fields of a window share their weights.
    misfit : (T,) array
        Loss for each number in a frame, after its last step.
    n_steps : (T,) array of int
        Steps that each frame took.
    seconds : (T,) array
        Time that each frame took; for "joint", its share of the window.
    history : tuple of dicts
        For each frame "objective" and "seconds" of every step, and "misfit" after each round. For
        "joint", the objective is that of the whole window.
    reached : (T,) array of bool
        Whether the misfit of the frame came down to the level of the first one, as `tol` of
        `fit_sequence` says.
    settings : dict
    """

    volumes: Array
    fits: tuple = dataclass_field(repr=False)
    misfit: np.ndarray
    n_steps: np.ndarray
    seconds: np.ndarray
    history: tuple = dataclass_field(repr=False)
    reached: np.ndarray
    settings: dict


@renamed(tolerance="tol")
def fit_sequence(
    fields_or_init: nn.Module | Any,
    operator: Callable[[torch.Tensor], torch.Tensor],
    frames: Array | Sequence[Array],
    init: str = "previous",
    *,
    loss: Loss = poisson,
    prior: Prior | None = None,
    schedule: Stage | Sequence[Stage] = ONE_STAGE,
    further: Stage | None = None,
    rounds: int = 8,
    tol: float = 0.01,
    fix_network: bool = True,
    window: int = 8,
    rank: int | None = None,
    background: float | Array = 0.0,
    generator: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    callback: Callable[[int, FieldFit], Any] | None = None,
    device: Device = None,
) -> SequenceFit:
    r"""Fit every frame of a sequence, each from a start that saves steps, or several at once.

    Parameters
    ----------
    fields_or_init : torch.nn.Module, or anything with a ``field`` and ``moments``
        Such as a field, a FieldFit, or what `helpers.inr.meta.reptile` gives: where the first
        frame starts; with "meta" and "scratch", where every frame starts.
    operator : callable
        Volume to the views of one frame, see `helpers.inr.fit.fit`.
    frames : array or tensor (T, ...)
        What was measured, in the unit of the camera: T times the shape that the operator gives.
    init : {"previous", "meta", "scratch", "joint"}
        Where each later frame starts. "previous": at the frame before it. "meta": at
        `fields_or_init`. "scratch": there too, and it takes the whole `schedule`. "joint" fits
        the frames of a window at once, as a `helpers.inr.fit.spacetime.LowRank` made of copies of
        `fields_or_init`.
    loss : callable
        As in `helpers.inr.fit.fit`.
    prior : callable, optional
        ``prior(volume)`` of a frame; for "joint" of all frames of a window (T, Z, Y, X), such as
        `helpers.inr.fit.spacetime.space_time_hessian`.
    schedule : Stage or sequence of Stage
        Of the first frame, of every frame for "scratch", of every window for "joint".
    further : Stage, optional
        One round of a later frame. Default: 10 steps with the learning rate of `schedule` and a
        short memory.
    rounds : int
        A later frame takes at most so many rounds.
    tol : float
        A later frame ends with the round after which its misfit is that of the first frame to
        within `tol` and noise, if that round lowered its objective by less than half of `tol`.
        Noise moves the misfit of a frame of n pixels by the root of 2/n; three standard
        deviations of the difference of two frames are allowed, 6 over the root of n.
    fix_network : bool
        Later frames leave the network of a field as it is and move the features of its encoding,
        where it has any.
    window : int
        Frames that "joint" fits at once. Windows share a quarter of their frames.
    rank : int, optional
        Parts of the space-time field of a window. Default: `window`.
    background : float or array
        Added to every prediction. An array broadcasts against a frame, or, with one axis more,
        holds one background for each frame.
    generator : torch.Generator, optional
        On the CPU, for blocks and views drawn at random. Default: seed 0.
    checkpoint : str or Path, optional
        Folder that gets one file for each frame, or window; an interrupted sequence goes on after
        the last. Frames may be added to a chain later, those before them may not change.
    progress : bool
        Show a bar.
    callback : callable, optional
        Called after each frame as ``callback(number, fit)``; True ends the sequence there.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    SequenceFit

    Raises
    ------
    ValueError
        No frames, NaN among them, a wrong shape, an unknown `init`, a checkpoint of another
        sequence.

    Notes
    -----
    How many steps a frame needs depends on how far things moved, so it is measured: a frame is
    done when its views are explained as well as those of the first frame were, and a further round
    changes little. Ghosts of where things used to be hide in what the views hardly see, and only
    the prior clears them away. Adam's moments are kept from frame to frame with a memory of some
    twenty steps: a longer one still scales the steps by gradients of where things used to be, and
    overshoots where they have moved to. Derived in :doc:`/book/inr/04_meta_learning`, used in
    :doc:`/book/inr/05_dynamics`.

    Examples
    --------
    >>> from functools import partial
    >>> from helpers.inr import fields, phantoms
    >>> sims = [phantoms.simulate(seed=1, shape=(8, 24, 24), n_tubes=3, t=t) for t in (0, 0.1)]
    >>> start = fields.Voxels((8, 24, 24), fields.Softplus(mean=0.5))
    >>> result = fit_sequence(
    ...     start, sims[0].op, np.stack([sim.views for sim in sims]), background=4.0,
    ...     schedule=Stage(100, 0.3), rounds=3, loss=partial(poisson, read_noise=1.5))
    >>> result.volumes.shape, bool(result.n_steps[1] < result.n_steps[0])
    ((2, 8, 24, 24), True)
    """
    stages = (schedule,) if isinstance(schedule, Stage) else tuple(schedule)
    if init not in INITS:
        raise ValueError(f"init is {init!r}: use one of {', '.join(INITS)}")
    if rounds < 1 or not tol >= 0 or window < 1:
        raise ValueError(
            f"rounds is {rounds}, tol {tol}, window {window}: "
            "at least one round, a tolerance of zero or more, at least one frame"
        )
    further = _further(stages[0]) if further is None else further
    device = pick_device(device)
    operator = to_device(operator, device)
    data = _checked(frames, operator, device)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    settings = {
        "init": init,
        "schedule": [asdict(stage) for stage in stages],
        "further": asdict(further),
        "rounds": rounds,
        "tol": tol,
        "fix_network": fix_network,
        "window": window,
        "rank": rank,
        "device": str(device),
    }
    problem = _Problem(
        operator, data, _backgrounds(background, data), loss, prior, generator, is_tensor(frames)
    )
    if init == "joint":
        results = _windows(problem, fields_or_init, stages, window, rank, checkpoint)
    else:
        store = FrameStore(checkpoint, fields_or_init, problem, settings) if checkpoint else None
        rule = (init, stages, further, rounds, tol, fix_network)
        results = _chain(problem, fields_or_init, rule, store)
    fits, histories, seconds = [], [], []
    bar = tqdm(total=len(data), disable=not progress, leave=False, unit="frame")
    for fitted, history, taken in results:
        fits.append(fitted)
        histories.append(history)
        seconds.append(taken)
        bar.update()
        if callback is not None and callback(len(fits) - 1, fitted):
            break
    bar.close()
    misfit = np.array([history["misfit"][-1] for history in histories])
    volumes = [fitted.volume for fitted in fits]
    return SequenceFit(
        volumes=torch.stack(cast(Any, volumes))
        if is_tensor(frames)
        else np.stack(cast(Any, volumes)),
        fits=tuple(fits),
        misfit=misfit,
        n_steps=np.array([len(history["objective"]) for history in histories]),
        seconds=np.array(seconds),
        history=tuple(histories),
        reached=misfit <= _near(tol, data[0]) * misfit[0],
        settings=settings,
    )


@dataclass(frozen=True)
class _Problem:
    """Operator, data and objective of all frames."""

    operator: Any
    data: torch.Tensor
    background: torch.Tensor
    loss: Loss
    prior: Prior | None
    generator: torch.Generator
    as_tensor: bool

    def fit(
        self,
        start: Any,
        at: int | slice,
        schedule: Sequence[Stage],
        operator: Any = None,
        checkpoint: str | Path | None = None,
    ) -> FieldFit:
        """Fit a frame, or with a slice and an operator for them, several at once."""
        data = self.data[at]
        fitted = fit(
            start,
            operator or self.operator,
            data if self.as_tensor else to_numpy(data),
            loss=self.loss,
            prior=self.prior,
            schedule=schedule,
            background=self.background[at],
            generator=self.generator,
            checkpoint=checkpoint,
            device=self.data.device,
        )
        return uninterrupted(fitted)

    def misfit(self, volume: Array, number: int) -> float:
        """Loss for each number in a frame."""
        with torch.no_grad():
            prediction = self.operator(to_tensor(volume, self.data.device))
            frame = self.data[number]
            return float(self.loss(prediction + self.background[number], frame)) / frame.numel()


def _chain(problem: _Problem, start: Any, rule: tuple, store: FrameStore | None) -> Iterator[Found]:
    """Frame after frame; the first, or from scratch every one, takes the whole schedule."""
    init, stages, further, rounds, tol, fix_network = rule
    near = _near(tol, problem.data[0])
    level, fitted = None, start
    for number in range(len(problem.data)):
        found = store.load(number) if store else None
        if found is None:
            begun = time.perf_counter()
            first = fitted if init == "previous" else start
            schedules = [stages]
            if number and init != "scratch":
                schedules = rounds * [further]
                first = _fixed(first) if fix_network else first
            parts: list[FieldFit] = []
            misfits: list[float] = []
            for schedule in schedules:
                fitted = problem.fit(parts[-1] if parts else first, number, schedule)
                parts.append(fitted)
                misfits.append(problem.misfit(fitted.volume, number))
                if level is not None and misfits[-1] <= near * level:
                    before, *_, after = fitted.history["objective"]
                    if before - after < tol / 2 * abs(after):
                        break
            history = _joined([part.history for part in parts]) | {"misfit": np.array(misfits)}
            found = fitted, history, time.perf_counter() - begun
            if store:
                store.save(number, *found)
        fitted, history, _ = found
        level = history["misfit"][-1] if level is None else level
        yield found


def _windows(
    problem: _Problem,
    start: Any,
    stages: Sequence[Stage],
    window: int,
    rank: int | None,
    checkpoint: str | Path | None,
) -> Iterator[Found]:
    """Windows of frames at once; of two that share a frame, the one in which it lies deeper."""
    n = len(problem.data)
    size = min(window, n)
    field = getattr(start, "field", start)
    firsts = list(range(0, n - size, max(1, size - size // 4))) + [n - size]
    for place, first in enumerate(firsts):
        begun = time.perf_counter()
        together = problem.fit(
            LowRank(field, size, rank and min(rank, size)),
            slice(first, first + size),
            stages,
            Frames(problem.operator, size),
            Path(checkpoint) / f"window_{first:05}.safetensors" if checkpoint else None,
        )
        taken = (time.perf_counter() - begun) / size
        frames = cast(LowRank, together.field)
        # the last frames that this window shares with the next one are left to it
        shared = firsts[place - 1] + size - first if place else 0
        end = first + size
        if place + 1 < len(firsts):
            end -= (first + size - firsts[place + 1]) // 2
        for number in range(first + shared - shared // 2, end):
            volume = together.volume[number - first]
            frame = replace(together, volume=volume, field=frames.frame(number - first))
            misfit = np.array([problem.misfit(volume, number)])
            yield frame, {**together.history, "misfit": misfit}, taken


def _near(tol: float, frame: torch.Tensor) -> float:
    """Factor between misfits of two frames that are explained equally well, see `tol`."""
    return 1 + tol + 6 / frame.numel() ** 0.5


def _further(stage: Stage) -> Stage:
    """A short stage for a field that is nearly right, with a memory as short as it is."""
    return Stage(10, stage.learning_rate, betas=(0.5, 0.95))


def _fixed(start: Any) -> Any:
    """The same start, but its network stays as it is if there is an encoding to be moved."""
    start = copy.deepcopy(start)
    field = getattr(start, "field", start)
    network, encoding = getattr(field, "network", None), getattr(field, "encoding", None)
    if network is not None and encoding is not None and any(True for _ in encoding.parameters()):
        network.requires_grad_(False)
    return start


def _checked(
    frames: Array | Sequence[Array], operator: object, device: torch.device
) -> torch.Tensor:
    """Frames as one tensor, once each of them is known to be sound."""
    if len(frames) == 0:
        raise ValueError("the sequence is empty: give at least one frame")
    shapes = {tuple(np.shape(frame)) for frame in frames}
    if len(shapes) > 1:
        raise ValueError(f"frames have different shapes {sorted(shapes)}: crop them to one")
    if not (is_tensor(frames) or isinstance(frames, np.ndarray)):
        frames = np.stack([to_numpy(frame) for frame in frames])
    data = to_tensor(frames, device, torch.float32)
    for number, frame in enumerate(data):
        try:
            check_data(operator, frame)
        except ValueError as error:
            raise ValueError(f"frame {number}: {error}") from None
    return data


def _backgrounds(background: float | Array, data: torch.Tensor) -> torch.Tensor:
    """One background for each frame."""
    b = to_tensor(background, data.device, torch.float32)
    try:
        return b.expand(data.shape)
    except RuntimeError:
        raise ValueError(
            f"the background is {tuple(b.shape)}, the frames are {tuple(data.shape)}: give a "
            "number, an array that broadcasts against a frame, or one for each frame"
        ) from None


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Histories of several rounds as one."""
    ends = np.cumsum([0.0, *(part["seconds"][-1] for part in parts)])
    seconds = [part["seconds"] + end for part, end in zip(parts, ends[:-1], strict=True)]
    return {
        "objective": np.concatenate([part["objective"] for part in parts]),
        "seconds": np.concatenate(seconds),
    }
