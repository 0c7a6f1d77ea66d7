r"""Likelihoods of the cameras, compiled: value, score and Fisher information of flat images.

Poisson counts, also shifted ones, in closed form; read noise as a sum over the number of
electrons, or over frequencies; electron multiplication from a table. Whatever is tabulated comes
from the formulas of `helpers.noise`. Values lack what does not depend on the rate, which a
deviance does not need.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from scipy.special import gammaln

from ....noise.readout import EMCCD, PoissonGauss
from ..levenberg import DIM
from .images import OPTIONS, _exp_minus

_jit = njit(forceinline=True, **OPTIONS)
_inline = njit(inline="always", **OPTIONS)

POISSON, MIXTURE, MULTIPLIED = range(3)  # codes of the cameras
DARK, BRIGHT = -1, -2  # a count of exactly zero without read noise; one beyond the table
LOG_DIM, LOG_MOST = math.log(DIM), math.log(1e5)  # rates of the tables, in logarithms
STEP, FINE = 0.2, 0.05  # of the electrons by the rate, and of the information
ROOT_STEP, MOST_ROOT = 0.25, 64.0  # of the counts beyond the read noise, by their root
NEAR, FAR, SHARE = 8, 10, 6  # within the read noise: widths below and above zero, nodes in each
LOG_VARIANCES = math.log(1e-5), math.log(1e5), 0.1
MOST_ELECTRONS = 2**16
WIDE = 3.0  # variance of the read noise from which on a sum over frequencies is the shorter one
NODES, APART = 16, 0.6  # frequencies of that sum, and their distance in standard deviations
_PI_HIGH = float(np.int64(np.float64(math.pi).view(np.int64) >> 28 << 28).view(np.float64))
_PI_LOW = math.pi - _PI_HIGH
_SQRT_HALF = np.int64(np.float64(math.sqrt(0.5)).view(np.int64))
_LN2 = math.log(2)
_F = tuple(1 / math.factorial(k) for k in range(21))


class Camera(NamedTuple):
    """Constants and tables of a camera for the compiled loop.

    Attributes
    ----------
    kind : int
        POISSON, MIXTURE or MULTIPLIED.
    electrons : array (D, L, 2)
        For counts and logarithms of rates: log-likelihood less the rate, and mean number of
        electrons. Empty unless MULTIPLIED.
    n_near : int
        Rows of it that lie within the read noise, evenly spaced.
    spread : float
        Variance of the read noise of that camera.
    information : array (R, L)
        Fisher information times the variance of the counts, by the logarithms of the variance of
        the read noise, if R > 1, and of the rate.
    factorials : array
        Logarithms, for the sum over electrons.
    """

    kind: int
    electrons: np.ndarray
    n_near: int
    spread: float
    information: np.ndarray
    factorials: np.ndarray


NONE = np.zeros(0)
SHOT_NOISE = Camera(POISSON, np.zeros((0, 0, 2)), 0, 0.0, np.zeros((0, 0)), NONE)


@lru_cache(maxsize=8)
def multiplied_camera(gain: float, variance: float) -> Camera:
    """Tables of an `EMCCD`, about a megabyte."""
    noise = EMCCD(gain, variance)
    sigma = math.sqrt(variance) / gain
    near = np.arange(-NEAR * SHARE, FAR * SHARE + 1) * (sigma / SHARE) if sigma else NONE
    roots = math.sqrt(FAR * sigma) + np.arange(0, MOST_ROOT, ROOT_STEP)
    rates = torch.from_numpy(_rates(STEP))
    counts = torch.from_numpy(np.concatenate([near, np.maximum(roots, 1e-6) ** 2]))
    rate, count = torch.broadcast_tensors(rates, counts[:, None])
    value, score = noise._value_and_score(rate, count)
    electrons = torch.stack([rate - value, rate * (1 - score)], 2).numpy()
    rates = torch.from_numpy(_rates(FINE))
    information = noise.information(rates) * (2 * rates + sigma**2)
    return Camera(MULTIPLIED, electrons, len(near), sigma**2, information[None].numpy(), NONE)


def mixture_camera(noise: PoissonGauss) -> Camera:
    """Tables of a `PoissonGauss`: one row for a variance that is the same everywhere."""
    variance = np.unique(np.asarray(noise.variance, float))
    row = float(variance[0]) if len(variance) == 1 else None
    return SHOT_NOISE._replace(
        kind=MIXTURE, information=_mixture_information(row), factorials=_log_factorials()
    )


@lru_cache(maxsize=8)
def _mixture_information(variance: float | None) -> np.ndarray:
    low, high, step = LOG_VARIANCES
    rows = np.exp(np.arange(low, high + step, step)) if variance is None else np.array([variance])
    variances, rates = (torch.from_numpy(a) for a in (rows[:, None], _rates(FINE)))
    rates = rates.expand(len(rows), -1)
    return (PoissonGauss(variances).information(rates) * (rates + variances)).numpy()


@lru_cache(maxsize=1)
def _log_factorials() -> np.ndarray:
    return gammaln(np.arange(MOST_ELECTRONS) + 1.0)


def _rates(step: float) -> np.ndarray:
    return np.exp(np.arange(LOG_DIM, LOG_MOST + step, step))


@_inline
def _split(x):
    """Exponent and mantissa of a double above zero, the mantissa within sqrt(1/2) .. sqrt(2)."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits - _SQRT_HALF) >> np.int64(52)
    return np.float64(exponent), np.int64(bits - (exponent << np.int64(52))).view(np.float64)


