r"""A point spread function from beads as they come: found, cut, aligned, averaged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, spline_filter
from scipy.spatial import cKDTree

from ..._arrays import Array, to_numpy
from ...noise._checks import NoiseModel
from ...noise.counting import SCMOS
from ...optics.pupil import Pupil
from ..renderers.spline import Spline2D, Spline3D
from ._retrieve import STACK_MODES, retrieve
from .result import PupilFit

ROUNDS, STEPS = 2, 8  # of reference and places; steps of the alignment in each
SHARPEN = 4  # rounds that take the blur of the interpolation out of the average
REFUTED = 0.12  # relative misfit from which a pupil is not believed


@dataclass(frozen=True)
class BeadPSF:
    """Result of `psf_from_beads`.

    Attributes
    ----------
    stack : (Z, Y, X) array
        Point images without background, in the middle of their array; the brightest plane sums
        to 1. Of a single image (1, Y, X).
    spline : Spline3D or Spline2D
        The same as a renderer, for `helpers.renderer.mle.fit` and `localize`.
    pupil : PupilFit or None
        Retrieved from `stack` if an instrument was given.
    beads : structured array
        One row for each bead found: `x`, `y` in px from the centre of the field, `z` in µm from
        the middle of the stack, `photons` in the brightest plane, `background`, `used`.
    residuals : (n,) array
        Of each bead used, the root mean square of what the average leaves, over that of its light.
    pixel_size, z_step : float
        In µm.
    """

    stack: np.ndarray = field(repr=False)
    spline: Spline2D | Spline3D = field(repr=False)
    pupil: PupilFit | None = field(repr=False)
    beads: np.ndarray
    residuals: np.ndarray
    pixel_size: float
    z_step: float


def psf_from_beads(
    movie_or_stack: Array,
    *,
    pixel_size: float,
    z_step: float = 0.05,
    size: int = 25,
    pupil: Pupil | None = None,
    modes: Sequence[int] = STACK_MODES,
    noise: NoiseModel | None = None,
) -> BeadPSF:
    r"""Make a point spread function from the image or the stack of a field of beads.

    Parameters
    ----------
    movie_or_stack : array (Z, Y, X) or (Y, X)
        Photo-electrons; one plane a frame.
    pixel_size : float
        In the object, µm.
    z_step : float
        Distance of the planes, µm.
    size : int
        Side in px of what is cut about each bead, odd. A bead with a neighbour in there is found
        but not used.
    pupil : Pupil, optional
        The instrument: its wavefront is retrieved from the average.
    modes : sequence of int
        OSA indices for that.
    noise : object, optional
        A model of `helpers.noise`, for that; by default `SCMOS` with what the background shows.

    Returns
    -------
    BeadPSF

    Raises
    ------
    ValueError
        Lengths that cannot be micrometres, NaN, or no bead that stands alone.

    Warns
    -----
    UserWarning
        Beads that differ too much from their average, light that leaves the array, or a pupil that
        the images refute: a wrong z step, aperture, index or wavelength.

    Notes
    -----
    Every bead is the same function :math:`N_b\, h(r - r_b) + c_b` sampled at other places. In turn
    the places :math:`r_b` and the light are found by Gauss-Newton, from derivatives of the average
    (:cite:t:`lucas1981`), and the average is made anew. A cubic spline that moves samples by part
    of a pixel also blurs them; so what the average, moved onto each bead, leaves there is moved
    back and added, a few times. Used in :doc:`/book/renderer/09_beads`.

    Examples
    --------
    >>> from helpers.renderer.simulate import aberrated_psf
    >>> z, rng = np.arange(-4, 5) * 0.1, np.random.default_rng(0)
    >>> bead = [aberrated_psf((40, 40), {5: 0.06}, x, x, z=z) for x in (-9.7, 10.4)]
    >>> found = psf_from_beads(rng.poisson(2e4 * sum(bead) + 30), pixel_size=0.1, z_step=0.1,
    ...                        size=13)
    >>> found.stack.shape, found.beads.x.round(1).tolist()
    ((9, 13, 13), [-9.7, 10.4])
    """
    stack = np.asarray(to_numpy(movie_or_stack), float)
    stack = stack[None] if stack.ndim == 2 else stack
    if not 0.005 <= pixel_size <= 2:
        raise ValueError(f"pixel_size is {pixel_size}: it is counted in µm; divide nm by 1000")
    check_stack(stack, z_step, size)
    rows, columns, alone = find_beads(stack, size)
    cuts = cut_beads(stack, rows[alone], columns[alone], size)
    average, places, light, used = _averaged(cuts)
    average = _finished(average, cuts[used], places[used], light[used])
    left = _left(average, cuts[used], places[used], light[used])
    if len(left) > 2 and np.median(left) > 0.5:
        warnings.warn(
            f"the beads differ by {100 * np.median(left):.0f} % from their average: clumps, or a "
            "point spread that changes over the field",
            stacklevel=2,
        )
    beads = _table(stack, rows, columns, alone, used, places, light, z_step)
    spline: Spline2D | Spline3D
    shape = (size, size)
    spline = Spline2D(shape, average[0]) if len(stack) == 1 else Spline3D(shape, average, z_step)
    fitted = None
    if pupil is not None:
        total = float(np.median(light[used, 0]) * used.sum())
        base = float(np.median(light[used, 1]) * used.sum())
        fitted = _pupil(average * total, base, pupil, pixel_size, z_step, modes, noise)
    return BeadPSF(average, spline, fitted, beads, left, float(pixel_size), float(z_step))


def check_stack(stack: np.ndarray, z_step: float, size: int) -> None:
    """Refuse a stack, a step or a size that cannot be right."""
    if stack.ndim != 3 or min(stack.shape[1:]) < size + 2:
        raise ValueError(
            f"the stack is {stack.shape}: give (Z, Y, X), or (Y, X), larger than {size + 2} px"
        )
    if size != int(size) or size < 7 or size % 2 == 0:
        raise ValueError(f"size is {size}: give an odd number of pixels from 7 on")
    if not np.isfinite(stack).all():
        raise ValueError("the stack holds NaN or infinity: put the background there")
    reach = len(stack) * z_step
    if not z_step > 0 or (len(stack) > 1 and not 0.05 <= reach <= 40):
        raise ValueError(
            f"z_step is {z_step}, so {len(stack)} planes span {reach:g} µm: it is counted in µm; "
            "divide nm by 1000"
        )


def find_beads(stack: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of beads, brightest first, and which of them stand alone."""
    flat = gaussian_filter(stack.max(0) if len(stack) > 1 else stack[0], 1.0)
    flat = flat - np.median(flat)
    noise = 1.4826 * np.median(np.abs(flat))
    top = np.percentile(flat, 99.9)
    peaks = (flat == maximum_filter(flat, 2 * (size // 4) + 1)) & (flat > max(8 * noise, 0.1 * top))
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-flat[rows, columns])
    rows, columns = rows[order], columns[order]
    half = size // 2
    inside = (rows > half) & (rows < flat.shape[0] - half - 1)
    inside &= (columns > half) & (columns < flat.shape[1] - half - 1)
    if not len(rows):
        raise ValueError("no bead stands out of the background: give the stack of a bead sample")
    near = cKDTree(np.stack([rows, columns], 1)).query_pairs(0.75 * size, p=np.inf)
    crowded = np.zeros(len(rows), bool)
    crowded[[k for pair in near for k in pair]] = True
    brightness = flat[rows, columns]
    usual = np.median(brightness[inside & ~crowded]) if (inside & ~crowded).any() else 0.0
    alone = inside & ~crowded & (brightness < 3 * usual) & (brightness > usual / 3)
    if not alone.any():
        raise ValueError(
            f"none of {len(rows)} beads has {size} px to itself: dilute them, or give a smaller "
            "size"
        )
    return rows, columns, alone


def cut_beads(stack: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """The surroundings of some pixels in each plane, (B, Z, size, size)."""
    half = size // 2
    return np.stack(
        [
            stack[:, r - half : r + half + 1, c - half : c + half + 1]
            for r, c in zip(rows, columns, strict=True)
        ]
    )


def _moved(coefficients: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Samples of a function at the grid less `shift`, from the coefficients of its spline."""
    axes = [np.arange(n) - s for n, s in zip(coefficients.shape, shift, strict=True)]
    axes[0] = axes[0].clip(0, coefficients.shape[0] - 1)
    grid = np.meshgrid(*axes, indexing="ij")
    return map_coordinates(coefficients, grid, order=3, mode="nearest", prefilter=False)


def _coefficients(a: np.ndarray) -> np.ndarray:
    if a.shape[0] == 1:  # a single plane has no spline along z
        return spline_filter(a[0], 3, mode="nearest")[None]
    return spline_filter(a, 3, mode="nearest")


def _aligned(
    reference: np.ndarray, cut: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shift (3,) and (light, background) that bring the reference onto a bead."""
    spline = _coefficients(reference)
    deep = len(reference) > 1
    inner = slice(2, -2) if len(reference) > 8 else slice(None)
    light = np.array([1.0, 0.0])
    for _ in range(STEPS):
        model = _moved(spline, place)
        slopes = [np.gradient(model, axis=k) for k in (0, 1, 2) if deep or k]
        flat = np.stack([model, np.ones_like(model), *(-s for s in slopes)], -1)[inner]
        level = max(float(np.percentile(cut, 5)), 1.0)
        peak = max(float(cut.max() - level), 1.0)
        weight = 1 / (level + peak * model[inner].clip(0) / max(model.max(), 1e-30))
        root = np.sqrt(weight)[..., None]
        a = (flat * root).reshape(-1, flat.shape[-1])
        b = (cut[inner] * root[..., 0]).ravel()
        found = np.linalg.lstsq(a, b, rcond=None)[0]
        light = found[:2]
        step = found[2:] / max(light[0], 1e-30)
        step = np.concatenate([[0.0], step]) if not deep else step
        step = step.clip(-0.7, 0.7)
        place = place + step
        if np.abs(step).max() < 3e-3:
            break
    return place, light


def _averaged(
    cuts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average, places (B, 3), (light, background) (B, 2), and which beads it is made of."""
    n = len(cuts)
    base = np.median(np.percentile(cuts, 10, axis=(2, 3)), axis=1)
    light = np.stack([(cuts - base[:, None, None, None]).sum((2, 3)).max(1), base], 1)
    places = np.zeros((n, 3))
    # the first reference: the average where they are, moved in z by where they are brightest
    if cuts.shape[1] > 1:
        profile = gaussian_filter(cuts.max((2, 3)), (0, 1.0))
        places[:, 0] = profile.argmax(1) - np.median(profile.argmax(1))
    used = np.ones(n, bool)
    average = _mean(cuts, places, light, used)
    for _ in range(ROUNDS):
        for b in range(n):
            places[b], light[b] = _aligned(average, cuts[b], places[b])
        left = _left(average, cuts, places, light)
        limit = max(0.1, 2.5 * float(np.median(left)))
        used = (left < limit) & (light[:, 0] > 0) & (np.abs(places[:, 1:]) < 3).all(1)
        if not used.any():
            raise ValueError("no two beads look alike: is this the stack of a bead sample?")
        places -= places[used].mean(0)
        average = _mean(cuts, places, light, used)
        places[:, 1:] += _off_centre(average)
        average = _mean(cuts, places, light, used)
    return average, places, light, used


def _mean(cuts: np.ndarray, places: np.ndarray, light: np.ndarray, used: np.ndarray) -> np.ndarray:
    total = np.zeros(cuts.shape[1:])
    for b in np.flatnonzero(used):
        total += _moved(_coefficients(cuts[b] - light[b, 1]), -places[b])
    return _normalised(total / light[used, 0].sum())


def _normalised(average: np.ndarray) -> np.ndarray:
    """Dark at the rim of the sharpest plane, whose sum becomes 1."""
    plane = average[average.max((1, 2)).argmax()]
    rim = np.concatenate([plane[[0, -1]].ravel(), plane[1:-1, [0, -1]].ravel()])
    average = average - np.median(rim)
    return average / average.sum((1, 2)).max()


def _off_centre(average: np.ndarray) -> np.ndarray:
    """Centroid (y, x) of the bright part of the sharpest plane, from the middle."""
    plane = average[average.max((1, 2)).argmax()]
    bright = (plane - 0.2 * plane.max()).clip(0)
    middle = (np.array(plane.shape) - 1) / 2
    axes = [np.arange(n) for n in plane.shape]
    return (
        np.array([bright.sum(1) @ axes[0] / bright.sum(), bright.sum(0) @ axes[1] / bright.sum()])
        - middle
    )


def _finished(
    average: np.ndarray, cuts: np.ndarray, places: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """The average without the blur of moving samples between the pixels."""
    weight = light[:, 0] / light[:, 0].sum()
    for _ in range(SHARPEN if len(cuts) > 1 else 0):
        spline, change = _coefficients(average), 0.0
        for b, cut in enumerate(cuts):
            left = (cut - light[b, 1]) / light[b, 0] - _moved(spline, places[b])
            change = change + weight[b] * _moved(_coefficients(left), -places[b])
        average = average + change
    return _normalised(average)


def _left(
    average: np.ndarray, cuts: np.ndarray, places: np.ndarray, light: np.ndarray
) -> np.ndarray:
    spline = _coefficients(average)
    found = []
    for b, cut in enumerate(cuts):
        model = light[b, 0] * _moved(spline, places[b])
        found.append(np.linalg.norm(cut - light[b, 1] - model) / np.linalg.norm(model))
    return np.array(found)


def _table(
    stack: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    alone: np.ndarray,
    used: np.ndarray,
    places: np.ndarray,
    light: np.ndarray,
    z_step: float,
) -> np.ndarray:
    """All beads found, sorted along x; what was not measured is NaN."""
    n = len(rows)
    more = np.full((n, 5), np.nan)
    more[alone] = np.column_stack([places, light])
    take = np.zeros(n, bool)
    take[np.flatnonzero(alone)[used]] = True
    y = rows - (stack.shape[1] - 1) / 2 + np.nan_to_num(more[:, 1])
    x = columns - (stack.shape[2] - 1) / 2 + np.nan_to_num(more[:, 2])
    order = np.argsort(x)
    values = [v[order] for v in (x, y, -more[:, 0] * z_step, more[:, 3], more[:, 4], take)]
    return np.rec.fromarrays(values, names="x,y,z,photons,background,used")  # type: ignore[call-overload]


def _pupil(
    images: np.ndarray,
    base: float,
    pupil: Pupil,
    pixel_size: float,
    z_step: float,
    modes: Sequence[int],
    noise: NoiseModel | None,
) -> PupilFit:
    """The wavefront of the average, as bright as all beads together."""
    if abs(pupil.pixel_size / pixel_size - 1) > 1e-6:
        raise ValueError(
            f"the pupil has pixels of {pupil.pixel_size} µm, but pixel_size is {pixel_size}: give "
            "both alike, in the object"
        )
    z = (np.arange(len(images)) - (len(images) - 1) / 2) * z_step
    options: dict[str, Any] = {"modes": modes, "noise": noise or SCMOS(max(base, 1.0))}
    options |= {"blur": None, "each_plane": True, "saturation": math.inf}
    found = retrieve(images, z, pupil, **options)
    if found.misfit > REFUTED:
        better = {
            factor: retrieve(images, factor * z, pupil, n_iter=15, **options).misfit
            for factor in (0.8, 1.25)
        }
        factor = min(better, key=lambda f: better[f])
        hint = "check z step, aperture, index and wavelength, and the size of the beads"
        if better[factor] < 0.8 * found.misfit:
            hint = f"planes {factor * z_step:g} µm apart fit better: check the z step"
        warnings.warn(
            f"the pupil leaves {100 * found.misfit:.0f} % of the light of the beads unexplained: "
            f"{hint}",
            stacklevel=3,
        )
    return found
