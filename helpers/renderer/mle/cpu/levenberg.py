r"""The loop of `helpers.renderer.mle.levenberg` compiled for the CPU: one image after the other.

An image of 13 x 13 pixels and its derivatives fill a few kilobytes, so a whole fit happens in the
nearest cache, in double precision. The cameras are in `likelihood`. Checked against the torch
loop, which serves everything else; `helpers.renderer.mle.cpu.dispatch` chooses.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ..levenberg import DAMPING, LEAST, MOST, RESOLUTION
from . import likelihood
from .images import (
    BACKGROUND,
    OPTIONS,
    PHOTONS,
    SIGMA,
    SIGMA_X,
    SIGMA_Y,
    gaussian,
    profiles,
    set_widths,
    spline,
)
from .separable import BLOCK, N_SUMS, normal_equations

_jit = njit(**OPTIONS)


@_jit
def _copy(source, target):
    for i in range(source.size):
        target[i] = source[i]


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
    images, use, variance, camera, theta, free, low, high, astigmatism, coefficients, z_step,
    n_iter, tol, table, first, density, deviance, moments, bound, converged, steps,
):  # fmt: skip
    """Fit every image (B, Y, X) from `theta` (B, N_CODES), which is overwritten.

    `use` and `variance`, of the read noise, are (B, Y, X) or (1, Y, X); `camera` is a
    `likelihood.Camera`; `free` lists the codes of what is fitted, `low` and `high` their limits.
    With SIGMA among the free codes, both widths are one; a Gaussian of depth gives its constants
    as `astigmatism` (5, 2), and a spline its `coefficients` (Z, Y', X') and `z_step`; else they
    are empty. `table` holds the moments of `helpers.renderer.mle.goodness`. The last five are
    written.
    """
    shape = height, width = images.shape[1:]
    n_free, separable = free.size, coefficients.size == 0
    # whole vectors without a remainder: what lies beyond the image counts as masked
    n = height * width + 7 & -8
    counts, place, rows = np.zeros(n), np.empty(n), np.empty(n)
    v, mask = np.zeros(n), np.zeros(n)
    column, taps = np.empty(n, np.int64), np.empty((4, n))
    alone, unused = np.empty((1, n)), np.empty((2, n))
    room = (height + 1) * width + BLOCK
    drawn = np.zeros((1 if separable else 1 + n_free, room))
    weights = np.zeros((2, room))
    shares = np.empty((3, width + height + 9 & -8))
    edges = np.zeros((3, shares.shape[1] + 1))
    sums = np.empty(N_SUMS * (width + BLOCK - 1 & -BLOCK))
    slopes, products = np.empty(theta.shape[1]), np.empty((theta.shape[1], theta.shape[1]))
    gradient, step = np.empty(n_free), np.empty(n_free)
    fisher, factor = np.empty((n_free, n_free)), np.empty((n_free, n_free))
    stuck = np.empty(n_free, np.bool_)
    trial = np.empty(theta.shape[1])
    width_slopes = np.ones(2)
    splines, planes = np.empty((3, 2, 4)), np.empty((2, height + 3, width + 3))
    line = np.empty(width + 3)

    def draw(at):  # numba writes it out wherever it is called
        if separable:
            set_widths(at, astigmatism, width_slopes)
            profiles(at, shape, edges, shares)
            gaussian(at[PHOTONS], at[BACKGROUND], shares, shape, drawn)
        else:
            spline(at, free, coefficients, z_step, splines, planes, line, drawn)

    def equations(at):
        if separable:
            normal_equations(
                weights, at, free, width_slopes, shares, shape, sums, slopes, products, gradient,
                fisher,
            )  # fmt: skip
        else:
            _normal_equations(drawn, weights, gradient, fisher)

    def weigh(rates, v, mask, into):
        if camera.kind == likelihood.POISSON:
            return likelihood.poisson(rates, counts, v, mask, into)
        if camera.kind == likelihood.MIXTURE:
            return likelihood.mixture(
                rates, counts, v, mask, camera.factorials, camera.information, rows, into
            )
        return likelihood.multiplied(
            rates, counts, camera.spread, mask, camera.electrons, column, taps,
            camera.information, into,
        )  # fmt: skip

    for b in range(len(images)):
        if b == 0 or variance.shape[0] > 1:
            _copy(variance[b].ravel(), v)
        if b == 0 or use.shape[0] > 1:
            _copy(use[b].ravel(), mask)
        _copy(images[b].ravel(), counts)
        if camera.kind == likelihood.POISSON:
            likelihood.shift_counts(v, counts)
        else:
            if camera.kind == likelihood.MIXTURE:
                likelihood.rows_of(v, camera.information, rows)
            else:
                likelihood.place_counts(
                    counts, camera.spread, camera.n_near, camera.electrons.shape[0], column, taps
                )
        here = theta[b]
        _copy(here, trial)
        value, wanted, damping, solved, falls = np.inf, np.inf, DAMPING, True, False
        converged[b], steps[b] = False, n_iter
        for k in range(n_iter + 1):
            falls = False
            if solved:
                draw(trial)
                new = weigh(drawn, v, mask, weights)
                falls = new < value or k == 0
            if falls:
                _copy(trial, here)
                value = new
                equations(here)
                damping = max(damping / 10, LEAST) if k > 0 else DAMPING
            else:
                damping = min(damping * 10, MOST)
                if wanted < RESOLUTION:
                    converged[b], steps[b] = True, k
                    break
            for p in range(n_free):
                at = here[free[p]]
                stuck[p] = (at <= low[p] and gradient[p] > 0) or (at >= high[p] and gradient[p] < 0)
            wanted = np.inf
            solved = _factorise(fisher, stuck, damping, factor)
            if solved:
                _solve(factor, gradient, step)
                wanted = 0.0
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
        if camera.kind == likelihood.POISSON:
            best = likelihood.poisson_at_best(counts, mask)
        else:
            for i in range(n):
                alone[0, i] = max(counts[i], 0.0)
            best = weigh(alone, v, mask, unused)
        deviance[b] = 2 * (value - best)
        if not falls:  # what was tried last is not what was accepted last
            draw(here)
        if camera.kind == likelihood.MULTIPLIED:
            moments[0, b] = mask.sum()
            moments[1, b] = 2 * moments[0, b]
        else:
            likelihood.places(drawn, v, first, density, place)
            moments[0, b], moments[1, b] = likelihood.moments(place, mask, table)
        _bound(fisher, stuck, factor, step, bound[b])
