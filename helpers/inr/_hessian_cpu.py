r"""The Hessian prior and its slope, compiled for the CPU: one pass instead of one for each term.

Made of tensors, six arrays as large as the volume and as many again for their slopes go through
the memory, and the prior takes three times as long as the physics. Here a row and its neighbours
stay in the nearest cache. The same mathematics as `helpers.inr.fit.losses.hessian_energy`, and
checked against it; it has no second derivative.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)

OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
# A function that stays on its own is compiled twice, alone and with its caller, and which of the
# two runs depends on the cache: the last bits would, too.
_inlined = njit(forceinline=True, **OPTIONS)


def serves(volume: torch.Tensor) -> bool:
    """True for single precision on the CPU."""
    return volume.device.type == "cpu" and volume.dtype == torch.float32


class SumOfNorms(torch.autograd.Function):
    """Sum over voxels of the rounded norm, of volumes with one more voxel at each border."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, weights: tuple, smooth: float) -> torch.Tensor:
        """Give the sum (scalar) of `padded` (B, Z + 2, Y + 2, X + 2), and keep its slope."""
        volumes = padded.detach().contiguous()
        slope = torch.zeros_like(volumes)
        z, y, x = weights
        each = np.array([z * z, y * y, x * x, z * y / 4, z * x / 4, y * x / 4], np.float32)
        total = sum_and_slope(volumes.numpy(), each, np.float32(smooth), slope.numpy())
        ctx.save_for_backward(slope)
        return padded.new_tensor(total)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Give the slope by each voxel."""
        return above * ctx.saved_tensors[0], None, None


@_inlined
def _differences(volume: np.ndarray, z: int, y: int, weights: np.ndarray, q: np.ndarray) -> None:
    """Six second differences of row (z, y), into `q` (6, X + 2)."""
    zz, yy, xx = weights[0], weights[1], weights[2]
    zy, zx, yx = weights[3], weights[4], weights[5]
    for x in range(1, volume.shape[2] - 1):
        middle = TWO * volume[z, y, x]
        q[0, x] = zz * (volume[z - 1, y, x] - middle + volume[z + 1, y, x])
        q[1, x] = yy * (volume[z, y - 1, x] - middle + volume[z, y + 1, x])
        q[2, x] = xx * (volume[z, y, x - 1] - middle + volume[z, y, x + 1])
        corners = (
            volume[z - 1, y - 1, x]
            - volume[z - 1, y + 1, x]
            - volume[z + 1, y - 1, x]
            + volume[z + 1, y + 1, x]
        )
        q[3, x] = zy * corners
        corners = (
            volume[z - 1, y, x - 1]
            - volume[z - 1, y, x + 1]
            - volume[z + 1, y, x - 1]
            + volume[z + 1, y, x + 1]
        )
        q[4, x] = zx * corners
        corners = (
            volume[z, y - 1, x - 1]
            - volume[z, y - 1, x + 1]
            - volume[z, y + 1, x - 1]
            + volume[z, y + 1, x + 1]
        )
        q[5, x] = yx * corners


@_inlined
def _norms(q: np.ndarray, smooth: np.float32) -> float:
    """Sum of the norms of a row; each difference becomes the norm's slope by it."""
    total = 0.0
    for x in range(1, q.shape[1] - 1):
        straight = q[0, x] * q[0, x] + q[1, x] * q[1, x] + q[2, x] * q[2, x]
        mixed = q[3, x] * q[3, x] + q[4, x] * q[4, x] + q[5, x] * q[5, x]
        norm = math.sqrt(straight + TWO * mixed + smooth * smooth)
        total += norm
        inverse = ONE / norm if norm > ZERO else ZERO
        for k in range(3):
            q[k, x] *= inverse
            q[3 + k, x] *= TWO * inverse
    return total


@_inlined
def _give_back(q: np.ndarray, z: int, y: int, weights: np.ndarray, slope: np.ndarray) -> None:
    """Add what the differences of row (z, y) give to its slope and its neighbours'."""
    zz, yy, xx = weights[0], weights[1], weights[2]
    zy, zx, yx = weights[3], weights[4], weights[5]
    for x in range(1, slope.shape[2] - 1):
        bend = zz * q[0, x] + yy * q[1, x] + xx * q[2, x]
        slope[z, y, x] -= TWO * bend
        slope[z - 1, y, x] += zz * q[0, x]
        slope[z + 1, y, x] += zz * q[0, x]
        slope[z, y - 1, x] += yy * q[1, x]
        slope[z, y + 1, x] += yy * q[1, x]
        corner = zy * q[3, x]
        slope[z - 1, y - 1, x] += corner
        slope[z + 1, y + 1, x] += corner
        slope[z - 1, y + 1, x] -= corner
        slope[z + 1, y - 1, x] -= corner
    # q is zero at both ends, so that a neighbour's place needs no question
    for x in range(1, slope.shape[2] - 1):
        slope[z, y, x] += xx * (q[2, x - 1] + q[2, x + 1])
        across = zx * (q[4, x + 1] - q[4, x - 1])
        slope[z - 1, y, x] += across
        slope[z + 1, y, x] -= across
        across = yx * (q[5, x + 1] - q[5, x - 1])
        slope[z, y - 1, x] += across
        slope[z, y + 1, x] -= across
    _give_ends(q, z, y, weights, slope)


@_inlined
def _give_ends(q: np.ndarray, z: int, y: int, weights: np.ndarray, slope: np.ndarray) -> None:
    """The same for the voxels before the first and after the last."""
    xx, zx, yx = weights[2], weights[4], weights[5]
    last = slope.shape[2] - 1
    for at, x, sign in ((0, 1, ONE), (last, last - 1, -ONE)):
        slope[z, y, at] += xx * q[2, x]
        slope[z - 1, y, at] += sign * zx * q[4, x]
        slope[z + 1, y, at] -= sign * zx * q[4, x]
        slope[z, y - 1, at] += sign * yx * q[5, x]
        slope[z, y + 1, at] -= sign * yx * q[5, x]


@njit(**OPTIONS)
def sum_and_slope(
    volumes: np.ndarray, weights: np.ndarray, smooth: np.float32, slope: np.ndarray
) -> float:
    """Sum of the norms of `volumes` (B, Z + 2, Y + 2, X + 2); its derivatives go to `slope`.

    Float32. `slope` holds zeros; `weights` are those of zz, yy, xx, zy, zx and yx.
    """
    n, deep, tall, wide = volumes.shape
    q = np.zeros((6, wide), volumes.dtype)
    total = 0.0
    for b in range(n):
        for z in range(1, deep - 1):
            for y in range(1, tall - 1):
                _differences(volumes[b], z, y, weights, q)
                total += _norms(q, smooth)
                _give_back(q, z, y, weights, slope[b])
    return total
