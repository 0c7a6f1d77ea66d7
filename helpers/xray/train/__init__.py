"""Training of the fusion networks and of the calibrator."""

from ...training.schedule import Schedule
from ..calibrate.calibrator import train_calibrator
from .loop import train
from .losses import PoissonLR

__all__ = [
    "PoissonLR",
    "Schedule",
    "train",
    "train_calibrator",
]
