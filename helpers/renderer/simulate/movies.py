r"""Movies of blinking molecules, frame by frame, and crowded single frames, with the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .filaments import spots_image


@dataclass(frozen=True)
class Movie:
    """Camera frames that are made when they are asked for, so that no length fills the memory.

    ``movie[k]`` is frame k, always the same one; ``len(movie)`` is the number of frames.

    Parameters
    ----------
    shape : (int, int)
        Pixels (Y, X).
    n_frames : int
    truth : structured array
        One row for each molecule that emits in a frame, sorted by frame: `frame`, `molecule`,
        `x`, `y` in px from the image centre, and its expected `photons` in that frame.
    sigma : float
        Standard deviation of the point spread in px.
    background : float
        Photo-electrons in every pixel of every frame.
    read_noise : float
        Standard deviation of the camera's noise in electrons.
    seed : int
    """

    shape: tuple
    n_frames: int
    truth: np.ndarray = field(repr=False)
    sigma: float
    background: float
    read_noise: float
    seed: int

    _edges: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        edges = np.searchsorted(self.truth["frame"], np.arange(self.n_frames + 1))
        object.__setattr__(self, "_edges", edges)

    def __len__(self):
        return self.n_frames

    def __getitem__(self, index):
        """Frame `index`, photo-electrons with noise: (Y, X) float32."""
        rate = self.expected(index)
        rng = np.random.default_rng((self.seed, 1, index % self.n_frames))
        counts = rng.poisson(rate) + self.read_noise * rng.standard_normal(self.shape)
        return counts.astype(np.float32)

    def expected(self, index: int) -> np.ndarray:
        """Frame `index` without noise: (Y, X) float64 expected photo-electrons."""
        if not -self.n_frames <= index < self.n_frames:
            raise IndexError(f"frame {index} of {self.n_frames}: count from 0")
        index %= self.n_frames
        here = slice(*self._edges[index : index + 2])
        x, y, photons = (self.truth[name][here] for name in ("x", "y", "photons"))
        return self.background + spots_image(x, y, photons, self.sigma, self.shape)

    def chunks(self, size: int = 200) -> Iterator[tuple[int, np.ndarray]]:
        """Go through the movie: pairs of the first frame's number and a (size, Y, X) stack."""
        for first in range(0, self.n_frames, size):
            last = min(first + size, self.n_frames)
            yield first, np.stack([self[index] for index in range(first, last)])


def blinking_movie(
    positions: np.ndarray,
    shape: Sequence[int],
    n_frames: int,
    *,
    pixel_size: float = 0.1,
    sigma: float = 1.3,
    photons: float = 1000.0,
    background: float = 10.0,
    time_on: float = 1.5,
    time_off: float = 1000.0,
    bleaching: float = 0.3,
    read_noise: float = 1.0,
    seed: int = 0,
) -> Movie:
    r"""Film molecules that blink and bleach.

    Parameters
    ----------
    positions : (m, 2) array
        Molecules (x, y) in µm from the centre of the field, as `molecules` places them. Those
        outside the frames shine into them, too.
    shape : (int, int)
        Pixels (Y, X).
    n_frames : int
        Length of the movie.
    pixel_size : float
        In µm.
    sigma : float
        Standard deviation of the point spread in px.
    photons : float
        Mean photo-electrons of a molecule that is on for a whole frame. Each blink has its own
        brightness, log-normal with a relative spread of 0.3.
    background : float
        Photo-electrons in every pixel of every frame.
    time_on, time_off : float
        Mean duration, in frames, of a blink and of the dark time before each.
    bleaching : float
        Probability that a blink is the molecule's last.
    read_noise : float
        Standard deviation of the camera's noise in electrons.
    seed : int
        The same seed gives the same movie.

    Returns
    -------
    Movie

    Raises
    ------
    ValueError
        Positions that are not (m, 2), or times and amounts that make no sense.

    Notes
    -----
    Each molecule is a Markov process in continuous time with the states dark, on and bleached. All
    start in the dark. A frame collects the light of the part of it during which a molecule is on,
    so most blinks begin and end with a dim frame. The number of blinks of a molecule is geometric,
    with the mean ``1 / bleaching``, unless the movie ends first. Used in
    :doc:`/book/renderer/05_many_molecules`.

    Examples
    --------
    >>> movie = blinking_movie([[0.2, -0.1]], (16, 16), 100, time_off=10.0, seed=3)
    >>> len(movie), movie[7].shape, movie.truth.dtype.names
    (100, (16, 16), ('frame', 'molecule', 'x', 'y', 'photons'))
    >>> bool((movie[7] == movie[7]).all())
    True
    """
    positions = np.asarray(positions, dtype=float)
    if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
        raise ValueError(f"positions have shape {positions.shape}: give finite (m, 2) pairs (x, y)")
    if n_frames != int(n_frames) or n_frames < 1 or len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"{n_frames} frames of {shape}: give at least one frame of (Y, X) pixels")
    if not min(pixel_size, sigma, photons, time_on, time_off) > 0:
        raise ValueError("pixel_size, sigma, photons, time_on and time_off must be positive")
    if not min(background, read_noise) >= 0 or not 0 < bleaching <= 1:
        raise ValueError(
            f"background {background}, read_noise {read_noise}, bleaching {bleaching}: "
            "none can be negative, and bleaching is a probability above 0"
        )
    rng = np.random.default_rng((seed, 0))
    blinks = _blinks(len(positions), n_frames, time_on, time_off, bleaching, rng)
    molecule, start, stop = blinks
    spread = 0.3
    rate = photons * rng.lognormal(-(spread**2) / 2, spread, len(molecule))

    first = np.floor(start).astype(int)
    n_each = np.ceil(stop).astype(int) - first
    blink = np.repeat(np.arange(len(molecule)), n_each)
    frame = np.arange(len(blink)) - np.repeat(np.cumsum(n_each) - n_each, n_each) + first[blink]
    lit = np.minimum(stop[blink], frame + 1) - np.maximum(start[blink], frame)
    order = np.lexsort((molecule[blink], frame))
    frame, blink, lit = frame[order], blink[order], lit[order]
    x, y = positions[molecule[blink]].T / pixel_size
    columns = [frame, molecule[blink], x, y, rate[blink] * lit]
    truth = np.rec.fromarrays(columns, names="frame,molecule,x,y,photons")  # type: ignore[call-overload]
    shape = tuple(int(n) for n in shape)
    return Movie(shape, int(n_frames), truth, sigma, background, read_noise, seed)


