"""Encoders: images in, unconstrained parameters of a renderer out."""

from .networks import ConvEncoder, UNet
from .per_image import PerImage

__all__ = [
    "ConvEncoder",
    "PerImage",
    "UNet",
]
