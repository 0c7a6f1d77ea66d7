r"""Expected images and their derivatives, compiled for the CPU: one spot, flat arrays, doubles.

The same mathematics as `helpers.renderer.renderers.gaussian` and `spline`, checked against them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import erfcx

# Sums may be reordered, so that they vectorise; NaN and infinity keep their meaning.
OPTIONS = {
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
def _bells(first, inverse, below, density, product):
    """Light below each edge, the density there, and the density times the distance.

    Edges lie one pixel apart from `first`; `inverse` is 1 / sigma.
    """
    for i in range(below.size):
        t = (i + first) * inverse
        half_square = 0.5 * t * t
        bell = _exp_minus(half_square if half_square < 700.0 else 700.0)
        tail = 0.5 * bell * _erfcx(abs(t) * _ROOT_HALF)
        below[i] = tail if t < 0 else 1.0 - tail
        density[i] = bell
        product[i] = t * bell


@_jit
def _differences(values, factor, out):
    for i in range(out.size):
        out[i] = factor * (values[i + 1] - values[i])


@_jit
def _shares(centre, sigma, edges, profile):
    """Share of the light in each column and its derivatives by centre and width, (3, n)."""
    n = profile.shape[1]
    inverse = 1.0 / sigma
    scale = -inverse / _ROOT_TWO_PI
    _bells(-0.5 * n - centre, inverse, edges[0, : n + 1], edges[1, : n + 1], edges[2, : n + 1])
    _differences(edges[0], 1.0, profile[0])
    _differences(edges[1], scale, profile[1])
    _differences(edges[2], scale, profile[2])


@_jit
def _outer(a, b, factor, offset, out):
    """``offset + factor * a * b`` in the rows of `out`."""
    for i in range(a.size):
        f = factor * a[i]
        at = i * b.size
        for j in range(b.size):
            out[at + j] = offset + f * b[j]


@_jit
def _outer_pair(a, b, c, d, f, g, out):
    """``f * a * b + g * c * d`` in the rows of `out`."""
    for i in range(a.size):
        p, q = f * a[i], g * c[i]
        at = i * b.size
        for j in range(b.size):
            out[at + j] = p * b[j] + q * d[j]


@_jit
def gaussian(theta, free, width_slopes, edges, across, down, rate, slopes):
    """Expected image and its derivatives, flat; `across` and `down` are the two profiles."""
    _shares(theta[X], theta[SIGMA_X], edges, across)
    _shares(theta[Y], theta[SIGMA_Y], edges, down)
    photons = theta[PHOTONS]
    _outer(down[0], across[0], photons, theta[BACKGROUND], rate)
    for p in range(free.size):
        code, out = free[p], slopes[p]
        if code == X:
            _outer(down[0], across[1], photons, 0.0, out)
        elif code == Y:
            _outer(down[1], across[0], photons, 0.0, out)
        elif code == PHOTONS:
            _outer(down[0], across[0], 1.0, 0.0, out)
        elif code == BACKGROUND:
            out[:] = 1.0
        else:
            f = 0.0 if code == SIGMA_Y else photons * width_slopes[0]
            g = 0.0 if code == SIGMA_X else photons * width_slopes[1]
            _outer_pair(down[0], across[2], down[2], across[0], f, g, out)


@_jit
def set_widths(theta, astigmatism, has_depth, slopes):
    """Widths along x and y that belong to `theta`, and for a depth their slopes by it."""
    if not has_depth:
        return
    for axis in range(2):
        sigma, focus, depth, cubic, quartic = astigmatism[:, axis]
        t = (theta[Z] - focus) / depth
        root = math.sqrt(1 + t * t * (1 + t * (cubic + t * quartic)))
        theta[SIGMA_X + axis] = sigma * root
        slopes[axis] = sigma * t * (2 + t * (3 * cubic + t * 4 * quartic)) / (2 * depth * root)


@_jit
def _bspline(t, weights, slopes):
    """The four weights of a cubic B-spline at the fraction `t` past a sample, and their slopes."""
    s = 1 - t
    weights[0], weights[3] = s * s * s / 6, t * t * t / 6
    weights[1] = 2 / 3 - t * t * (2 - t) / 2
    weights[2] = 2 / 3 - s * s * (2 - s) / 2
    slopes[0], slopes[3] = -s * s / 2, t * t / 2
    slopes[1] = t * (3 * t - 4) / 2
    slopes[2] = s * (4 - 3 * s) / 2


@_jit
def _window(centre, n, size, weights, slopes):
    """First of the ``n + 3`` coefficients that an axis needs; fills the weights."""
    place = 0.5 * (size - n) - centre
    first = math.floor(place)
    _bspline(place - first, weights, slopes)
    return int(first) - 1


@_jit
def _add_row(weight, source, first, out):
    """Add ``weight * source[first:]``, dark outside of the source."""
    start, stop = max(0, -first), min(out.size, source.size - first)
    for j in range(start, stop):
        out[j] += weight * source[first + j]


@_jit
def _filtered(plane, down, across, row, out):
    """Sum of four neighbours down and four across of (Y + 3, X + 3), flat (Y * X)."""
    height, width = plane.shape[0] - 3, plane.shape[1] - 3
    for i in range(height):
        a, b, c, d = plane[i], plane[i + 1], plane[i + 2], plane[i + 3]
        for j in range(width + 3):
            row[j] = down[0] * a[j] + down[1] * b[j] + down[2] * c[j] + down[3] * d[j]
        at = i * width
        for j in range(width):
            out[at + j] = (
                across[0] * row[j] + across[1] * row[j + 1] + across[2] * row[j + 2]
                + across[3] * row[j + 3]
            )  # fmt: skip


@_jit
def _scale(values, factor, offset, out):
    for i in range(out.size):
        out[i] = offset + factor * values[i]


@_jit
def spline(theta, free, coefficients, z_step, width, planes, row, spot, rate, slopes):
    """Expected image and its derivatives, flat.

    `planes` (2, Y + 3, X + 3), `row` (X + 3) and `spot` (Y * X) are scratch.
    """
    depth, tall, wide = coefficients.shape
    down, across, deep = np.empty((2, 4)), np.empty((2, 4)), np.empty((2, 4))
    height = rate.size // width
    top = _window(theta[Y], height, tall, down[0], down[1])
    left = _window(theta[X], width, wide, across[0], across[1])
    planes[:] = 0.0
    first, count = 0, 1
    deep[0, 0] = 1.0
    if depth > 1:
        place = theta[Z] / z_step + 0.5 * (depth - 1)
        first = min(max(int(math.floor(place)), 0), depth - 2)
        _bspline(place - first, deep[0], deep[1])
        first, count = first - 1, 4
    for k in range(count):
        plane = abs(first + k)
        plane = depth - 1 - abs(depth - 1 - plane)  # mirrored at both ends
        for i in range(max(0, -top), min(height + 3, tall - top)):
            _add_row(deep[0, k], coefficients[plane, top + i], left, planes[0, i])
            if count == 4:
                _add_row(deep[1, k], coefficients[plane, top + i], left, planes[1, i])
    _filtered(planes[0], down[0], across[0], row, spot)
    photons = theta[PHOTONS]
    _scale(spot, photons, theta[BACKGROUND], rate)
    for p in range(free.size):
        code, out = free[p], slopes[p]
        if code == X:
            _filtered(planes[0], down[0], across[1], row, out)
            _scale(out, -photons, 0.0, out)
        elif code == Y:
            _filtered(planes[0], down[1], across[0], row, out)
            _scale(out, -photons, 0.0, out)
        elif code == PHOTONS:
            out[:] = spot
        elif code == BACKGROUND:
            out[:] = 1.0
        else:
            _filtered(planes[1], down[0], across[0], row, out)
            _scale(out, photons / z_step, 0.0, out)
