"""Localization: find, fit and match molecules in camera frames."""

from ._localize import localize
from ._match import Matches, match
from .matched_filter import MatchedFilter
from .render import gaussians, ring_correlation

__all__ = [
    "MatchedFilter",
    "Matches",
    "gaussians",
    "localize",
    "match",
    "ring_correlation",
]
