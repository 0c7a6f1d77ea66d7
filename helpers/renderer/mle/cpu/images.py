r"""Expected images and their derivatives, compiled for the CPU: one spot, flat arrays, doubles.

The same mathematics as `helpers.renderer.renderers.gaussian` and `spline`, checked against them.
Functions take a whole array and the number of a row: a row cut out of an array is counted as one
more reference to it, and for arrays this small the counting takes as long as the work.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import erfcx

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
_jit = njit(**OPTIONS)
_inline = njit(inline="always", **OPTIONS)

X, Y, PHOTONS, BACKGROUND, SIGMA, SIGMA_X, SIGMA_Y, Z = range(8)  # codes of the parameters
_LN2 = math.log(2)
_LN2_HIGH = float(np.int64(np.float64(_LN2).view(np.int64) >> 32 << 32).view(np.float64))
_LN2_LOW = _LN2 - _LN2_HIGH
_ROOT_TWO_PI = math.sqrt(2 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
_E = tuple(1 / math.factorial(k) for k in range(13))
# erfcx(x) as a polynomial of (4 - x) / (4 + x), which runs from 1 to -1/3
_C = tuple(
    Chebyshev.interpolate(lambda v: erfcx(4 * (1 - v) / (1 + v)), 13, [-1 / 3, 1])
    .convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1])
    .coef.tolist()
)


@_inline
def _exp_minus(y):
    """exp(-y) for y from 0 to 700."""
    k = np.float64(np.int64(y * (1 / _LN2) + 0.5))
    r = k * _LN2_HIGH - y + k * _LN2_LOW
    p = _E[8] + r * (_E[9] + r * (_E[10] + r * (_E[11] + r * _E[12])))
    p = _E[3] + r * (_E[4] + r * (_E[5] + r * (_E[6] + r * (_E[7] + r * p))))
    p = 1.0 + r * (1.0 + r * (_E[2] + r * p))
    return p * np.int64((np.int64(1023) - np.int64(k)) << np.int64(52)).view(np.float64)


@_inline
def _erfcx(x):
    """exp(x^2) erfc(x) for x from 0 to 8, to 3e-13; beyond, something harmless."""
    v = (4.0 - x) / (4.0 + x)
    p = _C[7] + v * (_C[8] + v * (_C[9] + v * (_C[10] + v * (_C[11] + v * (_C[12] + v * _C[13])))))
    p = _C[2] + v * (_C[3] + v * (_C[4] + v * (_C[5] + v * (_C[6] + v * p))))
    return _C[0] + v * (_C[1] + v * p)


@_jit
def _bells(first, inverse, edges):
    """Light below each edge, the density there, and the density times the distance: (3, n).

    Edges lie one pixel apart from `first`; `inverse` is 1 / sigma.
    """
    for i in range(edges.shape[1]):
        t = (i + first) * inverse
        half_square = 0.5 * t * t
        bell = _exp_minus(half_square if half_square < 700.0 else 700.0)
        tail = 0.5 * bell * _erfcx(abs(t) * _ROOT_HALF)
        edges[0, i] = tail if t < 0 else 1.0 - tail
        edges[1, i] = bell
        edges[2, i] = t * bell


@_jit
def _differences(edges, factor, profile, k):
    for i in range(profile.shape[1]):
        profile[k, i] = factor * (edges[k, i + 1] - edges[k, i])


@_jit
def _shares(centre, sigma, edges, profile):
    """Share of the light in each column and its derivatives by centre and width, (3, n)."""
    inverse = 1.0 / sigma
    scale = -inverse / _ROOT_TWO_PI
    _bells(-0.5 * profile.shape[1] - centre, inverse, edges)
    _differences(edges, 1.0, profile, 0)
    _differences(edges, scale, profile, 1)
    _differences(edges, scale, profile, 2)


@_jit
def _outer(down, a, across, b, factor, offset, drawn, row):
    """Row `row` of `drawn`: ``offset + factor * down[a] * across[b]``, flat."""
    width = across.shape[1]
    for i in range(down.shape[1]):
        f = factor * down[a, i]
        at = i * width
        for j in range(width):
            drawn[row, at + j] = offset + f * across[b, j]


@_jit
def _outer_pair(down, across, f, g, drawn, row):
    """Row `row` of `drawn`: ``f * down[0] * across[2] + g * down[2] * across[0]``, flat."""
    width = across.shape[1]
    for i in range(down.shape[1]):
        p, q = f * down[0, i], g * down[2, i]
        at = i * width
        for j in range(width):
            drawn[row, at + j] = p * across[2, j] + q * across[0, j]


@_jit
def _fill(value, drawn, row):
    for i in range(drawn.shape[1]):
        drawn[row, i] = value


@_jit
def gaussian(
    theta: np.ndarray,
    free: np.ndarray,
    width_slopes: np.ndarray,
    edges: np.ndarray,
    across: np.ndarray,
    down: np.ndarray,
    drawn: np.ndarray,
) -> None:
    """Expected image and its derivatives, the rows of `drawn`.

    `across` and `down` are the two profiles.
    """
    _shares(theta[X], theta[SIGMA_X], edges, across)
    _shares(theta[Y], theta[SIGMA_Y], edges, down)
    photons = theta[PHOTONS]
    _outer(down, 0, across, 0, photons, theta[BACKGROUND], drawn, 0)
    for p in range(free.size):
        code = free[p]
        if code == X:
            _outer(down, 0, across, 1, photons, 0.0, drawn, p + 1)
        elif code == Y:
            _outer(down, 1, across, 0, photons, 0.0, drawn, p + 1)
        elif code == PHOTONS:
            _outer(down, 0, across, 0, 1.0, 0.0, drawn, p + 1)
        elif code == BACKGROUND:
            _fill(1.0, drawn, p + 1)
        else:
            f = 0.0 if code == SIGMA_Y else photons * width_slopes[0]
            g = 0.0 if code == SIGMA_X else photons * width_slopes[1]
            _outer_pair(down, across, f, g, drawn, p + 1)


@_jit
def set_widths(theta: np.ndarray, astigmatism: np.ndarray, slopes: np.ndarray) -> None:
    """Widths along x and y that belong to `theta`, and for a depth their slopes by it."""
    if astigmatism.size == 0:
        return
    for axis in range(2):
        sigma, focus, depth = astigmatism[0, axis], astigmatism[1, axis], astigmatism[2, axis]
        cubic, quartic = astigmatism[3, axis], astigmatism[4, axis]
        t = (theta[Z] - focus) / depth
        root = math.sqrt(1 + t * t * (1 + t * (cubic + t * quartic)))
        theta[SIGMA_X + axis] = sigma * root
        slopes[axis] = sigma * t * (2 + t * (3 * cubic + t * 4 * quartic)) / (2 * depth * root)


@_jit
def _bspline(t, weights):
    """Cubic B-spline at the fraction `t` past a sample, (2, 4): four weights and their slopes."""
    s = 1 - t
    weights[0, 0], weights[0, 3] = s * s * s / 6, t * t * t / 6
    weights[0, 1] = 2 / 3 - t * t * (2 - t) / 2
    weights[0, 2] = 2 / 3 - s * s * (2 - s) / 2
    weights[1, 0], weights[1, 3] = -s * s / 2, t * t / 2
    weights[1, 1] = t * (3 * t - 4) / 2
    weights[1, 2] = s * (4 - 3 * s) / 2


@_jit
def _window(centre, n, size, weights):
    """First of the ``n + 3`` coefficients that an axis needs; fills the weights."""
    place = 0.5 * (size - n) - centre
    first = math.floor(place)
    _bspline(place - first, weights)
    return int(first) - 1


@_jit
def _add_plane(weight, coefficients, plane, top, left, planes, k):
    """Add a plane of coefficients from (top, left) on to ``planes[k]``, dark outside of it."""
    tall, wide = coefficients.shape[1:]
    height, width = planes.shape[1:]
    for i in range(max(0, -top), min(height, tall - top)):
        for j in range(max(0, -left), min(width, wide - left)):
            planes[k, i, j] += weight * coefficients[plane, top + i, left + j]


@_jit
def _filtered(planes, k, down, a, across, b, factor, offset, line, drawn, row):
    """Row `row` of `drawn`: four neighbours down and four across of ``planes[k]``, summed."""
    height, width = planes.shape[1] - 3, planes.shape[2] - 3
    d0, d1, d2, d3 = down[a, 0], down[a, 1], down[a, 2], down[a, 3]
    a0, a1 = factor * across[b, 0], factor * across[b, 1]
    a2, a3 = factor * across[b, 2], factor * across[b, 3]
    for i in range(height):
        for j in range(width + 3):
            line[j] = (
                d0 * planes[k, i, j] + d1 * planes[k, i + 1, j] + d2 * planes[k, i + 2, j]
                + d3 * planes[k, i + 3, j]
            )  # fmt: skip
        at = i * width
        for j in range(width):
            drawn[row, at + j] = offset + (
                a0 * line[j] + a1 * line[j + 1] + a2 * line[j + 2] + a3 * line[j + 3]
            )


@_jit
def spline(
    theta: np.ndarray,
    free: np.ndarray,
    coefficients: np.ndarray,
    z_step: float,
    weights: np.ndarray,
    planes: np.ndarray,
    line: np.ndarray,
    drawn: np.ndarray,
) -> None:
    """Expected image and its derivatives, the rows of `drawn`.

    `weights` (3, 2, 4), `planes` (2, Y + 3, X + 3) and `line` (X + 3) are scratch.
    """
    depth, tall, wide = coefficients.shape
    height, width = planes.shape[1] - 3, planes.shape[2] - 3
    down, across, deep = weights[0], weights[1], weights[2]
    top = _window(theta[Y], height, tall, down)
    left = _window(theta[X], width, wide, across)
    planes[:] = 0.0
    first, count = 0, 1
    deep[0, 0] = 1.0
    if depth > 1:
        place = theta[Z] / z_step + 0.5 * (depth - 1)
        first = min(max(int(math.floor(place)), 0), depth - 2)
        _bspline(place - first, deep)
        first, count = first - 1, 4
    for k in range(count):
        plane = abs(first + k)
        plane = depth - 1 - abs(depth - 1 - plane)  # mirrored at both ends
        _add_plane(deep[0, k], coefficients, plane, top, left, planes, 0)
        if count == 4:
            _add_plane(deep[1, k], coefficients, plane, top, left, planes, 1)
    photons = theta[PHOTONS]
    _filtered(planes, 0, down, 0, across, 0, photons, theta[BACKGROUND], line, drawn, 0)
    for p in range(free.size):
        code, row = free[p], p + 1
        if code == X:
            _filtered(planes, 0, down, 0, across, 1, -photons, 0.0, line, drawn, row)
        elif code == Y:
            _filtered(planes, 0, down, 1, across, 0, -photons, 0.0, line, drawn, row)
        elif code == PHOTONS:
            _filtered(planes, 0, down, 0, across, 0, 1.0, 0.0, line, drawn, row)
        elif code == BACKGROUND:
            _fill(1.0, drawn, row)
        else:
            _filtered(planes, 1, down, 0, across, 0, photons / z_step, 0.0, line, drawn, row)
