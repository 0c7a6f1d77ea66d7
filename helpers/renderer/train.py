r"""Train a model on images alone, watch it in TensorBoard, and go on after a kill.

Everything a run writes is in one folder: `Trainer` says how it is chosen. It is never inside the
package.
"""

from __future__ import annotations

import math
import signal
import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from .. import checkpoints
from .._arrays import to_tensor
from ..devices import pick_device

# how a run is judged and read, found here too
from ..training.log import runs_folder, side_by_side

__all__ = ["OverBound", "Trainer", "Training"]

CHECKPOINT = "checkpoint.safetensors"
WARM = 2  # steps before the profiler looks


@dataclass(frozen=True)
class Training:
    """Result of `Trainer.fit`.

    Attributes
    ----------
    history : array (n_steps,)
        Loss of each step, those before a restart included.
    metrics : dict
        By name: (steps, values), two arrays.
    n_steps : int
        Steps made in all.
    resumed : int
        The step at which this call took over, 0 for a fresh run.
    folder : Path
        Where event files and the checkpoint are.
    interrupted : bool
        Ctrl-C ended it; the same call goes on from there.
    profile : str
        Table of where the time went, if asked for.
    settings : dict
    """

    history: np.ndarray = field(repr=False)
    metrics: dict = field(repr=False)
    n_steps: int
    resumed: int
    folder: Path
    interrupted: bool
    profile: str = field(repr=False)
    settings: dict = field(repr=False)


