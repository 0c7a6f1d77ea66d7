"""Input checks of the fits, made before any work."""

from __future__ import annotations

from typing import Any

import torch

from .._arrays import Array, to_tensor

ADVICE = "lower the learning rate, and check the units of data, background and prior"


def check_data(operator: object, data: torch.Tensor) -> None:
    """Raise ValueError where the tensor `data` cannot have come from `operator`, or holds NaN."""
    expected = getattr(operator, "out_shape", None)
    if expected is not None and tuple(data.shape) != tuple(expected):
        raise ValueError(
            f"data has shape {tuple(data.shape)}, but the operator gives {tuple(expected)}: "
            "crop the views, or make the operator for their size and number"
        )
    if not bool(torch.isfinite(data).all()):
        raise ValueError("data has NaN or infinite values: replace dead pixels first")


def checked_background(background: float | Array, data: torch.Tensor) -> torch.Tensor:
    """The background as a tensor of the shape of `data`; ValueError where it cannot be."""
    b = to_tensor(background, data.device, torch.float32)
    try:
        b = b.expand_as(data)
    except RuntimeError as error:
        raise ValueError(
            f"background has shape {tuple(b.shape)}, which does not broadcast to the data's "
            f"{tuple(data.shape)}: give a number, or an array (V, 1, 1) for one number a view"
        ) from error
    if not bool(torch.isfinite(b).all()):
        raise ValueError("background has NaN or infinite values")
    return b


def to_device(operator: Any, device: torch.device) -> Any:
    """The operator on a device, if it knows how to move."""
    return operator.to(device) if hasattr(operator, "to") else operator
