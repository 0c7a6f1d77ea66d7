"""SwinXVR: shifted-window attention over space and time, and the network."""

from .network import Block, SwinConfig, SwinXVR
from .windows import (
    WindowAttention,
    relative_positions,
    shift_mask,
    window_partition,
    window_reverse,
    wrapped_regions,
)

__all__ = [
    "Block",
    "SwinConfig",
    "SwinXVR",
    "WindowAttention",
    "relative_positions",
    "shift_mask",
    "window_partition",
    "window_reverse",
    "wrapped_regions",
]
