"""Temporal calibration: the times of the slow frames, found in the images of the two cameras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..._arrays import to_numpy
from ...io.files import load_h5, save_h5
from ..cameras import coarsen

FINE = 16  # points of the search in one coarse frame
DRIFT = 0.01  # how far clocks may differ, one standard deviation


@dataclass(frozen=True)
class TemporalCalibration:
    """Result of `temporal`: slow frame k shows time ``offset + rate * key_times[k]``.

    Attributes
    ----------
    offset : float
        In coarse frames.
    rate : float
        Coarse frames that pass for each unit of `key_times`.
    covariance : (2, 2) array
        Of offset and rate, as photon noise makes it.
    curve : (n, 2) array
        Offsets around the one found, and half the squared difference of the movies there, in units
        of the noise and above its least value.
    """

    offset: float
    rate: float
    covariance: np.ndarray
    curve: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write everything to an HDF5 file, so that one calibration serves many recordings."""
        tree = {name: getattr(self, name) for name in ("offset", "rate", "covariance", "curve")}
        save_h5(path, tree, {"kind": "TemporalCalibration"})

    @classmethod
    def load(cls, path: str | Path) -> TemporalCalibration:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        tree, notes = load_h5(path)
        if notes.get("kind") != "TemporalCalibration":
            raise ValueError(f"{path} holds no temporal calibration: write it with save")
        return cls(tree["offset"], tree["rate"], tree["covariance"], tree["curve"])

    def times(self, key_times: np.ndarray) -> np.ndarray:
        """Times of the slow frames, in coarse frames."""
        return self.offset + self.rate * np.asarray(key_times, float)


def temporal(
    hr: np.ndarray,
    lr: np.ndarray,
    *,
    key_times: np.ndarray | None = None,
    search: float = 3.0,
    sigma: float = 2.2,
) -> TemporalCalibration:
    r"""Find offset and rate of the slow camera's clock from the images.

    Parameters
    ----------
    hr : (K, Y, X) array or tensor
        Slow frames, two or more, as transmission.
    lr : (T, Y / 4, X / 4) array or tensor
        Fast frames on the grid of the slow ones (see `helpers.xray.calibrate.register`).
    key_times : (K,) array, optional
        What the slow camera's clock says, in coarse frames. Left out, it counts slow frames, and
        the rate is the ratio of the frame rates; then every slow frame must lie in the movie.
    search : float
        How many coarse frames the clock may be wrong, where `key_times` are given.
    sigma : float
        Blur of the coarse camera in sharp pixels.

    Returns
    -------
    TemporalCalibration

    Raises
    ------
    ValueError
        Fewer than two slow or four fast frames, sizes that do not fit, values that are not
        finite, nothing that moves, or a best match at the edge of the search.

    Notes
    -----
    With b the coarsened slow frames and :math:`\ell(t)` the fast movie, interpolated in time with
    cubic polynomials, both divided by the noise of a fast pixel, offset and rate solve

    .. math:: \sum_k \tau_k \left\langle b_k - \ell(t_k),\; d_k \right\rangle = 0 , \qquad
        t_k = t_0 + \rho\, \kappa_k ,

    for :math:`\tau_k = 1` and :math:`\kappa_k`, weighted by what each slow frame tells.
    The change :math:`d_k` is the slope of a parabola through the seven fast frames around
    :math:`t_k`. With the slope between the two next frames it would be least squares; but their
    noise is also in :math:`\ell`, and noise that meets itself looks like a match. Slow frames from
    before or after the fast movie do not count. Where `key_times` are given, a rate other than 1
    is only believed if it lies two standard deviations away. Derived in
    :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> from helpers.xray.simulate import Experiment, simulate
    >>> experiment = Experiment(n_frames=41, time_offset=0.4)
    >>> movie = simulate(experiment, seed=1006)
    >>> found = temporal(movie.hr, movie.lr, key_times=movie.key_times)
    >>> abs(found.offset - 0.4) < 0.1
    True
    """
    hr, lr = to_numpy(hr), to_numpy(lr)
    clock = _checked(hr, lr, key_times, search)
    seen = coarsen(hr.astype(np.float32), sigma)
    match = _Match(np.asarray(seen, float), lr.astype(float))
    ends = _start(match, clock, None if key_times is None else search)
    rate = (ends[1] - ends[0]) / (clock[-1] - clock[0])
    start = np.array([ends[0] - rate * clock[0], rate])
    found, covariance = _refine(match, clock, start, key_times is not None)
    if key_times is not None:
        if abs(found[1] - 1) < 2 * np.sqrt(covariance[1, 1]):
            found, _ = _refine(match, clock, [found[0], 1.0], True, fixed=True)
        if np.abs(found[0] + (found[1] - 1) * clock[[0, -1]]).max() > 0.98 * search:
            raise ValueError(
                f"the best match is at the edge of the search, {search:g} frames off: widen "
                "`search`, or check that the frames are registered and of the same event"
            )
    shifts = np.arange(-2 * FINE, 2 * FINE + 1) / FINE
    curve = match.curves(found[0] + shifts[:, None] + found[1] * clock).sum(1)
    curve = np.stack([found[0] + shifts, curve - curve.min()], axis=1)
    return TemporalCalibration(float(found[0]), float(found[1]), covariance, curve)


