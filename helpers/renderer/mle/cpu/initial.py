"""Compiled measurements of `helpers.renderer.mle.initial` on an image."""

from __future__ import annotations

import numpy as np
from numba import njit

_jit = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_jit
def _clipped_border(image, use):
    """Mean of the border, without what is two of its standard deviations above it."""
    height, width = image.shape
    ceiling, mean = np.inf, 0.0
    for _ in range(2):
        total, squares, n = 0.0, 0.0, 0.0
        for i in range(height):
            stride = 1 if i == 0 or i == height - 1 else max(width - 1, 1)
            for j in range(0, width, stride):
                weight = use[i, j] if image[i, j] <= ceiling else 0.0
                total += weight * image[i, j]
                squares += weight * image[i, j] ** 2
                n += weight
        mean = total / n if n > 0 else 0.0
        variance = squares / n - mean**2 if n > 0 else 0.0
        ceiling = mean + 2 * np.sqrt(max(variance, 0.0))
    return max(mean, 0.01)


@_jit
def _smooth(image, use, background, net, across, smooth):
    """Mean over 3 x 3 pixels of what is above the background; returns its sum before that.

    `net` (Y + 2, X + 2) has a dark border; `across` is scratch of the same shape.
    """
    height, width = image.shape
    total = 0.0
    for i in range(height):
        for j in range(width):
            value = (image[i, j] - background) * use[i, j]
            net[i + 1, j + 1] = value
            total += value
    flat, sums = net.ravel(), across.ravel()
    for k in range(flat.size - 2):
        sums[k] = flat[k] + flat[k + 1] + flat[k + 2]
    for i in range(height):
        for j in range(width):
            smooth[i, j] = (across[i, j] + across[i + 1, j] + across[i + 2, j]) * (1 / 9)
    return total


@_jit
def _top(smooth):
    best, row, column = smooth[0, 0], 0, 0
    for i in range(smooth.shape[0]):
        for j in range(smooth.shape[1]):
            if smooth[i, j] > best:
                best, row, column = smooth[i, j], i, j
    return row, column


@_jit
def measure(images: np.ndarray, use: np.ndarray, background: np.ndarray, found: np.ndarray) -> None:
    """Write background, sum above it, top of the smoothed image, x and y to `found` (B, 5).

    `background` holds what is known, or NaN; `use` is (B, Y, X) or (1, Y, X).
    """
    n_images, height, width = images.shape
    net = np.zeros((height + 2, width + 2))
    across = np.empty_like(net)
    smooth = np.empty((height, width))
    for b in range(n_images):
        level, counts = background[b], use[b if len(use) > 1 else 0]
        if np.isnan(level):
            level = _clipped_border(images[b], counts)
        total = _smooth(images[b], counts, level, net, across, smooth)
        row, column = _top(smooth)
        top, least = smooth[row, column], np.inf
        for i in range(-2, 3):
            for j in range(-2, 3):
                at, beside = min(max(row + i, 0), height - 1), min(max(column + j, 0), width - 1)
                least = min(least, smooth[at, beside])
        weight, x, y = 0.0, 0.0, 0.0
        for i in range(-2, 3):
            for j in range(-2, 3):
                at, beside = min(max(row + i, 0), height - 1), min(max(column + j, 0), width - 1)
                w = (smooth[at, beside] - least) ** 2 + 1e-12
                weight += w
                x += w * beside
                y += w * at
        found[b, 0], found[b, 1], found[b, 2] = level, total, top
        found[b, 3] = x / weight - (width - 1) / 2
        found[b, 4] = y / weight - (height - 1) / 2
