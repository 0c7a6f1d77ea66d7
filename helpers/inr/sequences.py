r"""Frame after frame: what one fit has learned is where the next one starts.

Every frame is fitted in the photons that were measured; nothing is scaled to its own maximum, so
what bleaches in the views bleaches in the volumes.
"""

from __future__ import annotations

import copy
import hashlib
import time
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

import numpy as np

from .. import checkpoints
from ..arrays import is_tensor, like, to_numpy, to_tensor
from ..devices import pick_device
from .fit import ONE_STAGE, FieldFit, check_data, fit, moved
from .losses import poisson
from .sampling import Stage

INITS = ("previous", "meta", "scratch", "joint")


@dataclass(frozen=True)
class SequenceFit:
    """A fitted sequence of T frames.

    Attributes
    ----------
    volumes : array (T, Z, Y, X)
        In the unit of the field's head, one scale for all frames.
    fits : tuple of FieldFit
        One for each frame; of a frame that took several rounds, the last one.
    misfit : (T,) array
        Loss for each number in a frame, after its last step.
    n_steps : (T,) array of int
        Steps that each frame took.
    seconds : (T,) array
        Time that each frame took.
    history : tuple of dicts
        For each frame "objective" and "seconds" of every step, and "misfit" after each round.
    reached : (T,) array of bool
        Whether the misfit of the frame came down to the level of the first one.
    settings : dict
    """

    volumes: np.ndarray
    fits: tuple = dataclass_field(repr=False)
    misfit: np.ndarray
    n_steps: np.ndarray
    seconds: np.ndarray
    history: tuple = dataclass_field(repr=False)
    reached: np.ndarray
    settings: dict