@_inline
def _log_series(s):
    """log((1 + s) / (1 - s)) for abs(s) < 0.172, to double precision."""
    t = s * s
    p = 2 / 15 + t * (2 / 17)
    p = 2 / 5 + t * (2 / 7 + t * (2 / 9 + t * (2 / 11 + t * (2 / 13 + t * p))))
    return s * (2 + t * (2 / 3 + t * p))


@_inline
def _log(x):
    exponent, mantissa = _split(x)
    return exponent * _LN2 + _log_series((mantissa - 1.0) / (mantissa + 1.0))


@_jit
def poisson(drawn, counts, shift, mask, weights):
    """Rows of `weights`: score and information. Returns the negative log-likelihood.

    `shift` and `mask` are flat, and the rate is the first row of `drawn`.
    """
    total = 0.0
    for i in range(counts.size):
        m = (drawn[0, i] if drawn[0, i] > DIM else DIM) + shift[i]  # `max` would not vectorise
        exponent, mantissa = _split(m)
        # one division serves both 1 / m and the argument of the logarithm
        inverse = 1.0 / (m * (mantissa + 1.0))
        log = exponent * _LN2 + _log_series((mantissa - 1.0) * (m * inverse))
        one_over = (mantissa + 1.0) * inverse
        weights[0, i] = mask[i] * (1.0 - counts[i] * one_over)
        weights[1, i] = mask[i] * one_over
        total += mask[i] * (m - counts[i] * log)
    return total


@_jit
def shift_counts(shift, counts):
    """Counts of the shifted Poisson distribution: none is negative."""
    for i in range(counts.size):
        d = counts[i] + shift[i]
        counts[i] = d if d > 0 else 0.0


@_jit
def poisson_at_best(counts, mask):
    """Negative log-likelihood of `poisson` at ``rate = counts``."""
    total = 0.0
    for i in range(counts.size):
        d = counts[i]
        total += mask[i] * d * (1.0 - _log(d if d > 1e-300 else 1e-300))
    return total


@_jit
def _electrons(rate, log_rate, count, variance, factorials):
    """Negative log-likelihood of a pixel with little read noise, and its mean number of electrons.

    The sum over k of Poisson(k; rate) N(count; k, variance), about its largest term.
    """
    k = max(rate * (count + variance) / (rate + variance), 0.0)
    width = 1.0
    for _ in range(4):  # Newton steps; the logarithm of the terms is concave
        square = 1.0 / (1.0 / (k + 0.5) + 1.0 / variance)
        move = (log_rate - _log(k + 0.5) + (count - k) / variance) * square
        k = max(k + move, 0.0)
        width = math.sqrt(square)
        if move * move < 0.1 * square:
            break
    first = int(max(k - 7.0 * width, 0.0))
    n = int(k + 7.0 * width) + 9 - first
    if first + n >= factorials.size:  # so many that the shifted counts say the same
        m, d = rate + variance, max(count + variance, 0.0)
        return m - d * _log(m), rate * d / m
    middle, half = int(k + 0.5), 0.5 / variance
    apart = count - middle
    top = middle * log_rate - factorials[middle] - half * apart * apart
    total, mean = 0.0, 0.0
    for j in range(n):
        number = first + j
        apart = count - number
        down = top - number * log_rate + factorials[number] + half * apart * apart
        term = _exp_minus(down if down < 700.0 else 700.0)
        total += term
        mean += (number - middle) * term
    return rate - top - _log(total), middle + mean / total


