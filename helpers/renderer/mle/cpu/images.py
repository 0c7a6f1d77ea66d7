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
_jit = njit(forceinline=True, **OPTIONS)  # calls with many arrays take as long as the work
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
def nonnegative(index: int) -> np.uint64:
    """An index that may not count from the end: its loops vectorise, as no check is needed."""
    return np.uint64(index)


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
def _bells(edges):
    """Light below each edge, the density there, and the density times the distance.

    The first row of `edges` (3, n) holds the distances in widths, and is overwritten.
    """
    for i in range(edges.shape[1] - 1):
        t = edges[0, i]
        half_square = 0.5 * t * t
        bell = _exp_minus(half_square if half_square < 700.0 else 700.0)
        tail = 0.5 * bell * _erfcx(abs(t) * _ROOT_HALF)
        edges[0, i] = tail if t < 0 else 1.0 - tail
        edges[1, i] = bell
        edges[2, i] = t * bell


@_jit
def _distances(edges, first, n, centre, sigma):
    """Distances in widths of the edges of `n` pixels, from `first` on."""
    inverse = 1.0 / sigma
    start = -0.5 * n - centre
    for i in range(n + 1):
        edges[0, first + i] = (i + start) * inverse


@_jit
def profiles(
    theta: np.ndarray, shape: tuple[int, int], edges: np.ndarray, shares: np.ndarray
) -> None:
    """Share of the light in each column, then, from ``width + 1`` on, in each row: (3, n).

    The other two rows, times the `slope_factor` of an axis, are its slopes by centre and width.
    Both axes go through whole vectors together. `edges` is longer by one.
    """
    height, width = shape
    _distances(edges, 0, width, theta[X], theta[SIGMA_X])
    _distances(edges, width + 1, height, theta[Y], theta[SIGMA_Y])
    _bells(edges)
    for k in range(3):
        for i in range(shares.shape[1]):
            shares[k, i] = edges[k, nonnegative(i + 1)] - edges[k, i]


@_inline
def slope_factor(sigma: float) -> float:
    """Factor of the slopes of an axis by its centre and width."""
    return -1.0 / (sigma * _ROOT_TWO_PI)


@_jit
def gaussian(
    photons: float, background: float, shares: np.ndarray, shape: tuple[int, int], drawn: np.ndarray
) -> None:
    """Expected image, the first row of `drawn`: in whole vectors, each cut off by the next."""
    height, width = shape
    for i in range(height):
        f = photons * shares[0, width + 1 + i]
        at = i * width
        for j in range(width + 7 & -8):
            drawn[0, nonnegative(at + j)] = background + f * shares[0, j]


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
def _fill(value, drawn, row):
    for i in range(drawn.shape[1]):
        drawn[row, i] = value


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
