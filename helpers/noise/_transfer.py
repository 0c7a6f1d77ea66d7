"""Photon transfer: the line of variance over mean, from the still parts of frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve, maximum_filter, median_filter, uniform_filter

# Difference of differences (Immerkaer, 1996): blind to slopes, of unit variance on white noise.
ROUGH = np.outer([1, -2, 1], [1, -2, 1]) / 6
MEDIAN_OF_SQUARES = 0.4549  # median of a squared standard normal variable
ROUNDS = 12
SHOWN = 8.0  # spread of the means over their own noise, from which a slope can be told


@dataclass(frozen=True)
class Line:
    """Fitted line ``variance = gain * (mean - zero)``.

    Attributes
    ----------
    gain, zero : float
        Slope, and the mean at which the variance vanishes.
    gain_std, zero_std : float
        Their standard deviations; infinite where the brightness hardly varies.
    level : float
        Typical mean of a quiet pixel.
    noise : float
        Standard deviation of such a pixel.
    """

    gain: float
    zero: float
    gain_std: float
    zero_std: float
    level: float
    noise: float


def quiet_differences(frames: np.ndarray, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of neighbouring frames, and where no blinking light shows in them.

    Parameters
    ----------
    frames : (N, Y, X) array
    joined : (N - 1,) array of bool
        True where a frame and the next one are neighbours in time.

    Returns
    -------
    differences : (n, Y, X) array
        Over root two, less their median: the noise of one frame.
    quiet : (n, Y, X) array of bool
    """
    d = (frames[1:][joined] - frames[:-1][joined]) / math.sqrt(2)
    d -= np.median(d, axis=(1, 2), keepdims=True)
    # blinks are as large as the point spread: they show in the mean over nine pixels
    variance = uniform_filter(np.median(d**2, axis=0), 7) / MEDIAN_OF_SQUARES
    plain = uniform_filter(np.mean(d**2, axis=0), 7)
    variance = np.where(variance > 0.2 * plain, variance, plain)  # most counts may be zero
    lit = np.abs(uniform_filter(d, (0, 3, 3))) > 3.0 * np.sqrt(variance / 9 + 1e-12)
    return d, ~maximum_filter(lit, (1, 7, 7))


def of_movie(
    frames: np.ndarray,
    joined: np.ndarray,
    differences: np.ndarray,
    quiet: np.ndarray,
    offset: np.ndarray | float,
    variance: np.ndarray | float,
    trusted: np.ndarray,
) -> Line:
    """Line of a movie, its read variance taken off; `zero` counts from the offset given.

    Parameters
    ----------
    frames, joined, differences, quiet
        See `quiet_differences`.
    offset, variance : array (Y, X) or float
    trusted : (Y, X) array of bool
        False for hot pixels.
    """
    use = quiet & trusted
    mean = (frames[1:][joined] + frames[:-1][joined]) / 2 - offset
    count = use.sum(0).astype(float)
    total, square = (mean * use).sum(0), (differences**2 * use).sum(0)
    square -= variance * count
    # a difference shares its frames with the next one
    effective = 1.5 if len(differences) > 1 else 1.0
    return _line(count, total, square, np.asarray(variance), effective)


def of_image(image: np.ndarray, offset: np.ndarray | float, variance: np.ndarray | float) -> Line:
    """Line of one image, from what is rough where it is otherwise smooth."""
    image = np.asarray(image, float)
    rough = convolve(image, ROUGH, mode="mirror")
    level = median_filter(uniform_filter(image, 3), 9)
    spread = uniform_filter(median_filter(np.abs(rough), 9), 9) / 0.6745
    lit = np.abs(uniform_filter(image, 3) - level) > 2.5 * spread / 3 + 1e-12
    lit |= np.abs(uniform_filter(rough, 3)) > 2.5 * spread / 3
    use = (~maximum_filter(lit, 3)).astype(float)
    square = rough**2 * use - variance * use
    return _line(use, (image - offset) * use, square, np.asarray(variance), 3.0)


def _line(
    count: np.ndarray,
    total: np.ndarray,
    square: np.ndarray,
    variance: np.ndarray,
    effective: float,
) -> Line:
    """Weighted line through blocks of pixels, without those that lie far above it."""
    side = 4 if count.size <= 512**2 else 8
    n, m, v, known = (
        _blocks(a, side) for a in (count, total, square, np.broadcast_to(variance, count.shape))
    )
    known = known / side**2
    some = n >= 0.4 * np.median(n[n > 0]) if (n > 0).any() else n > 0
    n, m, v, known = n[some], m[some] / n[some], v[some] / n[some], known[some]
    if len(n) < 8:
        return Line(math.nan, math.nan, math.inf, math.inf, math.nan, math.nan)
    keep = np.ones(len(n), bool)
    usual = max(np.median(v + known), 0.1 * np.mean(v + known), 1e-9)
    model = np.full(len(n), usual)
    slope = intercept = math.nan
    for _ in range(ROUNDS):
        std = model * np.sqrt(2 * effective / n)
        w = 1 / std[keep] ** 2
        x, y = m[keep], v[keep]
        middle, height = np.average(x, weights=w), np.average(y, weights=w)
        spread = np.average((x - middle) ** 2, weights=w)
        # The means have noise of their own. That of shot noise lies along the line, since mean and
        # variance of a sample go together by its skewness; that of read noise flattens it.
        own = np.average((v + known)[keep] / n[keep], weights=w)
        left = max(spread - np.average(known[keep] / n[keep], weights=w), 1e-9 * spread + 1e-30)
        slope = np.average((x - middle) * (y - height), weights=w) / left
        intercept = height - slope * middle
        model = np.maximum(slope * m + intercept + known, 0.05 * usual)
        away = (v - slope * m - intercept) / (model * np.sqrt(2 * effective / n))
        keep = np.abs(away) < 4
    chi2 = max(1.0, float(np.mean(away[keep] ** 2)))
    error = math.sqrt(chi2 / w.sum())
    slope_std = error / math.sqrt(left) * math.sqrt(spread / left)
    if spread < SHOWN * own or not slope > 0:
        slope_std = math.inf
    zero = middle - height / slope if slope else math.nan
    zero_std = math.hypot(error, (middle - zero) * slope_std) / abs(slope) if slope else math.inf
    found = slope, zero, slope_std, zero_std, middle, math.sqrt(usual)
    return Line(*map(float, found))


def _blocks(a: np.ndarray, side: int) -> np.ndarray:
    """Sums over blocks; what is left over at the far rims is left out."""
    y, x = (n // side for n in a.shape)
    return a[: y * side, : x * side].reshape(y, side, x, side).sum((1, 3)).ravel()
