"""Training of the flow network that aligns the two cameras."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ... import checkpoints
from ..cameras import SCALE
from ..data.samples import stack
from ..flowfuse import warp


@dataclass(frozen=True)
class CalibratorTraining:
    """Result of `train_calibrator`.

    Attributes
    ----------
    net : FlowNet
        Trained, in evaluation mode.
    history : (n_steps, 2) array
        Loss of the flow in coarse pixels, and mean square error of the fusion, of each step. The
        second is NaN without an evaluator.
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


def train_calibrator(
    net,
    evaluator,
    data,
    *,
    schedule=None,
    weight=10.0,
    gamma=0.8,
    checkpoint=None,
    generator=None,
    progress=False,
    callback=None,
    device=None,
):
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
        File of the run, written every ``schedule.save_every`` steps and at the end; where it
        exists the run goes on from it.
    generator : torch.Generator, optional
        Its seed is that of the run. Default: seed 0.
    progress : bool
        Show a bar.
    callback : callable, optional
        ``callback(step, net)`` after every step, counted from 1. True ends the run.
    device : str or torch.device, optional
        See `helpers.devices.pick_device`.

    Returns
    -------
    CalibratorTraining

    Raises
    ------
    ValueError
        Weights out of their range, or a checkpoint of another run.
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
    from tqdm.auto import tqdm

    from ...devices import pick_device
    from ...training.schedule import Schedule

    schedule = schedule or Schedule(1000, rate=5e-4, warmup=50, clip=1.0)
    if weight < 0 or not 0 < gamma <= 1:
        raise ValueError(f"weight is {weight} and gamma {gamma}: give 0 or more, and up to 1")
    seed = 0 if generator is None else generator.initial_seed()
    device = pick_device(device)
    settings = asdict(schedule) | {"seed": seed, "weight": weight, "gamma": gamma}
    settings["judged"] = evaluator is not None
    net.to(device).train()
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=schedule.rate, betas=schedule.betas, weight_decay=5e-5
    )
    history = _resume(checkpoint, net, optimizer, settings)
    resumed = len(history)
    with _frozen(evaluator, device):
        for step in tqdm(range(resumed, schedule.n_steps), disable=not progress, leave=False):
            rngs = [np.random.default_rng((seed, step, k)) for k in range(schedule.batch)]
            batch = stack([data.draw(rng) for rng in rngs], device)
            flows = net(batch.lr[:, 1], batch.centre)
            losses = (
                flow_loss(flows, batch.flow, batch.valid, gamma),
                _judge(evaluator, batch, flows[-1]),
            )
            total = losses[0] + (0 if evaluator is None else weight * losses[1])
            if not bool(total.isfinite()):
                raise FloatingPointError(
                    f"the loss of step {step} is {total.item()}: lower the learning rate, or look "
                    "for NaN in the data"
                )
            optimizer.param_groups[0]["lr"] = schedule.rate_at(step)
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(net.parameters(), schedule.clip)
            optimizer.step()
            history.append([float(torch.as_tensor(loss).detach()) for loss in losses])
            stop = callback is not None and callback(step + 1, net)
            last = stop or step + 1 == schedule.n_steps
            if checkpoint and (last or (step + 1) % schedule.save_every == 0):
                _save(checkpoint, net, optimizer, settings, history)
            if stop:
                break
    history = np.array(history).reshape(-1, 2)
    return CalibratorTraining(net.eval(), history, len(history), resumed, settings)


def flow_loss(flows, truth, valid, gamma=0.8):
    """Mean absolute error of a sequence of flows on the valid places, the last one weighing most.

    Parameters
    ----------
    flows : list of (B, 2, h, w) tensor
    truth : (B, 2, h, w) tensor
    valid : (B, 1, h, w) tensor
    gamma : float

    Returns
    -------
    tensor
        A scalar, in coarse pixels.

    Examples
    --------
    >>> zero, one = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    >>> float(flow_loss([zero, zero], one, one[:, :1], gamma=0.5))
    1.5
    """
    share = valid / (2 * valid.sum()).clamp_min(1)
    n = len(flows)
    return sum(
        gamma ** (n - 1 - i) * (share * (flow - truth).abs()).sum() for i, flow in enumerate(flows)
    )


@torch.no_grad()
def end_point_error(net, data, n_samples=32, seed=0, device=None):
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
    from ...devices import pick_device

    device = pick_device(device)
    net = net.to(device).eval()
    errors = []
    for k in range(n_samples):
        batch = stack([data.draw(np.random.default_rng((seed, k)))], device)
        away = (net(batch.lr[:, 1], batch.centre)[-1] - batch.flow).norm(dim=1, keepdim=True)
        errors.append(SCALE * float((away * batch.valid).sum() / batch.valid.sum()))
    return np.array(errors)


def _judge(evaluator, batch, flow):
    """Error of the fusion of frames that the flow has aligned."""
    if evaluator is None:
        return float("nan")
    aligned = warp(batch.lr[:, :, 0], flow)[:, :, None]
    return F.mse_loss(evaluator(aligned, batch.hr, batch.tau), batch.centre)


@contextmanager
def _frozen(evaluator, device):
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


def _save(path, net, optimizer, settings, history):
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    state |= {"history": np.array(history), "settings": settings}
    card = {"data": "misaligned movies", "seed": settings["seed"], "steps": len(history)}
    checkpoints.save(path, state, card | {"metric": {"loss": history[-1][0]}})


def _resume(path, net, optimizer, settings):
    """Go on from a file, if it is there; gives the losses so far."""
    if not path or not Path(path).exists():
        return []
    state, _ = checkpoints.load(path, expect={"net": net.state_dict()})
    found = state["settings"]
    wrong = [
        f"{k} {found.get(k)}, not {v}"
        for k, v in settings.items()
        if (list(v) if isinstance(v, tuple) else v)
        != (list(found[k]) if isinstance(found.get(k), tuple) else found.get(k))
    ]
    if wrong:
        raise ValueError(f"{path} is of another run, with {'; '.join(wrong)}: choose another file")
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"].tolist()
