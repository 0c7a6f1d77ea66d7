"""Images of single molecules by the error function of SciPy, to test what fits them.

Shares no code with `helpers.renderer.renderers`: what agrees is the physics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr


@dataclass(frozen=True)
class Spots:
    """Simulated images and what is true of them.

    Attributes
    ----------
    images : array (B, Y, X)
        Photo-electrons with noise, float32.
    expected : array (B, Y, X)
        Without noise.
    truth : dict
        By name, arrays (B,): `x`, `y` in px from the image centre, `photons`, `background`,
        and widths in px or the depth `z` in µm.
    """

    images: np.ndarray
    expected: np.ndarray
    truth: dict


def gaussian_spots(
    n: int,
    image_shape: Sequence[int] = (13, 13),
    *,
    photons: float | tuple[float, float] = 1000.0,
    background: float | tuple[float, float] = 10.0,
    sigma: float | tuple[float, float] | Mapping[str, float] = 1.3,
    scatter: float = 1.0,
    read_variance: float | np.ndarray = 0.0,
    seed: int = 0,
) -> Spots:
    """Round or elliptical Gaussian spots, integrated over each pixel.

    Parameters
    ----------
    n : int
        Number of images.
    image_shape : (int, int)
        (Y, X) in pixels.
    photons, background : float or (float, float)
        Photo-electrons of a spot, and in each pixel below it; a pair is a range to draw from.
    sigma : float or dict
        Standard deviation in px, or a dict with `sigma_x` and `sigma_y`; each may be a range.
    scatter : float
        Positions are drawn up to this many px from the centre along each axis.
    read_variance : float or array (Y, X)
        Variance of Gaussian read noise, photo-electrons squared.
    seed : int
        Of the places and the noise.

    Returns
    -------
    Spots

    Raises
    ------
    ValueError
        A width, a rate or a variance that is not allowed.

    Examples
    --------
    >>> spots = gaussian_spots(3, photons=(500, 2000))
    >>> spots.images.shape, sorted(spots.truth)
    ((3, 13, 13), ['background', 'photons', 'sigma', 'x', 'y'])
    """
    rng = np.random.default_rng(seed)
    widths = sigma if isinstance(sigma, dict) else {"sigma": sigma}
    truth = _light(n, photons, background, scatter, rng)
    truth |= {name: _drawn(value, n, rng) for name, value in widths.items()}
    along_x = truth.get("sigma_x", truth.get("sigma"))
    along_y = truth.get("sigma_y", truth.get("sigma"))
    return _expose(truth, along_x, along_y, image_shape, read_variance, rng)


def astigmatic_spots(
    n: int,
    image_shape: Sequence[int] = (13, 13),
    *,
    photons: float | tuple[float, float] = 3000.0,
    background: float | tuple[float, float] = 10.0,
    sigma: float = 1.3,
    focus: tuple[float, float] = (0.25, -0.25),
    depth: float = 0.4,
    z: float | tuple[float, float] = (-0.5, 0.5),
    scatter: float = 1.0,
    read_variance: float | np.ndarray = 0.0,
    seed: int = 0,
) -> Spots:
    r"""Spots whose widths along x and y change with depth, as behind a cylindrical lens.

    As `gaussian_spots`, of width `sigma` px in focus. `focus` holds the depths in µm at which a
    spot is narrowest along x and along y; `depth` from there a width has grown by :math:`\sqrt 2`;
    `z` is the depth, or its range.

    Examples
    --------
    >>> spots = astigmatic_spots(2, z=0.25)
    >>> sorted(spots.truth)
    ['background', 'photons', 'x', 'y', 'z']
    """
    rng = np.random.default_rng(seed)
    truth = _light(n, photons, background, scatter, rng)
    truth["z"] = _drawn(z, n, rng)
    along_x, along_y = (sigma * np.hypot(1, (truth["z"] - c) / depth) for c in focus)
    return _expose(truth, along_x, along_y, image_shape, read_variance, rng)


def _light(n, photons, background, scatter, rng):
    return {
        "x": rng.uniform(-scatter, scatter, n),
        "y": rng.uniform(-scatter, scatter, n),
        "photons": _drawn(photons, n, rng),
        "background": _drawn(background, n, rng),
    }


def _drawn(value, n, rng):
    low, high = np.broadcast_to(value, 2)
    return rng.uniform(low, high, n)


def _expose(truth, along_x, along_y, image_shape, read_variance, rng):
    if min(along_x.min(initial=1), along_y.min(initial=1)) <= 0:
        raise ValueError("a width is zero or negative: give standard deviations above 0 px")
    if min(truth["photons"].min(initial=0), truth["background"].min(initial=0)) < 0:
        raise ValueError("negative light: give photons and background of zero or more")
    if np.min(read_variance) < 0:
        raise ValueError("a negative variance of read noise: give zero or more")
    height, width = image_shape
    down = _pixel_shares(truth["y"], along_y, height)
    across = _pixel_shares(truth["x"], along_x, width)
    expected = truth["photons"][:, None, None] * down[:, :, None] * across[:, None, :]
    expected = expected + truth["background"][:, None, None]
    images = rng.poisson(expected).astype(np.float32)
    if np.any(read_variance):
        images += rng.normal(0, np.sqrt(read_variance), expected.shape).astype(np.float32)
    return Spots(images, expected, truth)


def _pixel_shares(centre, sigma, n):
    """Share of the light between the edges of each of `n` pixels, (B, n)."""
    pixel = np.arange(n) - (n - 1) / 2 - centre[:, None]
    return ndtr((pixel + 0.5) / sigma[:, None]) - ndtr((pixel - 0.5) / sigma[:, None])
