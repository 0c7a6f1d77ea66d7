r"""Take the background off before a fusion: under an edge of a spectrum, and over the vacuum.

Both are shown in :doc:`/book/fusion/04_core_shell`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._arrays import to_numpy


class Edge(NamedTuple):
    """What `subtract_power_law` gives: signal and background, in the counts of the spectra."""

    signal: np.ndarray
    background: np.ndarray


def subtract_power_law(spectra, energies, fit_window, signal_window, *, shared_slope=False):
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
    spectra, energies = to_numpy(spectra).astype(float), to_numpy(energies).astype(float)
    if energies.ndim != 1 or spectra.shape[-1:] != energies.shape:
        raise ValueError(
            f"spectra have {spectra.shape[-1:]} channels and energies {energies.shape}: expected "
            "the same number, energies one-dimensional"
        )
    if (np.diff(energies) <= 0).any() or energies[0] <= 0:
        raise ValueError("energies must rise and be above 0 eV")
    low, high = fit_window
    middle = (low + high) / 2
    if not low < high <= signal_window[0] < signal_window[1]:
        raise ValueError(
            f"fit window {fit_window} must lie before the signal window {signal_window}"
        )
    halves = [(energies >= a) & (energies < b) for a, b in ((low, middle), (middle, high))]
    signal = (energies >= signal_window[0]) & (energies < signal_window[1])
    if min(half.sum() for half in halves) < 2 or signal.sum() < 2:
        raise ValueError(
            f"the windows {fit_window} and {signal_window} eV hold too few channels: energies run "
            f"from {energies[0]:g} to {energies[-1]:g} eV"
        )
    first, second = (spectra[..., half].sum(axis=-1) for half in halves)
    total = 2 * np.log(max(first.sum(), 1) / max(second.sum(), 1)) / np.log(high / low)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = 2 * np.log(first / second) / np.log(high / low)
    # A pixel with an empty half has no slope of its own.
    r = np.where(np.isfinite(r) & (not shared_slope), r, total)
    fit = halves[0] | halves[1]

    def area(mask):
        return (energies[mask] ** -r[..., None]).sum(axis=-1)

    background = (first + second) * area(signal) / area(fit)
    return Edge(spectra[..., signal].sum(axis=-1) - background, background)


def subtract_vacuum(image, region, *, clip=True):
    """Take the mean of an empty region off an image.

    Parameters
    ----------
    image : (H, W) array
        A map or a HAADF image.
    region : (H, W) bool array or tuple of slices
        Where there is no specimen.
    clip : bool
        Set what falls below zero to zero: `fuse` takes no negative maps. It biases the vacuum by
        about 0.4 standard deviations of its noise, upwards.

    Returns
    -------
    (H, W) float array

    Raises
    ------
    ValueError
        The region is empty.

    Examples
    --------
    >>> subtract_vacuum(np.array([[1.0, 1.0], [4.0, 0.5]]), np.s_[:1])
    array([[0., 0.],
           [3., 0.]])
    """
    image = to_numpy(image).astype(float)
    empty = image[region]
    if empty.size == 0:
        raise ValueError(
            "the vacuum region holds no pixel: give a part of the image with no specimen"
        )
    image = image - empty.mean()
    return np.maximum(image, 0) if clip else image