class Trainer:
    r"""Train a model by Adam, and keep a record.

    Parameters
    ----------
    model : FitModel
        Or any module with ``loss(images, index)``. Trained in place.
    data : array, tensor, or callable
        Images (N, \*image_shape) in photo-electrons, from which batches are drawn; or
        ``data(n, rng)`` that gives n fresh ones from a NumPy generator, or a pair of images and
        the index that a `PerImage` needs. There is no place for labels.
    n_steps : int
    rate : float
        Learning rate after the warm-up; from there it falls along half a cosine.
    warmup : int
        Steps over which the rate rises.
    batch : int
        Images of a step.
    clip : float
        Largest norm of the gradient.
    seed : int
        Of the batches.
    folder : str or Path, optional
        Where runs are written, see `runs_folder`.
    name : str, optional
        Folder of this run in there. One that exists is continued. Default: date and time.
    save_every : int
        Steps between two checkpoints.
    show_every : int
        Steps between two pictures of image, expected image and what is left; 0 for none.
    metric : callable, optional
        ``metric(model)`` gives numbers by name, such as `OverBound`. It is shown, never trained on.
    metric_every : int
        Steps between two calls of `metric`.
    profile : int
        Steps to look at with `torch.profiler`; the trace is written beside the event file.
    callback : callable, optional
        ``callback(step, loss)`` after every step, counted from 1. True ends the run.
    progress : bool
        Show a bar.
    device : str or torch.device, optional
        Default: the best one.

    Raises
    ------
    ValueError
        A number out of its range, data without images, or nothing to train.

    Notes
    -----
    Adam :cite:p:`kingma2015` with a clipped gradient. A checkpoint holds the weights, the state of
    Adam and of the generator, the schedule and the step: a run that was killed goes on from the
    last one as if nothing had happened, on the CPU bit for bit. Steps between the checkpoint and
    the kill are made again, and their old record is dropped.
    Used in :doc:`/book/renderer/02_learn_without_labels`.

    Examples
    --------
    >>> import tempfile
    >>> from helpers.noise import Poisson
    >>> from helpers.renderer.encoders import PerImage
    >>> from helpers.renderer.mappers import Direct
    >>> from helpers.renderer.model import FitModel
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> spots = Gaussian2D((13, 13))
    >>> image = spots.render({"x": [0.8], "y": [-0.4], "photons": 1200.0})
    >>> model = FitModel(PerImage((13, 13)), Direct(), spots, Poisson())
    >>> trainer = Trainer(model, image, n_steps=300, rate=0.05, batch=1,
    ...                   folder=tempfile.mkdtemp(), device="cpu")
    >>> run = trainer.fit()
    >>> round(float(model.estimate(image)["x"][0]), 2)
    0.8
    """

    def __init__(
        self,
        model,
        data,
        *,
        n_steps=1000,
        rate=3e-3,
        warmup=20,
        batch=64,
        clip=0.5,
        seed=0,
        folder=None,
        name=None,
        save_every=200,
        show_every=0,
        metric=None,
        metric_every=100,
        profile=0,
        callback=None,
        progress=False,
        device=None,
    ):
        counts = {"n_steps": n_steps, "batch": batch, "save_every": save_every}
        for key, value in (counts | {"metric_every": metric_every}).items():
            if value != int(value) or value < 1:
                raise ValueError(f"{key} is {value}: give a whole number, at least 1")
        if not (rate > 0 and clip > 0 and warmup >= 0 and profile >= 0 and show_every >= 0):
            raise ValueError(
                f"rate is {rate}, clip {clip}, warmup {warmup}, profile {profile}, show_every "
                f"{show_every}: give positive ones"
            )
        self.device = pick_device(device)
        self.model = model.to(self.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameter to train: thaw one by requires_grad_()")
        self.data = data if callable(data) else to_tensor(data)
        if not callable(data) and len(self.data) == 0:
            raise ValueError("there are no images: give at least one")
        self.schedule = {
            "n_steps": int(n_steps),
            "rate": float(rate),
            "warmup": int(warmup),
            "batch": int(batch),
            "clip": float(clip),
            "seed": int(seed),
        }
        self.folder = runs_folder(folder) / (name or f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
        self.save_every, self.show_every = int(save_every), int(show_every)
        self.metric, self.metric_every = metric, int(metric_every)
        self.profile, self.callback, self.progress = int(profile), callback, progress

    def rate_at(self, step):
        """Learning rate of a step, counted from 0."""
        s = self.schedule
        rise = min(1.0, (step + 1) / max(1, s["warmup"]))
        return s["rate"] * rise * 0.5 * (1 + math.cos(math.pi * step / s["n_steps"]))

    def fit(self):
        """Train, or go on; gives a `Training`.

        Ctrl-C ends the run after the step it is in, with a checkpoint.

        Raises
        ------
        ValueError
            The checkpoint in the folder is of another model or another run.
        FloatingPointError
            The loss is no longer finite. The last checkpoint is from before.
        """
        from torch.utils.tensorboard import SummaryWriter
        from tqdm.auto import tqdm

        self.rng = np.random.default_rng(self.schedule["seed"])
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.schedule["rate"])
        self.history, self.metrics = [], {}
        checkpoint = self.folder / CHECKPOINT
        resumed = self._resume(checkpoint) if checkpoint.exists() else 0
        self.model.train()
        cuda = [self.device] if self.device.type == "cuda" else []
        steps = range(resumed, self.schedule["n_steps"])
        done, stop, table = resumed, False, ""
        writer = SummaryWriter(str(self.folder), purge_step=resumed + 1 if resumed else None)
        with torch.random.fork_rng(cuda), _Interrupt() as interrupt, writer:
            profiler = self._profiler() if self.profile and len(steps) else None
            for step in tqdm(steps, disable=not self.progress, leave=False):
                loss = self._step(step, writer)
                done = step + 1
                stop = bool(self.callback and self.callback(done, loss))
                if profiler is not None and _advance(profiler, done - resumed, WARM + self.profile):
                    table, profiler = self._profiled(profiler), None
                last = stop or interrupt.asked or done == self.schedule["n_steps"]
                if last or done % self.save_every == 0:
                    writer.flush()
                    self._save(checkpoint)
                if last:
                    break
            if profiler is not None:
                table = self._profiled(profiler)
        self.model.eval()
        metrics = {name: (np.array(n), np.array(v)) for name, (n, v) in self.metrics.items()}
        history, settings = np.array(self.history), dict(self.schedule)
        return Training(
            history, metrics, done, resumed, self.folder, interrupt.asked, table, settings
        )

    def _step(self, step, writer):
        images, index = self._draw()
        torch.manual_seed(int(self.rng.integers(2**62)))  # of dropout
        loss = self.model.loss(images, index)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of step {step} is {value}: lower the rate, or look for NaN in the data"
            )
        self.optimizer.param_groups[0]["lr"] = rate = self.rate_at(step)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.schedule["clip"])
        self.optimizer.step()
        self.history.append(value)
        done = step + 1
        writer.add_scalar("loss", value, done)
        writer.add_scalar("rate", rate, done)
        last = done == self.schedule["n_steps"]
        if self.metric and (last or done % self.metric_every == 0):
            self.model.eval()
            with torch.no_grad():
                numbers = self.metric(self.model)
            self.model.train()
            for name, number in numbers.items():
                at, values = self.metrics.setdefault(name, ([], []))
                at.append(done)
                values.append(float(number))
                writer.add_scalar(f"metric/{name}", float(number), done)
        if self.show_every and (last or done % self.show_every == 0):
            few = None if index is None else index[:4]
            with torch.no_grad():
                expected = self.model(images[:4], few)
            writer.add_image("image, expected, rest", side_by_side(images[:4], expected), done)
        return value

    def _draw(self):
        n = self.schedule["batch"]
        if callable(self.data):
            drawn = self.data(n, self.rng)
            images, index = drawn if isinstance(drawn, tuple) else (drawn, None)
        else:
            index = torch.from_numpy(self.rng.integers(len(self.data), size=n))
            images = self.data[index]
        dtype = self.parameters[0].dtype
        images = to_tensor(images, self.device, dtype)
        return images, None if index is None else torch.as_tensor(index).to(self.device)

    def _save(self, path):
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule,
            "generator": self.rng.bit_generator.state,
            "step": len(self.history),
            "history": np.array(self.history),
            "metrics": self.metrics,
        }
        images = "fresh images" if callable(self.data) else f"{len(self.data)} images"
        card = {
            "data": images,
            "seed": self.schedule["seed"],
            "steps": len(self.history),
            "metric": {"loss": self.history[-1]}
            | {name: values[-1] for name, (_, values) in self.metrics.items()},
        }
        checkpoints.save(path, state, card)

    def _resume(self, path):
        state, _ = checkpoints.load(path, expect={"model": self.model.state_dict()})
        then = state.get("schedule", {})
        wrong = [key for key in self.schedule if then.get(key) != self.schedule[key]]
        if wrong:
            told = ", ".join(f"{key} {then.get(key)}, not {self.schedule[key]}" for key in wrong)
            raise ValueError(f"{path} is of another run, with {told}: choose another name")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["generator"]
        self.history = state["history"].tolist()
        self.metrics = {name: tuple(pair) for name, pair in state["metrics"].items()}
        return state["step"]

    def _profiler(self):
        from torch.profiler import ProfilerActivity, profile, schedule

        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        plan = schedule(wait=0, warmup=WARM, active=self.profile, repeat=1)
        profiler = profile(activities=activities, schedule=plan, acc_events=True)
        profiler.start()
        return profiler

    def _profiled(self, profiler):
        profiler.stop()
        sort = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        return profiler.key_averages().table(sort_by=sort, row_limit=10)


