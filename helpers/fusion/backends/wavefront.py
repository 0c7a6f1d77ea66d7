r"""One fused iteration on the CPU: gradient step, TV sweeps and cost in one pass over the rows.

Sweep ``k`` of the projection needs rows ``j-1 .. j+1`` of sweep ``k-1``, no more. So the sweeps
run as a wave: when the gradient step has reached row ``i``, sweep ``k`` has reached row ``i - k``.
Each stage keeps two rows, and everything stays in the cache however large the image is. The image
is read once and written once an iteration, where separate passes would move it some forty times.

Threads take bands of rows. A band starts `n_sweeps + 1` rows early and ends as late, because a
wrong dual value at its edge travels one row a sweep; so bands share nothing and give the same
result.

Same mathematics as `helpers.fusion.backends.steps`, checked against it; float32 only. The page
:doc:`/book/fusion/02_total_variation` explains the wave with a picture.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numba import njit

Scalar: TypeAlias = Any  # a float32: mypy knows nothing of numba's
_F = np.float32
_jit: Any = njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
_inline: Any = njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")

# Series of 2^r on [-1/2, 1/2] and of log2((1+s)/(1-s)) on |s| < 0.172: 2e-8 relative or better.
_E1, _E2, _E3, _E4, _E5, _E6, _E7 = (_F(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))
_L1, _L3, _L5, _L7, _L9 = (_F(2 / math.log(2) / k) for k in (1, 3, 5, 7, 9))
_LN2 = _F(math.log(2))
_SQRT_HALF = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))
_ZERO, _ONE, _TINY = _F(0), _F(1), _F(1e-30)


@_inline
def _log2(x: Scalar) -> Scalar:
    """Base-2 logarithm of a float32 above zero. Vectorises, unlike the library's."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32((bits - _SQRT_HALF) >> np.int32(23))
    m = np.int32(bits - (exponent << np.int32(23))).view(np.float32)
    s = (m - _ONE) / (m + _ONE)
    s2 = s * s
    return np.float32(exponent) + s * (_L1 + s2 * (_L3 + s2 * (_L5 + s2 * (_L7 + s2 * _L9))))


@_inline
def _exp2(t: Scalar) -> Scalar:
    """Two to the power of a float32 in -126 .. 126."""
    t = max(t, _F(-126))
    whole = np.int32(np.int32(t + _F(1000.5)) - np.int32(1000))
    r = t - np.float32(whole)
    p = _E4 + r * (_E5 + r * (_E6 + r * _E7))
    p = _ONE + r * (_E1 + r * (_E2 + r * (_E3 + r * p)))
    return p * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@_jit
def _model_row(
    x: np.ndarray, weight: Scalar, exponent: Scalar, power: np.ndarray, residual: np.ndarray
) -> None:
    """Put ``x ** exponent`` in `power` and add the element's share of the HAADF to `residual`."""
    for c in range(x.size):
        p = _exp2(exponent * _log2(max(x[c], _TINY)))
        power[c] = p
        residual[c] += weight * x[c] * p


@_jit
def _step_row(
    x: np.ndarray,
    b: np.ndarray,
    power: np.ndarray,
    residual: np.ndarray,
    slope: Scalar,
    chem: Scalar,
    background: Scalar,
    step: Scalar,
    y: np.ndarray,
) -> None:
    """Gradient step of one element: ``y = x - step * gradient``."""
    for c in range(x.size):
        g = slope * power[c] * residual[c] + chem * (_ONE - b[c] / (x[c] + background))
        y[c] = x[c] - step * g


@_jit
def _primal_row(
    y: np.ndarray, v: np.ndarray, v_above: np.ndarray, h: np.ndarray, u: np.ndarray
) -> None:
    """``u = max(y - D* q, 0)`` for one row of the scaled dual ``q = (v, h)``.

    Rows have a column more at an end, so that no loop ends early: `h` begins with a zero, and `u`
    ends with its last value twice, whose difference keeps the last column of `h` at zero.
    """
    for c in range(y.size):
        u[c] = max(y[c] + v[c] - v_above[c] + h[c + 1] - h[c], _ZERO)
    u[y.size] = u[y.size - 1]


@_jit
def _dual_row(
    u: np.ndarray,
    u_below: np.ndarray,
    v: np.ndarray,
    h: np.ndarray,
    radius: Scalar,
    tau: Scalar,
    isotropic: bool,
    v_new: np.ndarray,
    h_new: np.ndarray,
) -> None:
    """One projected step of a dual row, from ``(v, h)``."""
    if isotropic:
        for c in range(v.size):
            a = v[c] + tau * (u_below[c] - u[c])
            b = h[c + 1] + tau * (u[c + 1] - u[c])
            shrink = min(_ONE, radius / math.sqrt(a * a + b * b + _TINY))
            v_new[c] = a * shrink
            h_new[c + 1] = b * shrink
    else:
        for c in range(v.size):
            v_new[c] = min(max(v[c] + tau * (u_below[c] - u[c]), -radius), radius)
            h_new[c + 1] = min(max(h[c + 1] + tau * (u[c + 1] - u[c]), -radius), radius)


