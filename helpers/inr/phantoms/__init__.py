"""Simulated specimens and recordings of known truth."""

from .diffraction import Scan, worm
from .diffraction import simulate as simulate_diffraction
from .light_field import Simulation, beads, microtubules, mitochondria, simulate, valley_to_peak
from .tomography import TiltSeries, apoferritin, cells, simulate_cryo, simulate_opt

__all__ = [
    "Scan",
    "Simulation",
    "TiltSeries",
    "apoferritin",
    "beads",
    "cells",
    "microtubules",
    "mitochondria",
    "simulate",
    "simulate_cryo",
    "simulate_diffraction",
    "simulate_opt",
    "valley_to_peak",
    "worm",
]
