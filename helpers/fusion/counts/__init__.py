"""Expected counts of each element, from its counts and a HAADF image, judged by unseen counts."""

from ._again import Intervals, bootstrap, without_haadf
from ._fuse import fuse_counts
from ._result import CountFusion

__all__ = ["CountFusion", "Intervals", "bootstrap", "fuse_counts", "without_haadf"]
