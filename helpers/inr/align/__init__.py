"""Alignment: the geometry of an instrument from its own images, before any reconstruction."""

from .leds import LedAlignment, leds
from .tilts import TiltAlignment, tilts
from .views import ViewAlignment, views

__all__ = ["LedAlignment", "TiltAlignment", "ViewAlignment", "leds", "tilts", "views"]
