r"""Attention inside windows of space and time, and windows that shift.

Volumes are (B, T, h, w, E): frames of tokens, each a vector of E numbers. A window holds N tokens.
Derived in :doc:`/book/xray/04_swin`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

Sides: TypeAlias = tuple[int, ...]  # in time, down and to the right


def window_partition(x: torch.Tensor, window: Sides) -> torch.Tensor:
    """Cut a volume into windows.

    Parameters
    ----------
    x : (B, T, h, w, ...) tensor
        Sides are multiples of the window's.
    window : (int, int, int)
        Sides in time, down and to the right.

    Returns
    -------
    (B, n, N, ...) tensor
        n windows of N tokens each, both in the order of the volume.

    Raises
    ------
    ValueError
        A side that the window does not divide.

    Examples
    --------
    >>> window_partition(torch.arange(16).reshape(1, 1, 4, 4), (1, 2, 2))[0, 1].tolist()
    [2, 3, 6, 7]
    """
    t, h, w = _counts(x.shape[1:4], window)
    cut = x.reshape(x.shape[0], t, window[0], h, window[1], w, window[2], *x.shape[4:])
    axes = (0, 1, 3, 5, 2, 4, 6, *range(7, cut.ndim))
    return cut.permute(axes).flatten(4, 6).flatten(1, 3)


def window_reverse(windows: torch.Tensor, window: Sides, sizes: Sides) -> torch.Tensor:
    """Put windows back into their volume: the inverse of `window_partition`.

    Parameters
    ----------
    windows : (B, n, N, ...) tensor
    window : (int, int, int)
    sizes : (int, int, int)
        T, h and w of the volume.

    Returns
    -------
    (B, T, h, w, ...) tensor

    Examples
    --------
    >>> x = torch.randn(2, 5, 8, 12, 3)
    >>> bool((window_reverse(window_partition(x, (5, 4, 4)), (5, 4, 4), (5, 8, 12)) == x).all())
    True
    """
    counts = _counts(sizes, window)
    rest = windows.shape[3:]
    cut = windows.reshape(windows.shape[0], *counts, *window, *rest)
    axes = (0, 1, 4, 2, 5, 3, 6, *range(7, cut.ndim))
    return cut.permute(axes).reshape(windows.shape[0], *sizes, *rest)


def window_shift(sizes: Sides, window: Sides) -> Sides:
    """Half a window along each axis, and nothing where one window spans the whole axis.

    Examples
    --------
    >>> window_shift((5, 16, 16), (5, 8, 8))
    (0, 4, 4)
    """
    return tuple(side // 2 if size > side else 0 for size, side in zip(sizes, window, strict=True))


def wrapped_regions(sizes: Sides, window: Sides, shift: Sides) -> torch.Tensor:
    """Number the parts of a rolled volume that were neighbours before it was rolled.

    Parameters
    ----------
    sizes, window, shift : (int, int, int)
        Volume, window, and by how much the volume is rolled towards its start.

    Returns
    -------
    (T, h, w) integer tensor
        Along each rolled axis: 0 for windows that hold no seam, then 1 and 2 before and after the
        seam of the last window. Equal numbers in one window may see each other.

    Examples
    --------
    >>> wrapped_regions((1, 1, 8), (1, 1, 4), (0, 0, 2))[0, 0].tolist()
    [0, 0, 0, 0, 1, 1, 2, 2]
    """
    region = torch.zeros(1, dtype=torch.long)
    for size, side, step in zip(sizes, window, shift, strict=True):
        place = torch.arange(size)
        part = (place >= size - side).long() + (place >= size - step).long() if step else 0 * place
        region = 3 * region[..., None] + part
    return region[0]


@lru_cache(maxsize=16)
def shift_mask(sizes: Sides, window: Sides, shift: Sides) -> torch.Tensor:
    """Say which tokens of a window may see each other when the volume was rolled.

    Parameters
    ----------
    sizes, window, shift : (int, int, int)

    Returns
    -------
    (n, N, N) float32 tensor
        0 for pairs of one region, -100 for the others: what is added to the scores before softmax.

    Examples
    --------
    >>> shift_mask((1, 1, 4), (1, 1, 4), (0, 0, 2))[0, 0].tolist()
    [0.0, 0.0, -100.0, -100.0]
    """
    region = window_partition(wrapped_regions(sizes, window, shift)[None], window)[0]
    return torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)


@lru_cache(maxsize=16)
def relative_positions(window: Sides) -> torch.Tensor:
    """Row of the bias table for each pair of tokens in a window.

    Parameters
    ----------
    window : (int, int, int)

    Returns
    -------
    (N, N) integer tensor
        Equal for pairs with the same displacement in time and space; 0 up to
        ``(2 T - 1) (2 h - 1) (2 w - 1) - 1``.

    Examples
    --------
    >>> relative_positions((1, 1, 3)).tolist()
    [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    """
    axes = torch.meshgrid(*(torch.arange(side) for side in window), indexing="ij")
    row = torch.zeros((), dtype=torch.long)
    for axis, side in zip(axes, window, strict=True):
        place = axis.flatten()
        row = row * (2 * side - 1) + place[:, None] - place + side - 1
    return row


class WindowAttention(nn.Module):
    r"""Every token of a window looks at all tokens of its window.

    Parameters
    ----------
    width : int
        Numbers E in a token.
    window : (int, int, int)
        Sides in time and space.
    heads : int
        Attention heads H; divides `width`.

    Notes
    -----
    .. math:: \mathrm{softmax}\Bigl( \frac{q k^\top}{\sqrt{E / H}} + b + m \Bigr)\, v ,

    with a learned bias b that depends on the displacement of the two tokens, H numbers for each of
    the :math:`(2T-1)(2h-1)(2w-1)` displacements :cite:p:`liu2021`, and the mask m of `shift_mask`.

    Examples
    --------
    >>> attend = WindowAttention(12, (5, 4, 4), heads=2)
    >>> attend(torch.randn(1, 5, 8, 8, 12), shift=(0, 2, 2)).shape
    torch.Size([1, 5, 8, 8, 12])
    >>> attend.bias.shape
    torch.Size([441, 2])
    """

    def __init__(self, width: int, window: Sides, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}: choose another")
        self.window, self.heads = tuple(window), heads
        displacements = math.prod(2 * side - 1 for side in self.window)
        self.bias = nn.Parameter(torch.zeros(displacements, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: torch.Tensor, shift: Sides = (0, 0, 0)) -> torch.Tensor:
        """Attend inside the windows of `x` (B, T, h, w, E), after a roll by `shift` and back."""
        sizes, rolled = tuple(x.shape[1:4]), any(shift)
        if rolled:
            x = x.roll([-step for step in shift], (1, 2, 3))
        tokens = window_partition(x, self.window)
        batch, n, size, width = tokens.shape
        # a head of a window is to the kernel what a head is: no score leaves it
        q, k, v = (
            self.qkv(tokens)
            .reshape(batch, n, size, 3, self.heads, width // self.heads)
            .permute(3, 0, 1, 4, 2, 5)
            .flatten(2, 3)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=self._scores(sizes, shift, n, q))
        seen = seen.unflatten(1, (n, self.heads)).transpose(2, 3).flatten(3)
        y = window_reverse(self.out(seen), self.window, sizes)
        return y.roll(shift, (1, 2, 3)) if rolled else y

    def _scores(self, sizes: Sides, shift: Sides, n: int, like: torch.Tensor) -> Any:
        """Bias and mask (n H, N, N), what is added to the scores."""
        rows = relative_positions(self.window).to(like.device)
        bias = self.bias[rows].permute(2, 0, 1).to(like.dtype)
        if any(shift):
            mask = shift_mask(sizes, self.window, tuple(shift)).to(like)
            return (bias + mask[:, None]).flatten(0, 1)
        return bias.expand(n, -1, -1, -1).flatten(0, 1)


def _counts(sizes: Sides, window: Sides) -> Sides:
    if any(size % side for size, side in zip(sizes, window, strict=True)):
        raise ValueError(
            f"{tuple(sizes)} (T, h, w) is not a multiple of the window {tuple(window)}: pad it"
        )
    return tuple(size // side for size, side in zip(sizes, window, strict=True))
