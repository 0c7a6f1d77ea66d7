"""Alignment: the geometry of an instrument from its own images, before any reconstruction."""

from .tilts import TiltAlignment, tilts

__all__ = ["TiltAlignment", "tilts"]
