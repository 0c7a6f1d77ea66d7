r"""From a table of molecules in frames to one that a laboratory works with.

Drift, blinks that last several frames, doubtful rows, and the precision that is really there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from scipy.optimize import curve_fit
from scipy.spatial import cKDTree

FINEST, LARGEST = 10, 1024  # cells of a px at most, and cells of a side
FAR = 1e6  # px between frames, where neighbours are sought in all frames at once


@dataclass(frozen=True)
class Drift:
    """Result of `find_drift`.

    Attributes
    ----------
    x, y : (n_frames,) array
        Drift of each frame in px, its mean zero.
    frames : (W,) array
        Mean frame of each window.
    residual : float
        Root mean square in px, per axis, by which the pairs of windows disagree with that.
    """

    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    frames: np.ndarray = field(repr=False)
    residual: float

    def correct(self, table: np.recarray) -> np.recarray:
        """Give a copy of the table without the drift.

        Parameters
        ----------
        table : structured array
            Columns `frame`, `x`, `y`.
        """
        moved = table.copy()
        frame = np.asarray(table["frame"], int).clip(0, len(self.x) - 1)
        moved["x"] = table["x"] - self.x[frame]
        moved["y"] = table["y"] - self.y[frame]
        return moved


def find_drift(
    table: np.ndarray, *, windows: int = 20, most: float = 10.0, sharpness: float = 0.15
) -> Drift:
    r"""Find the drift of a movie by redundant cross-correlation.

    Parameters
    ----------
    table : structured array
        Columns `frame`, `x`, `y` in px, as `localize` gives them.
    windows : int
        Pieces into which the frames are cut; each needs some hundred molecules.
    most : float
        Largest drift in px between two windows.
    sharpness : float
        Standard deviation in px by which the positions are blurred, about their error.

    Returns
    -------
    Drift

    Raises
    ------
    ValueError
        Too few molecules or frames for the windows.

    Notes
    -----
    Images of all windows are correlated in pairs. The shifts of the pairs overdetermine the drift
    of the windows, which is their least-squares solution; pairs that disagree with it are left out
    :cite:p:`wang2014`. Then every window is correlated with all others together, put right so far.
    Between the windows the drift is a cubic spline. Used in
    :doc:`/book/renderer/08_real_movie`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> place, frame = rng.uniform(-10, 10, (60, 2)), np.arange(2000)
    >>> seen = place[rng.integers(0, 60, 2000)] + 1e-3 * frame[:, None]
    >>> table = np.rec.fromarrays([frame, *seen.T], names="frame,x,y")
    >>> found = find_drift(table, windows=5)
    >>> round(float(found.x[-1] - found.x[0]), 1)
    2.0
    """
    frame = np.asarray(table["frame"], int)
    places = np.stack([np.asarray(table[n], float) for n in "yx"], 1)
    if windows < 2 or len(frame) < 20 * windows:
        raise ValueError(
            f"{len(frame)} molecules in {windows} windows: give 20 or more to each, and two windows"
        )
    n_frames = int(frame.max()) + 1
    edges = np.linspace(0, n_frames, windows + 1)
    piece = np.searchsorted(edges, frame, side="right").clip(1, windows) - 1
    filled = np.bincount(piece, minlength=windows)
    if filled.min() < 10:
        raise ValueError(f"a window has {filled.min()} molecules: take fewer windows")
    middles = np.array([frame[piece == k].mean() for k in range(windows)])
    low, high = places.min(0), places.max(0)
    zoom = min(FINEST, LARGEST / max(float((high - low).max()), 1.0))
    # what leaves at one side of a Fourier transform comes in at the other: room for the drift
    shape = tuple(int(n) for n in np.ceil((high - low + 2 * most) * zoom))
    spectra = [
        _spectrum((places[piece == k] - low) * zoom, shape, sharpness * zoom)
        for k in range(windows)
    ]
    reach = math.ceil(most * zoom)
    pairs = list(combinations(range(windows), 2))
    shifts = np.array([_shift(spectra[b] * spectra[a].conj(), shape, reach) for a, b in pairs])
    design = np.zeros((len(pairs), windows))
    for row, (a, b) in enumerate(pairs):
        design[row, a], design[row, b] = -1, 1
    drift, left = _solved(design, shifts)
    for _ in range(2):
        for k in range(windows):
            others = sum(
                _turned(spectra[j], drift[k] - drift[j], shape) for j in range(windows) if j != k
            )
            step = _shift(spectra[k] * np.conj(others), shape, reach)
            drift[k] = drift[k] + step
    drift = (drift - drift.mean(0)) / zoom
    curve = CubicSpline(middles, drift, bc_type="natural")(
        np.arange(n_frames).clip(*middles[[0, -1]])
    )
    # beyond the middles of the first and the last window: straight on
    slopes = CubicSpline(middles, drift, bc_type="natural").derivative()(middles[[0, -1]])
    every = np.arange(n_frames)[:, None]
    curve += slopes[0] * np.minimum(every - middles[0], 0)
    curve += slopes[1] * np.maximum(every - middles[-1], 0)
    curve -= curve.mean(0)
    return Drift(curve[:, 1], curve[:, 0], middles, float(left / zoom))


def _spectrum(places: np.ndarray, shape: tuple[int, ...], sharpness: float) -> np.ndarray:
    cells = np.floor(places).astype(int)
    image = np.zeros(shape)
    np.add.at(image, tuple(cells.T), 1.0)
    # many blinks of one molecule must not outweigh the rest
    image = gaussian_filter(np.sqrt(image), max(sharpness, 1.0))
    return np.fft.rfft2(image - image.mean())


def _shift(cross: np.ndarray, shape: tuple[int, ...], reach: int) -> np.ndarray:
    """Place of the highest correlation within reach, to a part of a cell."""
    correlation = np.fft.fftshift(np.fft.irfft2(cross, shape))
    middle = np.array(shape) // 2
    window = correlation[tuple(slice(m - min(reach, m - 3), m + min(reach, m - 3)) for m in middle)]
    corner = middle - [min(reach, m - 3) for m in middle]
    peak = np.array(np.unravel_index(window.argmax(), window.shape)) + corner
    peak = np.clip(peak, 3, np.array(shape) - 4)
    part = correlation[peak[0] - 2 : peak[0] + 3, peak[1] - 2 : peak[1] + 3]
    y, x = (a.ravel() for a in np.mgrid[-2:3, -2:3])
    terms = np.stack([np.ones(25), y, x, y * y, x * y, x * x], 1)
    _, by, bx, yy, xy, xx = np.linalg.lstsq(terms, part.ravel(), rcond=None)[0]
    curvature = np.array([[2 * yy, xy], [xy, 2 * xx]])
    fine = np.zeros(2)
    if np.linalg.det(curvature) > 0 and yy < 0:
        fine = np.linalg.solve(curvature, [-by, -bx]).clip(-1, 1)
    return peak - middle + fine


def _turned(spectrum: np.ndarray, shift: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Spectrum of an image moved by `shift` cells."""
    v, u = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    return spectrum * np.exp(-2j * np.pi * (v * shift[0] + u * shift[1]))


