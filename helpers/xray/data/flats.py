"""Flats and darks: the mean of many frames, pixels that are no use, and the beam in each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

HOT = 6.0  # robust standard deviations
DEAD = 0.3  # of the light around a pixel
AT_ONCE = 16  # frames


@dataclass(frozen=True)
class Flat:
    """Result of `flat`.

    Attributes
    ----------
    mean : (Y, X) float32 array
        Mean of the frames, in grey levels; NaN at pixels that are no use. What `ActualPairs`
        takes for `white` or `dark`.
    drift : (T,) float32 array
        Brightness of the beam in each frame, less dark: 1 at that of `white`, or at its own mean.
    bad : (Y, X) bool array
        Dead, hot and restless pixels.
    """

    mean: np.ndarray
    drift: np.ndarray
    bad: np.ndarray


def flat(
    frames: np.ndarray,
    *,
    dark: Flat | np.ndarray | float = 0.0,
    white: Flat | np.ndarray | None = None,
    where: np.ndarray | None = None,
) -> Flat:
    r"""Average frames without specimen, or without beam, and find the pixels that are no use.

    Parameters
    ----------
    frames : (T, Y, X) array
        Of one camera, as from `read_frames`. A recording with its specimen will do where only
        `drift` is wanted.
    dark : Flat, array or float
        Frames without beam, as this function gave them; left out, these frames are darks.
    white : Flat or array, optional
        Open beam that `drift` is measured against; left out, it is these frames' own mean.
    where : (Y, X) bool array, optional
        Pixels in which `drift` is measured: for a recording, those of the open beam.

    Returns
    -------
    Flat

    Raises
    ------
    ValueError
        Other shapes, or a beam that is not above the dark level.

    Notes
    -----
    A pixel is bad if it gets less than 0.3 of the light around it, the median of 5 x 5 pixels, or
    more than 3.3 times that; or if its scatter in time differs from theirs by six robust standard
    deviations of such differences and by half. In darks the mean is judged as the scatter is, and
    has to differ by a tenth. Against `white`, `drift` is a median, so that a few droplets that
    cross the field do not count. Used in :doc:`/book/xray/07_your_recording`.

    Examples
    --------
    >>> frames = np.random.default_rng(0).poisson(3000.0, (20, 16, 16))
    >>> frames[:, 4, 5] = 0
    >>> found = flat(frames, dark=100.0)
    >>> np.argwhere(found.bad).tolist(), bool(abs(np.nanmean(found.mean) - 3000) < 5)
    ([[4, 5]], True)
    """
    images = np.asarray(frames) if not hasattr(frames, "shape") else frames
    if len(images.shape) != 3 or not len(images):
        raise ValueError(f"frames are {images.shape}: give (T, Y, X), one or more")
    level = _map(dark)
    counts = np.ones(images.shape[1:], bool) if where is None else np.asarray(where, bool)
    shapes = {"dark": level.shape, "white": _map(white).shape, "where": counts.shape}
    for name, shape in shapes.items():
        if shape not in ((), tuple(images.shape[1:])):
            raise ValueError(f"{name} is {shape} and the frames {images.shape[1:]}: give one shape")
    span = None if white is None else _map(white) - level
    counts = counts & np.isfinite(level) & (True if span is None else span > 0)
    if not counts.any():
        raise ValueError("no pixel is left to measure the beam in: widen `where`")
    total, squares = np.zeros(counts.shape), np.zeros(counts.shape)
    beam = np.empty(len(images))
    for first in range(0, len(images), AT_ONCE):
        block = np.asarray(images[first : first + AT_ONCE], float)
        light = (block - level)[:, counts]
        beam[first : first + len(block)] = (
            light.mean(1) if span is None else np.median(light / span[counts], axis=1)
        )
        total += block.sum(0)
        squares += (block**2).sum(0)
    mean = total / len(images)
    scatter = np.sqrt((squares / len(images) - mean**2).clip(0))
    is_dark = not isinstance(dark, Flat) and np.ndim(dark) == 0 and not dark
    if not is_dark and not beam.mean() > 0:
        raise ValueError(f"the beam is {beam.mean():.3g} above the dark level: check both")
    light = mean - np.nan_to_num(level)
    bad = _odd(scatter, max(0.5 * np.median(scatter), 1e-3 * abs(np.median(mean))))
    if is_dark:
        bad |= _odd(mean, 0.1 * abs(np.median(mean)))
    else:  # what is dimmer by dust is no fault of the pixel: dividing by the flat mends it
        around = median_filter(light, 5, mode="nearest")
        bad |= (light < DEAD * around) | (light > around / DEAD)
    drift = np.ones(len(beam)) if is_dark else beam if white is not None else beam / beam.mean()
    return Flat(np.where(bad, np.nan, mean).astype(np.float32), drift.astype(np.float32), bad)


def _map(level: Flat | np.ndarray | float | None) -> np.ndarray:
    if isinstance(level, Flat):
        return level.mean
    return np.asarray(0.0 if level is None else level, np.float32)


def _odd(image: np.ndarray, least: float) -> np.ndarray:
    """Pixels that differ from those around them by six deviations, and by `least`."""
    away = image - median_filter(image, 5, mode="nearest")
    size = 1.4826 * np.median(np.abs(away))
    return np.asarray(np.abs(away) > max(HOT * size, least, 1e-9))
