"""Compiled parts of the search over whole frames: separable filter, medians, sums, peaks."""

from __future__ import annotations

import numpy as np
from numba import njit

HALF = np.float32(0.5)

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_jit
def _add(weight, source, target):
    for j in range(target.size):
        target[j] += weight * source[j]


@_jit
def correlate(images: np.ndarray, column: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    """Add to `out` (B, Y, X) the correlation with an odd column and row; zero beyond the rim."""
    n, height, width = images.shape
    up, left = column.size // 2, row.size // 2
    line = np.zeros(width + 2 * left, images.dtype)
    for b in range(n):
        for i in range(height):
            line[:] = 0
            for k in range(max(0, up - i), min(column.size, height + up - i)):
                _add(column[k], images[b, i + k - up], line[left : left + width])
            target = out[b, i]
            for k in range(row.size):
                _add(row[k], line[k : k + width], target)


@_jit
def _up_to(values, n, level):
    """Of the first `n` values so many are at most `level`."""
    found = np.int32(0)
    for i in range(n):
        found += np.int32(values[i] <= level)
    return found


@_jit
def _smallest(values, n, rank):
    """Number `rank` of the first `n` values in order, by halving the range of what it can be.

    The passes have no branch, so that the compiler takes many values at a time: two to four times
    as fast as a partition.
    """
    low = high = values[0]
    for i in range(1, n):
        low, high = min(low, values[i]), max(high, values[i])
    while _up_to(values, n, low) <= rank:
        # a value between low and high: low moves up past the middle, or high down to it
        middle = low + (high - low) * HALF
        while middle < high and middle > low and _up_to(values, n, middle) > rank:
            high, middle = middle, low + (middle - low) * HALF
        if middle >= high:
            middle = low
        first = high
        for i in range(n):
            first = min(first, values[i] if values[i] > middle else high)
        low = first
    return low


@_jit
def block_medians(
    counts: np.ndarray, use: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray
) -> None:
    """Lower median of the pixels that count in each block; 0 where none does.

    Parameters
    ----------
    counts, use : (B, Y, X) arrays
    rows, columns : arrays of int
        Edges of the blocks, one more than there are.
    out : (B, R, C) array
        Written.
    """
    kept = np.empty(counts.shape[1] * counts.shape[2] + 1, counts.dtype)
    for b in range(counts.shape[0]):
        for r in range(out.shape[1]):
            for c in range(out.shape[2]):
                n = 0
                for i in range(rows[r], rows[r + 1]):
                    for j in range(columns[c], columns[c + 1]):
                        kept[n] = counts[b, i, j]
                        n += use[b, i, j]
                out[b, r, c] = _smallest(kept, n, (n - 1) // 2) if n else 0.0


@_jit
def sums_about(
    images: np.ndarray, region: np.ndarray, row: np.ndarray, column: np.ndarray, half: int
) -> np.ndarray:
    """Sum of the pixels of an image within `half` of each place, along both axes."""
    sums = np.zeros(region.size, images.dtype)
    height, width = images.shape[1:]
    for n in range(region.size):
        for i in range(max(0, row[n] - half), min(height, row[n] + half + 1)):
            for j in range(max(0, column[n] - half), min(width, column[n] + half + 1)):
                sums[n] += images[region[n], i, j]
    return sums


@_jit
def peaks(significance: np.ndarray, reach: int, level: float) -> np.ndarray:
    """Frame, row and column (N, 3) of what exceeds `level` and all within `reach` px of it."""
    n, height, width = significance.shape
    found = []
    for b in range(n):
        for i in range(height):
            for j in range(width):
                value = significance[b, i, j]
                if not value > level:
                    continue
                highest = True
                for k in range(max(0, i - reach), min(height, i + reach + 1)):
                    for m in range(max(0, j - reach), min(width, j + reach + 1)):
                        if significance[b, k, m] > value:
                            highest = False
                            break
                    if not highest:
                        break
                if highest:
                    found.append((b, i, j))
    places = np.empty((len(found), 3), np.int64)
    for k, (b, i, j) in enumerate(found):
        places[k, 0], places[k, 1], places[k, 2] = b, i, j
    return places