def _solved(design: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, float]:
    """Drift of the windows (W, 2) from the shifts of pairs, without those that disagree."""
    keep = np.ones(len(shifts), bool)
    for _ in range(4):
        drift = np.linalg.lstsq(design[keep], shifts[keep], rcond=None)[0]
        off = np.hypot(*(shifts - design @ drift).T)
        kept = off <= max(3 * float(np.median(off[keep])), 0.3)
        if kept.sum() < design.shape[1] or (kept == keep).all():
            break
        keep = kept
    return drift, math.sqrt(np.mean(off[keep] ** 2) / 2)


def link(table: np.ndarray, radius: float, gap: int = 1) -> np.recarray:
    """Join the molecules of neighbouring frames that are one blink.

    Parameters
    ----------
    table : structured array
        Columns `frame`, `x`, `y`, `photons`, `x_std`, `y_std`.
    radius : float
        Largest step in px from one frame to the next.
    gap : int
        Dark frames that a blink may have.

    Returns
    -------
    structured array
        One row for each blink, sorted by its first `frame`: `x`, `y` and their errors by
        the weights of the errors, `photons` summed, `background` averaged, `n_frames`.

    Raises
    ------
    ValueError
        A radius that is not positive, or a negative gap.

    Notes
    -----
    Each molecule takes the nearest free one of the next frames. The error of a mean assumes that
    the molecule does not move.

    Examples
    --------
    >>> rows = [(0, 1.0, 0.0, 100.0, 0.1, 0.1), (1, 1.1, 0.0, 300.0, 0.1, 0.1)]
    >>> names = "frame,x,y,photons,x_std,y_std"
    >>> blinks = link(np.rec.fromrecords(rows, names=names), 0.5)
    >>> blinks.x.round(2).tolist(), blinks.photons.tolist(), blinks.n_frames.tolist()
    ([1.05], [400.0], [2])
    """
    if not radius > 0 or gap < 0:
        raise ValueError(f"radius is {radius} and gap {gap}: give px above 0, and frames from 0")
    frame = np.asarray(table["frame"], int)
    places = np.stack([np.asarray(table[n], float) for n in "xy"], 1)
    before, after = np.full(len(frame), -1), np.full(len(frame), -1)
    for step in range(1, gap + 2):
        tails, heads = np.flatnonzero(after < 0), np.flatnonzero(before < 0)
        if not len(tails) or not len(heads):
            break
        tree = cKDTree(_apart(frame[heads], places[heads]))
        distance, near = tree.query(
            _apart(frame[tails] + step, places[tails]), distance_upper_bound=radius
        )
        for k in np.argsort(distance):
            if not np.isfinite(distance[k]):
                break
            i, j = tails[k], heads[near[k]]
            if after[i] < 0 and before[j] < 0:
                after[i], before[j] = j, i
    track = np.full(len(frame), -1)
    for n, first in enumerate(np.flatnonzero(before < 0)):
        at = first
        while at >= 0:
            track[at], at = n, after[at]
    n = int(track.max(initial=-1)) + 1
    columns: dict[str, Any] = {"frame": np.full(n, np.iinfo(int).max)}
    np.minimum.at(columns["frame"], track, frame)
    for name in "xy":
        weight = 1 / np.asarray(table[f"{name}_std"], float).clip(min=1e-9) ** 2
        total = np.bincount(track, weight, n)
        columns[name] = np.bincount(track, weight * table[name], n) / total
        columns[f"{name}_std"] = total**-0.5
    columns["photons"] = np.bincount(track, table["photons"], n)
    if "background" in (table.dtype.names or ()):
        columns["background"] = np.bincount(track, table["background"], n) / np.bincount(track)
    columns["n_frames"] = np.bincount(track, minlength=n)
    order = np.argsort(columns["frame"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    return np.rec.fromarrays(list(columns.values()), names=list(columns))  # type: ignore[call-overload]


def _apart(frame: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.column_stack([frame * FAR, places])


def select(
    table: np.recarray, limits: Mapping[str, tuple[float, float]]
) -> tuple[np.recarray, dict[str, int]]:
    """Keep the rows whose columns lie within limits, and count why the others went.

    Parameters
    ----------
    table : structured array
    limits : dict
        (lowest, highest) by column, such as ``{"x_std": (0, 0.3), "chi2": (0.5, 2)}``.

    Returns
    -------
    kept : structured array
    reasons : dict
        Rows that each limit took, by column, the first limit that a row breaks; and `kept`.

    Raises
    ------
    ValueError
        A column that the table lacks.

    Examples
    --------
    >>> table = np.rec.fromarrays([[0.1, 0.5, 0.2], [1.0, 1.0, 9.0]], names="x_std,chi2")
    >>> select(table, {"x_std": (0, 0.3), "chi2": (0.5, 2)})[1]
    {'x_std': 1, 'chi2': 1, 'kept': 1}
    """
    keep, reasons = np.ones(len(table), bool), {}
    for name, (low, high) in limits.items():
        if name not in (table.dtype.names or ()):
            raise ValueError(
                f"the table has no column {name}: {', '.join(table.dtype.names or ())}"
            )
        inside = (table[name] >= low) & (table[name] <= high)
        reasons[name] = int((keep & ~inside).sum())
        keep &= inside
    return table[keep].view(np.recarray), {**reasons, "kept": int(keep.sum())}


def nearest_neighbour_precision(table: np.ndarray) -> float:
    r"""Error of the positions, from molecules that are seen in two frames running (NeNA).

    Parameters
    ----------
    table : structured array
        Columns `frame`, `x`, `y` in px.

    Returns
    -------
    float
        Standard deviation of a position per axis, in px.

    Raises
    ------
    ValueError
        Fewer than 50 molecules with a neighbour in the next frame.

    Notes
    -----
    Distances d of a resting molecule in two frames follow
    :math:`d / 2\sigma^2\, \exp(-d^2 / 4\sigma^2)`; other molecules add a part that grows with d
    :cite:p:`endesfelder2014`. Movement counts as error.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> place = np.repeat(rng.uniform(-100, 100, (2000, 2)), 2, axis=0)
    >>> x, y = (place + 0.1 * rng.standard_normal(place.shape)).T
    >>> table = np.rec.fromarrays([np.arange(4000), x, y], names="frame,x,y")
    >>> round(nearest_neighbour_precision(table), 2)
    0.1
    """
    frame = np.asarray(table["frame"], int)
    places = np.stack([np.asarray(table[n], float) for n in "xy"], 1)
    distance = cKDTree(_apart(frame, places)).query(
        _apart(frame + 1, places), distance_upper_bound=5.0
    )[0]
    distance = distance[np.isfinite(distance)]
    if len(distance) < 50:
        raise ValueError(
            f"{len(distance)} molecules have a neighbour in the next frame: 50 are needed"
        )
    reach = min(5.0, 4 * float(np.median(distance)))
    count, edges = np.histogram(distance, 40, (0, reach))
    d = (edges[1:] + edges[:-1]) / 2

    def expected(d, light, sigma, other):
        return light * d / (2 * sigma**2) * np.exp(-(d**2) / (4 * sigma**2)) + other * d

    start = [count.sum() * d[0] * 2, float(np.median(distance)) / 1.67, 0.0]
    found, _ = curve_fit(
        expected, d, count, start, sigma=np.sqrt(count + 1),
        bounds=([0, 1e-4, 0], [np.inf, 10, np.inf]),
    )  # fmt: skip
    return float(found[1])
