"""Checks of a measured point image: what is wrong with it is said before it spoils an estimate."""

from __future__ import annotations

import warnings

import numpy as np

from ..arrays import to_numpy

DARK = 0.02  # of the peak: the most that the rim may hold in the sharpest plane
SMALL = 7  # px: a smaller image has no rim to speak of


def warn_of_flaws(psf, *, off_centre, normalised):
    """Warn where a point image (Y, X) or (Z, Y, X) is not one.

    Parameters
    ----------
    psf : array or tensor
        Its middle should be the sample ``n // 2`` across.
    off_centre : float
        Distance in px of the light's centroid from there that is still quiet. Coma moves it by
        some tenths.
    normalised : bool
        Its sum should be about 1, and a stack is of (Z, Y, X): a kernel.
    """
    image = to_numpy(psf).astype(float)
    found = list(_flaws(image if image.ndim == 3 else image[None], off_centre))
    if normalised:
        found += _flaws_of_kernel(image)
    if found:
        warnings.warn(f"the point image has flaws: {'; '.join(found)}", stacklevel=4)


def _flaws(stack, off_centre):
    """Of the sharpest plane, in which light is most compact."""
    plane = stack[stack.max((1, 2)).argmax()]
    if min(plane.shape) < SMALL or not plane.max() > 0:
        return
    rim = np.concatenate([plane[[0, -1]].ravel(), plane[1:-1, [0, -1]].ravel()])
    level = float(np.median(rim))
    if level > DARK * plane.max():
        share = 100 * level / plane.max()
        yield f"its rim holds {share:.1f} % of the peak: subtract the background, or cut it larger"
    if -plane[plane < 0].sum() > 0.05 * plane.sum():
        yield "its negative values are large: average more beads, or smooth"
    light = (plane - level).clip(min=0.1 * plane.max()) - 0.1 * plane.max()
    if light.sum() > 0:
        place = [
            (light.sum(1 - axis) @ np.arange(n)) / light.sum() - n // 2
            for axis, n in enumerate(plane.shape)
        ]
        if np.hypot(*place) > off_centre:
            y, x = place
            yield f"it lies {x:+.2f} px along x and {y:+.2f} along y off its middle: align it"


def _flaws_of_kernel(kernel):
    total = kernel.sum()
    if not 0.1 < total < 10:
        yield f"it sums to {total:.3g}: divide it by its sum, so that light stays light"
    if kernel.ndim == 3 and min(kernel.shape) >= SMALL:
        depth, down, across = (_extent(kernel, axis) for axis in range(3))
        alike = min(abs(depth / down - 1), abs(depth / across - 1)) < 0.15
        if alike and max(down, across) > 1.3 * min(down, across):
            yield "its axes look exchanged: the order is (Z, Y, X)"


def _extent(kernel, axis):
    """Standard deviation along an axis, in voxels."""
    light = kernel.sum(tuple(k for k in range(3) if k != axis))
    place = np.arange(len(light))
    mean = light @ place / light.sum()
    return float(np.sqrt(light @ (place - mean) ** 2 / light.sum()))
