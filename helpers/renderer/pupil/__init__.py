"""Phase retrieval: the pupil from beads or from blinking molecules."""

from ._retrieve import retrieve, retrieve_from_blinks
from .ambiguities import Alignment, align, twin
from .result import PupilFit

__all__ = [
    "Alignment",
    "PupilFit",
    "align",
    "retrieve",
    "retrieve_from_blinks",
    "twin",
]
