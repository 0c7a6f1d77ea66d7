r"""The loop of `helpers.renderer.mle.levenberg` compiled for the CPU: one image after the other.

An image of 13 x 13 pixels and its derivatives fill a few kilobytes, so a whole fit happens in the
nearest cache, in double precision. The noise is Poisson, or Poisson with a shift,
(counts + v) ~ Poisson(rate + v), which stands for the readout noise of an sCMOS camera. Checked
against the torch loop, which serves everything else; `helpers.renderer.mle.cpu.dispatch` chooses.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ..levenberg import DAMPING, LEAST, MOST, RESOLUTION
from .images import OPTIONS, SIGMA, SIGMA_X, SIGMA_Y, gaussian, set_widths, spline

_jit = njit(**OPTIONS)
_inline = njit(inline="always", **OPTIONS)

_SQRT_HALF = np.int64(np.float64(math.sqrt(0.5)).view(np.int64))
_LN2 = math.log(2)


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


@_jit
def _weigh(drawn, counts, shift, mask, weights):
    """Rows of `weights`: score and information. Returns half the deviance, less what is constant.

    `shift` and `mask` are flat, and the rate is the first row of `drawn`.
    """
    total = 0.0
    for i in range(counts.size):
        m = (drawn[0, i] if drawn[0, i] > 1e-6 else 1e-6) + shift[i]  # `max` would not vectorise
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
def _copy(source, target):
    for i in range(target.size):
        target[i] = source[i]


@_jit
def _shifted_counts(image, shift, counts):
    for i in range(counts.size):
        d = image[i] + shift[i]
        counts[i] = d if d > 0 else 0.0


@_jit
def _own_deviance(counts, mask):
    """The other part: half the deviance at ``rate = counts``, negative."""
    total = 0.0
    for i in range(counts.size):
        d = counts[i]
        exponent, mantissa = _split(d if d > 1e-300 else 1e-300)
        log = exponent * _LN2 + _log_series((mantissa - 1.0) / (mantissa + 1.0))
        total += mask[i] * d * (log - 1.0)
    return total


@_jit
def _places(drawn, shift, first, density, place):
    """Place of each rate in a table with `density` nodes an octave."""
    for i in range(place.size):
        m = (drawn[0, i] if drawn[0, i] > 1e-6 else 1e-6) + shift[i]
        exponent, mantissa = _split(m)
        log = exponent * _LN2 + _log_series((mantissa - 1.0) / (mantissa + 1.0))
        place[i] = (log / _LN2 - first) * density


@_jit
def _moments(place, mask, table):
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


@_jit
def _two_sums(drawn, p, weights):
    """A derivative times the score, and times itself and the information."""
    slope, own = 0.0, 0.0
    for i in range(drawn.shape[1]):
        slope += drawn[p, i] * weights[0, i]
        own += drawn[p, i] * weights[1, i] * drawn[p, i]
    return slope, own


@_jit
def _three_sums(drawn, p, weights):
    """The same, and a derivative times the one before it and the information."""
    slope, before, own = 0.0, 0.0, 0.0
    for i in range(drawn.shape[1]):
        weighted = drawn[p, i] * weights[1, i]
        slope += drawn[p, i] * weights[0, i]
        before += weighted * drawn[p - 1, i]
        own += weighted * drawn[p, i]
    return slope, before, own


@_jit
def _pair_sums(drawn, p, q, weights):
    """A derivative times two others, `q` and the next, and the information."""
    first, second = 0.0, 0.0
    for i in range(drawn.shape[1]):
        weighted = drawn[p, i] * weights[1, i]
        first += weighted * drawn[q, i]
        second += weighted * drawn[q + 1, i]
    return first, second


@_jit
def _normal_equations(drawn, weights, gradient, fisher):
    """Gradient and lower triangle of the Fisher information.

    Several sums in one pass: reading the arrays takes longer than adding up.
    """
    for p in range(gradient.size):
        if p % 2 == 0:
            gradient[p], fisher[p, p] = _two_sums(drawn, p + 1, weights)
        else:
            gradient[p], fisher[p, p - 1], fisher[p, p] = _three_sums(drawn, p + 1, weights)
        for q in range(0, p - 1, 2):
            fisher[p, q], fisher[p, q + 1] = _pair_sums(drawn, p + 1, q + 1, weights)


@_jit
def _factorise(fisher, stuck, damping, factor):
    r"""Write ``fisher + damping diag fisher`` as :math:`L D L^\top`; False if it is not positive.

    `factor` gets L D below the diagonal, its inverse on it, and the transpose of L above. What
    is stuck, or without effect, has zeros there, so that it does not move.
    """
    for p in range(stuck.size):
        if stuck[p] or not fisher[p, p] > 0:
            factor[: p + 1, p] = 0.0
            continue
        value = fisher[p, p] * (1.0 + damping)
        for q in range(p):
            part = fisher[p, q]
            for k in range(q):
                part -= factor[p, k] * factor[k, q]
            factor[p, q] = part
            factor[q, p] = part * factor[q, q]
            value -= part * factor[q, p]
        if not value > 1e-14 * fisher[p, p]:
            return False
        factor[p, p] = 1.0 / value
    return True


@_jit
def _solve(factor, gradient, step):
    n = step.size
    for p in range(n):
        value = -gradient[p]
        for k in range(p):
            value -= factor[k, p] * step[k]
        step[p] = value
    for p in range(n - 1, -1, -1):
        value = step[p] * factor[p, p]
        for k in range(p + 1, n):
            value -= factor[p, k] * step[k]
        step[p] = value


@_jit
def _bound(fisher, stuck, factor, column, bound):
    """Root of the diagonal of the inverse of `fisher`; infinite where that is singular."""
    n = bound.size
    stuck[:] = False
    regular = _factorise(fisher, stuck, 0.0, factor)
    for p in range(n):
        regular &= fisher[p, p] > 0
    for q in range(n):
        total = 0.0
        for p in range(q, n):  # a column of the inverse of L
            value = 1.0 if p == q else 0.0
            for k in range(q, p):
                value -= factor[k, p] * column[k]
            column[p] = value
            total += value * value * factor[p, p]
        bound[q] = math.sqrt(total) if regular else np.inf


@_jit
def minimize(
    images, use, shift, theta, free, low, high, astigmatism, coefficients, z_step, n_iter,
    tol, table, first, density, deviance, moments, bound, converged, steps,
):  # fmt: skip
    """Fit every image (B, Y, X) from `theta` (B, N_CODES), which is overwritten.

    `use` is (B, Y, X); `shift` (B, Y, X) or (1, Y, X); `free` lists the codes of what is fitted,
    `low` and `high` their limits. With SIGMA among the free codes, both widths are one; a
    Gaussian of depth gives its constants as `astigmatism` (5, 2), and a spline its `coefficients`
    (Z, Y', X') and `z_step`; else they are empty. `table` holds the moments of
    `helpers.renderer.mle.goodness`. The last five are written.
    """
    n_images, height, width = images.shape
    n, n_free = height * width, free.size
    counts, place = np.empty(n), np.empty(n)
    drawn, weights = np.empty((1 + n_free, n)), np.empty((2, n))
    across, down = np.empty((3, width)), np.empty((3, height))
    edges = np.empty((3, max(height, width) + 8 & -8))  # whole vectors, without a remainder
    gradient, step = np.empty(n_free), np.empty(n_free)
    fisher, factor = np.empty((n_free, n_free)), np.empty((n_free, n_free))
    stuck = np.empty(n_free, np.bool_)
    trial = np.empty(theta.shape[1])
    width_slopes = np.ones(2)
    splines, planes = np.empty((3, 2, 4)), np.empty((2, height + 3, width + 3))
    line = np.empty(width + 3)

    def draw(at):  # numba writes it out wherever it is called
        if coefficients.size > 0:
            spline(at, free, coefficients, z_step, splines, planes, line, drawn)
        else:
            set_widths(at, astigmatism, width_slopes)
            gaussian(at, free, width_slopes, edges, across, down, drawn)

    for b in range(n_images):
        v = shift[b if shift.shape[0] > 1 else 0].ravel()
        mask = use[b].ravel()
        _shifted_counts(images[b].ravel(), v, counts)
        here = theta[b]
        draw(here)
        value = _weigh(drawn, counts, v, mask, weights)
        _normal_equations(drawn, weights, gradient, fisher)
        damping = DAMPING
        converged[b], steps[b], falls = False, n_iter, True
        for k in range(n_iter + 1):
            for p in range(n_free):
                at = here[free[p]]
                stuck[p] = (at <= low[p] and gradient[p] > 0) or (at >= high[p] and gradient[p] < 0)
            wanted = np.inf
            solved = _factorise(fisher, stuck, damping, factor)
            if solved:
                _solve(factor, gradient, step)
                wanted = 0.0
                _copy(here, trial)
                for p in range(n_free):
                    code = free[p]
                    wanted -= step[p] * gradient[p]
                    trial[code] = min(max(here[code] + step[p], low[p]), high[p])
                    if code == SIGMA:
                        trial[SIGMA_X] = trial[SIGMA_Y] = trial[SIGMA]
                wanted *= 1 + damping
                if wanted < tol * tol:
                    _copy(trial, here)
                    converged[b], steps[b] = True, k
                    break
            if k == n_iter:
                break
            falls = False
            if solved:
                draw(trial)
                new = _weigh(drawn, counts, v, mask, weights)
                falls = new < value
            if falls:
                _copy(trial, here)
                value = new
                _normal_equations(drawn, weights, gradient, fisher)
                damping = max(damping / 10, LEAST)
            else:
                damping = min(damping * 10, MOST)
                if wanted < RESOLUTION:
                    converged[b], steps[b] = True, k + 1
                    break
        deviance[b] = 2 * (value + _own_deviance(counts, mask))
        if not falls:  # what was tried last is not what was accepted last
            draw(here)
        _places(drawn, v, first, density, place)
        moments[0, b], moments[1, b] = _moments(place, mask, table)
        _bound(fisher, stuck, factor, step, bound[b])
