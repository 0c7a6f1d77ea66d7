"""Mini-batches of a field fit: the whole volume, a coarse grid, blocks, or some of the views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Stage:
    """A number of steps of one kind; a schedule is one stage or several.

    Attributes
    ----------
    n_steps : int
    learning_rate : float
        Of Adam. It rises over the first tenth of the stage and falls as a cosine.
    final_rate : float
        Share of the learning rate that is left at the end.
    betas : (float, float)
        Memory of Adam.
    coarsen : int
        Pixels, and voxels laterally, that are merged in each direction. The prior is left out
        when this is not 1.
    block : int, optional
        The views are cut into equal tiles of at most this side, in pixels, and a step looks at one
        of them. Light from further away than 99 % of the PSF is left out.
    sampling : "uniform" or "error"
        All blocks equally often; or more often where the views are explained worst, which then
        count more than the rest.
    refresh : int
        Steps after which the map of errors is computed again.
    views : int, optional
        Number of views that a step looks at, drawn for each step.

    Examples
    --------
    The published schedule of a first frame, a coarse stage and two of blocks:

    >>> published = (Stage(5000, 5e-4, coarsen=2), Stage(15000, 5e-4, block=181),
    ...              Stage(5000, 5e-4, block=181, sampling="error", refresh=10))
    """

    n_steps: int = 300
    learning_rate: float = 1e-2
    final_rate: float = 0.05
    betas: tuple = (0.9, 0.99)
    coarsen: int = 1
    block: int | None = None
    sampling: str = "uniform"
    refresh: int = 50
    views: int | None = None

    def __post_init__(self) -> None:
        if not (_whole(self.n_steps) and 0 < self.learning_rate < np.inf):
            raise ValueError(
                f"n_steps is {self.n_steps} and learning_rate {self.learning_rate}: "
                "both must be above zero"
            )
        if self.sampling not in ("uniform", "error"):
            raise ValueError(f"sampling is {self.sampling!r}: use 'uniform' or 'error'")
        for name in ("coarsen", "block", "refresh", "views"):
            value = getattr(self, name)
            if value is not None and not _whole(value):
                raise ValueError(f"{name} is {value}: use a whole number, at least 1")
        if sum((self.coarsen > 1, self.block is not None, self.views is not None)) > 1:
            raise ValueError("coarsen, block and views exclude each other: use several stages")
        if self.sampling == "error" and self.block is None:
            raise ValueError("sampling is 'error', but there are no blocks to draw: set block")

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ... of this stage."""
        rise = max(1, self.n_steps // 10)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        along = (step - rise) / max(1, self.n_steps - rise)
        cosine = (1 + np.cos(np.pi * along)) / 2
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)


def _whole(n: float) -> bool:
    return n == int(n) and n >= 1


class MiniBatch(NamedTuple):
    """A volume, what it predicts, what was measured there, and the shares of the whole they are.

    The volume is None where no voxel belongs to what is looked at.
    """

    volume: torch.Tensor | None
    prediction: torch.Tensor
    data: torch.Tensor
    share_of_data: float = 1.0
    share_of_volume: float = 1.0


def sampler(
    stage: Stage, operator: Any, data: torch.Tensor, background: torch.Tensor
) -> Callable[[nn.Module, torch.Generator], MiniBatch]:
    """Sampler of a stage: called with the field and a generator, it gives a `MiniBatch`.

    Data and background are tensors of the same shape.
    """
    if stage.coarsen > 1:
        return _Coarse(stage.coarsen, operator, data, background)
    if stage.block is not None:
        return _Blocks(stage, operator, data, background)
    if stage.views is not None:
        return _Views(stage.views, operator, data, background)
    return _Whole(operator, data, background)


class _Whole:
    memory = None

    def __init__(self, operator: Any, data: torch.Tensor, background: torch.Tensor) -> None:
        self.operator, self.data, self.background = operator, data, background

    def __call__(self, field: Any, generator: torch.Generator) -> MiniBatch:
        volume = field.volume(self.operator.in_shape)
        return MiniBatch(volume, self.operator(volume) + self.background, self.data)


class _Coarse:
    memory = None

    def __init__(
        self, factor: int, operator: Any, data: torch.Tensor, background: torch.Tensor
    ) -> None:
        self.operator = _able(operator, "coarsened", "coarsen").coarsened(factor)
        self.data, self.background = _mean(data, factor), _mean(background, factor)
        # the mean of n counts tells as much as their sum: n times what a loss makes of one count
        self.share = factor**-2

    def __call__(self, field: Any, generator: torch.Generator) -> MiniBatch:
        volume = field.volume(self.operator.in_shape)
        return MiniBatch(volume, self.operator(volume) + self.background, self.data, self.share)


class _Views:
    memory = None

    def __init__(
        self, n_views: int, operator: Any, data: torch.Tensor, background: torch.Tensor
    ) -> None:
        if n_views > len(data):
            raise ValueError(f"views is {n_views}, but there are {len(data)}: use fewer")
        self.n_views, self.operator = n_views, _able(operator, "select", "views")
        self.data, self.background = data, background

    def __call__(self, field: Any, generator: torch.Generator) -> MiniBatch:
        order = torch.randperm(len(self.data), generator=generator)[: self.n_views].tolist()
        volume = field.volume(self.operator.in_shape)
        prediction = self.operator.select(order)(volume) + self.background[order]
        return MiniBatch(volume, prediction, self.data[order], self.n_views / len(self.data))


