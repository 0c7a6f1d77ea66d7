"""Self-supervised denoising with blind-spot networks, and the classical baselines."""

from .blindspot import BlindSpot, load, with_the_pixel
from .filters import best_by_truth, gaussian, stabilised_means, stabilised_tv
from .stack import Denoised, apply, denoise, train

__all__ = [
    "BlindSpot",
    "Denoised",
    "apply",
    "best_by_truth",
    "denoise",
    "gaussian",
    "load",
    "stabilised_means",
    "stabilised_tv",
    "train",
    "with_the_pixel",
]
