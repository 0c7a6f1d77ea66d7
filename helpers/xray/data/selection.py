"""Frames from which a sharp frame is predicted: never the one that is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MODES = ("virtual", "continuous", "double")


class Selection(NamedTuple):
    """Frame numbers of one sample: three coarse, two sharp, the sharp target, and its place."""

    lr: tuple[int, int, int]
    hr: tuple[int, int]
    target: int | None
    tau: float


def select_frames(
    index: int,
    mode: str,
    *,
    key_every: float = 20,
    key_times: Sequence[float] | np.ndarray | None = None,
    n_frames: int | None = None,
) -> Selection:
    r"""Choose the frames from which one sharp frame is predicted.

    Parameters
    ----------
    index : int
        In "virtual" and "continuous" the coarse frame at whose moment a sharp one is wanted. In
        "double" the number of the key frame that is held out and predicted.
    mode : {"virtual", "continuous", "double"}
        Virtual: both movies have a frame at every moment, and every `key_every`-th sharp one is a
        key frame. Continuous: a slow camera, and no truth. Double: a slow camera whose frames
        serve as truth in turn, so that the gap between the key frames is twice as long.
    key_every : int
        Coarse frames from key frame to key frame, where `key_times` is not given.
    key_times : (K,) array, optional
        Times of the slow frames in coarse frames, such as `Timing.key_times`.
        NaN marks frames that must not be used.
    n_frames : int, optional
        Coarse frames of the clip. Left out, its end is not checked.

    Returns
    -------
    Selection
        Where a continuous index is the first or last coarse frame, that frame stands in for its
        missing neighbour.

    Raises
    ------
    ValueError
        The target would be among the inputs, a key frame on one side is missing, the index lies
        outside the clip, the clip is shorter than three frames, or the mode is unknown.

    Notes
    -----
    The target lies at the part :math:`\tau = (t - t_0) / (t_1 - t_0)` of the gap between the key
    frames. See :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> select_frames(37, "virtual")
    Selection(lr=(36, 37, 38), hr=(20, 40), target=37, tau=0.85)
    >>> select_frames(37, "continuous")
    Selection(lr=(36, 37, 38), hr=(1, 2), target=None, tau=0.85)
    >>> select_frames(2, "double")
    Selection(lr=(39, 40, 41), hr=(1, 3), target=2, tau=0.5)
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}: use one of {', '.join(MODES)}")
    if n_frames is not None and n_frames < 3:
        raise ValueError(f"the clip has {n_frames} frames: at least three are needed")
    if index != int(index) or index < 0 or (mode != "double" and n_frames and index >= n_frames):
        raise ValueError(f"index is {index}: give a whole number from 0 to {_last(n_frames)}")
    index = int(index)
    if key_times is None:
        if key_every != int(key_every) or key_every < 2:
            raise ValueError(f"key_every is {key_every}: give a whole number, at least 2")
        # without an end, long enough for every key frame that can be asked for
        end = n_frames or (index + 2) * key_every + 1
        key_times = np.arange(0, end, key_every)
    times = np.asarray(key_times, float)
    if mode == "double":
        before, after, moment, target = index - 1, index + 1, index, index
        if before < 0 or after >= len(times) or np.isnan(times[before : after + 1]).any():
            raise ValueError(
                f"key frame {index} of {len(times)} lacks a key frame on one side: it cannot be "
                "held out, the frame itself would take the place of its neighbour"
            )
        place = times[moment]
    else:
        place, target = index, None
        before, after = _brackets(times, index)
        if mode == "virtual":
            if times[before] == index:
                raise ValueError(
                    f"frame {index} is a key frame: as a target it would be among the inputs"
                )
            target = index
    tau = float((place - times[before]) / (times[after] - times[before]))
    if mode == "virtual":
        before, after = int(times[before]), int(times[after])
    centre, last = round(float(place)), np.inf if n_frames is None else n_frames - 1
    if not 0 <= centre <= last:
        raise ValueError(f"key frame {index} was taken at {place:g}, when no coarse frame was")
    return Selection(
        (max(centre - 1, 0), centre, int(min(centre + 1, last))),
        (int(before), int(after)),
        target,
        tau,
    )


def _last(n_frames: int | None) -> str | int:
    return "the end" if n_frames is None else n_frames - 1


def _brackets(times: np.ndarray, moment: Any) -> Any:
    """Numbers of the last key frame at or before a moment and of the first one after it."""
    usable = np.flatnonzero(np.isfinite(times))
    place = np.searchsorted(times[usable], moment, "right")
    if not 0 < place < len(usable):
        side = "before" if place == 0 else "after"
        raise ValueError(f"no key frame {side} frame {moment}: choose one between two key frames")
    return usable[place - 1], usable[place]
