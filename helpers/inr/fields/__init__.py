"""Neural fields: encodings, networks, feature grids, and voxels as the baseline."""

from torch.nn import Identity

from .encodings import PositionalEncoding, RadialEncoding, extent_of
from .field import MLP, Contrast, Field, ReLU, Softplus, Sum, Transmission, Voxels, paper_field
from .grids import FeatureGrid, HashGrid, pyramid

__all__ = [
    "Contrast",
    "FeatureGrid",
    "Field",
    "HashGrid",
    "Identity",
    "MLP",
    "PositionalEncoding",
    "RadialEncoding",
    "ReLU",
    "Softplus",
    "Sum",
    "Transmission",
    "Voxels",
    "extent_of",
    "paper_field",
    "pyramid",
]
