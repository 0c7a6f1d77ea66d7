"""Samples for training and scores: three coarse frames, two key frames, the target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import torch

Number: TypeAlias = np.floating | np.ndarray | float


class Sample(NamedTuple):
    """The inputs of a network at one time, and what it should say; batches have one more axis.

    Attributes
    ----------
    lr : (3, 1, h, w) array
        Coarse frames before, at and after the target's time, as transmission.
    hr : (2, 1, 4h, 4w) array
        Sharp key frames before and after it.
    tau : float
        Place of the target between the key frames, 0 to 1.
    target : (1, 4h, 4w) array
    """

    lr: np.ndarray
    hr: np.ndarray
    tau: Number
    target: np.ndarray | None


class CameraSample(NamedTuple):
    """A `Sample` with its camera, for trainings that record it anew.

    Attributes
    ----------
    lr, hr, tau, target
        As in `Sample`.
    camera : (4,) array
        Blur, gain, offset and photons of the coarse camera, as `CoarseCamera` has them.
    seen : (3, 1, 4h, 4w) array or None
        Truth at the times of the three coarse frames.
    """

    lr: np.ndarray
    hr: np.ndarray
    tau: Number
    target: np.ndarray | None
    camera: np.ndarray
    seen: np.ndarray | None


S = TypeVar("S", bound=tuple)  # a NamedTuple


class Samples(Protocol):
    """A sequence of samples: what trainings draw from and scores are made of."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Movie(Protocol):
    """Frames of two cameras on one grid and one clock, such as a `TwoCameraMovie`."""

    @property
    def lr(self) -> np.ndarray:
        """Coarse frames (T, y, x)."""

    @property
    def hr(self) -> np.ndarray:
        """Key frames (K, Y, X)."""

    @property
    def key_times(self) -> np.ndarray:
        """Their times, in coarse frames."""

    @property
    def truth(self) -> np.ndarray | None:
        """Sharp frames (T, Y, X) of all times, where they are known."""


