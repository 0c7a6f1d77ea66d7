"""Counts that follow Poisson statistics: likelihoods, samples, and data split by thinning.

Counts are in photo-electrons. Every model has `nll`, `deviance` and `sample`, and for solvers
`score` and `information`, which take tensors and check nothing.

NumPy in, NumPy out; torch in, torch out (differentiable where that makes sense).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .._arrays import Array, ArrayT, is_tensor, to_numpy, to_tensor
from ._checks import Reduction, Rng, check_amounts, check_rng, rate_and_counts, reduced
from .readout import checked_variance


class Poisson:
    """Shot noise: independent counts with ``mean = variance = rate``.

    Notes
    -----
    The negative log-likelihood of the counts b given the rate x is
    ``sum(x - b log x + log b!)``; a rate of zero explains zero counts and nothing else.

    Examples
    --------
    >>> noise = Poisson()
    >>> round(noise.nll(np.array([2.0, 3.0]), np.array([1, 4])), 4)
    3.0905
    """

    def nll(self, rate: ArrayT, counts: Array, *, reduction: Reduction = "sum") -> ArrayT | float:
        """Negative log-likelihood of `counts`, every constant included.

        Parameters
        ----------
        rate : array or tensor
            Expected counts, zero or more.
        counts : array or tensor
            Observed counts, the same shape.
        reduction : "sum", "mean" or "none"
            Sum over all pixels, mean over all pixels, or one value per pixel.

        Returns
        -------
        float, tensor, or array
            For a NumPy sum or mean a float, for torch a tensor that can be differentiated.

        Raises
        ------
        ValueError
            Shapes differ, or something is negative or NaN.
        """
        return reduced(self._nll(*rate_and_counts(rate, counts)), reduction, rate)

    def deviance(
        self, rate: ArrayT, counts: Array, *, reduction: Reduction = "sum"
    ) -> ArrayT | float:
        """Twice the log-likelihood lost against ``rate = counts``.

        For the true rate and many counts its mean is near 1. Parameters as for `nll`.
        """
        return reduced(self._deviance(*rate_and_counts(rate, counts)), reduction, rate)

    def sample(self, rate: ArrayT, rng: Rng) -> ArrayT:
        """Draw counts.

        Parameters
        ----------
        rate : array or tensor
            Expected counts, zero or more.
        rng : numpy.random.Generator or torch.Generator
            Of the same kind as `rate`, a torch generator on its device.

        Returns
        -------
        array of int64, or tensor of the dtype of `rate`

        Examples
        --------
        >>> Poisson().sample(np.array([0.0, 10.0]), np.random.default_rng(0)).tolist()
        [0, 11]
        """
        rate = rate if is_tensor(rate) else np.asarray(rate)
        draw = check_rng(rng, rate)
        check_amounts(rate, "rate")
        return torch.poisson(rate, generator=draw) if is_tensor(rate) else draw.poisson(rate)

    def score(self, rate: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Slope of the `nll` of each pixel by its rate: tensors of one shape, unchecked."""
        return 1 - counts / rate

    def information(self, rate: torch.Tensor) -> torch.Tensor:
        """Fisher information of a pixel about its rate: a tensor, unchecked."""
        return 1 / rate

    @staticmethod
    def _nll(rate: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return rate - torch.xlogy(counts, rate) + torch.lgamma(counts + 1)

    @staticmethod
    def _deviance(rate: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return 2 * (torch.xlogy(counts, counts) - torch.xlogy(counts, rate) - counts + rate)


class SCMOS:
    r"""Shot noise and read noise of known variance, as Poisson counts shifted by that variance.

    Parameters
    ----------
    variance : number, array or tensor (..., Y, X)
        Of the read noise, in photo-electrons squared; a map has one value for each pixel.

    Raises
    ------
    ValueError
        Negative or NaN variances.

    Notes
    -----
    A pixel of rate :math:`\mu` gives :math:`d` with mean :math:`\mu` and variance
    :math:`\mu + v`. So does :math:`d + v \sim \mathrm{Poisson}(\mu + v)`, in closed form
    :cite:p:`huang2013`. Both `nll` and `sample` are of this approximation: counts are whole
    numbers minus v, and :math:`d + v` below zero counts as zero. The camera itself is
    `PoissonGauss`. Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> noise = SCMOS(np.array([1.0, 100.0]))
    >>> noise.nll(np.array([5.0, 5.0]), np.array([-0.5, -0.5]), reduction="none").round(2).tolist()
    [4.98, 3.37]
    """

    def __init__(self, variance: float | Array) -> None:
        self.variance = checked_variance(variance)

    def nll(self, rate: ArrayT, counts: Array, *, reduction: Reduction = "sum") -> ArrayT | float:
        """Negative log-likelihood; parameters as for `Poisson.nll`, counts may be negative."""
        x, b = self._shifted(*rate_and_counts(rate, counts, signed=True))
        return reduced(Poisson._nll(x, b), reduction, rate)

    def deviance(
        self, rate: ArrayT, counts: Array, *, reduction: Reduction = "sum"
    ) -> ArrayT | float:
        """Twice the log-likelihood lost against ``rate = counts``; parameters as for `nll`."""
        x, b = self._shifted(*rate_and_counts(rate, counts, signed=True))
        return reduced(Poisson._deviance(x, b), reduction, rate)

    def sample(self, rate: ArrayT, rng: Rng) -> ArrayT:
        """Draw counts of the dtype of `rate`; parameters as for `Poisson.sample`."""
        rate = rate if is_tensor(rate) else np.asarray(rate, dtype=float)
        check_amounts(rate, "rate")
        variance = self._like(rate)
        return Poisson().sample(rate + variance, rng) - variance

    def score(self, rate: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Slope of the `nll` of each pixel by its rate: tensors of one shape, unchecked."""
        x, b = self._shifted(rate, counts)
        return 1 - b / x

    def information(self, rate: torch.Tensor) -> torch.Tensor:
        """Fisher information of a pixel about its rate: a tensor, unchecked."""
        return 1 / (rate + self._like(rate))

    def _shifted(
        self, rate: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        variance = self._like(rate)
        return rate + variance, (counts + variance).clamp_min(0)

    def _like(self, example: ArrayT) -> ArrayT:
        if not is_tensor(example):
            return to_numpy(self.variance)
        return to_tensor(self.variance, example.device, example.dtype)


def thin(counts: ArrayT, fraction: float, rng: Rng) -> tuple[ArrayT, ArrayT]:
    """Split Poisson counts into two independent data sets of the same scene.

    Parameters
    ----------
    counts : array or tensor
        Whole numbers, in an integer or floating type.
    fraction : float
        Chance that a count is kept, between 0 and 1.
    rng : numpy.random.Generator or torch.Generator
        Of the same kind as `counts`.

    Returns
    -------
    kept, rest : array or tensor
        The dtype of `counts`; ``kept + rest == counts``.

    Raises
    ------
    ValueError
        Counts that are negative, NaN or not whole, or a fraction outside (0, 1).

    Notes
    -----
    Each count is kept or not by a coin, so given N counts, ``kept ~ Binomial(N, f)``. With
    ``N ~ Poisson(x)``, P(kept = k, rest = r) is the Poisson probability of k + r times
    ``(k + r)! / (k! r!) f^k (1 - f)^r``; the factorials cancel and it becomes
    ``Poisson(k; f x) Poisson(r; (1 - f) x)``: two independent data sets. One can be fitted, the
    other judges the fit.

    Examples
    --------
    >>> kept, rest = thin(np.array([0, 10, 1000]), 0.5, np.random.default_rng(0))
    >>> (kept + rest).tolist()
    [0, 10, 1000]
    """
    counts = counts if is_tensor(counts) else np.asarray(counts)
    draw = check_rng(rng, counts)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}: give the share to keep, between 0 and 1")
    check_amounts(counts, "counts")
    if bool((counts != counts.round()).any()):
        raise ValueError(
            "counts are not whole numbers: thinning needs the counts themselves, "
            "before any scaling, interpolation or background subtraction"
        )
    if is_tensor(counts):
        trials = counts.double()
        chance = torch.full_like(trials, fraction)
        kept = torch.binomial(trials, chance, generator=draw).to(counts.dtype)
    else:
        kept = draw.binomial(counts.astype(np.int64), fraction).astype(counts.dtype)
    return kept, counts - kept


def anscombe(counts: ArrayT) -> ArrayT:
    """Turn Poisson counts into values of nearly unit variance: ``2 sqrt(counts + 3/8)``.

    Examples
    --------
    >>> float(anscombe(np.array(0.625)))
    2.0
    """
    counts = counts if is_tensor(counts) else np.asarray(counts, dtype=float)
    check_amounts(counts, "counts")
    return 2 * (counts + 0.375) ** 0.5


def inverse_anscombe(values: ArrayT) -> ArrayT:
    """Exact unbiased inverse of `anscombe`, in closed form.

    Parameters
    ----------
    values : array or tensor
        A denoised Anscombe transform, an estimate of its mean.

    Returns
    -------
    array or tensor
        The rate whose transformed counts have that mean; 0 up to the transform of zero counts.

    Notes
    -----
    The transform is not linear, so its algebraic inverse gives rates too low by about 1/4. The
    approximation is that of Mäkitalo and Foi, IEEE Trans. Image Process. 20, 2697 (2011).

    Examples
    --------
    >>> inverse_anscombe(np.array([1.0, 20.0])).round(3).tolist()
    [0.0, 99.887]
    """
    values = values if is_tensor(values) else np.asarray(values, dtype=float)
    lowest = 2 * math.sqrt(0.375)  # the transform of zero counts
    d = values.clip(min=lowest)
    c = math.sqrt(1.5)
    rate = d**2 / 4 + c / (4 * d) - 11 / (8 * d**2) + 5 * c / (8 * d**3) - 1 / 8
    return rate.clip(min=0) * (values > lowest)
