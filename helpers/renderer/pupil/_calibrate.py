r"""The widths of an astigmatic spot at each depth, from a stack of beads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ..._arrays import Array, to_numpy
from ...noise.counting import SCMOS
from ..mle.estimate import fit
from ..renderers.gaussian import Gaussian2D
from .astigmatism import DIFFER, Astigmatism, constants_of, curves, parabolas
from .beads import check_stack, cut_beads, find_beads

WIDEST = 3.0  # a width over its least one, up to which planes count by themselves
LEAST_PLANES = 7  # five constants an axis, and something to judge them by
STEEPEST = 10.0  # cubic and quartic coefficient: beyond, depth and they are one


def calibrate_astigmatism(
    stack: Array,
    *,
    z_step: float,
    size: int = 15,
    z_range: tuple[float, float] | None = None,
    molecule: tuple[float, float] = (1000.0, 10.0),
) -> Astigmatism:
    r"""Find the widths of an astigmatic spot at each depth from a stack of beads.

    Parameters
    ----------
    stack : array (Z, Y, X)
        Photo-electrons; one plane a frame, in the order in which depths rise. For camera counts,
        `helpers.noise.to_electrons`.
    z_step : float
        Distance of the planes, µm.
    size : int
        Side in px of what is cut about each bead, odd.
    z_range : (float, float), optional
        Depths in µm, from where both widths are equal, that the curves serve. Left out, the planes
        about there in which neither width is above three times its least.
    molecule : (float, float)
        Photons of a usual molecule that will be fitted, and its background with the variance of
        the read noise. The pixels of a bead are weighed as in that fit.

    Returns
    -------
    Astigmatism

    Raises
    ------
    ValueError
        Fewer than seven planes, lengths that cannot be micrometres, NaN, no bead that stands alone,
        or widths that do not tell a depth: never equal, or narrowest in the same plane.

    Warns
    -----
    UserWarning
        Widths that scatter much about the curves.

    Notes
    -----
    Each bead is fitted in each plane with two free widths. The curves :math:`\sigma_x(z)`,
    :math:`\sigma_y(z)` of `helpers.renderer.renderers.Gaussian3D` :cite:p:`huang2008` and the
    depths :math:`z_b` of the beads follow together, by least squares over beads b and planes k,

    .. math:: \sum_{b,k} \Big(\frac{s_{x,bk} - \sigma_x(z_k + z_b)}{\epsilon_{x,bk}}\Big)^2
        + \Big(\frac{s_{y,bk} - \sigma_y(z_k + z_b)}{\epsilon_{y,bk}}\Big)^2 ,

    with the standard deviations :math:`\epsilon` of the widths.

    A point spread is no Gaussian, and a bright bead shows its faint wings. Its widths are then not
    those that a dim molecule has at the same depth. So a variance v is added to every pixel, with
    :math:`(b + v) / N` of the bead equal to that of the molecule. Used in
    :doc:`/book/renderer/09_beads`.

    Examples
    --------
    >>> from helpers.renderer.simulate import aberrated_psf
    >>> z, rng = 0.1 * np.arange(-5, 6), np.random.default_rng(0)
    >>> bead = aberrated_psf((40, 40), {5: 0.1}, -0.3, 0.2, z=z)
    >>> found = calibrate_astigmatism(rng.poisson(3e4 * bead + 20), z_step=0.1)
    >>> bool(found.constants[1, 0] > 0.1), bool(found.constants[1, 1] < -0.1)
    (True, True)
    """
    planes = np.asarray(to_numpy(stack), float)
    check_stack(planes, z_step, size)
    if len(planes) < LEAST_PLANES:
        raise ValueError(f"the stack has {len(planes)} planes: give at least {LEAST_PLANES}")
    if z_range is not None and not (len(z_range) == 2 and -20 < z_range[0] < z_range[1] < 20):
        raise ValueError(f"z_range is {z_range}: give the least and the largest depth, in µm")
    rows, columns, alone = find_beads(planes, size)
    rows, columns = rows[alone], columns[alone]
    if not (len(molecule) == 2 and molecule[0] > 0 and molecule[1] >= 0):
        raise ValueError(f"molecule is {molecule}: give its photons and its background")
    stage = (np.arange(len(planes)) - (len(planes) - 1) / 2) * z_step
    measured = _measured(cut_beads(planes, rows, columns, size), *molecule)
    found = _Curves(stage, *measured[:3])
    found.start(z_range)
    found.solve(z_range)
    constants, std = found.constants()
    used, residuals = found.used, found.residuals
    residual = float(np.sqrt(np.mean(residuals[used] ** 2)))
    if residual > DIFFER:
        warnings.warn(
            f"the widths differ by {100 * residual:.0f} % from the curves: narrow z_range, or "
            "look for clumps among the beads",
            stacklevel=2,
        )
    middle = (np.array(planes.shape[1:]) - 1) / 2
    x, y = columns - middle[1] + measured[3][:, 0], rows - middle[0] + measured[3][:, 1]
    order = np.argsort(x)
    values = [v[order] for v in (x, y, found.depths, measured[3][:, 2], residuals, used)]
    beads = np.rec.fromarrays(values, names="x,y,z,photons,residual,used")  # type: ignore[call-overload]
    return Astigmatism(constants, std, found.covered(z_range), residual, beads)


def _measured(cuts: np.ndarray, photons: float, background: float) -> tuple[np.ndarray, ...]:
    """Widths and their errors (B, K, 2), where they are good (B, K), and x, y, light (B, 3)."""
    n_beads, n_planes, size, _ = cuts.shape
    spot = Gaussian2D((size, size), elliptical=True)
    rim = np.concatenate([cuts[..., [0, -1]], cuts[..., [0, -1], :].swapaxes(-1, -2)], -2)
    dark = np.median(rim, axis=(-2, -1))
    light = np.median((cuts.sum((-2, -1)) - size**2 * dark).max(1))
    variance = max(light * background / photons - float(np.median(dark)), 1.0)
    fits = fit(cuts.reshape(-1, size, size), spot, SCMOS(variance), device="cpu")
    shape = n_beads, n_planes

    def pair(values: Any) -> np.ndarray:
        both = [np.asarray(values[f"sigma_{axis}"]).reshape(shape) for axis in "xy"]
        return np.stack(both, -1)

    widths, std = pair(fits.params), pair(fits.crlb_std)
    good = np.asarray(fits.converged).reshape(shape) & (std < 0.1 * widths).all(-1)
    good &= (widths < size / 3).all(-1)
    places = [np.asarray(fits.params[n]).reshape(shape) for n in ("x", "y", "photons")]
    sharp = np.where(good, widths.prod(-1), np.inf).argmin(1)
    return widths, std, good, np.stack([p[np.arange(n_beads), sharp] for p in places], 1)


class _Curves:
    """Least squares over the constants of both axes and the depth of each bead."""

    def __init__(
        self, stage: np.ndarray, widths: np.ndarray, std: np.ndarray, good: np.ndarray
    ) -> None:
        self.stage, self.measured, self.std, self.good = stage, widths, std, good
        self.depths, self.used = np.zeros(len(widths)), good.sum(1) >= LEAST_PLANES
        self.residuals = np.full(len(widths), np.nan)
        if not self.used.any():
            raise ValueError(
                f"no bead has a width in {LEAST_PLANES} planes: they are too dim, too far out of "
                "focus, or wider than a third of size"
            )

    def start(self, z_range: tuple[float, float] | None) -> None:
        """Curves and range from the medians over the beads, which lie at about one depth."""
        seen = np.where(self.good[..., None], self.measured, np.nan)[self.used]
        enough = self.good[self.used].sum(0) > self.used.sum() / 2
        medians = np.full((len(self.stage), 2), np.nan)
        medians[enough] = np.nanmedian(seen[:, enough], axis=0)
        ratio = np.log(medians[:, 0] / medians[:, 1])
        crossing = np.flatnonzero(ratio[:-1] * ratio[1:] <= 0)
        if not len(crossing):
            raise ValueError(
                "the widths along x and y are equal in no plane: the stack does not hold both "
                "foci, or nothing makes the spots astigmatic"
            )
        sharpest = crossing[medians[crossing].sum(1).argmin()]
        step = ratio[sharpest] - ratio[sharpest + 1]
        share = ratio[sharpest] / step if step else 0.0
        middle = self.stage[sharpest] + share * (self.stage[1] - self.stage[0])
        wide = ~(medians / np.nanmin(medians, axis=0) <= WIDEST).all(1)
        if z_range is None:
            below, above = np.flatnonzero(wide[:sharpest]), np.flatnonzero(wide[sharpest + 1 :])
            first = below[-1] + 1 if len(below) else 0
            last = sharpest + above[0] if len(above) else len(wide) - 1
            self.range = self.stage[first] - middle, self.stage[last] - middle
        else:
            self.range = z_range
        self.depths = np.full(len(self.depths), -middle)
        here = self._inside()
        z, at = (self.stage - middle)[here.any(0)], here.any(0)
        if at.sum() < LEAST_PLANES or not np.isfinite(medians[at]).all():
            raise ValueError(
                f"{int(np.isfinite(medians[at]).all(1).sum())} planes show the widths between "
                f"{self.range[0]:.2f} and {self.range[1]:.2f} µm: take {LEAST_PLANES} or more, in "
                "smaller steps, or another z_range"
            )
        self.theta = parabolas(z, medians[at])

    def _inside(self) -> np.ndarray:
        """Widths (B, K) that count: good, of a used bead, and in the range."""
        z = self.stage + self.depths[:, None]
        slack = 1e-9
        within = (z >= self.range[0] - slack) & (z <= self.range[1] + slack)
        return self.good & self.used[:, None] & within

    def solve(self, z_range: tuple[float, float] | None) -> None:
        """Fit, put the depths where both widths are equal, leave out odd beads; a few times."""
        for _ in range(3):
            here, used = self._inside(), np.flatnonzero(self.used)
            bead, plane = np.nonzero(here)
            number = np.searchsorted(used, bead)
            stage, seen, std = self.stage[plane], self.measured[here], self.std[here]
            common = self.depths[used].mean()

            def residuals(
                p: np.ndarray, number=number, stage=stage, seen=seen, std=std, common=common
            ) -> np.ndarray:
                z = stage + p[10:][number]
                left = (np.stack(curves(constants_of(p), z), -1) - seen) / std
                # the common depth is a matter of definition: held, and well within its errors
                return np.append(left.ravel(), 1e6 * (p[10:].mean() - common))

            start = np.concatenate([self.theta, self.depths[used]])
            limits = np.full(len(start), np.inf)
            limits[6:10] = STEEPEST
            self.found = least_squares(
                residuals, start, bounds=(-limits, limits), x_scale="jac", max_nfev=200
            )
            self.theta = self.found.x[:10]
            # the common depth moves with the place where both widths are equal
            zero = _equal(constants_of(self.theta), self.range)
            self.zero = zero
            self.depths[used] = self.found.x[10:] - zero
            self.theta = _moved(self.theta, zero)
            self._judge(here)
            keep = self.used & ~(self.residuals > max(0.03, 2.5 * np.median(self.residuals[used])))
            if (keep == self.used).all() and abs(zero) < 1e-4:
                break
            self.used = keep

    def _judge(self, here: np.ndarray) -> None:
        z = self.stage + self.depths[:, None]
        left = np.stack(curves(constants_of(self.theta), z), -1) / self.measured - 1
        counts = here.sum(1)
        square = np.where(here[..., None], left, 0.0) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            now = np.sqrt(square.sum((1, 2)) / (2 * counts))
        self.residuals = np.where(counts > 0, now, self.residuals)

    def constants(self) -> tuple[np.ndarray, np.ndarray]:
        """Constants (5, 2) and their standard deviations."""
        values = constants_of(self.theta)
        apart, mean_depth = abs(values[1, 0] - values[1, 1]), values[2].mean()
        if not apart > 0.1 * mean_depth:
            raise ValueError(
                f"both widths are least at {values[1, 0]:.2f} and {values[1, 1]:.2f} µm, which "
                "tells no depth: is the cylindrical lens in its place?"
            )
        jacobian = self.found.jac
        freedom = max(1, len(jacobian) - jacobian.shape[1])
        scatter = 2 * self.found.cost / freedom  # of what the fits say; v makes it too much
        covariance = np.linalg.pinv(jacobian.T @ jacobian) * scatter
        raw, small = self.found.x, 1e-6

        def final(p: np.ndarray) -> np.ndarray:
            zero = _equal(constants_of(p[:10]), self.range)
            return constants_of(_moved(p[:10], zero)).ravel()

        slopes = np.stack(
            [(final(raw + small * e) - final(raw - small * e)) / (2 * small)
             for e in np.eye(len(raw))[:10]], 1,
        )  # fmt: skip
        std = np.sqrt(np.diag(slopes @ covariance[:10, :10] @ slopes.T).clip(0))
        return values, std.reshape(5, 2)

    def covered(self, z_range: tuple[float, float] | None) -> tuple[float, float]:
        """The range, or what of it the beads show; refused where a width would vanish."""
        z = (self.stage + self.depths[:, None])[self._inside()]
        low, high = float(z.min()), float(z.max())
        if z_range is not None:
            step = self.stage[1] - self.stage[0]
            if low > z_range[0] + 1.5 * step or high < z_range[1] - 1.5 * step:
                raise ValueError(
                    f"z_range is {z_range} but the beads show {low:.2f} to {high:.2f} µm about "
                    "where both widths are equal: narrow it"
                )
            low, high = map(float, z_range)
        return low, high


def _moved(theta: np.ndarray, zero: float) -> np.ndarray:
    theta = theta.copy()
    theta[2:4] -= zero
    return theta


def _equal(constants: np.ndarray, z_range: Sequence[float]) -> float:
    """Depth at which both widths are equal, the one nearest to the middle of the foci."""
    reach = z_range[1] - z_range[0]
    z = np.linspace(z_range[0] - reach / 4, z_range[1] + reach / 4, 4001)
    x, y = curves(constants, z)
    apart = np.log(x / y)
    place = np.flatnonzero(apart[:-1] * apart[1:] <= 0)
    if not len(place):
        raise ValueError("the fitted widths are equal at no depth: take more planes, or beads")
    middle = constants[1].mean()
    k = place[np.abs(z[place] - middle).argmin()]
    step = apart[k] - apart[k + 1]
    return float(z[k] + (z[1] - z[0]) * (apart[k] / step if step else 0.0))
