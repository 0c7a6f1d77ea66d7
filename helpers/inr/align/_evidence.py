"""The axis of a tilt series as the most probable straight line, on a detector of any width."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import minimize

FEW = 512  # values of a line from which the prior is fitted
GRID = 0.5  # px between places of the axis that are tried
TURN = 6.0  # degrees, most


class Sinograms:
    r"""Lines across the tilt axis as samples of one Gaussian process.

    Parameters
    ----------
    lines : (L, N, S) array
        Values of each line at each tilt, any unit.
    angles_deg : (N,) array
        Tilts in degrees.
    across : (N,) array
        Drift of each image across the axis, in px.

    Notes
    -----
    A slice is taken for a random field (`covariance`): structure of one size within some radius of
    the axis. A mean density, a background and noise come to it. The axis is where the measured
    values are most probable; those that no pixel recorded are never asked for.
    """

    def __init__(self, lines: np.ndarray, angles_deg: ArrayLike, across: ArrayLike) -> None:
        n_lines, n, width = lines.shape
        self.values = lines.reshape(n_lines, -1).T
        self.y = np.arange(n_lines) - (n_lines - 1) / 2
        self.theta = np.repeat(np.deg2rad(angles_deg), width)
        self.s = np.tile(np.arange(width) - (width - 1) / 2, n) - np.repeat(across, width)
        views = np.linspace(0, n - 1, max(5, min(n, FEW // width))).round().astype(int)
        self.few = np.isin(np.repeat(np.arange(n), width), views)
        # logarithms of size of structure, radius, and noise over signal
        self.prior = np.log([2.0, width / 2, 0.05])
        self.bounds = np.log([[0.5, 1.0, 1e-4], [width, 10.0 * width, 10.0]])

    def fit(self, offset: float) -> None:
        """Set the prior to what is most probable with the axis at `offset`."""

        def cost(prior: np.ndarray) -> float:
            squares, volume = self._whitened(offset, prior, self.few)
            return 0.5 * float(self.few.sum() * np.log(squares.mean())) + volume

        start = np.vstack([self.prior, self.prior + np.diag([0.5, 0.5, 1.0])])
        options = {"initial_simplex": start, "maxfev": 50, "xatol": 0.02, "fatol": 0.02}
        found = minimize(cost, self.prior, method="Nelder-Mead", options=options)
        self.prior = np.clip(found.x, *self.bounds)

    def scan(self, offsets: ArrayLike) -> np.ndarray:
        """Minus the log evidence of each line with the axis at each place: (offsets, L)."""
        pairs = [self._whitened(offset, self.prior) for offset in np.asarray(offsets)]
        n = len(self.values)
        # the strength of the signal at the best place serves all, so that lines add up
        best = min(pairs, key=lambda pair: 0.5 * n * np.log(pair[0].mean()) + pair[1])
        return np.stack([0.5 * q * n / best[0].mean() + volume for q, volume in pairs])

    def axis(self, offset: float, reach: float, turn: bool) -> tuple[np.ndarray, np.ndarray]:
        """Place of the axis in px and its turn in degrees, sought around `offset`, and errors."""
        most = np.tan(np.deg2rad(TURN)) * self.y[-1] if turn else 0.0
        steps = int(np.ceil((reach + most) / GRID))
        offsets = offset + GRID * np.arange(-steps, steps + 1)
        spline = spline_filter(self.scan(offsets), mode="nearest")

        def cost(x: np.ndarray, kept: np.ndarray) -> float:
            slope = np.tan(np.deg2rad(x[1])) if turn else 0.0
            places = (x[0] - self.y[kept] * slope - offsets[0]) / GRID
            at = np.stack([places, kept])
            return float(map_coordinates(spline, at, prefilter=False, mode="nearest").sum())

        def best(start: np.ndarray, kept: np.ndarray) -> np.ndarray:
            simplex = np.vstack([start, start + np.diag([0.2, 0.5])[: len(start), : len(start)]])
            options = {"initial_simplex": simplex, "xatol": 1e-4, "fatol": 1e-6}
            return minimize(cost, start, (kept,), method="Nelder-Mead", options=options).x

        every = np.arange(len(self.y))
        turns = np.arange(-TURN, TURN + 0.1, 0.5) if turn else [0.0]
        inside = offsets[np.abs(offsets - offset) <= reach]
        starts = [np.array([o, t][: 1 + turn]) for o in inside for t in turns]
        found = best(min(starts, key=lambda x: cost(x, every)), every)
        errors = self._curved(lambda x: cost(x, every), found)
        # and what the model does not know of shows when blocks of lines are left out
        blocks = np.array_split(every, max(1, min(8, every.size // 2)))
        if len(blocks) > 1:
            left = [best(found, np.setdiff1d(every, block)) for block in blocks]
            errors = np.maximum(errors, np.std(left, axis=0) * np.sqrt(len(blocks) - 1))
        return np.append(found, [0.0] * (not turn)), np.append(errors, [0.0] * (not turn))

    def _curved(self, cost: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
        """Standard errors at the minimum of a cost that adds up lines as if independent."""
        steps = np.diag([0.1, 0.5])[: x.size, : x.size]
        bend = np.array(
            [
                [
                    cost(x + a + b) - cost(x + a - b) - cost(x - a + b) + cost(x - a - b)
                    for b in steps / 2
                ]
                for a in steps / 2
            ]
        ) / np.outer(steps.diagonal(), steps.diagonal())
        if not (np.linalg.eigvalsh(bend) > 0).all():
            return np.full(x.size, np.inf)
        # neighbours d apart see the same structure: what they tell correlates by exp(-d^2 / l^2)
        shared = max(1.0, np.sqrt(np.pi) * float(np.exp(self.prior[0])))
        return np.sqrt(shared * np.linalg.inv(bend).diagonal())

    def _whitened(
        self, offset: float, prior: np.ndarray, some: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, float]:
        """Squared length of each line where the prior is a unit ball, and its log volume."""
        size, radius, noise = np.exp(np.clip(prior, *self.bounds))
        s, theta = self.s[some] - offset, self.theta[some]
        k = covariance(s, theta, size, radius)
        k /= np.median(np.diag(k))
        mean = np.exp(-0.5 * (s / radius) ** 2)
        k += np.multiply.outer(mean, mean) + 1.0
        k[np.diag_indices_from(k)] += noise
        root = np.linalg.cholesky(k)
        white = solve_triangular(root, self.values[some], lower=True)
        return (white**2).sum(0), float(np.log(np.diag(root)).sum())


def covariance(s: np.ndarray, theta: np.ndarray, size: float, radius: float) -> np.ndarray:
    r"""Covariance of the integrals of a random field along rays in its plane.

    Parameters
    ----------
    s, theta : (M,) arrays
        Place across, and tilt in radians, of each ray.
    size, radius : float
        Of the structure, and of the specimen about the axis; the unit of `s`.

    Returns
    -------
    (M, M) array

    Notes
    -----
    The field has the covariance :math:`e^{-(r^2 + r'^2)/2R^2 - |r - r'|^2 / 2\ell^2}`. With
    :math:`\Delta = \theta - \theta'`, :math:`a = R^{-2} + \ell^{-2}`,
    :math:`b = \ell^{-2}\cos\Delta` and :math:`d = a^2 - b^2`, its Gaussian integral over both rays
    is

    .. math:: \frac{2\pi}{\sqrt d} \exp\Big[ -\tfrac12 \big(a s^2 + a s'^2 - 2 b s s'\big)
        \Big(1 - \frac{\sin^2\Delta}{\ell^4 d}\Big) \Big] .

    Examples
    --------
    The same by sums along two rays:

    >>> s, theta, t = np.array([1.0, -0.5]), np.array([0.3, 1.2]), np.arange(-15, 15, 0.1)
    >>> x = s[:, None] * np.cos(theta[:, None]) - t * np.sin(theta[:, None])
    >>> z = s[:, None] * np.sin(theta[:, None]) + t * np.cos(theta[:, None])
    >>> apart = (x[0][:, None] - x[1]) ** 2 + (z[0][:, None] - z[1]) ** 2
    >>> inside = np.exp(-(x**2 + z**2) / (2 * 3.0**2))
    >>> summed = inside[0] @ np.exp(-apart / (2 * 2.0**2)) @ inside[1] * 0.1**2
    >>> bool(abs(covariance(s, theta, 2.0, 3.0)[0, 1] / summed - 1) < 1e-9)
    True
    """
    turn = theta[:, None] - theta
    a, b = radius**-2 + size**-2, np.cos(turn) / size**2
    d = a**2 - b**2
    q = a * (s[:, None] ** 2 + s**2) - 2 * b * s[:, None] * s
    return 2 * np.pi / np.sqrt(d) * np.exp(-0.5 * q * (1 - np.sin(turn) ** 2 / size**4 / d))
