r"""Named physical parameters: a unit, a range, and the way from a network's number into it.

A network gives a number without unit, from minus to plus infinity. A transform takes it into the
range that physics allows, without a corner at which the gradient would vanish.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch

from .._arrays import is_tensor

Value = TypeVar("Value", float, torch.Tensor)

__all__ = ["Bounded", "Param", "Positive", "Real"]


@dataclass(frozen=True)
class Real:
    """Any value: ``scale * raw``.

    Parameters
    ----------
    scale : float
        Change of the value for a change of 1 of the network's output.
    """

    scale: float = 1.0
    low, high = -math.inf, math.inf

    def __call__(self, raw: Value) -> Value:
        """Value of the raw number."""
        return self.scale * raw

    def inverse(self, value: Value) -> Value:
        """Raw number of the value."""
        return value / self.scale


@dataclass(frozen=True)
class Positive:
    r"""A value above zero: ``scale * softplus(raw)``.

    Parameters
    ----------
    scale : float
        Typical value; far above it, a change of 1 of the raw number changes the value by `scale`.

    Examples
    --------
    >>> photons = Positive(1000.0)
    >>> round(photons(photons.inverse(250.0)), 6)
    250.0
    """

    scale: float = 1.0
    low, high = 0.0, math.inf

    def __call__(self, raw: Value) -> Value:
        """Value of the raw number."""
        if is_tensor(raw):
            return self.scale * torch.nn.functional.softplus(raw)
        return self.scale * (max(raw, 0.0) + math.log1p(math.exp(-abs(raw))))

    def inverse(self, value: Value) -> Value:
        """Raw number of the value."""
        v = value / self.scale
        if is_tensor(v):
            return v + (-(-v).expm1()).log()  # log(e^v - 1), safe for large v
        return v + math.log(-math.expm1(-v))


@dataclass(frozen=True)
class Bounded:
    """A value between two limits, by a scaled tanh.

    Parameters
    ----------
    low, high : float
        The limits, never reached. Near the middle a change of 1 of the raw number changes the
        value by half the range.

    Examples
    --------
    >>> x = Bounded(-6.5, 6.5)
    >>> x(0.0), round(x(x.inverse(2.0)), 9)
    (0.0, 2.0)
    """

    low: float
    high: float

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"limits are {self.low} and {self.high}: give the lower one first")

    def __call__(self, raw: Value) -> Value:
        """Value of the raw number."""
        t = raw.tanh() if is_tensor(raw) else math.tanh(raw)
        return (self.low + self.high) / 2 + (self.high - self.low) / 2 * t

    def inverse(self, value: Value) -> Value:
        """Raw number of the value."""
        t = (2 * value - self.low - self.high) / (self.high - self.low)
        return t.atanh() if is_tensor(t) else math.atanh(t)


@dataclass(frozen=True)
class Param:
    """One physical quantity that a renderer needs.

    Parameters
    ----------
    name : str
        Such as ``"x"`` or ``"photons"``.
    unit : str
        Such as ``"px"``, ``"photo-electrons"``, ``"µm"``.
    transform : Real, Positive or Bounded
        From a network's number into the physical range; its `low` and `high` also bound a fit.
    start : float
        The value of the raw number 0, and of a parameter that nobody gives or fits.
    per_emitter : bool
        One value for each emitter (x, y, photons) or one for each image (background).
    per_pixel : bool
        A whole image or volume of values, as for deconvolution and denoising.

    Raises
    ------
    ValueError
        The start is outside the range of the transform.

    Notes
    -----
    Introduced in :doc:`/book/renderer/02_learn_without_labels`.

    Examples
    --------
    >>> photons = Param("photons", "photo-electrons", Positive(1000.0), start=500.0)
    >>> round(photons.value(0.0), 6)
    500.0
    """

    name: str
    unit: str
    transform: Real | Positive | Bounded
    start: float = 0.0
    per_emitter: bool = True
    per_pixel: bool = False

    def __post_init__(self):
        if not self.transform.low < self.start < self.transform.high:
            raise ValueError(
                f"{self.name} starts at {self.start} {self.unit}: choose a start between "
                f"{self.transform.low} and {self.transform.high}, the limits excluded"
            )
        if self.per_emitter and self.per_pixel:
            raise ValueError(f"{self.name} cannot be per emitter and per pixel: choose one")

    def value(self, raw: Value) -> Value:
        """Physical value of a network's number; 0 gives `start`."""
        return self.transform(raw + self.transform.inverse(self.start))
