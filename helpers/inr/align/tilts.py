"""Alignment of a tilt series: the axis on the detector, its turn, and the drift of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import affine_transform, gaussian_filter1d

from ..._arrays import Array, to_numpy
from ..tomography.operator import ParallelBeam, checked_angles
from ..tomography.sirt import sirt
from ._evidence import Sinograms
from ._match import lag, matched, merged

SHEET = 64  # detector pixels across, about, on which the model is compared with the images
MOST = 24  # tilts from which the axis is found
ROUNDS = 3  # of axis and drift, in turn
REACH = 2.0  # px of the sheet that the axis may move in a round after the first
N_ITER = 20  # of SIRT; with few, a wrong axis costs nothing yet


@dataclass(frozen=True)
class TiltAlignment:
    """Axis and drift of a tilt series, as `helpers.inr.tomography.ParallelBeam` takes them.

    Attributes
    ----------
    offset, offset_error : float
        Place of the tilt axis, in px from the middle of the detector, and its standard error.
    axis_deg, axis_error : float
        Turn of the axis in the plane of the detector.
    shifts, shift_errors : (N, 2) array
        Drift of each image in px, (along, across) the axis. What a shift of the whole specimen
        does as well is taken out of it: the mean along, and the cosine and sine of the tilt
        across.
    background : (N,) array
        Values of the dark of each image.
    misfit : float
        Share of the projections that SIRT does not explain, after 20 iterations.
    misfit_before : float
        The same with the axis in the middle and no drift.
    settings : dict
    """

    offset: float
    offset_error: float
    axis_deg: float
    axis_error: float
    shifts: np.ndarray
    shift_errors: np.ndarray
    background: np.ndarray
    misfit: float
    misfit_before: float
    settings: dict

    @property
    def geometry(self) -> dict:
        """Arguments of `helpers.inr.tomography.ParallelBeam`."""
        return {
            "offset": self.offset,
            "axis_deg": self.axis_deg,
            "shifts": self.shifts,
            "axis": self.settings["axis"],
        }

    def apply(self, projections: Array, *, order: int = 3) -> np.ndarray:
        """The series with its axis straight, in the middle, and along Y; background subtracted.

        Parameters
        ----------
        projections : (N, Y, S) array
            Of the size that was aligned.
        order : int
            Of the spline. The noise of neighbouring pixels is then no longer independent: a fit
            takes the images as they are, and the geometry.

        Returns
        -------
        (N, Y, S) float32 array
            The axis along Y.
        """
        images = _axis_along_y(projections, self.settings["axis"])
        turn = np.deg2rad(self.axis_deg)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        middle, out = (np.array(images.shape[1:]) - 1) / 2, np.empty(images.shape, np.float32)
        for n, image in enumerate(images - self.background[:, None, None]):
            at = middle + self.shifts[n] + (0, self.offset)
            out[n] = affine_transform(image, rotation, at - rotation @ middle, order=order)
        return out


def tilts(
    projections: Array,
    angles_deg: ArrayLike,
    *,
    axis: Literal["Y", "X"] = "Y",
    drift: bool = True,
    turn: bool = True,
    background: ArrayLike | None = None,
) -> TiltAlignment:
    r"""Find the tilt axis and the drift of each image of a tilt series.

    Parameters
    ----------
    projections : (N, Y, S) array
        Sums along rays, bright where the specimen is. With `axis` "X": (N, S, X).
    angles_deg : sequence of float
        Tilts in degrees.
    axis : "Y" or "X"
        Direction of the tilt axis, within a few degrees.
    drift : bool
        False where images do not move against each other, and only the axis is sought.
    turn : bool
        False where the axis is straight.
    background : float or (N,) array, optional
        Value of the dark. Default: of each image, the darkest tenth of its profile across the
        axis.

    Returns
    -------
    TiltAlignment

    Raises
    ------
    ValueError
        Not one angle for each image, fewer than 5 images, less than 60 degrees from the first to
        the last, NaN, or images without contrast.

    Notes
    -----
    Along the axis the sum over each line of the detector is the same at every tilt, so profiles
    are correlated. Across it the centre of mass of each line follows

    .. math:: m(y, \theta) = x_0(y)\cos\theta + z_0(y)\sin\theta + s_0 - y\tan\alpha
        + \delta_\theta ,

    the first of the conditions that projections fulfil :cite:p:`helgason1965`; least squares give
    offset, turn and drift without a reconstruction, and leaving out blocks of lines their errors.
    A turned axis also moves what lies beside it to another line, by :math:`s\sin\alpha`, so images
    are sheared by the turn that was found and asked again, until it no longer changes.

    Where the specimen leaves the detector its centre is not seen. Neighbours are then correlated
    for a start. Each line is taken for a Gaussian process: structure of one size in a specimen of
    one radius, both fitted, has a covariance in closed form between any two rays. Offset and turn
    are where the recorded values are most probable, over all lines, and leaving out blocks of
    lines, and the curvature there, give their errors :cite:p:`rasmussen2006`. The projections of
    what SIRT reconstructs are matched with the images, by least squares of shift, brightness and
    background. Errors are then lower bounds with `drift`: those of the axis take the drift as it
    is, and those of the drift take the reconstruction as it is. Derived in
    :doc:`/book/inr/09_measured_tilts`.

    Examples
    --------
    >>> from helpers.inr import phantoms
    >>> series = phantoms.simulate_opt(15, shape=(24, 24, 24), seed=1)
    >>> found = tilts(np.roll(series.projections, 2, -1), series.op.angles_deg, drift=False)
    >>> abs(found.offset - 2) < 0.2
    True
    """
    angles = checked_angles(angles_deg)
    images = _axis_along_y(projections, axis)
    _check(images, angles)
    dark = _background(images) if background is None else np.asarray(background, float)
    dark = np.broadcast_to(dark, (len(angles),)).copy()
    images = images - dark[:, None, None]

    flat = _Here(0.0, 0.0, np.zeros((len(angles), 2)), np.zeros((len(angles), 2)))
    leaves = _leaves(images)
    here = _follow(images, angles, drift) if leaves else _centres(images, angles, drift, turn)
    model = _Model(images, angles, here, leaves)
    before = model.misfit(flat)
    for round_ in range(ROUNDS if leaves else 0):
        here = model.search(here, turn, first=not round_)
        if drift:
            here = model.match(here)
        elif not turn:  # nothing else has moved
            break
    return TiltAlignment(
        here.offset,
        here.offset_error,
        here.axis_deg,
        here.axis_deg_error,
        here.shifts,
        here.shift_errors,
        dark,
        model.misfit(here),
        before,
        {"axis": axis, "drift": drift, "turn": turn, "truncated": leaves},
    )


@dataclass(frozen=True)
class _Here:
    """An estimate of the geometry, in px of the detector."""

    offset: float
    axis_deg: float
    shifts: np.ndarray
    shift_errors: np.ndarray
    offset_error: float = 0.0
    axis_deg_error: float = 0.0


class _Model:
    """The series on merged pixels, around one geometry: its misfit, and how to lower it."""

    def __init__(
        self, images: np.ndarray, angles: Sequence[float], here: _Here, leaves: bool
    ) -> None:
        n, height, width = images.shape
        self.factor = f = max(1, round(width / SHEET))
        self.images = merged(images, f)
        # what the pixels left over at the end move the middle by
        self.middle = np.array([height % f, width % f]) / 2
        breadth = math.ceil((1.5 if leaves else 1.0) * (width // f))
        # what drifts into view is a part of the volume
        beyond = np.ptp(here.shifts[:, 0]) / 2 + abs(math.radians(here.axis_deg)) * width / 2
        self.shape = (breadth, height // f + 2 * math.ceil(beyond / f + 1), breadth)
        self.op = self._operator(angles, **self._scaled(here))
        # the axis needs no more than these, and a search looks often
        self.some = np.unique(np.linspace(0, n - 1, min(n, MOST)).round().astype(int))
        self.volume: Any = None

    def _operator(self, angles: ArrayLike, **geometry: Any) -> ParallelBeam:
        _, height, width = self.images.shape
        return ParallelBeam(angles, self.shape, width, height=height, **geometry)

    def _scaled(self, here: _Here) -> dict[str, Any]:
        return {
            "offset": (here.offset + self.middle[1]) / self.factor,
            "axis_deg": here.axis_deg,
            "shifts": (here.shifts + (self.middle[0], 0.0)) / self.factor,
        }

    def at(self, here: _Here) -> ParallelBeam:
        values = {k: torch.as_tensor(v) for k, v in self._scaled(here).items()}
        return self.op.at(values, interpolated=True)

    def misfit(self, here: _Here, n_iter: int = N_ITER) -> float:
        geometry = self._scaled(here)
        geometry["shifts"] = geometry["shifts"][self.some]
        op = self._operator(np.array(self.op.angles_deg)[self.some], **geometry)
        return float(sirt(op, self.images[self.some], n_iter, device="cpu").history[-1])

    def search(self, here: _Here, turn: bool, *, first: bool) -> _Here:
        """Move the axis to the most probable place; at first over half of the detector."""
        _, height, width = self.images.shape
        geometry, angles = self._scaled(here), np.array(self.op.angles_deg)[self.some]
        along, across = geometry["shifts"][self.some].T
        beside = geometry["offset"] + across
        lines = _levelled(self.images[self.some], along, beside, here.axis_deg).swapaxes(0, 1)
        slope = abs(math.radians(here.axis_deg))
        lost = math.ceil(np.abs(along).max() + slope * width / 2)
        lost = min(lost, max(0, (height - 3) // 2))
        sinograms = Sinograms(lines[lost : height - lost], angles, across)
        at = geometry["offset"]
        if first:
            far = width // 4
            places = at + np.arange(-far, far + 1)
            at = float(places[sinograms.scan(places).sum(1).argmin()])
        sinograms.fit(at)
        (offset, axis_deg), errors = sinograms.axis(at, REACH, turn)
        return replace(
            here,
            offset=float(offset * self.factor - self.middle[1]),
            axis_deg=float(axis_deg),
            offset_error=float(errors[0] * self.factor),
            axis_deg_error=float(errors[1]),
        )

    def match(self, here: _Here) -> _Here:
        """Move every image to where the projections of the reconstruction are."""
        op = self.at(here)
        self.volume = sirt(op, self.images, 10, start=self.volume, device="cpu").volume
        steps, errors = matched(self.images, op(self.volume))
        shifts = here.shifts + 1.3 * self.factor * steps
        # what all images share is the place of the specimen, or that of the axis
        patterns = _patterns(self.op.angles_deg)
        common = np.linalg.lstsq(patterns, shifts[:, 1])[0]
        shifts -= np.stack([np.full(len(shifts), shifts[:, 0].mean()), patterns @ common], 1)
        offset = here.offset + float(common[2])
        return replace(here, offset=offset, shifts=shifts, shift_errors=self.factor * errors)


def _centres(images: np.ndarray, angles: Sequence[float], drift: bool, turn: bool) -> _Here:
    """All numbers by centres of mass of the lines across the axis."""
    shifts = np.zeros((len(images), 2))
    errors = np.zeros_like(shifts)
    offset, turns, still = 0.0, [0.0], np.zeros(len(images))
    for _ in range(1 + 3 * turn):
        # each time, lines and profiles follow the turn that was found
        axis_deg = turns[-1]
        across = offset + shifts[:, 1]
        if drift:
            level = _levelled(images, still, across, axis_deg)
            shifts[:, 0], errors[:, 0] = _along(level.sum(2), int(np.abs(angles).argmin()))
        level = _levelled(images, shifts[:, 0], across, axis_deg)
        mass = level.sum(2)
        lines = np.flatnonzero(mass.min(0) > 0.2 * mass.max())
        if not lines.size:
            lines = np.array([int(mass.min(0).argmax())])
        centre = level[:, lines] @ (np.arange(images.shape[2]) - (images.shape[2] - 1) / 2)
        centre = centre / mass[:, lines]
        places, weights = lines - (images.shape[1] - 1) / 2, mass[:, lines].mean(0)
        offset, axis_deg, shifts[:, 1] = _axis(centre, places, weights, angles, drift, turn)
        turns.append(axis_deg)
    # each time, this share of the turn that is left stays
    last = np.diff(turns)[-2:]
    share = float(np.clip(last[-1] / last[0], 0.0, 0.8)) if turn and last[0] else 0.0
    axis_deg += share / (1 - share) * last[-1]

    def solve(kept: np.ndarray) -> tuple[float, float, np.ndarray]:
        return _axis(centre[:, kept], places[kept], weights[kept], angles, drift, turn)

    # lines that lie together err together: what each block of them decides, by the jackknife
    everything = np.arange(lines.size)
    blocks = np.array_split(everything, max(1, min(8, lines.size // 2)))
    far = turned = math.inf
    errors[:, 1] = math.inf if drift else 0.0
    if len(blocks) > 1:
        left = [solve(np.setdiff1d(everything, block)) for block in blocks]
        far, turned, errors[:, 1] = (
            np.std(np.array([each[k] for each in left]), axis=0) * np.sqrt(len(blocks) - 1)
            for k in range(3)
        )
    return _Here(offset, float(axis_deg), shifts, errors, float(far), float(turned) / (1 - share))


def _levelled(
    images: np.ndarray, along: np.ndarray, across: np.ndarray, axis_deg: float
) -> np.ndarray:
    """Images without drift along a turned axis, each line with what lies beside its own place."""
    # the turn has moved what lies s beside the axis along it, by s sin(turn)
    slope = math.sin(math.radians(axis_deg))
    shear = np.array([[1.0, slope], [0.0, 1.0]])
    middle = (np.array(images.shape[1:]) - 1) / 2
    starts = [middle - shear @ middle + (d, 0.0) for d in along - slope * across]
    pairs = zip(images, starts, strict=True)
    return np.stack([affine_transform(image, shear, at, order=1) for image, at in pairs])


def _axis(
    centre: np.ndarray,
    places: np.ndarray,
    weights: np.ndarray,
    angles: Sequence[float],
    drift: bool,
    turn: bool,
) -> tuple[float, float, np.ndarray]:
    """Offset, turn and drift across from centres of mass (N, lines)."""
    patterns = _patterns(angles)
    across = np.zeros(len(angles))
    if drift:
        rest = centre - patterns @ np.linalg.lstsq(patterns, centre)[0]
        across = np.average(rest, axis=1, weights=weights)
    axis = np.linalg.lstsq(patterns, centre - across[:, None])[0][2]
    if not turn or len(places) < 3:
        return float(np.average(axis, weights=weights)), 0.0, across
    slope, offset = np.polyfit(places, axis, 1, w=weights)
    return float(offset), float(-np.rad2deg(np.arctan(slope))), across


def _patterns(angles: Sequence[float]) -> np.ndarray:
    """Waves of a specimen's own place, and the axis, in each image: (N, 3)."""
    theta = np.deg2rad(angles)
    return np.stack([np.cos(theta), np.sin(theta), np.ones(len(theta))], axis=1)


