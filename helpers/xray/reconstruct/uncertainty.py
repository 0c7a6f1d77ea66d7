"""Uncertainty of a reconstruction, from measured frames alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

from ..calibrate import camera as measured
from ..cameras import BOOK_CAMERA, SIGMA, CoarseCamera, bicubic, pad_up
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
    factors : dict
        Factors of their own that groups of pixels have; `factor` is for all others.
    """

    level: float
    factor: float
    floor: float
    factors: Mapping[int, float] = field(default_factory=dict)

    def __call__(
        self, reconstruction: Reconstruction, groups: np.ndarray | None = None
    ) -> np.ndarray:
        """Half width (n, Y, X), in transmission; `groups` as in `conformal`, if it was given."""
        if (groups is None) == bool(self.factors):
            raise ValueError(
                "groups are given to one of conformal and its interval: give them to both, for "
                "instance motion_groups(reconstruction, movie)"
            )
        spread = _spread_of(reconstruction)
        factor: Any = self.factor
        if groups is not None:
            groups = np.asarray(groups)
            if groups.shape != spread.shape:
                raise ValueError(f"groups are {groups.shape} and the frames {spread.shape}")
            factor = np.full(spread.shape, self.factor, spread.dtype)
            for group, of_group in self.factors.items():
                factor[groups == group] = of_group
        return factor * (self.floor + spread)


def conformal(
    held_out: Reconstruction,
    readings: np.ndarray,
    level: float = 0.9,
    *,
    where: np.ndarray | None = None,
    groups: np.ndarray | None = None,
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
    groups : (n, Y, X) int array, optional
        A class for each pixel that can be told without a truth, such as `motion_groups`. Each has
        a factor of its own. With `where`, only those pixels count in the groups that have a
        hundred of them and a twentieth of the group; all pixels in the others. So the level holds
        where things move and where they stand still.

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
    average over all of them; pixels are not independent, so one movie fixes it only roughly. With
    groups the quantile is taken in each (Mondrian conformal prediction), and it holds in each. The
    pixels of a frame are wrong together, so each factor of a group is raised by its standard error,
    found by leaving out the held-out frames in turn.
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
    error = np.abs(readings - held_out.frames)
    floor = float(np.median(error[where] if groups is None else error))
    quotient = error / (floor + spread)
    factor = float(np.quantile(quotient[where], level))
    if groups is None:
        return Interval(level, factor, floor)
    groups = np.asarray(groups)
    if groups.shape != spread.shape:
        raise ValueError(f"groups are {groups.shape}: give a class for each of {spread.shape}")
    factors = {}
    for group in np.unique(groups):
        members = groups == group
        chosen = members & where
        if chosen.sum() < max(ENOUGH, 0.05 * members.sum()):
            chosen = members
        if chosen.sum() >= ENOUGH:
            factors[int(group)] = _upper_quantile(quotient, chosen, level)
    return Interval(level, factor, floor, factors)


def _upper_quantile(quotient: np.ndarray, chosen: np.ndarray, level: float) -> float:
    """The quantile, and one standard error of it from leaving out each frame in turn."""
    found = float(np.quantile(quotient[chosen], level))
    without = []
    for n in range(len(quotient)):
        others = chosen.copy()
        others[n] = False
        if others.sum() >= ENOUGH:
            without.append(np.quantile(quotient[others], level))
    if len(without) < 3:
        return found
    return found + float(np.sqrt((len(without) - 1) * np.var(without)))


ENOUGH = 100  # pixels of a group that a factor is made from
MOTION = (3.0, 5.0, 8.0, 14.0)  # in units of the noise of the coarse camera
GREY = (0.5, 0.85)  # transmission: metal, what is between, open beam


def motion_groups(
    reconstruction: Reconstruction, movie: Movie, camera: CoarseCamera | None = None
) -> np.ndarray:
    r"""Classes of the pixels by motion and by brightness, for `conformal`.

    Parameters
    ----------
    reconstruction : Reconstruction
    movie : TwoCameraMovie
        The one that it was made from.
    camera : CoarseCamera, optional
        Default: measured, see `helpers.xray.calibrate.camera`.

    Returns
    -------
    (n, Y, X) array of int
        0 to 14: five classes of motion, each with three of brightness.

    Notes
    -----
    Motion is what the coarse camera sees of it, without a truth: the larger of the two
    :math:`|y_t - A h_k|`, in units of the photon noise, the largest of 3 x 3 coarse pixels,
    enlarged. Its classes end at 3, 5, 8 and 14. Those of brightness end at a transmission of 0.5
    and 0.85. Shown in
    :doc:`/book/xray/08_measured`.

    Examples
    --------
    >>> from helpers.xray.baselines import linear
    >>> from helpers.xray.reconstruct import reconstruct
    >>> from helpers.xray.simulate import Experiment, simulate
    >>> movie = simulate(Experiment(shape=(32, 32), n_frames=21), seed=0)
    >>> groups = motion_groups(reconstruct(linear, movie), movie)
    >>> groups.shape, bool(0 <= groups.min() and groups.max() < 15)
    ((20, 32, 32), True)
    """
    if camera is None:
        try:
            camera = measured(movie.lr, movie.hr, movie.key_times)
        except ValueError:  # a field too small, or no common moments
            camera = BOOK_CAMERA
    photons = BOOK_CAMERA.photons if camera.photons is None else camera.photons
    seen = camera.transmission(np.asarray(movie.lr, float))
    plain = replace(camera, gain=1.0, offset=0.0)
    expected = plain(np.asarray(movie.hr, float))
    noise = np.sqrt(expected.clip(0.05) / photons)
    groups = []
    for chosen, frame in zip(reconstruction.selections, reconstruction.frames, strict=True):
        keys = list(chosen.hr)
        off = (np.abs(seen[chosen.lr[1]] - expected[keys]) / noise[keys]).max(0)
        off = maximum_filter(off, 3)
        large = pad_up(bicubic(off, camera.scale), (frame.shape[0], frame.shape[1]))
        groups.append(np.digitize(large, MOTION) * (len(GREY) + 1) + np.digitize(frame, GREY))
    return np.stack(groups)


def disagreement(
    reconstruction: Reconstruction,
    movie: Movie,
    sigma: float = SIGMA,
    *,
    camera: CoarseCamera | None = None,
) -> np.ndarray:
    r"""Residual of the coarse camera: its frame minus its view of the reconstruction.

    Parameters
    ----------
    reconstruction : Reconstruction
        In the continuous mode.
    movie : TwoCameraMovie
    sigma : float
        Blur of the coarse camera, in sharp pixels.
    camera : CoarseCamera, optional
        In place of `sigma`; its gain and offset count, too.

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
    camera = camera or CoarseCamera(sigma)
    y = camera.transmission(np.asarray(movie.lr, float))
    bend = np.abs(y[2:] - 2 * y[1:-1] + y[:-2]) / np.sqrt(y[1:-1].clip(1e-3))
    per_root = np.median(bend) / 0.6745 / np.sqrt(6)
    seen = y[[s.lr[1] for s in reconstruction.selections]]
    expected = replace(camera, gain=1.0, offset=0.0)(reconstruction.frames)
    return (seen - expected) / (per_root * np.sqrt(seen.clip(1e-3)))


def _spread_of(reconstruction: Any) -> np.ndarray:
    if reconstruction.ensemble_std is None:
        raise ValueError("the reconstruction has no spread: reconstruct with ensemble_std=True")
    return reconstruction.ensemble_std
