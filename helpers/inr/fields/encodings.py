r"""Functions of position that a small network can build an object from: waves.

A network fed with bare coordinates learns only slow variation. Sines and cosines of rising
frequency give it fast variation to start from :cite:p:`tancik2020`. Learned grids, the other way,
are in `grids`. Derived in :doc:`/book/inr/03_neural_field`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..._arrays import Device


def extent_of(
    shape: Sequence[int], voxel_size: float | Sequence[float]
) -> tuple[float, float, float]:
    """Half the size of a volume along each axis, in units of half its longest lateral side.

    Parameters
    ----------
    shape : (Z, Y, X)
        Voxels along each axis.
    voxel_size : float or (dz, dy, dx)
        Size of a voxel, any unit.

    Returns
    -------
    tuple of 3 float

    Examples
    --------
    >>> extent_of((16, 56, 56), (0.5, 0.25, 0.25))
    (0.5714285714285714, 1.0, 1.0)
    """
    size = list(voxel_size) if isinstance(voxel_size, Sequence) else [float(voxel_size)] * 3
    if len(shape) != 3 or len(size) != 3 or min(*shape, *size) <= 0:
        raise ValueError(
            f"shape is {tuple(shape)} and voxel_size {voxel_size}: "
            "expected (Z, Y, X) and (dz, dy, dx), all above zero"
        )
    sides = [n * float(step) for n, step in zip(shape, size, strict=True)]
    z, y, x = (side / max(sides[1:]) for side in sides)
    return z, y, x


def axis_coordinates(n: int, half: float = 1.0, *, device: Device = None) -> torch.Tensor:
    """Centres of `n` voxels that fill -half to half.

    Examples
    --------
    >>> axis_coordinates(4).tolist()
    [-0.75, -0.25, 0.25, 0.75]
    """
    steps = (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1
    return (half * steps).to(device, torch.float32)


def coordinates(
    shape: Sequence[int],
    extent: Sequence[float] = (1.0, 1.0, 1.0),
    roi: Sequence[int] | None = None,
    device: Device = None,
) -> torch.Tensor:
    """Coordinates (z, y, x) of the voxel centres, (Z, Y, X, 3), or of those in a box `roi`.

    Examples
    --------
    >>> coordinates((1, 2, 2), (0.5, 1, 1))[0, 1, 0].tolist()
    [0.0, 0.5, -0.5]
    """
    axes = [
        axis_coordinates(n, half, device=device)[rows]
        for n, half, rows in zip(shape, extent, box(shape, roi), strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def box(shape: Sequence[int], roi: Sequence[int] | None = None) -> tuple[slice, ...]:
    """Slices of a (z, y, x, depth, height, width) box, which must lie inside the volume.

    Raises
    ------
    ValueError
        The shape is not three whole numbers, or the box is empty or leaves the volume.

    Examples
    --------
    >>> box((8, 8, 8), (0, 2, 4, 8, 3, 4))
    (slice(0, 8, None), slice(2, 5, None), slice(4, 8, None))
    """
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape is {tuple(shape)}: expected whole numbers (Z, Y, X), at least 1")
    if roi is None:
        return tuple(slice(0, int(n)) for n in shape)
    if len(roi) != 6 or any(int(n) != n for n in roi):
        raise ValueError(f"roi is {roi}: expected whole numbers (z, y, x, depth, height, width)")
    corner, size = [int(n) for n in roi[:3]], [int(n) for n in roi[3:]]
    for axis, first, length, n in zip("zyx", corner, size, shape, strict=True):
        if length < 1:
            raise ValueError(f"roi is empty: {length} voxels along {axis}, at least 1 is needed")
        if first < 0 or first + length > n:
            raise ValueError(
                f"roi leaves the volume along {axis}: voxels {first} to {first + length - 1}, "
                f"but the volume has 0 to {n - 1}"
            )
    return tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))


class _Waves(nn.Module):
    """Octaves of sines and cosines along z, and along some directions of the lateral plane."""

    n_lateral: int

    def __init__(self, octaves: int, octaves_z: int | None = None, *, pi: bool = True) -> None:
        super().__init__()
        self.octaves, self.pi = octaves, pi
        self.octaves_z = octaves if octaves_z is None else octaves_z
        if self.octaves < 0 or self.octaves_z < 0:
            raise ValueError(f"octaves are {self.octaves} and {self.octaves_z}: at least 0")
        self.out_features = 3 + 2 * self.octaves_z + 2 * self.n_lateral * self.octaves


class PositionalEncoding(_Waves):
    r"""Each coordinate, with sines and cosines of it in octaves.

    Parameters
    ----------
    octaves : int
        Frequencies :math:`2^0 \dots 2^{L-1}` along each axis.
    octaves_z : int, optional
        Fewer along z, where the microscope resolves less. Default: the same.
    pi : bool
        Multiply the frequencies by :math:`\pi`: the lowest wave then has its period in the whole
        volume. Without it they are radians per unit, as in the published light-field code.

    Notes
    -----
    .. math:: \gamma(u) = \bigl(u, \sin 2^k \pi u, \cos 2^k \pi u\bigr)_{k=0\dots L-1}

    for u = z, then y, then x :cite:p:`mildenhall2020`. On a regular grid a wave depends on one
    index only: `grid` computes one table per axis.

    Examples
    --------
    >>> PositionalEncoding(8).out_features, PositionalEncoding(8, 6).out_features
    (51, 47)
    """

    n_lateral = 2

    def forward(
        self, points: torch.Tensor, extent: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> torch.Tensor:
        """Encode (..., 3) points into (..., out_features)."""
        return torch.cat([self._wave(points[..., axis], axis) for axis in range(3)], dim=-1)

    def grid(
        self,
        shape: Sequence[int],
        extent: Sequence[float] = (1.0, 1.0, 1.0),
        roi: Sequence[int] | None = None,
        device: Device = None,
    ) -> AxisFeatures:
        """Features of a regular grid, a table per axis: `AxisFeatures`."""
        tables = [
            self._wave(axis_coordinates(n, half, device=device), axis)
            for axis, (n, half) in enumerate(zip(shape, extent, strict=True))
        ]
        return AxisFeatures(tables, box(shape, roi))

    def _wave(self, u: torch.Tensor, axis: int) -> torch.Tensor:
        return _octaves(u, self.octaves_z if axis == 0 else self.octaves, self.pi)


class RadialEncoding(_Waves):
    r"""Waves along z and along four directions of the lateral plane, 45 degrees apart.

    Parameters
    ----------
    octaves, octaves_z, pi
        As in `PositionalEncoding`.

    Notes
    -----
    Waves along x and y alone favour edges along the axes; the two diagonals make the encoding
    more nearly isotropic. The raw coordinates are kept once.

    Examples
    --------
    >>> RadialEncoding(8).out_features
    83
    """

    n_lateral = 4

    def forward(
        self, points: torch.Tensor, extent: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> torch.Tensor:
        """Encode (..., 3) points into (..., out_features)."""
        z, y, x = points.unbind(-1)
        waves = [points, _octaves(z, self.octaves_z, self.pi)[..., 1:]]
        for u in (x, (x + y) / math.sqrt(2), y, (y - x) / math.sqrt(2)):
            waves.append(_octaves(u, self.octaves, self.pi)[..., 1:])
        return torch.cat(waves, dim=-1)


def _octaves(u: torch.Tensor, n: int, pi: bool) -> torch.Tensor:
    """The coordinate, its sines and its cosines, along a new last axis."""
    frequencies = 2.0 ** torch.arange(n, device=u.device, dtype=u.dtype) * (math.pi if pi else 1)
    phase = u[..., None] * frequencies
    return torch.cat([u[..., None], phase.sin(), phase.cos()], dim=-1)


class AxisFeatures:
    """The (N, C) features of a regular grid, held as one table per axis and never written out.

    A linear layer acts on each table alone, and the results are added: for a volume of 41 x 499 x
    499 voxels the sines are computed at 1039 places instead of 10 million. The tables hold the
    whole axis, so that a box in the volume gets the very same values.
    """

    def __init__(self, tables: Any, box: Any, rows: Any = None) -> None:
        self.tables, self.box, self.rows = tables, box, rows
        self.sides = [part.stop - part.start for part in box]

    def __len__(self) -> int:
        return math.prod(self.sides) if self.rows is None else len(self.rows)

    @property
    def device(self) -> torch.device:
        """Device of the tables."""
        return self.tables[0].device

    def __getitem__(self, rows: Any) -> AxisFeatures:
        """Choose voxels by their number in the box."""
        return AxisFeatures(self.tables, self.box, rows)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Act with a layer of (n, C) weights: (N, n), the sum of what it does to each axis."""
        parts = weight.split([table.shape[1] for table in self.tables], dim=1)
        z, y, x = (
            (table @ part.T)[rows]
            for table, part, rows in zip(self.tables, parts, self.box, strict=True)
        )
        if bias is not None:
            z = z + bias
        if self.rows is None:  # units first in memory, as the layers that follow have them
            z, y, x = z.T[:, :, None, None], y.T[:, None, :, None], x.T[:, None, None]
            return (z + y + x).flatten(1).T
        depth_row, column = self.rows // len(x), self.rows % len(x)
        depth, row = depth_row // len(y), depth_row % len(y)
        return z[depth] + y[row] + x[column]
