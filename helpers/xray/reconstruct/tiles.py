"""Large fields tile by tile, blended so that no seam is seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..cameras import SCALE


def by_tiles(
    net: Callable[..., torch.Tensor],
    lr: torch.Tensor,
    hr: torch.Tensor,
    tau: torch.Tensor,
    *,
    tile: int | None = 256,
    overlap: int = 64,
    batch: int = 4,
) -> torch.Tensor:
    r"""One frame (Y, X), blended from the tiles of a large field.

    Parameters
    ----------
    net : callable
        ``net(lr, hr, tau)``.
    lr : (1, 3, 1, h, w) tensor
    hr : (1, 2, 1, 4h, 4w) tensor
    tau : (1,) tensor
    tile : int or None
        Side in sharp pixels; a field that is not larger is taken at once, as with None.
    overlap : int
        Of neighbouring tiles, at least, in sharp pixels.
    batch : int
        Tiles at a time.

    Returns
    -------
    (Y, X) tensor

    Raises
    ------
    ValueError
        A tile or overlap that is no multiple of 4, or an overlap of more than half a tile.

    Notes
    -----
    Tile :math:`k` has a weight :math:`w_k` that rises linearly from its inner borders over the
    overlap, and the frame is :math:`\sum_k w_k x_k / \sum_k w_k`. Where tiles agree nothing is
    seen of them; where they do not, because a network looks further than the overlap, the step is
    spread over it. Shown in :doc:`/book/xray/06_reconstruct`.

    Examples
    --------
    >>> lr, hr = torch.ones(1, 3, 1, 24, 32), torch.rand(1, 2, 1, 96, 128)
    >>> frame = by_tiles(lambda lr, hr, tau: hr[:, 0], lr, hr, torch.ones(1), tile=64, overlap=16)
    >>> torch.allclose(frame, hr[0, 0, 0])
    True
    """
    check_tiles(tile, overlap, batch)
    height, width = hr.shape[-2:]
    if tile is None or (height <= tile and width <= tile):
        return net(lr, hr, tau)[0, 0]
    corners = [
        (y, x) for y in _starts(height, tile, overlap) for x in _starts(width, tile, overlap)
    ]
    total = hr.new_zeros(height, width)
    weights = hr.new_zeros(height, width)
    for first in range(0, len(corners), batch):
        cuts = corners[first : first + batch]
        coarse = [_cut(lr, y // SCALE, x // SCALE, tile // SCALE) for y, x in cuts]
        sharp = [_cut(hr, y, x, tile) for y, x in cuts]
        answers = net(torch.cat(coarse), torch.cat(sharp), tau.expand(len(cuts)))
        for (y, x), answer in zip(cuts, answers[:, 0], strict=True):
            weight = _ramp(y, height, tile, overlap, hr)[:, None] * _ramp(
                x, width, tile, overlap, hr
            )
            part = np.s_[y : y + tile, x : x + tile]
            total[part] += weight * answer
            weights[part] += weight
    return total / weights


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of the tiles: evenly spread, each on a coarse pixel, the last one at the end."""
    if length <= tile:
        return [0]
    n = -(-(length - overlap) // (tile - overlap))
    room = (length - tile) // SCALE
    return [SCALE * round(k * room / (n - 1)) for k in range(n)]


def _ramp(start: int, length: int, tile: int, overlap: int, like: torch.Tensor) -> torch.Tensor:
    """Weights along one axis: 1, but falling towards tiles on either side."""
    size = min(tile, length)
    weight = like.new_ones(size)
    slope = (torch.arange(overlap, device=like.device, dtype=like.dtype) + 0.5) / max(overlap, 1)
    if overlap and start > 0:
        weight[:overlap] *= slope
    if overlap and start + size < length:
        weight[size - overlap :] *= slope.flip(0)
    return weight


def _cut(images: torch.Tensor, y: int, x: int, size: int) -> torch.Tensor:
    return images[..., y : y + size, x : x + size]


def check_tiles(tile: int | None, overlap: int, batch: int) -> None:
    """Raise a ValueError unless the sizes are ones that `by_tiles` can work with."""
    if tile is not None and (tile % SCALE or overlap % SCALE or not 0 <= 2 * overlap <= tile):
        raise ValueError(
            f"tile is {tile} and overlap {overlap}: give multiples of {SCALE}, the overlap at most "
            "half a tile"
        )
    if batch < 1:
        raise ValueError(f"batch is {batch}: give 1 or more")
