"""Fourier optics: pupils, Zernike polynomials, point spread functions, propagation."""

from ._zernike import Zernike, disc, noll_to_osa, pupil_axis, zernike
from .pupil import Pupil, psf_from_pupil
from .waves import axial, directions, propagate

__all__ = [
    "Pupil",
    "Zernike",
    "axial",
    "directions",
    "disc",
    "noll_to_osa",
    "propagate",
    "psf_from_pupil",
    "pupil_axis",
    "zernike",
]
