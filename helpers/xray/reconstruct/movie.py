"""Reconstruct every frame of the fast camera at the resolution of the sharp one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from inspect import signature as inspect_signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from ..._arrays import bits_of
from ..._deprecated import renamed, renamed_attribute
from ...devices import pick_device
from ...io.files import save_h5, save_tif
from ...scale import digest
from ..baselines import linear
from ..calibrate._camera import Inspection, inspect, mend
from ..cameras import BOOK_CAMERA, SCALE, CoarseCamera, Transform, pad_to, pad_up
from ..data.folders import ActualPairs
from ..data.samples import Movie, Sample
from ..data.selection import Selection, select_frames
from ..flow import FlowNet
from ..score import Score, evaluate, joined
from ._writer import H5, TIF, InMemory, Values, store
from .tiles import by_tiles, check_tiles

MODES = ("continuous", "double")
BLOCK = 16  # coarse frames that are read at a time


@dataclass(frozen=True)
class Reconstruction:
    """Sharp frames, when they were, and how good they are.

    Attributes
    ----------
    frames : (n, Y, X) float32 array, or Stack
        Transmission. With ``out=`` a `helpers.io.Stack`, which reads what it is indexed for.
    times : (n,) array
        In frames of the fast camera.
    tau : (n,) array
        Place between the key frames that were used.
    selections : list of Selection
        Which frames went into each: numbers of fast frames and of key frames. In the double mode
        `target` is the number of the key frame that was held out.
    ensemble_std : (n, Y, X) float32 array, Stack or None
        Standard deviation over the test-time augmentations, see `reconstruct`.
    scored : (m,) array of int
        Frames whose truth is known and was not among the inputs.
    score : Score or None
        Of those frames, in their order.
    rate : float
        Frames per second, reading and scoring left out.
    pixel_size : float or None
        In um.
    settings : dict
    valid : (Y, X) bool array or None
        Pixels that the fast camera saw; None where it saw all. Elsewhere the frames are the key
        frames mixed in time, and no score counts them.
    seconds : (n,) array or None
        Since the first frame of the fast camera, by its own clock.
    n_new : int
        Frames that this call made; the others were in ``out=``.
    """

    frames: np.ndarray
    times: np.ndarray
    tau: np.ndarray
    selections: list[Selection]
    ensemble_std: np.ndarray | None
    scored: np.ndarray
    score: Score | None
    rate: float
    pixel_size: float | None
    settings: dict
    valid: np.ndarray | None = None
    seconds: np.ndarray | None = None
    n_new: int = 0

    spread = renamed_attribute("ensemble_std")

    @property
    def table(self) -> dict[str, np.ndarray]:
        """The scores as columns: time, tau, psnr (dB), ssim, aad, moving (dB), moving_share."""
        columns = {"time": self.times[self.scored], "tau": self.tau[self.scored]}
        if self.score is not None:
            names = ("psnr", "ssim", "aad", "moving", "moving_share")
            columns |= {name: getattr(self.score, name) for name in names}
        return columns

    def save(self, path: str | Path) -> None:
        """Write the frames as ``.tif``, or everything as ``.h5``.

        Parameters
        ----------
        path : str or Path
            The ending decides. A tif holds the frames alone, as transmission in 32 bits with the
            pixel size and the time step; an h5 holds `frames`, `times`, `tau`, `ensemble_std`,
            the `inputs` of each frame and the `table`.

        Raises
        ------
        ValueError
            Another ending.
        """
        path = Path(path)
        if path.suffix in TIF:
            save_tif(path, self.frames, axes="TYX", **self._calibration())
        elif path.suffix in H5:
            tree = {"frames": self.frames, **self._tree()}
            if self.ensemble_std is not None:
                tree["ensemble_std"] = self.ensemble_std
            save_h5(path, tree, self._notes())
        else:
            raise ValueError(f"{path} ends in {path.suffix!r}: use .tif for images, .h5 for all")

    def _tree(self) -> dict[str, Any]:
        """Everything but the images."""
        inputs = {
            "fast": np.array([s.lr for s in self.selections]),
            "keys": np.array([s.hr for s in self.selections]),
        }
        tree = {"times": self.times, "tau": self.tau, "inputs": inputs}
        more = {"seconds": self.seconds, "valid": self.valid}
        tree |= {name: value for name, value in more.items() if value is not None}
        if self.score is not None:
            tree["table"] = self.table
        return tree

    def _notes(self) -> dict[str, Any]:
        notes = {name: value for name, value in self.settings.items() if value is not None}
        if self.pixel_size is not None:
            notes["pixel_size_um"] = self.pixel_size
        return notes

    def _calibration(self) -> dict[str, Any]:
        """Pixel size and time step as `save_tif` takes them; no step where it is not constant."""
        steps = np.array([]) if self.seconds is None else np.diff(self.seconds)
        even = len(steps) > 0 and np.ptp(steps) < 0.01 * steps.mean()
        known: dict[str, Any] = {"time_step": float(steps.mean()) if even else None}
        if self.pixel_size is not None:
            known |= {"pixel_size": self.pixel_size, "unit": "µm"}
        return known


@renamed(spread="ensemble_std")
def reconstruct(
    net: Callable[..., torch.Tensor],
    movie: Movie | ActualPairs,
    mode: str = "continuous",
    *,
    tile: int | None = 256,
    overlap: int = 64,
    batch: int = 4,
    ensemble_std: bool = False,
    camera: CoarseCamera | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    device: str | torch.device | None = None,
    callback: Callable[[int, np.ndarray], Any] | None = None,
    progress: bool = False,
    out: str | Path | None = None,
    resume: bool = True,
) -> Reconstruction:
    r"""Make a sharp movie out of the frames of two cameras.

    Parameters
    ----------
    net : torch.nn.Module or callable
        ``net(lr, hr, tau, camera)``, a network or one of :mod:`helpers.xray.baselines`, or a
        callable without the last argument.
    movie : TwoCameraMovie, or ActualPairs
        The cameras on one grid and one clock. `truth` may be None. Its frames may be a
        `helpers.io.Stack`, which reads those of a moment when they are needed. ``ActualPairs``
        brings its own mode, which must be the same.
    mode : "continuous" or "double"
        Continuous: a frame for each moment of the fast camera that lies between two key frames.
        Double: each key frame with a neighbour on both sides is held out and predicted from them.
    tile : int or None
        Side of the tiles in sharp pixels; None takes the whole field at once.
    overlap : int
        Of neighbouring tiles, in sharp pixels; they are blended over it.
    batch : int
        Tiles at a time.
    ensemble_std : bool
        Test-time augmentation: predict four times, mirrored and backwards in time too; give the
        mean and the standard deviation.
    camera : CoarseCamera, optional
        The coarse camera. Default: measured from the frames of the moments that both cameras
        recorded, see `helpers.xray.calibrate.camera`; `settings` tells which it was.
    precision : {"float32", "bfloat16"}
        "bfloat16" is nearly twice as fast on a processor or a GPU that has it, and costs a
        thousandth of a decibel; flows and warps stay float32.
    device : str or torch.device, optional
        See `helpers.devices.pick_device`. A network is moved there.
    callback : callable, optional
        ``callback(n, frame)`` after each frame.
    progress : bool
        Show a bar.
    out : str or Path, optional
        File to write frame by frame: ``.zarr``, ``.h5``, or ``.tif`` for the frames alone. Then
        the memory does not depend on the number of frames that are made, nor, if those of the
        movie are a `Stack`, on how many were recorded. Needs zarr.
    resume : bool
        Take the frames that an earlier call with the same inputs, network and settings has left
        in `out`. A process that is killed loses the frame that it works on.

    Returns
    -------
    Reconstruction

    Warns
    -----
    UserWarning
        What the co-exposed frames contradict, with its cause: wrong gain, hot pixels (which are
        mended), low photons, wrong sigma.

    Raises
    ------
    ValueError
        An unknown mode, tiles that do not fit, cameras that are turned or shifted against each
        other or whose clocks differ, frames of sizes that do not belong together, NaN, no frame
        that can be made, or an `out` of another format.
    FileExistsError
        `out` is a folder with something else in it.

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
    if isinstance(net, FlowNet):
        raise ValueError("this network aligns two cameras and fuses nothing: load another")
    samples = MovieSamples(movie, mode, camera, getattr(net, "trained_for", None))
    device = pick_device(device)
    bits_of(precision, device)  # an unknown one is refused before any work
    tiles: dict[str, Any] = {"tile": tile, "overlap": overlap, "batch": batch}
    kept = store(out, len(samples), resume, ensemble_std)
    scored, scores = samples.scored(), []
    seconds, n_new = 0.0, 0
    options: dict[str, Any] = {"ensemble_std": ensemble_std, "tiles": tiles, "device": device}
    options["precision"] = precision
    with closing(made(net, samples, range(len(samples)), kept, **options)) as frames:
        for n, sample, values, took in tqdm(frames, total=len(samples), disable=not progress):
            if took is not None:
                seconds, n_new = seconds + took, n_new + 1
            if n in scored:
                scores.append(samples.score(sample, values["frames"]))
            if callback:
                callback(n, values["frames"])
    result = Reconstruction(
        frames=np.empty(0),
        times=samples.times,
        tau=np.array([s.tau for s in samples.selections]),
        selections=samples.selections,
        ensemble_std=None,
        scored=scored,
        score=joined(scores) if scores else None,
        rate=n_new / seconds if n_new else np.nan,
        pixel_size=samples.pixel_size,
        settings={
            "mode": mode,
            "tile": tile,
            "overlap": overlap,
            "precision": precision,
            "network": _name(net),
            "camera": repr(samples.camera),
            "camera_from": samples.camera_from,
        },
        valid=samples.valid,
        seconds=samples.seconds,
        n_new=n_new,
    )
    return replace(result, **kept.finish(result._tree(), result._notes(), result._calibration()))


