r"""An astigmatic lens: the widths of a spot at each depth, and the files that keep them."""

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
from ..renderers.gaussian import Gaussian3D

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
        x, y = curves(self.constants, np.asarray(to_numpy(z), float))
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


def constants_of(theta: np.ndarray) -> np.ndarray:
    """Constants (5, 2) of the ten numbers of the fit; widths and depths are logarithms there."""
    values = theta[:10].reshape(5, 2).copy()
    values[[0, 2]] = np.exp(values[[0, 2]])
    return values


def curves(constants: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
    """Widths along x and y at depths z."""
    found = []
    for sigma, focus, depth, cubic, quartic in constants.T:
        t = (z - focus) / depth
        square = 1 + t**2 * (1 + t * (cubic + t * quartic))
        found.append(sigma * np.sqrt(np.maximum(square, 1e-6)))
    return found


def parabolas(z: np.ndarray, widths: np.ndarray) -> np.ndarray:
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
        return (np.stack(curves(constants_of(p), z), 1) / widths - 1).ravel()

    found = least_squares(left, parabolas(z, widths), x_scale="jac", max_nfev=500)
    residual = float(np.sqrt(np.mean(found.fun**2)))
    if residual > DIFFER:
        warnings.warn(
            f"{path}: the curves differ by {100 * residual:.0f} % from its polynomials between "
            f"{z_range[0]:g} and {z_range[1]:g} µm: give a smaller z_range",
            stacklevel=3,
        )
    constants = constants_of(found.x)
    return Astigmatism(constants, np.full((5, 2), np.nan), z_range, residual, _none())
