r"""Registration of two colour channels by the molecules or beads that both of them show."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

LEAST = 6  # pairs; three would be fitted without a residual
MOST = 2_000_000  # differences that vote for the shift
ROUNDS = 20
FAR = 1e6  # px between frames, where neighbours are sought in all frames at once


@dataclass(frozen=True)
class ChannelMap:
    """Result of `register_channels`.

    Attributes
    ----------
    affine : (2, 3) array
        Takes (x, y, 1) of the first channel to x, y of the second, in px.
    residual : float
        What the pairs disagree by afterwards: standard deviation per axis in px, with the six
        numbers that were fitted taken into account. Errors of both tables are in it.
    pairs : (N, 2) array of int
        Rows of the two tables that are the same molecule.
    """

    affine: np.ndarray
    residual: float
    pairs: np.ndarray = field(repr=False)

    def apply(self, table: np.recarray) -> np.recarray:
        """Give a copy of a table of the first channel, in the coordinates of the second.

        Parameters
        ----------
        table : structured array
            Columns `x`, `y` in px.
        """
        moved = table.copy()
        moved["x"], moved["y"] = _moved(self.affine, _places(table)).T
        return moved


def register_channels(one: np.ndarray, other: np.ndarray, radius: float = 2.0) -> ChannelMap:
    r"""Find the affine map from one channel to the other, from two tables of molecules.

    Parameters
    ----------
    one, other : structured array
        Columns `x` and `y` in px, and `frame`; without it all belong to one frame. The shift
        between them may be of any size, as between two halves of a camera.
    radius : float
        Largest distance of a pair in px, after the map.

    Returns
    -------
    ChannelMap

    Raises
    ------
    ValueError
        A radius that is not positive, or fewer than six pairs.

    Notes
    -----
    All differences of positions vote for the shift: the true one occurs once for each molecule,
    any other by chance. Then mutual nearest neighbours are paired, and the map is fitted to them
    by least squares, in turn until the pairs stay. Pairs that are more than four standard
    deviations apart are left out. Used in :doc:`/book/renderer/09_beads`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.uniform(-50, 50, (2, 40))
    >>> one = np.rec.fromarrays([x, y], names="x,y")
    >>> other = np.rec.fromarrays([1.01 * x + 200, y - 3 + 0.002 * x], names="x,y")
    >>> found = register_channels(one, other)
    >>> found.affine.round(3).tolist(), len(found.pairs)
    ([[1.01, 0.0, 200.0], [0.002, 1.0, -3.0]], 40)
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}: give the largest distance of a pair, in px")
    here, there = _places(one), _places(other)
    first, second = _frames(one, len(here)), _frames(other, len(there))
    if min(len(here), len(there)) < LEAST:
        raise ValueError(f"{len(here)} and {len(there)} molecules: at least {LEAST} are needed")
    affine = np.column_stack([np.eye(2), _voted(here, there, first, second, radius)])
    reach, pairs = radius, np.zeros((0, 2), int)
    for _ in range(ROUNDS):
        before = pairs
        pairs = _mutual(_moved(affine, here), there, first, second, reach)
        if len(pairs) < LEAST:
            raise ValueError(
                f"{len(pairs)} pairs of molecules within {reach:.2g} px: at least {LEAST} are "
                "needed; do the channels show the same molecules, mirrored in neither?"
            )
        if np.array_equal(before, pairs):
            break
        known = np.column_stack([here[pairs[:, 0]], np.ones(len(pairs))])
        affine = np.linalg.lstsq(known, there[pairs[:, 1]], rcond=None)[0].T
        left = there[pairs[:, 1]] - _moved(affine, here[pairs[:, 0]])
        reach = min(radius, max(4 * 1.4826 * float(np.median(np.abs(left))), 1e-6))
    free = 2 * len(pairs) - 6
    return ChannelMap(affine, float(np.sqrt((left**2).sum() / free)), pairs)


def _places(table: np.ndarray) -> np.ndarray:
    return structured_to_unstructured(np.asarray(table)[["x", "y"]], dtype=float)


def _frames(table: np.ndarray, n: int) -> np.ndarray:
    names = table.dtype.names or ()
    return np.asarray(table["frame"], int) if "frame" in names else np.zeros(n, int)


def _moved(affine: np.ndarray, places: np.ndarray) -> np.ndarray:
    return places @ affine[:, :2].T + affine[:, 2]


def _voted(
    here: np.ndarray, there: np.ndarray, first: np.ndarray, second: np.ndarray, radius: float
) -> np.ndarray:
    """The shift (2,) that most pairs of molecules of a frame have in common."""
    votes, n = [], 0
    for frame in np.intersect1d(first, second):
        mine, theirs = here[first == frame], there[second == frame]
        votes.append((theirs[None] - mine[:, None]).reshape(-1, 2))
        n += len(votes[-1])
        if n > MOST:
            break
    if not votes:
        raise ValueError("the channels have no frame in common: number their frames alike")
    shifts = np.concatenate(votes)
    low = shifts.min(0) - radius
    cells = ((shifts - low) / radius).astype(int)
    count = np.zeros(cells.max(0) + 2)
    np.add.at(count, tuple(cells.T), 1.0)
    best = np.unravel_index(uniform_filter(count, 3, mode="constant").argmax(), count.shape)
    middle = low + (np.array(best) + 0.5) * radius
    near = np.abs(shifts - middle).max(1) < 1.5 * radius
    return np.median(shifts[near], axis=0)


def _mutual(
    moved: np.ndarray, there: np.ndarray, first: np.ndarray, second: np.ndarray, reach: float
) -> np.ndarray:
    """Pairs that are nearest to each other within a frame."""
    mine, theirs = (
        np.column_stack([frame * FAR, places])
        for frame, places in ((first, moved), (second, there))
    )
    distance, forward = cKDTree(theirs).query(mine)
    _, back = cKDTree(mine).query(theirs)
    rows = np.flatnonzero((distance <= reach) & (back[forward] == np.arange(len(mine))))
    return np.stack([rows, forward[rows]], 1)
