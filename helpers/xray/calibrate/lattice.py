"""A periodic grid in one image: its two periods, and the centre of each hole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

SMALLEST_PITCH = 4.0  # pixels: with fewer, bars and holes run into each other


@dataclass(frozen=True)
class Lattice:
    """Holes of a grid, numbered along its two directions.

    Attributes
    ----------
    origin : (2,) array
        Centre (x, y) of hole (0, 0), in pixels.
    basis : (2, 2) array
        Columns: the steps from hole to hole.
    sites : (n, 2) int array
        Numbers of all cells that lie in the image, blocked ones as well.
    centres : (n, 2) array
        Measured centres (x, y).
    open : (n,) bool array
        Holes that are as bright as most and lie where the grid says.
    flat : (Y, X) array
        The image without its shading, 1 on average.
    """

    origin: np.ndarray
    basis: np.ndarray
    sites: np.ndarray
    centres: np.ndarray
    open: np.ndarray
    flat: np.ndarray

    @property
    def pitch(self) -> float:
        """Mean distance from hole to hole, in pixels."""
        return float(np.sqrt(abs(np.linalg.det(self.basis))))

    def place(self, cells: np.ndarray) -> np.ndarray:
        """Carry cell coordinates (..., 2) to pixels (x, y)."""
        return np.asarray(cells, float) @ self.basis.T + self.origin

    def turned(self, like: Lattice) -> Lattice:
        """Renumber the cells, so that both directions are closest to those of another basis."""
        best, score = np.eye(2), -np.inf
        quarter = np.array([[0, -1], [1, 0]])
        for turns in range(4):
            turn = np.linalg.matrix_power(quarter, turns)
            basis = self.basis @ turn
            match = np.sum(basis / np.linalg.norm(basis, axis=0) * like)
            if match > score:
                best, score = turn, match
        sites = np.rint(self.sites @ np.linalg.inv(best).T).astype(int)
        return Lattice(self.origin, self.basis @ best, sites, self.centres, self.open, self.flat)


def find_lattice(image: np.ndarray, name: str = "image") -> Lattice:
    r"""Find the grid in an image, and the centres of its holes to a fraction of a pixel.

    Parameters
    ----------
    image : (Y, X) array
        Holes bright, bars dark, any unit.
    name : str
        What to call it in errors.

    Returns
    -------
    Lattice
        With the first direction closest to x and the second a quarter turn on.

    Raises
    ------
    ValueError
        Not one finite, positive image, or no grid of at least three periods in it.

    Notes
    -----
    The two strongest frequencies :math:`f_1, f_2` of the image, without its shading, are the rows
    of :math:`F`; the steps from hole to hole are the columns of :math:`F^{-1}`, and the phases tell
    where a hole lies. Each centre is then the mean position of the light under a window

    .. math:: w(r) = \cos^2\left(\frac{\pi r}{2 R}\right), \quad r < R ,

    that is moved until it stands on it. A hole is symmetric, so its blur and the height of the bars
    do not move that point. Explained in :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64]
    >>> image = 2 + np.cos(2 * np.pi * (x - 3.3) / 8) + np.cos(2 * np.pi * (y - 1.2) / 8)
    >>> lattice = find_lattice(image)
    >>> round(lattice.pitch, 3), (lattice.centres[0] % 8).round(2).tolist()
    (8.0, [3.3, 1.2])
    """
    image = np.asarray(image, float)
    if image.ndim != 2 or min(image.shape) < 16:
        raise ValueError(f"{name} has shape {image.shape}: give one image of 16 x 16 or more")
    if not np.isfinite(image).all() or image.mean() <= 0:
        raise ValueError(f"{name} is not finite and positive: mask or replace its pixels first")
    flat = image / _shading(image)
    origin, basis = _periods(flat, name)
    for again in (True, True, False):
        sites = _cells_inside(origin, basis, image.shape)
        start = sites @ basis.T + origin
        pitch = np.sqrt(abs(np.linalg.det(basis)))
        bars = np.percentile(flat, 5)
        centres, light = _centres(flat - bars, start, pitch)
        usual = np.median(light) if len(light) else 1
        shift = np.linalg.norm(centres - start, axis=1)
        good = (np.abs(light / usual - 1) < 0.35) & (shift < 0.2 * pitch)
        if good.sum() < 6:
            raise ValueError(
                f"{name} shows {good.sum()} whole, open holes of equal brightness: six are needed"
            )
        origin, basis = _straighten(sites[good], centres[good])
        if again:  # equal holes tell the shading better than the whole image does
            windows, _, _ = _windows(centres[good], 0.55 * pitch, image)
            flat = image / _surface(centres[good], windows, image.shape)
    good &= np.linalg.norm(centres - (sites @ basis.T + origin), axis=1) < 0.15 * pitch
    return Lattice(origin, basis, sites, centres, good, flat)


def _shading(image: np.ndarray) -> np.ndarray:
    """The smooth part of an image: a polynomial of the fourth degree in both directions."""
    height, width = image.shape
    v, u = (np.linspace(-1, 1, n) for n in image.shape)
    across, down = (np.polynomial.legendre.legvander(a, 4) for a in (u, v))
    # orthogonal to each other almost exactly, so that the fit separates
    weights = np.linalg.pinv(down) @ image @ np.linalg.pinv(across).T
    weights *= np.add.outer(np.arange(5), np.arange(5)) <= 4
    smooth = down @ weights @ across.T
    return np.maximum(smooth, 0.05 * image.mean())


def _surface(points: np.ndarray, values: Any, shape: Any) -> Any:
    """A smooth surface through values at some points: a polynomial of degree 3, or less for few."""
    degree = 3 if len(points) >= 30 else 1
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]

    def terms(x: Any, y: Any) -> Any:
        u, v = 2 * x / (shape[1] - 1) - 1, 2 * y / (shape[0] - 1) - 1
        return [u**i * v**j for i, j in powers]

    weights, *_ = np.linalg.lstsq(np.stack(terms(*points.T), axis=1), values, rcond=None)
    x, y = np.arange(shape[1]), np.arange(shape[0])[:, None]
    smooth = sum(w * term for w, term in zip(weights, terms(x, y), strict=True))
    return np.maximum(smooth, 0.2)


def _periods(flat: Any, name: str) -> Any:
    """Origin and basis from the two strongest frequencies."""
    height, width = flat.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    padded = [4 * n for n in flat.shape]
    power = np.abs(np.fft.rfft2((flat - flat.mean()) * window, padded)) ** 2
    fy, fx = np.fft.fftfreq(padded[0])[:, None], np.fft.rfftfreq(padded[1])[None]
    size = np.hypot(fy, fx)
    allowed = (size > 2.5 / min(flat.shape)) & (size < 1 / SMALLEST_PITCH)
    if not allowed.any():
        raise ValueError(f"{name} is too small for three periods: {height} x {width}")
    first = _peak(power, allowed)
    f1 = _fractional(power, first, padded)
    along = (fx * f1[0] + fy * f1[1]) / np.maximum(size, 1e-9) / np.hypot(*f1)
    near = np.abs(np.log(np.maximum(size, 1e-9) / np.hypot(*f1))) < 0.25
    second = _peak(power, allowed & near & (np.abs(along) < 0.5))
    f2 = _fractional(power, second, padded)
    # a flank that only rises towards the edge of what is allowed is no peak
    noise = np.median(power[allowed])
    blank = flat.std() < 1e-6 or not power[second] > 0
    if blank or min(power[first], power[second]) < 100 * noise:
        raise ValueError(
            f"{name} shows no grid of at least three periods, with a pitch of {SMALLEST_PITCH:g} "
            "pixels or more in both directions: give the mean image of a grid"
        )
    frequencies = np.array([f1, f2])
    y, x = np.arange(height), np.arange(width)
    phases = [
        np.angle(np.exp(-2j * np.pi * f[1] * y) @ (flat * window) @ np.exp(-2j * np.pi * f[0] * x))
        for f in frequencies
    ]
    basis = np.linalg.inv(frequencies)
    origin = basis @ (-np.array(phases) / (2 * np.pi))
    return _oriented(origin, basis, flat.shape)


def _peak(power: Any, allowed: Any) -> Any:
    if not allowed.any():
        return 0, 0
    return np.unravel_index(np.argmax(np.where(allowed, power, -1)), power.shape)


def _fractional(power: Any, peak: Any, padded: Any) -> Any:
    """Frequency (fx, fy) of a peak, between the samples, by a parabola along each axis."""
    row, column = peak
    logs = np.log(power + 1e-30)
    rows, columns = power.shape

    def vertex(left: Any, middle: Any, right: Any) -> Any:
        bend = left - 2 * middle + right
        return 0.0 if bend >= 0 else 0.5 * (left - right) / bend

    dy = vertex(*(logs[(row + k) % rows, column] for k in (-1, 0, 1)))
    # left of frequency 0 the spectrum of a real image is that of the opposite frequency
    left = logs[row, column - 1] if column else logs[-row % rows, 1]
    right = logs[row, min(column + 1, columns - 1)]
    dx = vertex(left, logs[row, column], right)
    fy = (row + dy) / padded[0]
    return np.array([(column + dx) / padded[1], fy - 1 if fy > 0.5 else fy])


def _oriented(origin: Any, basis: Any, shape: Any) -> Any:
    """Choose steps along x and a quarter turn on, and hole (0, 0) nearest to the centre."""
    a, b = basis.T
    if abs(b[0]) > abs(a[0]):
        a, b = b, a
    a, b = a * np.sign(a[0] or 1), b * np.sign(b[1] or 1)
    if a[0] * b[1] - a[1] * b[0] < 0:
        b = -b
    basis = np.stack([a, b], axis=1)
    centre = np.array([shape[1] - 1, shape[0] - 1]) / 2
    cell = np.rint(np.linalg.solve(basis, centre - origin))
    return origin + basis @ cell, basis


def _cells_inside(origin: Any, basis: Any, shape: Any) -> Any:
    """Cells whose window of radius 0.55 lies inside the image."""
    pitch = np.sqrt(abs(np.linalg.det(basis)))
    reach = int(np.ceil(np.hypot(*shape) / pitch)) + 1
    steps = np.arange(-reach, reach + 1)
    cells = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    points = cells @ basis.T + origin
    margin = 0.55 * pitch
    limits = np.array([shape[1] - 1, shape[0] - 1])
    return cells[((points > margin) & (points < limits - margin)).all(1)]


def _centres(light: Any, start: Any, pitch: Any, n_iter: int = 12) -> Any:
    """Move a window onto each hole; gives centres (n, 2) and the mean light there (n,)."""
    centres = start.copy()
    for _ in range(n_iter):
        mean, x, y = _windows(centres, 0.55 * pitch, light)
        # a window under-estimates the step; one that runs away is not on an open hole
        step = 1.5 * np.stack([x, y], axis=1) / np.where(mean > 0, mean, np.inf)[:, None]
        away = centres + np.clip(step, -0.2 * pitch, 0.2 * pitch) - start
        centres = start + np.clip(away, -0.4 * pitch, 0.4 * pitch)
    return centres, mean


def _windows(centres: Any, radius: Any, image: np.ndarray) -> Any:
    """Weighted means of an image and of its moments about x and y, each (n,), at some points."""
    reach = int(np.ceil(radius)) + 1
    offsets = np.arange(-reach, reach + 1)
    corner = np.rint(centres).astype(int)
    x, y = (corner[:, axis, None] + offsets for axis in (0, 1))
    rows, columns = np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)
    values = image[rows[:, :, None], columns[:, None, :]]
    dx = (x - centres[:, :1])[:, None, :]
    dy = (y - centres[:, 1:])[:, :, None]
    distance = np.minimum(np.hypot(dx, dy) / radius, 1)
    weight = np.cos(0.5 * np.pi * distance) ** 2
    weight /= weight.sum((1, 2), keepdims=True)
    values = weight * values
    return values.sum((1, 2)), (values * dx).sum((1, 2)), (values * dy).sum((1, 2))


def _straighten(sites: Any, centres: Any) -> Any:
    """The lattice that fits the centres, those that lie off it left out."""
    design = np.column_stack([sites, np.ones(len(sites))])
    keep = np.ones(len(sites), bool)
    for _ in range(3):
        solution, *_ = np.linalg.lstsq(design[keep], centres[keep], rcond=None)
        away = np.linalg.norm(centres - design @ solution, axis=1)
        keep = away <= max(3 * np.median(away), 1e-3)
    return solution[2], solution[:2].T
