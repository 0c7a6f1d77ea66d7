"""Deconvolution: the blur as an operator, and four ways to undo it."""

from ._blind import Blind, blind
from ._counts import Deconvolution
from ._map_tv import WeightChoice, choose_weight, map_tv
from .blur import Blur, widefield_kernel
from .lucy import richardson_lucy
from .tiles import by_tiles

__all__ = [
    "Blind",
    "Blur",
    "Deconvolution",
    "WeightChoice",
    "blind",
    "by_tiles",
    "choose_weight",
    "map_tv",
    "richardson_lucy",
    "widefield_kernel",
]
