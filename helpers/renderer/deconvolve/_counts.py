"""Input checks and the result of every deconvolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..._arrays import to_tensor
from ...devices import pick_device


@dataclass(frozen=True)
class Deconvolution:
    """Result of a deconvolution: volume, history and what was left out.

    Attributes
    ----------
    volume : array or tensor, ``op.out_shape``
        Photo-electrons that each voxel sends into the stack, of the kind of the counts.
    with_margin : array or tensor, ``op.in_shape``
        The same with what was estimated outside the field; a start for another run.
    history : array
        Richardson-Lucy: mean Poisson deviance of the counts before each iteration and after the
        last. MAP: objective of the best volume so far, at the start and at every look, above that
        of a model that meets every count. It never rises, unless Richardson-Lucy is accelerated.
    gap : float
        A bound on how far the objective is above its minimum; NaN where there is none.
    n_iter : int
        Iterations done.
    converged : bool
        MAP: the gap is at most the share `tol` of the objective. Richardson-Lucy: the last
        iteration changed the deviance by less than one part in 10,000, which says nothing about
        the volume; that may have become worse long before.
    n_masked : int
        Pixels that were not used: saturated ones, and those that `valid` excludes.
    snapshots : dict of int -> array or tensor
        The volume after the iterations that were asked for.
    settings : dict
        What the run was given.
    """

    volume: Any
    with_margin: Any
    history: np.ndarray
    gap: float
    n_iter: int
    converged: bool
    n_masked: int
    snapshots: dict
    settings: dict


class Counts:
    """Checked counts on a device, with the pixels that are used and their background."""

    def __init__(self, op, counts, background, valid, saturation, device):
        data = to_tensor(counts)
        if tuple(data.shape) != tuple(op.out_shape):
            raise ValueError(
                f"the counts have shape {tuple(data.shape)}, but the operator makes "
                f"{tuple(op.out_shape)}: build it for the shape of the counts"
            )
        if valid is None:
            used = torch.ones_like(data, dtype=torch.bool)
        else:
            used = to_tensor(np.asarray(valid) if not torch.is_tensor(valid) else valid) > 0
            used = used.to(data.device)
            if used.shape != data.shape:
                raise ValueError(
                    f"valid has shape {tuple(used.shape)} and the counts {tuple(data.shape)}"
                )
        if saturation is not None:
            used = used & ~(data >= saturation)
        if not bool(used.any()):
            raise ValueError("no pixel is left: all are saturated or excluded by `valid`")
        kept = data[used]
        if not bool(kept.isfinite().all()):
            raise ValueError(
                "the counts hold NaN or infinity: exclude them, valid=np.isfinite(counts)"
            )
        # what a Fourier transform leaves of zero is not a negative count
        if bool((kept < -1e-6 * kept.abs().max()).any()):
            raise ValueError(
                f"the counts hold negative values, down to {float(kept.min()):.3g}: give "
                "photo-electrons with the background in them, and the background apart"
            )
        level = to_tensor(background, dtype=data.dtype)
        if not bool((level >= 0).all()) or not bool(level.isfinite().all()):
            raise ValueError(
                f"the background is {background}: give photo-electrons per pixel, zero or more"
            )
        if level.ndim and tuple(level.shape) != tuple(data.shape):
            raise ValueError(f"the background is {tuple(level.shape)}: give a number or an image")
        self.device = pick_device(device)
        self.example = counts
        self.n_masked = int((~used).sum())
        self.used = used.to(self.device, data.dtype)
        self.y = torch.where(used, data, data.new_zeros(())).clamp(min=0).to(self.device)
        self.background = level.to(self.device)
        self.total = float(self.used.sum())
        # no count can be explained by no light at all
        self.floor = 1e-6 * float(self.y.mean()) + 1e-30

    def mean(self, op, x):
        """Expected counts of the object `x`."""
        return (op(x) + self.background).clamp(min=self.floor)

    def half_deviance(self, mean):
        """Negative log-likelihood above its least value, a float."""
        y, m = self.y.double(), mean.double()
        each = torch.xlogy(y, y / m) - y + m
        value = float((each * self.used).sum())
        if not np.isfinite(value):
            raise FloatingPointError("the operator gave NaN or infinity: check its kernel")
        return value

    def start(self, op, sensitivity, start):
        """First volume: `start` with its margin, or a constant with the light of the counts."""
        if start is None:
            light = float(((self.y - self.background) * self.used).sum())
            light = max(light, 1e-3 * float(self.y.sum()), 1e-6)
            level = light / float(sensitivity.sum())
            return torch.full(op.in_shape, level, dtype=self.y.dtype, device=self.device)
        x = to_tensor(start, self.device, self.y.dtype)
        if tuple(x.shape) != tuple(op.in_shape):
            raise ValueError(
                f"start has shape {tuple(x.shape)}, but with its margin the object is {op.in_shape}"
            )
        if not bool((x >= 0).all()) or not bool((x > 0).any()):
            raise ValueError("start has negative values, NaN, or nothing else than zeros")
        return x.clone()
