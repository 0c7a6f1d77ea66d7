"""Fused multi-modal electron microscopy: elemental maps and a HAADF image, explained together."""

from .model import calibrate_weights, element_weights, haadf_from_maps, normalize
from .phantoms import Simulation, simulate
from .result import Cost, Fusion
from .solver import fuse

__all__ = [
    "Cost",
    "Fusion",
    "Simulation",
    "calibrate_weights",
    "element_weights",
    "fuse",
    "haadf_from_maps",
    "normalize",
    "simulate",
]
