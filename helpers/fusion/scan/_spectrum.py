r"""Fit of a summed x-ray spectrum: lines with the detector's width on a smooth continuum.

The counts of a channel are :math:`\mu_k = \sum_c a_c T_{kc}`, one non-negative amount for each
shell of each element, with the shares of its lines fixed, and for each knot of the continuum.
The full width at half maximum of a line follows :cite:p:`goldstein2018`,

.. math:: \Gamma^2(E) = \Gamma_\mathrm{Mn}^2 + 2.5\,\mathrm{eV} \cdot (E - 5895\,\mathrm{eV}).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.special import ndtr

from ._lines import SHELLS, Shell, candidates, table

MN_KA = 5.895  # keV
FANO = 0.0025  # keV: slope of the squared width against energy
SIGMA = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum in standard deviations
LOW = 0.2  # keV: below lie the noise and the strobe peak of most detectors
# Knots of the continuum in keV: several widths of a line apart, so that it cannot take one.
KNOTS = (0.05, 0.3, 0.55, 0.85, 1.2, 1.8, 2.6, 3.6, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 100.0)
OFFSETS = np.arange(-0.2, 0.201, 0.01)  # keV
GAINS = (0.985, 0.99, 0.995, 1.0, 1.005, 1.01, 1.015)
# What a scan is expected to be off by: it decides where the lines say nothing.
PRIOR_OFFSET, PRIOR_GAIN, PRIOR_WIDTH = 0.1, 0.01, 0.01
FOUND = 6.0  # standard deviations above the model at which a line is taken for one
SOFT = 1.1  # keV
CLEAR = 3.0  # standard deviations above zero of a line that is there
AT_MOST = 25  # lines that no element of the list explains


@dataclass(frozen=True)
class Axis:
    """Energy axis as it is: nominal energies in keV, times `gain`, plus `offset`; and the width."""

    nominal: np.ndarray
    offset: float = 0.0
    gain: float = 1.0
    resolution: float = 0.13

    @property
    def energies(self) -> np.ndarray:
        """Centres of the channels in keV."""
        return self.offset + self.gain * self.nominal

    @property
    def edges(self) -> np.ndarray:
        """Borders of the channels in keV."""
        e = self.energies
        middles = (e[1:] + e[:-1]) / 2
        return np.concatenate([[2 * e[0] - middles[0]], middles, [2 * e[-1] - middles[-1]]])

    def width(self, energy: float | np.ndarray) -> np.ndarray:
        """Full width at half maximum of a line, in keV."""
        squared = self.resolution**2 + FANO * (np.asarray(energy) - MN_KA)
        return np.sqrt(np.maximum(squared, 0.03**2))


@dataclass(frozen=True)
class SpectrumFit:
    """Amounts, in counts, of the components of a spectrum, and their shapes (K,), of sum one."""

    axis: Axis
    shapes: dict[str, np.ndarray]
    amounts: dict[str, float]
    unexplained: tuple[str, ...]

    @property
    def expected(self) -> np.ndarray:
        """Expected counts (K,)."""
        return np.sum([self.amounts[c] * t for c, t in self.shapes.items()], axis=0)


def lines_on(axis: Axis, shell: Shell) -> np.ndarray:
    """Share of a shell's photons in every channel; they add up to less than 1 near the ends."""
    sigma = axis.width(shell.energies) / SIGMA
    share = np.zeros(axis.nominal.size)
    edges = axis.edges
    for energy, weight, s in zip(shell.energies, shell.weights, sigma, strict=True):
        first, last = np.searchsorted(edges, (energy - 6 * s, energy + 6 * s))
        first = max(first - 1, 0)
        if last > first:
            share[first:last] += weight * np.diff(ndtr((edges[first : last + 1] - energy) / s))
    return share


def shells_on(axis: Axis, symbols: list[str]) -> dict[str, Shell]:
    """Shells of the elements with a line on the axis, by ``"Ti_K"``."""
    low, high = max(axis.energies[0], 0.1), axis.energies[-1]
    return {
        f"{symbol}_{name}": table()[symbol][name]
        for symbol in symbols
        for name in SHELLS
        if name in table()[symbol] and low < table()[symbol][name].main < high
    }


