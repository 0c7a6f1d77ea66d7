"""What every noise model checks before it works, and how it sums up afterwards."""

from __future__ import annotations

import numpy as np

from .._arrays import is_tensor, like, to_tensor

REDUCTIONS = ("sum", "mean", "none")


def rate_and_counts(rate, counts, *, signed=False):
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


def check_amounts(x, name):
    """Raise a ValueError if anything in `x` is negative or NaN."""
    if not bool((x >= 0).all()):  # also false for NaN
        advice = (
            "read noise makes some, so give the model of the camera, such as SCMOS(variance), and "
            "check the offset; clipping them would bias the fit"
            if name == "counts"
            else "mask them first"
        )
        raise ValueError(f"negative values or NaN among the {name}: {advice}")


def check_rng(rng, example):
    """Raise a TypeError unless the generator `rng` is of the kind of the array `example`."""
    kind = type(rng).__module__.partition(".")[0]
    expected = "torch" if is_tensor(example) else "numpy"
    if kind != expected or isinstance(rng, np.random.RandomState):
        raise TypeError(
            f"rng is {type(rng).__name__} for a {type(example).__name__}: "
            f"give a {'torch.Generator' if expected == 'torch' else 'numpy.random.Generator'}"
        )


def reduced(each, reduction, example):
    """Sum, mean or all of the tensor `each`, in the kind of `example`."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: use one of {', '.join(REDUCTIONS)}")
    if reduction == "none":
        return like(each, example)
    total = each.sum() if reduction == "sum" else each.mean()
    return total if is_tensor(example) else total.item()
