r"""Train a fusion network: on one process or several, and on again after a kill.

What a step sees is drawn from the seed and the number of the step alone. A run that was cut off
therefore goes on as if nothing had happened, and several processes share one batch without a word.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ... import checkpoints
from ...training.schedule import Schedule
from ..data.samples import augment, stack
from .distributed import Processes
from .losses import charbonnier

SAME = ("batch", "patch", "clip", "ema", "betas", "seed", "n_samples")  # in one and the same run


@dataclass(frozen=True)
class Training:
    """Result of `train`.

    Attributes
    ----------
    net : torch.nn.Module
        The network with the running mean of the weights, ready to be called.
    history : (n_steps,) array
        Loss of each step, over all processes.
    n_steps : int
    resumed : int
        The step at which this call took over, 0 for a fresh run.
    settings : dict
    """

    net: nn.Module = field(repr=False)
    history: np.ndarray = field(repr=False)
    n_steps: int
    resumed: int
    settings: dict


def train(
    net,
    data,
    *,
    loss=charbonnier,
    schedule=None,
    noise=None,
    checkpoint=None,
    generator=None,
    progress=False,
    callback=None,
    device=None,
):
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
    checkpoint : str or Path, optional
        File of the run. It is written every ``schedule.save_every`` steps and at the end; where it
        exists the run goes on from it.
    generator : torch.Generator, optional
        Its seed is that of the run. Default: seed 0.
    progress : bool
        Show a bar.
    callback : callable, optional
        ``callback(step, average)`` after every step, counted from 1, with the network of mean
        weights. True ends the run.
    device : str or torch.device, optional
        Default: the best one; under torchrun one GPU for each process.

    Returns
    -------
    Training

    Raises
    ------
    ValueError
        No data, a batch that the processes cannot share, or a checkpoint of another run.
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
    from tqdm.auto import tqdm

    schedule = schedule or Schedule()
    seed = 0 if generator is None else generator.initial_seed()
    if len(data) == 0:
        raise ValueError("there are no data: give at least one sample")
    with Processes(device) as processes, torch.random.fork_rng(processes.cuda_devices):
        mine = processes.share(schedule.batch)
        run = _Run(net.to(processes.device), schedule, seed, len(data))
        resumed = run.resume(checkpoint) if checkpoint and Path(checkpoint).exists() else 0
        model = processes.wrap(net)
        net.train()
        steps = range(resumed, schedule.n_steps)
        for step in tqdm(steps, disable=not progress or processes.rank > 0, leave=False):
            torch.manual_seed(_number(seed, step, processes.rank))  # of dropout
            batch = draw(data, schedule, seed, step, noise, mine)
            batch = type(batch)(*(part.to(processes.device) for part in batch))
            value = loss(model(batch.lr, batch.hr, batch.tau), batch.target)
            run.update(value, processes.mean(value.detach()))
            stop = callback is not None and callback(step + 1, run.average)
            last = stop or step + 1 == schedule.n_steps
            if (
                checkpoint
                and processes.rank == 0
                and (last or (step + 1) % schedule.save_every == 0)
            ):
                run.save(checkpoint)
            if stop:
                break
        processes.wait()
    return Training(run.average, np.array(run.history), len(run.history), resumed, run.settings)


def draw(data, schedule, seed, step, noise=None, mine=slice(None)):
    """Draw the batch of a step, or a part of it.

    Parameters
    ----------
    data : sequence of Sample
    schedule : Schedule
    seed, step : int
    noise : callable, optional
        See `train`.
    mine : slice
        Which samples of the batch.

    Returns
    -------
    Sample
        Of tensors (n, ...).
    """
    indices = np.random.default_rng((seed, step)).integers(len(data), size=schedule.batch)
    samples = []
    for k, index in list(enumerate(indices))[mine]:
        rng = np.random.default_rng((seed, step, k))
        sample = augment(data[int(index)], schedule.patch, rng)
        samples.append(sample if noise is None else sample._replace(lr=noise(sample.lr, rng)))
    return stack(samples)


class _Run:
    """The state of a run: weights, their running mean, the optimizer, the losses."""

    def __init__(self, net, schedule, seed, n_samples):
        self.net, self.schedule = net, schedule
        self.average = copy.deepcopy(net).eval().requires_grad_(False)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the network has no parameter to train")
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=schedule.rate, betas=schedule.betas, foreach=True
        )
        self.history = []
        self.settings = asdict(schedule) | {"seed": seed, "n_samples": n_samples}

    def update(self, value, shared):
        """One step down the gradient of `value`; `shared` is its mean over the processes."""
        step = len(self.history)
        if not math.isfinite(shared):
            raise FloatingPointError(
                f"the loss of step {step} is {shared}: lower the learning rate, or look for NaN in "
                "the data"
            )
        self.optimizer.param_groups[0]["lr"] = self.schedule.rate_at(step)
        self.optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        self.optimizer.step()
        memory = min(self.schedule.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            new, old = self.net.state_dict().values(), self.average.state_dict().values()
            for mean, weight in zip(old, new, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(weight, 1 - memory)
                else:
                    mean.copy_(weight)
        self.history.append(shared)

    def save(self, path):
        """Write everything that the rest of the run depends on."""
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": np.array(self.history),
            "settings": self.settings,
        }
        card = {
            "data": f"{self.settings['n_samples']} samples",
            "seed": self.settings["seed"],
            "steps": len(self.history),
            "metric": {"loss": self.history[-1]},
        }
        checkpoints.save(path, state, card)

    def resume(self, path):
        """Go on from a file; gives the number of steps that were made."""
        expected = {"net": self.net.state_dict(), "average": self.average.state_dict()}
        state, _ = checkpoints.load(path, expect=expected)
        then, done = state["settings"], len(state["history"])
        wrong = [k for k in SAME if then.get(k) != self.settings[k]]
        if wrong:
            told = ", ".join(f"{k} {then.get(k)}, not {self.settings[k]}" for k in wrong)
            raise ValueError(f"{path} is of another run, with {told}: choose another file")
        before = Schedule(**{k: then[k] for k in asdict(self.schedule)})
        steps = range(min(done, self.schedule.n_steps))
        if done > self.schedule.n_steps or any(
            before.rate_at(n) != self.schedule.rate_at(n) for n in steps
        ):
            raise ValueError(
                f"{path} holds {done} steps of another schedule, {before}: choose another file"
            )
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"].tolist()
        return len(self.history)


def _number(*key):
    """One seed for several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
