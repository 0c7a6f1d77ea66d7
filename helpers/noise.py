"""What the camera does to the light: likelihoods, samples, and data split by thinning.

NumPy in, NumPy out; torch in, torch out (differentiable where that makes sense).
"""

from __future__ import annotations

import math

import numpy as np

from .arrays import is_tensor, like, to_tensor

REDUCTIONS = ("sum", "mean", "none")


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

    def nll(self, rate, counts, *, reduction="sum"):
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
        import torch

        x, b = _rate_and_counts(rate, counts)
        each = x - torch.xlogy(b, x) + torch.lgamma(b + 1)
        return _reduce(each, reduction, rate)

    def deviance(self, rate, counts, *, reduction="sum"):
        """Twice the log-likelihood lost against ``rate = counts``.

        For the true rate and many counts its mean is near 1. Parameters as for `nll`.
        """
        import torch

        x, b = _rate_and_counts(rate, counts)
        each = 2 * (torch.xlogy(b, b) - torch.xlogy(b, x) - b + x)
        return _reduce(each, reduction, rate)

    def sample(self, rate, rng):
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
        _check_rng(rng, rate)
        _check_amounts(rate, "rate")
        if is_tensor(rate):
            import torch

            return torch.poisson(rate, generator=rng)
        return rng.poisson(rate)


def thin(counts, fraction, rng):
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
    _check_rng(rng, counts)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}: give the share to keep, between 0 and 1")
    _check_amounts(counts, "counts")
    if bool((counts != counts.round()).any()):
        raise ValueError(
            "counts are not whole numbers: thinning needs the counts themselves, "
            "before any scaling, interpolation or background subtraction"
        )
    if is_tensor(counts):
        import torch

        trials = counts.double()
        chance = torch.full_like(trials, fraction)
        kept = torch.binomial(trials, chance, generator=rng).to(counts.dtype)
    else:
        kept = rng.binomial(counts.astype(np.int64), fraction).astype(counts.dtype)
    return kept, counts - kept


def anscombe(counts):
    """Turn Poisson counts into values of nearly unit variance: ``2 sqrt(counts + 3/8)``.

    Examples
    --------
    >>> float(anscombe(np.array(0.625)))
    2.0
    """
    counts = counts if is_tensor(counts) else np.asarray(counts, dtype=float)
    _check_amounts(counts, "counts")
    return 2 * (counts + 0.375) ** 0.5


def inverse_anscombe(values):
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


def _rate_and_counts(rate, counts):
    if np.shape(rate) != np.shape(counts):
        raise ValueError(f"rate is {np.shape(rate)} but counts are {np.shape(counts)}: match them")
    x = to_tensor(rate)
    b = to_tensor(counts, x.device, x.dtype)
    _check_amounts(x, "rate")
    _check_amounts(b, "counts")
    return x, b


def _check_amounts(x, name):
    if not bool((x >= 0).all()):  # also false for NaN
        raise ValueError(f"negative values or NaN among the {name}: mask or clip them first")


def _check_rng(rng, example):
    kind = type(rng).__module__.partition(".")[0]
    expected = "torch" if is_tensor(example) else "numpy"
    if kind != expected or isinstance(rng, np.random.RandomState):
        raise TypeError(
            f"rng is {type(rng).__name__} for a {type(example).__name__}: "
            f"give a {'torch.Generator' if expected == 'torch' else 'numpy.random.Generator'}"
        )


def _reduce(each, reduction, example):
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: use one of {', '.join(REDUCTIONS)}")
    if reduction == "none":
        return like(each, example)
    total = each.sum() if reduction == "sum" else each.mean()
    return total if is_tensor(example) else total.item()
