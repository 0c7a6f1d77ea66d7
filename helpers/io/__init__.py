"""Files in and out: TIFF and HDF5 with units, long movies opened lazily, tables of molecules."""

from .files import Tif, load_h5, load_tif, save_h5, save_tif
from .stacks import Stack
from .tables import load_table, save_table

__all__ = [
    "Stack",
    "Tif",
    "load_h5",
    "load_table",
    "load_tif",
    "save_h5",
    "save_table",
    "save_tif",
]
