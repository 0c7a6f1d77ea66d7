r"""The widths of an astigmatic spot at each depth, from a stack of beads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ..._arrays import Array, to_numpy
from ...io._formats import read_yaml
from ...io.files import atomic_path
from ...noise.counting import SCMOS
from ..mle.estimate import fit
from ..renderers.gaussian import Gaussian2D, Gaussian3D
from .beads import check_stack, cut_beads, find_beads

WIDEST = 3.0  # a width over its least one, up to which planes count by themselves
LEAST_PLANES = 7  # five constants an axis, and something to judge them by
STEEPEST = 10.0  # cubic and quartic coefficient: beyond, depth and they are one
DIFFER = 0.05  # relative residual of the widths from which the curves are not believed
NAMES = ("sigma", "focus", "depth", "cubic", "quartic")
X, Y = "X Coefficients", "Y Coefficients"
FRAMES, STEP, FACTOR = "Number of frames", "Step size in nm", "Magnification factor"
EXACT = "Gaussian3D"  # the constants themselves, which Picasso does not read


@dataclass(frozen=True)
class Astigmatism:
    """Result of `calibrate_astigmatism`: the widths of a spot at each depth.

    Attributes
    ----------
    constants : (5, 2) array
        Of x and of y: width in focus in px, focus in µm, depth in µm, cubic and quartic
        coefficient, as `helpers.renderer.renderers.Gaussian3D` has them. Depths count from where
        both widths are equal.
    constants_std : (5, 2) array
        Their standard deviations, scaled by how far the widths scatter about the curves; NaN where
        they are not known.
    z_range : (float, float)
        Depths in µm that the beads cover.
    residual : float
        Root mean square of what the curves leave of a width, over the width.
    beads : structured array
        One row for each bead that stands alone: `x`, `y` in px from the centre of the field, `z`
        in µm, its depth in the middle plane of the stack, `photons`, `residual`, `used`. Of a
        file, none.
    """

    constants: np.ndarray
    constants_std: np.ndarray
    z_range: tuple[float, float]
    residual: float
    beads: np.ndarray = field(repr=False)

    def widths(self, z: Array | float) -> tuple[np.ndarray, np.ndarray]:
        """Standard deviations of a spot along x and y, in px.

        Parameters
        ----------
        z : float or array
            Depth in µm.

        Examples
        --------
        >>> flat = np.array([[1.3, 1.3], [0.25, -0.25], [0.4, 0.4], [0, 0], [0, 0]])
        >>> found = Astigmatism(flat, flat * 0, (-0.5, 0.5), 0.0, np.zeros(0))
        >>> [float(w.round(2)) for w in found.widths(0.25)]
        [1.3, 2.08]
        """
        x, y = _curves(self.constants, np.asarray(to_numpy(z), float))
        return x, y

    def renderer(self, image_shape: Sequence[int]) -> Gaussian3D:
        """The spots as a renderer, for `helpers.renderer.mle.fit` and `localize`.

        Parameters
        ----------
        image_shape : (int, int)
            (Y, X) in pixels.
        """
        pairs: Any = {
            name: tuple(map(float, c)) for name, c in zip(NAMES, self.constants, strict=True)
        }
        return Gaussian3D(image_shape, z_range=self.z_range, **pairs)

    def save(self, path: str | Path) -> None:
        """Save as a calibration of Picasso, with the constants beside its polynomials.

        Parameters
        ----------
        path : str or Path
            Ends with ``.yaml``. Picasso reads polynomials of the sixth degree in nm; it counts
            depths from the middle of its stack, and the first frame as the highest.

        Raises
        ------
        ValueError
            Another ending.
        """
        path = _yaml(path)
        z = np.linspace(*self.z_range, 201)
        coefficients = [
            np.polynomial.Polynomial.fit(1e3 * z, width, 6).convert().coef[::-1]
            for width in self.widths(z)
        ]
        reach, n = 2e3 * max(map(abs, self.z_range)), 201
        document = {
            X: coefficients[0].tolist(),
            Y: coefficients[1].tolist(),
            FRAMES: n,
            STEP: reach / (n - 1),
            FACTOR: 1.0,
            EXACT: {
                "constants": self.constants.tolist(),
                "constants_std": np.where(
                    np.isfinite(self.constants_std), self.constants_std, -1.0
                ).tolist(),
                "z_range": list(self.z_range),
                "residual": float(self.residual),
            },
        }
        with atomic_path(path) as temporary:
            lines = (f"{name}: {json.dumps(value)}\n" for name, value in document.items())
            temporary.write_text("".join(lines), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, *, z_range: tuple[float, float] | None = None) -> Astigmatism:
        """Load a calibration of `save`, or one of Picasso.

        Parameters
        ----------
        path : str or Path
            Ends with ``.yaml``.
        z_range : (float, float), optional
            Depths in µm to take from polynomials of Picasso. Left out, the range of its stack.

        Raises
        ------
        FileNotFoundError, ValueError
            There is no such file, it is no calibration, or a range is missing.

        Warns
        -----
        UserWarning
            Polynomials that the curves cannot follow in this range.

        Notes
        -----
        The polynomials are replaced by curves of `Gaussian3D` of the least relative difference.
        A magnification factor of Picasso is applied to the depths.
        """
        path = _yaml(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: check the name and the folder")
        (document, *_) = read_yaml(path, f"{path} is a calibration")
        if EXACT in document:
            return _own(path, document[EXACT])
        return _from_polynomials(path, document, z_range)


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
        self.theta = _parabolas(z, medians[at])

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
                left = (np.stack(_curves(_constants(p), z), -1) - seen) / std
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
            zero = _equal(_constants(self.theta), self.range)
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
        left = np.stack(_curves(_constants(self.theta), z), -1) / self.measured - 1
        counts = here.sum(1)
        square = np.where(here[..., None], left, 0.0) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            now = np.sqrt(square.sum((1, 2)) / (2 * counts))
        self.residuals = np.where(counts > 0, now, self.residuals)

    def constants(self) -> tuple[np.ndarray, np.ndarray]:
        """Constants (5, 2) and their standard deviations."""
        values = _constants(self.theta)
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
            zero = _equal(_constants(p[:10]), self.range)
            return _constants(_moved(p[:10], zero)).ravel()

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


def _constants(theta: np.ndarray) -> np.ndarray:
    """Constants (5, 2) of the ten numbers of the fit; widths and depths are logarithms there."""
    values = theta[:10].reshape(5, 2).copy()
    values[[0, 2]] = np.exp(values[[0, 2]])
    return values


def _curves(constants: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
    """Widths along x and y at depths z."""
    found = []
    for sigma, focus, depth, cubic, quartic in constants.T:
        t = (z - focus) / depth
        square = 1 + t**2 * (1 + t * (cubic + t * quartic))
        found.append(sigma * np.sqrt(np.maximum(square, 1e-6)))
    return found


def _moved(theta: np.ndarray, zero: float) -> np.ndarray:
    theta = theta.copy()
    theta[2:4] -= zero
    return theta


def _equal(constants: np.ndarray, z_range: Sequence[float]) -> float:
    """Depth at which both widths are equal, the one nearest to the middle of the foci."""
    reach = z_range[1] - z_range[0]
    z = np.linspace(z_range[0] - reach / 4, z_range[1] + reach / 4, 4001)
    x, y = _curves(constants, z)
    apart = np.log(x / y)
    place = np.flatnonzero(apart[:-1] * apart[1:] <= 0)
    if not len(place):
        raise ValueError("the fitted widths are equal at no depth: take more planes, or beads")
    middle = constants[1].mean()
    k = place[np.abs(z[place] - middle).argmin()]
    step = apart[k] - apart[k + 1]
    return float(z[k] + (z[1] - z[0]) * (apart[k] / step if step else 0.0))


def _parabolas(z: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """A start: parabolas through the squares of the widths."""
    theta = np.zeros((5, 2))
    for axis in (0, 1):
        square, bend, top = np.polyfit(z, widths[:, axis] ** 2, 2)
        focus = -bend / (2 * square) if square > 0 else z[widths[:, axis].argmin()]
        least = top + focus * (bend + focus * square)
        if not (square > 0 and least > 0):
            least, focus = widths[:, axis].min() ** 2, z[widths[:, axis].argmin()]
            square = least / 0.4**2
        theta[:, axis] = np.log(least) / 2, focus, np.log(least / square) / 2, 0, 0
    return theta.ravel()


def _yaml(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"{path} ends with {path.suffix!r}: a calibration is a .yaml file")
    return path


def _own(path: Path, document: Any) -> Astigmatism:
    try:
        constants = np.array(document["constants"], float)
        std = np.array(document["constants_std"], float)
        low, high = map(float, document["z_range"])
        residual = float(document["residual"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole calibration ({error}): save it again") from error
    if constants.shape != (5, 2) or std.shape != (5, 2):
        raise ValueError(f"{path} has constants of the shape {constants.shape}: (5, 2) is right")
    return Astigmatism(constants, np.where(std < 0, np.nan, std), (low, high), residual, _none())


def _none() -> np.ndarray:
    names = "x,y,z,photons,residual,used"
    return np.rec.fromarrays([np.zeros(0)] * 6, names=names)  # type: ignore[call-overload]


def _from_polynomials(
    path: Path, document: Any, z_range: tuple[float, float] | None
) -> Astigmatism:
    try:
        both = [np.array(document[name], float) for name in (X, Y)]
        factor = float(document.get(FACTOR, 1.0))
        if z_range is None:
            reach = factor * (document[FRAMES] - 1) * document[STEP] / 2e3
            z_range = (-reach, reach)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not tell {error}: a calibration of Picasso has {X}, {Y}, and, unless "
            f"z_range= is given, {FRAMES} and {STEP}"
        ) from error
    z = np.linspace(*z_range, 201)
    widths = np.stack([np.polyval(c, 1e3 * z / factor) for c in both], 1)
    if not (widths > 0).all():
        raise ValueError(
            f"{path} has no width above zero everywhere between {z_range[0]:g} and "
            f"{z_range[1]:g} µm: give a smaller z_range"
        )

    def left(p: np.ndarray) -> np.ndarray:
        return (np.stack(_curves(_constants(p), z), 1) / widths - 1).ravel()

    found = least_squares(left, _parabolas(z, widths), x_scale="jac", max_nfev=500)
    residual = float(np.sqrt(np.mean(found.fun**2)))
    if residual > DIFFER:
        warnings.warn(
            f"{path}: the curves differ by {100 * residual:.0f} % from its polynomials between "
            f"{z_range[0]:g} and {z_range[1]:g} µm: give a smaller z_range",
            stacklevel=3,
        )
    constants = _constants(found.x)
    return Astigmatism(constants, np.full((5, 2), np.nan), z_range, residual, _none())
