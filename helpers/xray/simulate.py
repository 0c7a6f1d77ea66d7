r"""Two x-ray cameras on one specimen: a fast coarse one and a slow sharp one.

The chain is physical: thickness, absorption and phase, propagation to the detector, blur of the
source and of the scintillators, pixels, photons. It works on samples of half a sharp pixel and
with its own blur in Fourier space, not with the operator that fusion methods use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from ..noise import Poisson
from .cameras import Transform
from .scenes import SCENES, Canvas

FINER = 2  # samples along one pixel of the sharp camera
MARGIN = 16  # sharp pixels simulated around the field of view


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
        other statistics, to test what was trained on the first.
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
    transform: Transform = field(default_factory=Transform)
    time_offset: float = 0.0
    clock_rate: float = 1.0

    def __post_init__(self):
        if (self.generator, self.scene) not in SCENES:
            known = ", ".join(f"{g} {s}" for g, s in SCENES)
            raise ValueError(f"no scene {self.generator} {self.scene}: there are {known}")
        if min(self.shape) < 4 or any(n % 4 for n in self.shape):
            raise ValueError(f"shape is {self.shape}: give two multiples of 4")
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
    optics = _Bench(e)
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


def count(transmission, photons, rng):
    """Count photons in each pixel, and divide by those of the open beam.

    Examples
    --------
    >>> frames = count(np.full((100, 100), 0.5), 400, np.random.default_rng(0))
    >>> round(float(frames.mean()), 2), round(float(frames.var() * 400 / 0.5), 1)
    (0.5, 1.0)
    """
    return (Poisson().sample(np.maximum(transmission, 0) * photons, rng) / photons).astype(
        np.float32
    )


def exit_wave(thickness, experiment):
    r"""The wave behind the specimen, for a plane wave of amplitude 1 before it.

    Parameters
    ----------
    thickness : (..., Y, X) tensor
        In um.
    experiment : Experiment
        Its `mu`, `delta` and `energy` are used.

    Returns
    -------
    complex tensor (..., Y, X)

    Notes
    -----
    :math:`\exp(-\mu t / 2 - i k \delta t)` with :math:`k = 2 \pi / \lambda`; its intensity is the
    law of Beer and Lambert. Derived in :doc:`/book/xray/01_two_cameras`.

    Examples
    --------
    >>> wave = exit_wave(torch.tensor([[100.0]]), Experiment(mu=0.01))
    >>> round(float(wave.abs() ** 2), 4)
    0.3679
    """
    e = experiment
    phase = -2 * math.pi / e.wavelength * e.delta * thickness
    return torch.polar(torch.exp(-e.mu / 2 * thickness), phase)


def fresnel(wave, distance, pixel, wavelength):
    r"""Carry a wave to a plane far downstream of it, where all angles are small.

    Parameters
    ----------
    wave : complex tensor (..., Y, X)
        It repeats at the border.
    distance, pixel, wavelength : float
        In um.

    Returns
    -------
    complex tensor (..., Y, X)

    Notes
    -----
    Each frequency gains the phase :math:`-\pi \lambda z (f_x^2 + f_y^2)`: the square root of
    :func:`helpers.optics.propagate` to second order, which is safe in single precision where
    :math:`z / \lambda` is in the billions. Derived in :doc:`/book/xray/01_two_cameras`.

    Examples
    --------
    >>> flat = torch.ones(4, 4, dtype=torch.complex64)
    >>> torch.allclose(fresnel(flat, 3e5, 1.0, 5e-5), flat)
    True
    """
    squared = _squared_frequency(wave.shape[-2:], pixel).to(wave.real)
    turn = -math.pi * wavelength * distance * squared
    return torch.fft.ifft2(torch.fft.fft2(wave) * torch.polar(torch.ones_like(turn), turn))


class _Bench:
    """Everything between the specimen and the photons, prepared once for a movie."""

    def __init__(self, experiment):
        e = self.experiment = experiment
        self.margin = max(MARGIN, _overhang(e) + 4)
        self.step = e.hr_pixel / FINER
        self.canvas = Canvas(
            tuple(n * e.hr_pixel for n in e.shape), self.margin * e.hr_pixel, self.step
        )
        f = _squared_frequency(self.canvas.shape, self.step, half=True)
        hr, lr = (math.hypot(e.source_blur, psf) * e.hr_pixel for psf in (e.hr_psf, e.lr_psf))
        self.hr_blur = torch.exp(-2 * (math.pi * hr) ** 2 * f).float()
        self.lr_blur = torch.exp(-2 * (math.pi * lr) ** 2 * f).float()

    def intensity(self, thickness):
        """On the plane of the detectors, before any blur."""
        e = self.experiment
        wave = exit_wave(torch.from_numpy(thickness), e)
        if e.distance:
            wave = fresnel(wave, e.distance * 1e6, self.step, e.wavelength)
        return wave.real**2 + wave.imag**2

    def both(self, thickness):
        """The frames of the sharp and the coarse camera, without noise."""
        spectrum = torch.fft.rfft2(self.intensity(thickness))
        sharp = torch.fft.irfft2(spectrum * self.hr_blur, self.canvas.shape)
        coarse = torch.fft.irfft2(spectrum * self.lr_blur, self.canvas.shape)
        return self._sharp(sharp), self._coarse(coarse)

    def _sharp(self, image):
        return self._inner(_bin(image, FINER)).numpy()

    def _coarse(self, image):
        e = self.experiment
        if e.transform == Transform():
            return _bin(self._inner(_bin(image, FINER)), 4).numpy()
        # each coarse pixel is the mean of 4 x 4 points, looked up where the transform puts them
        from scipy.ndimage import map_coordinates

        h, w = e.lr_shape
        sub = (np.arange(4) + 0.5) / 4 - 0.5
        y = (np.arange(h)[:, None] + sub).reshape(-1)
        x = (np.arange(w)[:, None] + sub).reshape(-1)
        points = e.transform(np.stack(np.meshgrid(x, y), axis=-1))
        places = (points[..., ::-1] + 0.5 + self.margin) * FINER - 0.5
        found = map_coordinates(image.numpy(), places.transpose(2, 0, 1), order=3, mode="nearest")
        return found.reshape(h, 4, w, 4).mean((1, 3), dtype=np.float32)

    def _inner(self, image):
        m = self.margin
        return image[m : m + self.experiment.shape[0], m : m + self.experiment.shape[1]]


def _overhang(experiment):
    """How far the coarse camera looks beyond the sharp one, in sharp pixels."""
    (h, w), (height, width) = experiment.lr_shape, experiment.shape
    corners = [(x, y) for x in (-0.5, w - 0.5) for y in (-0.5, h - 0.5)]
    x, y = experiment.transform(corners).T
    return math.ceil(max(0, -x.min(), -y.min(), x.max() - width, y.max() - height))


def _bin(image, n):
    h, w = image.shape
    return image.reshape(h // n, n, w // n, n).mean((1, 3))


def _squared_frequency(shape, pixel, half=False):
    fy = torch.fft.fftfreq(shape[0], pixel, dtype=torch.float64)[:, None]
    fx = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(shape[1], pixel, dtype=torch.float64)
    return fy**2 + fx**2
