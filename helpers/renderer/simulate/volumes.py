r"""Volumes of bars and of tubes, and their stacks through an aberrated widefield microscope.

NumPy and SciPy only. Images are made on a lateral grid twice as fine as the camera's, from voxels
with an extent, through a PSF by padded FFT: nothing is shared with the operators that invert them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, factorial, sqrt

import numpy as np
from scipy import fft
from scipy.spatial import cKDTree

FINE = 2  # lateral samples per camera pixel
DEPTHS = (-0.25, 0.25)  # where in a voxel, in steps along z, its light is placed

# Waves RMS by OSA index: astigmatism, trefoil, coma and spherical, 86 milliwaves in all.
ABERRATION = {3: 0.030, 5: -0.040, 6: 0.015, 7: 0.040, 8: -0.030, 9: -0.015, 12: 0.045}


@dataclass(frozen=True)
class Stack:
    """A simulated stack and everything that made it.

    Attributes
    ----------
    truth : (Z, Y, X) float32 array
        Photo-electrons that each voxel gives to the whole stack.
    counts : (Z, Y, X) float32 array
        Photo-electrons in each pixel of each plane: whole numbers.
    expected : (Z, Y, X) float32 array
        Their mean, background included.
    background : float
        Photo-electrons per pixel.
    aberration : dict of int -> float
        Waves RMS by OSA index.
    na, wavelength, index, pixel_size, z_step : float
        Of the microscope; lengths in micrometres.
    """

    truth: np.ndarray
    counts: np.ndarray
    expected: np.ndarray
    background: float
    aberration: dict
    na: float
    wavelength: float
    index: float
    pixel_size: float
    z_step: float


def bars(
    shape: tuple[int, int, int] = (24, 64, 64),
    *,
    seed: int = 0,
    level: float = 1000.0,
    margin: int = 4,
) -> np.ndarray:
    """Bars of many widths, in three directions, at several depths.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X), at least 12 x 24 x 24.
    seed : int
        Of the arrangement.
    level : float
        Photo-electrons per voxel of a bar.
    margin : int
        Voxels at the sides that stay empty.

    Returns
    -------
    (Z, Y, X) float32 array
        Groups of three parallel bars, 1 to 4 voxels wide with gaps as wide, along x or y, a few
        voxels deep; and columns along z.

    Examples
    --------
    >>> volume = bars((12, 32, 32), seed=1)
    >>> volume.shape, sorted(set(volume.ravel().tolist()))
    ((12, 32, 32), [0.0, 1000.0])
    """
    shape = _volume_shape(shape, (12, 24, 24))
    rng = np.random.default_rng(seed)
    volume = np.zeros(shape, np.float32)
    inside = volume[2:-2, margin:-margin, margin:-margin]
    taken = np.zeros(inside.shape, bool)
    depth, height, breadth = inside.shape
    for group in range(7 * max(1, inside.size // 15000)):
        width, thick, turned = 1 + group % 4, int(rng.integers(1, 4)), bool(rng.integers(2))
        length = int(rng.integers(8, max(9, min(height, breadth) // 2)))
        size = (length, 5 * width) if turned else (5 * width, length)
        for _ in range(30):  # look for a free place
            z = int(rng.integers(0, depth - thick + 1))
            y, x = (
                int(rng.integers(0, max(1, n - s)))
                for n, s in zip((height, breadth), size, strict=True)
            )
            if not taken[max(z - 1, 0) : z + thick + 1, y : y + size[0], x : x + size[1]].any():
                break
        else:
            continue
        taken[z : z + thick, y : y + size[0], x : x + size[1]] = True
        for k in (0, 2 * width, 4 * width):
            place = np.s_[y : y + length, x + k : x + k + width]
            if not turned:
                place = np.s_[y + k : y + k + width, x : x + length]
            inside[(slice(z, z + thick), *place)] = level
    for _ in range(3):
        y, x = int(rng.integers(0, height - 2)), int(rng.integers(0, breadth - 2))
        first = int(rng.integers(0, depth // 2))
        inside[first : first + depth // 2, y : y + 2, x : x + 2] = level
    return volume


def tubes(
    shape: tuple[int, int, int] = (24, 64, 64),
    *,
    seed: int = 0,
    level: float = 1000.0,
    n_tubes: int = 6,
    radius: float = 3.0,
    wall: float = 1.2,
) -> np.ndarray:
    """Hollow tubes that wind through the field and leave it at the sides.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X).
    seed : int
        Of the paths.
    level : float
        Photo-electrons per voxel in the middle of a wall.
    n_tubes : int
        How many.
    radius, wall : float
        Of a tube in voxels of the lateral size: its middle radius and the width of its wall.

    Returns
    -------
    (Z, Y, X) float32 array
        Walls with soft edges. Along z a voxel counts as two.

    Examples
    --------
    >>> volume = tubes((12, 32, 32), seed=1)
    >>> bool(volume[:, :, 0].max() > 0)  # a tube leaves the field
    True
    """
    shape = _volume_shape(shape, (8, 16, 16))
    rng = np.random.default_rng(seed)
    depth, height, breadth = 2 * shape[0], shape[1], shape[2]
    t = np.linspace(-0.1, 1.1, 4 * max(height, breadth))
    volume = np.zeros(shape, np.float32)
    grid = np.indices(shape).reshape(3, -1).T * (2.0, 1.0, 1.0)
    for tube in range(n_tubes):
        swing = rng.uniform(-0.15, 0.15, 4)
        phase = rng.uniform(0, 2 * np.pi, 2)
        z = depth * (rng.uniform(0.25, 0.75) + swing[0] * np.sin(np.pi * t + phase[0]))
        side = rng.uniform(0.15, 0.85)
        side = side + swing[1] * np.sin(2 * np.pi * t + phase[1]) + swing[2] * (t - 0.5)
        line = (t * breadth, side * height) if tube % 2 else (side * breadth, t * height)
        path = np.stack([z, line[1], line[0]], axis=1)
        distance = cKDTree(path).query(grid, distance_upper_bound=radius + 4 * wall)[0]
        value = level * np.exp(-0.5 * ((distance - radius) / (wall / 2)) ** 2)
        np.maximum(
            volume, value.reshape(shape), out=volume, where=np.isfinite(value).reshape(shape)
        )
    return volume


def widefield(
    volume: np.ndarray,
    *,
    seed: int = 0,
    background: float = 5.0,
    aberration: Mapping[int, float] | None = None,
    margin: Sequence[int] = (0, 0, 0),
    na: float = 1.3,
    wavelength: float = 0.6,
    index: float = 1.515,
    pixel_size: float = 0.08,
    z_step: float = 0.2,
) -> Stack:
    r"""Take the stack of a volume: aberrated PSF, background and shot noise.

    Parameters
    ----------
    volume : (Z, Y, X) array
        Photo-electrons that each voxel gives to the whole stack, shared equally by its planes.
    seed : int
        Of the noise.
    background : float
        Photo-electrons per pixel.
    aberration : dict of int -> float, optional
        Waves RMS by OSA index. Default: 86 milliwaves of astigmatism, trefoil, coma, spherical.
    margin : (int, int, int)
        Voxels at each side of `volume` that glow but lie outside the camera and the scan.
    na, wavelength, index, pixel_size, z_step : float
        Of the microscope; lengths in micrometres.

    Returns
    -------
    Stack
        Its images are smaller than `volume` by twice the margin, and so is its `truth`.

    Notes
    -----
    With :math:`F` the field of the pupil by FFT on a grid of half a pixel,

    .. math:: y_k \sim \mathrm{Poisson}\Big(b + \sum_j \mathrm{bin}\big(
        h_{k-j} * \mathrm{rep}(f_j)\big) / n_Z\Big), \qquad h_z = |F_z|^2,

    where every voxel fills its own place. Used in :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> stack = widefield(bars((12, 24, 24), seed=1), seed=2)
    >>> stack.counts.shape, stack.counts.dtype
    ((12, 24, 24), dtype('float32'))
    """
    volume = np.asarray(volume)
    if volume.ndim != 3 or not np.isfinite(volume).all() or volume.min() < 0:
        raise ValueError(
            f"the volume has shape {volume.shape}: give (Z, Y, X) of finite values, zero or more"
        )
    if any(2 * m >= n or m < 0 for m, n in zip(margin, volume.shape, strict=True)):
        raise ValueError(f"margin is {margin}: it must leave something of {volume.shape}")
    aberration = ABERRATION if aberration is None else aberration
    inner = tuple(slice(m, n - m) for m, n in zip(margin, volume.shape, strict=True))
    planes = range(*inner[0].indices(volume.shape[0]))
    transfer = _transfer(
        len(planes) + margin[0], volume.shape[1:], aberration, na, wavelength, index, pixel_size,
        z_step,
    )  # fmt: skip
    grid = 2 * (transfer.shape[-2],)
    light = np.repeat(np.repeat(volume, FINE, axis=1), FINE, axis=2) / FINE**2
    spectra = fft.rfft2(light.astype(np.float64), grid)
    middle = transfer.shape[0] // 2
    expected = np.zeros((len(planes), *(s.stop - s.start for s in inner[1:])))
    for k, plane in enumerate(planes):
        steps = plane - np.arange(len(volume))
        near = np.abs(steps) <= middle
        blurred = (spectra[near] * transfer[middle + steps[near]]).sum(0)
        image = fft.irfft2(blurred, grid)[: light.shape[1], : light.shape[2]]
        image = image.reshape(volume.shape[1], FINE, volume.shape[2], FINE).sum((1, 3))
        expected[k] = image[inner[1:]]
    expected = (expected / len(planes)).clip(min=0) + background
    counts = np.random.default_rng(seed).poisson(expected)
    return Stack(
        volume[inner].astype(np.float32), counts.astype(np.float32), expected.astype(np.float32),
        background, dict(aberration), na, wavelength, index, pixel_size, z_step,
    )  # fmt: skip


def _transfer(n_steps, field, aberration, na, wavelength, index, pixel_size, z_step):
    """Transfer functions of planes -n_steps + 1 to n_steps - 1, on the fine grid of the field."""
    step = pixel_size / FINE
    reach = 2 * FINE * max(field)
    # the cone of light of the farthest plane must not come round on the other side
    cone = n_steps * z_step * na / np.sqrt(index**2 - na**2)
    n = fft.next_fast_len(max(reach, int(2 * cone / step) + FINE * max(field)))
    n += n % 2
    q = fft.fftfreq(n, step) * wavelength
    v, u = np.meshgrid(q, q, indexing="ij")
    rho, phi = np.hypot(u, v) / na, np.arctan2(v, u)
    inside = rho <= 1
    waves = sum(c * _zernike(j, rho, phi) for j, c in aberration.items())
    pupil = np.where(inside, np.exp(2j * np.pi * waves), 0)
    axial = np.sqrt(np.maximum(index**2 - (na * rho) ** 2, 0)) / wavelength
    grid = fft.next_fast_len(reach, real=True)
    grid += grid % 2
    power = inside.sum() / n**2
    keep = np.arange(-grid // 2, grid // 2)
    transfer = []
    for k in range(1 - n_steps, n_steps):
        kernel = 0
        for part in DEPTHS:
            field_k = fft.ifft2(pupil * np.exp(2j * np.pi * axial * (k + part) * z_step))
            kernel = kernel + np.abs(field_k[np.ix_(keep, keep)]) ** 2 / (power * len(DEPTHS))
        transfer.append(fft.rfft2(fft.ifftshift(kernel)))
    return np.array(transfer)


def _zernike(j, rho, phi):
    """Zernike polynomial of unit RMS by its sum of powers, OSA index."""
    n = ceil((-3 + sqrt(9 + 8 * j)) / 2)
    m = 2 * j - n * (n + 2)
    radial = sum(
        (-1) ** k * factorial(n - k)
        / (factorial(k) * factorial((n + abs(m)) // 2 - k) * factorial((n - abs(m)) // 2 - k))
        * rho ** (n - 2 * k)
        for k in range((n - abs(m)) // 2 + 1)
    )  # fmt: skip
    angular = np.cos(m * phi) if m >= 0 else np.sin(-m * phi)
    return sqrt((n + 1) * (1 if m == 0 else 2)) * radial * angular


def _volume_shape(shape, least):
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or any(n < low for n, low in zip(shape, least, strict=True)):
        raise ValueError(f"shape is {shape}: give (Z, Y, X) of at least {least} voxels")
    return shape