def fit_sequence(
    fields_or_init,
    operator,
    frames,
    init="previous",
    *,
    loss=poisson,
    prior=None,
    schedule=ONE_STAGE,
    further=None,
    rounds=8,
    tolerance=0.01,
    background=0.0,
    generator=None,
    checkpoint=None,
    progress=False,
    callback=None,
    device=None,
):
    r"""Fit every frame of a sequence, each from a start that saves steps.

    Parameters
    ----------
    fields_or_init : torch.nn.Module, or anything with a ``field`` such as FieldFit
        Where the first frame starts. With "meta" every frame starts there.
    operator : callable
        Volume to the views of one frame, see `helpers.inr.fit.fit`.
    frames : array or tensor (T, ...)
        What was measured, in the unit of the camera: T times the shape that the operator gives.
    init : {"previous", "meta", "scratch"}
        Where each later frame starts: at the frame before it, with its moments of Adam; at
        `fields_or_init`; or there too, but with the whole `schedule`.
    loss, prior
        As in `helpers.inr.fit.fit`.
    schedule : Stage or sequence of Stage
        Of the first frame, and of every frame for "scratch".
    further : Stage, optional
        One round of a later frame. Default: 10 steps with half the learning rate of `schedule` and
        a shorter memory.
    rounds : int
        A later frame takes at most so many rounds.
    tolerance : float
        A later frame ends with the round after which its misfit is at most 1 + `tolerance` times
        that of the first frame. Noise alone moves it by about the root of two over the number of
        pixels.
    background : float or array
        Added to every prediction. An array broadcasts against a frame, or, with one axis more,
        holds one background for each frame.
    generator : torch.Generator, optional
        On the CPU, for blocks and views drawn at random. Default: seed 0.
    checkpoint : str or Path, optional
        Folder that gets one file for each frame; an interrupted sequence goes on after the last.
        Frames may be added to a sequence later, those before them may not change.
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
    done when its views are explained as well as those of the first frame were. Derived in
    :doc:`/book/inr/04_meta_learning`, used in :doc:`/book/inr/05_dynamics`.

    Examples
    --------
    >>> from functools import partial
    >>> from helpers.inr import fields, phantoms
    >>> sims = [phantoms.simulate(seed=1, shape=(8, 24, 24), n_tubes=3, t=t) for t in (0, 0.1)]
    >>> start = fields.Voxels((8, 24, 24), fields.Softplus(mean=0.5))
    >>> result = fit_sequence(
    ...     start, sims[0].op, np.stack([sim.views for sim in sims]), background=4.0,
    ...     schedule=Stage(60, 0.3), loss=partial(poisson, read_noise=1.5), device="cpu")
    >>> result.volumes.shape, bool(result.n_steps[1] < result.n_steps[0])
    ((2, 8, 24, 24), True)
    """
    import torch
    from tqdm.auto import tqdm

    stages = (schedule,) if isinstance(schedule, Stage) else tuple(schedule)
    further = _further(stages[0]) if further is None else further
    if init not in INITS:
        raise ValueError(f"init is {init!r}: use one of {', '.join(INITS)}")
    if rounds < 1 or not tolerance >= 0:
        raise ValueError(f"rounds is {rounds}, tolerance {tolerance}: at least 1, and at least 0")
    device = pick_device(device)
    operator = moved(operator, device)
    data = _checked(frames, operator, device)
    given = data if is_tensor(frames) else to_numpy(data)
    backgrounds = _backgrounds(background, data, device)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    common = dict(loss=loss, prior=prior, generator=generator, device=device)

    def misfit(fitted, number):
        with torch.no_grad():
            prediction = operator(to_tensor(fitted.volume, device)) + backgrounds[number]
            return float(loss(prediction, data[number])) / data[number].numel()

    def whole(start, number):
        fitted = fit(
            start,
            operator,
            given[number],
            schedule=stages,
            background=backgrounds[number],
            **common,
        )
        return fitted, {**fitted.history, "misfit": np.array([misfit(fitted, number)])}

    def rounds_of(start, number, level):
        parts, misfits, fitted = [], [], start
        while len(parts) < rounds and not (misfits and misfits[-1] <= level):
            fitted = fit(
                fitted, operator, given[number], schedule=further, background=backgrounds[number],
                **common,
            )  # fmt: skip
            parts.append(fitted.history)
            misfits.append(misfit(fitted, number))
        return fitted, _joined(parts) | {"misfit": np.array(misfits)}

    store = None if checkpoint is None else _Store(
        checkpoint, fields_or_init, data, (init, stages, further, rounds, tolerance), generator
    )  # fmt: skip
    fits, histories, seconds = [], [], []
    for number in tqdm(range(len(data)), disable=not progress, leave=False, unit="frame"):
        begun = time.perf_counter()
        found = store.load(number) if store else None
        if found is not None:
            fitted, history, taken = found
        else:
            if number == 0 or init == "scratch":
                fitted, history = whole(fields_or_init, number)
            else:
                level = (1 + tolerance) * histories[0]["misfit"][-1]
                start = fits[-1] if init == "previous" else fields_or_init
                fitted, history = rounds_of(start, number, level)
            taken = time.perf_counter() - begun
            if store:
                store.save(number, fitted, history, taken)
        fits.append(fitted)
        histories.append(history)
        seconds.append(taken)
        if callback is not None and callback(number, fitted):
            break
    misfits = np.array([history["misfit"][-1] for history in histories])
    volumes = torch.stack([to_tensor(fitted.volume, device) for fitted in fits])
    return SequenceFit(
        volumes=like(volumes, given),
        fits=tuple(fits),
        misfit=misfits,
        n_steps=np.array([len(history["objective"]) for history in histories]),
        seconds=np.array(seconds),
        history=tuple(histories),
        reached=misfits <= (1 + tolerance) * misfits[0],
        settings={
            "init": init,
            "schedule": [asdict(stage) for stage in stages],
            "further": asdict(further),
            "rounds": rounds,
            "tolerance": tolerance,
            "device": str(device),
        },
    )