def continuum_on(axis: Axis) -> dict[str, np.ndarray]:
    """Hat functions of the energy, whose sum with non-negative amounts is the continuum."""
    e = axis.energies
    knots = np.array([*(k for k in KNOTS if k < 0.85 * e[-1]), e[-1]])
    hats = np.array([np.interp(e, knots, np.eye(len(knots))[k]) for k in range(len(knots))])
    hats[:, e < KNOTS[0]] = 0
    return {f"continuum {k:.2f}": h / h.sum() for k, h in zip(knots, hats, strict=True) if h.any()}


def shapes_on(axis: Axis, shells: Mapping[str, Shell]) -> dict[str, np.ndarray]:
    """Shapes of all components that the fitted part of the axis can see."""
    lines = {name: lines_on(axis, shell) for name, shell in shells.items()}
    seen = axis.energies > LOW
    return {
        name: shape
        for name, shape in {**lines, **continuum_on(axis)}.items()
        if shape[seen].sum() > 1e-3 * max(shape.sum(), 1e-12) and shape[seen].sum() > 1e-6
    }


def least_squares(counts: np.ndarray, shapes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Non-negative amounts (C,) of shapes (C, K) by weighted least squares."""
    gram = (shapes * weights) @ shapes.T
    scale = np.sqrt(np.diag(gram))
    seen = scale > 1e-5 * scale.max()  # the weights hide the others: nothing is known of them
    scale = scale[seen]
    gram = gram[np.ix_(seen, seen)] / np.outer(scale, scale) + 1e-12 * np.eye(scale.size)
    factor = np.linalg.cholesky(gram)
    target = shapes[seen] @ (weights * counts) / scale
    amounts = np.zeros(len(shapes))
    amounts[seen] = nnls(factor.T, np.linalg.solve(factor, target), maxiter=10_000)[0] / scale
    return amounts


def calibrate(counts: np.ndarray, axis: Axis, symbols: list[str]) -> Axis:
    """Offset, gain and width of an axis at which the lines of the elements fit the counts best.

    Chi-squared over a grid of offsets and gains, then a search from its best point.
    """
    smooth = np.convolve(counts, np.ones(5) / 5, mode="same")
    weights = 1 / np.maximum(smooth, 1)
    weights[axis.nominal < LOW + 0.1] = 0  # the same channels, whatever the offset
    shells = shells_on(axis, symbols)
    resolution = axis.resolution

    def misfit(p: np.ndarray | tuple[float, float, float]) -> float:
        offset, gain, width = map(float, p)
        trial = Axis(axis.nominal, offset, gain, width)
        shapes = np.array([lines_on(trial, s) for s in shells.values()])
        shapes = np.vstack([shapes, list(continuum_on(trial).values())])
        amounts = least_squares(counts, shapes, weights)
        chi2 = float(weights @ (counts - amounts @ shapes) ** 2)
        off = (offset / PRIOR_OFFSET, (gain - 1) / PRIOR_GAIN, (width - resolution) / PRIOR_WIDTH)
        return chi2 + sum(z**2 for z in off)

    grid = [(offset, gain, resolution) for offset in OFFSETS for gain in GAINS]
    best = min(grid, key=misfit)
    around = np.array(best) + np.vstack([np.zeros(3), np.diag([0.01, 0.002, 0.005])])
    search = minimize(
        misfit,
        best,
        method="Nelder-Mead",
        options={"initial_simplex": around, "xatol": 1e-5, "fatol": 1e-2, "maxiter": 200},
    )
    offset, gain, width = map(float, search.x)
    return Axis(axis.nominal, offset, gain, width)


def fit(
    counts: np.ndarray, axis: Axis, symbols: list[str], wanted: Collection[str] = ()
) -> SpectrumFit:
    r"""Fit the lines of elements, and what they leave, to the counts (K,) of a spectrum.

    Least squares with the weights :math:`1/\mu` of the last fit: where it stands still it is the
    maximum of the Poisson likelihood. Peaks that stand out of it join as lines of no element. The
    `wanted` shells stay in it, ``"Ti_K"``, seen or not.
    """
    seen = axis.energies > LOW
    shapes = _without_soft(counts, shapes_on(axis, shells_on(axis, symbols)), seen, wanted)
    found: list[float] = []
    while True:
        stack = np.array(list(shapes.values()))[:, seen]
        amounts = _poisson(counts[seen], stack)
        peak = _largest_peak(counts, amounts @ np.array(list(shapes.values())), axis, seen)
        if peak is None or len(found) >= AT_MOST:
            break
        found.append(peak)
        shapes[f"peak {peak:.3f}"] = lines_on(axis, Shell(np.array([peak]), np.ones(1)))
    names = tuple(_name(peak, axis) for peak in sorted(found))
    return SpectrumFit(axis, shapes, dict(zip(shapes, map(float, amounts), strict=True)), names)


def _without_soft(
    counts: np.ndarray, shapes: dict[str, np.ndarray], seen: np.ndarray, wanted: Collection[str]
) -> dict[str, np.ndarray]:
    """Leave out the soft shells of elements whose harder lines are not seen.

    Soft lines lie so near to those of carbon, nitrogen and oxygen that they would take counts of
    these for an element that is not there.
    """
    stack = np.array(list(shapes.values()))[:, seen]
    amounts = _poisson(counts[seen], stack)
    weights = 1 / _variance(amounts @ stack, 0.05)  # shares of K-beta differ by so much
    errors = np.sqrt(np.diag(np.linalg.pinv((stack * weights) @ stack.T, hermitian=True)))
    clear = dict(zip(shapes, amounts > CLEAR * errors, strict=True))

    def stays(name: str) -> bool:
        symbol, _, shell = name.partition("_")
        if not shell or name in wanted or table()[symbol][shell].main > SOFT:
            return True
        harder = [f"{symbol}_{s}" for s in SHELLS[: SHELLS.index(shell)]]
        harder = [h for h in harder if h in shapes]
        return not harder or any(clear[h] for h in harder)

    return {name: shape for name, shape in shapes.items() if stays(name)}


def _variance(expected: np.ndarray, off: float = 0.02) -> np.ndarray:
    """Of a channel: a model that is off by 2 % under a strong line is no sign of another line."""
    return np.maximum(expected, 0.05) + (off * expected) ** 2


def _poisson(counts: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    smooth = np.convolve(counts, np.ones(5) / 5, mode="same")
    floor = max(1e-3, 1e-3 * counts.mean())
    amounts = least_squares(counts, shapes, 1 / np.maximum(smooth, max(floor, 0.2)))
    for _ in range(8):
        amounts = least_squares(counts, shapes, 1 / np.maximum(amounts @ shapes, floor))
    return amounts


def _largest_peak(
    counts: np.ndarray, expected: np.ndarray, axis: Axis, seen: np.ndarray
) -> float | None:
    """Energy of the most significant rest of the width of a line, if there is one."""
    variance = _variance(expected)
    rest = np.where(seen, counts - expected, 0.0) / variance
    best, where = FOUND, None
    step = float(np.diff(axis.energies).mean())
    for energy in axis.energies[seen][2:-2]:
        half = int(np.ceil(float(axis.width(energy)) / step))
        k = int(np.searchsorted(axis.energies, energy))
        part = slice(max(k - half, 0), k + half + 1)
        sigma = float(axis.width(energy)) / SIGMA
        shape = np.exp(-0.5 * ((axis.energies[part] - energy) / sigma) ** 2)
        score = float(shape @ rest[part] / np.sqrt(np.sum(shape**2 / variance[part])))
        if score > best and counts[part].sum() >= 10:
            best, where = score, float(energy)
    return where


def _name(energy: float, axis: Axis) -> str:
    near = candidates(energy, float(axis.width(energy)) / 3)
    return f"{energy:.2f} keV" + (f" ({' or '.join(near[:3])}?)" if near else "")
