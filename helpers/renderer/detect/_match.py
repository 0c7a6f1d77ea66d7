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
    rmse_z : float
        The same for the depth, in µm, where `depth` was given; else NaN.
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
    rmse_z: float = math.nan

    def efficiency(self, pixel_size: float) -> float:
        r"""Score of the single-molecule challenge of 2016, in per cent: 100 is perfect.

        Parameters
        ----------
        pixel_size : float
            In µm.

        Notes
        -----
        :math:`100 - \sqrt{(100 - J)^2 + (\alpha\,\mathrm{RMSE})^2}` with the Jaccard index J in per
        cent and the error in nm :cite:p:`sage2019`: of the distance in the plane with
        :math:`\alpha` = 1/nm, and, where depths were matched, averaged with that of the depth with
        0.5/nm.

        Examples
        --------
        >>> truth = {"x": [0.0, 5.0], "y": [0.0, 0.0]}
        >>> found = {"x": [0.1, 5.1], "y": [0.0, 0.0]}
        >>> round(match(found, truth, 1.0).efficiency(0.1), 3)
        90.0
        """
        errors = [1e3 * pixel_size * math.sqrt(2) * self.rmse]
        if not math.isnan(self.rmse_z):
            errors.append(0.5 * 1e3 * self.rmse_z)
        missing = 100 * (1 - self.jaccard)
        return float(np.mean([100 - math.hypot(missing, error) for error in errors]))


def match(
    found: Mapping[str, Sequence[float]] | np.ndarray,
    truth: Mapping[str, Sequence[float]] | np.ndarray,
    radius: float,
    depth: float | None = None,
) -> Matches:
    """Pair found molecules with true ones, one to one, frame by frame.

    Parameters
    ----------
    found, truth : structured arrays, dicts of arrays, or data frames
        Columns `x` and `y` in px, and `frame`; without it all belong to one frame.
    radius : float
        Largest distance of a pair in px.
    depth : float, optional
        Largest distance along z in µm; the tables then have a column `z`.

    Returns
    -------
    Matches

    Raises
    ------
    ValueError
        A radius or depth that is not positive, a table without positions, or NaN among them.

    Notes
    -----
    In each frame the assignment has as many pairs within the radius, and the depth, as possible
    and, among those, the least sum of squared distances in the plane. Taking the nearest neighbour
    of each would let two found molecules share a true one.

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
    if depth is not None and not (isinstance(depth, Real) and depth > 0):
        raise ValueError(f"depth is {depth!r}: give the largest distance along z, in µm")
    deep = depth is not None
    found, truth = _places(found, "found", deep), _places(truth, "truth", deep)
    pairs = [np.empty((2, 0), int)]
    for frame in np.intersect1d(found[:, 0], truth[:, 0]):
        mine, theirs = (np.flatnonzero(table[:, 0] == frame) for table in (found, truth))
        steps = found[mine, None, 1:] - truth[None, theirs, 1:]
        squared = (steps[..., :2] ** 2).sum(-1)
        too_far = squared > radius**2
        if depth is not None:
            too_far |= np.abs(steps[..., 2]) > depth
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

    def root(part):
        return float(np.sqrt((part**2).mean())) if part.size else math.nan

    scores = share(n + extra + missed), share(n + extra), share(n + missed)
    return Matches(n, missed, extra, *scores, root(errors[:, :2]), i, j, root(errors[:, 2:]))


def _places(table, what, deep):
    """Columns frame, x, y and, if `deep`, z of a table: (n, 3) or (n, 4)."""
    wanted = "xyz" if deep else "xy"
    try:
        columns = [np.asarray(table[name], dtype=float) for name in wanted]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        listed = " and ".join(f"`{name}`" for name in wanted)
        raise ValueError(f"{what} has no columns {listed}: give a table by name") from error
    names = table.dtype.names if isinstance(table, np.ndarray) else table.keys()
    frame = (
        np.asarray(table["frame"], dtype=float) if "frame" in names else np.zeros(len(columns[0]))
    )
    places = np.stack([frame, *columns], axis=1)
    if not np.isfinite(places).all():
        raise ValueError(f"{what} holds NaN or infinite positions: drop these rows")
    return places
