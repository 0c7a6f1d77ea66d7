"""Let physics label the data: encoder, mapper and renderer; pupils, molecules, deconvolution."""

from lazy_loader import attach

# A room is imported when it is asked for, so that `from helpers import renderer` costs nothing.
__getattr__, __dir__, __all__ = attach(
    __name__,
    [
        "data",
        "deconvolve",
        "denoise",
        "detect",
        "encoders",
        "feedback",
        "mappers",
        "mle",
        "model",
        "params",
        "pupil",
        "renderers",
        "simulate",
        "train",
    ],
)
