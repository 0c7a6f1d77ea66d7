"""Scores of a fusion: frame by frame, by the time between key frames, and where things moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import metrics
from .cameras import CoarseCamera
from .data.samples import Samples, stack

__all__ = ["Score", "evaluate", "motion_mask"]


@dataclass(frozen=True)
class Score:
    """Result of `evaluate`: one number for each sample, in the order of the data.

    Attributes
    ----------
    psnr : (n,) array
        In dB, for a peak of 1, the open beam.
    ssim : (n,) array
    aad : (n,) array
        Mean absolute difference, in transmission.
    moving : (n,) array
        PSNR of the pixels of `motion_mask` alone; NaN where there are none.
    moving_share : (n,) array
        How much of the field they are.
    tau : (n,) array
        Place between the key frames.
    clip : (n,) array of int
        Which movie.

    Examples
    --------
    >>> ones = np.ones(2)
    >>> score = Score(20 * ones, ones, ones, ones, ones, np.array([0.1, 0.9]), np.array([0, 1]))
    >>> score.mean("psnr"), score.by_clip("psnr").tolist(), score.by_tau("psnr")[1].tolist()
    (20.0, [20.0, 20.0], [20.0, 20.0])
    """

    psnr: np.ndarray
    ssim: np.ndarray
    aad: np.ndarray
    moving: np.ndarray
    moving_share: np.ndarray
    tau: np.ndarray
    clip: np.ndarray

    def mean(self, name: str) -> float:
        """Mean of one of the numbers over all samples that have it."""
        return float(np.nanmean(getattr(self, name)))

    def by_clip(self, name: str) -> np.ndarray:
        """Its mean in each movie."""
        return self._by(np.unique(self.clip, return_inverse=True), name)[1]

    def by_tau(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of tau, to two digits, and its mean at each."""
        return self._by(np.unique(self.tau.round(2), return_inverse=True), name)

    def _by(self, groups: Any, name: str) -> Any:
        values, group = groups
        number = getattr(self, name)
        return values, np.array([np.nanmean(number[group == k]) for k in range(len(values))])


def evaluate(
    net: Callable[..., torch.Tensor],
    data: Samples,
    *,
    change: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] | None = None,
    camera: CoarseCamera | None = None,
    batch: int = 8,
    threshold: float = 0.03,
    valid: np.ndarray | None = None,
) -> Score:
    r"""Judge a network, or a baseline, by samples whose target is known.

    Parameters
    ----------
    net : callable
        ``net(lr, hr, tau)``. A module is called in evaluation mode, on the device of its weights.
    data : sequence of Sample
        All of one shape. Movies are told apart by ``data.clips`` where it has them.
    change : callable, optional
        ``change(lr, hr, tau)`` gives other inputs: what if a camera were missing?
    camera : CoarseCamera, optional
        What the network is told, as a fourth argument.
    batch : int
        Samples at a time.
    threshold : float
        See `motion_mask`.
    valid : (Y, X) bool array, optional
        The pixels that count; all of them if left out.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        No samples, or an estimate of another shape than its target, or one that is not finite.

    Notes
    -----
    :math:`\mathrm{PSNR} = -10 \log_{10} \langle (\hat x - x)^2 \rangle`: transmission has the peak
    1. Nothing is clipped or quantised. Used in :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> from helpers.xray.data.samples import Sample
    >>> target = np.random.default_rng(0).random((1, 16, 16))
    >>> hr = np.stack([target + 0.1, target + 0.1])
    >>> sample = Sample(np.ones((3, 1, 4, 4)), hr, 0.5, target)
    >>> score = evaluate(lambda lr, hr, tau: hr[:, 0], [sample])
    >>> round(score.mean("psnr"), 3), round(score.mean("aad"), 3), score.mean("moving_share")
    (20.0, 0.1, 1.0)
    """
    if len(data) == 0:
        raise ValueError("there are no samples: give at least one")
    module = net if isinstance(net, torch.nn.Module) else torch.nn.Module()
    device = next((p.device for p in module.parameters()), None)
    training = module.training
    rows = []
    try:
        module.eval()
        for start in range(0, len(data), batch):
            sample: Any = stack([data[k] for k in range(start, min(start + batch, len(data)))])
            inputs = [part.to(device) for part in sample[:3]]
            with torch.no_grad():
                given = change(*inputs) if change else inputs
                estimate = net(*given, *([] if camera is None else [camera])).cpu()
            _check(estimate, sample.target)
            mask = motion_mask(sample.hr, sample.target, threshold)
            parts = zip(estimate, sample.target, mask, sample.tau, strict=True)
            rows += [_row(*part, valid) for part in parts]
    finally:
        module.train(training)
    clips = np.asarray(getattr(data, "clips", np.zeros(len(data), int)))
    columns = np.array(rows).T
    psnr, ssim, aad, moving, share, tau = columns
    return Score(psnr, ssim, aad, moving, share, tau, clips)


def joined(scores: Sequence[Score]) -> Score:
    """The scores of several calls as one."""
    return Score(*(np.concatenate([getattr(s, f.name) for s in scores]) for f in fields(Score)))


def motion_mask(hr: torch.Tensor, target: torch.Tensor, threshold: float = 0.03) -> torch.Tensor:
    """Mask of the pixels in which a key frame differs from the target.

    Parameters
    ----------
    hr : (B, 2, 1, Y, X) tensor
    target : (B, 1, Y, X) tensor
    threshold : float
        In transmission. The difference is first averaged over 3 x 3 pixels, so that photon noise
        is not taken for motion.

    Returns
    -------
    (B, 1, Y, X) bool tensor

    Examples
    --------
    >>> hr = torch.zeros(1, 2, 1, 8, 8)
    >>> hr[0, 1, 0, 4, 4] = 0.3
    >>> int(motion_mask(hr, torch.zeros(1, 1, 8, 8)).sum())
    9
    """
    difference = F.avg_pool2d((hr - target[:, None])[:, :, 0], 3, stride=1, padding=1)
    return (difference.abs() > threshold).any(dim=1, keepdim=True)


def _row(
    estimate: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    tau: torch.Tensor,
    valid: np.ndarray | None,
) -> Any:
    counts = torch.ones_like(mask) if valid is None else torch.from_numpy(valid)[None]
    error, moving = (estimate - target).double(), mask & counts
    where = error[moving]
    return (
        _decibel(error[counts]),
        metrics.ssim(estimate[0], target[0], data_range=1.0, where=valid),
        float(error[counts].abs().mean()),
        _decibel(where) if len(where) else np.nan,
        float(moving.double().sum() / counts.sum()),
        float(tau),
    )


def _decibel(error: torch.Tensor) -> float:
    return float(-10 * torch.log10((error**2).mean()))


def _check(estimate: torch.Tensor, target: torch.Tensor) -> None:
    if estimate.shape != target.shape:
        raise ValueError(
            f"the estimate is {tuple(estimate.shape)} but the target {tuple(target.shape)}"
        )
    if not bool(estimate.isfinite().all()):
        raise ValueError("the estimate holds NaN or infinity: was the network trained?")
