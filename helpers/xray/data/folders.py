"""Frames from disk as training and evaluation samples, the target never among the inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..cameras import SCALE, Calibrated, pad_to, register
from .recording import Recording
from .reds import Clip, frames_of, read_png, same_frames
from .samples import Sample
from .selection import Selection, select_frames

Level: TypeAlias = float | np.ndarray


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
    calibration : helpers.xray.calibrate.SpatialCalibration
    mode : {"double", "continuous"}
        "double" holds slow frames out in turn and has them as targets; "continuous" has a sample,
        without target, for each coarse frame between two slow ones. See `select_frames`.
    white : (float or (y, x) array, float or (Y, X) array), optional
        Open beam of the fast and of the slow camera, in grey levels. Left out, it is the level
        that 1 % of the pixels of a movie exceed, a guess for fields with some open beam.
    dark : (float or array, float or array)
        Signal without beam of the two cameras.
    stride : int
        Coarse sides are padded to multiples of it; see `pad_sample`.

    Attributes
    ----------
    selections : list of Selection
    valid : (Y, X) bool array
        Where the coarse camera has seen. Elsewhere its border is repeated.

    Raises
    ------
    ValueError
        A mode that is not there, sizes that are not those of the calibration, white below dark,
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
        stride: int = 1,
    ) -> None:
        if mode not in ("double", "continuous"):
            raise ValueError(f"mode is {mode!r}: use 'double' or 'continuous'")
        if recording.hr.shape[1:] != calibration.hr_shape:
            raise ValueError(
                f"the slow frames are {recording.hr.shape[1:]} but the calibration was made for "
                f"{calibration.hr_shape}: crop both alike"
            )
        self.stride, timing = stride, recording.timing
        open_beam = white or (None, None)
        lr, self._hr = (
            _transmission(frames, white, dark, name)
            for frames, white, dark, name in zip(
                (recording.lr, recording.hr), open_beam, dark, ("fast", "slow"), strict=True
            )
        )
        self._lr = register(lr, calibration)
        self.valid = calibration.seen()
        targets = timing.held_out() if mode == "double" else timing.between[:, 0].tolist()
        self.selections = [
            select_frames(i, mode, key_times=timing.key_times, n_frames=len(lr)) for i in targets
        ]

    def __len__(self) -> int:
        return len(self.selections)

    def __getitem__(self, i: int) -> Sample:
        """Give the sample `i`; its target is None in the continuous mode."""
        selection = self.selections[i]
        target = None if selection.target is None else self._hr[selection.target]
        return _sample(
            self._lr[list(selection.lr)],
            self._hr[list(selection.hr)],
            target,
            selection.tau,
            self.stride,
            "the registered movie",
        )


def pad_sample(sample: Sample, stride: int) -> Sample:
    """Pad the coarse frames of a sample to multiples of `stride`, and the sharp ones with them.

    Parameters
    ----------
    sample : helpers.xray.data.samples.Sample
    stride : int
        What the network asks for, in coarse pixels.

    Returns
    -------
    Sample
        Cut its prediction back to the first (Y, X) pixels.
    """

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


def _bin(image: np.ndarray) -> Any:
    *batch, height, width = image.shape
    blocks = image.reshape(*batch, height // SCALE, SCALE, width // SCALE, SCALE)
    return blocks.mean((-3, -1))


def _transmission(frames: Any, white: Any, dark: Any, name: str) -> np.ndarray:
    white = np.percentile(frames, 99) if white is None else np.asarray(white, np.float32)
    if not np.all(white > dark):
        raise ValueError(f"the {name} camera's open beam is not above its dark level: check both")
    return ((frames - np.float32(dark)) / (white - dark)).astype(np.float32)
