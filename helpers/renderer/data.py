"""Pieces of images cut at random, with their place or with the same piece of a clean image.

Called with a generator they are data for `helpers.renderer.train.Trainer`; by index they give the
same piece each time, for validation. The images come from memory or from a `helpers.io.Stack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import Array

__all__ = ["Pairs"]


class Crops:
    """Pieces of a stack or volume, with the place that each was cut from.

    Parameters
    ----------
    source : Stack or (N, Y, X) array
        Frames, or the slices of a volume.
    shape : (int, int) or (int, int, int)
        (Y, X): pieces of single frames. (Z, Y, X): pieces of the volume.
    n : int
        How many pieces there are by index.
    seed : int
        Of the pieces by index.

    Raises
    ------
    ValueError
        A piece larger than the source.

    Examples
    --------
    >>> crops = Crops(np.arange(6 * 16 * 16).reshape(6, 16, 16), (2, 8, 8), n=4, seed=1000)
    >>> piece, place = crops[3]
    >>> piece.shape, bool((crops[3][0] == piece).all())
    ((2, 8, 8), True)
    >>> pieces, places = crops(5, np.random.default_rng(0))
    >>> pieces.shape, places.shape
    ((5, 2, 8, 8), (5, 3))
    """

    def __init__(self, source: Any, shape: Sequence[int], *, n: int = 1, seed: int = 0) -> None:
        self.source, self.shape = source, tuple(int(size) for size in shape)
        self.n, self.seed = int(n), int(seed)
        whole = tuple(source.shape)
        block = (1,) * (3 - len(self.shape)) + self.shape
        fits = len(whole) == len(block) == 3 and min(block) > 0
        if not fits or any(b > w for b, w in zip(block, whole, strict=True)):
            raise ValueError(f"pieces {self.shape} of a stack {whole}: make them fit")
        self._block = block
        self._room: Any = np.array(whole) - block + 1

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        """Piece k and its place (z, y, x), the same in every run."""
        if not 0 <= k < self.n:
            raise IndexError(f"piece {k} of {self.n}")
        return self.draw(np.random.default_rng((self.seed, k)))

    def __call__(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw n pieces (n, ...) and their places (n, 3), the first pixel of each."""
        pieces, places = zip(*(self.draw(rng) for _ in range(n)), strict=True)
        return np.stack(pieces), np.stack(places)

    def draw(self, rng: np.random.Generator) -> tuple[Array, np.ndarray]:
        """Draw one piece and its place: frame or slice, row and column of its first pixel."""
        place = rng.integers(self._room)
        return self.cut(self.source, place), place

    def cut(self, source: Array, place: np.ndarray) -> Array:
        """Cut the piece at a place out of a source, which may be another one of that shape."""
        z, y, x = (int(start) for start in place)
        depth, height, width = self._block
        piece = np.stack([source[k][y : y + height, x : x + width] for k in range(z, z + depth)])
        return piece.reshape(self.shape).astype(np.float32, copy=False)


class Pairs:
    """Pieces of a noisy stack with the same pieces of a clean one.

    Parameters
    ----------
    noisy : Stack or (N, Y, X) array
    clean : Stack or (N, Y, X) or (1, Y, X) array
        One frame serves for all noisy frames of a still scene.
    shape : (int, int)
        (Y, X) of a piece.
    n, seed : int
        See `Crops`.

    Raises
    ------
    ValueError
        Stacks of different shapes, or a piece larger than they are.

    Notes
    -----
    As data of a `Trainer` the noisy pieces are images and the clean ones what belongs to them:
    `helpers.renderer.denoise.BlindSpot` learns to predict these. To denoise without truth, only
    look at the clean ones afterwards.

    Examples
    --------
    >>> frames = np.random.default_rng(0).random((4, 16, 16))
    >>> noisy, clean = Pairs(frames + 1, frames, (8, 8))[0]
    >>> bool(np.allclose(noisy, clean + 1))
    True
    """

    def __init__(
        self, noisy: Array, clean: Array, shape: Sequence[int], *, n: int = 1, seed: int = 0
    ) -> None:
        self.clean = clean
        self._crops = Crops(noisy, shape, n=n, seed=seed)
        sizes = [s.shape for s in (noisy, clean)]
        self._shared = sizes[1][0] == 1
        if sizes[0][1:] != sizes[1][1:] or sizes[1][0] not in (1, sizes[0][0]):
            raise ValueError(
                f"the noisy stack is {sizes[0]} but the clean one {sizes[1]}: give frames of one "
                "shape, as many of them or a single clean one"
            )

    def __len__(self):
        return len(self._crops)

    def __getitem__(self, k):
        """Noisy and clean piece k, the same in every run."""
        return self._with_clean(*self._crops[k])

    def __call__(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw n pairs of pieces, both (n, Y, X)."""
        drawn = [self._with_clean(*self._crops.draw(rng)) for _ in range(n)]
        noisy, clean = zip(*drawn, strict=True)
        return np.stack(noisy), np.stack(clean)

    def _with_clean(self, piece, place):
        at = (0, *place[1:]) if self._shared else place
        return piece, self._crops.cut(self.clean, at)
