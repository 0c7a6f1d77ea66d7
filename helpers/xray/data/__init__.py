"""Recordings and training samples: folders, metadata, selection of frames, REDS."""

from .flats import flat
from .folders import ActualPairs, VirtualPairs
from .metadata import match_clocks, read_phantom, read_shimadzu
from .recording import read_frames, read_recording
from .reds import convert_reds, read_meta_info
from .samples import MoviePairs, stack
from .selection import Selection, select_frames

__all__ = [
    "ActualPairs",
    "MoviePairs",
    "Selection",
    "VirtualPairs",
    "convert_reds",
    "flat",
    "match_clocks",
    "read_frames",
    "read_meta_info",
    "read_phantom",
    "read_recording",
    "read_shimadzu",
    "select_frames",
    "stack",
]
