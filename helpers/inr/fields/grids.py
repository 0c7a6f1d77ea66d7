r"""Learned features at the nodes of grids, interpolated in between.

A table of numbers holds what a large network would have to learn, and a tiny network decodes it:
:cite:t:`mueller2022` for hashed tables. On a regular grid interpolation is separable, one small
matrix per axis. Derived in :doc:`/book/inr/03_neural_field`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..._arrays import Device
from .encodings import box

PRIMES = (805459861, 2654435761, 1)  # z, y, x: neighbours along x stay neighbours in memory


def pyramid(shape: Sequence[int], n_levels: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a multi-resolution grid, coarse to fine, the last one `shape` itself.

    Each coarser level halves the lateral sides; depth, sampled in longer steps to begin with, is
    halved one level later.

    Examples
    --------
    >>> pyramid((16, 56, 56), 4)
    ((4, 7, 7), (8, 14, 14), (16, 28, 28), (16, 56, 56))
    """
    box(shape)
    if n_levels < 1:
        raise ValueError(f"n_levels is {n_levels}: at least 1")
    depth, *lateral = shape
    return tuple(
        (math.ceil(depth / 2 ** max(k - 1, 0)), *(math.ceil(n / 2**k) for n in lateral))
        for k in reversed(range(n_levels))
    )


