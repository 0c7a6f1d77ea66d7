"""Cubic interpolation along the last axis at given places, and its transpose."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def interpolate(images: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Values (..., M) of `images` (..., L) at `places` (..., M), in px; zero beyond both ends.

    Keys' cubic convolution: exact for parabolas, differentiable in images and places.
    """
    n = images.shape[-1]
    out = images.new_zeros(())
    for index, weight in _taps(places, n):
        index = index.expand(*images.shape[:-1], places.shape[-1])
        out = out + weight * images.gather(-1, index)
    return out


def spread(images: torch.Tensor, places: torch.Tensor, n: int) -> torch.Tensor:
    """Transpose of `interpolate`: `images` (..., M) at `places` spread over n pixels."""
    out = images.new_zeros((*images.shape[:-1], n))
    for index, weight in _taps(places, n):
        out = out.scatter_add(-1, index.expand(images.shape), weight * images)
    return out


def _taps(places: torch.Tensor, n: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    first = places.detach().floor()
    t = places - first
    weights = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    for k, weight in enumerate(weights):
        index = first.long() + (k - 1)
        inside = (index >= 0) & (index < n)
        yield index.clamp(0, n - 1), weight * inside
