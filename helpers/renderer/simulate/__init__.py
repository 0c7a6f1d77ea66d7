"""Simulated data of known truth, by code that shares nothing with the renderers."""

from .filaments import filament_images, molecules, network, spots_image
from .movies import Movie, blinking_movie, crowded_frames

__all__ = [
    "Movie",
    "blinking_movie",
    "crowded_frames",
    "filament_images",
    "molecules",
    "network",
    "spots_image",
]
