"""Maximum-likelihood fits of single molecules and their Cramér-Rao bound."""

from .estimate import Fits, crlb, fit

__all__ = [
    "Fits",
    "crlb",
    "fit",
]