class _Blocks:
    """Tiles of all views, one at a time, with the voxels around them that they see."""

    def __init__(
        self, stage: Stage, operator: Any, data: torch.Tensor, background: torch.Tensor
    ) -> None:
        self.stage, self.operator, self.data, self.background = stage, operator, data, background
        most = cast(int, stage.block)
        size = tuple(_side(m, most) for m in operator.out_shape[1:])
        self.block_operator = _able(operator, "block", "block").block(size)
        halo = (self.block_operator.in_shape[-1] - size[-1]) // 2
        rows, columns = (
            _strips(n, m, most, halo)
            for n, m in zip(operator.in_shape[-2:], operator.out_shape[1:], strict=True)
        )
        self.tiles = [(row, column) for row in rows for column in columns]
        # what an interrupted fit must get back
        self.memory: dict[str, Any] = {"steps": 0, "chance": None}

    def __call__(self, field: Any, generator: torch.Generator) -> MiniBatch:
        row, column = self.tiles[self._choose(field, generator)]
        seen, own = self._volume(field, row, column)
        view = (..., row.pixels, column.pixels)
        prediction = self.block_operator(seen)[..., row.inside, column.inside]
        share = 1 / len(self.tiles)
        return MiniBatch(own, prediction + self.background[view], self.data[view], share, share)

    def _volume(
        self, field: Any, row: _Strip, column: _Strip
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The voxels that a tile sees, with the dark beyond the grid, and those that are its own.

        The second are None for a tile beside the volume, which has none.
        """
        shape = self.operator.in_shape  # ahead of (Z, Y, X) there may be parts of a contrast
        depth = shape[-3]
        corner = (0, row.voxels.start, column.voxels.start)
        size = (depth, *(s.voxels.stop - s.voxels.start for s in (row, column)))
        voxels = field.volume(shape, (*corner, *size))
        own = voxels[..., row.own, column.own]
        margins = [max(margin, 0) for margin in (*column.margins, *row.margins)]
        seen = F.pad(voxels, margins)[..., row.window, column.window]
        return seen, own if own.numel() else None

    def _choose(self, field: Any, generator: torch.Generator) -> int:
        if self.stage.sampling == "uniform":
            return int(torch.randint(len(self.tiles), (1,), generator=generator))
        if self.memory["steps"] % self.stage.refresh == 0:
            self.memory["chance"] = self._chances(field)
        self.memory["steps"] += 1
        return int(torch.multinomial(self.memory["chance"], 1, generator=generator))

    def _chances(self, field: Any) -> torch.Tensor:
        """Chance of each tile: its mean squared residual, in excess of shot noise and its units."""
        with torch.no_grad():
            prediction = self.operator(field.volume(self.operator.in_shape)) + self.background
            squared = (prediction - self.data) ** 2 / prediction.clamp(min=1e-6)
            means = [squared[..., row.pixels, column.pixels].mean() for row, column in self.tiles]
            # what shot noise alone explains carries no information about the field
            excess = (torch.stack(means).cpu() - 1).clamp(min=0)
            return excess + 1e-3 * (1 + excess.mean())


class _Strip(NamedTuple):
    """A tile along one axis: its pixels, and where the voxels are that it sees."""

    pixels: slice  # of the view
    inside: slice  # the same, of what is computed: for every tile as many as for the largest
    voxels: slice  # of the volume
    own: slice  # of these voxels: together the tiles own every voxel once
    margins: tuple  # voxels to add before and after; if negative, to leave away
    window: slice  # of the voxels with their margins: what the pixels see


def _strips(n: int, m: int, side: int, halo: int) -> list[_Strip]:
    """Cut m pixels into strips of `side` at most, over n voxels with the same centre.

    Every pixel is in one strip, so that the strips drawn with equal chances are the whole on
    average; blocks at random places would look at the border too rarely.
    """
    count = -(-m // side)
    size, shift, strips = _side(m, side), m // 2 - n // 2, []
    for k in range(count):
        a, b = k * m // count, (k + 1) * m // count
        own = [0 if k == 0 else a - shift, n if k == count - 1 else b - shift]
        own = [min(max(edge, 0), n) for edge in own]
        first, last = a - shift - halo, a - shift + size + halo
        # at least one voxel, even where the strip sees none
        start = min(max(first, 0), own[0], n - 1)
        stop = max(min(last, n), own[1], start + 1)
        skip = max(first - start, 0)
        strips.append(
            _Strip(
                slice(a, b),
                slice(0, b - a),
                slice(start, stop),
                slice(own[0] - start, own[1] - start),
                (start - first, last - stop),
                slice(skip, skip + last - first),
            )
        )
    return strips


def _side(m: int, most: int) -> int:
    """Side of the largest strip, when m pixels are cut into equal ones of `most` at most."""
    return -(-m // -(-m // most))


def _mean(x: torch.Tensor, factor: int) -> torch.Tensor:
    return F.avg_pool2d(x, factor)


def _able(operator: Any, method: str, stage: str) -> Any:
    if not hasattr(operator, method):
        raise TypeError(
            f"{type(operator).__name__} has no `{method}`, which a stage with {stage} needs: leave "
            f"out {stage}"
        )
    return operator
