r"""Counts of energy-loss edges above power laws.

The background :math:`A E^{-r}` of a pixel has the exponent of the sum of all spectra, fitted by
the Poisson likelihood in front of the edge, and a height of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from ._lines import choose_edge, split
from ._read import Spectra, blocks

FRONT = (60.0, 5.0)  # eV before the onset: where the fit of the background begins and ends
BEHIND = 50.0  # eV after the onset that are counted
Window = tuple[float, float]


class EdgeMap(NamedTuple):
    """Counts in the window of an edge, and the power law under them."""

    maps: np.ndarray
    background: np.ndarray
    total: tuple[float, float]
    line: str
    window: Window
    curve: np.ndarray


def edge_maps(
    spectra: Spectra,
    energies: np.ndarray,
    names: Sequence[str],
    windows: Mapping[str, Any],
    summed: np.ndarray,
) -> dict[str, EdgeMap]:
    """Counts and background of each element, (H, W).

    The exponent is that of the sum of all spectra, so the background of a pixel is its counts in
    front of the edge times one factor. Their noise is the background's noise.
    """
    places = {split(n)[0]: _place(n, energies, windows) for n in names}
    height, width, _ = spectra.shape
    kind = np.int64 if np.dtype(spectra.dtype).kind in "iub" else np.float64
    counted = {e: np.zeros((2, height, width), kind) for e in places}
    masks = {
        e: [_inside(energies, w) for w in (front, behind)]
        for e, (_, front, behind) in places.items()
    }
    for rows, block in blocks(spectra):
        for e, pair in masks.items():
            for k, part in enumerate(pair):
                counted[e][k, rows] = block[..., part].sum(axis=-1, dtype=kind)
    found = {}
    for e, (line, front, behind) in places.items():
        ahead, inside = counted[e]
        under, error, curve = _extrapolate(summed, energies, front, behind)
        factor = under / max(float(ahead.sum()), 1.0)
        within = float(inside.sum())
        total = within - under, float(np.sqrt(within + error**2))
        found[e] = EdgeMap(inside, factor * ahead, total, line, behind, curve)
    return found


def _place(
    name: str, energies: np.ndarray, windows: Mapping[str, Any]
) -> tuple[str, Window, Window]:
    """Line, fit window and signal window of an element."""
    symbol, wanted = split(name)
    low, high = float(energies[0]), float(energies[-1])
    if symbol in windows:
        try:
            front, behind = ((float(a), float(b)) for a, b in windows[symbol])
        except (TypeError, ValueError):
            raise ValueError(
                f"the windows of {symbol} are {windows[symbol]!r}: give ((fit_low, fit_high), "
                "(low, high)) in eV"
            ) from None
        if not low <= front[0] < front[1] <= behind[0] < behind[1] <= high + 1:
            raise ValueError(
                f"the windows of {symbol}, {front} and {behind} eV, must rise, the fit before the "
                f"signal, between {low:.4g} and {high:.4g} eV"
            )
        return f"{symbol}_{wanted}" if wanted else symbol, front, behind
    symbol, shell, onset = choose_edge(name, low, high)
    front = (max(onset - FRONT[0], low), onset - FRONT[1])
    behind = (onset, min(onset + BEHIND, high))
    if min(front[1] - front[0], behind[1] - behind[0]) < 10:
        raise ValueError(
            f"the edge {symbol}_{shell} at {onset:g} eV is too near to the end of the energies, "
            f"{low:.4g} to {high:.4g} eV: give its windows="
        )
    return f"{symbol}_{shell}", front, behind


def _inside(energies: np.ndarray, window: Window) -> slice:
    first, last = np.searchsorted(energies, window)
    return slice(int(first), int(last))


def _exponent(summed: np.ndarray, energies: np.ndarray, front: Window) -> tuple[float, float]:
    """Exponent of largest Poisson likelihood in the fit window, and its standard error.

    Given their number, the counts are a sample of energies, with the mean of ln E as the
    sufficient statistic: the exponent is the one that expects this mean.
    """
    part = _inside(energies, front)
    counts, logs = summed[part], np.log(energies[part])
    if logs.size < 4 or counts.sum() < 2:
        raise ValueError(
            f"the fit window {front} eV holds {logs.size} channels and {counts.sum():g} counts: "
            "too few for a power law"
        )
    mean = counts @ logs / counts.sum()
    logs = logs - logs.mean()
    mean = mean - np.log(energies[part]).mean()

    def share(r: float) -> np.ndarray:
        weights = np.exp(-r * logs)
        return weights / weights.sum()

    r = float(brentq(lambda r: float(share(r) @ logs) - mean, -100.0, 100.0))
    p = share(r)
    spread = float(p @ logs**2 - (p @ logs) ** 2)
    return r, float(1 / np.sqrt(counts.sum() * spread))


def _extrapolate(
    summed: np.ndarray, energies: np.ndarray, front: Window, behind: Window
) -> tuple[float, float, np.ndarray]:
    """Counts of the power law of the sum under the edge, their standard error, and its curve."""
    r, error = _exponent(summed, energies, front)
    fitted, under = _inside(energies, front), _inside(energies, behind)
    # The power law of one at the middle of the fit window: no overflow.
    shape = (np.maximum(energies, 1e-6) / (sum(front) / 2)) ** -r
    counts = float(summed[fitted].sum())
    curve = shape * counts / shape[fitted].sum()
    background = float(curve[under].sum())
    logs = np.log(np.maximum(energies, 1e-6))
    reach = np.average(logs[under], weights=shape[under])
    reach -= np.average(logs[fitted], weights=shape[fitted])
    error = background * float(np.hypot(error * reach, 1 / np.sqrt(counts)))
    shown = (energies >= front[0]) & (energies < behind[1])
    return background, error, np.where(shown, curve, 0.0)