def made(
    net: Callable[..., torch.Tensor],
    samples: MovieSamples,
    numbers: Iterable[int],
    kept: InMemory,
    *,
    ensemble_std: bool,
    tiles: Mapping[str, Any],
    precision: str,
    device: torch.device,
) -> Generator[tuple[int, Any, Values, float | None], None, None]:
    """Yield each frame as it is kept: its number, sample and values.

    Last come the seconds that it took, None where it was there already.
    """
    module = net if isinstance(net, torch.nn.Module) else torch.nn.Module()
    training = module.training
    module.to(device).eval()
    # a network that looks both ways in time would give the same answer twice
    predict = samples.told(getattr(net, "one_way", net) if ensemble_std else net)
    made_by, bits = "", bits_of(precision, device)
    if kept.wants_keys:
        made_by = digest(net, samples.on_grid, ensemble_std, dict(tiles), precision, device.type)
    try:
        for n in numbers:
            sample, took = samples.sample(n), None
            inputs = samples.inputs(n, sample, device)
            key = digest(made_by, inputs, samples.valid) if kept.wants_keys else ""
            values = kept.get(n, key)
            if values is None:
                began = time.perf_counter()
                with torch.inference_mode(), bits():
                    answers = [
                        by_tiles(predict, *asked, **tiles)
                        for asked in _augmentations(inputs, ensemble_std)
                    ]
                    ways = torch.stack([_invert(x.float(), k) for k, x in enumerate(answers)]).cpu()
                took = time.perf_counter() - began
                values = {"frames": samples.seen(ways.mean(0).numpy(), inputs)}
                if not np.isfinite(values["frames"]).all():
                    raise ValueError(f"frame {n} holds NaN or infinity: was the network trained?")
                if ensemble_std:
                    values["ensemble_std"] = samples.cut(ways.std(0).numpy())
                kept.put(n, key, values)
            yield n, sample, values, took
    finally:
        module.train(training)


