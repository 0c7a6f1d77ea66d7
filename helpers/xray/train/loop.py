r"""Train a fusion network: on one process or several, and on again after a kill.

What a step sees is drawn from the seed and the number of the step alone. A run that was cut off
therefore goes on as if nothing had happened, and several processes share one batch without a word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..._arrays import Device, bits_of
from ...training.identity import told
from ...training.loop import Run, Step, Training, adapted
from ...training.schedule import Schedule
from ..cameras import CoarseCamera
from ..data.samples import Sample, augment, stack
from .distributed import Processes
from .losses import charbonnier


def train(
    net: nn.Module,
    data: Sequence[Sample],
    *,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = charbonnier,
    schedule: Schedule | None = None,
    noise: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    record: Callable[[Any, np.random.Generator], Any] | None = None,
    checkpoint: str | Path | None = None,
    generator: torch.Generator | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    progress: bool = False,
    callback: Callable[[Step], Any] | None = None,
    device: Device = None,
) -> Training:
    r"""Train a fusion network.

    Parameters
    ----------
    net : torch.nn.Module
        Called as ``net(lr, hr, tau)``. Trained in place.
    data : sequence of Sample
        Such as `helpers.xray.data.MoviePairs`.
    loss : callable
        ``loss(estimate, target)``, a mean over the batch.
    schedule : Schedule, optional
    noise : callable, optional
        ``noise(lr, rng)`` on the coarse frames of a sample, such as
        `helpers.xray.train.PoissonLR`.
    record : callable, optional
        ``record(sample, rng)`` on the whole sample before it is cut, such as
        `helpers.xray.train.RandomCamera`. A network whose samples have a camera is called as
        ``net(lr, hr, tau, camera)``.
    checkpoint : str or Path, optional
        File of the run. It is written every ``schedule.save_every`` steps and at the end; where it
        exists the same run goes on from it, also for more steps. Same are data, loss, noise,
        network, seed, precision and schedule.
    generator : torch.Generator, optional
        Its seed is that of the run. Default: seed 0.
    precision : str
        "bfloat16" for large networks on a GPU that has it: convolutions, dense layers and attention
        multiply with 8 bits. Weights, sums over blocks, flows and warps, the camera, the image and
        the loss stay float32.
    progress : bool
        Show a bar.
    callback : callable, optional
        ``callback(step)`` after every step, with a `helpers.training.Step` whose model is the
        network of mean weights. True ends the run.
    device : str or torch.device, optional
        Default: the best one; under torchrun one GPU for each process.

    Returns
    -------
    Training
        Its `net` has the running mean of the weights.

    Raises
    ------
    ValueError
        No data, a batch that the processes cannot share, a precision that is not there, or a
        checkpoint of another run.
    FloatingPointError
        The loss is no longer finite. The last checkpoint is from before.

    Notes
    -----
    Adam :cite:p:`kingma2015` with a clipped gradient. The weights that are kept are a running mean
    :cite:p:`polyak1992`,

    .. math:: \bar\theta \leftarrow \bar\theta + (1 - \beta)(\theta - \bar\theta) ,

    with a shorter memory in the first steps. The batch of step n is drawn from (seed, n), sample k
    of it is cut and made noisy with (seed, n, k). Started by ``torchrun --nproc-per-node=2 run.py``
    each process takes its share of that batch, and gradients are averaged: up to the order of
    sums the result is that of one process. Used in :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> from torch import nn
    >>> from helpers.xray.data.samples import Sample
    >>> class Mix(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.share = nn.Parameter(torch.tensor(0.0))
    ...     def forward(self, lr, hr, tau):
    ...         return hr[:, 0] + self.share * (hr[:, 1] - hr[:, 0])
    >>> before, after = np.zeros((1, 16, 16)), np.ones((1, 16, 16))
    >>> sample = Sample(np.zeros((3, 1, 4, 4)), np.stack([before, after]), 0.5, before + 0.5)
    >>> result = train(Mix(), [sample], schedule=Schedule(200, 0.05, patch=None), device="cpu")
    >>> round(float(result.net.share), 2)
    0.5
    """
    schedule = schedule or Schedule()
    callback = adapted(callback, lambda step: (int(step), step.model))
    seed = 0 if generator is None else generator.initial_seed()
    if len(data) == 0:
        raise ValueError("there are no data: give at least one sample")
    settings = asdict(schedule) | {"seed": seed, "n_samples": len(data), "precision": precision}
    with Processes(device) as processes, torch.random.fork_rng(processes.cuda_devices):
        mine, bits = processes.share(schedule.batch), bits_of(precision, processes.device)
        net.to(processes.device)
        parameters = [p for p in net.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("the network has no parameter to train")
        average = copy.deepcopy(net).eval().requires_grad_(False)
        run = Run(
            average,
            torch.optim.Adam(
                parameters, lr=schedule.learning_rate, betas=schedule.betas, foreach=True
            ),
            schedule.n_steps,
            schedule.rate_at,
            identity=lambda: {
                **{name: settings[name] for name in ("batch", "patch", "clip", "ema", "betas")},
                "seed": seed,
                "n_samples": len(data),
                "data": told(data),
                "noise": noise and told(noise),
                **({} if record is None else {"record": told(record)}),
                **({} if precision == "float32" else {"precision": precision}),
                "loss": told(loss),
                "net": told(net, trained=False),
            },
            parts={"net": net, "average": average},
            clip=schedule.clip,
            checkpoint=checkpoint,
            save_every=schedule.save_every,
            card={"data": f"{len(data)} samples", "seed": seed},
            writes=processes.rank == 0,
        )
        model = processes.wrap(net)
        net.train()

        def objective(step: int) -> tuple[torch.Tensor, float]:
            torch.manual_seed(_number(seed, step, processes.rank))  # of dropout
            batch: Any = draw(data, schedule, seed, step, noise, mine, record)
            batch = type(batch)(
                *(None if part is None else part.to(processes.device) for part in batch)
            )
            with bits():
                estimate = model(*batch[:3], *_cameras(batch))
            value = loss(estimate.to(batch.target.dtype), batch.target)
            return value, processes.mean(value.detach())

        def after(step: int) -> None:
            _towards(average, net, 1 - min(schedule.ema, (1 + step) / (10 + step)))

        run(objective, after=after, callback=callback, progress=progress and processes.rank == 0)
        processes.wait()
    return Training(
        net=average,
        history=np.array(run.history),
        n_steps=len(run.history),
        resumed=run.resumed,
        interrupted=run.interrupted,
        settings=settings,
    )


@torch.no_grad()
def _towards(average: nn.Module, net: nn.Module, share: float) -> None:
    """Move the running mean of the weights towards the weights, by a share of the way."""
    pairs = zip(average.state_dict().values(), net.state_dict().values(), strict=True)
    for mean, weight in pairs:
        if mean.is_floating_point():
            mean.lerp_(weight, share)
        else:
            mean.copy_(weight)


def draw(
    data: Sequence[Sample],
    schedule: Schedule,
    seed: int,
    step: int,
    noise: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    mine: slice = slice(None),
    record: Callable[[Any, np.random.Generator], Any] | None = None,
) -> Sample:
    """Draw the batch of a step, or the samples `mine` of it, as tensors (n, ...)."""
    indices = np.random.default_rng((seed, step)).integers(len(data), size=schedule.batch)
    samples = []
    for k, index in list(enumerate(indices))[mine]:
        rng = np.random.default_rng((seed, step, k))
        whole = data[int(index)]
        sample = augment(record(whole, rng) if record else whole, schedule.patch, rng)
        samples.append(sample if noise is None else sample._replace(lr=noise(sample.lr, rng)))
    return stack(samples)


def _cameras(batch: Any) -> list[CoarseCamera]:
    """The camera of a batch, where its samples have one, as an argument."""
    if not hasattr(batch, "camera"):
        return []
    sigma, gain, offset, photons = batch.camera.T
    return [CoarseCamera(sigma, gain=gain, offset=offset, photons=photons)]


def _number(*key: int) -> int:
    """One seed for several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
