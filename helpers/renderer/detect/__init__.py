"""Localization: find, fit and match molecules; drift, blinks, filters, channels, precision."""

from ._localize import localize
from ._match import Matches, match
from .channels import ChannelMap, register_channels
from .drift import Drift, find_drift, link, nearest_neighbour_precision, select
from .matched_filter import MatchedFilter
from .render import gaussians, ring_correlation

__all__ = [
    "ChannelMap",
    "Drift",
    "MatchedFilter",
    "Matches",
    "find_drift",
    "gaussians",
    "link",
    "localize",
    "match",
    "nearest_neighbour_precision",
    "register_channels",
    "ring_correlation",
    "select",
]
