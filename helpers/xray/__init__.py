"""Fuse a fast, coarse x-ray camera with a slow, sharp one."""

from lazy_loader import attach

# A room is imported when it is asked for, so that `from helpers import xray` costs nothing.
__getattr__, __dir__, __all__ = attach(
    __name__,
    [
        "baselines",
        "calibrate",
        "cameras",
        "data",
        "deform",
        "edvr",
        "flow",
        "flowfuse",
        "reconstruct",
        "score",
        "simulate",
        "stems",
        "swin",
        "train",
    ],
    submod_attrs={"_shipped": ["load", "save"], "cameras": ["CoarseCamera"]},
)
