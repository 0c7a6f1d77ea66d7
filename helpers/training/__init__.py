"""One training loop for every network and field: schedule, checkpoint, going on, log."""

from .log import read_curves
from .schedule import Schedule

__all__ = [
    "Schedule",
    "read_curves",
]