@_inline
def _cos_sin(x):
    """Cosine and sine for x from -1 to 1e6."""
    turns = np.int64(x * (1 / math.pi) + 0.5)
    r = x - turns * _PI_HIGH - turns * _PI_LOW
    t = -r * r
    p = _F[12] + t * (_F[14] + t * (_F[16] + t * (_F[18] + t * _F[20])))
    p = 1.0 + t * (_F[2] + t * (_F[4] + t * (_F[6] + t * (_F[8] + t * (_F[10] + t * p)))))
    q = _F[11] + t * (_F[13] + t * (_F[15] + t * (_F[17] + t * _F[19])))
    q = 1.0 + t * (_F[3] + t * (_F[5] + t * (_F[7] + t * (_F[9] + t * q))))
    sign = 1.0 - 2.0 * (turns & 1)
    return sign * p, sign * r * q


@_jit
def _by_frequencies(rate, log_rate, count, variance):
    r"""The same for much read noise: the sum over k as one over frequencies u.

    The generating function of a pixel is :math:`e^{K(s)}` with :math:`K(s) = \mu (e^s - 1) + v s^2
    / 2 - s d`, and its density the integral of :math:`e^{K(s + iu)}` over u, by :math:`2\pi`.
    Through the saddle point, :math:`K'(s) = 0`, that is nearly a Gaussian, which midpoints add up
    to 1e-11. A saddle point that is found roughly is as good.
    """
    low = (rate - count) / variance
    # of two bounds from below the larger: from there Newton steps go up and pass nothing
    tilted = rate * (count + variance) / (rate + variance)
    if low > 0:
        tilted = max(tilted, rate * _exp_minus(min(low, 600.0)))
    s = _log(tilted) - log_rate
    off = tilted + variance * s - count
    for _ in range(30):
        square = tilted + variance
        if off * off < 0.01 * square:
            break
        tilted = max(tilted - off * tilted / square, 1e-300)
        s = _log(tilted) - log_rate
        off = tilted + variance * s - count
    step = APART / math.sqrt(tilted + variance)
    total, mean = 0.0, 0.0
    for j in range(NODES):
        u = (j + 0.5) * step
        c, h = _cos_sin(0.5 * u)
        dip, sine = 2.0 * h * h, 2.0 * h * c  # 1 - cos u, without cancellation, and sin u
        down = tilted * dip + 0.5 * variance * u * u
        term = _exp_minus(down if down < 700.0 else 700.0)
        turned, beside = _cos_sin(tilted * (u - sine) - off * u)
        total += term * turned
        mean += term * (turned * (1.0 - dip) + beside * sine)
    value = rate - tilted + s * (count - 0.5 * variance * s) - _log(total * step)
    return value, tilted * mean / total


@_jit
def mixture(drawn, counts, variance, mask, factorials, information, rows, weights):
    """The same as `poisson` for read noise of `variance`; `rows` are places in `information`."""
    total = 0.0
    for i in range(counts.size):
        weights[0, i], weights[1, i] = 0.0, 0.0
        if mask[i] == 0:
            continue
        m = max(drawn[0, i], DIM)
        log = _log(m)
        if variance[i] < WIDE:
            value, electrons = _electrons(m, log, counts[i], variance[i], factorials)
        else:
            value, electrons = _by_frequencies(m, log, counts[i], variance[i])
        total += mask[i] * value
        weights[0, i] = mask[i] * (1.0 - electrons / m)
        weights[1, i] = mask[i] * _informed(information, rows[i], log) / (m + variance[i])
    return total


@_jit
def rows_of(variance, information, rows):
    """Place of each variance among the rows of `information`."""
    low, _, step = LOG_VARIANCES
    for i in range(rows.size):
        place = (math.log(variance[i]) - low) / step if information.shape[0] > 1 else 0.0
        rows[i] = min(max(place, 0.0), max(information.shape[0] - 1.001, 0.0))


@_jit
def _informed(table, row, log_rate):
    """Linear interpolation in the table, kept as it is beyond it."""
    place = min(max((log_rate - LOG_DIM) / FINE, 0.0), table.shape[1] - 1.001)
    j, k = int(place), int(row)
    u, v = place - j, row - k
    value = table[k, j] + u * (table[k, j + 1] - table[k, j])
    if table.shape[0] > 1:
        other = table[k + 1, j] + u * (table[k + 1, j + 1] - table[k + 1, j])
        value += v * (other - value)
    return value


