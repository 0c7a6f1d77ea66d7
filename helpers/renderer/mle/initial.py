"""Initial estimates: the brightest place, the light above the border, and the width of the two.

Works for every renderer that shows one emitter an image: what a parameter means is read from its
name. Depth cannot be read off an image so easily; a fit tries several planes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from ..params import Param
from ..renderers.base import Renderer
from ._checks import each_or_shared
from .cpu.initial import measure

N_PLANES = 5


def find_start(
    images: torch.Tensor, use: torch.Tensor, renderer: Renderer, fixed: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A start for each image: a dict by name of tensors (B,).

    The background is the mean of the border, without pixels that stand out of it. The place is the
    centroid, within two pixels of the maximum, of the image smoothed over 3 x 3 pixels. A Gaussian
    of width s has the peak ``photons / (2 pi s^2)``, which gives the width. Other names take their
    `start`.
    """
    if len(renderer.image_shape) != 2:
        raise ValueError(
            f"the renderer's images are {renderer.image_shape}: give `start`, a dict by name; "
            "starts are found for images (Y, X) of one emitter"
        )
    background = fixed.get("background")
    if background is None:
        background = torch.full_like(images[:, 0, 0], torch.nan)
    measure = _measure_compiled if images.device.type == "cpu" else _measure
    background, total, top, x, y = measure(images, use, background)
    # the sum of a dim spot may vanish in the noise; what lies around its top does not
    photons = fixed.get("photons", torch.maximum(total, 9 * top).clamp(min=1))
    # smoothing widens: the variance of three pixels in a row is 8/12, and of one pixel 1/12
    variance = photons / (2 * math.pi * top.clamp(min=1e-3)) - 9 / 12
    known = {"x": x, "y": y, "photons": photons, "background": background}
    start = {}
    for name, param in renderer.params.items():
        guess = known.get(name)
        if name.startswith("sigma"):
            guess = variance.clamp(min=0.25).sqrt()
        elif guess is None:
            guess = torch.full_like(photons, param.start)
        start[name] = fixed.get(name, guess)
    return start


def planes(param: Param) -> list[float]:
    """Values of a depth, evenly between the limits of its Param."""
    low, high = param.transform.low, param.transform.high
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"{param.name} has no limits: give `start`, or bound its transform")
    return [low + (high - low) * (k + 0.5) / N_PLANES for k in range(N_PLANES)]


def _measure_compiled(images, use, background):
    found = np.empty((len(images), 5))
    arrays = images, each_or_shared(use), background
    measure(*(t.double().contiguous().numpy() for t in arrays), found)
    return torch.from_numpy(found).to(images.dtype).unbind(1)


def _measure(images, use, background):
    """Background, sum above it, top of the smoothed image, x and y: tensors (B,)."""
    background = torch.where(background.isnan(), _clipped_border(images, use), background)
    net = (images - background[:, None, None]) * use
    smooth = torch.nn.functional.avg_pool2d(net[:, None], 3, 1, 1)[:, 0]
    x, y = _centroid_at_the_top(smooth)
    return background, net.sum((1, 2)), smooth.amax((1, 2)), x, y


def _clipped_border(images, use):
    border = torch.ones_like(images[:1], dtype=torch.bool)
    border[:, 1:-1, 1:-1] = False
    use = use * border

    def mean(values, use):
        return ((values * use).sum((1, 2)) / use.sum((1, 2))).nan_to_num()

    first = mean(images, use)
    ceiling = first + 2 * (mean(images**2, use) - first**2).clamp(min=0).sqrt()
    return mean(images, use * (images <= ceiling[:, None, None])).clamp(min=0.01)


def _centroid_at_the_top(smooth):
    height, width = smooth.shape[1:]
    top = smooth.flatten(1).argmax(1)
    row, column = top // width, top % width
    offset = torch.arange(-2, 3, device=smooth.device)
    rows = (row[:, None] + offset).clamp(0, height - 1)
    columns = (column[:, None] + offset).clamp(0, width - 1)
    batch = torch.arange(len(smooth), device=smooth.device)[:, None, None]
    around = smooth[batch, rows[:, :, None], columns[:, None, :]]
    weight = (around - around.amin((1, 2), keepdim=True)) ** 2 + 1e-12
    total = weight.sum((1, 2))
    x = (weight.sum(1) * columns).sum(1) / total - (width - 1) / 2
    y = (weight.sum(2) * rows).sum(1) / total - (height - 1) / 2
    return x, y
