"""Diffraction tomography: first-order and multi-slice models, LED arrays, linear inverses."""

from .born import Born, grounded, linear_inverse
from .contrast import contrast_field, fit_contrast
from .led_array import Microscope, ring, rings, spiral
from .multislice import MultiSlice

__all__ = [
    "Born",
    "Microscope",
    "MultiSlice",
    "contrast_field",
    "fit_contrast",
    "grounded",
    "linear_inverse",
    "ring",
    "rings",
    "spiral",
]
