r"""Train a flow network to align the cameras, with a frozen fusion network as one of the judges."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .. import checkpoints
from .beamline import count
from .calibrate import fit_transform
from .cameras import Transform, coarsen
from .flowfuse import warp
from .pairs import MoviePairs, stack

SCALE = 4


class Misaligned(NamedTuple):
    """A moment seen by cameras that are out of line; batches have one more axis.

    Attributes
    ----------
    lr : (3, 1, h, w) array
        Coarse frames before, at and after it, on the coarse camera's own grid.
    hr : (2, 1, 4h, 4w) array
        Key frames before and after it.
    centre : (1, 4h, 4w) array
        A sharp frame of the moment itself.
    tau : float
    flow : (2, h, w) array
        Where the coarse frame shows each place of the sharp grid: steps (x, y) in coarse pixels.
    valid : (1, h, w) array
        1 where that lies in the coarse frame, 0 elsewhere.
    """

    lr: np.ndarray
    hr: np.ndarray
    centre: np.ndarray
    tau: np.ndarray
    flow: np.ndarray
    valid: np.ndarray


class Misalignments:
    r"""Movies whose coarse camera is turned, stretched and shifted anew in every sample.

    Parameters
    ----------
    movies : sequence of TwoCameraMovie
        With their truth, both cameras on one grid.
    turn : float
        Largest rotation, in radians.
    stretch : float
        Largest change of the pixel size along x and along y, as a share of it.
    shift : float
        Largest shift of the middle of the field along x and along y, in sharp pixels.

    Notes
    -----
    The coarse frames are made from the noise-free sharp ones: blurred, looked up at 4 x 4 points in
    each coarse pixel where the transform puts it, averaged, and counted as photons. The transform
    is uniform in its four ranges.

    Examples
    --------
    >>> from helpers.xray.simulate import Experiment, simulate
    >>> movie = simulate(Experiment(shape=(32, 32), n_frames=11), seed=1007)
    >>> data = Misalignments([movie])
    >>> sample = data.draw(np.random.default_rng(0))
    >>> sample.lr.shape, sample.flow.shape
    ((3, 1, 8, 8), (2, 8, 8))
    """

    def __init__(self, movies, *, turn=0.05, stretch=0.02, shift=8.0):
        self.pairs = MoviePairs(movies)
        self.turn, self.stretch, self.shift = turn, stretch, shift

    def __len__(self):
        return len(self.pairs)

    def draw(self, rng):
        """Give a random moment with a random transform, as `Misaligned`."""
        index = int(rng.integers(len(self.pairs)))
        return self.make(index, self.transform(rng), rng)

    def transform(self, rng):
        """Draw a transform."""
        height, width = self.pairs.movies[0].lr.shape[-2:]
        theta, *stretch = rng.uniform(-1, 1, 3) * [self.turn, self.stretch, self.stretch]
        sx, sy = (SCALE * (1 + s) for s in stretch)
        turned = Transform(float(theta), float(sx), float(sy), 0.0, 0.0)
        middle = np.array([width - 1, height - 1]) / 2
        shift = rng.uniform(-self.shift, self.shift, 2)
        tx, ty = SCALE * middle + (SCALE - 1) / 2 + shift - turned(middle)
        return Transform(float(theta), float(sx), float(sy), float(tx), float(ty))

    def make(self, index, transform, rng):
        """Give the moment of a sample as cameras with this transform record it."""
        number, t, _ = self.pairs.places[index]
        movie, sample = self.pairs.movies[number], self.pairs[index]
        photons = movie.experiment
        lr = count(misalign(movie.truth[t - 1 : t + 2], transform), photons.lr_photons, rng)
        centre = count(movie.truth[t], photons.hr_photons, rng)
        flow, valid = transform_to_flow(transform, lr.shape[-2:])
        return Misaligned(
            lr[:, None], sample.hr, centre[None], sample.tau, flow, valid[None].astype(np.float32)
        )


@dataclass(frozen=True)
class CalibratorTraining:
    """What `train_calibrator` returns.

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

    from ..devices import pick_device
    from .train import Schedule

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
    from ..devices import pick_device

    device = pick_device(device)
    net = net.to(device).eval()
    errors = []
    for k in range(n_samples):
        batch = stack([data.draw(np.random.default_rng((seed, k)))], device)
        away = (net(batch.lr[:, 1], batch.centre)[-1] - batch.flow).norm(dim=1, keepdim=True)
        errors.append(SCALE * float((away * batch.valid).sum() / batch.valid.sum()))
    return np.array(errors)


