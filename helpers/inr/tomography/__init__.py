"""Parallel-beam tomography: the projection operator, SIRT, and the wedge without data."""

from .operator import ParallelBeam
from .sirt import Sirt, sirt
from .wedge import missing_wedge

__all__ = ["ParallelBeam", "Sirt", "missing_wedge", "sirt"]
