"""What a step of a fit looks at: everything, a coarse copy, a block, or some of the views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .lightfield import LightField


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
        Side of the square of pixels that a step looks at.
    sampling : "uniform" or "error"
        Blocks anywhere, or where the views are explained worst.
    refresh : int
        Steps after which the map of errors is computed anew.
    views : int, optional
        Number of views that a step looks at, drawn anew each time.

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

    def __post_init__(self):
        if self.n_steps < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"n_steps is {self.n_steps} and learning_rate {self.learning_rate}: "
                "both must be above zero"
            )
        if self.sampling not in ("uniform", "error"):
            raise ValueError(f"sampling is {self.sampling!r}: use 'uniform' or 'error'")
        if sum((self.coarsen > 1, self.block is not None, self.views is not None)) > 1:
            raise ValueError("coarsen, block and views exclude each other: use several stages")

    def rate(self, step):
        """Learning rate of step 0, 1, ... of this stage."""
        rise = max(1, self.n_steps // 10)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        along = (step - rise) / max(1, self.n_steps - rise)
        cosine = (1 + np.cos(np.pi * along)) / 2
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)


class Look(NamedTuple):
    """A volume, what it predicts, what was measured there, and the shares of the whole they are."""

    volume: object
    prediction: object
    data: object
    share_of_data: float = 1.0
    share_of_volume: float = 1.0


def look(stage, operator, data, background):
    """The function of a stage that a step calls with the field and a generator for its `Look`."""
    if stage.coarsen > 1:
        return _Coarse(stage.coarsen, operator, data, background)
    if stage.block is not None:
        return _Blocks(stage, operator, data, background)
    if stage.views is not None:
        return _Views(stage.views, operator, data, background)
    return _Whole(operator, data, background)


class _Whole:
    memory = None

    def __init__(self, operator, data, background):
        self.operator, self.data, self.background = operator, data, background

    def __call__(self, field, generator):
        volume = field.volume(self.operator.in_shape)
        return Look(volume, self.operator(volume) + self.background, self.data)


class _Coarse:
    memory = None

    def __init__(self, factor, operator, data, background):
        self.operator = coarsened(operator, factor)
        self.data, self.background = _mean(data, factor), _mean(background, factor)

    def __call__(self, field, generator):
        volume = field.volume(self.operator.in_shape)
        return Look(volume, self.operator(volume) + self.background, self.data)


class _Views:
    memory = None

    def __init__(self, n_views, operator, data, background):
        if not 1 <= n_views <= len(data):
            raise ValueError(f"views is {n_views}, but there are {len(data)}")
        self.n_views, self.operator = n_views, operator
        self.data, self.background = data, background.expand_as(data)

    def __call__(self, field, generator):
        import torch

        order = torch.randperm(len(self.data), generator=generator)[: self.n_views].tolist()
        volume = field.volume(self.operator.in_shape)
        prediction = self.operator.select(order)(volume) + self.background[order]
        return Look(volume, prediction, self.data[order], self.n_views / len(self.data))


class _Blocks:
    """Blocks of pixels of all views, with the voxels around them that they see."""

    def __init__(self, stage, operator, data, background):
        _needs_light_field(operator, "blocks")
        self.stage, self.operator, self.data = stage, operator, data
        self.background = background.expand_as(data)
        self.size = tuple(min(stage.block, n) for n in data.shape[-2:])
        self.halo = reach(operator.psf)
        window = tuple(n + 2 * self.halo for n in self.size)
        self.block_operator = LightField(operator.psf, window, self.size)
        self.memory = {"steps": 0, "chance": None}  # what an interrupted fit must get back

    def __call__(self, field, generator):
        y, x = self._corner(field, generator)
        view = (..., slice(y, y + self.size[0]), slice(x, x + self.size[1]))
        seen, inside = self._volume(field, y, x)
        return Look(
            inside,
            self.block_operator(seen) + self.background[view],
            self.data[view],
            self.size[0] * self.size[1] / (self.data.shape[-2] * self.data.shape[-1]),
            inside.numel() / float(np.prod(self.operator.in_shape)),
        )

    def _volume(self, field, y, x):
        """The voxels in the window of a block: padded with the dark beyond the grid, and bare."""
        import torch.nn.functional as F

        depth, *grid = self.operator.in_shape
        start, stop, before, after = [], [], [], []
        for corner, n, m, size in zip(
            (y, x), grid, self.operator.out_shape[1:], self.size, strict=True
        ):
            first = corner - (m // 2 - n // 2) - self.halo
            last = first + size + 2 * self.halo
            # a block at the rim of the views may see nothing: one voxel keeps it simple
            start.append(min(max(first, 0), n - 1))
            stop.append(max(min(last, n), start[-1] + 1))
            before.append(start[-1] - first)
            after.append(last - stop[-1])
        roi = (0, *start, depth, *(b - a for a, b in zip(start, stop, strict=True)))
        inside = field.volume(self.operator.in_shape, roi)
        return F.pad(inside, (before[1], after[1], before[0], after[0])), inside

    def _corner(self, field, generator):
        import torch

        room = [m - n for m, n in zip(self.data.shape[-2:], self.size, strict=True)]
        if self.stage.sampling == "error":
            if self.memory["steps"] % self.stage.refresh == 0:
                self.memory["chance"] = self._error_map(field)
            self.memory["steps"] += 1
            chance = self.memory["chance"].flatten()
            corner = int(torch.multinomial(chance, 1, generator=generator))
            return divmod(corner, room[1] + 1)
        return [int(torch.randint(n + 1, (1,), generator=generator)) for n in room]

    def _error_map(self, field):
        """Chance of a block at each corner: the mean squared residual in units of the noise."""
        import torch
        import torch.nn.functional as F

        with torch.no_grad():
            prediction = self.operator(field.volume(self.operator.in_shape)) + self.background
            squared = (prediction - self.data) ** 2 / prediction.clamp(min=1e-6)
            # what shot noise alone explains carries no information about the field
            excess = (F.avg_pool2d(squared.mean(0)[None], self.size, stride=1)[0] - 1).clamp(min=0)
            return (excess + 1e-3 * (1 + excess.mean())).cpu()


def coarsened(operator, factor):
    """A light field on voxels and pixels `factor` times as wide, of the same fields of view.

    The volume keeps its unit, photons in a voxel of the original size, and so do the views: the
    mean replaces the sum. Sizes must be divisible by ``2 * factor``, so that centres stay centres.
    """
    import torch
    import torch.nn.functional as F

    _needs_light_field(operator, "a coarse stage")
    sizes = (*operator.in_shape[1:], *operator.out_shape[1:])
    if any(n % (2 * factor) for n in sizes):
        raise ValueError(
            f"sizes {sizes} do not divide by {2 * factor}: crop or pad the views, or leave out "
            "the coarse stage"
        )
    h = operator.psf
    # a voxel spreads over `factor` small ones, a pixel averages as many: together a triangle
    triangle = torch.arange(1, 2 * factor, dtype=h.dtype, device=h.device)
    triangle = torch.minimum(triangle, 2 * factor - triangle) / factor
    kernel = (triangle[:, None] * triangle)[None, None]
    pads = []
    for n in (h.shape[-1], h.shape[-2]):
        centre = n // 2
        half = -(-max(centre, n - 1 - centre) // factor) * factor
        pads += [half - centre + factor - 1, half - (n - 1 - centre) + factor - 1]
    images = F.pad(h.reshape(-1, 1, *h.shape[-2:]), pads)
    small = F.conv2d(images, kernel, stride=factor)
    small = small.reshape(*h.shape[:2], *small.shape[-2:])
    return LightField(
        small,
        tuple(n // factor for n in operator.in_shape[1:]),
        tuple(n // factor for n in operator.out_shape[1:]),
    )


def reach(psf, energy=0.99):
    """Pixels from the centre of the PSF within which each view and depth has this share of it."""
    import torch

    size = psf.shape[-2:]
    y, x = ((torch.arange(n, device=psf.device) - n // 2).abs() for n in size)
    distance = torch.maximum(y[:, None], x[None, :]).flatten()
    images = psf.reshape(-1, distance.numel())
    rings = images.new_zeros(len(images), int(distance.max()) + 1)
    rings.index_add_(1, distance, images)
    share = rings.cumsum(1) / rings.sum(1, keepdim=True).clamp(min=1e-30)
    return int((share < energy).sum(1).max())


def _mean(x, factor):
    import torch.nn.functional as F

    if x.ndim < 2:
        return x
    return F.avg_pool2d(x[None] if x.ndim == 2 else x, factor)


def _needs_light_field(operator, what):
    if not isinstance(operator, LightField):
        raise TypeError(f"{what} need a LightField, not {type(operator).__name__}")
