"""Point spread functions and phase retrieval: from beads or from blinking molecules."""

from ._calibrate import calibrate_astigmatism
from ._retrieve import retrieve, retrieve_from_blinks
from .ambiguities import Alignment, align, twin
from .astigmatism import Astigmatism
from .beads import BeadPSF, psf_from_beads
from .result import PupilFit

__all__ = [
    "Alignment",
    "Astigmatism",
    "BeadPSF",
    "PupilFit",
    "align",
    "calibrate_astigmatism",
    "psf_from_beads",
    "retrieve",
    "retrieve_from_blinks",
    "twin",
]