class _Match:
    """Misfit of slow frame k to the fast movie at a time, from products of frames alone."""

    def __init__(self, seen: Any, movie: Any) -> None:
        self.n_frames, self.n_pixels = len(movie), movie[0].size
        bright = np.maximum(movie.mean(0), 0.05 * movie.mean())
        # third differences in time: most pixels stand still, and noise goes with the light
        third = np.median(np.diff(movie, n=3, axis=0) ** 2, axis=0) / (20 * 0.4549)
        noise = max(float(np.median(third / bright)), 1e-12)
        still, scale = movie.mean(0), 1 / np.sqrt(noise * bright)
        movie, seen = (((a - still) * scale).reshape(len(a), -1) for a in (movie, seen))
        products = movie @ movie.T
        self.gram = products - self.n_pixels * np.eye(self.n_frames)
        self.cross = seen @ movie.T
        # what rises above pure noise, for the search
        values, courses = np.linalg.eigh(products)
        kept = values > 1.2 * (np.sqrt(self.n_pixels) + np.sqrt(self.n_frames)) ** 2
        if not kept.any():
            raise ValueError("nothing moves in the fast movie: its clock cannot be seen in it")
        values, courses = values[kept] - self.n_pixels, courses[:, kept]
        self.smooth_gram = (courses * values) @ courses.T
        self.smooth_cross = self.cross @ courses @ courses.T

    def curves(self, times: np.ndarray) -> Any:
        """Half the squared difference (n, K) at times (n, K), but for what does not change."""
        cost = []
        for k, column in enumerate(times.T):
            weights = self.weights(column)
            energy = ((weights @ self.smooth_gram) * weights).sum(1)
            cost.append(0.5 * energy - weights @ self.smooth_cross[k])
        return np.stack(cost, axis=1)

    def correction(self, k: Any, time: Any) -> Any:
        """By how much frame k is later than `time`, and the variance of that; None outside."""
        last = self.n_frames - 1
        if not 0 <= time <= last:
            return None
        here = self.weights(np.array([time]))[0]
        near = np.clip(np.array([time - 1e-3, time + 1e-3]), 0, last)
        slope = np.diff(self.weights(near), axis=0)[0] / np.diff(near)
        width = min(7, self.n_frames)
        begin = int(np.clip(round(time - (width - 1) / 2), 0, self.n_frames - width))
        frames = np.arange(begin, begin + width)
        change = np.zeros(self.n_frames)
        change[frames] = np.linalg.pinv(np.vander(frames - time, 3))[1]
        gain = slope @ self.gram @ change
        if gain <= 0:
            return None
        miss = (self.cross[k] - here @ self.gram) @ change
        power = max(change @ self.gram @ change, 0) + self.n_pixels * (change @ change)
        return miss / gain, (here @ here) * power / gain**2

    def weights(self, times: np.ndarray) -> Any:
        """Shares (n, T) of the fast frames in the movie at times (n,)."""
        last = self.n_frames - 1
        times = np.clip(times, 0, last)  # before and after, the movie stands still
        first = np.clip(np.floor(times).astype(int), 0, last - 1)
        f = times - first
        # cubic through two frames, its slopes those of the frames around
        inner = [
            f * (-1 + f * (2 - f)),
            2 + f * f * (-5 + 3 * f),
            f * (1 + f * (4 - 3 * f)),
            f * f * (f - 1),
        ]
        # quadratic in the first and the last interval
        left = [0 * f, (f - 1) * (f - 2), -2 * f * (f - 2), f * (f - 1)]
        right = [f * (f - 1), -2 * (f + 1) * (f - 1), f * (f + 1), 0 * f]
        shares = np.where(first == 0, left, np.where(first == last - 1, right, inner))
        weights = np.zeros((len(times), self.n_frames))
        for step, share in zip(range(-1, 3), shares, strict=True):
            frames = np.clip(first + step, 0, last)
            weights[np.arange(len(times)), frames] += 0.5 * share
        return weights


