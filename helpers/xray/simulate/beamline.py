r"""From the thickness of a specimen to photons: absorption, phase, propagation, two detectors.

The work is done on samples of half a sharp pixel, and blur in Fourier space. Methods that fuse
the two cameras use :func:`helpers.xray.cameras.coarsen` instead, other code on other samples, so
that no method is judged by data of its own making.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from ...noise.counting import Poisson
from ..cameras import Transform
from .experiment import Experiment
from .specimens import Canvas

FINER = 2  # samples along one pixel of the sharp camera
MARGIN = 16  # sharp pixels simulated around the field of view


def count(transmission: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
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


def exit_wave(thickness: torch.Tensor, mu: float, delta: float, wavelength: float) -> torch.Tensor:
    r"""The wave behind the specimen, for a plane wave of amplitude 1 before it.

    Parameters
    ----------
    thickness : (..., Y, X) tensor
        In um.
    mu : float
        Absorption coefficient, in 1/um.
    delta : float
        Decrement of the refractive index.
    wavelength : float
        In um.

    Returns
    -------
    complex tensor (..., Y, X)

    Notes
    -----
    :math:`\exp(-\mu t / 2 - i k \delta t)` with :math:`k = 2 \pi / \lambda`; its intensity is the
    law of Beer and Lambert. Derived in :doc:`/book/xray/01_two_cameras`.

    Examples
    --------
    >>> wave = exit_wave(torch.tensor([[100.0]]), mu=0.01, delta=1e-6, wavelength=5e-5)
    >>> round(float(wave.abs() ** 2), 4)
    0.3679
    """
    phase = -2 * math.pi / wavelength * delta * thickness
    return torch.polar(torch.exp(-mu / 2 * thickness), phase)


def fresnel(wave: torch.Tensor, distance: float, pixel: float, wavelength: float) -> torch.Tensor:
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
    transfer = _transfer(wave.shape[-2:], distance, pixel, wavelength).to(wave)
    return torch.fft.ifft2(torch.fft.fft2(wave) * transfer)


class Beamline:
    """Everything between the specimen and the photons, prepared once for a movie.

    Parameters
    ----------
    experiment : helpers.xray.simulate.Experiment

    Attributes
    ----------
    canvas : helpers.xray.simulate.specimens.Canvas
        On which the thickness must be sampled.
    """

    def __init__(self, experiment: Experiment) -> None:
        e = self.experiment = experiment
        self.margin = max(MARGIN, _overhang(e) + 4)
        self.step = e.hr_pixel / FINER
        field = e.shape[0] * e.hr_pixel, e.shape[1] * e.hr_pixel
        self.canvas = Canvas(field, self.margin * e.hr_pixel, self.step)
        transfer = _transfer(self.canvas.shape, e.distance * 1e6, self.step, e.wavelength)
        self.transfer = transfer.to(torch.complex64)
        f = _squared_frequency(self.canvas.shape, self.step, half=True)
        hr, lr = (math.hypot(e.source_blur, psf) * e.hr_pixel for psf in (e.hr_psf, e.lr_psf))
        self.hr_blur = torch.exp(-2 * (math.pi * hr) ** 2 * f).float()
        self.lr_blur = torch.exp(-2 * (math.pi * lr) ** 2 * f).float()

    def intensity(self, thickness: np.ndarray) -> torch.Tensor:
        """On the plane of the detectors, before any blur."""
        e = self.experiment
        wave = exit_wave(torch.from_numpy(thickness), e.mu, e.delta, e.wavelength)
        if e.distance:
            wave = torch.fft.ifft2(torch.fft.fft2(wave) * self.transfer)
        return wave.real**2 + wave.imag**2

    def both(self, thickness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The frames of the sharp and the coarse camera, without noise."""
        spectrum = torch.fft.rfft2(self.intensity(thickness))
        sharp = torch.fft.irfft2(spectrum * self.hr_blur, self.canvas.shape)
        coarse = torch.fft.irfft2(spectrum * self.lr_blur, self.canvas.shape)
        return self._sharp(sharp), self._coarse(coarse)

    def _sharp(self, image: torch.Tensor) -> Any:
        return self._inner(_bin(image, FINER)).numpy()

    def _coarse(self, image: torch.Tensor) -> Any:
        e = self.experiment
        if e.transform == Transform():
            return _bin(self._inner(_bin(image, FINER)), 4).numpy()
        # each coarse pixel is the mean of 4 x 4 points, looked up where the transform puts them
        h, w = e.lr_shape
        sub = (np.arange(4) + 0.5) / 4 - 0.5
        y = (np.arange(h)[:, None] + sub).reshape(-1)
        x = (np.arange(w)[:, None] + sub).reshape(-1)
        points = e.transform(np.stack(np.meshgrid(x, y), axis=-1))
        places = (points[..., ::-1] + 0.5 + self.margin) * FINER - 0.5
        found = map_coordinates(image.numpy(), places.transpose(2, 0, 1), order=3, mode="nearest")
        return found.reshape(h, 4, w, 4).mean((1, 3), dtype=np.float32)

    def _inner(self, image: torch.Tensor) -> Any:
        m = self.margin
        return image[m : m + self.experiment.shape[0], m : m + self.experiment.shape[1]]


def _overhang(experiment: Any) -> int:
    """Reach of the coarse camera beyond the sharp one, in sharp pixels."""
    (h, w), (height, width) = experiment.lr_shape, experiment.shape
    corners = [(x, y) for x in (-0.5, w - 0.5) for y in (-0.5, h - 0.5)]
    x, y = experiment.transform(corners).T
    return math.ceil(max(0, -x.min(), -y.min(), x.max() - width, y.max() - height))


def _bin(image: torch.Tensor, n: int) -> Any:
    return torch.nn.functional.avg_pool2d(image[None], n)[0]


def _transfer(
    shape: tuple[int, ...], distance: float, pixel: float, wavelength: float
) -> torch.Tensor:
    """Factors of :func:`fresnel`, one for each frequency."""
    turn = -math.pi * wavelength * distance * _squared_frequency(shape, pixel)
    return torch.polar(torch.ones_like(turn), turn)


def _squared_frequency(shape: tuple[int, ...], pixel: float, half: bool = False) -> torch.Tensor:
    fy = torch.fft.fftfreq(shape[0], pixel, dtype=torch.float64)[:, None]
    fx = (torch.fft.rfftfreq if half else torch.fft.fftfreq)(shape[1], pixel, dtype=torch.float64)
    return fy**2 + fx**2
