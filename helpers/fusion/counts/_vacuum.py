"""Parts of an image of a specimen where there is no specimen."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_opening, gaussian_filter, map_coordinates, maximum_filter

SMOOTH = 2.0  # px, standard deviation: noise must not make a pixel dark
DARK = 0.05  # of the range of the image
SMALLEST = 9  # px
AGREES = 0.4  # autocorrelation of a lattice moved by one of its vectors
RISES = 0.1  # above the least on the way there


def vacuum(image: np.ndarray) -> np.ndarray:
    """Dark regions of the HAADF that are wider than what lies between two columns of atoms.

    Light atoms may stand in what is dark between heavy ones, so counts there are no background.
    """
    smooth = gaussian_filter(image, SMOOTH)
    low, high = smooth.min(), np.quantile(smooth, 0.99)
    dark = smooth < low + DARK * (high - low)
    if not dark.any():
        return dark
    wide = max(SMALLEST, min(image.shape) // 16, int(np.ceil(lattice_spacing(smooth))))
    return np.asarray(binary_opening(dark, np.ones((wide, wide), bool)))


def lattice_spacing(image: np.ndarray) -> float:
    """Length in pixels of the longer one of two lattice vectors; 0 of an image without a lattice.

    They are the two shortest vectors in different directions at which the autocorrelation has a
    peak. A few particles have one such vector at most, and it agrees less.
    """
    height, width = image.shape
    reach = min(height, width) // 2
    size = (2 * height, 2 * width)  # so that opposite edges do not meet

    def correlated(f: np.ndarray) -> np.ndarray:
        whole = np.fft.irfft2(np.abs(np.fft.rfft2(f, size)) ** 2, size)
        middle = np.roll(whole, (reach, reach), (0, 1))
        return np.asarray(middle[: 2 * reach + 1, : 2 * reach + 1])

    mean = image.mean()
    found = correlated(image - mean) / np.maximum(correlated(np.ones_like(image)), 1)
    if not found[reach, reach] > 0:
        return 0.0
    found /= found[reach, reach]
    tops = (found == maximum_filter(found, 7)) & (found > AGREES)
    vectors: list[tuple[float, int, int]] = []
    for y, x in np.argwhere(tops) - reach:
        length = float(np.hypot(y, x))
        if (y, x) <= (0, 0) or not 2 * SMOOTH <= length <= reach:
            continue
        way = np.linspace(0, 1, int(2 * length) + 2)
        least = map_coordinates(found, (reach + way * y, reach + way * x), order=1).min()
        if found[reach + y, reach + x] - least > RISES:
            vectors.append((length, int(y), int(x)))
    vectors.sort()
    for length, y, x in vectors[1:]:
        first, v, u = vectors[0]
        if abs(v * x - u * y) > 0.3 * first * length:  # the sine of the angle between them
            return length
    return 0.0
