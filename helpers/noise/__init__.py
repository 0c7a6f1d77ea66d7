"""Camera noise: likelihood, variance and samples of Poisson, sCMOS and EMCCD counts."""

from .counting import SCMOS, Poisson, anscombe, inverse_anscombe, thin
from .readout import EMCCD, PoissonGauss, to_electrons

__all__ = [
    "EMCCD",
    "Poisson",
    "PoissonGauss",
    "SCMOS",
    "anscombe",
    "inverse_anscombe",
    "thin",
    "to_electrons",
]