def _start(match: Any, clock: Any, search: float | None) -> Any:
    """Times of the first and the last slow frame, by trying all on a grid."""
    fine = np.arange((match.n_frames - 1) * FINE + 1) / FINE
    curves = match.curves(np.repeat(fine[:, None], len(clock), axis=1))
    place = (clock - clock[0]) / (clock[-1] - clock[0])
    if search is None:
        steps = fine[:: max(FINE // 4, len(fine) // 600)]
        start, end = (g.ravel() for g in np.meshgrid(steps, steps, indexing="ij"))
        later = end - start >= len(clock) - 1
        start, end = start[later], end[later]
    else:
        shifts = np.arange(-search, search + 0.01, 0.25)
        start, end = clock[0] + shifts, clock[-1] + shifts
    total = np.zeros(len(start))
    for k in range(len(clock)):
        times = start + place[k] * (end - start)
        total += curves[np.clip(np.rint(times * FINE), 0, len(fine) - 1).astype(int), k]
    best = int(np.argmin(total))
    return np.array([start[best], end[best]])


def _refine(
    match: Any, clock: Any, start: Any, prior: bool, *, fixed: Any = False, n_iter: int = 30
) -> Any:
    """Offset and rate where the mean correction is zero, and their covariance."""
    found = np.array(start, float)
    for _ in range(n_iter):
        matrix, right = np.zeros((2, 2)), np.zeros(2)
        if prior:
            matrix[1, 1], right[1] = 1 / DRIFT**2, (1 - found[1]) / DRIFT**2
        for k, tick in enumerate(clock):
            told = match.correction(k, found[0] + found[1] * tick)
            if told is not None:
                direction = np.array([1.0, 0.0 if fixed else tick])
                matrix += np.outer(direction, direction) / told[1]
                right += direction * told[0] / told[1]
        covariance = np.linalg.pinv(matrix)
        if not covariance[0, 0] > 0:
            raise ValueError(
                "no slow frame falls into the fast movie: check key_times, or widen `search`"
            )
        step = covariance @ right * [1, not fixed]
        found += 0.8 * np.clip(step, -0.5, 0.5)
        if abs(step[0]) < 1e-4:
            break
    return found, covariance


def _checked(hr: Any, lr: Any, key_times: Any, search: float) -> Any:
    if hr.ndim != 3 or lr.ndim != 3 or len(hr) < 2 or len(lr) < 4:
        raise ValueError(
            f"hr has shape {hr.shape} and lr {lr.shape}: give two slow and four fast frames or more"
        )
    if hr.shape[1:] != tuple(4 * n for n in lr.shape[1:]):
        raise ValueError(
            f"the slow frames are {hr.shape[1:]} and the fast ones {lr.shape[1:]}, not a quarter: "
            "register them first (helpers.xray.calibrate.register)"
        )
    if not (np.isfinite(hr).all() and np.isfinite(lr).all()):
        raise ValueError("the movies hold NaN or infinite values: replace them first")
    clock = np.arange(len(hr), dtype=float) if key_times is None else np.asarray(key_times, float)
    if clock.shape != (len(hr),) or not np.isfinite(clock).all() or (np.diff(clock) <= 0).any():
        raise ValueError(f"key_times are {clock}: give {len(hr)} rising times, one a slow frame")
    if not search > 0:
        raise ValueError(f"search is {search}: give a number of coarse frames above 0")
    return clock
