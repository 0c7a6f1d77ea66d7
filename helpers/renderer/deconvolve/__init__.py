"""Deconvolution: the blur as an operator, and four ways to undo it."""

from .blur import Blur, widefield_kernel
from .counts import Deconvolution
from .lucy import richardson_lucy
from .map import WeightChoice, choose_weight, map_tv
from .tiles import Tiles, by_tiles
from .unknown_pupil import Blind, blind

__all__ = [
    "Blind",
    "Blur",
    "Deconvolution",
    "Tiles",
    "WeightChoice",
    "blind",
    "by_tiles",
    "choose_weight",
    "map_tv",
    "richardson_lucy",
    "widefield_kernel",
]
