"""Input checks of the fits: images, mask, device, precision, shape."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..._arrays import Array, to_tensor
from ..params import Param
from ..renderers.base import Renderer


def checked_images(images: Array, image_shape: Sequence[int]) -> torch.Tensor:
    """Tensor (B, Y, X) of finite images."""
    y = to_tensor(images)
    if y.ndim != len(image_shape) + 1 or tuple(y.shape[1:]) != tuple(image_shape):
        raise ValueError(
            f"images are {tuple(y.shape)} but the renderer makes (B, "
            f"{', '.join(map(str, image_shape))}): cut them to its shape, one image too has B = 1"
        )
    if not bool(torch.isfinite(y.sum())) and not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).flatten(1).any(1).sum())
        raise ValueError(
            f"{bad} of {len(y)} images hold NaN or infinite pixels: put a number there and leave "
            "them out by `mask`"
        )
    return y


def checked_mask(mask: Array | None, saturation: float | None, y: torch.Tensor) -> torch.Tensor:
    """1 where a pixel counts, else 0: as large as `y`, but one map if all images share it."""
    use = torch.ones(y.shape[1:], dtype=torch.bool, device=y.device)
    if mask is not None:
        m = to_tensor(mask, y.device, torch.bool)
        if tuple(m.shape) not in (tuple(y.shape), tuple(y.shape[1:])):
            raise ValueError(
                f"mask is {tuple(m.shape)} but images are {tuple(y.shape)}: give a mask for all "
                f"images, {tuple(y.shape[1:])}, or for each"
            )
        use = use & m
    if saturation is not None:
        use = use & (y < saturation)
    return use.to(y.dtype).expand_as(y)


def each_or_shared(maps: torch.Tensor) -> torch.Tensor:
    """Maps (B, Y, X), or (1, Y, X) where all are one in memory."""
    return maps[:1] if maps.stride(0) == 0 else maps


def to_device(renderer: Renderer, y: torch.Tensor) -> Renderer:
    """A copy of the renderer in the place and precision of the images, if it has weights."""
    weights = [*renderer.parameters(), *renderer.buffers()]
    if all(w.device == y.device and w.dtype == y.dtype for w in weights):
        return renderer
    return copy.deepcopy(renderer).to(device=y.device, dtype=y.dtype)


def named(
    values: Mapping[str, Any] | None, renderer: Renderer, y: torch.Tensor, what: str
) -> dict[str, torch.Tensor]:
    """Tensors (B,) or (B, K) by name, within the limits of their parameters."""
    found = {}
    for name, value in (values or {}).items():
        param = renderer.params.get(name)
        if param is None:
            raise ValueError(
                f"`{what}` has {name}, but {type(renderer).__name__} has "
                f"{', '.join(renderer.params)}"
            )
        value = to_tensor(value, y.device, y.dtype)
        if value.ndim == 0:
            value = value.expand(len(y))
        if value.shape[0] != len(y) or (value.ndim > 2 and not param.per_pixel):
            raise ValueError(
                f"{name} in `{what}` is {tuple(value.shape)}: give one value for each of the "
                f"{len(y)} images, or (B, K) for K emitters"
            )
        inside = (value >= param.transform.low) & (value <= param.transform.high)
        if not bool(inside.all()):  # also for NaN
            raise ValueError(
                f"{name} in `{what}` leaves {param.transform.low} .. {param.transform.high} "
                f"{param.unit}, or is NaN: bring it inside"
            )
        found[name] = value
    if what == "start":
        emitters = {value.shape[1] for value in found.values() if value.ndim == 2}
        for name, param in renderer.params.items():
            if name in found or param.per_pixel:
                continue
            shape = (len(y), *emitters) if param.per_emitter else (len(y),)
            found[name] = torch.full(shape[:2], param.start, dtype=y.dtype, device=y.device)
    return found


def limits(param: Param) -> tuple[float, float]:
    """Limits of a fit, a hair inside those of physics, where a width is not zero."""
    low, high = param.transform.low, param.transform.high
    hair = 1e-4
    if math.isfinite(low):
        low = low + hair * (param.start - low)
    if math.isfinite(high):
        high = high - hair * (high - param.start)
    return low, high