@_jit
def place_counts(counts, spread, n_near, n_rows, column, taps):
    """First of the four rows of a table of electrons that each count needs, and their weights."""
    sigma = math.sqrt(spread)
    for i in range(counts.size):
        d = counts[i]
        if d == 0 and spread == 0:
            column[i] = DARK
            continue
        root = math.sqrt(max(d, 0.0)) - math.sqrt(FAR * sigma)
        if n_near > 0 and d < FAR * sigma:
            place, low, high = (d / sigma + NEAR) * SHARE, 0, n_near - 4
        else:
            place, low, high = root / ROOT_STEP, 0, n_rows - n_near - 4
        if place > high + 3:
            column[i] = BRIGHT
            continue
        first = min(max(int(place) - 1, low), high)
        u = max(place, 0.0) - first - 1.0
        taps[0, i] = -u * (u - 1.0) * (u - 2.0) / 6.0
        taps[1, i] = (u + 1.0) * (u - 1.0) * (u - 2.0) / 2.0
        taps[2, i] = -(u + 1.0) * u * (u - 2.0) / 2.0
        taps[3, i] = (u + 1.0) * u * (u - 1.0) / 6.0
        column[i] = first if n_near > 0 and d < FAR * sigma else first + n_near


@_jit
def _tabulated(table, first, taps, i, place):
    """Log-likelihood less the rate, and electrons: cubic between values and slopes by the rate."""
    j = min(int(place), table.shape[1] - 2)
    u = min(place - j, 1.0)
    here, there, slope, next_slope = 0.0, 0.0, 0.0, 0.0
    for a in range(4):
        w = taps[a, i]
        here += w * table[first + a, j, 0]
        slope += w * table[first + a, j, 1]
        there += w * table[first + a, j + 1, 0]
        next_slope += w * table[first + a, j + 1, 1]
    slope, next_slope, rise = slope * STEP, next_slope * STEP, there - here
    cubic = slope + next_slope - 2.0 * rise
    square = rise - slope - cubic
    value = here + u * (slope + u * (square + u * cubic))
    electrons = (slope + u * (2.0 * square + u * 3.0 * cubic)) / STEP
    return value + (place - j - u) * STEP * electrons, electrons  # straight beyond the table


@_jit
def multiplied(drawn, counts, spread, mask, table, column, taps, information, weights):
    """The same as `poisson` for electron multiplication.

    Counts beyond the table are taken for twice a Poisson number, which has the same mean and
    variance.
    """
    total = 0.0
    for i in range(counts.size):
        weights[0, i], weights[1, i] = 0.0, 0.0
        if mask[i] == 0:
            continue
        m = max(drawn[0, i], DIM)
        log = _log(m)
        if column[i] == DARK:
            value, score = m, 1.0
        elif column[i] == BRIGHT:
            shifted, d = m + 0.5 * spread, counts[i] + 0.5 * spread
            value, score = 0.5 * (shifted - d * _log(shifted)), 0.5 * (1.0 - d / shifted)
        else:
            place = (log - LOG_DIM) / STEP
            found, electrons = _tabulated(table, column[i], taps, i, max(place, 0.0))
            value, score = m - found, 1.0 - electrons / m
        total += mask[i] * value
        weights[0, i] = mask[i] * score
        weights[1, i] = mask[i] * _informed(information, 0.0, log) / (2.0 * m + spread)
    return total


@_jit
def places(drawn, shift, first, density, place):
    """Place of each rate in a table of moments with `density` nodes an octave."""
    for i in range(place.size):
        m = (drawn[0, i] if drawn[0, i] > DIM else DIM) + shift[i]
        place[i] = (_log(m) / _LN2 - first) * density


@_jit
def moments(place, mask, table):
    """Sum of mean and variance of the deviance of all pixels, from the table of rates."""
    mean, variance = 0.0, 0.0
    last = table.shape[1] - 1.001
    for i in range(place.size):
        at = min(max(place[i], 0.0), last)
        k = int(at)
        part = at - k
        mean += mask[i] * (table[0, k] * (1 - part) + table[0, k + 1] * part)
        variance += mask[i] * (table[1, k] * (1 - part) + table[1, k + 1] * part)
    return mean, variance
