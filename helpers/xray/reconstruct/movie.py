"""The movie that no camera took: a sharp frame for every moment of the fast camera."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...devices import pick_device
from ...io.files import save_h5, save_tif
from ..cameras import Transform
from ..data.samples import Sample
from ..data.selection import Selection, select_frames
from ..score import Score, evaluate
from .tiles import by_tiles, check_tiles

SCALE = 4
MODES = ("continuous", "double")


@dataclass(frozen=True)
class Reconstruction:
    """Sharp frames, when they were, and how good they are.

    Attributes
    ----------
    frames : (n, Y, X) float32 array
        Transmission.
    times : (n,) array
        In frames of the fast camera.
    tau : (n,) array
        Place between the key frames that were used.
    selections : list of Selection
        Which frames went into each: numbers of fast frames and of key frames. In the double mode
        `target` is the number of the key frame that was held out.
    spread : (n, Y, X) float32 array or None
        Standard deviation over four ways to ask the same, see `reconstruct`.
    scored : (m,) array of int
        Frames whose truth is known and was not among the inputs.
    score : Score or None
        Of those frames, in their order.
    rate : float
        Frames per second, reading and scoring left out.
    pixel_size : float or None
        In um.
    settings : dict
    """

    frames: np.ndarray
    times: np.ndarray
    tau: np.ndarray
    selections: list[Selection]
    spread: np.ndarray | None
    scored: np.ndarray
    score: Score | None
    rate: float
    pixel_size: float | None
    settings: dict

    @property
    def table(self):
        """The scores as columns: time, tau, psnr (dB), ssim, aad, moving (dB), moving_share."""
        columns = {"time": self.times[self.scored], "tau": self.tau[self.scored]}
        if self.score is not None:
            names = ("psnr", "ssim", "aad", "moving", "moving_share")
            columns |= {name: getattr(self.score, name) for name in names}
        return columns

    def save(self, path):
        """Write the frames as ``.tif``, or everything as ``.h5``.

        Parameters
        ----------
        path : str or Path
            The ending decides. A tif holds the frames alone, as transmission in 32 bits with the
            pixel size; an h5 holds `frames`, `times`, `tau`, `spread`, the `inputs` of each frame
            and the `table`.

        Raises
        ------
        ValueError
            Another ending.
        """
        path = Path(path)
        if path.suffix in (".tif", ".tiff"):
            save_tif(path, self.frames, pixel_size=self.pixel_size, unit="µm", axes="TYX")
        elif path.suffix in (".h5", ".hdf5"):
            inputs = {
                "fast": np.array([s.lr for s in self.selections]),
                "keys": np.array([s.hr for s in self.selections]),
            }
            tree = {"frames": self.frames, "times": self.times, "tau": self.tau, "inputs": inputs}
            if self.spread is not None:
                tree["spread"] = self.spread
            if self.score is not None:
                tree["table"] = self.table
            notes = {name: value for name, value in self.settings.items() if value is not None}
            if self.pixel_size is not None:
                notes["pixel_size_um"] = self.pixel_size
            save_h5(path, tree, notes)
        else:
            raise ValueError(f"{path} ends in {path.suffix!r}: use .tif for images, .h5 for all")


def reconstruct(
    net,
    movie,
    mode="continuous",
    *,
    tile=256,
    overlap=64,
    batch=4,
    spread=False,
    device=None,
    callback=None,
    progress=False,
):
    r"""Make a sharp movie out of the frames of two cameras.

    Parameters
    ----------
    net : torch.nn.Module or callable
        ``net(lr, hr, tau)``, a network or one of :mod:`helpers.xray.baselines`.
    movie : TwoCameraMovie, or ActualPairs
        The cameras on one grid and one clock. `truth` may be None. ``ActualPairs`` brings its own
        mode, which must be the same.
    mode : "continuous" or "double"
        Continuous: a frame for each moment of the fast camera that lies between two key frames.
        Double: each key frame with a neighbour on both sides is held out and predicted from them.
    tile : int or None
        Side of the tiles in sharp pixels; None takes the whole field at once.
    overlap : int
        Of neighbouring tiles, in sharp pixels; they are blended over it.
    batch : int
        Tiles at a time.
    spread : bool
        Ask four times, mirrored and backwards in time too; give the mean and the spread.
    device : str or torch.device, optional
        See `helpers.devices.pick_device`. A network is moved there.
    callback : callable, optional
        ``callback(n, frame)`` after each frame.
    progress : bool
        Show a bar.

    Returns
    -------
    Reconstruction

    Raises
    ------
    ValueError
        An unknown mode, tiles that do not fit, cameras that are turned or shifted against each
        other or whose clocks differ, frames of sizes that do not belong together, NaN, or no frame
        that can be made.

    Notes
    -----
    Large fields are cut into tiles, see :func:`helpers.xray.reconstruct.by_tiles`; the spread
    is turned into an interval by `conformal`. The truth of a frame is never among its inputs: in
    the continuous mode it is that of the simulation, at moments half a frame or more away from
    every key frame; in the double mode it is the held-out key frame, noise and all.
    Shown in :doc:`/book/xray/06_reconstruct`.

    Examples
    --------
    >>> from helpers.xray.baselines import linear
    >>> from helpers.xray.simulate import Experiment, simulate
    >>> movie = simulate(Experiment(shape=(32, 32), n_frames=21), seed=0)
    >>> reconstruct(linear, movie).frames.shape
    (20, 32, 32)
    >>> double = reconstruct(linear, movie, mode="double")
    >>> double.selections[0].hr, double.selections[0].target, double.tau.tolist()
    ((0, 2), 1, [0.5])
    """
    check_tiles(tile, overlap, batch)
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}: use 'continuous' or 'double'")
    questions = _Questions(movie, mode)
    device = pick_device(device)
    is_module = isinstance(net, torch.nn.Module)
    training = is_module and net.training
    if is_module:
        net.to(device).eval()
    # a network that looks both ways in time would give the same answer twice
    ask = getattr(net, "one_way", net) if spread else net
    from tqdm.auto import tqdm

    frames, spreads, seconds = [], [], 0.0
    try:
        for n in tqdm(range(len(questions)), disable=not progress):
            inputs = questions.inputs(n, device)
            began = time.perf_counter()
            with torch.inference_mode():
                ways = [
                    by_tiles(ask, *asked, tile=tile, overlap=overlap, batch=batch)
                    for asked in _ways(inputs, spread)
                ]
                ways = torch.stack([_undo(way, k) for k, way in enumerate(ways)]).cpu()
            seconds += time.perf_counter() - began
            frame = ways.mean(0).numpy()
            if not np.isfinite(frame).all():
                raise ValueError(f"frame {n} holds NaN or infinity: was the network trained?")
            frames.append(frame)
            spreads.append(ways.std(0).numpy() if spread else None)
            if callback:
                callback(n, frame)
    finally:
        if training:
            net.train()
    frames = np.stack(frames)
    scored = questions.scored()
    return Reconstruction(
        frames=frames,
        times=questions.times,
        tau=np.array([s.tau for s in questions.selections]),
        selections=questions.selections,
        spread=np.stack(spreads) if spread else None,
        scored=scored,
        score=_scores(questions, frames, scored),
        rate=len(frames) / seconds,
        pixel_size=questions.pixel_size,
        settings={"mode": mode, "tile": tile, "overlap": overlap, "network": _name(net)},
    )


class _Questions:
    """The samples of a movie, in the order of their times."""

    def __init__(self, movie, mode):
        self.mode, self.samples = mode, None
        self.movie = movie
        if hasattr(movie, "selections"):
            self._from_samples(movie, mode)
        else:
            self._from_movie(movie, mode)
        if not self.selections:
            raise ValueError(
                "no frame can be made: continuous needs two key frames, double three, and fast "
                "frames between them"
            )

    def __len__(self):
        return len(self.selections)

    def _from_samples(self, samples, mode):
        self.selections = list(samples.selections)
        made_for = (
            "continuous" if self.selections and self.selections[0].target is None else "double"
        )
        if self.selections and made_for != mode:
            raise ValueError(f"the samples were made for the {made_for} mode, not for {mode}")
        self.samples = samples
        self.times = np.array([s.lr[1] for s in self.selections], float)
        self.pixel_size = None

    def _from_movie(self, movie, mode):
        _check_movie(movie)
        keys = np.asarray(movie.key_times, float)
        candidates = range(len(movie.lr)) if mode == "continuous" else range(1, len(keys) - 1)
        inside = keys[np.isfinite(keys)]
        self.selections, times = [], []
        for i in candidates:
            if mode == "continuous" and not (inside.size and inside[0] <= i < inside[-1]):
                continue
            if mode == "double" and not np.isfinite(keys[i - 1 : i + 2]).all():
                continue
            chosen = select_frames(i, mode, key_times=keys, n_frames=len(movie.lr))
            self.selections.append(chosen)
            times.append(i if mode == "continuous" else keys[i])
        self.times = np.array(times, float)
        experiment = getattr(movie, "experiment", None)
        self.pixel_size = getattr(experiment, "hr_pixel", None)

    def sample(self, n):
        """The sample n with its target, if it has one."""
        if self.samples is not None:
            return self.samples[n]
        chosen, movie = self.selections[n], self.movie
        target = None
        if self.mode == "double":
            target = movie.hr[chosen.target][None]
        elif movie.truth is not None:
            target = movie.truth[chosen.lr[1]][None]
        lr, hr = movie.lr[list(chosen.lr)][:, None], movie.hr[list(chosen.hr)][:, None]
        return Sample(lr, hr, np.float32(chosen.tau), target)

    def inputs(self, n, device):
        """What a network gets: a batch of one."""
        sample = self.sample(n)
        if not (np.isfinite(sample.lr).all() and np.isfinite(sample.hr).all()):
            raise ValueError(f"the inputs of frame {n} hold NaN or infinity: mask or crop them")
        return [torch.as_tensor(part, device=device)[None] for part in sample[:3]]

    def scored(self):
        """Which frames have a truth that was not among their inputs."""
        if self.mode == "double":
            return np.arange(len(self))
        if self.samples is not None or self.movie.truth is None:
            return np.arange(0)
        keys = np.asarray(self.movie.key_times, float)
        gaps = np.abs(self.times[:, None] - keys[np.isfinite(keys)])
        return np.flatnonzero(gaps.min(axis=1) >= 0.5)


def _scores(questions, frames, scored):
    if len(scored) == 0:
        return None
    replay = iter(torch.from_numpy(frames[scored])[:, None])
    return evaluate(
        lambda lr, hr, tau: torch.stack([next(replay) for _ in tau]),
        [questions.sample(n) for n in scored],
    )


def _ways(inputs, several):
    """The same question as it is, mirrored, backwards in time, and both."""
    lr, hr, tau = inputs
    yield lr, hr, tau
    if several:
        yield lr.flip(-1), hr.flip(-1), tau
        yield lr.flip(1), hr.flip(1), 1 - tau
        yield lr.flip(1, -1), hr.flip(1, -1), 1 - tau


def _undo(frame, way):
    return frame.flip(-1) if way in (1, 3) else frame


def _name(net):
    return type(net).__name__ if isinstance(net, torch.nn.Module) else getattr(net, "__name__", "")


def _check_movie(movie):
    lr, hr = np.shape(movie.lr), np.shape(movie.hr)
    if len(lr) != 3 or len(hr) != 3 or hr[1:] != (SCALE * lr[1], SCALE * lr[2]):
        raise ValueError(
            f"fast frames are {lr} and key frames {hr}: give (T, y, x) and (K, {SCALE} y, "
            f"{SCALE} x), padded if need be (see helpers.xray.data.folders.pad_to)"
        )
    if len(movie.key_times) != hr[0]:
        raise ValueError(f"{hr[0]} key frames have {len(movie.key_times)} times: give one each")
    if movie.truth is not None and np.shape(movie.truth) != (lr[0], *hr[1:]):
        raise ValueError(f"truth is {np.shape(movie.truth)}, expected {(lr[0], *hr[1:])}")
    if getattr(movie, "transform", Transform()) != Transform():
        raise ValueError(
            f"the cameras differ by {movie.transform}: register the frames first "
            "(see helpers.xray.calibrate.register)"
        )
    if getattr(movie, "time_offset", 0.0) != 0:
        raise ValueError(
            f"the clocks differ by {movie.time_offset} frames: correct key_times and set "
            "time_offset to 0 (see helpers.xray.calibrate._temporal)"
        )
