"""Input checks of the fits, made before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch

from .._arrays import Array, to_numpy, to_tensor

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


def chosen(views: Sequence[int] | np.ndarray | slice, n: int, name: str = "views") -> list[int]:
    """Numbers of the views that a list, a mask or a slice means; ValueError if none."""
    if isinstance(views, slice):
        return list(range(n))[views] or _none(name)
    picked = np.atleast_1d(to_numpy(views))
    if picked.dtype == bool:
        if picked.shape != (n,):
            raise ValueError(f"the mask has {picked.shape} values, but there are {n} {name}")
        picked = np.flatnonzero(picked)
    if not picked.size:
        _none(name)
    if not np.issubdtype(picked.dtype, np.integer) or picked.ndim != 1:
        raise ValueError(f"give numbers of {name}, or a mask, not {views!r}")
    if picked.min() < -n or picked.max() >= n:
        wrong = picked[(picked < -n) | (picked >= n)][0]
        raise ValueError(f"{wrong} is asked for, but there are {n} {name}, from 0 to {n - 1}")
    return (picked % n).tolist()


def _none(name: str) -> NoReturn:
    raise ValueError(f"none of the {name} is chosen: give one number or more, or a mask")


def checked_lengths(voxel_size: Sequence[float] | None) -> tuple[float, ...] | None:
    """Three lengths above zero, or None; ValueError for anything else."""
    if voxel_size is None:
        return None
    lengths = tuple(np.ravel(voxel_size).astype(float).tolist())
    if len(lengths) != 3 or not all(0 < length < np.inf for length in lengths):
        raise ValueError(
            f"voxel_size is {voxel_size}: give (z, y, x) in um or one other unit, each above zero"
        )
    return lengths
