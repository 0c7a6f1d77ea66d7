"""Fourier light-field microscopy: optics, point spread functions and the operator."""

from ...lucy import richardson_lucy
from ..deconvolve import view_enhanced
from .operator import LightField
from .optics import Optics, lens_centres, psf

__all__ = [
    "LightField",
    "Optics",
    "lens_centres",
    "psf",
    "richardson_lucy",
    "view_enhanced",
]