@_jit
def _momentum_row(new: np.ndarray, old: np.ndarray, beta: Scalar, moved: np.ndarray) -> None:
    for c in range(new.size):
        moved[c] = new[c] + beta * (new[c] - old[c])


@_jit
def _finish_row(
    u: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[Scalar, Scalar]:
    """Copy a finished row to `x`; sums of (x - z)^2 and of (x - z)(z - y)."""
    square, along = _ZERO, _ZERO
    for c in range(x.size):
        x[c] = u[c]
        d = u[c] - z[c]
        square += d * d
        along += d * (z[c] - y[c])
    return square, along


@_jit
def prox_gradient(
    z: np.ndarray,
    maps: np.ndarray,
    haadf: np.ndarray,
    weights: np.ndarray,
    gamma: Scalar,
    lambda_haadf: Scalar,
    lambda_chem: Scalar,
    background: np.ndarray,
    step: Scalar,
    radii: np.ndarray,
    betas: np.ndarray,
    isotropic: bool,
    warm: bool,
    dual: np.ndarray,
    dual_out: np.ndarray,
    x: np.ndarray,
    first: int,
    last: int,
) -> tuple[Scalar, Scalar]:
    """One proximal gradient step from `z`, rows `first` to `last`, written to `x`.

    All images are (E, H, W) float32. When `warm`, the sweeps start from `dual` (E, 2, H, W), in
    the unit ball, and their result goes to `dual_out`: another array, because bands overlap. Else
    they start at zero and neither is touched. `betas` holds the momentum after each sweep; the
    first is zero. `background` and `radii` are (E,). Returns the sums of ``(x - z)^2`` and of
    ``(x - z) * gradient`` over the band.
    """
    n_elements, n_rows, n_columns = z.shape
    n = betas.size
    start, stop = max(0, first - n - 1), min(n_rows, last + n + 1)
    tau = _F(0.125)
    exponent = gamma - _ONE

    residual = np.empty(n_columns, np.float32)
    power = np.empty((n_elements, n_columns), np.float32)
    y = np.empty((n_elements, n + 2, n_columns), np.float32)
    # Per element and stage, for two rows: the primal row; the vertical and the horizontal dual;
    # and both moved on by the momentum.
    u = np.zeros((n_elements, n + 1, 2, n_columns + 1), np.float32)
    v = np.zeros((n_elements, n + 2, 2, n_columns), np.float32)
    h = np.zeros((n_elements, n + 2, 2, n_columns + 1), np.float32)
    v_r = np.zeros((n_elements, n + 2, 2, n_columns), np.float32)
    h_r = np.zeros((n_elements, n + 2, 2, n_columns + 1), np.float32)
    nothing = np.zeros(n_columns, np.float32)
    result = np.empty(n_columns + 1, np.float32)
    square, along = 0.0, 0.0

    for i in range(start, stop + n):
        if i < stop:
            for c in range(n_columns):
                residual[c] = -haadf[i, c]
            for e in range(n_elements):
                _model_row(z[e, i], weights[e], exponent, power[e], residual)
        for e in range(n_elements):
            radius = radii[e]
            inverse = _ONE / radius if radius > _ZERO else _ZERO
            if i < stop:
                slope = lambda_haadf * gamma * weights[e]
                _step_row(z[e, i], maps[e, i], power[e], residual, slope, lambda_chem,
                          background[e], step, y[e, i % (n + 2)])  # fmt: skip
                if warm:
                    for c in range(n_columns):
                        v[e, 1, i % 2, c] = radius * dual[e, 0, i, c]
                        h[e, 1, i % 2, c + 1] = radius * dual[e, 1, i, c]
            for k in range(1, n + 1):
                # The first factor of the momentum is zero: until then nothing has moved.
                v_from, h_from = (v, h) if k <= 2 else (v_r, h_r)
                new, j = i - k + 1, i - k
                if start <= new < stop:
                    above = v_from[e, k, (new + 1) % 2] if new > start else nothing
                    _primal_row(y[e, new % (n + 2)], v_from[e, k, new % 2], above,
                                h_from[e, k, new % 2], u[e, k, new % 2])  # fmt: skip
                if start <= j < stop:
                    at = j % 2
                    below = u[e, k, (j + 1) % 2] if j + 1 < stop else u[e, k, at]
                    _dual_row(u[e, k, at], below, v_from[e, k, at], h_from[e, k, at], radius, tau,
                              isotropic, v[e, k + 1, at], h[e, k + 1, at])  # fmt: skip
                    if 1 < k < n:
                        beta = betas[k - 1]
                        _momentum_row(v[e, k + 1, at], v[e, k, at], beta, v_r[e, k + 1, at])
                        _momentum_row(h[e, k + 1, at], h[e, k, at], beta, h_r[e, k + 1, at])
            j = i - n
            if first <= j < last:
                above = v[e, n + 1, (j + 1) % 2] if j > start else nothing
                at, y_row = j % 2, y[e, j % (n + 2)]
                _primal_row(y_row, v[e, n + 1, at], above, h[e, n + 1, at], result)
                s, a = _finish_row(result, z[e, j], y_row, x[e, j])
                square += s
                along += a
                if warm:
                    for c in range(n_columns):
                        dual_out[e, 0, j, c] = inverse * v[e, n + 1, at, c]
                        dual_out[e, 1, j, c] = inverse * h[e, n + 1, at, c + 1]
    return square, along / step


@_jit
def extrapolate(
    x: np.ndarray, new: np.ndarray, factor: Scalar, z: np.ndarray, first: int, last: int
) -> tuple[()]:
    """Write ``max(x + factor * (new - x), 0)`` to `z`, rows `first` to `last`."""
    for e in range(x.shape[0]):
        for i in range(first, last):
            for c in range(x.shape[2]):
                z[e, i, c] = max(x[e, i, c] + factor * (new[e, i, c] - x[e, i, c]), _ZERO)
    return ()


@_jit
def _chem_row(x: np.ndarray, b: np.ndarray, background: Scalar) -> Scalar:
    total = _ZERO
    for c in range(x.size):
        total += x[c] - b[c] * _LN2 * _log2(x[c] + background)
    return total


@_jit
def _along_row(
    x: np.ndarray,
    z: np.ndarray,
    b: np.ndarray,
    power: np.ndarray,
    residual: np.ndarray,
    slope: Scalar,
    chem: Scalar,
    background: Scalar,
) -> Scalar:
    """Sum of gradient(x) * (x - z) over one row of one element."""
    total = _ZERO
    for c in range(x.size):
        g = slope * power[c] * residual[c] + chem * (_ONE - b[c] / (x[c] + background))
        total += g * (x[c] - z[c])
    return total


@_jit
def _tv_row(x: np.ndarray, x_below: np.ndarray, isotropic: bool) -> Scalar:
    last = x.size - 1
    total = abs(x_below[last] - x[last])
    if isotropic:
        for c in range(last):
            a, b = x_below[c] - x[c], x[c + 1] - x[c]
            total += math.sqrt(a * a + b * b)
    else:
        for c in range(last):
            total += abs(x_below[c] - x[c]) + abs(x[c + 1] - x[c])
    return total


@_jit
def evaluate(
    x: np.ndarray,
    z: np.ndarray,
    maps: np.ndarray,
    haadf: np.ndarray,
    weights: np.ndarray,
    gamma: Scalar,
    lambda_haadf: Scalar,
    lambda_chem: Scalar,
    background: np.ndarray,
    lambda_tv: np.ndarray,
    isotropic: bool,
    first: int,
    last: int,
) -> tuple[Scalar, ...]:
    """Cost sums of `x` over rows `first` to `last`, and the slope towards `z`.

    Returns half the squared HAADF residual and the Poisson term, without their lambdas, the total
    variation with them, and the sum of ``gradient(x) * (x - z)``.
    """
    n_elements, n_rows, n_columns = x.shape
    exponent = gamma - _ONE
    residual = np.empty(n_columns, np.float32)
    power = np.empty((n_elements, n_columns), np.float32)
    square, chem, roughness, along = 0.0, 0.0, 0.0, 0.0
    for i in range(first, last):
        for c in range(n_columns):
            residual[c] = -haadf[i, c]
        below = min(i + 1, n_rows - 1)
        for e in range(n_elements):
            _model_row(x[e, i], weights[e], exponent, power[e], residual)
            chem += _chem_row(x[e, i], maps[e, i], background[e])
            roughness += lambda_tv[e] * _tv_row(x[e, i], x[e, below], isotropic)
        for e in range(n_elements):
            slope = lambda_haadf * gamma * weights[e]
            along += _along_row(x[e, i], z[e, i], maps[e, i], power[e], residual, slope,
                                lambda_chem, background[e])  # fmt: skip
        row: Scalar = _ZERO
        for c in range(n_columns):
            row += residual[c] * residual[c]
        square += row
    return 0.5 * square, chem, roughness, along
