"""EDVR: alignment by deformable convolutions, attention over time, and the network."""

from .network import EDVR, EDVRConfig

__all__ = [
    "EDVR",
    "EDVRConfig",
]
