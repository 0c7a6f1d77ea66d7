r"""Simulated cells in micrometres, and what the light-field microscope records of them.

An object is made of curves and points in physical units, so the same object can be sampled on any
grid. The views are computed on a grid that is finer than the one on which the volume is
reconstructed: a solver that only inverts its own assumptions shows it on these data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import uniform_filter
from scipy.special import erf, expit

from ..._arrays import to_numpy
from ..lightfield.operator import LightField
from ..lightfield.optics import Optics, psf
from .tubes import Tube, draw, moving_tubes, shifted, turn_back, walk
from .voxel_grid import axes_of, binned, field_size


def mitochondria(
    shape: Sequence[int],
    voxel_size: Sequence[float],
    *,
    seed: int,
    t: float = 0.0,
    n_tubes: int = 14,
    fission_time: float | None = None,
    bleaching: float = 0.0,
    cytoplasm: float = 0.0,
    speed: float = 0.3,
) -> np.ndarray:
    r"""A network of moving tubes, brightness 0.5 to 1, in a field of any shape.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X). Only the size of the field in um decides what is in it, so
        ``(32, 56, 56)`` voxels of half the height hold the same object as ``(16, 56, 56)``.
    voxel_size : (float, float, float)
        In um, (z, y, x).
    seed : int
        Of the scene. The same scene at another `t` has the same seed.
    t : float
        Time, in units of which the tubes drift `speed` um (one standard deviation for each lateral
        axis, half of it axially). At the walls of the field they turn back.
    n_tubes : int
        How many.
    fission_time : float, optional
        When the longest tube breaks in its middle; its halves then move apart.
    bleaching : float
        Rate k of the decay :math:`e^{-kt}` of all light.
    cytoplasm : float
        Brightness of a dim ellipsoid around all tubes.
    speed : float
        In um for each unit of time.

    Returns
    -------
    (Z, Y, X) float32 array
        Brightness at the centre of each voxel.

    Raises
    ------
    ValueError
        A shape or voxel size that is not three positive numbers, a negative rate or brightness.

    Notes
    -----
    Each tube is a persistent random walk with steps of 0.12 um that turn by 0.16 rad, 2.5 to 6 um
    long, with a radius of 0.20 to 0.32 um, in 72 % of the depth and 82 % of the width. A transverse
    wave of 0.1 um runs along it. Shown in :doc:`/book/inr/01_light_field`.

    Examples
    --------
    >>> volume = mitochondria((16, 56, 56), (0.34, 0.2171, 0.2171), seed=1)
    >>> volume.shape, bool(volume.max() > 0.5)
    ((16, 56, 56), True)
    """
    size = field_size(shape, voxel_size)
    for name, value in {"bleaching": bleaching, "cytoplasm": cytoplasm, "speed": speed}.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}: it must be zero or more")
    if n_tubes < 1:
        raise ValueError(f"n_tubes is {n_tubes}: draw at least one")
    tubes = moving_tubes(size, t, n_tubes, fission_time, speed, np.random.default_rng(seed))
    volume = draw(tubes, shape, voxel_size)
    if cytoplasm:
        z, y, x = axes_of(shape, voxel_size)
        half = 0.46 * size
        r = np.sqrt(
            (z[:, None, None] / half[0]) ** 2 + (y[:, None] / half[1]) ** 2 + (x / half[2]) ** 2
        )
        volume += cytoplasm * expit((1 - r) / 0.04).astype(np.float32)
    return volume * np.float32(np.exp(-bleaching * t))


def microtubules(
    shape: Sequence[int],
    voxel_size: Sequence[float],
    *,
    seed: int,
    t: float = 0.0,
    n_tubes: int = 22,
    bleaching: float = 0.0,
    speed: float = 0.1,
) -> np.ndarray:
    """Long, thin, nearly straight filaments that cross the field. Parameters as `mitochondria`.

    Their radius is 0.1 um, wider than the real 0.0125 um, so that a grid can hold them.

    Examples
    --------
    >>> microtubules((8, 40, 40), (0.34, 0.2171, 0.2171), seed=0).shape
    (8, 40, 40)
    """
    size = field_size(shape, voxel_size)
    rng = np.random.default_rng(seed)
    box = size * (0.36, 0.46, 0.46)
    tubes = []
    for _ in range(n_tubes):
        length = rng.uniform(0.5, 0.95) * size[1:].max()
        path = walk(rng, box, length, jitter=0.035, rise=0.12)
        tube = Tube(path, 0.1, rng.uniform(0.5, 1))
        velocity = speed * rng.normal(size=3) * (0.5, 1, 1)
        tubes.append(shifted(tube, turn_back(velocity * t, path, size)))
    return draw(tubes, shape, voxel_size) * np.float32(np.exp(-bleaching * t))


def beads(
    shape: Sequence[int],
    voxel_size: Sequence[float],
    *,
    positions: ArrayLike | None = None,
    gaps: Sequence[float] | None = None,
    seed: int = 0,
    t: float = 0.0,
    n_beads: int = 12,
    sigma: float = 0.12,
) -> np.ndarray:
    """Gaussian beads of equal light, integrated over each voxel.

    Parameters
    ----------
    shape, voxel_size
        As for `mitochondria`.
    positions : (N, 3) array, optional
        (z, y, x) in um from the centre of the field.
    gaps : sequence of float, optional
        Instead of `positions`: one pair of beads for each gap in um, one above the other, the pairs
        in a row along x (see `bead_pairs`). Without both, `n_beads` lie at random.
    seed : int
        Of the random places.
    t : float
        Beads do not move: as good as any other time.
    n_beads : int
        How many at random.
    sigma : float
        Standard deviation of a bead, in um.

    Returns
    -------
    (Z, Y, X) float32 array
        Each bead sums to 1, but for what is outside the field.

    Examples
    --------
    >>> volume = beads((16, 40, 40), (0.34, 0.2171, 0.2171), gaps=[1.02, 2.04])
    >>> round(float(volume.sum()), 3)
    4.0
    """
    size = field_size(shape, voxel_size)
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: it must be above 0 um")
    if positions is None and gaps is not None:
        positions = bead_pairs(gaps, size[2])
    elif positions is None:
        positions = np.random.default_rng(seed).uniform(-0.38, 0.38, (n_beads, 3)) * size
    positions = np.atleast_2d(np.asarray(positions, float))
    if positions.shape[1:] != (3,):
        raise ValueError(f"positions have shape {positions.shape}: expected (N, 3) of (z, y, x)")
    along = []
    for axis, (centre, step) in enumerate(zip(axes_of(shape, voxel_size), voxel_size, strict=True)):
        borders = np.append(centre - step / 2, centre[-1] + step / 2)
        cumulative = erf((borders - positions[:, axis, None]) / (np.sqrt(2) * sigma)) / 2
        along.append(np.diff(cumulative, axis=1))
    return np.einsum("nz,ny,nx->zyx", *along, optimize=True).astype(np.float32)


def bead_pairs(gaps: Sequence[float], width: int) -> np.ndarray:
    """Places (2 N, 3) in um of N pairs of beads, each a gap apart along z, in a row along x.

    Examples
    --------
    >>> bead_pairs([1.0, 0.6], 8.0)
    array([[-0.5,  0. , -2. ],
           [ 0.5,  0. , -2. ],
           [-0.3,  0. ,  2. ],
           [ 0.3,  0. ,  2. ]])
    """
    n = len(gaps)
    x = ((np.arange(n) + 0.5) / n - 0.5) * width
    return np.array(
        [(side * gap / 2, 0.0, at) for gap, at in zip(gaps, x, strict=True) for side in (-1, 1)]
    )


def valley_to_peak(
    volume: np.ndarray, voxel_size: Sequence[float], gaps: Sequence[float]
) -> list[float]:
    """Depth of the valley between the two beads of each pair: 0 apart, 1 not separated.

    Parameters
    ----------
    volume : (Z, Y, X) array or tensor
        A reconstruction of `beads` with these `gaps`, on a field of any grid.
    voxel_size : (float, float, float)
        In um.
    gaps : sequence of float
        As given to `beads`, in um.

    Returns
    -------
    list of float
        Along the axis of each pair, the light at the middle over the mean light at the two places.
        Each plane's light is summed over 3 x 3 pixels; between planes cubics do not overshoot.

    Examples
    --------
    >>> voxel, gaps = (0.1, 0.2, 0.2), [0.2, 1.0]
    >>> volume = beads((40, 20, 60), voxel, gaps=gaps)
    >>> [round(ratio, 2) for ratio in valley_to_peak(volume, voxel, gaps)]
    [1.09, 0.0]
    """
    volume = to_numpy(volume).astype(float)
    size = field_size(volume.shape, voxel_size)
    z, y, x = axes_of(volume.shape, voxel_size)
    light = uniform_filter(volume, (0, 3, 3))
    ratios = []
    for gap, place in zip(gaps, bead_pairs(gaps, size[2])[::2], strict=True):
        column = light[:, np.abs(y).argmin(), np.abs(x - place[2]).argmin()]
        below, middle, above = PchipInterpolator(z, column)([-gap / 2, 0, gap / 2])
        peak = (below + above) / 2
        ratios.append(float(middle / peak) if peak > 0 else float("nan"))
    return ratios


KINDS = {"mitochondria": mitochondria, "microtubules": microtubules, "beads": beads}


@dataclass(frozen=True)
class Simulation:
    """Views of a simulated object, and what stands behind them.

    Attributes
    ----------
    truth : (Z, Y, X) float32 array
        Photons that all views together receive from each voxel of the reconstruction grid.
    views : (V, Y', X') float32 array
        What the camera says: photons with shot noise and read noise, zero or more.
    expected : (V, Y', X') float32 array
        The views without noise, computed on the finer grid, background included.
    op : LightField
        The coarse operator, to reconstruct with.
    background : float
        Photons in every pixel.
    read_noise : float
        Standard deviation in each pixel, in electrons.
    voxel_size : (float, float, float)
        Of `truth`, in um.
    scale : float
        Photons for each unit of the phantom's brightness.
    """

    truth: np.ndarray
    views: np.ndarray
    expected: np.ndarray
    op: LightField
    background: float
    read_noise: float
    voxel_size: tuple
    scale: float


def simulate(
    kind: str | Callable[..., np.ndarray] = "mitochondria",
    *,
    shape: Sequence[int] = (16, 56, 56),
    voxel_size: Sequence[float] = (0.34, 0.2171, 0.2171),
    photons: float = 100.0,
    background: float = 4.0,
    read_noise: float = 1.5,
    seed: int = 0,
    views: str | ArrayLike = "hex7",
    view_pad: int = 20,
    t: float = 0.0,
    photons_at: float = 0.0,
    fine_planes: int = 2,
    fine_pixels: int = 1,
    noise_seed: int | None = None,
    optics: Optics | None = None,
    **options: Any,
) -> Simulation:
    """Record a phantom with a Fourier light-field microscope, simulated on a finer grid.

    Parameters
    ----------
    kind : {"mitochondria", "microtubules", "beads"} or callable
        The phantom; a callable is called as ``kind(shape, voxel_size, seed=, t=, **options)``.
    shape : (int, int, int)
        Voxels (Z, Y, X) of the reconstruction grid.
    voxel_size : (float, float, float)
        In um. The lateral one is the camera's: None, or that of `optics` within 1 %.
    photons : float
        Expected signal, background apart, at the brightest camera pixel at the time `photons_at`.
    background : float
        Photons in every camera pixel.
    read_noise : float
        In electrons (standard deviation).
    seed : int
        Of the scene.
    views : "hex7", "hex3", or array (V, 2)
        As in `psf`.
    view_pad : int
        Pixels that each view is larger than the volume on every side: parallax moves light there.
    t : float
        Time of the frame.
    photons_at : float
        Time at which `photons` is meant. Frames of a sequence share one exposure: bleaching shows.
    fine_planes : int
        Planes of the object for one of the reconstruction.
    fine_pixels : int
        Likewise along y and x; 2 costs four times as much.
    noise_seed : int, optional
        Of the noise; default, one that `seed` and `t` decide.
    optics : Optics, optional
        The instrument. Default: the published one.
    **options
        For the phantom, such as ``n_tubes=9`` or ``bleaching=0.5``.

    Returns
    -------
    Simulation

    Raises
    ------
    ValueError
        An unknown kind, amounts that are not positive, a voxel size that is not the camera's, a
        phantom that is dark.

    Notes
    -----
    Counts are ``max(Poisson(expected) + read_noise * normal, 0)``. Cutting at zero, as the software
    of a camera does, adds 0.04 photons to a dark pixel at the default noise.

    Examples
    --------
    >>> sim = simulate(seed=1, shape=(8, 24, 24), n_tubes=2)
    >>> sim.truth.shape, sim.views.shape, sim.op.in_shape
    ((8, 24, 24), (7, 64, 64), (8, 24, 24))
    >>> round(float(sim.expected.max()))
    104
    """
    phantom = KINDS.get(kind, None) if isinstance(kind, str) else kind
    if not callable(phantom):
        raise ValueError(f"kind is {kind!r}: use one of {', '.join(KINDS)}, or a function")
    optics = optics or Optics()
    _check_amounts(photons, background, read_noise, view_pad, fine_planes, fine_pixels)
    field_size(shape, voxel_size)
    if any(abs(d / optics.voxel_size - 1) > 0.01 for d in voxel_size[1:]):
        raise ValueError(
            f"voxel_size is {voxel_size}, but a camera pixel is {optics.voxel_size:.4f} um in the "
            "object: use that laterally, or give other optics"
        )
    named = views if isinstance(views, str) else tuple(map(tuple, np.asarray(views, float)))
    setting = (optics, tuple(shape), tuple(voxel_size), named, view_pad)
    op, fine_op = _operator(*setting, 1, 1), _operator(*setting, fine_planes, fine_pixels)
    factors = (fine_planes, fine_pixels, fine_pixels)

    def fine(at: float) -> tuple[np.ndarray, np.ndarray]:
        small = tuple(d / f for d, f in zip(voxel_size, factors, strict=True))
        volume = phantom(fine_op.in_shape, small, seed=seed, t=at, **options)
        light = fine_op(np.asarray(volume, np.float32))
        return volume, fine_pixels**2 * binned(light, (1, *factors[1:]))

    volume, signal = fine(t)
    brightest = float((signal if photons_at == t else fine(photons_at)[1]).max())
    if not brightest > 0:
        raise ValueError("the phantom is dark in every view: draw more of it, or a larger field")
    scale = photons / brightest
    expected = scale * signal.clip(min=0) + background
    rng = np.random.default_rng(
        [seed, round(abs(t) * 1e6), int(t < 0)] if noise_seed is None else noise_seed
    )
    counts = rng.poisson(expected) + read_noise * rng.standard_normal(expected.shape)
    return Simulation(
        truth=(scale * math.prod(factors) * binned(volume, factors)).astype(np.float32),
        views=counts.clip(min=0).astype(np.float32),
        expected=expected.astype(np.float32),
        op=op,
        background=float(background),
        read_noise=float(read_noise),
        voxel_size=tuple(voxel_size),
        scale=scale,
    )


@lru_cache(maxsize=4)
def _operator(
    optics: Optics,
    shape: Sequence[int],
    voxel_size: Sequence[float],
    views: Any,
    view_pad: int,
    fine_planes: int,
    fine_pixels: int,
) -> LightField:
    """The light field of a grid `fine_planes` times as deep and `fine_pixels` times as fine."""
    n_z, step = shape[0] * fine_planes, voxel_size[0] / fine_planes
    lateral = [n * fine_pixels for n in shape[1:]]
    view = [(n + 2 * view_pad) * fine_pixels for n in shape[1:]]
    window = 2 * ((max(lateral) + max(view) + 1) // 2)
    finer = replace(optics, lens_pixels=optics.lens_pixels * fine_pixels)
    h = psf(finer, (np.arange(n_z) - (n_z - 1) / 2) * step, window, views)
    voxel = (step, *(d / fine_pixels for d in voxel_size[1:]))
    return LightField(h, shape=lateral, view_shape=view, voxel_size=voxel)


def _check_amounts(
    photons: float,
    background: float,
    read_noise: float,
    view_pad: int,
    fine_planes: int,
    fine_pixels: int,
) -> None:
    if not 0 < photons < np.inf:
        raise ValueError(f"photons is {photons}: it must be above 0")
    for name, value in {"background": background, "read_noise": read_noise}.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}: it must be zero or more")
    whole = {"view_pad": (view_pad, 0), "fine_planes": (fine_planes, 1)}
    for name, (value, lowest) in (whole | {"fine_pixels": (fine_pixels, 1)}).items():
        if value != int(value) or value < lowest:
            raise ValueError(f"{name} is {value}: give a whole number, at least {lowest}")
