"""Flaws of camera frames: hot pixels, correlated noise, clipping, and turned calibration maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.ndimage import (
    convolve1d,
    maximum_filter,
    median_filter,
    rank_filter,
    uniform_filter1d,
)

ORIENTATIONS = (
    "as given", "flipped left to right", "flipped upside down", "turned by 180 degrees",
    "transposed", "turned by 90 degrees", "turned by 270 degrees", "transposed across",
)  # fmt: skip
SURE = 6.0  # standard deviations of the best of many correlations
CORRELATED, CERTAIN = 0.03, 5.0  # least correlation that is reported, and its significance


def turned(a: np.ndarray, k: int) -> np.ndarray:
    """Turn the last two axes by one of the eight ways of `ORIENTATIONS`.

    Parameters
    ----------
    a : array (..., Y, X)
    k : int
    """
    flips: tuple = (
        lambda b: b,
        lambda b: b[..., ::-1],
        lambda b: b[..., ::-1, :],
        lambda b: b[..., ::-1, ::-1],
        lambda b: b.swapaxes(-1, -2),
        lambda b: b.swapaxes(-1, -2)[..., ::-1, :],
        lambda b: b.swapaxes(-1, -2)[..., ::-1],
        lambda b: b.swapaxes(-1, -2)[..., ::-1, ::-1],
    )
    return flips[k](a)


def placement(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[int, tuple[int, int], float]:
    """Orientation and shift in which maps fit measurements of the same pixels.

    Parameters
    ----------
    pairs : list of (map, measured)
        Arrays (Y, X).

    Returns
    -------
    orientation : int
    shift : (int, int)
        Down and right, by which the turned maps must be moved.
    significance : float
        Of the correlation, in standard deviations.
    """
    best = (0, (0, 0), -math.inf)
    as_given = -math.inf
    spectra = [np.fft.rfft2(_local_ranks(measured)) for _, measured in pairs]
    maps = [_local_ranks(given) for given, _ in pairs]
    shape = pairs[0][1].shape
    for k in range(8):
        if turned(maps[0], k).shape != shape:
            continue
        total: Any = 0.0
        for spectrum, given in zip(spectra, maps, strict=True):
            total = total + spectrum * np.fft.rfft2(turned(given, k)).conj()
        # of white noise each value has unit variance
        score = np.fft.irfft2(total, shape) / math.sqrt(np.prod(shape) * len(pairs))
        place = np.unravel_index(score.argmax(), shape)
        if k == 0:
            as_given = score[0, 0]
        if score[place] > best[2]:
            down, right = (
                (int(p) + n // 2) % n - n // 2 for p, n in zip(place, shape, strict=True)
            )
            best = (k, (down, right), float(score[place]))
    # neighbouring shifts of a smooth map are nearly as good: what was given wins a tie
    return (0, (0, 0), as_given) if as_given > 0.8 * best[2] else best


def _local_ranks(a: np.ndarray) -> np.ndarray:
    """Excess over the neighbourhood, of zero mean and unit variance, without its tails."""
    d = a - median_filter(a, 5, mode="nearest")
    scale = 1.4826 * np.median(np.abs(d)) or float(np.abs(d).max()) or 1.0
    d = np.tanh(d / (3 * scale))
    return (d - d.mean()) / (d.std() or 1.0)


def hot_pixels(mean: np.ndarray, variance: np.ndarray, expected: np.ndarray, n: int) -> np.ndarray:
    """True for single pixels that are brighter, or noisier, than all around them can explain.

    Parameters
    ----------
    mean, variance : (Y, X) array
        Of each pixel over time.
    expected : (Y, X) array
        Variance that the calibration states beyond the others.
    n : int
        Frames.
    """
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    excess = np.maximum(variance - expected, 0)
    level, third = median_filter(excess, 5), rank_filter(excess, 5, footprint=around)
    # the ratio of two estimates of a variance, as rare as one in a million
    ratio = (1 + 7.0 / math.sqrt(max(n - 1, 1) / 2)) ** 2
    floor = np.maximum(level + expected, excess.mean())
    noisy = excess > ratio * np.maximum(floor, third)
    base = median_filter(mean, 5)
    neighbour = np.maximum(rank_filter(mean, 5, footprint=around) - base, 0)
    usual = np.maximum(median_filter(variance, 5), variance.mean() * (level == 0))
    spread = np.sqrt(usual / n) + 1.4826 * np.median(np.abs(mean - base))
    return noisy | (mean - base > 4 * neighbour + 8 * spread)


def correlations(residual: np.ndarray, use: np.ndarray) -> dict[str, tuple[float, float]]:
    """Correlation of noise along rows and columns, and of neighbours, with significance.

    Parameters
    ----------
    residual : (n, Y, X) array
        Noise of mean zero.
    use : (n, Y, X) array of bool
        True where it counts.

    Returns
    -------
    dict
        `row`, `column`: pixels of one row (column) that are four or more apart; `x`, `y`: side by
        side, and one above the other, beyond that. Each (correlation, in standard deviations).
    """
    use = use & np.isfinite(residual)
    scale = np.sqrt(np.mean(residual[use] ** 2)) if use.any() else 1.0
    z = np.where(use, np.clip(residual / (scale or 1.0), -3, 3), 0.0)
    z -= np.where(use, z.sum() / max(use.sum(), 1), 0.0)
    power = (z**2).sum() / max(use.sum(), 1)
    if not power > 0:
        return {}
    found: dict[str, tuple[float, float]] = {}
    for name, near, axis in (("row", "x", 2), ("column", "y", 1)):
        total, count = z.sum(axis), use.sum(axis).astype(float)
        pairs, number = total**2 - (z**2).sum(axis), count**2 - count
        pairs, number = pairs.sum(), number.sum()
        for lag in (1, 2, 3):
            head = [slice(None)] * 3
            tail = [slice(None)] * 3
            head[axis], tail[axis] = slice(lag, None), slice(None, -lag)
            product = 2 * (z[tuple(head)] * z[tuple(tail)]).sum()
            both = 2.0 * (use[tuple(head)] & use[tuple(tail)]).sum()
            pairs, number = pairs - product, number - both
            if lag == 1:
                found[near] = _judged(product, both, power)
        found[name] = _judged(pairs, number, power)
        r, certain = found[near]
        found[near] = r - found[name][0], certain
    return found


def stripes(images: np.ndarray) -> dict[str, tuple[float, float]]:
    """Correlation along rows and columns of single images, of what is rough across them.

    Parameters
    ----------
    images : (B, Y, X) array
    """
    found = {}
    for name, axis in (("row", 1), ("column", 2)):
        rough = convolve1d(images.astype(float), [1, -2, 1], axis=axis) / math.sqrt(6)
        along = uniform_filter1d(rough, 3, axis=3 - axis)
        scale = 1.4826 * np.median(np.abs(along), axis=(1, 2), keepdims=True)
        # what is imaged is rough at single places of a line, a stripe all along it
        common = np.median(along, axis=3 - axis, keepdims=True)
        lit = maximum_filter(np.abs(along - common) > 2.5 * scale, (1, 5, 5))
        found[name] = correlations(rough, ~lit).get(name, (0.0, 0.0))
    return found


def told(found: dict[str, tuple[float, float]]) -> dict[str, str]:
    """Sentences about `correlations` that matter: `row`, `column`, `neighbour`.

    Parameters
    ----------
    found : dict
    """
    words = {"row": "rows have a noise in common", "column": "columns have a noise in common"}
    words["neighbour"] = "the noise of neighbours is correlated"
    r = {name: value for name, (value, sure) in found.items() if sure > CERTAIN}
    r = {name: value for name, value in r.items() if value > CORRELATED}
    near = [axis for axis in "xy" if axis in r]
    if near:
        r["neighbour"] = max(r[axis] for axis in near)
        words["neighbour"] += f" along {' and '.join(near)}"
    if near == ["x"]:
        words["neighbour"] += ", as a register leaves it that hands charge on"
    return {
        name: f"{text} (correlation {r[name]:.2f}): methods that take it for independent from "
        "pixel to pixel, as the blind-spot network does, will take it for signal"
        for name, text in words.items()
        if name in r
    }


def _judged(product: float, number: float, power: float) -> tuple[float, float]:
    """Mean product of pairs counted twice over the variance, and how sure it is."""
    if number < 2:
        return 0.0, 0.0
    r = float(product / number / power)
    return r, r * math.sqrt(number / 2)


def extremes(frames: np.ndarray, noise: float) -> dict[str, str]:
    """Values that pile up at the lowest or the highest number: `clipped` and `saturated`.

    Parameters
    ----------
    frames : array
        As read.
    noise : float
        Standard deviation of a quiet pixel. Where it is less than three steps of the numbers,
        many zeros are nothing unusual.
    """
    values = frames.ravel()
    low, high = values.min(), values.max()
    found: dict[str, str] = {}
    if low == high:
        return found
    step = _step(values)
    share = np.count_nonzero(values == low) / values.size
    near = np.count_nonzero((values > low) & (values <= low + max(noise, step))) / values.size
    if share > 0.005 and share > 0.5 * near and noise > 3 * step:
        found["clipped"] = (
            f"{100 * share:.1f} % of the pixels have the lowest value, {low:g}: something cut "
            "them off there, which biases mean and variance; take the counts before that"
        )
    top = np.count_nonzero(values == high)
    just_below = np.count_nonzero((values < high) & (values >= high - 0.02 * (high - low)))
    if top >= 4 and top > 0.5 * just_below and high - np.median(values) > max(8 * noise, 20 * step):
        found["saturated"] = (
            f"{top} pixels share the highest value, {high:g}, as at the limit of a camera: pass a "
            "saturation just below it"
        )
    return found


def _step(values: np.ndarray) -> float:
    some = np.unique(values[:: max(1, values.size // 4096)])
    return float(np.diff(some).min()) if len(some) > 1 else 1.0


def odd_frames(frames: np.ndarray, index: np.ndarray, joined: np.ndarray, noise: float) -> str:
    """Sentence about frames that are empty, repeated, or of another level than those around."""
    level = np.array([np.median(frame) for frame in frames])
    told = []
    same = [k for k in range(len(frames)) if frames[k].min() == frames[k].max()]
    if same:
        told.append(f"{_listed(index[same])} hold one number only")
    twice = [k + 1 for k in np.flatnonzero(joined) if np.array_equal(frames[k], frames[k + 1])]
    twice = [k for k in twice if k not in same]
    if twice:
        told.append(f"{_listed(index[twice])} repeat the frame before")
    if len(frames) >= 5:
        usual = median_filter(level, 5, mode="nearest")
        wobble = 1.4826 * np.median(np.abs(level - usual))
        away = np.abs(level - usual) > max(6 * wobble, 0.5 * noise)
        other = [k for k in np.flatnonzero(away) if k not in same]
        if other and len(other) <= max(1, len(frames) // 10):
            told.append(
                f"{_listed(index[other])} have a level of {level[other[0]]:.4g} where their "
                f"neighbours have {usual[other[0]]:.4g}"
            )
    return "; ".join(told) + ": leave them out" if told else ""


def _listed(index: np.ndarray) -> str:
    some = ", ".join(str(k) for k in index[:5])
    return f"{'frame' if len(index) == 1 else 'frames'} {some}{', ...' if len(index) > 5 else ''}"
