"""Simulated data of known truth, by code that shares nothing with the renderers."""

from .beads import Emitters, aberrated_psf, bead_stack, blinks, random_aberrations
from .filaments import filament_images, molecules, network, spots_image
from .movies import Movie, blinking_movie, crowded_frames
from .spots import gaussian_spots
from .volumes import bars, tubes, widefield

__all__ = [
    "Emitters",
    "Movie",
    "aberrated_psf",
    "bars",
    "bead_stack",
    "blinking_movie",
    "blinks",
    "crowded_frames",
    "filament_images",
    "gaussian_spots",
    "molecules",
    "network",
    "random_aberrations",
    "spots_image",
    "tubes",
    "widefield",
]
