r"""Beads and blinking molecules through an aberrated objective, by quadrature over the pupil.

The field in the image is an integral over a disc. Here it is computed with Gauss-Legendre nodes
along the radius and equidistant angles, in NumPy and float64: no grid, no FFT, and no code in
common with the renderers, so that a solver which only inverts its own assumptions shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.special import eval_jacobi


@dataclass(frozen=True)
class Microscope:
    """An objective and a camera.

    Attributes
    ----------
    na : float
        Numerical aperture.
    wavelength : float
        Of the light in vacuum, in µm.
    index : float
        Refractive index of the immersion; the sample has the same.
    pixel_size : float
        In the sample, in µm.
    """

    na: float = 1.4
    wavelength: float = 0.67
    index: float = 1.518
    pixel_size: float = 0.1

    def __post_init__(self):
        if not 0 < self.na < self.index:
            raise ValueError(f"na is {self.na}: it lies between 0 and the index {self.index}")
        if not (self.wavelength > 0 and self.pixel_size > 0):
            raise ValueError(
                f"wavelength is {self.wavelength} and pixel_size {self.pixel_size}: "
                "give positive lengths in µm"
            )


@dataclass(frozen=True)
class Emitters:
    """Simulated images of single emitters, and everything that made them.

    Attributes
    ----------
    images : (B, Y, X) float32 array
        Photo-electrons, with noise.
    expected : (B, Y, X) array
        The same without noise.
    planes : (B,) array
        Defocus that is known, such as that of the stage, in µm; zero for blinks.
    x, y, z, photons, background : (B,) arrays
        In px from the image centre, µm (on top of `planes`), photo-electrons, and
        photo-electrons per pixel.
    aberrations : dict of int -> float
        OSA index -> waves RMS.
    microscope : Microscope
    read_noise : float
        Standard deviation, photo-electrons.
    """

    images: np.ndarray
    expected: np.ndarray
    planes: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    photons: np.ndarray
    background: np.ndarray
    aberrations: dict
    microscope: Microscope
    read_noise: float


def aberrated_psf(
    shape: tuple[int, int],
    aberrations: Mapping[int, float],
    x: float | Sequence[float] | np.ndarray = 0.0,
    y: float | Sequence[float] | np.ndarray = 0.0,
    z: float | Sequence[float] | np.ndarray = 0.0,
    *,
    microscope: Microscope | None = None,
) -> np.ndarray:
    r"""Share of the photons of a point that each pixel gets.

    Parameters
    ----------
    shape : (int, int)
        Pixels (Y, X).
    aberrations : dict of int -> float
        OSA index of a Zernike -> coefficient in waves RMS.
    x, y : float or (B,) array
        In px from the image centre.
    z : float or (B,) array
        In µm from the focus.
    microscope : Microscope, optional
        Default: NA 1.4, 0.67 µm, oil, pixels of 0.1 µm.

    Returns
    -------
    (B, Y, X) array
        At the pixel centres, times the pixel's area; the sum over an endless field is 1.

    Raises
    ------
    ValueError
        An empty shape, an index below 0, or values that are not finite.

    Notes
    -----
    With q in units of NA, :math:`\rho = |q|`, and every length in units of the wavelength,

    .. math:: U(r) = \int_{\rho < 1} \exp 2 \pi i \Big[ W(q) + z \sqrt{n^2 - (\mathrm{NA} \rho)^2}
        + \mathrm{NA}\, q \cdot (r - r_0) \Big] \, d^2 q , \qquad
        h = \frac{\mathrm{NA}^2}{\pi} |U|^2 ,

    where :math:`\pi` is the area of the disc (Parseval). The number of nodes grows with the size of
    the field and with z, so that the error stays below a billionth of the peak. Used in
    :doc:`/book/renderer/04_pupil`.

    Examples
    --------
    >>> psf = aberrated_psf((63, 63), {}, z=[0.0, 0.4])
    >>> psf.sum((1, 2)).round(3).tolist()
    [0.986, 0.985]
    """
    microscope = microscope or Microscope()
    height, width = _checked_shape(shape)
    at: Any = _broadcast(x=x, y=y, z=z)
    na, wavelength, index = microscope.na, microscope.wavelength, microscope.index
    # steps of the phase from node to node are what the quadrature must resolve
    cut_off = 2 * math.pi * na / wavelength * microscope.pixel_size
    reach = cut_off * (math.hypot(width, height) / 2 + float(np.hypot(*at[:2]).max(initial=0)))
    depth = 2 * math.pi / wavelength * (index - math.sqrt(index**2 - na**2))
    bend = depth * float(np.abs(at[2]).max(initial=0))
    bend += 2 * math.pi * 3 * sum(abs(c) for c in aberrations.values())
    q, qx, qy, weights = _nodes(24 + int((reach + bend) / 2), 32 + 2 * int((reach + bend) / 1.6))

    wavefront = sum((c * _zernike(j, qx, qy) for j, c in aberrations.items()), np.zeros_like(q))
    axial = np.sqrt(index**2 - (na * q) ** 2) / wavelength
    lateral = na * microscope.pixel_size / wavelength
    rows = np.arange(height) - (height - 1) / 2
    columns = np.arange(width) - (width - 1) / 2
    down = np.exp(2j * np.pi * lateral * rows[:, None] * qy)
    along = np.exp(2j * np.pi * lateral * columns[:, None] * qx)
    psf = np.empty((len(at[2]), height, width))
    for k, (x_k, y_k, z_k) in enumerate(zip(*at, strict=True)):
        phase = wavefront + z_k * axial - lateral * (qx * x_k + qy * y_k)
        field = (down * (weights * np.exp(2j * np.pi * phase))) @ along.T
        psf[k] = field.real**2 + field.imag**2
    return psf * lateral**2 / math.pi


def bead_stack(
    aberrations: Mapping[int, float],
    *,
    planes: int = 17,
    reach: float = 0.8,
    shape: tuple[int, int] = (25, 25),
    x: float | Sequence[float] | np.ndarray = 0.0,
    y: float | Sequence[float] | np.ndarray = 0.0,
    z: float | Sequence[float] | np.ndarray = 0.0,
    photons: float | tuple[float, float] = 1e5,
    background: float | tuple[float, float] = 50.0,
    read_noise: float = 0.0,
    microscope: Microscope | None = None,
    seed: int = 0,
) -> Emitters:
    """Images of one bead while the stage moves through the focus.

    Parameters
    ----------
    aberrations : dict of int -> float
        OSA index -> waves RMS.
    planes : int
        Number of images, at equal steps.
    reach : float
        The stage moves from ``-reach`` to ``reach``, in µm.
    shape : (int, int)
        Pixels (Y, X).
    x, y, z : float
        Where the bead is, in px from the image centre and µm.
    photons, background : float
        Photo-electrons in each image, and in each of its pixels.
    read_noise : float
        Standard deviation of Gaussian camera noise, photo-electrons.
    microscope : Microscope, optional
    seed : int
        Of the noise.

    Returns
    -------
    Emitters
        One image for each plane.

    Raises
    ------
    ValueError
        As for `aberrated_psf`, fewer than one plane, or negative amounts of light or noise.

    Examples
    --------
    >>> stack = bead_stack({5: 0.07}, planes=5, seed=1)
    >>> stack.images.shape, stack.planes.round(2).tolist()
    ((5, 25, 25), [-0.8, -0.4, 0.0, 0.4, 0.8])
    """
    if planes != int(planes) or planes < 1:
        raise ValueError(f"planes is {planes}: give a whole number, at least 1")
    stage = np.linspace(-reach, reach, int(planes))
    place = {"x": x, "y": y, "z": z, "photons": photons, "background": background}
    full = np.ones(len(stage))
    place = {name: float(cast(float, value)) * full for name, value in place.items()}
    rng = np.random.default_rng(seed)
    return _photograph(shape, aberrations, stage, place, read_noise, microscope, rng)


def blinks(
    aberrations: Mapping[int, float],
    n_blinks: int = 200,
    *,
    shape: tuple[int, int] = (15, 15),
    depth: float = 0.5,
    jitter: float = 1.0,
    photons: float | tuple[float, float] = (4000.0, 8000.0),
    background: float | tuple[float, float] = (10.0, 20.0),
    read_noise: float = 0.0,
    microscope: Microscope | None = None,
    seed: int = 0,
) -> Emitters:
    """Images of single molecules, each once and at an unknown place.

    Parameters
    ----------
    aberrations : dict of int -> float
        OSA index -> waves RMS.
    n_blinks : int
        Number of images.
    shape : (int, int)
        Pixels (Y, X).
    depth : float
        z is uniform from ``-depth`` to ``depth``, in µm.
    jitter : float
        x and y are uniform from ``-jitter`` to ``jitter``, in px.
    photons, background : (float, float)
        Limits of uniform distributions, photo-electrons, and photo-electrons per pixel.
    read_noise : float
        Standard deviation of Gaussian camera noise, photo-electrons.
    microscope : Microscope, optional
    seed : int
        Of the places and the noise.

    Returns
    -------
    Emitters

    Raises
    ------
    ValueError
        As for `aberrated_psf`, no blinks, or negative amounts of light or noise.

    Examples
    --------
    >>> blinks({5: 0.08}, 3).images.shape
    (3, 15, 15)
    """
    if n_blinks != int(n_blinks) or n_blinks < 1:
        raise ValueError(f"n_blinks is {n_blinks}: give a whole number, at least 1")
    rng = np.random.default_rng(seed)
    limits: dict[str, Any] = {
        "x": (-jitter, jitter),
        "y": (-jitter, jitter),
        "z": (-depth, depth),
        "photons": photons,
        "background": background,
    }
    place = {name: rng.uniform(low, high, int(n_blinks)) for name, (low, high) in limits.items()}
    stage = np.zeros(int(n_blinks))
    return _photograph(shape, aberrations, stage, place, read_noise, microscope, rng)


def random_aberrations(rms: float, modes: Sequence[int], *, seed: int) -> dict[int, float]:
    """Coefficients from a normal distribution, scaled to a given wavefront error.

    Parameters
    ----------
    rms : float
        Root of the sum of the squared coefficients, in waves.
    modes : sequence of int
        OSA indices.
    seed : int

    Returns
    -------
    dict of int -> float

    Raises
    ------
    ValueError
        No mode, or an `rms` that is negative or not finite.

    Examples
    --------
    >>> found = random_aberrations(0.15, [5, 6, 7], seed=0)
    >>> round(sum(c**2 for c in found.values()) ** 0.5, 6)
    0.15
    """
    modes = [int(j) for j in modes]
    if not modes or not (math.isfinite(rms) and rms >= 0):
        raise ValueError(f"modes are {modes} and rms is {rms}: give a mode, and waves above 0")
    draw = np.random.default_rng(seed).standard_normal(len(modes))
    draw *= rms / np.linalg.norm(draw)
    return dict(zip(modes, draw.tolist(), strict=True))


def _photograph(shape, aberrations, stage, place, read_noise, microscope, rng):
    microscope = microscope or Microscope()
    for name in ("photons", "background"):
        if not (place[name] >= 0).all():
            raise ValueError(f"{name} must not be negative, but the lowest is {place[name].min()}")
    if not read_noise >= 0:
        raise ValueError(f"read_noise is {read_noise}: give a standard deviation, 0 or more")
    psf = aberrated_psf(
        shape, aberrations, place["x"], place["y"], place["z"] + stage, microscope=microscope
    )
    expected = place["photons"][:, None, None] * psf + place["background"][:, None, None]
    images = rng.poisson(expected) + read_noise * rng.standard_normal(expected.shape)
    return Emitters(
        images.astype(np.float32),
        expected,
        stage,
        **place,
        aberrations=dict(aberrations),
        microscope=microscope,
        read_noise=float(read_noise),
    )


def _nodes(n_radii, n_angles):
    """Nodes of the disc as (rho, qx, qy), flat, and their weights, which sum to pi."""
    node, weight = np.polynomial.legendre.leggauss(n_radii)
    radius = (node + 1) / 2
    angle = 2 * math.pi * (np.arange(n_angles) + 0.5) / n_angles
    weights = np.repeat(weight / 2 * radius * 2 * math.pi / n_angles, n_angles)
    rho = np.repeat(radius, n_angles)
    angle = np.tile(angle, n_radii)
    return rho, rho * np.cos(angle), rho * np.sin(angle), weights


def _zernike(j, qx, qy):
    """Zernike of OSA index j, of unit RMS, by a Jacobi polynomial of the radius."""
    if j != int(j) or j < 0:
        raise ValueError(f"{j} is no OSA index: give whole numbers from 0")
    n = math.ceil((-3 + math.sqrt(9 + 8 * j)) / 2)
    m = 2 * j - n * (n + 2)
    k = (n - abs(m)) // 2
    rho, angle = np.hypot(qx, qy), np.arctan2(qy, qx)
    radial = (-1) ** k * rho ** abs(m) * eval_jacobi(k, abs(m), 0, 1 - 2 * rho**2)
    turn = np.cos(m * angle) if m >= 0 else np.sin(-m * angle)
    return math.sqrt((n + 1) * (1 if m == 0 else 2)) * radial * turn


def _checked_shape(shape):
    shape = tuple(shape)
    if len(shape) != 2 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"shape is {shape}: give two positive whole numbers (Y, X)")
    return int(shape[0]), int(shape[1])


def _broadcast(**places):
    arrays = {name: np.atleast_1d(np.asarray(v, dtype=float)) for name, v in places.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or not np.isfinite(array).all():
            raise ValueError(f"{name} is {places[name]}: give a finite number, or one an image")
    return [np.array(a) for a in np.broadcast_arrays(*arrays.values())]
