"""One training loop for every network and field: schedule, checkpoint, going on, log."""

from .log import read_curves
from .loop import Step
from .schedule import Schedule

__all__ = [
    "Schedule",
    "Step",
    "read_curves",
]
