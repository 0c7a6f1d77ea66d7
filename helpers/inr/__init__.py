"""Neural fields behind physics: see in 3D and 4D from a handful of views."""

from lazy_loader import attach

# A room is imported when it is asked for, so that `from helpers import inr` costs nothing.
__getattr__, __dir__, __all__ = attach(
    __name__,
    [
        "align",
        "archive",
        "deconvolve",
        "diffraction",
        "fields",
        "fit",
        "lightfield",
        "meta",
        "phantoms",
        "render",
        "tomography",
    ],
)
