r"""Gradient and Fisher information of a spot whose image is columns times rows, without its slopes.

With profiles :math:`a_k` across and :math:`d_k` down, where k = 0 is the share of the light and
k = 1, 2 are its slopes by centre and width, every slope of the image is a sum of six products:

.. math:: d_0 a_0, \quad d_0 a_1, \quad d_1 a_0, \quad d_0 a_2, \quad d_2 a_0, \quad 1 .

Sums over pixels of products of two of them, times the information, are sums over the rows and then
over the columns. Those over the rows serve several products, and go through whole vectors.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .images import (
    BACKGROUND,
    OPTIONS,
    PHOTONS,
    SIGMA,
    SIGMA_X,
    SIGMA_Y,
    X,
    Y,
    Z,
    nonnegative,
    slope_factor,
)

_jit = njit(forceinline=True, **OPTIONS)
# not reordered: so few columns are added up sooner one by one than across the lanes of a vector
_in_order = njit(forceinline=True, **{**OPTIONS, "fastmath": {"contract", "nsz", "arcp"}})

BLOCK = 16  # columns at once
N_SUMS = 14  # over the rows: score times 1, d0, d1, d2; information times products of two of them


@_jit
def _over_rows(weights, shares, first, columns, shape, sums):
    """Sums over the rows for a block of columns from `first` on; each sum has 16 places in `sums`.

    Two rows in a pass, so that the sums are loaded and stored half as often: what `weights` hold
    for a row after the last has to be zero. Strides are written as numbers: only then does the
    compiler see that the sums do not overlap.
    """
    height, width = shape
    for k in range(N_SUMS * BLOCK):
        sums[nonnegative(N_SUMS * first + k)] = 0.0
    for i in range(0, height, 2):
        row = nonnegative(width + 1 + i)
        next_row = nonnegative(width + 2 + i)
        d0, d1, d2 = shares[0, row], shares[1, row], shares[2, row]
        e0, e1, e2 = shares[0, next_row], shares[1, next_row], shares[2, next_row]
        at = i * width + first
        for j in range(columns):
            k = nonnegative(N_SUMS * first + j)
            here, below = nonnegative(at + j), nonnegative(at + width + j)
            s, t = weights[0, here], weights[0, below]
            sums[k] += s + t
            sums[k + np.uint64(16)] += s * d0 + t * e0
            sums[k + np.uint64(32)] += s * d1 + t * e1
            sums[k + np.uint64(48)] += s * d2 + t * e2
            v, w = weights[1, here], weights[1, below]
            v0, v1, v2 = v * d0, v * d1, v * d2
            w0, w1, w2 = w * e0, w * e1, w * e2
            sums[k + np.uint64(64)] += v + w
            sums[k + np.uint64(80)] += v0 + w0
            sums[k + np.uint64(96)] += v1 + w1
            sums[k + np.uint64(112)] += v2 + w2
            sums[k + np.uint64(128)] += v0 * d0 + w0 * e0
            sums[k + np.uint64(144)] += v0 * d1 + w0 * e1
            sums[k + np.uint64(160)] += v0 * d2 + w0 * e2
            sums[k + np.uint64(176)] += v1 * d1 + w1 * e1
            sums[k + np.uint64(192)] += v1 * d2 + w1 * e2
            sums[k + np.uint64(208)] += v2 * d2 + w2 * e2


@_in_order
def _over_columns(sums, shares, theta, width, slopes, products):
    """Gradient, and lower triangle of the Fisher information, of a spot with two widths.

    In `slopes` and `products` the codes of the parameters are the places.
    """
    gx = gy = gp = gb = gu = gv = 0.0
    xx = yx = yy = px = py = pp = bx = by = bp = bb = 0.0
    ux = uy = up = ub = uu = vx = vy = vp = vb = vu = vv = 0.0
    for column in range(width):
        j = nonnegative(column // BLOCK * (N_SUMS * BLOCK) + column % BLOCK)
        a, b, c = shares[0, column], shares[1, column], shares[2, column]
        s, s0, s1, s2 = sums[j], sums[16 + j], sums[32 + j], sums[48 + j]
        gx += s0 * b
        gy += s1 * a
        gp += s0 * a
        gb += s
        gu += s0 * c
        gv += s2 * a
        w, w0, w1, w2 = sums[64 + j], sums[80 + j], sums[96 + j], sums[112 + j]
        bx += w0 * b
        by += w1 * a
        bp += w0 * a
        bb += w
        ub += w0 * c
        vb += w2 * a
        aa, ab, ac = a * a, a * b, a * c
        w00, w01, w02 = sums[128 + j], sums[144 + j], sums[160 + j]
        xx += w00 * (b * b)
        px += w00 * ab
        pp += w00 * aa
        ux += w00 * (b * c)
        up += w00 * ac
        uu += w00 * (c * c)
        yx += w01 * ab
        py += w01 * aa
        uy += w01 * ac
        vx += w02 * ab
        vp += w02 * aa
        vu += w02 * ac
        yy += sums[176 + j] * aa
        vy += sums[192 + j] * aa
        vv += sums[208 + j] * aa
    photons = theta[PHOTONS]
    f, g = photons * slope_factor(theta[SIGMA_X]), photons * slope_factor(theta[SIGMA_Y])
    slopes[X] = f * gx
    slopes[Y] = g * gy
    slopes[PHOTONS] = gp
    slopes[BACKGROUND] = gb
    slopes[SIGMA_X] = f * gu
    slopes[SIGMA_Y] = g * gv
    products[X, X] = f * f * xx
    products[Y, X] = f * g * yx
    products[Y, Y] = g * g * yy
    products[PHOTONS, X] = f * px
    products[PHOTONS, Y] = g * py
    products[PHOTONS, PHOTONS] = pp
    products[BACKGROUND, X] = f * bx
    products[BACKGROUND, Y] = g * by
    products[BACKGROUND, PHOTONS] = bp
    products[BACKGROUND, BACKGROUND] = bb
    products[SIGMA_X, X] = f * f * ux
    products[SIGMA_X, Y] = f * g * uy
    products[SIGMA_X, PHOTONS] = f * up
    products[SIGMA_X, BACKGROUND] = f * ub
    products[SIGMA_X, SIGMA_X] = f * f * uu
    products[SIGMA_Y, X] = f * g * vx
    products[SIGMA_Y, Y] = g * g * vy
    products[SIGMA_Y, PHOTONS] = g * vp
    products[SIGMA_Y, BACKGROUND] = g * vb
    products[SIGMA_Y, SIGMA_X] = f * g * vu
    products[SIGMA_Y, SIGMA_Y] = g * g * vv


@_jit
def _join(width_slopes, code, slopes, products):
    """The same for a parameter that sets both widths."""
    f, g = width_slopes
    slopes[code] = f * slopes[SIGMA_X] + g * slopes[SIGMA_Y]
    for k in (X, Y, PHOTONS, BACKGROUND):
        products[code, k] = f * products[SIGMA_X, k] + g * products[SIGMA_Y, k]
    products[code, code] = (
        f * f * products[SIGMA_X, SIGMA_X]
        + 2 * f * g * products[SIGMA_Y, SIGMA_X]
        + g * g * products[SIGMA_Y, SIGMA_Y]
    )


@_jit
def normal_equations(
    weights, theta, free, width_slopes, shares, shape, sums, slopes, products, gradient, fisher
):
    """Write gradient and lower triangle of the Fisher information of the `free` parameters.

    `weights` are score and information of the pixels, `shares` the profiles at `theta`; `sums`
    (N_SUMS numbers for each column, in whole blocks), `slopes` and `products` are scratch.
    """
    width = shape[1]
    for first in range(0, width, BLOCK):
        columns = min(BLOCK, width - first + 7 & -8)
        _over_rows(weights, shares, first, columns, shape, sums)
    _over_columns(sums, shares, theta, width, slopes, products)
    for p in range(free.size):
        code = free[p]
        if code == SIGMA or code == Z:
            _join(width_slopes, code, slopes, products)
    for p in range(free.size):
        gradient[p] = slopes[free[p]]
        for q in range(p + 1):
            fisher[p, q] = products[max(free[p], free[q]), min(free[p], free[q])]
