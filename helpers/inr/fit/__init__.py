"""Fit a field to data through an operator: one volume, a sequence, coarse to fine."""

from . import losses
from ._reconstruct import reconstruct
from .loop import FieldFit, fit
from .sampling import Stage
from .sequences import SequenceFit, fit_sequence

__all__ = [
    "FieldFit",
    "SequenceFit",
    "Stage",
    "fit",
    "fit_sequence",
    "losses",
    "reconstruct",
]
