r"""Some frames at once: a field of space and time, and a prior that knows how things move.

.. math:: f(\mathbf r, t) = \mathrm{head}\Bigl(\sum_{r=1}^{R} a_r(t)\, g_r(\mathbf r)\Bigr)

Used in :doc:`/book/inr/04_meta_learning`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from ..._arrays import Device
from .losses import hessian_energy

PACE = 0.5  # at which the weights in time are learned, against the parts in space


class LowRank(nn.Module):
    r"""A few fields of space, mixed differently at every time, behind one head.

    Parameters
    ----------
    field : torch.nn.Module
        A field of one frame with a `head`, such as `helpers.inr.fields.Voxels` or `Field`. Each
        of the `rank` parts starts as a copy of it without its head.
    n_frames : int
        T.
    rank : int, optional
        R. Default: T, which holds any T frames.

    Notes
    -----
    The weights :math:`a_r(t)` start as cosines of rising frequency and are learned too. What
    changes slowly is shared by all frames from the first step on, so even with R = T the fit comes
    out better than that of T separate fields. Fewer parts than frames hold less motion: with
    R = T / 2 what moves by its own width between two frames is smeared.

    Examples
    --------
    >>> from helpers.inr.fields import Softplus, Voxels
    >>> field = LowRank(Voxels((4, 6, 6), Softplus(mean=2)), n_frames=5, rank=3)
    >>> field.volume((4, 6, 6)).shape, round(field.frame(4).volume((4, 6, 6)).mean().item(), 5)
    (torch.Size([5, 4, 6, 6]), 2.0)
    """

    waves: torch.Tensor
    head: nn.Module

    def __init__(self, field: nn.Module, n_frames: int, rank: int | None = None) -> None:
        super().__init__()
        rank = n_frames if rank is None else rank
        if not 1 <= rank <= n_frames:
            raise ValueError(f"rank is {rank} for {n_frames} frames: give 1 to {n_frames}")
        if getattr(field, "channels", 1) > 1:
            raise ValueError(
                "a film has one number in each voxel: fit a complex contrast by frames"
            )
        part: Any = copy.deepcopy(field)
        self.head, part.head = part.head, nn.Identity()
        self.parts = nn.ModuleList(copy.deepcopy(part) for _ in range(rank))
        time = (torch.arange(n_frames) + 0.5) / n_frames
        waves = torch.cos(torch.pi * time[:, None] * torch.arange(rank))
        # With this scale all parts together step about as far as one field would.
        self.scale = min(1.0, math.sqrt(2 / rank))
        self.register_buffer("waves", waves)
        self.changes = nn.Parameter(torch.zeros_like(waves))

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.waves.device

    @property
    def weights(self) -> torch.Tensor:
        """Weights a_r(t) of the parts, (T, R)."""
        return self.scale * (self.waves + PACE * self.changes)

    def volume(self, shape: Sequence[int], roi: Sequence[int] | None = None) -> torch.Tensor:
        """Frames (T, Z, Y, X) at the voxel centres, see `helpers.inr.fields.Field.volume`."""
        return self.mixed(self.weights, shape, roi)

    def mixed(
        self, weights: torch.Tensor, shape: Sequence[int], roi: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Frames for `weights` of shape (..., R)."""
        parts = torch.stack([cast(Any, part).volume(shape, roi) for part in self.parts], dim=-1)
        return self.head(torch.movedim(parts @ weights.movedim(-1, 0), (0, 1, 2), (-3, -2, -1)))

    def frame(self, number: int) -> Frame:
        """The field of one frame, with the methods of a field; it shares all weights."""
        return Frame(self, number)


class Frame(nn.Module):
    """One frame of a `LowRank`, which it shares its weights with."""

    def __init__(self, sequence: LowRank, number: int) -> None:
        super().__init__()
        self.sequence, self.number = sequence, number

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.sequence.device

    @property
    def extent(self) -> Any:
        """As of the parts."""
        return cast(Any, self.sequence.parts[0]).extent

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Values (...) at points (..., 3), where the parts are fields."""
        weights = self.sequence.weights[self.number]
        parts = zip(weights, self.sequence.parts, strict=True)
        return self.sequence.head(sum(weight * part(points) for weight, part in parts))

    def volume(self, shape: Sequence[int], roi: Sequence[int] | None = None) -> torch.Tensor:
        """Values (Z, Y, X) at the voxel centres, or in a box of them."""
        return self.sequence.mixed(self.sequence.weights[self.number], shape, roi)


class Frames:
    """The operator of T frames: volumes (T, Z, Y, X) to data (T, ...); it takes a leading axis."""

    def __init__(self, operator: Any, n_frames: int) -> None:
        self.operator, self.n_frames = operator, n_frames
        self.in_shape = tuple(operator.in_shape)
        self.out_shape = (n_frames, *operator.out_shape)

    def __call__(self, volumes: torch.Tensor) -> torch.Tensor:
        """Data (T, ...) of volumes (T, Z, Y, X)."""
        return self.operator(volumes)

    def to(self, device: Device) -> Frames:
        """The same on another device."""
        return Frames(self.operator.to(device), self.n_frames)


def space_time_hessian(
    volumes: torch.Tensor, *, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), smooth: float = 1e-3
) -> torch.Tensor:
    r"""Sum of the Frobenius norm of the matrix of second differences in time and space.

    Parameters
    ----------
    volumes : tensor (T, Z, Y, X)
    weights : 4 floats
        For a step along (t, z, y, x). The last three as in `helpers.inr.fit.losses.hessian`; the
        first is the length, in the same unit, that a frame is worth.
    smooth : float
        Values of this size and smaller are rounded off.

    Notes
    -----
    Time is a fourth axis. What moves with velocity v is constant along (1, v), so its matrix has
    no other entries than what the object itself brings: motion costs a factor
    :math:`1 + (w_t v)^2`, however it is directed, while noise that is new in every frame costs as
    much as an object that appears and is gone. A prior of second differences in time alone would
    charge for every motion that is not a fading.

    Examples
    --------
    >>> import torch
    >>> edge = torch.arange(12.0) - 2 * torch.arange(6.0)[:, None]
    >>> moving = torch.sigmoid(edge)[:, None, None].expand(6, 4, 12, 12)
    >>> shuffled = moving[[3, 0, 4, 1, 5, 2]]
    >>> bool(space_time_hessian(shuffled) > 1.3 * space_time_hessian(moving))
    True
    """
    time, space = weights[0], weights[1:]
    energy = hessian_energy(volumes, space)
    if len(volumes) > 1:
        before = torch.cat([volumes[:1], volumes[:-1]])
        after = torch.cat([volumes[1:], volumes[-1:]])
        energy = energy + ((after - 2 * volumes + before) * time**2) ** 2
        for slope, weight in zip(_slopes((after - before) / 2), space, strict=True):
            energy = energy + 2 * (time * weight * slope) ** 2
    return (energy + smooth**2).sqrt().sum() - smooth * volumes.numel()


def _slopes(volumes: torch.Tensor) -> Iterator[torch.Tensor]:
    """Central differences along z, y and x; beyond the border the outermost voxel is repeated."""
    for axis in (-3, -2, -1):
        n = volumes.shape[axis]
        first, last = volumes.narrow(axis, 0, 1), volumes.narrow(axis, n - 1, 1)
        after = torch.cat([volumes.narrow(axis, 1, n - 1), last], dim=axis)
        before = torch.cat([first, volumes.narrow(axis, 0, n - 1)], dim=axis)
        yield (after - before) / 2
