"""Channels: which output of an encoder becomes which parameter."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .params import Bounded, Param, Positive


class Channel(NamedTuple):
    """One output of an encoder: the parameter it becomes, and of which emitter.

    Attributes
    ----------
    param : Param or None
        The parameter, or None for a number that only the mapper reads.
    emitter : int or None
        Which emitter; None for a number of the whole image.
    """

    param: Any
    emitter: int | None = None


def raw_near(param: Param, value: torch.Tensor) -> torch.Tensor:
    """Raw numbers whose values are those given, or the nearest that the range allows.

    A positive parameter takes any value: one below zero gives a small positive one, and keeps a
    gradient.

    Examples
    --------
    >>> photons = Param("photons", "photo-electrons", Positive(10.0), start=100.0)
    >>> photons.value(raw_near(photons, torch.tensor([500.0, -20.0]))).tolist()
    [500.0, 1.269...]
    """
    transform = param.transform
    if isinstance(transform, Positive):
        raw = value / transform.scale  # softplus is the identity far above zero
    elif isinstance(transform, Bounded):
        margin = 1e-4 * (transform.high - transform.low)
        raw = transform.inverse(value.clamp(transform.low + margin, transform.high - margin))
    else:
        raw = transform.inverse(value)
    return raw - transform.inverse(param.start)


def small(layer: Any) -> Any:
    """A last layer that begins near zero, where every parameter has its start."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
