"""From a vendor's file to counted maps: read, count, register, resample."""

from ._counts import Counts, maps_from_spectra
from ._grid import Registration, register, resample
from ._read import Scan, read

__all__ = [
    "Counts",
    "Registration",
    "Scan",
    "maps_from_spectra",
    "read",
    "register",
    "resample",
]
