r"""Simulated cells in micrometres, and what the light-field microscope records of them.

An object is made of curves and points in physical units, so the same object can be sampled on any
grid. The views are computed on a grid that is finer than the one on which the volume is
reconstructed: a solver that only inverts its own assumptions shows it on these data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import erf, expit

from .lightfield import LightField, Optics, psf

EDGE = 0.07  # width of a tube's sigmoid edge, in um


@dataclass(frozen=True)
class Tube:
    """A bent tube: `path` (N, 3) of (z, y, x) in um from the centre of the field, `radius` in um.

    `amplitude` is the brightness inside.
    """

    path: np.ndarray
    radius: float
    amplitude: float


def mitochondria(
    shape,
    voxel_size,
    *,
    seed,
    t=0.0,
    n_tubes=14,
    fission_time=None,
    bleaching=0.0,
    cytoplasm=0.0,
    speed=0.3,
):
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
    size = _field(shape, voxel_size)
    for name, value in {"bleaching": bleaching, "cytoplasm": cytoplasm, "speed": speed}.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}: it must be zero or more")
    if n_tubes < 1:
        raise ValueError(f"n_tubes is {n_tubes}: draw at least one")
    tubes = _moving_tubes(size, t, n_tubes, fission_time, speed, np.random.default_rng(seed))
    volume = draw(tubes, shape, voxel_size)
    if cytoplasm:
        z, y, x = _axes(shape, voxel_size)
        half = 0.46 * size
        r = np.sqrt(
            (z[:, None, None] / half[0]) ** 2 + (y[:, None] / half[1]) ** 2 + (x / half[2]) ** 2
        )
        volume += cytoplasm * expit((1 - r) / 0.04).astype(np.float32)
    return volume * np.float32(np.exp(-bleaching * t))


def microtubules(shape, voxel_size, *, seed, t=0.0, n_tubes=22, bleaching=0.0, speed=0.1):
    """Long, thin, nearly straight filaments that cross the field. Parameters as `mitochondria`.

    Their radius is 0.1 um, wider than the real 0.0125 um, so that a grid can hold them.

    Examples
    --------
    >>> microtubules((8, 40, 40), (0.34, 0.2171, 0.2171), seed=0).shape
    (8, 40, 40)
    """
    size = _field(shape, voxel_size)
    rng = np.random.default_rng(seed)
    box = size * (0.36, 0.46, 0.46)
    tubes = []
    for _ in range(n_tubes):
        length = rng.uniform(0.5, 0.95) * size[1:].max()
        path = _walk(rng, box, length, jitter=0.035, rise=0.12)
        tube = Tube(path, 0.1, rng.uniform(0.5, 1))
        velocity = speed * rng.normal(size=3) * (0.5, 1, 1)
        tubes.append(_shifted(tube, _turn_back(velocity * t, path, size)))
    return draw(tubes, shape, voxel_size) * np.float32(np.exp(-bleaching * t))


def beads(shape, voxel_size, *, positions=None, gaps=None, seed=0, t=0.0, n_beads=12, sigma=0.12):
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
    size = _field(shape, voxel_size)
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
    for axis, (centre, step) in enumerate(zip(_axes(shape, voxel_size), voxel_size, strict=True)):
        borders = np.append(centre - step / 2, centre[-1] + step / 2)
        cumulative = erf((borders - positions[:, axis, None]) / (np.sqrt(2) * sigma)) / 2
        along.append(np.diff(cumulative, axis=1))
    return np.einsum("nz,ny,nx->zyx", *along, optimize=True).astype(np.float32)


def bead_pairs(gaps, width):
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


def draw(tubes, shape, voxel_size):
    """Brightness at the voxel centres: where tubes cross, their light adds up.

    Parameters
    ----------
    tubes : sequence of Tube
        In um from the centre of the field.
    shape, voxel_size
        As for `mitochondria`.

    Returns
    -------
    (Z, Y, X) float32 array
    """
    axes = _axes(shape, voxel_size)
    volume = np.zeros(shape, np.float32)
    for tube in tubes:
        reach = tube.radius + 8 * EDGE
        box = _box(tube.path, axes, reach)
        local = [axis[part] for axis, part in zip(axes, box, strict=True)]
        squared = np.full([len(axis) for axis in local], np.inf)
        # A short run of the path is near few voxels only: that is what makes this fast.
        for k in range(0, len(tube.path) - 1, 6):
            run = tube.path[k : k + 7]
            near = _box(run, local, reach)
            part = [axis[at] for axis, at in zip(local, near, strict=True)]
            if all(len(axis) for axis in part):
                squared[near] = np.minimum(squared[near], _squared_distance(run, part))
        volume[box] += tube.amplitude * expit((tube.radius - np.sqrt(squared)) / EDGE)
    return volume


def _squared_distance(path, axes):
    """Squared distance (Z, Y, X) of each point of a grid from the nearest segment of `path`."""
    z, y, x = (axis[:, None] for axis in axes)
    start, along = path[:-1], np.diff(path, axis=0)
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    # The dot product and the square split into one term for each axis: (axis, segment) tables.
    dot = [(a - start[:, i]) * along[:, i] / length for i, a in enumerate((z, y, x))]
    square = [(a - start[:, i]) ** 2 for i, a in enumerate((z, y, x))]
    s = dot[0][:, None, None] + dot[1][:, None] + dot[2]
    d = square[0][:, None, None] + square[1][:, None] + square[2]
    nearest = s.clip(0, 1)
    return np.maximum(d + length * nearest * (nearest - 2 * s), 0).min(axis=-1)


def _box(path, axes, reach):
    lo, hi = path.min(axis=0) - reach, path.max(axis=0) + reach
    return tuple(
        slice(*np.searchsorted(axis, (a, b)).tolist())
        for axis, a, b in zip(axes, lo, hi, strict=True)
    )


def _moving_tubes(size, t, n_tubes, fission_time, speed, rng):
    """The tubes of a cell at time `t`; all that is random is drawn before `t` is looked at."""
    tubes, velocities, waves = [], [], []
    for _ in range(n_tubes):
        path = _walk(rng, size * (0.36, 0.41, 0.41), rng.uniform(2.5, 6), jitter=0.16, rise=0.35)
        tubes.append(Tube(path, rng.uniform(0.20, 0.32), rng.uniform(0.5, 1)))
        velocities.append(speed * rng.normal(size=3) * (0.5, 1, 1))
        waves.append((rng.uniform(1.5, 3), rng.uniform(0.3, 0.8), rng.uniform(0, 2 * np.pi)))
    shifts = [_turn_back(v * t, tube.path, size) for v, tube in zip(velocities, tubes, strict=True)]
    waving = [
        _shifted(_waving(tube, t, *wave), shift)
        for tube, wave, shift in zip(tubes, waves, shifts, strict=True)
    ]
    if fission_time is not None and t > fission_time:
        longest = int(np.argmax([len(tube.path) for tube in tubes]))
        waving[longest : longest + 1] = _broken(waving[longest], t - fission_time)
    return waving


def _walk(rng, half, length, *, jitter, rise, step=0.12):
    """A persistent random walk of steps of `step` um that turns back at the walls of a box."""
    at = rng.uniform(-1, 1, 3) * half
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.normal(0, rise)
    turns = rng.normal(0, jitter, (int(length / step), 2))
    path = [at]
    for turn, tilt in turns:
        azimuth += turn
        elevation = 0.95 * elevation + 0.5 * tilt
        direction = np.array(
            [
                np.sin(elevation),
                np.cos(elevation) * np.sin(azimuth),
                np.cos(elevation) * np.cos(azimuth),
            ]
        )
        outside = np.abs(at + step * direction) > half
        direction = np.where(outside, -direction, direction)
        elevation = np.arcsin(direction[0])
        azimuth = np.arctan2(direction[1], direction[2])
        at = at + step * direction
        path.append(at)
    return np.array(path)


def _waving(tube, t, wavelength, frequency, phase, height=0.1):
    """A lateral wave that runs along the tube."""
    tangent = np.gradient(tube.path, axis=0)
    across = np.stack([0 * tangent[:, 0], tangent[:, 2], -tangent[:, 1]], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    along = np.linalg.norm(np.diff(tube.path, axis=0), axis=1).cumsum()
    s = np.append(0, along)
    wave = height * np.sin(2 * np.pi * (s / wavelength - frequency * t) + phase)
    return _shifted(tube, wave[:, None] * across)


def _shifted(tube, shift):
    return Tube(tube.path + shift, tube.radius, tube.amplitude)


def _turn_back(shift, path, size, share=0.45):
    """Fold a drift so that the path stays between the walls at `share` of the size."""
    lo = -share * size - path.min(axis=0)
    hi = share * size - path.max(axis=0)
    room = np.maximum(hi - lo, 1e-9)
    return lo + room - np.abs((shift - lo) % (2 * room) - room)


def _broken(tube, since, speed=0.5, furthest=0.45):
    """Two halves, each `speed` times `since` um (at most `furthest`) from the break."""
    middle = len(tube.path) // 2
    tangent = tube.path[middle + 1] - tube.path[middle - 1]
    apart = tangent / np.linalg.norm(tangent) * (tube.radius + min(speed * since, furthest))
    halves = (tube.path[: middle + 1] - apart, tube.path[middle:] + apart)
    return [Tube(path, tube.radius, tube.amplitude) for path in halves]


def _axes(shape, voxel_size):
    """Places of the voxel centres along each axis, in um from the centre of the field."""
    return [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, voxel_size, strict=True)]


def _field(shape, voxel_size):
    """Size of the field in um, once shape and voxel size are known to be sound."""
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape is {shape}: give three whole numbers (Z, Y, X)")
    if np.shape(voxel_size) != (3,) or not all(0 < d < np.inf for d in voxel_size):
        raise ValueError(f"voxel_size is {voxel_size}: give three lengths (z, y, x) in um")
    return np.multiply(shape, voxel_size)


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
    kind="mitochondria",
    *,
    shape=(16, 56, 56),
    voxel_size=(0.34, 0.2171, 0.2171),
    photons=100.0,
    background=4.0,
    read_noise=1.5,
    seed=0,
    views="hex7",
    view_pad=20,
    t=0.0,
    photons_at=0.0,
    fine_planes=2,
    fine_pixels=1,
    noise_seed=None,
    optics=None,
    **options,
):
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
    _field(shape, voxel_size)
    if any(abs(d / optics.voxel_size - 1) > 0.01 for d in voxel_size[1:]):
        raise ValueError(
            f"voxel_size is {voxel_size}, but a camera pixel is {optics.voxel_size:.4f} um in the "
            "object: use that laterally, or give other optics"
        )
    named = views if isinstance(views, str) else tuple(map(tuple, np.asarray(views, float)))
    setting = (optics, tuple(shape), tuple(voxel_size), named, view_pad)
    op, fine_op = _operator(*setting, 1, 1), _operator(*setting, fine_planes, fine_pixels)
    factors = (fine_planes, fine_pixels, fine_pixels)

    def fine(at):
        small = tuple(d / f for d, f in zip(voxel_size, factors, strict=True))
        volume = phantom(fine_op.in_shape, small, seed=seed, t=at, **options)
        return volume, _bin(fine_op(np.asarray(volume, np.float32)), (1, *factors[1:]))

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
        truth=(scale * _bin(volume, factors)).astype(np.float32),
        views=counts.clip(min=0).astype(np.float32),
        expected=expected.astype(np.float32),
        op=op,
        background=float(background),
        read_noise=float(read_noise),
        voxel_size=tuple(voxel_size),
        scale=scale,
    )


@lru_cache(maxsize=4)
def _operator(optics, shape, voxel_size, views, view_pad, fine_planes, fine_pixels):
    """The light field of a grid `fine_planes` times as deep and `fine_pixels` times as fine."""
    from dataclasses import replace

    n_z, step = shape[0] * fine_planes, voxel_size[0] / fine_planes
    lateral = [n * fine_pixels for n in shape[1:]]
    view = [(n + 2 * view_pad) * fine_pixels for n in shape[1:]]
    window = 2 * ((max(lateral) + max(view) + 1) // 2)
    finer = replace(optics, lens_pixels=optics.lens_pixels * fine_pixels)
    h = psf(finer, (np.arange(n_z) - (n_z - 1) / 2) * step, window, views)
    voxel = (step, *(d / fine_pixels for d in voxel_size[1:]))
    return LightField(h, shape=lateral, view_shape=view, voxel_size=voxel)


def _bin(x, factors):
    """Sum over blocks of `factors` along the three axes."""
    blocks = [k for n, f in zip(x.shape, factors, strict=True) for k in (n // f, f)]
    return x.reshape(blocks).sum(axis=(1, 3, 5))


def _check_amounts(photons, background, read_noise, view_pad, fine_planes, fine_pixels):
    if not 0 < photons < np.inf:
        raise ValueError(f"photons is {photons}: it must be above 0")
    for name, value in {"background": background, "read_noise": read_noise}.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}: it must be zero or more")
    whole = {"view_pad": (view_pad, 0), "fine_planes": (fine_planes, 1)}
    for name, (value, lowest) in (whole | {"fine_pixels": (fine_pixels, 1)}).items():
        if value != int(value) or value < lowest:
            raise ValueError(f"{name} is {value}: give a whole number, at least {lowest}")
