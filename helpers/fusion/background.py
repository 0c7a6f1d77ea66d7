r"""Take the background off before a fusion: under an edge of a spectrum, and over the vacuum.

Both are shown in :doc:`/book/fusion/04_core_shell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, is_tensor, to_numpy


class Edge(NamedTuple):
    """Counts of an edge, and of the background under it."""

    signal: np.ndarray
    background: np.ndarray


def subtract_power_law(
    spectra: Array,
    energies: Array,
    fit_window: tuple[float, float],
    signal_window: tuple[float, float],
    *,
    shared_slope: bool = False,
) -> Edge:
    r"""Counts of an energy-loss edge above a power law fitted in front of it.

    Parameters
    ----------
    spectra : (..., K) array
        Counts in K energy channels.
    energies : (K,) array
        Energy loss of the channels in eV, rising and above 0.
    fit_window, signal_window : (low, high)
        Energies, in eV, between which the background is fitted, and the counts are summed.
    shared_slope : bool
        Take the exponent from the sum of all spectra, and only the height from each. Where a
        pixel has few counts in front of the edge its own exponent is so uncertain that the
        extrapolation is too high on average.

    Returns
    -------
    Edge
        ``signal`` and ``background``, each of shape (...): counts in the signal window that belong
        to the edge (negative where noise says so), and counts under it.

    Raises
    ------
    ValueError
        Shapes that do not fit, or windows with fewer than two channels, or that overlap.

    Notes
    -----
    :math:`A E^{-r}`, by the two-area method :cite:p:`egerton2011`: the fit window is cut in two
    halves of equal width, and the ratio of their counts gives

    .. math:: r = \frac{2 \ln(I_1 / I_2)}{\ln(E_2 / E_1)}.

    It needs sums only, so it works where single channels hold no counts.

    Examples
    --------
    >>> energies = np.arange(500.0, 900.0)
    >>> smooth = 1e9 * energies**-3.0
    >>> edge = subtract_power_law(smooth, energies, (520, 620), (640, 690))
    >>> bool(abs(edge.signal) < 0.002 * edge.background)
    True
    """
    if np.ma.is_masked(spectra):
        raise ValueError("spectra are masked: fill them, or leave the masked spectra out")
    counts: np.ndarray = to_numpy(spectra).astype(float)
    energies = to_numpy(energies).astype(float)
    if energies.ndim != 1 or counts.shape[-1:] != energies.shape:
        axes = [k for k, n in enumerate(counts.shape) if (n,) == energies.shape]
        cure = [f": move axis {k} to the end, np.moveaxis(spectra, {k}, -1)" for k in axes]
        raise ValueError(
            f"spectra are {' x '.join(map(str, counts.shape))} and energies {energies.shape}: "
            "expected the same number along the last axis, energies one-dimensional"
            + "".join(cure[:1])
        )
    if (np.diff(energies) <= 0).any() or energies[0] <= 0:
        raise ValueError("energies must rise and be above 0 eV")
    low, high = fit_window
    if not low < high <= signal_window[0] < signal_window[1]:
        raise ValueError(
            f"fit window {fit_window} must lie before the signal window {signal_window}"
        )
    # Halves of equally many channels: one more in the first would be taken for a slope.
    inside = np.flatnonzero((energies >= low) & (energies < high))
    inside = inside[: inside.size // 2 * 2]
    halves = [np.isin(np.arange(energies.size), part) for part in np.split(inside, 2)]
    signal = (energies >= signal_window[0]) & (energies < signal_window[1])
    if min(half.sum() for half in halves) < 2 or signal.sum() < 2:
        raise ValueError(
            f"the windows {fit_window} and {signal_window} eV hold too few channels: energies run "
            f"from {energies[0]:g} to {energies[-1]:g} eV"
        )
    first, second = (counts[..., half].sum(axis=-1) for half in halves)
    step = (energies[inside[-1]] - energies[inside[0]]) / (inside.size - 1)
    width = np.log((energies[inside[-1]] + step) / energies[inside[0]])
    total = 2 * np.log(max(first.sum(), 1) / max(second.sum(), 1)) / width
    with np.errstate(divide="ignore", invalid="ignore"):
        r = 2 * np.log(first / second) / width
    # A pixel with an empty half has no slope of its own.
    r = np.where(np.isfinite(r) & (not shared_slope), r, total)
    fit = halves[0] | halves[1]

    def area(mask: Any) -> np.ndarray:
        return (energies[mask] ** -r[..., None]).sum(axis=-1)

    background = (first + second) * area(signal) / area(fit)
    return Edge(counts[..., signal].sum(axis=-1) - background, background)


def subtract_vacuum(
    image: Array, region: np.ndarray | Sequence[Any] | slice, *, clip: bool = True
) -> np.ndarray:
    """Take the mean of an empty region off an image.

    Parameters
    ----------
    image : (H, W) array
        A map or a HAADF image.
    region : (H, W) bool array, slices as from `numpy.s_`, or four numbers
        Where there is no specimen; the numbers are first and last row, first and last column, the
        last ones not included.
    clip : bool
        Set what falls below zero to zero: `fuse` takes no negative maps. It biases the vacuum by
        about 0.4 standard deviations of its noise, upwards.

    Returns
    -------
    (H, W) float array
        Masked where the image was (`numpy.ma`); masked pixels do not count.

    Raises
    ------
    ValueError
        The region is empty, or is none of these.

    Examples
    --------
    >>> subtract_vacuum(np.array([[1.0, 1.0], [4.0, 0.5]]), np.s_[:1])
    array([[0., 0.],
           [3., 0.]])
    """
    values: np.ndarray = to_numpy(image) if is_tensor(image) else np.asanyarray(image)
    if values.ndim != 2:
        raise ValueError(f"image has shape {values.shape}: expected (H, W)")
    values = values.astype(float)
    empty = values[_region(region, values.shape)]
    if empty.size == 0 or (np.ma.isMaskedArray(empty) and not empty.count()):
        raise ValueError(
            "the vacuum region holds no pixel: give a part of the image with no specimen"
        )
    values = values - empty.mean()
    return np.maximum(values, 0) if clip else values


def _region(region: Any, shape: tuple[int, ...]) -> Any:
    """Give an index of a part of an image, and refuse what would pick single pixels."""
    parts = region if isinstance(region, tuple) else (region,)
    if all(isinstance(part, slice) for part in parts) and len(parts) <= 2:
        return region
    found = to_numpy(region)
    if found.dtype == bool and found.shape == shape:
        return found
    if found.shape == (4,) and found.dtype.kind in "iu":
        top, bottom, left, right = map(int, found)
        return np.s_[top:bottom, left:right]
    raise ValueError(
        f"region is {region!r}: give slices (np.s_[:50, :50]), a bool array of shape {shape}, or "
        "four whole numbers (first row, end row, first column, end column)"
    )
