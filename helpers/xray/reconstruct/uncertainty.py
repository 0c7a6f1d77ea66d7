"""How far to trust a reconstruction, from measured frames alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..cameras import coarsen


@dataclass(frozen=True)
class Interval:
    """How far a sharp camera's reading may lie from a reconstruction.

    Attributes
    ----------
    level : float
        Share of the readings that should lie within.
    factor, floor : float
        The half width is ``factor * (floor + spread)``.
    """

    level: float
    factor: float
    floor: float

    def __call__(self, reconstruction):
        """Half width (n, Y, X), in transmission."""
        return self.factor * (self.floor + _spread_of(reconstruction))


def conformal(held_out, readings, level=0.9, *, where=None):
    r"""Scale the spread so that it covers what was measured.

    Parameters
    ----------
    held_out : Reconstruction
        With its spread, of key frames that were not used: ``mode="double"``.
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
        No spread, shapes that differ, a level that is not between 0 and 1, or no pixel that
        counts.

    Notes
    -----
    With the spread s, the median error f, and the quotients
    :math:`q = |x - \hat x| / (f + s)` of the pixels, the factor is the quantile `level` of q
    :cite:p:`angelopoulos2023`. It holds for readings like those, noise included, whatever the
    network does; pixels are not independent, so one movie fixes it only roughly. Shown in
    :doc:`/book/xray/06_reconstruct`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> rng = np.random.default_rng(0)
    >>> truth, spread = np.zeros((1, 100, 100)), rng.uniform(0.1, 1, (1, 100, 100))
    >>> guess = SimpleNamespace(frames=spread * rng.normal(size=spread.shape), spread=spread)
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


def disagreement(reconstruction, movie, sigma=2.2):
    r"""What the coarse camera saw, minus what it would have seen of the reconstruction.

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


def _spread_of(reconstruction):
    if reconstruction.spread is None:
        raise ValueError("the reconstruction has no spread: reconstruct with spread=True")
    return reconstruction.spread
