"""Deconvolution: the blur as an operator, and four ways to undo it."""

from ...lucy import Deconvolution, richardson_lucy
from ._blind import Blind, blind
from ._map_tv import WeightChoice, choose_weight, map_tv
from .blur import Blur, widefield_kernel
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
