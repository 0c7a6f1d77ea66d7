"""Match found molecules with true ones: recall, precision, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Matches:
    """Result of `match`: pairs and their scores.

    Attributes
    ----------
    n_matched, n_missed, n_extra : int
        Pairs; true molecules without a partner; found ones without.
    jaccard, precision, recall : float
        Pairs over all molecules, over those found, over those that exist; NaN for none at all.
    rmse : float
        Root-mean-square error of the pairs' positions per axis, in px; NaN without a pair.
    found, truth : (n_matched,) arrays of int
        Rows of the two tables that belong together.
    """

    n_matched: int
    n_missed: int
    n_extra: int
    jaccard: float
    precision: float
    recall: float
    rmse: float
    found: np.ndarray
    truth: np.ndarray


def match(
    found: Mapping[str, Sequence[float]] | np.ndarray,
    truth: Mapping[str, Sequence[float]] | np.ndarray,
    radius: float,
) -> Matches:
    """Pair found molecules with true ones, one to one, frame by frame.

    Parameters
    ----------
    found, truth : structured arrays, dicts of arrays, or data frames
        Columns `x` and `y` in px, and `frame`; without it all belong to one frame.
    radius : float
        Largest distance of a pair in px.

    Returns
    -------
    Matches

    Raises
    ------
    ValueError
        A radius that is not positive, a table without positions, or NaN among them.

    Notes
    -----
    In each frame the assignment has as many pairs within the radius as possible and, among those,
    the least sum of squared distances. Taking the nearest neighbour of each would let two found
    molecules share a true one.

    Examples
    --------
    >>> truth = {"frame": [0, 0, 1], "x": [0.0, 5.0, 1.0], "y": [0.0, 0.0, 1.0]}
    >>> found = {"frame": [0, 0], "x": [0.3, 0.4], "y": [0.0, 0.4]}
    >>> result = match(found, truth, radius=2.0)
    >>> result.n_matched, result.n_missed, result.n_extra, round(result.jaccard, 2)
    (1, 2, 1, 0.25)
    """
    if not isinstance(radius, Real) or not radius > 0:
        raise ValueError(f"radius is {radius!r}: give the largest distance of a pair, in px")
    found, truth = _places(found, "found"), _places(truth, "truth")
    pairs = [np.empty((2, 0), int)]
    for frame in np.intersect1d(found[:, 0], truth[:, 0]):
        mine, theirs = (np.flatnonzero(table[:, 0] == frame) for table in (found, truth))
        steps = found[mine, None, 1:] - truth[None, theirs, 1:]
        squared = (steps**2).sum(-1)
        too_far = squared > radius**2
        # one forbidden pair costs more than all allowed ones together
        forbidden = radius**2 * (1 + min(squared.shape))
        left, right = linear_sum_assignment(np.where(too_far, forbidden, squared))
        kept = ~too_far[left, right]
        pairs.append(np.stack([mine[left[kept]], theirs[right[kept]]]))
    i, j = np.concatenate(pairs, axis=1)
    n, extra, missed = len(i), len(found) - len(i), len(truth) - len(i)
    errors = found[i, 1:] - truth[j, 1:]

    def share(total):
        return n / total if total else math.nan

    rmse = float(np.sqrt((errors**2).mean())) if n else math.nan
    scores = share(n + extra + missed), share(n + extra), share(n + missed)
    return Matches(n, missed, extra, *scores, rmse, i, j)


def _places(table, what):
    """Columns frame, x, y of a table: (n, 3)."""
    try:
        x, y = (np.asarray(table[name], dtype=float) for name in ("x", "y"))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{what} has no columns `x` and `y`: give a table by name") from error
    names = table.dtype.names if isinstance(table, np.ndarray) else table.keys()
    frame = np.asarray(table["frame"], dtype=float) if "frame" in names else np.zeros(len(x))
    places = np.stack([frame, x, y], axis=1)
    if not np.isfinite(places).all():
        raise ValueError(f"{what} holds NaN or infinite positions: drop these rows")
    return places
