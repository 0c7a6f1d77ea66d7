"""Interpolation: cubic splines that pass through every sample, and shifts by the FFT.

NumPy in, NumPy out; torch in, torch out (differentiable).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch

from ._arrays import Array, ArrayT, Number, is_tensor, like, like_any, to_tensor

__all__ = ["fft_shift", "spline_prefilter", "spline_sample"]

POLE = math.sqrt(3) - 2  # of the inverse of the filter (1, 4, 1) / 6
REACH = 28  # POLE**28 is below the rounding of float64


def spline_prefilter(samples: ArrayT, axes: int | Sequence[int] | None = None) -> ArrayT:
    r"""Coefficients of the cubic B-spline that passes through the samples.

    Parameters
    ----------
    samples : array or tensor
        Any shape; at least one sample along each axis.
    axes : int or sequence of int, optional
        The axes to prepare; all if left out.

    Returns
    -------
    array or tensor
        The shape of `samples`, floating.

    Raises
    ------
    ValueError
        NaN or infinite samples: one would spread over its whole row.

    Notes
    -----
    The spline's value at a sample is :math:`(c_{i-1} + 4 c_i + c_{i+1}) / 6`. The inverse of that
    filter is :math:`h_k = \frac{-6 p}{1 - p^2} p^{|k|}` with :math:`p = \sqrt 3 - 2`
    :cite:p:`unser1999`; 28 terms to each side reach the rounding of float64. Beyond the ends the
    samples are mirrored about the last one, as in ``scipy.ndimage`` with ``mode="mirror"``.
    Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> c = spline_prefilter(np.array([0.0, 1.0, 0.0, 0.0, 2.0]))
    >>> bool(np.allclose((c[:-2] + 4 * c[1:-1] + c[2:]) / 6, [1, 0, 0]))
    True
    """
    t = to_tensor(samples)
    if not bool(t.isfinite().all()):
        raise ValueError("NaN or infinite samples: a spline would spread them, replace them first")
    chosen = range(t.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    gain = -6 * POLE / (1 - POLE**2)
    for axis in chosen:
        n = t.shape[axis]
        if n == 1:
            continue
        source = _mirrored(torch.arange(-REACH, n + REACH, device=t.device), n)
        padded = t.index_select(axis, source)
        t = gain * padded.narrow(axis, REACH, n)
        # sums of slices: a convolution on a graphics card may round to ten bits
        for k in range(1, REACH + 1):
            pair = padded.narrow(axis, REACH - k, n) + padded.narrow(axis, REACH + k, n)
            t = t + gain * POLE**k * pair
    return like(t, samples)


@overload
def spline_sample(
    coefficients: ArrayT, positions: Sequence[ArrayT], *, derivatives: Literal[False] = False
) -> ArrayT: ...
@overload
def spline_sample(
    coefficients: ArrayT, positions: Sequence[ArrayT], *, derivatives: Literal[True]
) -> tuple[ArrayT, ArrayT]: ...
def spline_sample(
    coefficients: Array, positions: Sequence[Array], *, derivatives: bool = False
) -> Array | tuple[Array, Array]:
    r"""Values of a cubic spline between its samples.

    Parameters
    ----------
    coefficients : array or tensor (..., \*grid)
        From `spline_prefilter`; the last ``len(positions)`` axes are interpolated.
    positions : sequence of arrays or tensors
        One for each interpolated axis, in samples from the first; they broadcast to a shape P.
    derivatives : bool
        Give the derivatives by the positions, too.

    Returns
    -------
    values : array or tensor (..., \*P)
    derivatives : array or tensor (D, ..., \*P)
        Per sample along each axis; only if asked for.

    Raises
    ------
    ValueError
        More positions than axes, or none.

    Notes
    -----
    The spline is :math:`f(x) = \sum_i c_i\, \beta^3(x - i)` along each axis, with four terms that
    do not vanish; beyond the ends it continues as its own mirror image. Its second derivative is
    continuous :cite:p:`unser1999`. Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> c = spline_prefilter(np.arange(20.0) ** 2)
    >>> value, slope = spline_sample(c, [np.array([9.5])], derivatives=True)
    >>> value.round(2).tolist(), slope.round(2).tolist()
    ([90.25], [[19.0]])
    """
    c = to_tensor(coefficients)
    n_axes = len(positions)
    if not 1 <= n_axes <= c.ndim:
        raise ValueError(
            f"{n_axes} positions for coefficients of {c.ndim} axes: give one for each axis of the "
            "grid, and at least one"
        )
    places = [to_tensor(place, c.device, c.dtype) for place in positions]
    places = list(torch.broadcast_tensors(*places))
    grid = c.shape[-n_axes:]
    stencils = [_stencil(place, n) for place, n in zip(places, grid, strict=True)]
    flat = c.flatten(-n_axes)
    results: list[Any] = [0.0] * (1 + n_axes * derivatives)
    for corner in itertools.product(range(4), repeat=n_axes):
        index: torch.Tensor | int = 0
        for axis, k in enumerate(corner):
            index = index * grid[axis] + stencils[axis][0][k]
        taken = flat[..., index]
        weights = [stencils[axis][1][k] for axis, k in enumerate(corner)]
        results[0] = results[0] + math.prod(weights) * taken
        if derivatives:
            for axis, k in enumerate(corner):
                turned = [*weights[:axis], stencils[axis][2][k], *weights[axis + 1 :]]
                results[1 + axis] = results[1 + axis] + math.prod(turned) * taken
    given = (coefficients, *positions)
    values = like_any(results[0], given)
    return (values, like_any(torch.stack(results[1:]), given)) if derivatives else values


def bspline(t: Number) -> tuple[tuple[Number, ...], tuple[Number, ...]]:
    """Four weights of a cubic B-spline at the fraction `t` past a sample, and their slopes.

    They belong to the sample before, the one passed, and the two to come.

    Examples
    --------
    >>> [round(6 * w, 3) for w in bspline(0.0)[0]]
    [1.0, 4.0, 1.0, 0.0]
    """
    s = 1 - t
    weights = (
        s**3 / 6,
        2 / 3 - t**2 * (2 - t) / 2,
        2 / 3 - s**2 * (2 - s) / 2,
        t**3 / 6,
    )
    slopes = (-(s**2) / 2, t * (3 * t - 4) / 2, s * (4 - 3 * s) / 2, t**2 / 2)
    return weights, slopes


def fft_shift(images: ArrayT, shift: Iterable[float | Array]) -> ArrayT:
    r"""Move images by parts of a pixel: exact for what is band-limited and periodic.

    Parameters
    ----------
    images : array or tensor (..., \*grid)
        Real or complex.
    shift : sequence of numbers, arrays or tensors (...)
        Pixels along each of the last ``len(shift)`` axes, towards larger indices; each broadcasts
        with the batch of the images.

    Returns
    -------
    array or tensor (..., \*grid)
        What leaves at one side returns at the other: pad first where that matters.

    Raises
    ------
    ValueError
        No shift, or more shifts than axes.

    Notes
    -----
    A shift by d multiplies the transform by :math:`e^{-2\pi i k d / n}`. The Nyquist frequency of
    an even n has no sign; it gets the mean of both, :math:`\cos \pi d`, so that real images stay
    real. Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> abs(fft_shift(np.array([0.0, 1.0, 0.0, 0.0]), [2])).round(12).tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    shift = list(shift)
    t = images if is_tensor(images) else torch.as_tensor(np.asarray(images))
    if not 1 <= len(shift) <= t.ndim:
        raise ValueError(f"{len(shift)} shifts for {t.ndim} axes: give one for each axis")
    if not (t.is_floating_point() or t.is_complex()):
        t = t.float()
    real = t.real.dtype if t.is_complex() else t.dtype
    axes = list(range(-len(shift), 0))
    ramp = torch.ones((), dtype=real, device=t.device)
    for axis, amount in zip(axes, shift, strict=True):
        n = t.shape[axis]
        k = torch.fft.fftfreq(n, dtype=real, device=t.device)
        phase = -2 * torch.pi * k * to_tensor(amount, k.device, k.dtype)[..., None]
        factor = torch.complex(phase.cos(), phase.sin() * (k != -0.5))
        ramp = ramp * factor.unflatten(-1, [n if a == axis else 1 for a in axes])
    shifted = torch.fft.ifftn(torch.fft.fftn(t, dim=axes) * ramp, dim=axes)
    return like_any(shifted if t.is_complex() else shifted.real, (images, *shift))


def _stencil(
    place: torch.Tensor, n: int
) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Indices, weights and slopes of the four coefficients about each place."""
    first = place.detach().floor()
    weights, slopes = bspline(place - first)
    first = first.long()
    indices = [_mirrored(first + k, n) for k in (-1, 0, 1, 2)]
    return indices, weights, slopes


def _mirrored(index: torch.Tensor, n: int) -> torch.Tensor:
    """Index within 0 to n - 1 of any index, the signal mirrored about its first and last."""
    if n == 1:
        return index * 0
    index = index.abs() % (2 * n - 2)
    return index.minimum(2 * n - 2 - index)
