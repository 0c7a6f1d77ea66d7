"""Camera noise: likelihood and samples of Poisson, sCMOS and EMCCD counts, and their check."""

from .camera import CameraCheck, check_camera
from .counting import SCMOS, Poisson, anscombe, inverse_anscombe, thin
from .readout import EMCCD, PoissonGauss, to_electrons

__all__ = [
    "CameraCheck",
    "EMCCD",
    "Poisson",
    "PoissonGauss",
    "SCMOS",
    "anscombe",
    "check_camera",
    "inverse_anscombe",
    "thin",
    "to_electrons",
]
