"""Training of the fusion networks and of the calibrator."""

from ...training.schedule import Schedule
from ..calibrate.calibrator import train_calibrator
from .loop import train
from .losses import PoissonLR
from .random_camera import RandomCamera

__all__ = [
    "PoissonLR",
    "RandomCamera",
    "Schedule",
    "train",
    "train_calibrator",
]
