"""Input checks of this part: noise models, renderers, and measured point images."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .._arrays import Array, to_numpy, to_tensor
from ..noise._checks import NoiseModel

DARK = 0.02  # of the peak: the most that the rim may hold in the sharpest plane
SMALL = 7  # px: a smaller image has no rim to speak of


def checked_noise(noise: Any, image_shape: Sequence[int]) -> NoiseModel:
    """The noise model, if it is an instance and its map has the shape of the images."""
    if isinstance(noise, type):
        name = noise.__name__
        raise TypeError(f"noise is the class {name}: give an instance, such as {name}()")
    if not hasattr(noise, "deviance"):
        raise TypeError(
            f"noise is {noise!r}: give a model of helpers.noise, such as Poisson(), "
            "SCMOS(variance), PoissonGauss(variance) or EMCCD(gain)"
        )
    shape = tuple(np.shape(getattr(noise, "variance", 0.0)))
    if len(shape) >= 2 and shape[-2:] != tuple(image_shape)[-2:]:
        raise ValueError(
            f"the variance of {type(noise).__name__} is a map of {shape} but images are "
            f"{tuple(image_shape)}: crop both alike"
        )
    return noise


def checked_renderer(renderer: Any) -> Any:
    """The renderer, if it is an instance."""
    if isinstance(renderer, type):
        name = renderer.__name__
        raise TypeError(f"the renderer is the class {name}: give an instance, {name}(image_shape)")
    if not hasattr(renderer, "params"):
        raise TypeError(f"{renderer!r} is no renderer: give one of helpers.renderer.renderers")
    return renderer


def check_counts(noise: NoiseModel, counts: torch.Tensor) -> None:
    """Raise a ValueError for counts that the likelihood cannot hold, by the lowest of them."""
    if len(counts):
        lowest = counts.amin()
        pixel = lowest.expand((1,) * counts.ndim)
        scalar: Any = copy.copy(noise)
        if np.ndim(getattr(noise, "variance", 0.0)):
            scalar.variance = to_tensor(scalar.variance, counts.device, counts.dtype).amax()
        scalar.deviance(torch.ones_like(pixel), pixel)


def warn_of_flaws(psf: Array, *, off_centre: float, normalised: bool) -> None:
    """Warn where a point image (Y, X) or (Z, Y, X) is not one.

    A centroid of the light within `off_centre` px of the sample ``n // 2`` is still quiet: coma
    moves it by some tenths. With `normalised` it is a kernel, which sums to about 1.
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
