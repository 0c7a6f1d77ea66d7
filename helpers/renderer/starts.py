"""Where a fit begins: the brightest place, the light above the border, the width that goes with it.

Works for every renderer that shows one emitter an image: what a parameter means is read from its
name. Depth cannot be read off an image so easily; a fit tries several planes.
"""

from __future__ import annotations

import math

import torch

N_PLANES = 5


def find_start(images, mask, renderer, fixed):
    """A start for each image: a dict by name of tensors (B,).

    Parameters
    ----------
    images : tensor (B, Y, X)
        Photo-electrons.
    mask : tensor (B, Y, X)
        1 where a pixel counts, else 0.
    renderer : Renderer
        Its `params` say what is needed; unknown names take their `start`.
    fixed : dict
        Tensors (B,) that are known already.

    Notes
    -----
    The background is the median of the border. The place is the centroid, within two pixels of
    the maximum, of the image smoothed over 3 x 3 pixels. A Gaussian of width s has the peak
    ``photons / (2 pi s^2)``, which gives the width.
    """
    if len(renderer.image_shape) != 2:
        raise ValueError(
            f"the renderer's images are {renderer.image_shape}: give `start`, a dict by name; "
            "starts are found for images (Y, X) of one emitter"
        )
    background = fixed.get("background", _border_median(images, mask))
    net = (images - background[:, None, None]) * mask
    smooth = torch.nn.functional.avg_pool2d(net[:, None], 3, 1, 1)[:, 0]
    x, y = _centroid_at_the_top(smooth)
    photons = fixed.get("photons", net.sum((1, 2)))
    # the sum of a dim spot may vanish in the noise; what lies around its top does not
    photons = torch.maximum(photons, 9 * smooth.amax((1, 2))).clamp(min=1)
    # smoothing widens: (n^2 - 1) / 12 is the variance of n pixels in a row, and of one pixel 1/12
    variance = photons / (2 * math.pi * smooth.amax((1, 2)).clamp(min=1e-3))
    width = (variance - 9 / 12).clamp(min=0.25).sqrt()
    known = {"x": x, "y": y, "photons": photons, "background": background}
    start = {}
    for name, param in renderer.params.items():
        guess = width if name.startswith("sigma") else known.get(name)
        if guess is None:
            guess = torch.full_like(photons, param.start)
        start[name] = fixed.get(name, guess)
    return start


def planes(param):
    """Values of a depth between the limits of its Param, the limits left out."""
    low, high = param.transform.low, param.transform.high
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"{param.name} has no limits: give `start`, or bound its transform")
    return [low + (high - low) * (k + 0.5) / N_PLANES for k in range(N_PLANES)]


def _border_median(images, mask):
    def border(a):
        rows = a[:, [0, -1], :].flatten(1)
        return torch.cat([rows, a[:, 1:-1, [0, -1]].flatten(1)], 1)

    pixels = torch.where(border(mask) > 0, border(images), torch.nan)
    return torch.nan_to_num(torch.nanmedian(pixels, 1).values).clamp(min=0.01)


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
