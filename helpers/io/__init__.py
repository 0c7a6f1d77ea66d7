"""Files in and out: images with units, long movies opened lazily, tables of molecules."""

from ._calibration import Calibration
from .files import Tif, load_h5, load_tif, save_h5, save_tif
from .stacks import Stack, open_stack
from .tables import load_table, save_table
from .tilts import load_alignment, load_tilt_angles

__all__ = [
    "Calibration",
    "Stack",
    "Tif",
    "load_alignment",
    "load_h5",
    "load_table",
    "load_tif",
    "load_tilt_angles",
    "open_stack",
    "save_h5",
    "save_table",
    "save_tif",
]
