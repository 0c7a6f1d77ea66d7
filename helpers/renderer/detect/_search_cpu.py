"""Compiled parts of the search over whole frames: separable filter, medians, sums, peaks."""

from __future__ import annotations

import numpy as np
from numba import njit

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
def _smallest(values, n, rank):
    """Number `rank` of the first `n` values in order, by partition about pivots."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]


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
    kept = np.empty(counts.shape[1] * counts.shape[2], counts.dtype)
    for b in range(counts.shape[0]):
        for r in range(out.shape[1]):
            for c in range(out.shape[2]):
                n = 0
                for i in range(rows[r], rows[r + 1]):
                    for j in range(columns[c], columns[c + 1]):
                        if use[b, i, j]:
                            kept[n] = counts[b, i, j]
                            n += 1
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
