r"""The loop of `helpers.renderer.levenberg` compiled for the CPU: one image after the other.

An image of 13 x 13 pixels and its derivatives fill a few kilobytes, so a whole fit happens in the
nearest cache, in double precision. The noise is Poisson, or Poisson with a shift,
(counts + v) ~ Poisson(rate + v), which stands for the readout noise of an sCMOS camera. Checked
against the torch loop, which serves everything else; `helpers.renderer.compiled` chooses.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .images_cpu import OPTIONS, SIGMA, SIGMA_X, SIGMA_Y, gaussian, set_widths, spline
from .levenberg import DAMPING, LEAST, MOST, RESOLUTION

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
def _weigh(rate, counts, shift, use, score, information):
    """Fill score and information; return half the deviance, the part without the rate left out."""
    total = 0.0
    for i in range(rate.size):
        m = (rate[i] if rate[i] > 1e-6 else 1e-6) + shift[i]  # `max` would not vectorise
        exponent, mantissa = _split(m)
        # one division serves both 1 / m and the argument of the logarithm
        inverse = 1.0 / (m * (mantissa + 1.0))
        log = exponent * _LN2 + _log_series((mantissa - 1.0) * (m * inverse))
        one_over = (mantissa + 1.0) * inverse
        score[i] = use[i] * (1.0 - counts[i] * one_over)
        information[i] = use[i] * one_over
        total += use[i] * (m - counts[i] * log)
    return total


@_jit
def _shifted_counts(image, shift, counts):
    for i in range(counts.size):
        d = image[i] + shift[i]
        counts[i] = d if d > 0 else 0.0


@_jit
def _own_deviance(counts, use):
    """The other part: half the deviance at ``rate = counts``, negative."""
    total = 0.0
    for i in range(counts.size):
        d = counts[i]
        exponent, mantissa = _split(d if d > 1e-300 else 1e-300)
        log = exponent * _LN2 + _log_series((mantissa - 1.0) / (mantissa + 1.0))
        total += use[i] * d * (log - 1.0)
    return total


@_jit
def _places(rate, shift, first, density, place):
    """Where each rate lies in a table with `density` nodes an octave."""
    for i in range(rate.size):
        m = (rate[i] if rate[i] > 1e-6 else 1e-6) + shift[i]
        exponent, mantissa = _split(m)
        log = exponent * _LN2 + _log_series((mantissa - 1.0) / (mantissa + 1.0))
        place[i] = (log / _LN2 - first) * density


@_jit
def _moments(place, use, table):
    """Sum of mean and variance of the deviance of all pixels, from the table of rates."""
    mean, variance = 0.0, 0.0
    last = table.shape[1] - 1.001
    for i in range(place.size):
        at = min(max(place[i], 0.0), last)
        k = int(at)
        part = at - k
        mean += use[i] * (table[0, k] * (1 - part) + table[0, k + 1] * part)
        variance += use[i] * (table[1, k] * (1 - part) + table[1, k + 1] * part)
    return mean, variance


@_jit
def _product(a, b, out):
    for i in range(out.size):
        out[i] = a[i] * b[i]


@_jit
def _dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_jit
def _two_dots(a, b, c):
    first, second = 0.0, 0.0
    for i in range(a.size):
        first += a[i] * b[i]
        second += a[i] * c[i]
    return first, second


@_jit
def _normal_equations(slopes, score, information, weighted, gradient, fisher):
    """Gradient and lower triangle of the Fisher information."""
    for p in range(gradient.size):
        gradient[p] = _dot(slopes[p], score)
        _product(slopes[p], information, weighted)
        for q in range(0, p, 2):
            fisher[p, q], fisher[p, q + 1] = _two_dots(weighted, slopes[q], slopes[q + 1])
        if p % 2 == 0:
            fisher[p, p] = _dot(weighted, slopes[p])


@_jit
def _solve(fisher, gradient, stuck, damping, scale, factor, step):
    """Damped step by Cholesky, scaled to a unit diagonal; False if that is not positive."""
    n = gradient.size
    for p in range(n):
        held = stuck[p] or not fisher[p, p] > 0
        scale[p] = 0.0 if held else 1.0 / math.sqrt(fisher[p, p])
    for p in range(n):
        for q in range(p):
            value = fisher[p, q] * scale[p] * scale[q]
            for k in range(q):
                value -= factor[p, k] * factor[q, k]
            factor[p, q] = value * factor[q, q]
        value = 1.0 + damping
        right = -gradient[p] * scale[p]
        for k in range(p):
            value -= factor[p, k] * factor[p, k]
            right -= factor[p, k] * step[k]
        if not value > 1e-14:
            return False
        factor[p, p] = 1.0 / math.sqrt(value)  # the diagonal is kept as its inverse
        step[p] = right * factor[p, p]
    for p in range(n - 1, -1, -1):
        value = step[p]
        for k in range(p + 1, n):
            value -= factor[k, p] * step[k]
        step[p] = value * factor[p, p]
    for p in range(n):
        step[p] *= scale[p]
    return True


@_jit
def minimize(
    images, use, shift, theta, free, low, high, astigmatism, coefficients, z_step, n_iter,
    tolerance, table, first, density, deviance, moments, information, converged, steps,
):  # fmt: skip
    """Fit every image (B, Y, X) from `theta` (B, N_CODES), which is overwritten.

    `use` is (B, Y, X); `shift` (B, Y, X) or (1, Y, X); `free` lists the codes of what is fitted,
    `low` and `high` their limits. With SIGMA among the free codes, both widths are one; a
    Gaussian of depth gives its constants as `astigmatism` (5, 2), and a spline its `coefficients`
    (Z, Y', X') and `z_step`; else they are empty. `table` holds the moments of
    `helpers.renderer.goodness`. The last five are written.
    """
    n_images, height, width = images.shape
    n, n_free = height * width, free.size
    counts, rate, weighted = np.empty(n), np.empty(n), np.empty(n)
    score, info = np.empty(n), np.empty(n)
    slopes = np.empty((n_free, n))
    across, down = np.empty((3, width)), np.empty((3, height))
    edges = np.empty((3, max(height, width) + 1))
    gradient, scale, step = np.empty(n_free), np.empty(n_free), np.empty(n_free)
    fisher, factor = np.empty((n_free, n_free)), np.empty((n_free, n_free))
    stuck = np.empty(n_free, np.bool_)
    trial = np.empty(theta.shape[1])
    width_slopes = np.ones(2)
    planes, row, spot = np.empty((2, height + 3, width + 3)), np.empty(width + 3), np.empty(n)
    has_depth, is_spline = astigmatism.size > 0, coefficients.size > 0
    for b in range(n_images):
        v = shift[b if shift.shape[0] > 1 else 0].ravel()
        mask = use[b].ravel()
        _shifted_counts(images[b].ravel(), v, counts)
        here = theta[b]
        if is_spline:
            spline(here, free, coefficients, z_step, width, planes, row, spot, rate, slopes)
        else:
            set_widths(here, astigmatism, has_depth, width_slopes)
            gaussian(here, free, width_slopes, edges, across, down, rate, slopes)
        value = _weigh(rate, counts, v, mask, score, info)
        _normal_equations(slopes, score, info, weighted, gradient, fisher)
        damping = DAMPING
        converged[b], steps[b], falls = False, n_iter, True
        for k in range(n_iter + 1):
            for p in range(n_free):
                at = here[free[p]]
                stuck[p] = (at <= low[p] and gradient[p] > 0) or (at >= high[p] and gradient[p] < 0)
            wanted = np.inf
            solved = _solve(fisher, gradient, stuck, damping, scale, factor, step)
            if solved:
                wanted = 0.0
                for p in range(n_free):
                    wanted -= step[p] * gradient[p]
                wanted *= 1 + damping
                if wanted < tolerance * tolerance:
                    converged[b], steps[b] = True, k
                    break
            if k == n_iter:
                break
            falls = False
            if solved:
                trial[:] = here
                for p in range(n_free):
                    code = free[p]
                    trial[code] = min(max(here[code] + step[p], low[p]), high[p])
                    if code == SIGMA:
                        trial[SIGMA_X] = trial[SIGMA_Y] = trial[SIGMA]
                if is_spline:
                    spline(
                        trial, free, coefficients, z_step, width, planes, row, spot, rate, slopes
                    )
                else:
                    set_widths(trial, astigmatism, has_depth, width_slopes)
                    gaussian(trial, free, width_slopes, edges, across, down, rate, slopes)
                new = _weigh(rate, counts, v, mask, score, info)
                falls = new < value
            if falls:
                here[:] = trial
                value = new
                _normal_equations(slopes, score, info, weighted, gradient, fisher)
                damping = max(damping / 10, LEAST)
            else:
                damping = min(damping * 10, MOST)
                if wanted < RESOLUTION:
                    converged[b], steps[b] = True, k + 1
                    break
        deviance[b] = 2 * (value + _own_deviance(counts, mask))
        if not falls:  # what was tried last is not what was accepted last
            if is_spline:
                spline(here, free, coefficients, z_step, width, planes, row, spot, rate, slopes)
            else:
                set_widths(here, astigmatism, has_depth, width_slopes)
                gaussian(here, free, width_slopes, edges, across, down, rate, slopes)
        _places(rate, v, first, density, weighted)
        moments[0, b], moments[1, b] = _moments(weighted, mask, table)
        for p in range(n_free):
            for q in range(p + 1):
                information[b, p, q] = information[b, q, p] = fisher[p, q]
