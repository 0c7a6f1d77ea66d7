"""Uncertainty of a reconstruction, from measured frames alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cameras import coarsen
from ..data.samples import Movie
from .movie import Reconstruction


@dataclass(frozen=True)
class Interval:
    """Prediction interval of a sharp camera's readings around a reconstruction.

    Attributes
    ----------
    level : float
        Share of the readings that should lie within.
    factor, floor : float
        The half width is ``factor * (floor + ensemble_std)``.
    """

    level: float
    factor: float
    floor: float

    def __call__(self, reconstruction: Reconstruction) -> np.ndarray:
        """Half width (n, Y, X), in transmission."""
        return self.factor * (self.floor + _spread_of(reconstruction))


def conformal(
    held_out: Reconstruction,
    readings: np.ndarray,
    level: float = 0.9,
    *,
    where: np.ndarray | None = None,
) -> Interval:
    r"""Scale the spread of an ensemble so that it covers what was measured.

    Parameters
    ----------
    held_out : Reconstruction
        With its ensemble_std, of key frames that were not used: ``mode="double"``.
    readings : (n, Y, X) array
        Those key frames as they were recorded.
    level : float
        Share of the pixels that the interval should hold.
    where : (n, Y, X) bool array, optional
        The pixels that count, such as those that move; all of them if left out.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        No ensemble_std, shapes that differ, a level that is not between 0 and 1, or no pixel that
        counts.

    Notes
    -----
    With the standard deviation s of the ensemble, the median error f, and the quotients
    :math:`q = |x - \hat x| / (f + s)` of the pixels, the factor is the quantile `level` of q
    :cite:p:`angelopoulos2023`. It holds for readings like those, noise included, on
    average over all of them; pixels are not independent, so one movie fixes it only roughly.
    Shown in :doc:`/book/xray/06_reconstruct`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> rng = np.random.default_rng(0)
    >>> truth, spread = np.zeros((1, 100, 100)), rng.uniform(0.1, 1, (1, 100, 100))
    >>> guess = SimpleNamespace(frames=spread * rng.normal(size=spread.shape), ensemble_std=spread)
    >>> interval = conformal(guess, truth)
    >>> round(float((abs(guess.frames) <= interval(guess)).mean()), 3)
    0.9
    """
    spread = _spread_of(held_out)
    readings = np.asarray(readings)
    if readings.shape != spread.shape or not 0 < level < 1:
        raise ValueError(
            f"readings are {readings.shape}, frames {spread.shape}, level {level}: give one "
            "reading for each frame, and a level between 0 and 1"
        )
    where = np.ones(spread.shape, bool) if where is None else np.asarray(where, bool)
    if where.shape != spread.shape or not where.any():
        raise ValueError(
            f"where is {where.shape} with {where.sum()} pixels: give some of {spread.shape}"
        )
    error, spread = np.abs(readings - held_out.frames)[where], spread[where]
    floor = float(np.median(error))
    return Interval(level, float(np.quantile(error / (floor + spread), level)), floor)


def disagreement(reconstruction: Reconstruction, movie: Movie, sigma: float = 2.2) -> np.ndarray:
    r"""Residual of the coarse camera: its frame minus its view of the reconstruction.

    Parameters
    ----------
    reconstruction : Reconstruction
        In the continuous mode.
    movie : TwoCameraMovie
    sigma : float
        Blur of the coarse camera, in sharp pixels.

    Returns
    -------
    (n, y, x) array
        In units of the noise of the fast frames, which is taken from their differences in time:
        beyond about 4 the fast camera objects.

    Notes
    -----
    :math:`(y_t - A \hat x_t) / \hat\sigma_t`, with :math:`\hat\sigma_t` from the median of
    :math:`|y_{t+1} - 2 y_t + y_{t-1}|`, in which slow motion cancels, spread over grey levels as
    photons are. Needs no truth.
    """
    y = np.asarray(movie.lr, float)
    bend = np.abs(y[2:] - 2 * y[1:-1] + y[:-2]) / np.sqrt(y[1:-1].clip(1e-3))
    per_root = np.median(bend) / 0.6745 / np.sqrt(6)
    seen = y[[s.lr[1] for s in reconstruction.selections]]
    return (seen - coarsen(reconstruction.frames, sigma)) / (per_root * np.sqrt(seen.clip(1e-3)))


def _spread_of(reconstruction: Any) -> np.ndarray:
    if reconstruction.ensemble_std is None:
        raise ValueError("the reconstruction has no spread: reconstruct with ensemble_std=True")
    return reconstruction.ensemble_std
