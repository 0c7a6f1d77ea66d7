"""Spatial calibration: the transform between two cameras from one image of a grid by each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from ..._arrays import to_numpy
from ...io.files import load_h5, save_h5
from ..cameras import SCALE, Transform, inside
from .lattice import find_lattice

NAMES = ("theta", "sx", "sy", "tx", "ty")
CELL = (np.arange(8) + 0.5) / 8 - 0.5  # where a cell of the grid is sampled, in steps


class Pairs(NamedTuple):
    """Holes seen by both cameras.

    Attributes
    ----------
    lr, hr : (n, 2) array
        Centres (x, y) in pixels of each camera.
    weight : (n,) array
        How far the fit has trusted the pair, 0 to 1.
    """

    lr: np.ndarray
    hr: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class SpatialCalibration:
    """Result of `spatial`.

    Attributes
    ----------
    transform : helpers.xray.cameras.Transform
        From coarse pixels to sharp ones.
    covariance : (5, 5) array
        Of theta, sx, sy, tx, ty.
    pairs : Pairs or None
    hr_shape, lr_shape : (int, int)
        Fields for which it holds.
    contest : (float, float)
        Correlation of the two images, beyond the repeating grid, in the place that was chosen and
        in the best of the others. NaN where `near` has decided.
    """

    transform: Transform
    covariance: np.ndarray
    pairs: Pairs | None
    hr_shape: tuple[int, int]
    lr_shape: tuple[int, int]
    contest: tuple[float, float]

    def uncertainty(self, points: np.ndarray) -> np.ndarray:
        """Standard deviation (..., 2) in sharp pixels with which coarse points are carried over."""
        gradient = _jacobian(_numbers(self.transform), np.asarray(points, float))
        return np.sqrt(np.einsum("...ij,jk,...ik->...i", gradient, self.covariance, gradient))

    def save(self, path: str | Path) -> None:
        """Write everything to an HDF5 file, so that one calibration serves many recordings."""
        tree = {
            "transform": _numbers(self.transform),
            "covariance": self.covariance,
            "hr_shape": np.array(self.hr_shape),
            "lr_shape": np.array(self.lr_shape),
            "contest": np.array(self.contest),
        }
        if self.pairs is not None:
            tree |= {f"pairs_{name}": value for name, value in self.pairs._asdict().items()}
        save_h5(path, tree, {"kind": "SpatialCalibration"})

    @classmethod
    def load(cls, path: str | Path) -> SpatialCalibration:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        tree, notes = load_h5(path)
        if notes.get("kind") != "SpatialCalibration":
            raise ValueError(f"{path} holds no spatial calibration: write it with save")
        parts: list[Any] = [tree.get(f"pairs_{name}") for name in Pairs._fields]
        (height, width), (h, w), (first, second) = (
            tree[name].tolist() for name in ("hr_shape", "lr_shape", "contest")
        )
        return cls(
            Transform(*tree["transform"].tolist()),
            tree["covariance"],
            None if parts[0] is None else Pairs(*parts),
            (height, width),
            (h, w),
            (first, second),
        )

    def seen(self) -> np.ndarray:
        """(Y, X) bool array: the sharp pixels in the field of the coarse camera."""
        y, x = np.mgrid[: self.hr_shape[0], : self.hr_shape[1]]
        return inside(self.transform.inverse(np.stack([x, y], axis=-1)), self.lr_shape)


def spatial(
    hr_grid: np.ndarray, lr_grid: np.ndarray, *, scale: float = SCALE, near: Transform | None = None
) -> SpatialCalibration:
    r"""Find the transform between the cameras from an image of one grid by each.

    Parameters
    ----------
    hr_grid, lr_grid : (Y, X) and (y, x) array or tensor
        Mean images of a grid, holes bright, seen the same way round.
    scale : float
        Sharp pixels along one coarse pixel, to 20 %.
    near : Transform, optional
        A guess that carries the middle of the coarse field to within half a period of the grid. It
        decides which hole is which; without it the images must: by blocked holes, broken bars or
        dirt.

    Returns
    -------
    SpatialCalibration

    Raises
    ------
    ValueError
        No grid in an image (see `helpers.xray.calibrate.find_lattice`), grids of different pitch,
        or a grid so perfect that nothing tells its holes apart, and no `near`.

    Notes
    -----
    Both images are cut into the cells of the grid, and the mean cell is taken away. What is left
    does not repeat. It is correlated at every shift by whole cells; the true one must win by far.
    The pairs then go into `fit_transform`. The cameras may be turned by less than 45 degrees
    against each other. Explained in :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> from helpers.xray.simulate import grid_image
    >>> images = grid_image(seed=1002)
    >>> found = spatial(images.hr, images.lr)
    >>> corners = np.array([[0, 0], [95, 0], [0, 95], [95, 95]])
    >>> bool(abs(found.transform(corners) - images.transform(corners)).max() < 0.05)
    True
    """
    hr_grid, lr_grid = to_numpy(hr_grid), to_numpy(lr_grid)
    hr = find_lattice(hr_grid, "hr_grid")
    lr = find_lattice(lr_grid, "lr_grid").turned(hr.basis / np.linalg.norm(hr.basis, axis=0))
    ratio = hr.pitch / lr.pitch
    if abs(ratio / scale - 1) > 0.2:
        raise ValueError(
            f"the grid has a pitch of {hr.pitch:.1f} sharp and {lr.pitch:.1f} coarse pixels, a "
            f"ratio of {ratio:.2f} and not {scale}: give images of one grid, or the scale"
        )
    if near is not None:
        middle = lr.place(np.zeros(2))
        cell = np.linalg.solve(hr.basis, near(middle) - hr.origin)
        shift, contest = np.rint(cell).astype(int), (np.nan, np.nan)
    else:
        shift, contest = _identify(hr, lr, ratio)
    known = {tuple(site): n for n, site in enumerate(hr.sites) if hr.open[n]}
    pairs = [
        (n, known[site])
        for n, site in enumerate(map(tuple, lr.sites + shift))
        if lr.open[n] and site in known
    ]
    if len(pairs) < 6:
        raise ValueError(
            f"the cameras share {len(pairs)} open holes: six are needed, align their fields first"
        )
    from_lr, from_hr = np.array(pairs).T
    points = lr.centres[from_lr], hr.centres[from_hr]
    transform, covariance, weight = fit_transform(*points)
    return SpatialCalibration(
        transform, covariance, Pairs(*points, weight), hr_grid.shape, lr_grid.shape, contest
    )


def fit_transform(
    lr_points: np.ndarray, hr_points: np.ndarray, *, n_iter: int = 50
) -> tuple[Transform, np.ndarray, np.ndarray]:
    r"""Fit rotation, two scales and shift to pairs of points, some of which may be false.

    Parameters
    ----------
    lr_points, hr_points : (n, 2) array
        Centres (x, y) in pixels of each camera; three pairs or more.
    n_iter : int
        Most steps.

    Returns
    -------
    transform : Transform
    covariance : (5, 5) array
        Of theta, sx, sy, tx, ty.
    weight : (n,) array
        How far each pair was trusted, 0 to 1.

    Raises
    ------
    ValueError
        Too few pairs, unequal shapes, values that are not finite, or points on one line.

    Notes
    -----
    The residuals r minimise :math:`\sum \ln(1 + (r / c)^2)`, the log-likelihood of a Cauchy
    distribution, by Gauss-Newton steps with the weights :math:`1 / (1 + (r / c)^2)`
    :cite:p:`holland1977`. The scale c is 2.385 robust standard deviations of the residuals. The
    covariance is :math:`A^{-1} B A^{-1}` with
    :math:`A = \sum \psi'(r)\, J^\top J`, :math:`B = \sum \psi(r)^2 J^\top J`,
    and J the derivative of the point by the parameters. Explained in
    :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> points = np.array([[0, 0], [9, 0], [0, 9], [9, 9], [4, 5.0]])
    >>> transform, *_ = fit_transform(points, Transform(theta=0.1, sx=3.9)(points))
    >>> round(transform.theta, 6), round(transform.sx, 6), round(transform.sy, 6)
    (0.1, 3.9, 4.0)
    """
    x, y = np.asarray(lr_points, float), np.asarray(hr_points, float)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2 or len(x) < 3:
        raise ValueError(f"pairs have shapes {x.shape} and {y.shape}: give (n, 2), three or more")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the points are not all finite: leave the others out")
    middle = x.mean(0)
    x = x - middle  # so that the shift does not depend on the rest
    if np.linalg.svd(x, compute_uv=False)[1] < 1e-6 * max(1.0, np.abs(x).max()):
        raise ValueError("the points lie on one line: take pairs from the whole field")
    p = _start(x, y)
    for _ in range(n_iter):
        residual = (y - _carry(p, x)).ravel()
        c = 2.385 * max(1.4826 * np.median(np.abs(residual)), 1e-9)
        weight = 1 / (1 + (residual / c) ** 2)
        jacobian = _jacobian(p, x).reshape(-1, 5)
        normal = jacobian.T @ (weight[:, None] * jacobian)
        step = np.linalg.solve(normal, jacobian.T @ (weight * residual))
        p = p + step
        if np.abs(_jacobian(p, x) @ step).max() < 1e-9:
            break
    covariance = _covariance(jacobian, residual, c)
    shift = _carry(p, -middle) - _carry(p, np.zeros(2))
    move = np.eye(5)  # the shift as it is at pixel (0, 0)
    move[3:, :3] = _jacobian(p, -middle)[:, :3]
    transform = Transform(*(float(v) for v in p[:3]), *(float(v) for v in p[3:] + shift))
    trust = weight.reshape(-1, 2).min(1)
    return transform, move @ covariance @ move.T, trust


def _identify(hr: Any, lr: Any, ratio: float) -> Any:
    """Cell of the sharp grid that a cell of the coarse grid is: what repeats cannot tell."""
    # bring the sharp image to about the sharpness of the coarse one
    blurred = gaussian_filter(hr.flat, 0.6 * ratio)
    oddities = [_oddities(blurred, hr), _oddities(lr.flat, lr)]
    (low_a, a), (low_b, b) = oddities
    enough = 0.5 * min(np.isfinite(m[..., 0]).sum() for m in (a, b))
    scores = {}
    for i in range(-a.shape[0] + 1, b.shape[0]):
        for j in range(-a.shape[1] + 1, b.shape[1]):
            one, two = _overlap(a, b, i, j)
            both = np.isfinite(one[..., 0]) & np.isfinite(two[..., 0])
            if both.sum() >= enough:
                one, two = one[both], two[both]
                power = np.sqrt((one**2).sum() * (two**2).sum())
                # cell (i, j) of b lies on cell (0, 0) of a
                scores[low_a[0] - low_b[0] - i, low_a[1] - low_b[1] - j] = (one * two).sum() / max(
                    power, 1e-12
                )
    if len(scores) < 2:
        raise ValueError("the fields of the cameras overlap too little: bring them together")
    shift = max(scores, key=scores.__getitem__)
    best = scores.pop(shift)
    other = max(scores.values())
    chance = np.std(list(scores.values()))
    if best < 0.3 or best - other < 0.15 or best < 5 * chance:
        raise ValueError(
            "the holes of the grid cannot be told apart: beyond what repeats, the images agree by "
            f"{best:.2f}, and shifted by some periods by {other:.2f}. Take a grid with a blocked "
            "hole, average more frames, or give near="
        )
    return np.array(shift), (float(best), float(other))


def _oddities(image: np.ndarray, lattice: Any) -> Any:
    """Faults of a grid: first cell, and samples (I, J, 64) of each cell less the mean cell."""
    u = np.stack(np.meshgrid(CELL, CELL, indexing="ij"), -1).reshape(-1, 2)
    points = lattice.place(lattice.sites[:, None] + u)
    samples = map_coordinates(image, points[..., ::-1].transpose(2, 0, 1), order=1)
    samples = samples - np.median(samples[lattice.open], axis=0)
    low = lattice.sites.min(0)
    cells = np.full((*(lattice.sites.max(0) - low + 1), len(u)), np.nan)
    cells[tuple((lattice.sites - low).T)] = samples
    return low, cells


def _overlap(a: Any, b: Any, i: Any, j: Any) -> Any:
    """The parts of two maps that meet when `a` is moved by (i, j) cells of `b`."""
    rows = slice(max(0, -i), min(a.shape[0], b.shape[0] - i))
    columns = slice(max(0, -j), min(a.shape[1], b.shape[1] - j))
    moved = slice(rows.start + i, rows.stop + i), slice(columns.start + j, columns.stop + j)
    return a[rows, columns], b[moved]


def _start(x: Any, y: Any) -> Any:
    """Parameters of the median of affine fits to random triples: robust, and near."""
    rng = np.random.default_rng(0)
    design = np.column_stack([x, np.ones(len(x))])
    best: Any = None
    least = np.inf
    for _ in range(60):
        some = rng.choice(len(x), min(len(x), 4), replace=False)
        solution, *_ = np.linalg.lstsq(design[some], y[some], rcond=None)
        away = np.median(np.abs(y - design @ solution))
        if away < least:
            best, least = solution, away
    (a, b), (c, d), shift = best
    theta = np.arctan2(b - c, a + d)
    return np.array([theta, np.hypot(a, b), np.hypot(c, d), *shift])


def _numbers(transform: Any) -> np.ndarray:
    return np.array([getattr(transform, name) for name in NAMES])


def _carry(p: Any, points: np.ndarray) -> np.ndarray:
    c, s = np.cos(p[0]), np.sin(p[0])
    x, y = points[..., 0] * p[1], points[..., 1] * p[2]
    return np.stack([c * x - s * y + p[3], s * x + c * y + p[4]], axis=-1)


def _jacobian(p: Any, points: np.ndarray) -> np.ndarray:
    """Derivative (..., 2, 5) of the carried points by the parameters."""
    c, s = np.cos(p[0]), np.sin(p[0])
    x, y = points[..., 0], points[..., 1]
    one, zero = np.ones_like(x), np.zeros_like(x)
    across = [-s * x * p[1] - c * y * p[2], c * x, -s * y, one, zero]
    down = [c * x * p[1] - s * y * p[2], s * x, c * y, zero, one]
    return np.stack([np.stack(across, -1), np.stack(down, -1)], axis=-2)


def _covariance(jacobian: Any, residual: Any, c: Any) -> Any:
    """Sandwich covariance of a Cauchy fit; what a pair says of itself is taken out of its share."""
    u = (residual / c) ** 2
    psi, slope = residual / (1 + u), (1 - u) / (1 + u) ** 2
    inverse = np.linalg.inv(jacobian.T @ (slope[:, None] * jacobian))
    leverage = np.clip(slope * np.einsum("ij,jk,ik->i", jacobian, inverse, jacobian), 0, 0.9)
    psi = psi / (1 - leverage)
    return inverse @ (jacobian.T @ (psi[:, None] ** 2 * jacobian)) @ inverse
