"""Input checks and reductions shared by the noise models."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch

from .._arrays import Array, ArrayT, is_tensor, like, to_tensor

Reduction = Literal["sum", "mean", "none"]
Rng = np.random.Generator | torch.Generator


class NoiseModel(Protocol):
    """Camera noise as the solvers see it: `Poisson`, or any object with these methods."""

    def deviance(self, rate: Any, counts: Any, *, reduction: Reduction = "sum") -> Any:
        """Twice the log-likelihood lost against ``rate = counts``."""

    def score(self, rate: Any, counts: Any) -> Any:
        """Slope of the negative log-likelihood of each pixel by its rate."""

    def information(self, rate: Any) -> Any:
        """Fisher information of each pixel about its rate."""


def rate_and_counts(
    rate: Array, counts: Array, *, signed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both as tensors of one kind; raise a ValueError for what no camera can give.

    Counts may be below zero only if `signed`: read noise takes them there.
    """
    if np.shape(rate) != np.shape(counts):
        raise ValueError(f"rate is {np.shape(rate)} but counts are {np.shape(counts)}: match them")
    x = to_tensor(rate)
    b = to_tensor(counts, x.device, x.dtype)
    check_amounts(x, "rate")
    if not signed:
        check_amounts(b, "counts")
    elif not bool(b.isfinite().all()):
        raise ValueError("NaN or infinite values among the counts: mask or replace them first")
    return x, b


def check_amounts(x: Array, name: str) -> None:
    """Raise a ValueError if anything in `x` is negative or NaN."""
    if not bool((x >= 0).all()):  # also false for NaN
        advice = (
            "read noise makes some, so give the model of the camera, such as SCMOS(variance), and "
            "check the offset; clipping them would bias the fit"
            if name == "counts"
            else "mask them first"
        )
        raise ValueError(f"negative values or NaN among the {name}: {advice}")


def check_rng(rng: Rng, example: Array) -> Any:
    """Give `rng` back; raise a TypeError unless it is of the kind of the array `example`."""
    kind = type(rng).__module__.partition(".")[0]
    expected = "torch" if is_tensor(example) else "numpy"
    if kind != expected or isinstance(rng, np.random.RandomState):
        raise TypeError(
            f"rng is {type(rng).__name__} for a {type(example).__name__}: "
            f"give a {'torch.Generator' if expected == 'torch' else 'numpy.random.Generator'}"
        )
    return rng


def reduced(each: torch.Tensor, reduction: Reduction, example: ArrayT) -> ArrayT | float:
    """Sum, mean or all of the tensor `each`, in the kind of `example`."""
    if reduction not in ("sum", "mean", "none"):
        raise ValueError(f"reduction is {reduction!r}: use one of sum, mean, none")
    if reduction == "none":
        return like(each, example)
    total = each.sum() if reduction == "sum" else each.mean()
    return like(total, example) if is_tensor(example) else total.item()