class MoviePairs:
    """All frames of simulated movies that lie between two key frames, as samples.

    Parameters
    ----------
    movies : sequence of TwoCameraMovie
        With their truth, both cameras on one grid and one clock.
    every : int
        Take only every n-th frame between two key frames.
    frames : bool
        Give with each sample its camera and the truth at the times of its three coarse frames.

    Attributes
    ----------
    places : (n, 3) array of int
        For each sample the movie, the coarse frame t of the target, and the key frame before it.

    Raises
    ------
    ValueError
        No movies, a movie without truth, cameras that are turned or shifted against each other,
        or no frame between key frames.

    Notes
    -----
    A frame is a target when it has a coarse frame and a key frame on either side and no key frame
    was taken within half a frame of it: what is asked is never among the inputs.

    Examples
    --------
    >>> from helpers.xray.simulate import Experiment, simulate
    >>> movie = simulate(Experiment(shape=(32, 32), n_frames=11), seed=1000)
    >>> pairs = MoviePairs([movie])
    >>> len(pairs), pairs[2].hr.shape, round(float(pairs[2].tau), 1)
    (9, (2, 1, 32, 32), 0.3)
    """

    def __init__(self, movies: Iterable[Movie], *, every: int = 1, frames: bool = False) -> None:
        if every != int(every) or every < 1:
            raise ValueError(f"every is {every}: give a whole number, at least 1")
        self.movies, self.frames = list(movies), frames
        if not self.movies:
            raise ValueError("there are no movies: give at least one")
        places = []
        for number, movie in enumerate(self.movies):
            _check(movie, number)
            places += [(number, t, k) for t, k in _targets(movie, every)]
        if not places:
            raise ValueError("no frame lies between two key frames: give longer movies")
        self.places = np.array(places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        number, t, k = self.places[index]
        movie = self.movies[number]
        start, end = movie.key_times[k : k + 2]
        sample = Sample(
            movie.lr[t - 1 : t + 2, None],
            movie.hr[k : k + 2, None],
            np.float32((t - start) / (end - start)),
            movie.truth[t][None],
        )
        if self.frames:
            return CameraSample(*sample, _camera_of(movie), movie.truth[t - 1 : t + 2, None])
        return sample

    @property
    def clips(self) -> np.ndarray:
        """(n,) array: the movie of each sample."""
        return self.places[:, 0]


def stack(samples: Sequence[S], device: str | torch.device | None = None) -> S:
    """Join samples of one kind and shape to a batch of float32 tensors.

    Examples
    --------
    >>> sample = Sample(np.ones((3, 1, 2, 2)), np.ones((2, 1, 8, 8)), 0.5, np.ones((1, 8, 8)))
    >>> batch = stack([sample, sample])
    >>> batch.lr.shape, batch.tau
    (torch.Size([2, 3, 1, 2, 2]), tensor([0.5000, 0.5000]))
    """
    columns = zip(*samples, strict=True)
    made: Any = type(samples[0])
    return made(*(None if c[0] is None else _tensor(c, device) for c in columns))


def _tensor(column: tuple[Any, ...], device: str | torch.device | None) -> torch.Tensor:
    return torch.from_numpy(np.stack(column).astype(np.float32, copy=False)).to(device)


def augment(sample: S, patch: int | None, rng: np.random.Generator) -> S:
    """Cut a random square out of a sample, and turn its x axis or its time round at random.

    `patch` is its side in sharp pixels; None keeps the whole field. Up stays up: liquid lies below
    gas. Backwards in time, tau becomes 1 - tau.

    Examples
    --------
    >>> lr, hr = np.zeros((3, 1, 8, 8)), np.zeros((2, 1, 32, 32))
    >>> sample = Sample(lr, hr, 0.2, hr[0])
    >>> cut = augment(sample, 16, np.random.default_rng(0))
    >>> cut.lr.shape, cut.hr.shape
    ((3, 1, 4, 4), (2, 1, 16, 16))
    """
    whole: Any = sample
    lr, hr, tau, target = whole[:4]  # no target where nothing is known
    h, w = lr.shape[-2:]
    scale = hr.shape[-1] // w
    if patch is not None:
        side = patch // scale
        if patch % scale or not 0 < side <= min(h, w):
            raise ValueError(
                f"patch is {patch} and the field {tuple(hr.shape[-2:])}: "
                f"give a multiple of {scale} that fits"
            )
        y, x = rng.integers(h - side + 1), rng.integers(w - side + 1)
        lr = lr[..., y : y + side, x : x + side]
        sharp = np.s_[..., scale * y : scale * y + patch, scale * x : scale * x + patch]
        hr, target = hr[sharp], target[sharp]
    mirrored, reversed_ = rng.random(2) < 0.5
    if mirrored:
        lr, hr, target = lr[..., ::-1], hr[..., ::-1], target[..., ::-1]
    if reversed_:
        lr, hr, tau = lr[::-1], hr[::-1], 1 - tau
    cut: S = whole._replace(lr=lr, hr=hr, tau=np.float32(tau), target=target)
    return cut


def _targets(movie: Any, every: int) -> Iterator[tuple[int, int]]:
    """The frames (t, k) that lie between the key frames k and k + 1 and can be asked for."""
    keys = np.asarray(movie.key_times, float)
    times = np.arange(1, len(movie.lr) - 1)
    for k, (start, end) in enumerate(zip(keys, keys[1:], strict=False)):
        between = times[(times - start >= 0.5) & (end - times >= 0.5)]
        yield from ((int(t), k) for t in between[::every])


def _camera_of(movie: Any) -> np.ndarray:
    """Blur, gain, offset and photons of a simulated coarse camera, on the sharp camera's frames."""
    e = movie.experiment
    sigma = math.sqrt(max(0.0, e.lr_psf**2 - e.hr_psf**2))
    return np.array([sigma, 1.0, 0.0, e.lr_photons], np.float32)


def _check(movie: Any, number: int) -> None:
    if movie.truth is None:
        raise ValueError(f"movie {number} has no truth: a measured movie cannot be a teacher")
    expected = type(movie.transform)()
    if movie.transform != expected:
        raise ValueError(
            f"the cameras of movie {number} differ by {movie.transform}: register the frames first "
            "(helpers.xray.calibrate.register)"
        )
    if movie.time_offset != 0:
        raise ValueError(
            f"the clocks of movie {number} differ by {movie.time_offset} frames: add that to its "
            "key_times, and set time_offset to 0"
        )