def _further(stage):
    """A short stage for a field that is nearly right, with Adam's memory as short as it is."""
    return Stage(10, stage.learning_rate / 2, final_rate=0.1, betas=(0.8, 0.99))


def _checked(frames, operator, device):
    import torch

    if len(frames) == 0:
        raise ValueError("the sequence is empty: give at least one frame")
    if is_tensor(frames) or isinstance(frames, np.ndarray):
        data = to_tensor(frames, device, torch.float32)
    else:
        shapes = {tuple(np.shape(frame)) for frame in frames}
        if len(shapes) > 1:
            raise ValueError(f"frames have different shapes {sorted(shapes)}: crop them to one")
        data = torch.stack([to_tensor(frame, device, torch.float32) for frame in frames])
    for number, frame in enumerate(data):
        try:
            check_data(operator, frame)
        except ValueError as error:
            raise ValueError(f"frame {number}: {error}") from None
    return data


def _backgrounds(background, data, device):
    """One background for each frame."""
    import torch

    b = to_tensor(background, device, torch.float32)
    if b.ndim == data.ndim and len(b) not in (1, len(data)):
        raise ValueError(
            f"there are {len(b)} backgrounds for {len(data)} frames: give one for each"
        )
    try:
        return (
            b.expand(data.shape)
            if b.ndim == data.ndim
            else b.expand(data[0].shape)[None].expand(data.shape)
        )
    except RuntimeError:
        raise ValueError(
            f"the background is {tuple(b.shape)}, a frame {tuple(data.shape[1:])}: give a number, "
            "or an array that broadcasts against a frame"
        ) from None


def _joined(parts):
    """Histories of several rounds as one."""
    ends = np.cumsum([0.0, *(part["seconds"][-1] for part in parts)])
    seconds = [part["seconds"] + end for part, end in zip(parts, ends[:-1], strict=True)]
    return {
        "objective": np.concatenate([part["objective"] for part in parts]),
        "seconds": np.concatenate(seconds),
    }


class _Store:
    """One file for each frame, under a name for what it depends on: all frames up to it."""

    def __init__(self, folder, start, data, settings, generator):
        self.folder, self.generator = Path(folder), generator
        self.start = getattr(start, "field", start)
        digest = hashlib.sha256(repr(settings).encode())
        for name, value in self.start.state_dict().items():
            digest.update(name.encode() + to_numpy(value).tobytes())
        self.identities = []
        for frame in data:
            digest.update(to_numpy(frame).tobytes())
            self.identities.append(digest.hexdigest()[:16])
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, number):
        return self.folder / f"frame_{number:05}.safetensors"

    def save(self, number, fitted, history, seconds):
        state = {
            "field": dict(fitted.field.state_dict()),
            "moments": fitted.moments,
            "volume": fitted.volume,
            "history": history,
            "last": fitted.history,
            "converged": fitted.converged,
            "settings": fitted.settings,
            "seconds": seconds,
            "generator": self.generator.get_state(),
        }
        card = {
            "data": self.identities[number],
            "seed": self.generator.initial_seed(),
            "steps": len(history["objective"]),
            "metric": {"misfit": float(history["misfit"][-1])},
        }
        checkpoints.save(self.path(number), state, card)

    def load(self, number):
        """The fit, the history and the seconds of a frame that was done before, or None."""
        if not self.path(number).exists():
            return None
        field = copy.deepcopy(self.start)
        state, card = checkpoints.load(
            self.path(number), expect={"field": dict(field.state_dict())}
        )
        if card["data"] != self.identities[number]:
            raise ValueError(
                f"{self.path(number)} is of another sequence, start or schedule: "
                "give another folder, or delete it to begin anew"
            )
        field.load_state_dict(state["field"])
        self.generator.set_state(state["generator"])
        last = state["last"]
        fitted = FieldFit(
            state["volume"], field, last, len(last["objective"]), state["converged"],
            state["settings"], state["moments"],
        )  # fmt: skip
        return fitted, state["history"], state["seconds"]
