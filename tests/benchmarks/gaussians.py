r"""A volume as a sum of Gaussians, of the R2-Gaussian kind: a rival in the league, not the package.

Written from the equations of R. Zha, T. J. Lin, Y. Cai, J. Cao, Y. Zhang and H. Li, "R2-Gaussian:
rectifying radiative Gaussian splatting for tomographic reconstruction", NeurIPS 2024. As there,
each Gaussian has a place, three sizes, a direction and a brightness, all of them are moved by Adam,
and none reaches further than a few standard deviations. Another microscope stands behind them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from scipy.spatial import cKDTree
from torch import nn

REACH = 3.5  # standard deviations, beyond which a Gaussian is taken as dark
VOXEL = 1 / 12  # variance of a place within a voxel, in voxels squared


class Gaussians(nn.Module):
    r"""Gaussians of any direction, each averaged over the voxels that it is seen in.

    .. math:: f(r) = \sum_k \frac{p_k}{\sqrt{(2 \pi)^3 \det C_k}}
        \exp\bigl(-\tfrac12 (r - c_k)^T C_k^{-1} (r - c_k)\bigr), \qquad
        C_k = Q_k \operatorname{diag}(s_k^2)\, Q_k^T + \tfrac{1}{12} I

    with lengths in voxels. The last term is what the mean over a voxel adds to a variance; so a
    Gaussian that is smaller than a voxel keeps its light. All parameters are changes to a start.

    Parameters
    ----------
    centres, sizes : (N, 3) tensor
        Places and standard deviations along (z, y, x), in voxels.
    light : (N,) tensor
        Photons p of each.
    """

    def __init__(self, centres, sizes, light):
        super().__init__()
        for name, value in {"centres": centres, "sizes": sizes, "light": light}.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))
        self.shift = nn.Parameter(torch.zeros_like(self.centres))
        self.growth = nn.Parameter(torch.zeros_like(self.sizes))
        self.turn = nn.Parameter(torch.zeros_like(self.sizes))
        self.gain = nn.Parameter(torch.zeros_like(self.light))

    @property
    def device(self):
        """Device of the parameters."""
        return self.shift.device

    def shapes(self):
        """Directions Q (N, 3, 3), and the variances along them (N, 3): eigenvalues of C."""
        return rotations(self.turn), (self.sizes * self.growth.exp()) ** 2 + VOXEL

    def volume(self, shape, roi=None):
        """Photons (Z, Y, X) in the voxels of the grid that lengths are counted in."""
        if roi is not None:
            raise ValueError("these Gaussians are drawn whole: leave out roi")
        axes, variances = self.shapes()
        precision = (axes / variances[:, None]) @ axes.mT
        peaks = self.light * self.gain.exp() / (2 * math.pi * variances).prod(1).sqrt()
        reach = REACH * (axes**2 @ variances[..., None])[..., 0].detach().sqrt()
        return Sum.apply(self.centres + self.shift, precision, peaks, reach, tuple(shape))


def rotations(turn):
    """Matrices (N, 3, 3) of the quaternions 1 + `turn` (N, 3), which stand for a rotation each."""
    w, x, y, z = nn.functional.normalize(nn.functional.pad(turn, (1, 0), value=1.0)).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).unflatten(1, (3, 3))


def drawn_from(estimate, n, voxel_size, generator):
    """`n` round Gaussians at random places, as dense as an estimate (Z, Y, X) is bright.

    So each of them starts with the same light. A standard deviation starts as half the mean
    distance to the three nearest others, the same length in all directions.
    """
    weight = torch.as_tensor(estimate).double().flatten().clamp(min=0)
    at = torch.multinomial(weight, n, replacement=True, generator=generator)
    centres = torch.stack(torch.unravel_index(at, estimate.shape), 1).float()
    centres += torch.rand(n, 3, generator=generator) - 0.5
    step = torch.tensor(voxel_size, dtype=torch.float32)
    distance, _ = cKDTree((centres * step).numpy()).query((centres * step).numpy(), k=4)
    size = torch.from_numpy(distance[:, 1:].mean(1)).float() / 2
    return Gaussians(centres, size[:, None] / step, weight.sum().float().expand(n) / n)


class Sum(torch.autograd.Function):
    """Sum of Gaussians with their slopes written out, compiled."""

    @staticmethod
    def forward(ctx, centres, precision, peaks, reach, shape):
        """Give the volume of `shape`; each Gaussian in the box centre ± `reach` (N, 3)."""
        ctx.save_for_backward(centres, precision, peaks, reach)
        volume = np.zeros(shape, np.float32)
        _add(volume, *(part.detach().numpy() for part in (centres, precision, peaks, reach)))
        return torch.from_numpy(volume)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, above):
        """Give the slopes by centres, precision and peaks."""
        parts = [part.detach().numpy() for part in ctx.saved_tensors]
        slopes = [np.zeros_like(part) for part in parts[:3]]
        _slopes(above.contiguous().numpy(), *parts, *slopes)
        return *map(torch.from_numpy, slopes), None, None


@njit(cache=True, error_model="numpy")
def _add(volume, centres, precision, peaks, reach):
    n_z, n_y, n_x = volume.shape
    for k in range(len(peaks)):
        p, c, r = precision[k], centres[k], reach[k]
        for z in range(max(0, math.ceil(c[0] - r[0])), min(n_z, math.floor(c[0] + r[0]) + 1)):
            for y in range(max(0, math.ceil(c[1] - r[1])), min(n_y, math.floor(c[1] + r[1]) + 1)):
                a, b = z - c[0], y - c[1]
                flat = p[0, 0] * a * a + p[1, 1] * b * b + 2 * p[0, 1] * a * b
                tilt = 2 * (p[0, 2] * a + p[1, 2] * b)
                for x in range(
                    max(0, math.ceil(c[2] - r[2])), min(n_x, math.floor(c[2] + r[2]) + 1)
                ):
                    d = x - c[2]
                    square = flat + (tilt + p[2, 2] * d) * d
                    if square < REACH * REACH:
                        volume[z, y, x] += peaks[k] * math.exp(-square / 2)


@njit(cache=True, error_model="numpy")
def _slopes(above, centres, precision, peaks, reach, by_centre, by_precision, by_peak):
    n_z, n_y, n_x = above.shape
    for k in range(len(peaks)):
        p, c, r = precision[k], centres[k], reach[k]
        # sums of the slope above times the Gaussian, and times each offset or two of them
        s = sz = sy = sx = szz = syy = sxx = szy = szx = syx = 0.0
        for z in range(max(0, math.ceil(c[0] - r[0])), min(n_z, math.floor(c[0] + r[0]) + 1)):
            for y in range(max(0, math.ceil(c[1] - r[1])), min(n_y, math.floor(c[1] + r[1]) + 1)):
                a, b = z - c[0], y - c[1]
                flat = p[0, 0] * a * a + p[1, 1] * b * b + 2 * p[0, 1] * a * b
                tilt = 2 * (p[0, 2] * a + p[1, 2] * b)
                row = row_x = row_xx = 0.0
                for x in range(
                    max(0, math.ceil(c[2] - r[2])), min(n_x, math.floor(c[2] + r[2]) + 1)
                ):
                    d = x - c[2]
                    square = flat + (tilt + p[2, 2] * d) * d
                    if square < REACH * REACH:
                        share = above[z, y, x] * math.exp(-square / 2)
                        row += share
                        row_x += share * d
                        row_xx += share * d * d
                s, sz, sy, sx = s + row, sz + a * row, sy + b * row, sx + row_x
                szz, syy, sxx = szz + a * a * row, syy + b * b * row, sxx + row_xx
                szy, szx, syx = szy + a * b * row, szx + a * row_x, syx + b * row_x
        by_peak[k] = s
        for i in range(3):
            by_centre[k, i] = peaks[k] * (p[i, 0] * sz + p[i, 1] * sy + p[i, 2] * sx)
        half = -peaks[k] / 2
        by_precision[k, 0, 0], by_precision[k, 1, 1], by_precision[k, 2, 2] = (
            half * szz, half * syy, half * sxx,
        )  # fmt: skip
        by_precision[k, 0, 1] = by_precision[k, 1, 0] = half * szy
        by_precision[k, 0, 2] = by_precision[k, 2, 0] = half * szx
        by_precision[k, 1, 2] = by_precision[k, 2, 1] = half * syx
