"""Fused multi-modal electron microscopy: elemental maps and a HAADF image, explained together."""

from ._explore import explore, plot_convergence
from ._simulate import Simulation, simulate
from .background import subtract_power_law, subtract_vacuum
from .counts import CountFusion as CountFusion
from .counts import Intervals as Intervals
from .counts import bootstrap as bootstrap
from .counts import fuse_counts as fuse_counts
from .counts import without_haadf as without_haadf
from .model import calibrate_weights, element_weights, haadf_from_maps, normalize
from .result import Cost, Fusion
from .scan import Counts as Counts
from .scan import Registration as Registration
from .scan import Scan as Scan
from .scan import maps_from_spectra as maps_from_spectra
from .scan import read as read
from .scan import register as register
from .scan import resample as resample
from .solver import fuse
from .tune import LambdaChoice, choose_lambda

__all__ = [
    "Cost",
    "Fusion",
    "LambdaChoice",
    "Simulation",
    "calibrate_weights",
    "choose_lambda",
    "element_weights",
    "explore",
    "fuse",
    "haadf_from_maps",
    "normalize",
    "plot_convergence",
    "simulate",
    "subtract_power_law",
    "subtract_vacuum",
]
