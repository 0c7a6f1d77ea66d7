"""Simulated recordings of two x-ray cameras: specimens, beamline, detectors."""

from .beamline import Beamline, count, exit_wave, fresnel
from .experiment import Experiment
from .recordings import TwoCameraMovie, grid_image, simulate

__all__ = [
    "Beamline",
    "Experiment",
    "TwoCameraMovie",
    "count",
    "exit_wave",
    "fresnel",
    "grid_image",
    "simulate",
]
