"""Renderers: named physical parameters in, expected images out."""

from .base import Renderer

__all__ = ["Renderer"]
