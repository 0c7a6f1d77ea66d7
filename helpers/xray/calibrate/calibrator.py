"""Training of the flow network that aligns the two cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..._arrays import Device, bits_of
from ...devices import pick_device
from ...training.identity import told
from ...training.loop import Run, Step, Training, adapted
from ...training.schedule import Schedule
from ..cameras import SCALE
from ..data.samples import stack
from ..flowfuse import warp
from .misalign import Misalignments


def train_calibrator(
    net: nn.Module,
    evaluator: nn.Module | None,
    data: Misalignments,
    *,
    schedule: Schedule | None = None,
    weight: float = 10.0,
    gamma: float = 0.8,
    checkpoint: str | Path | None = None,
    generator: torch.Generator | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    progress: bool = False,
    callback: Callable[[Step], Any] | None = None,
    device: Device = None,
) -> Training:
    r"""Train a network to find the flow between the cameras.

    Parameters
    ----------
    net : FlowNet
        Trained in place.
    evaluator : torch.nn.Module or None
        A fusion network, called as ``evaluator(lr, hr, tau)``. It judges the aligned frames and is
        not changed: gradients pass through it to `net`. None leaves it out.
    data : Misalignments
        Or anything with ``draw(rng) -> Misaligned``.
    schedule : helpers.xray.train.Schedule, optional
        Its `patch` and `ema` are not used.
    weight : float
        Of the evaluator's error beside that of the flow.
    gamma : float
        Weight of each correction of the flow over that of the next one.
    checkpoint : str or Path, optional
        File of the run, as for `helpers.xray.train.train`.
    generator : torch.Generator, optional
        Its seed is that of the run. Default: seed 0.
    precision : str
        "bfloat16" for a GPU that has it, as for `helpers.xray.train.train`. Fits of the flow, its
        refinement, warps and the loss stay float32.
    progress : bool
        Show a bar.
    callback : callable, optional
        ``callback(step)`` after every step, with a `helpers.training.Step`. True ends the run.
    device : str or torch.device, optional
        See `helpers.devices.pick_device`.

    Returns
    -------
    Training
        Its `history` (n_steps, 2) holds the loss of the flow in coarse pixels, and the mean square
        error of the fusion, NaN without an evaluator.

    Raises
    ------
    ValueError
        Weights out of their range, a precision that is not there, or a checkpoint of another run.
    FloatingPointError
        The loss is no longer finite.

    Notes
    -----
    With the flows :math:`v_1 \dots v_n` of one sample and the true one v on the valid places, the
    coarse frames y, their key frames h, the fusion network E and the sharp frame x,

    .. math:: \sum_i \gamma^{\,n-i}\, \langle | v_i - v | \rangle
        + w\, \bigl\langle \left( E(y(\mathbf r + v_n), h, \tau) - x \right)^2 \bigr\rangle

    is minimised with Adam and decoupled weight decay :cite:p:`loshchilov2019`. Derived in
    :doc:`/book/xray/02_calibrate`.
    """
    schedule = schedule or Schedule(1000, learning_rate=5e-4, warmup=50, clip=1.0)
    callback = adapted(callback, lambda step: (int(step), step.model))
    if weight < 0 or not 0 < gamma <= 1:
        raise ValueError(f"weight is {weight} and gamma {gamma}: give 0 or more, and up to 1")
    seed = 0 if generator is None else generator.initial_seed()
    device = pick_device(device)
    bits = bits_of(precision, device)
    settings = asdict(schedule) | {"seed": seed, "weight": weight, "gamma": gamma}
    settings["precision"] = precision
    settings["judged"] = evaluator is not None
    net.to(device).train()
    run = Run(
        net,
        torch.optim.AdamW(
            net.parameters(), lr=schedule.learning_rate, betas=schedule.betas, weight_decay=5e-5
        ),
        schedule.n_steps,
        schedule.rate_at,
        identity=lambda: {
            **{name: settings[name] for name in ("batch", "clip", "betas", "seed")},
            "weight": weight,
            "gamma": gamma,
            "evaluator": evaluator and told(evaluator),
            "data": told(data),
            "net": told(net, trained=False),
            **({} if precision == "float32" else {"precision": precision}),
        },
        parts={"net": net},
        clip=schedule.clip,
        checkpoint=checkpoint,
        save_every=schedule.save_every,
        card={"data": "misaligned movies", "seed": seed},
    )

    def objective(step: int) -> tuple[torch.Tensor, list[float]]:
        rngs = [np.random.default_rng((seed, step, k)) for k in range(schedule.batch)]
        batch: Any = stack([data.draw(rng) for rng in rngs], device)
        with bits():
            flows = [flow.float() for flow in net(batch.lr[:, 1], batch.centre)]
            fusion = _judge(evaluator, batch, flows[-1])
        flow = flow_loss(flows, batch.flow, batch.valid, gamma)
        total = flow + (0 if evaluator is None else weight * fusion)
        return total, [float(torch.as_tensor(loss).detach()) for loss in (flow, fusion)]

    with _frozen(evaluator, device):
        run(objective, callback=callback, progress=progress)
    return Training(
        net=net.eval(),
        history=np.array(run.history).reshape(-1, 2),
        n_steps=len(run.history),
        resumed=run.resumed,
        interrupted=run.interrupted,
        settings=settings,
    )


def flow_loss(
    flows: Sequence[torch.Tensor], truth: torch.Tensor, valid: torch.Tensor, gamma: float = 0.8
) -> torch.Tensor:
    """Mean absolute error of a sequence of flows on the valid places, the last one weighing most.

    Examples
    --------
    >>> zero, one = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    >>> float(flow_loss([zero, zero], one, one[:, :1], gamma=0.5))
    1.5
    """
    share = valid / (2 * valid.sum()).clamp_min(1)
    total = torch.zeros_like(share.sum())
    for i, flow in enumerate(flows, 1):
        total = total + gamma ** (len(flows) - i) * (share * (flow - truth).abs()).sum()
    return total


@torch.no_grad()
def end_point_error(
    net: nn.Module, data: Misalignments, n_samples: int = 32, seed: int = 0, device: Device = None
) -> np.ndarray:
    """Distance between flow and truth, over the valid places of random samples.

    Parameters
    ----------
    net : FlowNet
    data : Misalignments
        Of movies that it was not trained on.
    n_samples : int
    seed : int
    device : str or torch.device, optional

    Returns
    -------
    (n_samples,) array
        Mean of each sample, in sharp pixels.
    """
    device = pick_device(device)
    net = net.to(device).eval()
    errors = []
    for k in range(n_samples):
        batch = stack([data.draw(np.random.default_rng((seed, k)))], device)
        away = (net(batch.lr[:, 1], batch.centre)[-1] - batch.flow).norm(dim=1, keepdim=True)
        errors.append(SCALE * float((away * batch.valid).sum() / batch.valid.sum()))
    return np.array(errors)


def _judge(evaluator: nn.Module | None, batch: Any, flow: torch.Tensor) -> torch.Tensor | float:
    """Error of the fusion of frames that the flow has aligned."""
    if evaluator is None:
        return float("nan")
    aligned = warp(batch.lr[:, :, 0], flow)[:, :, None]
    return F.mse_loss(evaluator(aligned, batch.hr, batch.tau).to(batch.centre), batch.centre)


@contextmanager
def _frozen(evaluator: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Keep a network as it is: no gradient of its own, no training mode."""
    if evaluator is None:
        yield
        return
    asked = [(p, p.requires_grad) for p in evaluator.parameters()]
    training = evaluator.training
    evaluator.to(device).eval().requires_grad_(False)
    try:
        yield
    finally:
        evaluator.train(training)
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
