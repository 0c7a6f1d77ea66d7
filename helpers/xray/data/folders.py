"""Frames from disk as training and evaluation samples, the target never among the inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...io.files import is_lazy
from ..cameras import SCALE, Calibrated, coarsen, looked_up, pad_to, places_of
from .recording import Recording
from .reds import Clip, frames_of, read_png, same_frames
from .samples import Sample
from .selection import Selection, select_frames

Level: TypeAlias = float | np.ndarray
MOST_DEAD = 0.2  # of the pixels of a map
SATURATED = 0.005  # of the readings, at the highest value
OPEN_SHARE = 0.035  # of the field; simulated fields with an open beam have 5 % or more


class VirtualPairs:
    r"""Samples from clips that have a sharp and a coarse frame at every moment.

    Parameters
    ----------
    hr, lr : str or Path
        Folders ``<clip>/<frame>.png``, 8 or 16 bit, grey or with equal channels. Coarse frames are
        a quarter as large, or as large: then they are binned by 4.
    clips : list of Clip, optional
        From `read_meta_info`; all clips on disk if left out.
    key_every : int, optional
        Then key frames lie this far apart and every other frame between them is a target, once:
        for evaluation. Left out, the gaps to both key frames are drawn: for training.
    max_gap : int
        Longest gap that is drawn.
    intervals : sequence of int
        Steps from coarse frame to coarse frame, one of which is drawn.
    repeats : int
        How often each target occurs, with other gaps.
    stride : int
        Coarse sides are padded to multiples of it; see `pad_sample`.
    seed : int
        Fixes the gaps of every sample.

    Attributes
    ----------
    selections : list of (str, Selection)
        Clip and frames of every sample.

    Raises
    ------
    FileNotFoundError, ValueError
        A folder or clip is missing, the two folders or the meta-info disagree, a clip is shorter
        than three frames, or no frame can be a target.

    Notes
    -----
    A drawn sample with target t has its key frames at :math:`t - m` and :math:`t + n`,
    with m and n uniform between 1 and `max_gap` or the end of the clip. So
    :math:`\tau = m / (m + n)` is never 0 or 1. See :doc:`/book/xray/01_two_cameras`.
    """

    def __init__(
        self,
        hr: str | Path,
        lr: str | Path,
        clips: Sequence[Clip] | None = None,
        *,
        key_every: int | None = None,
        max_gap: int = 20,
        intervals: Sequence[int] = (1,),
        repeats: int = 1,
        stride: int = 1,
        seed: int = 0,
    ) -> None:
        if min(max_gap, repeats, stride, *intervals) < 1:
            raise ValueError("max_gap, repeats, stride and intervals must be 1 or more")
        self.stride = stride
        self._files = _paired_files(Path(hr), Path(lr), clips)
        rng = np.random.default_rng(seed)
        self.selections = []
        for name, (files, _) in self._files.items():
            chosen: Iterable[Selection]
            if key_every:
                chosen = _evaluated(len(files), key_every)
            else:
                chosen = _drawn(len(files), max_gap, intervals, repeats, rng)
            self.selections += [(name, selection) for selection in chosen]
        if not self.selections:
            raise ValueError(f"no frame in {hr} lies between two key frames: lower key_every")

    def __len__(self) -> int:
        return len(self.selections)

    def __getitem__(self, i: int) -> Sample:
        """Give the sample `i`, see `helpers.xray.data.samples.Sample`."""
        name, selection = self.selections[i]
        hr_files, lr_files = self._files[name]
        hr = np.stack([read_png(hr_files[k]) for k in (*selection.hr, selection.target)])
        lr = np.stack([read_png(lr_files[k]) for k in selection.lr])
        if lr.shape == hr.shape:
            lr = _bin(pad_to(lr, SCALE))
        return _sample(lr, hr[:2], hr[2], selection.tau, self.stride, lr_files[0])


class ActualPairs:
    r"""Samples from an experiment with two cameras, registered with one resampling.

    Parameters
    ----------
    recording : Recording
        Frames that were left in a file, such as a `Stack` of ``load_h5(path, lazy=True)``, stay
        there: each is read and registered when a sample needs it. An array is registered at once.
    calibration : helpers.xray.calibrate.SpatialCalibration
    mode : {"double", "continuous"}
        "double" holds slow frames out in turn and has them as targets; "continuous" has a sample,
        without target, for each coarse frame between two slow ones. See `select_frames`.
    white : (float or (y, x) array, float or (Y, X) array), optional
        Open beam of the fast and of the slow camera, in grey levels, or a map of it; pixels of a
        map that are not above `dark`, or NaN, are filled from their neighbours; see
        `helpers.xray.data.flat`. Left out, that of the slow
        camera is the level that 1 % of its pixels exceed, a guess for fields with some open beam,
        and that of the fast camera makes both agree at the moments that both have recorded.
    dark : (float or array, float or array)
        Signal without beam of the two cameras, or a map of it.
    drift : ((T,) array or None, (K,) array or None), optional
        Brightness of the beam in each frame of the fast and of the slow camera, 1 where it is that
        of `white`.
    pixel_size : float, optional
        Of the slow camera in um; it goes with the result.
    stride : int
        Coarse sides are padded to multiples of it; see `pad_sample`.

    Attributes
    ----------
    selections : list of Selection
    shape : (int, int)
        Sides (Y, X) of the slow frames, before they are padded.
    valid : (Y, X) bool array
        Pixels that the coarse camera has seen. Elsewhere its border is repeated.

    Raises
    ------
    ValueError
        Levels that are not two, or of another size than the frames; a mode that is not there,
        sizes that are not those of the calibration, white below dark, a recording without times,
        or frames that cannot be held out.
    """

    def __init__(
        self,
        recording: Recording,
        calibration: Calibrated,
        *,
        mode: str = "double",
        white: tuple[Level, Level] | None = None,
        dark: tuple[Level, Level] = (0.0, 0.0),
        drift: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
        pixel_size: float | None = None,
        stride: int = 1,
    ) -> None:
        if mode not in ("double", "continuous"):
            raise ValueError(f"mode is {mode!r}: use 'double' or 'continuous'")
        if recording.hr.shape[1:] != calibration.hr_shape:
            raise ValueError(
                f"the slow frames are {recording.hr.shape[1:]} but the calibration was made for "
                f"{calibration.hr_shape}: crop both alike"
            )
        if recording.lr.shape[1:] != calibration.lr_shape:
            raise ValueError(
                f"the fast frames are {recording.lr.shape[1:]} but the calibration was made for "
                f"{calibration.lr_shape}: give whole frames of the same camera mode"
            )
        if recording.timing is None:
            raise ValueError("the recording was read with still=True: its frames have no times")
        self.stride, timing, self.pixel_size = stride, recording.timing, pixel_size
        self._times_ns = timing.times_ns
        self.shape, self.valid = recording.hr.shape[1:], calibration.seen()
        movies = recording.lr, recording.hr
        darks = _two_levels("dark", dark, movies)
        whites = (None, None) if white is None else _two_levels("white", white, movies)
        beams = [
            _beam(beam, frames, camera)
            for beam, frames, camera in zip(drift, movies, ("fast", "slow"), strict=True)
        ]
        for frames, camera in zip(movies, ("fast", "slow"), strict=True):
            _warn_if_saturated(frames, camera)
        self._slow = _Light(recording.hr, whites[1], darks[1], "slow", beams[1])
        fast = _Light(
            recording.lr, 1.0 + darks[0] if white is None else whites[0], darks[0], "fast", beams[0]
        )
        lazy = is_lazy(recording.lr)
        lr: Any = _OnGrid(fast, calibration)
        self._lr: Any = lr if lazy else lr[:]
        if white is None:
            gain = self._common_gain(self._lr, timing.matched)
            self._lr = _OnGrid(fast, calibration, gain) if lazy else self._lr / gain
            _check_open_beam(self._slow[:: -(-len(recording.hr) // 8)])
        targets = timing.held_out() if mode == "double" else timing.between[:, 0].tolist()
        self._matched, self._key_times = timing.matched, timing.key_times
        self.selections = [
            select_frames(i, mode, key_times=timing.key_times, n_frames=len(lr)) for i in targets
        ]

    def __len__(self) -> int:
        return len(self.selections)

    def __getitem__(self, i: int) -> Sample:
        """Give the sample `i`; its target is None in the continuous mode."""
        selection = self.selections[i]
        target = None if selection.target is None else self._slow[selection.target]
        return _sample(
            self._lr[list(selection.lr)],
            self._slow[list(selection.hr)],
            target,
            selection.tau,
            self.stride,
            "the registered movie",
        )

    def co_exposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All fast frames (T, y, x), some slow ones (n, Y, X), and their times in fast frames.

        Padded to whole coarse pixels, without those that are held out as targets; see
        `helpers.xray.calibrate.camera`.
        """
        targets = [s.target for s in self.selections if s.target is not None]
        free = np.setdiff1d(self._matched[:, 0], targets)
        if len(free) < 2:  # a ratio that is not whole: between two fast frames is near enough
            inside = (self._key_times >= 0) & (self._key_times <= len(self._lr) - 1)
            free = np.setdiff1d(np.flatnonzero(inside), targets)
        some = free[:: max(1, -(-len(free) // 12))]
        hr = pad_to(self._slow[some], SCALE) if len(some) else np.zeros((0, SCALE, SCALE))
        return self._lr, hr, self._key_times[some]

    def clock(self, frames: np.ndarray) -> np.ndarray:
        """Seconds since the first fast frame, of moments in fast frames."""
        return np.interp(frames, np.arange(len(self._times_ns)), 1e-9 * self._times_ns)

    def _common_gain(self, lr: Any, matched: np.ndarray) -> float:
        """Open beam of the fast camera at which both cameras agree on the frames that both have."""
        if not len(matched):
            raise ValueError("no frame was recorded by both cameras: give the open beam as white")
        some = matched[:: -(-len(matched) // 8)]
        seen = coarsen(pad_to(self._slow[some[:, 0]], SCALE))
        inside = coarsen(pad_to(self.valid.astype(np.float32), SCALE)) > 0.99
        a, b = (np.float64(frames[:, inside]) for frames in (seen, lr[some[:, 1]]))
        return float((a * b).sum() / (a * a).sum())


def pad_sample(sample: Sample, stride: int) -> Sample:
    """Pad a sample to multiples of `stride` coarse pixels; a prediction must be cut back."""

    def grow(images: Any, multiple: Any) -> Any:
        return None if images is None else pad_to(images, multiple)

    return sample._replace(
        lr=grow(sample.lr, stride),
        hr=grow(sample.hr, SCALE * stride),
        target=grow(sample.target, SCALE * stride),
    )


def _sample(lr: Any, hr: Any, target: Any, tau: Any, stride: int, source: str) -> Sample:
    """Arrays (3, h, w), (2, Y, X) and (Y, X) as a `Sample` with the sharp sides padded to 4 h."""
    want = tuple(-(-n // SCALE) for n in hr.shape[1:])
    if lr.shape[1:] != want:
        raise ValueError(
            f"{source} has coarse frames of {lr.shape[1]} x {lr.shape[2]}, expected "
            f"{want[0]} x {want[1]}, a quarter of the sharp {hr.shape[1]} x {hr.shape[2]}"
        )

    sample = Sample(
        lr[:, None],
        pad_to(hr, SCALE)[:, None],
        np.float32(tau),
        None if target is None else pad_to(target, SCALE)[None],
    )
    return pad_sample(sample, stride)


def _paired_files(hr: Any, lr: Any, clips: Any) -> Any:
    """The sharp and the coarse files of each clip, checked against each other and the list."""
    frames = {folder: frames_of(folder) for folder in (hr, lr)}
    if clips is not None:
        names = {clip.name for clip in clips}
        for folder, known in frames.items():
            frames[folder] = {k: v for k, v in known.items() if k.split("/")[0] in names}
    same_frames(frames[hr], frames[lr], hr, lr)
    files: dict[str, Any] = {}
    for name in frames[hr]:
        for paths, folder in zip(
            files.setdefault(name.split("/")[0], ([], [])), (hr, lr), strict=True
        ):
            paths.append(frames[folder][name])
    for clip in clips or ():
        n_found = len(files.get(clip.name, ((), ()))[0])
        if n_found != clip.n_frames:
            raise ValueError(
                f"{hr / clip.name} holds {n_found} frames but the meta-info tells of "
                f"{clip.n_frames}: copy the clip again, or correct the meta-info"
            )
    for name, (paths, _) in files.items():
        if len(paths) < 3:
            raise ValueError(f"{hr / name} has {len(paths)} frames: at least three are needed")
    return files


def _evaluated(n_frames: int, key_every: Any) -> list[Selection]:
    """Every frame between two key frames of a clip."""
    last_key = (n_frames - 1) // key_every * key_every
    return [
        select_frames(i, "virtual", key_every=key_every, n_frames=n_frames)
        for i in range(last_key)
        if i % key_every
    ]


def _drawn(
    n_frames: int, max_gap: Any, intervals: Any, repeats: Any, rng: np.random.Generator
) -> Iterator[Selection]:
    """Every frame with neighbours as a target, `repeats` times, with random gaps."""
    for _ in range(repeats):
        for target in range(1, n_frames - 1):
            room = min(target, n_frames - 1 - target)
            step = int(rng.choice([i for i in intervals if i <= room] or [1]))
            before = int(rng.integers(1, min(max_gap, target) + 1))
            after = int(rng.integers(1, min(max_gap, n_frames - 1 - target) + 1))
            yield Selection(
                (target - step, target, target + step),
                (target - before, target + after),
                target,
                before / (before + after),
            )


def _check_open_beam(light: np.ndarray) -> None:
    """Warn if few pixels are as bright as the level that was taken for the open beam."""
    height, width = (n // SCALE * SCALE for n in light.shape[1:])
    share = float((_bin(light[:, :height, :width]) > 0.85).mean())
    if share < OPEN_SHARE:
        warnings.warn(
            f"no open beam: {100 * share:.0f} % of the slow frames are about as bright as the "
            "level that was taken for it; give white=(fast, slow), measured without the specimen",
            stacklevel=3,
        )


def _bin(image: np.ndarray) -> Any:
    *batch, height, width = image.shape
    blocks = image.reshape(*batch, height // SCALE, SCALE, width // SCALE, SCALE)
    return blocks.mean((-3, -1))


def _two_levels(name: str, levels: Any, movies: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """A level, or a map of it, for each of the two movies."""
    try:
        fast, slow = levels
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} is {levels!r}: give two, of the fast and of the slow camera"
        ) from None
    found = [np.asarray(level, np.float32) for level in (fast, slow)]
    sizes = [level.shape[-2:] for level in found]
    wanted = [frames.shape[1:] for frames in movies]
    if sizes == wanted[::-1] and wanted[0] != wanted[1]:
        raise ValueError(f"the two maps of {name} are exchanged: the fast camera's comes first")
    for camera, size, want in zip(("fast", "slow"), sizes, wanted, strict=True):
        if len(size) == 2 and size not in (want, (1, 1)) or len(size) == 1:
            raise ValueError(
                f"{name} of the {camera} camera is {size} and its frames are {want}: give a number "
                "or a map of that size"
            )
    return found


class _Light:
    """Frames as transmission, converted when they are asked for: a whole movie needs gigabytes."""

    def __init__(
        self, frames: np.ndarray, white: Any, dark: np.ndarray, camera: str, beam: Any = None
    ) -> None:
        if white is None:
            some = frames[:: -(-len(frames) // 16)]
            white = np.asarray(np.percentile(some, 99), np.float32)
        self.frames, self.dark, self.beam = frames, dark, beam
        self.range: np.ndarray = np.asarray(white - dark, np.float32)
        bad = ~(self.range > 0)
        if bad.mean() > MOST_DEAD or self.range.ndim == 0 and bad:
            raise ValueError(
                f"the {camera} camera's open beam is not above its dark level: check both"
            )
        dead = bad if bad.ndim == 2 else np.any(bad, axis=tuple(range(bad.ndim - 2)))
        if dead.any():
            self.range = np.where(bad, np.float32(1), self.range)
        told = np.isnan(white - dark)  # who gives NaN knows of them
        if (unknown := bad & ~told).any():
            warnings.warn(
                f"{unknown.sum()} pixels of the {camera} camera have no open beam above the dark "
                "level: they are filled from their neighbours",
                stacklevel=3,
            )
        self.fills = _neighbours(dead)

    def __getitem__(self, which: Any) -> np.ndarray:
        dark = np.nan_to_num(self._of(self.dark, which))
        light = (self.frames[which] - dark) / self._of(self.range, which)
        if self.beam is not None:
            light = light / self.beam[which][..., None, None]
        light = light.astype(np.float32)
        for y, x, rows, columns in self.fills:
            light[..., y, x] = np.median(light[..., rows, columns], axis=-1)
        return light

    @staticmethod
    def _of(level: np.ndarray, which: Any) -> np.ndarray:
        """The level of these frames: it may be one for each frame, (T, 1, 1)."""
        return level[which] if level.ndim == 3 and len(level) > 1 else level


class _OnGrid:
    """Fast frames on the common grid, registered when they are asked for."""

    def __init__(self, fast: _Light, calibration: Calibrated, gain: float = 1.0) -> None:
        self.fast, self.places, self.gain = fast, places_of(calibration), gain
        height, width = calibration.hr_shape
        self.shape = len(fast.frames), -(-height // SCALE), -(-width // SCALE)
        self.ndim, self.dtype = 3, np.dtype(np.float32)
        self.kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> np.ndarray:
        numbers = np.arange(len(self))[which]
        frames = np.empty((*numbers.shape, *self.shape[1:]), self.dtype)
        for place in np.ndindex(numbers.shape):
            frames[place] = self._frame(int(numbers[place]))
        return frames

    def _frame(self, n: int) -> np.ndarray:
        if n not in self.kept:
            self.kept = dict(list(self.kept.items())[-5:])  # the next sample needs two of three
            self.kept[n] = looked_up(self.fast[n : n + 1], self.places)[0] / self.gain
        return self.kept[n]


def _neighbours(dead: np.ndarray) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    """For each dead pixel its place, and those of the good ones in the least square around it."""
    found = []
    for y, x in np.argwhere(dead):
        for reach in range(1, max(dead.shape)):
            top, left = max(y - reach, 0), max(x - reach, 0)
            good = np.argwhere(~dead[top : y + reach + 1, left : x + reach + 1])
            if len(good):
                found.append((int(y), int(x), good[:, 0] + top, good[:, 1] + left))
                break
    return found


def _beam(beam: Any, frames: np.ndarray, camera: str) -> np.ndarray | None:
    """Brightness of the beam, one number for each frame."""
    if beam is None:
        return None
    levels = np.asarray(beam, np.float32)
    if levels.shape != (len(frames),) or not (levels > 0).all():
        raise ValueError(
            f"drift of the {camera} camera is {levels.shape} and it has {len(frames)} frames: give "
            "one number above 0 for each"
        )
    return levels


def _warn_if_saturated(frames: np.ndarray, camera: str) -> None:
    """Warn where many readings are the highest one: noise does not stop at one value."""
    some = frames[:: -(-len(frames) // 8)]
    if some.dtype.kind not in "iu":
        return
    levels, counts = np.unique(some, return_counts=True)
    top, share = levels[-1], counts[-1] / some.size
    below = counts[:-1][levels[:-1] > 0.98 * top].max(initial=0)
    if share > SATURATED and counts[-1] > 3 * below and len(levels) > 1:
        warnings.warn(
            f"saturated: {100 * share:.1f} % of the readings of the {camera} camera are {top}, the "
            "highest; what is brighter was lost, record it with less light",
            stacklevel=4,
        )
