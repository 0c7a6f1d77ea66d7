"""Renderers: named physical parameters in, expected images out."""

from .base import Renderer
from .gaussian import Gaussian2D, Gaussian3D

__all__ = ["Gaussian2D", "Gaussian3D", "Renderer"]