def _blinks(n_molecules, n_frames, time_on, time_off, bleaching, rng):
    """Molecule, start and stop of every blink, all molecules stepped together."""
    alive = np.arange(n_molecules)
    now = np.zeros(n_molecules)
    found = [(alive[:0], now[:0], now[:0])]
    while alive.size:
        start = now + rng.exponential(time_off, alive.size)
        now = start + rng.exponential(time_on, alive.size)
        seen = start < n_frames
        found.append((alive[seen], start[seen], np.minimum(now[seen], n_frames)))
        goes_on = (now < n_frames) & (rng.random(alive.size) > bleaching)
        alive, now = alive[goes_on], now[goes_on]
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def crowded_frames(
    n: int,
    shape: Sequence[int] = (32, 32),
    *,
    emitters: int = 4,
    present: float = 0.5,
    photons: tuple[float, float] = (500 * 10 * math.pi, 2000 * 10 * math.pi),
    background: tuple[float, float] = (0.0, 100.0),
    sigma: float = 5**0.5,
    read_noise: float = 100.0,
    extent: float = 0.7,
    seed: int = 0,
) -> tuple[np.ndarray, np.recarray]:
    """Make single frames with a few molecules each, which may overlap.

    Parameters
    ----------
    n : int
        Frames.
    shape : (int, int)
        Pixels (Y, X).
    emitters : int
        Most molecules in a frame.
    present : float
        Probability that each of them is there: 1 gives exactly `emitters` in every frame.
    photons : (float, float)
        Each molecule's photo-electrons are drawn evenly between these. The standard is a Gaussian
        with a peak of 500 to 2000.
    background : (float, float)
        Photo-electrons in each pixel, drawn evenly for each frame.
    sigma : float
        Standard deviation of the point spread in px.
    read_noise : float
        Standard deviation of the camera's noise in electrons.
    extent : float
        Positions are drawn evenly from the central part of the frame, this share of each side.
    seed : int
        The same seed gives the same frames.

    Returns
    -------
    frames : (n, Y, X) float32 array
        Photo-electrons with noise.
    truth : structured array
        One row for each molecule, sorted by frame: `frame`, `x`, `y` in px from the image centre,
        `photons`.

    Raises
    ------
    ValueError
        No frame, a probability outside 0 to 1, or amounts that are negative.

    Examples
    --------
    >>> frames, truth = crowded_frames(10, emitters=2, present=1.0)
    >>> frames.shape, len(truth)
    ((10, 32, 32), 20)
    """
    if n != int(n) or n < 1 or emitters != int(emitters) or emitters < 0:
        raise ValueError(f"{n} frames, {emitters} emitters: give whole numbers, at least one frame")
    if not 0 <= present <= 1 or not 0 < extent <= 1:
        raise ValueError(f"present is {present}, extent {extent}: both are shares of one")
    if not min(*photons, *background, read_noise) >= 0 or not sigma > 0:
        raise ValueError("photons, background and read_noise cannot be negative, sigma must be > 0")
    rng = np.random.default_rng(seed)
    there = rng.random((n, emitters)) < present
    y, x = ((rng.random((n, emitters)) - 0.5) * extent * side for side in shape)
    light = rng.uniform(*photons, (n, emitters))
    haze = rng.uniform(*background, n)
    frames = np.empty((n, *shape), np.float32)
    for k, on in enumerate(there):
        rate = haze[k] + spots_image(x[k, on], y[k, on], light[k, on], sigma, shape)
        frames[k] = rng.poisson(rate) + read_noise * rng.standard_normal(shape)
    columns = [np.nonzero(there)[0], x[there], y[there], light[there]]
    return frames, np.rec.fromarrays(columns, names="frame,x,y,photons")  # type: ignore[call-overload]
