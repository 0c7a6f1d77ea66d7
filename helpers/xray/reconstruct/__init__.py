"""Reconstruction of every fast frame at the resolution of the sharp camera, with intervals."""

from .movie import Reconstruction, reconstruct
from .tiles import by_tiles
from .uncertainty import Interval, conformal, disagreement, motion_groups

__all__ = [
    "Interval",
    "Reconstruction",
    "by_tiles",
    "conformal",
    "disagreement",
    "motion_groups",
    "reconstruct",
]
