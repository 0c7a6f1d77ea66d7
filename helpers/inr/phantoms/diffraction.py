r"""A worm of refractive index, and what a camera counts behind it.

The worm is made of smooth bodies in physical units, so it can be sampled on any grid. Its images
come from the full wave equation on a grid that is finer than the one of the reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ..diffraction.led_array import Microscope
from .helmholtz import Helmholtz
from .voxel_grid import axes_of, binned, field_size

EDGE = 0.09  # width of a sigmoid edge, in um


def worm(shape: Sequence[int], voxel_size: Sequence[float], *, seed: int) -> np.ndarray:
    r"""Index contrast of a worm: a bent, tapered body with pharynx, gut, granules and embryos.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X). Only the size of the field in um decides what is in it: half the voxel
        size and twice the voxels show the same worm.
    voxel_size : (float, float, float)
        In um, (z, y, x).
    seed : int
        Of the shape, the pose and the contents.

    Returns
    -------
    (Z, Y, X) float32 array
        Refractive index minus that of the medium at the voxel centres: 0 outside, about 0.01 to
        0.03 inside.

    Raises
    ------
    ValueError
        A shape or voxel size that is not three positive numbers.

    Notes
    -----
    The plan is that of *C. elegans*, but as small as the field. Skin, the two bulbs of the
    pharynx, gut, granules and embryos are denser than the rest of the body, the lumen of the gut
    is not. Shown in :doc:`/book/inr/07_diffraction`.

    Examples
    --------
    >>> contrast = worm((24, 64, 64), (0.5, 0.2, 0.2), seed=0)
    >>> bool(contrast.min() == 0), bool(0.02 < contrast.max() < 0.035)
    (True, True)
    """
    size = field_size(shape, voxel_size)
    rng = np.random.default_rng(seed)
    width, length = 0.19 * size.min(), 0.40 * size[1:].min()
    axes = axes_of(shape, voxel_size)
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    s, v, z = _straightened(z, y, x, length, width, rng)
    t = s / length
    # blunt head, pointed tail
    profile = np.where(t < 0, 1 - np.abs(t) ** 3, 1 - np.abs(t) ** 1.7).clip(0)
    beyond = (np.abs(s) - length).clip(0)
    depth = width * np.sqrt(profile) - np.sqrt(v**2 + z**2 + beyond**2)
    near = depth > -8 * EDGE
    s, v, z, depth = s[near], v[near], z[near], depth[near]
    inside = expit(depth / EDGE)
    contrast = 0.012 + 0.005 * np.exp(-((depth / 0.25) ** 2))
    for change, centre, half_axes in _contents(length, width, rng):
        contrast = contrast + change * _lump((s, v, z), centre, half_axes)
    volume = np.zeros(shape, np.float32)
    volume[near] = (inside * contrast).clip(0)
    return volume


def _straightened(
    z: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    length: float,
    width: float,
    rng: np.random.Generator,
) -> Sequence[np.ndarray]:
    """Coordinates along the worm, and across it in the plane and in depth, all (Z, Y, X)."""
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    bend, wave = rng.uniform(0.7, 1.2) * width, rng.uniform(0.7, 1.2) * np.pi / length
    tilt, sag = rng.uniform(-0.12, 0.12), rng.uniform(-0.35, 0.35) * width
    y, x = y - rng.uniform(-0.06, 0.06) * length, x - rng.uniform(-0.06, 0.06) * length
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    slope = bend * wave * np.cos(wave * along + phase)
    # the distance from a sloping line is shorter than along the axis
    v = (across - bend * np.sin(wave * along + phase)) / np.sqrt(1 + slope**2)
    z = z - tilt * along - sag * np.cos(wave * along)
    return np.broadcast_arrays(along, v, z)


def _contents(
    length: float, width: float, rng: np.random.Generator
) -> list[tuple[float, Any, Any]]:
    """(change of index, centre (s, v, z), half axes) of what is in the body."""
    side = rng.choice([-1.0, 1.0])
    parts: list[tuple[float, Any, Any]] = [
        (0.008, (-0.66 * length, 0, 0), (0.55 * width, 0.42 * width, 0.42 * width)),
        (0.006, (-0.45 * length, 0, 0), (0.20 * length, 0.15 * width, 0.15 * width)),
        (0.009, (-0.25 * length, 0, 0), (0.50 * width, 0.50 * width, 0.50 * width)),
    ]
    gut = (0.32 * length, 0.35 * side * width, rng.uniform(-0.2, 0.2) * width)
    parts.append((0.005, gut, (0.48 * length, 0.36 * width, 0.36 * width)))
    parts.append((-0.013, gut, (0.42 * length, 0.13 * width, 0.13 * width)))
    for _ in range(14):
        place = rng.uniform(-0.05, 0.70) * length
        turn, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.18, 0.32)
        out = rng.uniform(0.2, 0.5) * width
        centre = (place, gut[1] + out * np.sin(turn), gut[2] + out * np.cos(turn))
        parts.append((0.011, centre, (radius, radius, radius)))
    for place in (0.08, 0.34, 0.56)[: rng.integers(2, 4)]:
        centre = (place * length, -0.42 * side * width, rng.uniform(-0.25, 0.25) * width)
        parts.append((0.008, centre, (0.46 * width, 0.34 * width, 0.36 * width)))
        parts.append((-0.006, centre, (0.25, 0.25, 0.25)))
    return parts


def _lump(
    place: Sequence[np.ndarray], centre: Sequence[float], half_axes: Sequence[float]
) -> np.ndarray:
    """A smooth ellipsoid: 1 inside, 0 outside."""
    scaled = [(p - c) / h for p, c, h in zip(place, centre, half_axes, strict=True)]
    radius = np.sqrt(sum(q**2 for q in scaled))
    return expit((1 - radius) * min(half_axes) / EDGE)


@dataclass(frozen=True)
class Scan:
    """Images of a simulated object under an LED array, and what stands behind them.

    Attributes
    ----------
    truth : (Z, Y, X) float32 array
        Index contrast, the mean over each voxel of the reconstruction grid.
    intensity : (L, Y, X) float32 array
        Counts divided by `photons`: in units of the bright field.
    expected : (L, Y, X) float32 array
        The intensity without noise.
    leds : (L, 2) array
        (y, x) directions ``n sin(theta)``.
    optics : Microscope
        With the voxels of `truth`.
    photons : float
        Expected counts in a pixel of the bright field.
    """

    truth: np.ndarray
    intensity: np.ndarray
    expected: np.ndarray
    leds: np.ndarray
    optics: Microscope
    photons: float


def simulate(
    leds: ArrayLike,
    *,
    phantom: Callable[..., np.ndarray] = worm,
    shape: Sequence[int] = (24, 64, 64),
    optics: Microscope | None = None,
    photons: float = 1000.0,
    seed: int = 0,
    finer: Sequence[int] = (4, 1, 1),
    strength: float = 1.0,
) -> Scan:
    """Record a phantom through the full wave equation, on a grid finer than `shape`.

    Parameters
    ----------
    leds : (L, 2) array
        (y, x) directions ``n sin(theta)``.
    phantom : callable
        ``phantom(shape, voxel_size, seed=)`` gives the index contrast.
    shape : (int, int, int)
        Voxels (Z, Y, X) of the reconstruction grid.
    optics : Microscope, optional
        The instrument, with the voxels of the reconstruction.
    photons : float
        Expected counts in a pixel of the bright field, for each LED.
    seed : int
        Of the object and of the noise.
    finer : (int, int, int)
        Fine voxels for one voxel of the reconstruction. The object itself is drawn twice as fine
        laterally.
    strength : float
        Factor of the index contrast.

    Returns
    -------
    Scan

    Raises
    ------
    ValueError
        Photons that are not above zero, and what the wave equation refuses.

    Examples
    --------
    >>> from helpers.inr.diffraction.led_array import spiral
    >>> scan = simulate(spiral(2, 0.6), shape=(8, 24, 24))
    >>> scan.truth.shape, scan.intensity.shape
    ((8, 24, 24), (2, 24, 24))
    """
    optics = optics or Microscope()
    if not 0 < photons < np.inf:
        raise ValueError(f"photons is {photons}: give the counts of the bright field, above zero")
    if len(finer) != 3 or any(int(f) != f or f < 1 for f in finer):
        raise ValueError(f"finer is {finer}: give three whole numbers (z, y, x)")
    field_size(shape, optics.voxel_size)
    draw = tuple(f * more for f, more in zip(finer, (1, 2, 2), strict=True))
    drawn = phantom(
        tuple(n * f for n, f in zip(shape, draw, strict=True)),
        tuple(d / f for d, f in zip(optics.voxel_size, draw, strict=True)),
        seed=seed,
    )
    drawn = np.float32(strength) * drawn
    fine = binned(drawn, (1, 2, 2))
    dz, dy, dx = (d / f for d, f in zip(optics.voxel_size, finer, strict=True))
    model = Helmholtz(replace(optics, voxel_size=(dz, dy, dx)), leds, fine.shape, pixels=shape[1:])
    expected = model(fine)
    rng = np.random.default_rng([seed, 1])
    counts = rng.poisson(photons * expected.astype(float))
    return Scan(
        truth=binned(fine, finer),
        intensity=(counts / photons).astype(np.float32),
        expected=expected,
        leds=np.asarray(leds, float),
        optics=optics,
        photons=float(photons),
    )
