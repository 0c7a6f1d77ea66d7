"""Calibration of the two cameras in space and time, classical and learned."""

from ..cameras import register
from ._camera import camera
from ._spatial import SpatialCalibration, fit_transform, spatial
from ._temporal import TemporalCalibration, temporal
from .calibrator import end_point_error
from .lattice import find_lattice
from .misalign import Misalignments, flow_to_transform, transform_to_flow

__all__ = [
    "Misalignments",
    "SpatialCalibration",
    "TemporalCalibration",
    "camera",
    "end_point_error",
    "find_lattice",
    "fit_transform",
    "flow_to_transform",
    "register",
    "spatial",
    "temporal",
    "transform_to_flow",
]
