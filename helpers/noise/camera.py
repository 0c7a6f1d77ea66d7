r"""The camera, found in its own movie: photon transfer, calibration maps, and flaws."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from .._arrays import Array, is_tensor, to_numpy
from . import _flaws
from ._transfer import Line, of_image, of_movie, quiet_differences

MOST_FRAMES, MOST_PIXELS = 64, 4_000_000  # looked at
SIDE = 256  # px: solvers look at the middle of larger frames
SMALL = 48  # px: in smaller frames molecules leave too little quiet to warn by it
FEW = 4  # frames: below, each image is looked at by itself
SLOPES = {"Poisson": 1.0, "SCMOS": 1.0, "PoissonGauss": 1.0, "EMCCD": 2.0}
# Of the gain, from which a solver warns by it alone: of a movie, and of images
FACTOR, FACTOR_OF_IMAGES = math.log(1.4), math.log(1.7)
GAIN_OFF, SURE = 0.2, 4.0  # share by which a gain may differ, and standard deviations


@dataclass(frozen=True)
class CameraCheck:
    """Result of `check_camera`.

    Attributes
    ----------
    gain, gain_std : float
        Slope of variance over mean, ADU per photo-electron, and its standard deviation: infinite
        where the background is too even, or moves too much, to tell. Electron multiplication
        doubles the slope.
    offset, offset_std : float
        ADU without light. Without a variance of the read noise it is the mean at which the
        variance vanishes, below the offset by the read variance over the gain. For a map its
        median is stated.
    read_noise : float
        Standard deviation in photo-electrons: that of the variance given or, where only the
        offset is given, what the movie has there. NaN without either.
    orientation : str
        The way in which the maps fit the movie, such as "as given" or "transposed"; "unknown"
        without a map, or where none fits.
    findings : dict of str
        Sentences by kind: `gain`, `offset`, `orientation`, `hot`, `clipped`, `saturated`,
        `frames`, `row`, `column`, `neighbour`. Empty if nothing was found.
    """

    gain: float
    gain_std: float
    offset: float
    offset_std: float
    read_noise: float
    orientation: str
    findings: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"gain {self.gain:.3g} +- {self.gain_std:.2g} ADU per photo-electron",
            f"offset {self.offset:.4g} +- {self.offset_std:.2g} ADU",
            f"read noise {self.read_noise:.2g} photo-electrons, maps {self.orientation}",
        ]
        return "\n".join([*lines, *(f"{k}: {v}" for k, v in self.findings.items())])


def check_camera(
    movie: Array | Sequence[np.ndarray],
    *,
    gain: float | Array | None = None,
    offset: float | Array | None = None,
    variance: float | Array | None = None,
) -> CameraCheck:
    r"""Find gain and offset of a camera in a movie, and what is wrong with movie or calibration.

    Parameters
    ----------
    movie : array (N, Y, X), sequence of frames such as a `helpers.io.Stack`, or image (Y, X)
        Camera counts as read from the file, in ADU. For photo-electrons take gain 1 and offset 0.
        Some 60 frames are looked at: in runs of neighbours, the first and the last among them.
        With fewer than four frames each is looked at by itself.
    gain : number or array (Y, X), optional
        What is believed: ADU per photo-electron.
    offset : number or array (Y, X), optional
        ADU without light.
    variance : number or array (Y, X), optional
        Of the read noise, in ADU squared.

    Returns
    -------
    CameraCheck

    Raises
    ------
    ValueError
        Not a movie, NaN, or a map that has another shape than the frames in every orientation.

    Notes
    -----
    Of a still pixel the mean is :math:`g \mu + o` and the variance :math:`g^2 \mu + v`, so

    .. math:: \mathrm{variance} - v = g\,(\mathrm{mean} - o) :

    photon transfer. The variance is half the mean square of what changes from one frame to the
    next. Light that blinks or moves changes, too; it is as large as the point spread, while noise
    is not, so places where the mean over nine pixels changes are left out, and the line goes
    through blocks of the rest. Of a single image the variance is what is left after a filter that
    is blind to slopes. Maps are correlated with the mean and the variance of the pixels they
    belong to, each without its neighbourhood, in eight orientations and all shifts. Noise of one
    pixel says nothing about that of another: correlation in a row, in a column or between
    neighbours is reported from 0.03 and five standard deviations on. Used in
    :doc:`/book/renderer/08_real_movie`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> light = np.linspace(5.0, 50.0, 64)
    >>> movie = 100 + 2.0 * rng.poisson(light, (20, 64, 64))
    >>> found = check_camera(movie, gain=0.5, offset=100)
    >>> abs(found.gain - 2) < 0.1, abs(found.offset - 100) < 2, list(found.findings)
    (True, True, ['gain'])
    """
    maps = {"gain": gain, "offset": offset, "variance": variance}
    return _check(movie, {k: v for k, v in maps.items() if v is not None}, MOST_PIXELS)


def _check(
    movie: Any,
    believed: Mapping[str, Any],
    most_pixels: int,
    mask: Array | None = None,
    side: int | None = None,
) -> CameraCheck:
    frames, index = _sample(movie, most_pixels, side)
    joined = np.diff(index) == 1
    shape = frames.shape[1:]
    given = {k: _middle(np.asarray(to_numpy(v), float), side) for k, v in believed.items()}
    for name, value in given.items():
        if value.ndim and tuple(value.shape) not in (shape, shape[::-1]):
            raise ValueError(f"{name} is {value.shape} but frames are {shape}: crop both alike")
        if not np.isfinite(value).all() or (name != "offset" and not (value >= 0).all()):
            raise ValueError(f"{name} holds NaN, infinite or negative values: mend the calibration")
    findings: dict[str, str] = {}
    if len(frames) >= FEW and joined.sum() >= FEW - 1:
        differences, quiet = quiet_differences(frames, joined)
        orientation, findings = _placed(frames, differences, given, shape)
        if mask is not None:
            quiet &= _middle(np.asarray(to_numpy(mask), bool), side)
        line, more = _from_movie(frames, index, joined, differences, quiet, given)
    else:
        orientation = "unknown"
        line, more = _from_images(frames, given)
    findings |= more
    return _judged(line, given, orientation, findings)


def _middle(a: np.ndarray, side: int | None) -> np.ndarray:
    """The middle of an image or a map, as many pixels from either rim, or a number as it is."""
    if a.ndim < 2 or side is None:
        return a
    cuts = [max(0, n - side + 1) // 2 for n in a.shape[-2:]]
    rows, columns = (slice(cut, n - cut) for cut, n in zip(cuts, a.shape[-2:], strict=True))
    return a[..., rows, columns]


def _sample(movie: Any, most_pixels: int, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Runs of neighbouring frames (n, Y, X) float32, and their numbers."""
    if (is_tensor(movie) or isinstance(movie, np.ndarray)) and movie.ndim == 2:
        movie = movie[None]
    if not len(movie) or np.ndim(movie[0]) != 2:
        raise ValueError(
            f"the movie has shape {np.shape(movie)}: give frames (N, Y, X), or one image (Y, X)"
        )
    pixels = math.prod(min(n, side or n) for n in np.shape(movie[0]))
    total = len(movie)
    n = int(np.clip(most_pixels // pixels, 8, MOST_FRAMES))
    index = np.arange(total)
    if total > n:
        runs = 4 if n >= 32 else 2
        starts = np.linspace(0, total - n // runs, runs).astype(int)
        index = np.unique(starts[:, None] + np.arange(n // runs))
    images = (_middle(np.asarray(to_numpy(movie[int(k)])), side) for k in index)
    frames = np.stack([image.astype(np.float32) for image in images])
    if not np.isfinite(frames).all():
        raise ValueError("frames hold NaN or infinity: put a number there first")
    return frames, index


def _placed(
    frames: np.ndarray,
    differences: np.ndarray,
    given: dict[str, np.ndarray],
    shape: tuple[int, ...],
) -> tuple[str, dict[str, str]]:
    """Orientation of the maps, which are turned in place, and the finding about it."""
    pairs = []
    if "variance" in given and given["variance"].ndim:
        noise = np.log(np.mean(differences**2, axis=0) + 1e-9)
        pairs.append((np.log(given["variance"] + 1e-9), noise))
    if "offset" in given and given["offset"].ndim:
        pairs.append((given["offset"], np.median(frames, axis=0)))
    if not pairs:
        return "unknown", {}
    k, shift, significance = _flaws.placement(pairs)
    if significance < _flaws.SURE:
        sentence = "the maps of the camera show in none of the eight orientations: another camera?"
        return "unknown", {"orientation": sentence} if _would_show(pairs, differences) else {}
    for name, value in given.items():
        if value.ndim:
            given[name] = np.roll(_flaws.turned(value, k), shift, (0, 1))
    name = _flaws.ORIENTATIONS[k]
    if k == 0 and shift == (0, 0):
        return name, {}
    moved = f", moved {shift[0]} px down and {shift[1]} px right" if any(shift) else ""
    turned = name if k else "as they are"
    return (name if k else "shifted"), {
        "orientation": f"the maps of the camera fit the movie {turned}{moved}, not as they were "
        "given: turn and crop them as the frames were"
    }


def _would_show(pairs: list[tuple[np.ndarray, np.ndarray]], differences: np.ndarray) -> bool:
    """True if a right map could not have been missed, by its spread against the noise."""
    n = len(differences)
    found = []
    for given, measured in pairs:
        spread, seen = (
            1.4826 * np.median(np.abs(a - median_filter(a, 5))) for a in (given, measured)
        )
        r = min(spread / seen, 1.0) if seen > 0 and n > 1 else 0.0
        found.append(r * math.sqrt(measured.size))
    return bool(np.mean(found) * math.sqrt(len(found)) > 4 * _flaws.SURE)


def _from_movie(
    frames: np.ndarray,
    index: np.ndarray,
    joined: np.ndarray,
    differences: np.ndarray,
    quiet: np.ndarray,
    given: Mapping[str, np.ndarray],
) -> tuple[Line, dict[str, str]]:
    offset, variance = given.get("offset", 0.0), given.get("variance", 0.0)
    known = np.broadcast_to(variance, frames.shape[1:])
    mean, noise = frames.mean(0), np.mean(differences**2, axis=0)
    usual = np.median(known)
    hot = _flaws.hot_pixels(mean - offset, noise, known - usual, len(differences))
    trusted = ~hot & (known <= 5 * usual + 1e-9)
    line = of_movie(frames, joined, differences, quiet, offset, variance, trusted)
    findings = _flaws.extremes(frames, line.noise)
    odd = _flaws.odd_frames(frames, index, joined, line.noise)
    if odd:
        findings["frames"] = odd
    if hot.any():
        findings["hot"] = (
            f"{int(hot.sum())} hot pixels, brighter or noisier than all around them"
            f"{' and than the variance states' if 'variance' in given else ''}: mask them, or give "
            "the variance as a map"
        )
    local = median_filter(noise, 5) + known - usual
    weighted = differences / np.sqrt(np.maximum(local, 1e-12))
    findings |= _flaws.told(_flaws.correlations(weighted, quiet & trusted))
    return line, findings


def _from_images(
    frames: np.ndarray, given: Mapping[str, np.ndarray]
) -> tuple[Line, dict[str, str]]:
    """Line of the first images; each is looked at by itself."""
    offset, variance = given.get("offset", 0.0), given.get("variance", 0.0)
    lines = [of_image(frame, offset, variance) for frame in frames[:FEW]]
    line = min(lines, key=lambda found: found.gain_std)
    return line, _flaws.extremes(frames, line.noise) | _flaws.told(_flaws.stripes(frames))


def _judged(
    line: Line, given: Mapping[str, np.ndarray], orientation: str, findings: dict[str, str]
) -> CameraCheck:
    """Constants of the line against those given."""
    typical = {name: float(np.median(value)) for name, value in given.items()}
    base = typical.get("offset", 0.0)
    gain, zero, zero_std = line.gain, line.zero, line.zero_std
    # what moves may make dark pixels the noisier ones: such a line says nothing
    known = gain > 0 and not math.isinf(line.gain_std)
    believed = typical.get("gain")
    if known and believed and abs(gain / believed - 1) > GAIN_OFF:
        if abs(gain - believed) > SURE * line.gain_std:
            findings["gain"] = _about_gain(gain, line.gain_std, believed)
    read_noise = math.nan
    if "variance" in typical and (believed or known):
        read_noise = math.sqrt(typical["variance"]) / (believed or gain)
    elif "offset" in typical and known:
        read_noise = math.sqrt(max(-zero, 0.0) / gain)
    # without a read variance the line may vanish below the offset, never above
    if known and "offset" in typical:
        off = zero if "variance" in typical else max(zero, 0.0)
        # half the noise of a quiet pixel: less does not matter, and is not sure
        if abs(off) > max(SURE * zero_std, 0.5 * line.noise):
            findings["offset"] = (
                f"the movie is dark at {base + zero:.4g} +- {zero_std:.2g} ADU, but the offset is "
                f"{base:.4g}: {'lower' if off < 0 else 'raise'} it by {abs(off):.2g}, or check "
                "which frames it was averaged from"
            )
    return CameraCheck(
        float(gain), float(line.gain_std) if known else math.inf, float(base + zero),
        float(zero_std), float(read_noise), orientation, findings,
    )  # fmt: skip


def _about_gain(gain: float, std: float, believed: float) -> str:
    advice = "check the setting of the camera"
    if abs(gain * believed - 1) < 0.3 and abs(math.log(believed)) > 0.2:
        advice = "it looks like its inverse, photo-electrons per ADU"
    elif 1.6 < gain / believed < 2.5:
        advice = "twice as much is what electron multiplication does: use EMCCD if it is one"
    return f"the movie has a gain of {gain:.3g} +- {std:.2g}, but {believed:.3g} is given: {advice}"


def warn_of_camera(
    movie: Array | Sequence[np.ndarray], noise: Any, mask: Array | None = None
) -> None:
    """Warn where a movie in photo-electrons contradicts its noise model.

    Gain, offset and orientation of its map are looked at, in the middle of a few frames.

    Parameters
    ----------
    movie : array (N, Y, X) or sequence of frames
        Fewer than four say nothing.
    noise : object
        A model of `helpers.noise`.
    mask : array of bool (Y, X), optional
        True where a pixel counts.
    """
    slope = SLOPES.get(type(noise).__name__)
    if slope is None or len(movie) < FEW or min(np.shape(movie[0])) < SMALL:
        return
    variance = np.asarray(to_numpy(getattr(noise, "variance", 0.0)), float)
    if variance.ndim > 2:
        return
    if slope == 2.0:
        variance = variance / noise.gain**2
    believed: dict[str, Any] = {"gain": slope, "offset": 0.0, "variance": variance}
    check = _check(movie, believed, MOST_PIXELS // 4, mask, SIDE)
    told = [check.findings[k] for k in ("orientation", "gain", "offset") if k in check.findings]
    near = check.gain > 0 and abs(math.log(check.gain / believed["gain"])) < FACTOR
    if near and len(told) < 2:
        told = [text for text in told if text != check.findings.get("gain")]
    if told:
        warnings.warn(
            f"frames and noise model disagree (in photo-electrons): {'; '.join(told)}. "
            "helpers.noise.check_camera looks closer",
            stacklevel=3,
        )


def warn_of_images(images: np.ndarray, noise: Any) -> None:
    """Warn where single images have stripes, or contradict their noise model.

    Parameters
    ----------
    images : (B, Y, X) array
        In photo-electrons, or in any unit if `noise` is None.
    noise : object or None
        A model of `helpers.noise`.
    """
    some = images[:: max(1, len(images) // FEW)][:FEW]
    told = list(_flaws.told(_flaws.stripes(some)).values())
    slope = SLOPES.get(type(noise).__name__)
    if slope:
        line, _ = _from_images(some, {})
        off = abs(math.log(max(line.gain, 1e-9) / slope)) if math.isfinite(line.gain_std) else 0.0
        if off > FACTOR_OF_IMAGES and abs(line.gain - slope) > SURE * line.gain_std:
            told.append(_about_gain(line.gain, line.gain_std, slope))
    if told:
        warnings.warn("; ".join(told), stacklevel=3)