def _advance(profiler, done, last):
    """Tell the profiler that a step is over; true when it has seen enough."""
    if done == last:
        return True
    profiler.step()
    return False


class _Interrupt:
    """Ctrl-C asks for an end after the step; a second one ends at once."""

    def __enter__(self):
        self.asked = False
        self.usable = threading.current_thread() is threading.main_thread()
        if self.usable:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number, frame):
        self.asked = True
        signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *error):
        if self.usable:
            signal.signal(signal.SIGINT, self.before)


class OverBound:
    r"""Metric of a training: errors in units of the Cramér-Rao bound.

    Parameters
    ----------
    images : array or tensor (B, \*image_shape)
        Images that are not trained on.
    truth : dict
        Their true parameters by name, all that the renderer needs.
    bound : dict
        Their bounds, standard deviations by name, such as `helpers.renderer.mle.crlb` gives.
    names : sequence of str
        Which errors to report.

    Notes
    -----
    The root mean square error over the root mean square bound, for each name: 1 is the best that
    an unbiased estimate can do. The truth stays here; a training never sees it.

    Examples
    --------
    >>> metric = OverBound(np.zeros((2, 3, 3)), {"x": [0.0, 0.0]}, {"x": [0.1, 0.1]}, ["x"])
    >>> class Model:
    ...     def estimate(self, images):
    ...         return {"x": np.array([0.2, -0.2])}
    >>> metric(Model())
    {'x': 2.0}
    """

    def __init__(self, images, truth, bound, names=("x", "y")):
        lacking = [name for name in names if name not in truth or name not in bound]
        if lacking:
            raise ValueError(f"no truth or no bound for {', '.join(lacking)}: give both")
        self.images, self.names = np.asarray(images), tuple(names)
        self.truth = {name: np.asarray(truth[name]) for name in self.names}
        self.bound = {name: float(_rms(np.asarray(bound[name]))) for name in self.names}

    def __call__(self, model):
        """Errors over bounds, by name."""
        found = model.estimate(self.images)
        return {
            name: float(_rms(found[name] - self.truth[name])) / self.bound[name]
            for name in self.names
        }


def _rms(values):
    return np.sqrt(np.mean(np.square(values)))
