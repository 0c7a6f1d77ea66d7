"""Simulated recordings of the two cameras: movies with their truth, and images of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..cameras import Transform
from .beamline import Beamline, count
from .experiment import SCENES, Experiment


@dataclass(frozen=True)
class TwoCameraMovie:
    """Recordings of both cameras, and the truth.

    Attributes
    ----------
    hr : (K, Y, X) float32 array
        Key frames of the sharp camera, transmission with noise.
    lr : (T, y, x) float32 array
        Frames of the fast camera, transmission with noise; frame t at time t.
    key_times : (K,) array
        When the key frames were taken by the clock of the slow camera, in frames of the fast one.
        They show the specimen at ``time_offset + clock_rate * key_times``.
    truth : (T, Y, X) float32 array
        What the sharp camera would see at the times of the fast one, without noise.
    transform : Transform
        Where the coarse pixels lie on the sharp camera.
    time_offset : float
        In frames of the fast camera.
    experiment : Experiment
    seed : int
    """

    hr: np.ndarray
    lr: np.ndarray
    key_times: np.ndarray
    truth: np.ndarray
    transform: Transform
    time_offset: float
    experiment: Experiment
    seed: int


def simulate(experiment: Experiment, seed: int, *, progress: bool = False) -> TwoCameraMovie:
    """Record one movie with both cameras.

    Parameters
    ----------
    experiment : Experiment
    seed : int
        Of specimen, motion and noise. The specimen does not change with the number of frames.
    progress : bool
        Show a bar.

    Returns
    -------
    TwoCameraMovie

    Examples
    --------
    >>> movie = simulate(Experiment(shape=(32, 32), n_frames=11), seed=0)
    >>> movie.hr.shape, movie.lr.shape, movie.truth.shape
    ((2, 32, 32), (11, 8, 8), (11, 32, 32))
    >>> movie.key_times.tolist()
    [0.0, 10.0]
    """
    e = experiment
    for_scene, for_hr, for_lr = (np.random.default_rng([seed, n]) for n in range(3))
    optics = Beamline(e)
    thickness = SCENES[e.generator, e.scene](optics.canvas, for_scene, e.plate)
    key_times = np.arange(0, e.n_frames, e.key_every, dtype=float)
    shown = e.time_offset + e.clock_rate * key_times
    truth = np.empty((e.n_frames, *e.shape), np.float32)
    lr = np.empty((e.n_frames, *e.lr_shape), np.float32)
    for t in tqdm(range(e.n_frames), disable=not progress):
        truth[t], lr[t] = optics.both(thickness(float(t)))
    keys = np.empty((len(shown), *e.shape), np.float32)
    for k, t in enumerate(shown):
        known = t in range(e.n_frames)  # then the sharp view of that moment is there already
        keys[k] = truth[int(t)] if known else optics.both(thickness(t))[0]
    return TwoCameraMovie(
        hr=count(keys, e.hr_photons, for_hr),
        lr=count(lr, e.lr_photons, for_lr),
        key_times=key_times,
        truth=truth,
        transform=e.transform,
        time_offset=e.time_offset,
        experiment=e,
        seed=seed,
    )


@dataclass(frozen=True)
class GridImages:
    """A copper grid seen by both cameras, to calibrate one against the other.

    Attributes
    ----------
    hr : (Y, X) float32 array
        Transmission seen by the sharp camera, with noise; holes are bright.
    lr : (y, x) float32 array
        The same for the coarse camera.
    transform : Transform
        Where coarse pixels lie on the sharp camera: the answer.
    pitch : float
        From hole to hole, in um.
    pixel_size : float
        Of the sharp camera, in um.
    """

    hr: np.ndarray
    lr: np.ndarray
    transform: Transform
    pitch: float
    pixel_size: float


COPPER: dict[str, Any] = {"mu": 1.64e-2, "delta": 2.71e-6}  # at 25 keV
TURNED = Transform(theta=0.02, sx=4.03, sy=3.98, tx=-3.4, ty=2.7)


def grid_image(
    experiment: Experiment | None = None,
    *,
    seed: int = 0,
    pitch: float = 62.0,
    bar: float = 22.0,
    angle: float = 0.05,
    copper: float = 20.0,
    blocked: int = 4,
    broken: int = 2,
    shading: float = 0.15,
    frames: int = 16,
) -> GridImages:
    """Image a copper grid with both cameras.

    Parameters
    ----------
    experiment : Experiment, optional
        Copper at 25 keV on 384 x 384 px, with cameras that are turned, shifted and of unequal
        pixels (`TURNED`), if left out.
    seed : int
        Of the place of the grid, its faults, the shading and the noise.
    pitch, bar : float
        From hole to hole, and width of the bars between holes, in um.
    angle : float
        Of the grid against the sharp camera, in radians.
    copper : float
        Thickness of the grid along the beam, in um.
    blocked, broken : int
        Holes that are filled, and bars that are missing between two holes.
    shading : float
        How much the beam falls off over the field, differently for each camera; 0 for a flat one.
    frames : int
        Taken and averaged, since nothing moves.

    Returns
    -------
    GridImages

    Raises
    ------
    ValueError
        A bar as wide as the pitch, or numbers that are not positive.

    Examples
    --------
    >>> images = grid_image(seed=1)
    >>> images.hr.shape, images.lr.shape
    ((384, 384), (96, 96))
    """
    if not 0 < bar < pitch or not copper > 0 or frames < 1 or not 0 <= shading < 1:
        raise ValueError(
            f"bar {bar}, pitch {pitch}, copper {copper}, frames {frames}, shading {shading}: give "
            "a bar thinner than the pitch, positive numbers, and a shading below 1"
        )
    e = experiment or Experiment(shape=(384, 384), transform=TURNED, **COPPER)
    rng, for_hr, for_lr = (np.random.default_rng([seed, n]) for n in range(3))
    optics = Beamline(e)
    sharp, coarse = optics.both(
        _grid(optics.canvas, rng, pitch, bar, angle, copper, blocked, broken)
    )
    images = []
    for image, photons, noise in ((sharp, e.hr_photons, for_hr), (coarse, e.lr_photons, for_lr)):
        images.append(count(image * _shade(rng, image.shape, shading), photons * frames, noise))
    hr, lr = images
    return GridImages(hr, lr, e.transform, pitch, e.hr_pixel)


def _grid(
    canvas: Any,
    rng: np.random.Generator,
    pitch: Any,
    bar: Any,
    angle: Any,
    copper: Any,
    blocked: Any,
    broken: Any,
) -> Any:
    """Thickness of a turned square grid with faults, in um."""
    c, s = math.cos(angle), math.sin(angle)
    centre = [length / 2 for length in canvas.field]
    y, x = canvas.y - centre[0], canvas.x - centre[1]
    shift = rng.uniform(-0.5, 0.5, 2)
    v, u = (c * y - s * x) / pitch + shift[0], (c * x + s * y) / pitch + shift[1]
    row, column = np.rint(v), np.rint(u)
    half, soft = (1 - bar / pitch) / 2, 0.7 / pitch  # etched walls, 0.7 um wide
    across, along = (1 / (1 + np.exp(-(half - abs(w - np.rint(w))) / soft)) for w in (v, u))
    is_open = across * along
    reach = [0.42 * length / pitch for length in canvas.field]
    sites = [(i, j) for i in range(-20, 21) for j in range(-20, 21)]
    sites = [site for site in sites if abs(site[0]) < reach[0] and abs(site[1]) < reach[1]]
    chosen = rng.permutation(len(sites))[: blocked + broken]
    for n, (i, j) in enumerate(sites[k] for k in chosen):
        if n < blocked:
            is_open = np.where((row == i) & (column == j), 0, is_open)
        else:  # the bar between this hole and the next one
            is_open = np.where((row == i) & (abs(u - j - 0.5) < 0.5), across, is_open)
    return (copper * (1 - is_open)).astype(np.float32)


def _shade(rng: np.random.Generator, shape: Any, strength: Any) -> Any:
    """A smooth illumination between ``1 - strength`` and 1."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    y0, x0 = rng.uniform(-0.7, 0.7, 2)
    away = (y[:, None] - y0) ** 2 + (x - x0) ** 2
    return 1 - strength * away / away.max()
