"""Simulated data of known truth, by code that shares nothing with the renderers."""

from .filaments import filament_images, molecules, network, spots_image

__all__ = ["filament_images", "molecules", "network", "spots_image"]
