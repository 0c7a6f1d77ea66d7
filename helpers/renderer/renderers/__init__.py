"""Renderers: named physical parameters in, expected images out."""

from .base import Renderer
from .fourier import FourierOptics
from .gaussian import Gaussian2D, Gaussian3D

__all__ = ["FourierOptics", "Gaussian2D", "Gaussian3D", "Renderer"]
