r"""Two x-ray cameras on one specimen: a fast coarse one and a slow sharp one.

Specimens come from `specimens`, the physics from `beamline`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..cameras import Transform
from .beamline import Beamline, count
from .other_melt_pools import other_melt_pool
from .specimens import bubbles, cracks, melt_pool

SMALLEST = 64.0  # um
SCENES = {
    ("standard", "melt_pool"): melt_pool,
    ("standard", "bubbles"): bubbles,
    ("standard", "cracks"): cracks,
    ("other", "melt_pool"): other_melt_pool,
}


@dataclass(frozen=True)
class Experiment:
    r"""An experiment at a synchrotron, in physical units.

    Attributes
    ----------
    energy : float
        Of the x-rays, in keV.
    mu : float
        Absorption coefficient :math:`\mu` of the material, in 1/um.
    delta : float
        Decrement :math:`\delta` of its refractive index.
    distance : float
        From the specimen to the detectors, in m.
    plate : float
        Thickness of the plate along the beam, in um.
    hr_pixel : float
        Pixel of the sharp camera at the specimen, in um.
    source_blur, hr_psf, lr_psf : float
        Widths (standard deviations) of the blur by the source and by the two detectors, in pixels
        of the sharp camera.
    hr_photons, lr_photons : float
        Photons that one pixel counts in the open beam, in one frame.
    scene : str
        "melt_pool", "bubbles" or "cracks".
    generator : str
        "standard", or "other": the same physics, shapes and motions drawn by other code with
        other statistics (of a melt pool only), to test what was trained on the first.
    shape : (int, int)
        Pixels (Y, X) of the sharp camera, multiples of 4; the coarse one has a quarter of them.
    n_frames : int
        Of the fast camera, which sets the unit of time.
    key_every : int
        Frames of the fast camera from one frame of the slow one to the next.
    transform : Transform
        Where coarse pixels lie on the sharp camera; aligned by default.
    time_offset : float
        How much later than its own clock says the slow camera is, in frames of the fast one.
    clock_rate : float
        Frames of the fast camera that pass while the clock of the slow camera counts one.

    Examples
    --------
    >>> experiment = Experiment()
    >>> round(experiment.wavelength * 1e4, 3)  # in angstrom
    0.496
    >>> experiment.lr_shape
    (32, 32)
    """

    energy: float = 25.0
    mu: float = 3.8e-3
    delta: float = 1.35e-6
    distance: float = 0.3
    plate: float = 200.0
    hr_pixel: float = 2.0
    source_blur: float = 0.7
    hr_psf: float = 0.6
    lr_psf: float = 2.2
    hr_photons: float = 4000.0
    lr_photons: float = 3000.0
    scene: str = "melt_pool"
    generator: str = "standard"
    shape: tuple[int, int] = (128, 128)
    n_frames: int = 21
    key_every: int = 10
    transform: Transform = Transform()
    time_offset: float = 0.0
    clock_rate: float = 1.0

    def __post_init__(self):
        if (self.generator, self.scene) not in SCENES:
            known = ", ".join(f"{g} {s}" for g, s in SCENES)
            raise ValueError(f"no scene {self.generator} {self.scene}: there are {known}")
        if min(self.shape) < 4 or any(n % 4 for n in self.shape):
            raise ValueError(f"shape is {self.shape}: give two multiples of 4")
        if min(self.shape) * self.hr_pixel < SMALLEST:
            raise ValueError(
                f"the field is {self.shape} pixels of {self.hr_pixel} um: a specimen needs "
                f"{SMALLEST} um along both sides"
            )
        if self.n_frames < 3 or self.key_every < 1:
            raise ValueError(
                f"{self.n_frames} frames with a key every {self.key_every}: "
                "give three frames or more, and 1 or more between keys"
            )
        positive = ("energy", "hr_pixel", "hr_photons", "lr_photons", "plate", "clock_rate")
        zero = ("mu", "delta", "distance", "source_blur", "hr_psf", "lr_psf")
        for name in positive + zero:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name in positive and value == 0):
                raise ValueError(f"{name} is {value}: give a positive number")

    @property
    def wavelength(self):
        """In um."""
        return 1.23984198e-3 / self.energy

    @property
    def lr_shape(self):
        """Pixels (y, x) of the coarse camera."""
        return self.shape[0] // 4, self.shape[1] // 4

    @property
    def lr_pixel(self):
        """Pixel of the coarse camera at the specimen, in um."""
        return 4 * self.hr_pixel


@dataclass(frozen=True)
class TwoCameraMovie:
    """What both cameras recorded, and what happened.

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


def simulate(experiment, seed, *, progress=False):
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
    from tqdm.auto import tqdm

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


COPPER = {"mu": 1.64e-2, "delta": 2.71e-6}  # at 25 keV
TURNED = Transform(theta=0.02, sx=4.03, sy=3.98, tx=-3.4, ty=2.7)


def grid_image(
    experiment=None,
    *,
    seed=0,
    pitch=62.0,
    bar=22.0,
    angle=0.05,
    copper=20.0,
    blocked=4,
    broken=2,
    shading=0.15,
    frames=16,
):
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
    return GridImages(*images, e.transform, pitch, e.hr_pixel)


def _grid(canvas, rng, pitch, bar, angle, copper, blocked, broken):
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


def _shade(rng, shape, strength):
    """A smooth illumination between ``1 - strength`` and 1."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    y0, x0 = rng.uniform(-0.7, 0.7, 2)
    away = (y[:, None] - y0) ** 2 + (x - x0) ** 2
    return 1 - strength * away / away.max()