def _follow(images: np.ndarray, angles: Sequence[float], drift: bool) -> _Here:
    """Drift from neighbour to neighbour, of a specimen that leaves the detector."""
    shifts = np.zeros((len(images), 2))
    if drift:
        shifts[:, 0], _ = _along(images.sum(2), int(np.abs(angles).argmin()))
        steps = [lag(b, a) for a, b in zip(images[:-1], images[1:], strict=True)]
        path, patterns = np.concatenate([[0.0], np.cumsum(steps)]), _patterns(angles)
        shifts[:, 1] = path - patterns @ np.linalg.lstsq(patterns, path)[0]
    return _Here(0.0, 0.0, shifts, np.zeros_like(shifts))


def _along(lines: np.ndarray, middle: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift of each profile (N, Y) along the axis against the mean of all, and its error."""
    places, reference = np.arange(lines.shape[1]), lines[middle]
    for _ in range(3):
        shifts = np.array([lag(line, reference) for line in lines])
        shifts -= shifts.mean()
        moved = np.stack(
            [np.interp(places + s, places, p) for p, s in zip(lines, shifts, strict=True)]
        )
        reference = moved.mean(0)
    noise = (moved - reference).std(1)
    return shifts, noise / np.linalg.norm(np.gradient(reference))


def _leaves(images: np.ndarray) -> bool:
    """True where the specimen leaves the detector across the axis."""
    profile = np.abs(images.mean((0, 1)))
    edge = max(1, len(profile) // 32)
    return max(profile[:edge].mean(), profile[-edge:].mean()) > 0.15 * profile.max()


def _background(images: np.ndarray) -> np.ndarray:
    """Value of the dark of each image: the darkest tenth of its profile across the axis."""
    profile = gaussian_filter1d(images.mean(1), images.shape[2] / 32, axis=1)
    darkest = np.sort(profile, axis=1)[:, : max(1, images.shape[2] // 10)].mean(1)
    # a specimen that fills the detector hides the dark of most images
    return np.full(len(images), darkest.min()) if _leaves(images - darkest.min()) else darkest


def _axis_along_y(projections: Array, axis: str) -> np.ndarray:
    if axis not in ("Y", "X"):
        raise ValueError(f"axis is {axis!r}: the tilt axis runs along 'Y' or 'X'")
    images = to_numpy(projections).astype(float)
    if images.ndim != 3:
        raise ValueError(f"the projections have shape {images.shape}: give (N, Y, S)")
    return images if axis == "Y" else images.swapaxes(1, 2)


def _check(images: np.ndarray, angles: Sequence[float]) -> None:
    if len(images) != len(angles):
        raise ValueError(f"there are {len(images)} images and {len(angles)} angles: one for each")
    if len(angles) < 5 or np.ptp(angles) < 60:
        raise ValueError(
            f"{len(angles)} images over {np.ptp(angles):.0f} degrees do not tell where the axis "
            "is: give 5 or more, over 60 degrees or more"
        )
    if not np.isfinite(images).all():
        raise ValueError("the projections hold NaN or infinite values: replace them first")
    if not (images.std((1, 2)) > 0).all():
        dead = int(np.flatnonzero(images.std((1, 2)) == 0)[0])
        raise ValueError(f"image {dead} has no contrast: leave it and its angle out")
