r"""Train a model on images alone, watch it in TensorBoard, and go on after a kill.

Everything a run writes is in one folder: `Trainer` says how it is chosen. It is never inside the
package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .._arrays import Array, Device, to_tensor
from .._deprecated import renamed
from ..devices import pick_device
from ..training import loop as training_loop
from ..training.identity import told
from ..training.log import runs_folder, side_by_side
from ..training.loop import Run, Step, adapted
from ..training.schedule import Schedule
from .model import FitModel

__all__ = ["OverBound", "Trainer"]

CHECKPOINT = "checkpoint.safetensors"
WARM = 2  # steps before the profiler looks


@dataclass(frozen=True, kw_only=True)
class Training(training_loop.Training):
    """Result of `Trainer.fit`.

    Attributes
    ----------
    net, history, n_steps, resumed, interrupted, settings
        As of every training; the net is the model.
    metrics : dict
        By name: (steps, values), two arrays.
    folder : Path
        Where event files and the checkpoint are.
    profile : str
        Table of where the time went, if asked for.
    """

    metrics: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    folder: Path
    profile: str = field(repr=False)


@renamed(rate="learning_rate")
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
    learning_rate : float
        Of Adam, after the warm-up.
    warmup : int
        Steps over which the rate rises.
    decay : float
        Share of the steps, the last ones, over which the rate falls along half a cosine. With 0
        the rate is constant, and a run goes on with more steps.
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
        ``callback(step)`` after every step, with a `helpers.training.Step`. True ends the run.
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
    Adam and of the generator, and what decides the result: a run that was killed goes on from the
    last one as if nothing had happened, on the CPU bit for bit. Steps between the checkpoint and
    the kill are made again, and their old record is dropped. A run with other images, noise,
    renderer or settings is refused.
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
    >>> trainer = Trainer(model, image, n_steps=300, learning_rate=0.05, batch=1,
    ...                   folder=tempfile.mkdtemp(), device="cpu")
    >>> run = trainer.fit()
    >>> round(float(model.estimate(image)["x"][0]), 2)
    0.8
    """

    def __init__(
        self,
        model: nn.Module,
        data: Array | Callable[[int, np.random.Generator], Any],
        *,
        n_steps: int = 1000,
        learning_rate: float = 3e-3,
        warmup: int = 20,
        decay: float = 1.0,
        batch: int = 64,
        clip: float = 0.5,
        seed: int = 0,
        folder: str | Path | None = None,
        name: str | None = None,
        save_every: int = 200,
        show_every: int = 0,
        metric: Callable[[Any], dict[str, float]] | None = None,
        metric_every: int = 100,
        profile: int = 0,
        callback: Callable[[Step], Any] | None = None,
        progress: bool = False,
        device: Device = None,
    ) -> None:
        self._rates = Schedule(
            n_steps, learning_rate, warmup, decay, batch, clip=clip, save_every=save_every
        )
        if metric_every != int(metric_every) or metric_every < 1:
            raise ValueError(f"metric_every is {metric_every}: give a whole number, at least 1")
        if warmup < 0 or profile < 0 or show_every < 0:
            raise ValueError(
                f"warmup is {warmup}, profile {profile}, show_every {show_every}: give counts, or 0"
            )
        self.device = pick_device(device)
        self.model = model.to(self.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameter to train: thaw one by requires_grad_()")
        self.data: Any = data if callable(data) else to_tensor(data)
        if not callable(self.data) and len(self.data) == 0:
            raise ValueError("there are no images: give at least one")
        self.schedule: dict[str, Any] = {
            "n_steps": int(n_steps),
            "learning_rate": float(learning_rate),
            "warmup": int(warmup),
            "decay": float(decay),
            "batch": int(batch),
            "clip": float(clip),
            "seed": int(seed),
        }
        self.folder = runs_folder(folder) / (name or f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
        self.save_every, self.show_every = int(save_every), int(show_every)
        self.metric, self.metric_every = metric, int(metric_every)
        self.profile, self.progress = int(profile), progress
        self.callback = adapted(callback, lambda step: (int(step), step.loss))

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self._rates.rate_at(step)

    def fit(self) -> Training:
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

        self.rng = np.random.default_rng(self.schedule["seed"])
        self.metrics: dict[str, tuple[list[int], list[float]]] = {}
        run = self._run()
        self.model.train()
        cuda = [self.device] if self.device.type == "cuda" else []
        purge = run.resumed + 1 if run.resumed else None
        with torch.random.fork_rng(cuda), ExitStack() as stack:
            profiler = stack.enter_context(_Profiler(self, run.n_steps > run.resumed))
            self.writer = stack.enter_context(SummaryWriter(str(self.folder), purge_step=purge))

            def after(step):
                self._record(step, run.history[-1])
                profiler.step(step + 1 - run.resumed)

            run(self._loss, after=after, callback=self.callback, progress=self.progress)
        self.model.eval()
        metrics = {name: (np.array(n), np.array(v)) for name, (n, v) in self.metrics.items()}
        return Training(
            net=self.model,
            history=np.array(run.history),
            n_steps=len(run.history),
            resumed=run.resumed,
            interrupted=run.interrupted,
            settings=dict(self.schedule),
            metrics=metrics,
            folder=self.folder,
            profile=profiler.table,
        )

    def _run(self):
        """The loop, at the step of the checkpoint."""
        bits, schedule = self.rng.bit_generator, self.schedule
        fixed = ("batch", "clip", "seed")  # the rates say the rest

        def put_bits(state):
            bits.state = state

        def put_metrics(metrics):
            self.metrics = {name: tuple(pair) for name, pair in metrics.items()}

        return Run(
            self.model,
            torch.optim.Adam(self.parameters, lr=schedule["learning_rate"]),
            schedule["n_steps"],
            self.rate_at,
            identity=lambda: {
                **{name: schedule[name] for name in fixed},
                "data": told(self.data),
                "model": told(self.model, trained=False),
            },
            parts={
                "model": self.model,
                "generator": (lambda: bits.state, put_bits),
                "metrics": (lambda: self.metrics, put_metrics),
            },
            clip=schedule["clip"],
            checkpoint=self.folder / CHECKPOINT,
            save_every=self.save_every,
            card={
                "data": "fresh images" if callable(self.data) else f"{len(self.data)} images",
                "seed": schedule["seed"],
            },
        )

    def _loss(self, step):
        """Loss of a batch; what was drawn is kept for a picture."""
        self.images, self.index = self._draw()
        torch.manual_seed(int(self.rng.integers(2**62)))  # of dropout
        return self.model.loss(self.images, self.index)

    def _record(self, step, loss):
        """Write the step, and at times the metrics and a picture, into the event file."""
        done, writer = step + 1, self.writer
        writer.add_scalar("loss", loss, done)
        writer.add_scalar("rate", self.rate_at(step), done)
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
            few = None if self.index is None else self.index[:4]
            with torch.no_grad():
                expected = self.model(self.images[:4], few)
            picture = side_by_side(self.images[:4], expected)
            writer.add_image("image, expected, rest", picture, done)
        if last or done % self.save_every == 0:
            writer.flush()  # the checkpoint that follows is not ahead of the record

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


class _Profiler:
    """Looks at some steps of a training with `torch.profiler`, where it is asked to."""

    def __init__(self, trainer, wanted):
        self.trainer, self.table, self.profiler = trainer, "", None
        self.last = WARM + trainer.profile if wanted and trainer.profile else 0

    def __enter__(self):
        if self.last:
            from torch.profiler import ProfilerActivity, profile, schedule

            self.cuda = self.trainer.device.type == "cuda"
            activities = [ProfilerActivity.CPU] + self.cuda * [ProfilerActivity.CUDA]
            plan = schedule(wait=0, warmup=WARM, active=self.trainer.profile, repeat=1)
            self.profiler = profile(activities=activities, schedule=plan, acc_events=True)
            self.profiler.start()
        return self

    def step(self, done):
        """Take note that a step is over; after the last one there is a table."""
        if self.profiler and done < self.last:
            self.profiler.step()
        elif self.profiler:
            self.__exit__()

    def __exit__(self, *error):
        if self.profiler:
            profiler, self.profiler = self.profiler, None
            profiler.stop()
            profiler.export_chrome_trace(str(self.trainer.folder / "trace.json"))
            order = "self_cuda_time_total" if self.cuda else "self_cpu_time_total"
            self.table = profiler.key_averages().table(sort_by=order, row_limit=10)


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

    def __init__(
        self,
        images: Array,
        truth: dict[str, Any],
        bound: dict[str, Any],
        names: Sequence[str] = ("x", "y"),
    ) -> None:
        lacking = [name for name in names if name not in truth or name not in bound]
        if lacking:
            raise ValueError(f"no truth or no bound for {', '.join(lacking)}: give both")
        self.images, self.names = np.asarray(images), tuple(names)
        self.truth = {name: np.asarray(truth[name]) for name in self.names}
        self.bound = {name: float(_rms(np.asarray(bound[name]))) for name in self.names}

    def __call__(self, model: FitModel) -> dict[str, float]:
        """Errors over bounds, by name."""
        found = model.estimate(self.images)
        return {
            name: float(_rms(found[name] - self.truth[name])) / self.bound[name]
            for name in self.names
        }


def _rms(values):
    return np.sqrt(np.mean(np.square(values)))
