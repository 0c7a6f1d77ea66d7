r"""Simulated specimens for tomography: a cluster of cells, and protein shells in ice.

An object is a list of ellipsoids and Gaussian blobs in physical units. Their shadows have closed
formulas, so projections are computed without a grid, and never through the operator that
reconstructs: a solver that only inverts its own assumptions shows it on these data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from ..tomography import ParallelBeam
from .voxel_grid import axes_of, binned, field_size

FINER = 2  # pixels and voxels are means over this many finer ones along each axis


@dataclass(frozen=True)
class Blob:
    """An ellipsoid, or a Gaussian.

    Attributes
    ----------
    centre : (3,) array
        (z, y, x) from the centre of the field.
    matrix : (3, 3) array
        Squared half axes as a matrix, or the covariance of a Gaussian.
    density : float
        Inside, or at the peak; it adds to what other blobs have at the same place.
    solid : bool
        An ellipsoid with a sharp edge; False for a Gaussian.
    """

    centre: np.ndarray
    matrix: np.ndarray
    density: float
    solid: bool = True


def cells(
    shape: Sequence[int],
    voxel_size: Sequence[float],
    *,
    seed: int,
    n_cells: int = 18,
    granules: int = 14,
) -> np.ndarray:
    """A cluster of fluorescent cells: ellipsoids with a nucleus, a vacuole and bright granules.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X). Only the size of the field decides what is in it.
    voxel_size : (float, float, float)
        In um, (z, y, x).
    seed : int
        Of the scene.
    n_cells : int
        How many are tried; in a full cluster some find no room.
    granules : int
        Bright spots in each cell.

    Returns
    -------
    (Z, Y, X) float32 array
        Mean brightness of each voxel; a cytoplasm has 0.3 to 0.6.

    Raises
    ------
    ValueError
        A shape or voxel size that is not three positive numbers, or a negative number of things.

    Examples
    --------
    >>> cells((24, 24, 24), (4.0, 4.0, 4.0), seed=0).shape
    (24, 24, 24)
    """
    return sample(
        cell_blobs(field_size(shape, voxel_size), seed, n_cells, granules), shape, voxel_size
    )


def apoferritin(
    shape: Sequence[int], voxel_size: Sequence[float], *, seed: int, n_shells: int = 5
) -> np.ndarray:
    """Hollow protein shells, 12 nm across, each of 24 subunits with the symmetry 432.

    Parameters
    ----------
    shape, voxel_size
        As for `cells`, in nm.
    seed : int
        Of the places and orientations.
    n_shells : int
        How many are tried; in a full field some find no room.

    Returns
    -------
    (Z, Y, X) float32 array
        Mean density of each voxel above that of ice; a subunit has about 1.

    Raises
    ------
    ValueError
        As for `cells`, or a field without room for a shell.

    Examples
    --------
    >>> apoferritin((24, 24, 24), (0.8, 0.8, 0.8), seed=0, n_shells=1).shape
    (24, 24, 24)
    """
    return sample(shell_blobs(field_size(shape, voxel_size), seed, n_shells), shape, voxel_size)


def cell_blobs(size: np.ndarray, seed: int, n_cells: int = 18, granules: int = 14) -> list[Blob]:
    """The blobs of `cells` in a field of `size` (z, y, x) um."""
    if min(n_cells, granules) < 0:
        raise ValueError(f"{n_cells} cells with {granules} granules: give zero or more")
    rng = np.random.default_rng(seed)
    radius = 0.115 * min(size)
    blobs = []
    for centre in _places(rng, 0.9 * (np.asarray(size) / 2 - radius), 1.7 * radius, n_cells):
        turn = _turn(rng)
        axes = radius * rng.uniform(0.8, 1.15, 3)
        cytoplasm = rng.uniform(0.3, 0.6)

        def inside(
            share: float,
            axes: np.ndarray = axes,
            turn: np.ndarray = turn,
            centre: np.ndarray = centre,
        ) -> np.ndarray:
            """A place in the cell, at most `share` of the way out."""
            step = rng.normal(size=3)
            return centre + turn @ (
                axes * step / np.linalg.norm(step) * share * rng.random() ** 0.4
            )

        blobs.append(Blob(centre, turn @ np.diag(axes**2) @ turn.T, cytoplasm))
        half = radius * rng.uniform(0.38, 0.5, 3)
        nucleus = inside(0.3)
        blobs.append(Blob(nucleus, turn @ np.diag(half**2) @ turn.T, rng.uniform(0.25, 0.5)))
        vacuole = np.eye(3) * (radius * rng.uniform(0.15, 0.25)) ** 2
        blobs.append(Blob(inside(0.6), vacuole, -0.8 * cytoplasm))
        for _ in range(granules):
            spread = np.eye(3) * (radius * rng.uniform(0.06, 0.2)) ** 2
            blobs.append(Blob(inside(0.75), spread, rng.uniform(0.1, 0.5), solid=False))
    return blobs


def shell_blobs(size: np.ndarray, seed: int, n_shells: int = 5) -> list[Blob]:
    """The blobs of `apoferritin` in a field of `size` (z, y, x) nm."""
    if n_shells < 0:
        raise ValueError(f"n_shells is {n_shells}: give zero or more")
    half = np.asarray(size) / 2 - 6.4
    if min(half) < 0:
        raise ValueError(f"the field is {tuple(size)} nm: a shell needs 12.8 nm along each axis")
    rng = np.random.default_rng(seed)
    subunit = np.diag(np.square([1.05, 1.05, 2.2]))
    lying = Rotation.from_euler("zyx", (35, 62, 20), degrees=True).as_matrix()
    place = 4.9 * lying[:, 0]
    blobs = []
    for centre in _places(rng, half, 12.6, n_shells):
        turn = _turn(rng)
        blobs.append(Blob(centre, np.eye(3) * 5.6**2, 0.45))
        blobs.append(Blob(centre, np.eye(3) * 4.1**2, -0.45))
        for symmetry in octahedral_rotations():
            to = turn @ symmetry
            blobs.append(Blob(centre + to @ place, to @ lying @ subunit @ (to @ lying).T, 0.55))
    return blobs


def octahedral_rotations() -> np.ndarray:
    """The 24 rotations of a cube, (24, 3, 3): the symmetry 432 of apoferritin.

    Examples
    --------
    >>> octahedral_rotations().shape
    (24, 3, 3)
    """
    signed = [
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
    return np.array([matrix for matrix in signed if np.linalg.det(matrix) > 0])


def sample(
    blobs: Any, shape: Sequence[int], voxel_size: Sequence[float], finer: int = FINER
) -> np.ndarray:
    """Mean density of the blobs in each voxel, (Z, Y, X) float32, from `finer` points per axis."""
    axes = axes_of([n * finer for n in shape], [d / finer for d in voxel_size])
    volume = np.zeros([len(axis) for axis in axes], np.float32)
    for blob in blobs:
        box, local = _near(axes, blob.centre, blob.matrix, blob.solid)
        z, y, x = (axis - c for axis, c in zip(local, blob.centre, strict=True))
        form = np.linalg.inv(blob.matrix)
        square = form[0, 0] * z[:, None, None] ** 2 + form[1, 1] * y[:, None] ** 2
        square = square + form[2, 2] * x**2 + 2 * form[1, 2] * y[:, None] * x
        square = square + 2 * z[:, None, None] * (form[0, 1] * y[:, None] + form[0, 2] * x)
        profile = square <= 1 if blob.solid else np.exp(-square / 2)
        volume[box] += np.float32(blob.density) * profile
    return binned(volume, [finer] * 3)


def shadows(
    blobs: Any, angles_deg: ArrayLike, shape: Sequence[int], pixel_size: float, finer: int = FINER
) -> np.ndarray:
    r"""Line integrals of the blobs in each detector pixel, (N, Y, S): density times pixels.

    The mean over each pixel is taken over `finer` points along each axis. A blob with the matrix M
    casts a shadow with the matrix :math:`m = P M P^\top`, P being the projection on the detector.
    At the place q from its centre it is as thick as

    .. math:: 2 \sqrt{\tfrac{\det M}{\det m}} \sqrt{1 - q^\top m^{-1} q}
        \quad\text{(ellipsoid)},\qquad
        \sqrt{2\pi \tfrac{\det M}{\det m}}\; e^{-q^\top m^{-1} q / 2} \quad\text{(Gaussian)}.
    """
    axes = axes_of([n * finer for n in shape], [pixel_size / finer] * 2)
    images = np.zeros((np.size(angles_deg), *(len(axis) for axis in axes)), np.float32)
    for image, angle in zip(images, np.deg2rad(angles_deg), strict=True):
        onto = np.array([[0.0, 1.0, 0.0], [np.sin(angle), 0.0, np.cos(angle)]])
        for blob in blobs:
            centre, matrix = onto @ blob.centre, onto @ blob.matrix @ onto.T
            box, local = _near(axes, centre, matrix, blob.solid)
            y, s = (axis - c for axis, c in zip(local, centre, strict=True))
            form = np.linalg.inv(matrix)
            square = (
                form[0, 0] * y[:, None] ** 2 + form[1, 1] * s**2 + 2 * form[0, 1] * y[:, None] * s
            )
            height = np.sqrt(np.linalg.det(blob.matrix) / np.linalg.det(matrix)) / pixel_size
            if blob.solid:
                profile = 2 * np.sqrt(np.maximum(1 - square, 0))
            else:
                profile = np.sqrt(2 * np.pi) * np.exp(-square / 2)
            image[box] += np.float32(blob.density * height) * profile
    return np.stack([binned(image, [finer] * 2) for image in images])


@dataclass(frozen=True)
class TiltSeries:
    """Projections of a simulated object, and what stands behind them.

    Attributes
    ----------
    truth : (Z, Y, X) float32 array
        What a perfect reconstruction would give, in the unit of the projections per voxel.
    projections : (N, Y, S) float32 array
        Measured: with noise and background.
    expected : (N, Y, S) float32 array
        The same without noise, background included.
    op : ParallelBeam
        To reconstruct with.
    background : float
        In every pixel.
    voxel_size : float
        In `unit`.
    unit : str
        "um" or "nm".
    """

    truth: np.ndarray
    projections: np.ndarray
    expected: np.ndarray
    op: ParallelBeam
    background: float
    voxel_size: float
    unit: str


def simulate_opt(
    n_views: int = 7,
    *,
    shape: Sequence[int] = (48, 48, 48),
    photons: float = 500.0,
    background: float = 4.0,
    seed: int = 0,
) -> TiltSeries:
    """Optical projection tomography of `cells`: views over half a turn, with photon noise.

    Parameters
    ----------
    n_views : int
        Views, ``180 / n_views`` degrees apart.
    shape : (int, int, int)
        Voxels (Z, Y, X); the field is always 96 um along its shortest side.
    photons : float
        Expected signal, background apart, at the brightest pixel of all views.
    background : float
        Photons in every pixel.
    seed : int
        Of the scene and the noise.

    Returns
    -------
    TiltSeries
        `truth` in photons that each voxel sends to each view.

    Raises
    ------
    ValueError
        No views, no photons, a negative background.

    Examples
    --------
    >>> data = simulate_opt(3, shape=(16, 16, 16))
    >>> data.projections.shape, data.op.angles_deg
    ((3, 16, 23), (0.0, 60.0, 120.0))
    """
    if n_views < 1 or not photons > 0 or not background >= 0:
        raise ValueError(
            f"{n_views} views, {photons} photons, background {background}: give at least one "
            "view, photons above zero, and a background of zero or more"
        )
    voxel_size = 96 / min(shape)
    blobs = cell_blobs(field_size(shape, (voxel_size,) * 3), seed)
    op = ParallelBeam(np.arange(n_views) * 180 / n_views, shape)
    clean = shadows(blobs, op.angles_deg, op.out_shape[1:], voxel_size)
    scale = np.float32(photons / clean.max())
    expected = scale * clean + np.float32(background)
    noisy = np.random.default_rng((seed, n_views)).poisson(expected).astype(np.float32)
    truth = scale * sample(blobs, shape, (voxel_size,) * 3)
    return TiltSeries(truth, noisy, expected, op, background, voxel_size, "um")


def simulate_cryo(
    n_tilts: int = 13,
    *,
    shape: Sequence[int] = (48, 48, 48),
    snr: float = 0.3,
    max_tilt: float = 60.0,
    seed: int = 0,
) -> TiltSeries:
    """Cryo-electron tomography of `apoferritin`: a tilt series in strong Gaussian noise.

    Parameters
    ----------
    n_tilts : int
        Tilts, evenly from ``-max_tilt`` to ``max_tilt``.
    shape : (int, int, int)
        Voxels (Z, Y, X) of 0.8 nm.
    snr : float
        Variance of the signal over that of the noise, in the projections.
    max_tilt : float
        In degrees.
    seed : int
        Of the scene and the noise.

    Returns
    -------
    TiltSeries
        `truth` in the contrast of a protein against ice; protein is bright. The microscope's
        contrast transfer is taken as corrected.

    Raises
    ------
    ValueError
        Fewer than two tilts, a tilt outside 0 to 90 degrees, or a signal-to-noise ratio of zero.

    Examples
    --------
    >>> data = simulate_cryo(3, shape=(20, 20, 20))
    >>> data.projections.shape, data.op.angles_deg
    ((3, 20, 29), (-60.0, 0.0, 60.0))
    """
    if n_tilts < 2 or not 0 < max_tilt <= 90 or not snr > 0:
        raise ValueError(
            f"{n_tilts} tilts to {max_tilt} degrees at a signal-to-noise ratio of {snr}: give at "
            "least two tilts, at most 90 degrees, and a ratio above zero"
        )
    voxel_size = 0.8
    blobs = shell_blobs(field_size(shape, (voxel_size,) * 3), seed)
    op = ParallelBeam(np.linspace(-max_tilt, max_tilt, n_tilts), shape)
    expected = shadows(blobs, op.angles_deg, op.out_shape[1:], voxel_size)
    rng = np.random.default_rng((seed, n_tilts))
    noise = rng.normal(0, expected.std() / np.sqrt(snr), expected.shape)
    truth = sample(blobs, shape, (voxel_size,) * 3)
    noisy = (expected + noise).astype(np.float32)
    return TiltSeries(truth, noisy, expected, op, 0.0, voxel_size, "nm")


def _places(
    rng: np.random.Generator, half: np.ndarray, apart: float, n: int, tries: int = 400
) -> list[np.ndarray]:
    """Up to `n` places in an elliptic cylinder about y, none closer than `apart` to another.

    A cylinder, because tilted cubes lose their edges.
    """
    places: list[np.ndarray] = []
    for _ in range(tries):
        place = rng.uniform(-1, 1, 3) * half
        if len(places) == n or np.hypot(place[0] / half[0], place[2] / half[2]) > 1:
            continue
        if all(np.linalg.norm(place - other) >= apart for other in places):
            places.append(place)
    return places


def _turn(rng: np.random.Generator) -> np.ndarray:
    return Rotation.from_quat(rng.normal(size=4)).as_matrix()


def _near(
    axes: Sequence[np.ndarray], centre: np.ndarray, matrix: np.ndarray, solid: bool
) -> tuple[Any, list[np.ndarray]]:
    """The part of a grid that a blob reaches: slices, and the axes cut by them."""
    reach = np.sqrt(np.diag(matrix)) * (1 if solid else 4)
    box = tuple(
        slice(*np.searchsorted(axis, (c - r, c + r)).tolist())
        for axis, c, r in zip(axes, centre, reach, strict=True)
    )
    return box, [axis[part] for axis, part in zip(axes, box, strict=True)]