def share(
    net: Callable[..., torch.Tensor],
    samples: MovieSamples,
    numbers: Iterable[int],
    out: Path,
    *,
    tile: int | None,
    overlap: int,
    batch: int = 4,
    ensemble_std: bool,
    precision: str = "float32",
    device: str | torch.device | None,
) -> int:
    """Make some frames of a .zarr that several processes write; gives how many were new.

    `reconstruct` with the same `out` and settings then finds them there, scores them, and makes
    what is missing. One frame must be there before processes work side by side: it makes the
    arrays.
    """
    kept = store(out, len(samples), True, ensemble_std)
    tiles = {"tile": tile, "overlap": overlap, "batch": batch}
    options: dict[str, Any] = {"ensemble_std": ensemble_std, "precision": precision}
    options["device"] = pick_device(device)
    frames = made(net, samples, numbers, kept, tiles=tiles, **options)
    return sum(took is not None for *_, took in frames)


class MovieSamples:
    """The samples of a movie, in the order of their times."""

    def __init__(
        self,
        movie: Any,
        mode: str,
        camera: CoarseCamera | None = None,
        trained_for: CoarseCamera | None = None,
    ) -> None:
        self.mode, self.samples = mode, None
        self.valid: Any = None
        self.shape: tuple[int, int] | None = None
        self.seconds: Any = None
        self.movie, self.hot = movie, None
        self.given, self.trained_for = camera, trained_for
        self.camera, self.camera_from = camera or BOOK_CAMERA, "given" if camera else "assumed"
        self.on_grid = self.camera
        if hasattr(movie, "selections"):
            self._from_samples(movie, mode)
        else:
            self._from_movie(movie, mode)
        if not self.selections:
            raise ValueError(
                "no frame can be made: continuous needs two key frames, double three, and fast "
                "frames between them"
            )

    def __len__(self) -> int:
        return len(self.selections)

    def _from_samples(self, samples: Any, mode: str) -> None:
        self.selections = list(samples.selections)
        made_for = (
            "continuous" if self.selections and self.selections[0].target is None else "double"
        )
        if self.selections and made_for != mode:
            raise ValueError(f"the samples were made for the {made_for} mode, not for {mode}")
        self.samples = samples
        if hasattr(samples, "co_exposed"):
            seen = pad_to(np.asarray(samples.valid, np.float32), SCALE)
            lr, hr, times = samples.co_exposed()
            where = CoarseCamera(0.0)(seen) > 0.99
            found = self._inspected(lr, hr, times, where=where)
            self.hot = found and found.hot
        self.on_grid = self.camera
        self.shape = getattr(samples, "shape", None)
        valid = getattr(samples, "valid", None)
        self.valid = None if valid is None or valid.all() else valid
        self.times = np.array([s.lr[1] for s in self.selections], float)
        self.pixel_size = getattr(samples, "pixel_size", None)
        clock = getattr(samples, "clock", None)
        self.seconds = None if clock is None else clock(self.times)

    def _from_movie(self, movie: Any, mode: str) -> None:
        scale = _check_movie(movie, self.given)
        # in the double mode, only key frames that are never held out may be looked at
        keys = np.asarray(movie.key_times, float)
        if mode == "continuous":
            found = self._inspected(movie.lr, movie.hr, keys, scale)
        else:
            found = self._inspected(movie.lr, movie.hr[[0, -1]], keys[[0, -1]], scale)
        height, width = movie.hr.shape[1:]
        self.shape = (height, width) if height % SCALE or width % SCALE else None
        want = (-(-height // SCALE), -(-width // SCALE))
        self.coarse = _Coarse(movie.lr if found is None else found.lr, self.camera, want)
        self.on_grid = self.coarse.camera
        candidates = range(len(movie.lr)) if mode == "continuous" else range(1, len(keys) - 1)
        inside = keys[np.isfinite(keys)]
        self.selections, moments = [], []
        for i in candidates:
            if mode == "continuous" and not (inside.size and inside[0] <= i < inside[-1]):
                continue
            if mode == "double" and not np.isfinite(keys[i - 1 : i + 2]).all():
                continue
            chosen = select_frames(i, mode, key_times=keys, n_frames=len(movie.lr))
            self.selections.append(chosen)
            moments.append(i if mode == "continuous" else keys[i])
        self.times = np.array(moments, float)
        experiment = getattr(movie, "experiment", None)
        self.pixel_size = getattr(experiment, "hr_pixel", None)

    def _inspected(
        self, lr: Any, hr: Any, key_times: Any, scale: float = SCALE, where: Any = None
    ) -> Any:
        """Measure the camera where that is possible, and warn of what does not fit."""
        told = self.given or CoarseCamera(BOOK_CAMERA.sigma, scale)
        try:
            found: Inspection = inspect(lr, hr, key_times, told, gain=float(told.gain), where=where)
        except ValueError:  # no co-exposed frames, or too few
            if self.given is None:
                self.camera = replace(BOOK_CAMERA, scale=scale)
            return None
        if self.given is None:
            self.camera, self.camera_from = found.camera, "measured"
            errors = found.camera.errors or {}
            if abs(float(found.camera.gain) - 1) < max(0.003, 3 * errors.get("gain", 0.0)):
                self.camera = replace(found.camera, gain=1.0)  # nothing speaks against it
        for message in found.warnings_for(self.given, self.trained_for):
            warnings.warn(message, stacklevel=6)
        return found

    def told(self, net: Any) -> Any:
        """The network with the camera as an argument, if it takes one."""
        call = net.forward if isinstance(net, torch.nn.Module) else net
        if "camera" not in inspect_signature(call).parameters:
            return net
        return lambda lr, hr, tau: net(lr, hr, tau, self.on_grid)

    def sample(self, n: int) -> Any:
        """The sample n with its target, if it has one."""
        if self.samples is not None:
            return self.samples[n]
        chosen, movie = self.selections[n], self.movie
        target = None
        if self.mode == "double":
            target = movie.hr[chosen.target][None]
        elif movie.truth is not None:
            target = movie.truth[chosen.lr[1]][None]
        hr = pad_to(np.asarray(movie.hr[list(chosen.hr)]), SCALE)
        return Sample(self.coarse[chosen.lr][:, None], hr[:, None], np.float32(chosen.tau), target)

    def inputs(self, n: int, sample: Any, device: Any) -> Any:
        """Inputs of a network, a batch of one."""
        if not (np.isfinite(sample.lr).all() and np.isfinite(sample.hr).all()):
            raise ValueError(f"the inputs of frame {n} hold NaN or infinity: mask or crop them")
        if self.hot is not None and self.hot.any():
            hot = pad_up(self.hot, sample.lr.shape[-2:])
            sample = sample._replace(lr=mend(sample.lr[:, 0], hot)[:, None])
        return [torch.as_tensor(part, device=device)[None] for part in sample[:3]]

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The image without the rows and columns that were only padding."""
        return image if self.shape is None else image[..., : self.shape[0], : self.shape[1]]

    def seen(self, frame: np.ndarray, inputs: Any) -> np.ndarray:
        """The frame cut to the field, with mixed key frames where the fast camera saw nothing."""
        frame = self.cut(frame)
        if self.valid is None:
            return frame
        mixed = self.cut(linear(*inputs)[0, 0].cpu().numpy())
        return np.where(self.valid, frame, mixed)

    def score(self, sample: Any, frame: np.ndarray) -> Score:
        """The score of one frame, in the field."""
        sample = sample._replace(hr=self.cut(sample.hr), target=self.cut(sample.target))
        answer = torch.from_numpy(frame)[None, None]
        return evaluate(lambda lr, hr, tau: answer, [sample], valid=self.valid)

    def scored(self) -> Any:
        """Frames that have a truth which was not among their inputs."""
        if self.mode == "double":
            return np.arange(len(self))
        if self.samples is not None or self.movie.truth is None:
            return np.arange(0)
        keys = np.asarray(self.movie.key_times, float)
        gaps = np.abs(self.times[:, None] - keys[np.isfinite(keys)])
        return np.flatnonzero(gaps.min(axis=1) >= 0.5)


class _Coarse:
    """Coarse frames on the grid of the networks, which are made a block at a time, when needed."""

    def __init__(self, lr: Any, camera: CoarseCamera, shape: tuple[int, int]) -> None:
        self.lr, self.given, self.shape = lr, camera, shape
        equal = camera.to_grid(np.zeros((1, *lr.shape[1:]), np.float32))[1]
        self.camera = replace(equal, gain=1.0, offset=0.0)
        self.blocks: dict[int, np.ndarray] = {}

    def __getitem__(self, numbers: Iterable[int]) -> np.ndarray:
        return np.stack([self._block(n // BLOCK)[n % BLOCK] for n in numbers])

    def _block(self, k: int) -> np.ndarray:
        if k not in self.blocks:
            lr = np.asarray(self.lr[k * BLOCK : (k + 1) * BLOCK])
            frames, _ = self.given.to_grid(self.given.transmission(lr))
            self.blocks = dict(list(self.blocks.items())[-2:])  # of three moments
            self.blocks[k] = np.asarray(pad_up(frames, self.shape), np.float32)
        return self.blocks[k]


def _augmentations(inputs: Any, several: Any) -> Iterator[Any]:
    """Test-time augmentation: the inputs as they are, mirrored, backwards in time, and both."""
    lr, hr, tau = inputs
    yield lr, hr, tau
    if several:
        yield lr.flip(-1), hr.flip(-1), tau
        yield lr.flip(1), hr.flip(1), 1 - tau
        yield lr.flip(1, -1), hr.flip(1, -1), 1 - tau


def _invert(frame: Any, way: Any) -> torch.Tensor:
    return frame.flip(-1) if way in (1, 3) else frame


def _name(net: Any) -> str:
    return type(net).__name__ if isinstance(net, torch.nn.Module) else getattr(net, "__name__", "")


def _check_movie(movie: Any, camera: CoarseCamera | None) -> float:
    """Raise a ValueError if the movie cannot be used, else give its scale."""
    lr, hr = np.shape(movie.lr), np.shape(movie.hr)
    scale = camera.scale if camera else hr[-1] // max(1, lr[-1]) if len(hr) == len(lr) == 3 else 0
    if not 2 <= scale <= 8 or CoarseCamera(0.0, scale).out_shape(hr[1:], strict=False) != lr[1:]:
        raise ValueError(
            f"fast frames are {lr} and key frames {hr}: give (T, y, x) and (K, scale y, scale x), "
            "padded if need be (see helpers.xray.cameras.pad_to), the scale 2 to 8; a scale that "
            "is not whole needs camera=CoarseCamera(sigma, scale)"
        )
    for name, frames in (("fast", movie.lr), ("key", movie.hr)):
        first = np.asarray(frames[:1])
        known = first[np.isfinite(first)]
        level = float(np.median(known)) if known.size else 0.0
        if first.dtype.kind in "iu" or level > 3:
            raise ValueError(
                f"the {name} frames have a level of {level:.3g}: give transmission, 1 in the open "
                "beam (frames less dark, divided by the open beam less dark)"
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
            "time_offset to 0 (see helpers.xray.calibrate.temporal)"
        )
    return scale
