"""Measure the coarse camera from the moments that both cameras recorded, and find its faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import generic_filter
from scipy.optimize import minimize_scalar

from ...io.files import is_lazy
from ..cameras import CoarseCamera

WIDEST = 6.0  # sharp pixels of blur that are looked for
MARGIN = 3  # coarse pixels at the border, which see what the key frames do not hold
MOST_KEYS = 12
FEW_PHOTONS = 600.0
HOT = 6.0  # standard deviations
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)


def camera(
    lr: np.ndarray,
    hr: np.ndarray,
    key_times: np.ndarray | Sequence[float],
    *,
    scale: float = 4,
    offset: bool = False,
) -> CoarseCamera:
    r"""Measure blur, gain and photons of the coarse camera from co-exposed frames.

    Parameters
    ----------
    lr : (T, y, x) array
        Frames of the fast camera, on the grid of the slow one.
    hr : (K, Y, X) array
        Key frames as transmission; Y is scale times y, rounded down.
    key_times : (K,) array
        Their times in fast frames; between two fast frames a straight line is drawn.
    scale : float
        Sharp pixels along a coarse one.
    offset : bool
        Measure the reading without beam, too. It needs a field with bright and dark places.

    Returns
    -------
    CoarseCamera
        With `errors`, its standard errors.

    Raises
    ------
    ValueError
        Frames that do not fit together, or no key frame at a time of the fast camera.

    Notes
    -----
    For each key frame h with the coarse frame y of its moment, gain and offset follow from
    weighted least squares, and the blur from one bounded search for the least

    .. math:: \chi^2(\sigma) = \sum_k \sum_j \frac{(y_{kj} - g_k (A_\sigma h_k)_j - o)^2}
        {(A_\sigma h_k)_j} ,

    without a border of three coarse pixels and without outliers. Standard errors come from the
    curvature of :math:`\chi^2` over :math:`\sigma^2`, in which the model is smooth at zero; that
    of the gain also from its scatter between the key frames. Photons come from
    :math:`y_{t+1} - 2 y_t + y_{t-1}`, in which slow motion cancels. Derived in
    :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sharp = rng.uniform(0.3, 1.0, (2, 64, 64))
    >>> fast = CoarseCamera(1.5, gain=1.05)(sharp)[[0, 0, 1, 1]]
    >>> found = camera(rng.poisson(fast * 5000) / 5000, sharp, [0, 3])
    >>> abs(found.sigma - 1.5) < 0.1, abs(found.gain - 1.05) < 0.005
    (True, True)
    """
    lr = _indexed(lr)
    y, h = co_exposed(lr, hr, key_times, scale)
    return measure(y, h, scale=scale, offset=offset, photons=photons_of(lr))


def measure(
    y: np.ndarray,
    h: np.ndarray,
    *,
    scale: float,
    offset: bool = False,
    photons: Any = None,
    where: np.ndarray | None = None,
) -> CoarseCamera:
    """`camera`, from coarse frames (K, y, x) and the key frames (K, Y, X) of the same moments.

    Only the pixels `where` (y, x) count.
    """
    kept = np.ones(y.shape, bool) if where is None else np.broadcast_to(where, y.shape).copy()
    room = min(MARGIN, (min(y.shape[1:]) - 4) // 2)
    if room > 0:
        kept[:, :room] = kept[:, -room:] = kept[..., :room] = kept[..., -room:] = False
    best = 0.0
    for _ in range(2):  # the second time without outliers
        fit = _Fit(y, h, kept, scale, offset)
        best = float(
            minimize_scalar(
                fit.cost, bounds=(0.0, WIDEST), method="bounded", options={"xatol": 1e-3}
            ).x
        )
        if fit.cost(0.0) <= fit.cost(best):
            best = 0.0
        misfit = fit.residual(best)
        size = 1.4826 * np.median(np.abs(misfit[kept]))
        kept = kept & (np.abs(misfit) < 5 * size + 1e-12)
    gains, level, errors = fit.numbers(best)
    if photons is not None:
        photons, errors["photons"] = photons
    return CoarseCamera(
        best, scale, gain=float(gains.mean()), offset=level, photons=photons, errors=errors
    )


class _Fit:
    """Least squares of gain and offset for a given blur."""

    def __init__(self, y: Any, h: Any, kept: Any, scale: float, offset: bool) -> None:
        self.y, self.h, self.kept, self.scale, self.offset = y, h, kept, scale, offset
        self.weight = kept / self._seen(1.5).clip(0.05)

    def _seen(self, sigma: float) -> np.ndarray:
        return CoarseCamera(sigma, self.scale)(self.h)

    def solve(self, sigma: float) -> tuple[np.ndarray, float, np.ndarray]:
        """Gain of each key frame, the common offset, and what is expected."""
        a, w, y = self._seen(sigma), self.weight, self.y
        aa, ay = ((w * a * part).sum((1, 2)) for part in (a, y))
        level = 0.0
        if self.offset:  # eliminate the gains, then one equation is left
            sa = (w * a).sum((1, 2))
            level = float(((w * y).sum() - (sa * ay / aa).sum()) / (w.sum() - (sa * sa / aa).sum()))
            ay = ay - level * sa
        gains = ay / aa
        return gains, level, gains[:, None, None] * a + level

    def residual(self, sigma: float) -> np.ndarray:
        """In units that have the same noise everywhere."""
        expected = self.solve(sigma)[2]
        return (self.y - expected) / np.sqrt(self._seen(1.5).clip(0.05))

    def cost(self, sigma: float) -> float:
        return float((self.weight * (self.y - self.solve(sigma)[2]) ** 2).sum())

    def numbers(self, sigma: float) -> tuple[np.ndarray, float, dict[str, float]]:
        """Gains, offset, and the standard errors."""
        gains, level, _ = self.solve(sigma)
        count = max(1, int(self.kept.sum()) - len(gains) - 2)
        noise = self.cost(sigma) / count
        step = max(0.3, 0.3 * sigma)  # of sigma squared
        square = max(sigma**2, step)
        ends = [self.cost(np.sqrt(s)) for s in (square - step, square, square + step)]
        bend = max((ends[0] - 2 * ends[1] + ends[2]) / step**2, 1e-30)
        of_square = np.sqrt(2 * noise / bend)
        a = self._seen(sigma)
        formal = np.sqrt(noise / (self.weight * a * a).sum())
        scatter = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
        errors = {
            "sigma": float(min(np.sqrt(of_square), of_square / (2 * max(sigma, 1e-6)))),
            "gain": float(max(formal, scatter)),
        }
        if self.offset:
            spread = np.sqrt(max(float(a[self.kept].var()), 1e-12))
            errors["offset"] = float(
                np.sqrt(noise / self.weight.sum()) * a[self.kept].mean() / spread
            )
        return gains, level, errors


def co_exposed(
    lr: np.ndarray, hr: np.ndarray, key_times: Any, scale: float = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Coarse frames (K, y, x) and key frames (K, Y, X) of the same moments, at most 12 of them."""
    lr, hr, times = _indexed(lr), _indexed(hr), np.asarray(key_times, float)
    if lr.ndim != 3 or hr.ndim != 3 or len(times) != len(hr):
        raise ValueError(
            f"lr is {lr.shape}, hr {hr.shape} and key_times {times.shape}: give (T, y, x), "
            "(K, Y, X) and one time for each key frame"
        )
    want = CoarseCamera(0.0, scale).out_shape((hr.shape[1], hr.shape[2]), strict=False)
    if lr.shape[1:] != want:
        raise ValueError(f"fast frames are {lr.shape[1:]}, expected {want} for a scale of {scale}")
    seen = np.flatnonzero(np.isfinite(times) & (times >= -0.01) & (times <= len(lr) - 0.99))
    if not len(seen) or min(want) < 8:
        raise ValueError(
            f"{len(seen)} key frames have the time of a fast frame, and the field is {want} coarse "
            "pixels: give one key frame or more, and at least 8 x 8 coarse pixels"
        )
    some = seen[:: -(-len(seen) // MOST_KEYS)]
    at = times[some].clip(0, len(lr) - 1)
    low = np.floor(at + 1e-6).astype(int)
    part = (at - low).clip(0, 1)[:, None, None]
    high = np.minimum(low + 1, len(lr) - 1)
    y = (1 - part) * lr[low].astype(float) + part * lr[high].astype(float)
    return y, hr[some].astype(float)


def _indexed(frames: Any) -> Any:
    """Frames as an array, or as they are where they are read when they are indexed."""
    return frames if is_lazy(frames) else np.asarray(frames)


def photons_of(lr: np.ndarray) -> tuple[float, float] | None:
    """Photons of the open beam in a coarse pixel, and their error; None for under three frames."""
    if len(lr) < 3:
        return None
    y = lr[:: max(1, len(lr) // 60)] if len(lr) > 300 else lr
    y = np.asarray(y, float)
    bend = np.abs(y[2:] - 2 * y[1:-1] + y[:-2]) / np.sqrt(y[1:-1].clip(1e-3))
    deviation = np.median(bend) / 0.6745 / np.sqrt(6)
    number = float(1 / max(deviation, 1e-6) ** 2)
    return number, number * float(np.sqrt(8 / bend.size))


@dataclass(frozen=True)
class Inspection:
    """The coarse camera of a movie as it was measured, and what is wrong with it.

    Attributes
    ----------
    camera : CoarseCamera
    lr : Mended
        The coarse frames, mended.
    hot : (y, x) bool array
        Pixels that were mended in all frames.
    gain : float
        Reading of the open beam that was expected.
    """

    camera: CoarseCamera
    lr: Mended
    hot: np.ndarray
    gain: float

    def warnings_for(
        self, told: CoarseCamera | None = None, trained_for: CoarseCamera | None = None
    ) -> list[str]:
        """Each cause in a sentence.

        Parameters
        ----------
        told : CoarseCamera, optional
            What the user takes for true.
        trained_for : CoarseCamera, optional
            The one camera that a network knows. Sharper frames are blurred for it.
        """
        found, said = self.camera, []
        errors: Any = found.errors
        off = found.gain / self.gain - 1
        if abs(off) > max(0.02, 4 * errors["gain"]):
            said.append(
                f"wrong gain: the fast camera reads {100 * off:+.1f} % of what the slow one says "
                "at the moments that both recorded; check the open beam and the dark level of both"
            )
        if self.hot.any():
            count = int(self.hot.sum())
            number = f"{count} pixel" + "s" * (count > 1)
            said.append(
                f"hot pixels: {number} of the fast camera and the slow camera disagree at every "
                "key frame; they are filled from their neighbours"
            )
        if found.photons is not None and found.photons < FEW_PHOTONS:
            said.append(
                f"low photons: the noise of the fast frames is that of {found.photons:.0f} photons "
                "in a pixel of the open beam; expect less detail where things move"
            )
        room = max(0.25, 4 * errors["sigma"])
        if told is not None and abs(found.sigma - told.sigma) > room:
            said.append(
                f"wrong sigma: the blur of the fast camera is {found.sigma:.2f} sharp pixels by "
                f"the co-exposed frames and not {told.sigma:.2f}; give camera=calibrate.camera(...)"
            )
        elif trained_for is not None and found.sigma - trained_for.sigma > room:
            said.append(
                f"wrong sigma: the blur of the fast camera is {found.sigma:.2f} sharp pixels and "
                f"this network was trained for {trained_for.sigma:.2f}; load 'flowfuse', or train"
            )
        return said


def inspect(
    lr: np.ndarray,
    hr: np.ndarray,
    key_times: Any,
    told: CoarseCamera | None = None,
    *,
    gain: float = 1.0,
    where: np.ndarray | None = None,
) -> Inspection:
    """Measure the camera and mend its hot pixels.

    Parameters
    ----------
    lr, hr, key_times
        As for `camera`.
    told : CoarseCamera, optional
        Its scale counts.
    gain : float
        Reading of the open beam that is expected.
    where : (y, x) bool array, optional
        Pixels that count.
    """
    scale = 4 if told is None else told.scale
    lr = _indexed(lr)
    y, h = co_exposed(lr, hr, key_times, scale)
    found = measure(y, h, scale=scale, photons=photons_of(lr), where=where)
    hot = hot_pixels(y, h, found)
    hot = hot if where is None else hot & where
    return Inspection(found, Mended(lr, found, hot), hot, gain)


class Mended:
    """Coarse frames whose hot pixels and single hits are filled when they are read.

    Parameters
    ----------
    lr : (T, y, x) array, or Stack
    camera : CoarseCamera
        As it was measured.
    hot : (y, x) bool array
        Pixels to be filled in all frames.

    Examples
    --------
    >>> frames = np.ones((5, 8, 8))
    >>> frames[2, 3, 3] = 9
    >>> mended = Mended(frames, CoarseCamera(1, photons=1000), np.zeros((8, 8), bool))
    >>> float(mended[2:4].max()), len(mended)
    (1.0, 5)
    """

    def __init__(self, lr: Any, camera: CoarseCamera, hot: np.ndarray) -> None:
        self.lr, self.camera, self.hot = lr, camera, hot
        self.shape, self.dtype = lr.shape, lr.dtype

    def __len__(self) -> int:
        return len(self.lr)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Frames that follow each other; two more on each side are read, to judge them by."""
        start, stop, _ = part.indices(len(self.lr))
        first = max(0, start - 2)
        near = np.asarray(self.lr[first : stop + 2])
        mask = (single_hits(near, self.camera) & ~self.hot) | self.hot
        whole = mend(near, mask) if mask.any() else near
        return whole[start - first : stop - first]


def hot_pixels(y: np.ndarray, h: np.ndarray, found: CoarseCamera) -> np.ndarray:
    """Mask (y, x) of pixels that disagree with the key frames every time, and alone."""
    expected = found(h)
    z = (y - expected) / np.sqrt(expected.clip(0.05))
    z = np.median(z, axis=0)
    around = generic_filter(z, np.median, footprint=RING, mode="nearest")
    size = 1.4826 * np.median(np.abs(z - np.median(z))) + 1e-9
    # an edge that is out of place disagrees along its length, a pixel by itself
    strange = (np.abs(z) > HOT * size) & (np.abs(z - around) > HOT * size)
    # a pixel at the border also sees what lies beyond the key frames; so does the one beside it
    beside = generic_filter(np.abs(z), np.max, footprint=RING, mode="constant")
    inner = np.zeros_like(strange)
    inner[1:-1, 1:-1] = True
    strange &= inner | (np.abs(z) > 2 * beside)
    return strange if strange.mean() < 0.03 else np.zeros_like(strange)


def single_hits(lr: np.ndarray, found: CoarseCamera) -> np.ndarray:
    """Mask (T, y, x) of readings far from both neighbours in time and from all in space."""
    if len(lr) < 3 or found.photons is None:
        return np.zeros(lr.shape, bool)
    noise = np.sqrt(np.abs(lr).clip(0.05) / found.photons)
    before, after = np.concatenate([lr[1:2], lr[:-1]]), np.concatenate([lr[1:], lr[-2:-1]])
    away = 8 * noise
    mask: np.ndarray = np.zeros(lr.shape, bool)
    for sign in (1, -1):
        candidate = (sign * (lr - before) > away) & (sign * (lr - after) > away)
        for t in np.flatnonzero(candidate.any(axis=(1, 2))):
            top = sign * generic_filter(sign * lr[t], np.max, footprint=RING, mode="nearest")
            mask[t] |= candidate[t] & (sign * (lr[t] - top) > away[t])
    return mask


def mend(lr: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill readings with the median of their neighbours in time and space that are none of them."""
    mask = np.broadcast_to(mask, lr.shape)
    result = lr.copy()
    for t, i, j in np.argwhere(mask):
        near = np.s_[max(0, t - 1) : t + 2, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
        good = lr[near][~mask[near]]
        if good.size:
            result[t, i, j] = np.median(good)
    return result
