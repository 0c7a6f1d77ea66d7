"""Renderers: named physical parameters in, expected images out."""

from .fourier import FourierOptics
from .gaussian import Gaussian2D, Gaussian3D
from .image import Convolution, Passthrough
from .spline import Spline2D, Spline3D
from .template import Template

__all__ = [
    "Convolution",
    "FourierOptics",
    "Gaussian2D",
    "Gaussian3D",
    "Passthrough",
    "Spline2D",
    "Spline3D",
    "Template",
]