def interpolation(n_in: int, n_out: int, *, device: Device = None) -> torch.Tensor:
    """Matrix (n_out, n_in) of linear interpolation between cell-centred grids of the same extent.

    Examples
    --------
    >>> interpolation(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    eye = torch.eye(n_in, device=device)[None]
    return F.interpolate(eye, size=n_out, mode="linear", align_corners=False)[0].T.contiguous()


def upsample(
    values: torch.Tensor, shape: Sequence[int], roi: Sequence[int] | None = None
) -> torch.Tensor:
    """Interpolate (C, z, y, x) values to a box of a volume of `shape`, one axis at a time.

    The same values as `torch.nn.functional.interpolate` gives (trilinear, corners not aligned),
    in half the time, and only where they are asked for.
    """
    for axis, (n, rows) in enumerate(zip(shape, box(shape, roi), strict=True), start=1):
        if values.shape[axis] == n:
            values = values.narrow(axis, rows.start, rows.stop - rows.start)
            continue
        matrix = interpolation(values.shape[axis], n, device=values.device)[rows]
        if axis == 1:
            values = (matrix @ values.flatten(2)).unflatten(2, values.shape[2:])
        else:
            values = matrix @ values if axis == 2 else values @ matrix.T
    return values


class _Levels(nn.Module):
    """Tables of features on several grids, coarse to fine, and their values at points."""

    def __init__(self, levels: Sequence[Sequence[int]], n_features: int) -> None:
        super().__init__()
        self.levels, self.n_features = tuple(tuple(level) for level in levels), n_features
        if not self.levels:
            raise ValueError("levels is empty: give at least one (Z, Y, X)")
        for level in self.levels:
            box(level)
        self.out_features = n_features * len(self.levels)

    def _encoded(
        self, tables: nn.ParameterList, points: torch.Tensor, extent: Sequence[float]
    ) -> torch.Tensor:
        place = _normalised(points, extent)[None, None]
        features = [_sample(table[None], place)[0, :, 0, 0] for table in tables]
        return self._combined(features).T.reshape(*points.shape[:-1], self.out_features)

    def _combined(self, features: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(features)


class FeatureGrid(_Levels):
    """A dense multi-resolution grid of features, interpolated linearly.

    Parameters
    ----------
    levels : sequence of (Z, Y, X)
        Nodes of each level, see `pyramid`.
    n_features : int
        Features of each node of each level.
    std : float
        Spread of the features at the start.
    generator : torch.Generator, optional
        Of the features at the start.

    Notes
    -----
    Nodes are cell centred: a level with the shape of the volume has one node in each voxel.
    Features are bound to a place, so nothing is shared between places but the decoder.

    Examples
    --------
    >>> grid = FeatureGrid(pyramid((16, 56, 56), 4), 4)
    >>> grid.out_features, sum(p.numel() for p in grid.parameters())
    (16, 257936)
    """

    def __init__(
        self,
        levels: Sequence[Sequence[int]],
        n_features: int = 4,
        *,
        std: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(levels, n_features)
        self.tables = nn.ParameterList(
            std * torch.randn((n_features, *level), generator=generator) for level in self.levels
        )

    def forward(
        self, points: torch.Tensor, extent: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> torch.Tensor:
        """Encode (..., 3) points into (..., out_features)."""
        return self._encoded(self.tables, points, extent)

    def grid(
        self,
        shape: Sequence[int],
        extent: Sequence[float] = (1.0, 1.0, 1.0),
        roi: Sequence[int] | None = None,
        device: Device = None,
    ) -> torch.Tensor:
        """Features (N, out_features) of a regular grid, in the order of its voxels."""
        return self._combined([upsample(t, shape, roi) for t in self.tables]).flatten(1).T


class PlaneGrid(_Levels):
    r"""Features on the planes yx, zx and zy, multiplied or added: storage grows as n squared.

    Parameters
    ----------
    levels : sequence of (Z, Y, X)
        Nodes of each level, see `pyramid`.
    n_features : int
        Features of each level: with "product" the rank of the factorisation.
    combine : {"product", "sum"}
        How the features of the three planes meet in a voxel.
    std : float
        Spread of the features at the start, around 1 for "product" and 0 for "sum".
    generator : torch.Generator, optional
        Of the features at the start.

    Notes
    -----
    With "product" feature r is :math:`a_r(y,x)\, b_r(z,x)\, c_r(z,y)`: an object of few separable
    parts needs few numbers :cite:p:`fridovichkeil2023`.

    Examples
    --------
    >>> planes = PlaneGrid([(16, 56, 56)], 8)
    >>> planes.out_features, sum(p.numel() for p in planes.parameters())
    (8, 39424)
    """

    def __init__(
        self,
        levels: Sequence[Any],
        n_features: int = 8,
        *,
        combine: str = "product",
        std: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(levels, n_features)
        if combine not in ("product", "sum"):
            raise ValueError(f"combine is {combine!r}: use 'product' or 'sum'")
        self.combine = combine
        self.planes = nn.ParameterList()
        for level in self.levels:
            for axis in range(3):
                flat = [1 if k == axis else n for k, n in enumerate(level)]
                start = std * torch.randn((n_features, *flat), generator=generator)
                self.planes.append(start + (combine == "product"))

    def forward(
        self, points: torch.Tensor, extent: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> torch.Tensor:
        """Encode (..., 3) points into (..., out_features)."""
        return self._encoded(self.planes, points, extent)

    def grid(
        self,
        shape: Sequence[int],
        extent: Sequence[float] = (1.0, 1.0, 1.0),
        roi: Sequence[int] | None = None,
        device: Device = None,
    ) -> torch.Tensor:
        """Features (N, out_features) of a regular grid, in the order of its voxels."""
        parts = box(shape, roi)
        planes = []
        for number, plane in enumerate(self.planes):
            axis = number % 3
            flat = [1 if k == axis else n for k, n in enumerate(shape)]
            corner = [0 if k == axis else part.start for k, part in enumerate(parts)]
            size = [1 if k == axis else part.stop - part.start for k, part in enumerate(parts)]
            planes.append(upsample(plane, flat, (*corner, *size)))
        return self._combined(planes).flatten(1).T

    def _combined(self, planes: list[torch.Tensor]) -> torch.Tensor:
        triples = zip(planes[0::3], planes[1::3], planes[2::3], strict=True)
        product = self.combine == "product"
        return torch.cat([a * b * c if product else a + b + c for a, b, c in triples])


class HashGrid(nn.Module):
    r"""A multi-resolution grid whose nodes share a table of fixed size through a hash.

    Parameters
    ----------
    n_levels : int
        Levels, finer by a constant factor.
    n_features : int
        Features of each node of each level.
    log2_size : int
        The table of each level has at most :math:`2^{\mathrm{log2\_size}}` nodes.
    coarsest, finest : int
        Cells across the unit of length, which is half the longest lateral side, of the first and
        the last level.
    generator : torch.Generator, optional
        Of the features at the start, uniform within 1e-4.

    Notes
    -----
    Node :math:`(i_z, i_y, i_x)` is found at :math:`\bigoplus_d i_d \pi_d \bmod T` with three large
    primes :cite:p:`mueller2022`. Levels that fit into the table collide nowhere. Where two nodes
    share an entry, the one with the larger gradient wins. The points are best within -1 to 1.

    Examples
    --------
    >>> grid = HashGrid(4, 2, log2_size=10, coarsest=4, finest=32)
    >>> grid(torch.zeros(5, 3)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        n_levels: int = 8,
        n_features: int = 2,
        *,
        log2_size: int = 14,
        coarsest: int = 4,
        finest: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_levels < 1 or not 1 <= coarsest <= finest:
            raise ValueError(
                f"{n_levels} levels from {coarsest} to {finest} cells: give at least one level, "
                "and coarsest no finer than finest"
            )
        self.n_levels, self.n_features, self.log2_size = n_levels, n_features, log2_size
        self.coarsest, self.finest = coarsest, finest
        self.out_features = n_levels * n_features
        growth = (finest / coarsest) ** (1 / max(n_levels - 1, 1))
        self.cells = [round(coarsest * growth**k) for k in range(n_levels)]
        sizes = [min(2**log2_size, (2 * n + 2) ** 3) for n in self.cells]
        self.tables = nn.ParameterList(
            1e-4 * (2 * torch.rand((size, n_features), generator=generator) - 1) for size in sizes
        )

    def forward(
        self, points: torch.Tensor, extent: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> torch.Tensor:
        """Encode (..., 3) points into (..., out_features)."""
        features = []
        for n, table in zip(self.cells, self.tables, strict=True):
            place = (points.reshape(-1, 3) + 1) * n
            first = place.floor()
            beyond = place - first
            z, y, x = torch.stack([1 - beyond, beyond], dim=-1).unbind(1)  # each (N, 2)
            share = z[:, :, None, None] * y[:, None, :, None] * x[:, None, None]
            node = torch.stack([first.long(), first.long() + 1], dim=-1)
            entry = self._entry(node, 2 * n + 2, len(table))
            features.append((share.flatten(1)[..., None] * table[entry.flatten(1)]).sum(1))
        return torch.cat(features, dim=-1).reshape(*points.shape[:-1], self.out_features)

    @staticmethod
    def _entry(node: torch.Tensor, side: int, size: int) -> torch.Tensor:
        """Rows (N, 2, 2, 2) of the table for nodes (N, 3, 2): in order if all fit, else hashed."""
        fits = side**3 == size
        node = node.clamp(0, side - 1) if fits else node
        steps = (side**2, side, 1) if fits else PRIMES
        z, y, x = (part * step for part, step in zip(node.unbind(1), steps, strict=True))
        z, y, x = z[:, :, None, None], y[:, None, :, None], x[:, None, None]
        return z + y + x if fits else (z ^ y ^ x) % size


def _normalised(points: torch.Tensor, extent: Sequence[float]) -> torch.Tensor:
    """Points in units of the extent as (1, N, 3), x first as `grid_sample` wants it."""
    return (points / points.new_tensor(extent)).reshape(1, -1, 3).flip(-1)


def _sample(table: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(table, place, padding_mode="border", align_corners=False)
