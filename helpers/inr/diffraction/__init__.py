"""Light from an LED array through an object: ptychography, tomography, their linear inverses."""

from .born import Born, grounded, linear_inverse
from .contrast import contrast_field, fit_contrast
from .led_array import Microscope, ring, rings, spiral, square_spiral
from .multislice import MultiSlice
from .ptychography import Ptychography, led_directions
from .transmission import TransmissionFit, explained, fit_transmission

__all__ = [
    "Born",
    "Microscope",
    "MultiSlice",
    "Ptychography",
    "TransmissionFit",
    "contrast_field",
    "explained",
    "fit_contrast",
    "fit_transmission",
    "grounded",
    "led_directions",
    "linear_inverse",
    "ring",
    "rings",
    "spiral",
    "square_spiral",
]