def transform_to_flow(transform, shape):
    """Flow of a transform on the aligned coarse grid.

    Parameters
    ----------
    transform : Transform
    shape : (int, int)
        Coarse pixels (h, w).

    Returns
    -------
    flow : (2, h, w) float32 array
        Steps (x, y) in coarse pixels.
    valid : (h, w) bool array
        Where it leads into the coarse frame.

    Examples
    --------
    >>> flow, valid = transform_to_flow(Transform(tx=5.5), (2, 3))
    >>> flow[:, 0].tolist(), valid[0].tolist()
    ([[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]], [False, True, True])
    """
    places, sharp = _grids(shape)
    found = transform.inverse(sharp)
    valid = ((found >= -0.5) & (found <= np.array(shape[::-1]) - 0.5)).all(-1)
    return np.moveaxis(found - places, -1, 0).astype(np.float32), valid


def flow_to_transform(flow):
    r"""Fit the five numbers of a transform to a flow, robustly.

    Parameters
    ----------
    flow : (2, h, w) array or tensor
        Steps (x, y) in coarse pixels.

    Returns
    -------
    Transform

    Raises
    ------
    ValueError
        A flow that leads out of the coarse frame nearly everywhere.

    Notes
    -----
    A closed formula exists: slopes of x on x and of y on y, then a rotation. It holds only where
    x and y of the places are not correlated, on a whole rectangle, and one gross error spoils it.
    So the places that lead into the coarse frame go as pairs into
    `helpers.xray.calibrate.fit_transform`. See :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> turned = Transform(0.03, 4.05, 3.98, -4.0, 6.0)
    >>> found = flow_to_transform(transform_to_flow(turned, (24, 24))[0])
    >>> round(found.theta, 4), round(found.sx, 3), round(found.tx, 2)
    (0.03, 4.05, -4.0)
    """
    flow = np.asarray(flow.detach().cpu() if isinstance(flow, torch.Tensor) else flow, float)
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flow has shape {flow.shape}: give (2, h, w)")
    places, sharp = _grids(flow.shape[1:])
    found = places + np.moveaxis(flow, 0, -1)
    limits = np.array(flow.shape[:0:-1]) - 0.5
    inside = ((found >= -0.5) & (found <= limits)).all(-1)
    if inside.sum() < 12:
        raise ValueError("the flow leads out of the coarse frame: the cameras share no field")
    return fit_transform(found[inside], sharp[inside])[0]


def misalign(frames, transform, sigma=2.2):
    """What a coarse camera with some transform sees of sharp frames, without noise.

    Parameters
    ----------
    frames : (N, Y, X) array
    transform : Transform
    sigma : float
        Blur of the coarse camera in sharp pixels.

    Returns
    -------
    (N, Y / 4, X / 4) float32 array
        Beyond the border the frames go on as their last row.
    """
    blurred = torch.from_numpy(coarsen(np.asarray(frames, np.float32), sigma, scale=1))
    height, width = blurred.shape[-2:]
    y, x = ((np.arange(n) + 0.5) / SCALE - 0.5 for n in (height, width))
    points = transform(np.stack(np.meshgrid(x, y), axis=-1))
    grid = torch.from_numpy((2 * points + 1) / [width, height] - 1).float()
    seen = F.grid_sample(
        blurred[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return F.avg_pool2d(seen[0], SCALE).numpy()


def _grids(shape):
    """Coarse pixels (h, w, 2), x before y, and the centres of their places on the sharp grid."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    places = np.stack([x, y], axis=-1).astype(float)
    return places, SCALE * places + (SCALE - 1) / 2


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
