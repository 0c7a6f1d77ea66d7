r"""Networks of curved filaments, the molecules on them, and images of both.

Written in NumPy and SciPy; nothing here is shared with the renderers that will be fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import erf

STEP = 0.02  # µm between the points of a filament
MARGIN = 0.5  # µm that a filament runs on outside the field


def network(
    n_filaments: int,
    field: tuple[float, float],
    *,
    persistence: float = 10.0,
    seed: int | tuple[int, ...] = 0,
) -> list[np.ndarray]:
    r"""Draw filaments that cross a field of view.

    Parameters
    ----------
    n_filaments : int
        How many.
    field : (float, float)
        Height and width of the field in µm.
    persistence : float
        Persistence length P in µm: the larger, the straighter.
    seed : int
        The same seed gives the same network.

    Returns
    -------
    list of (n, 2) arrays
        The points (x, y) of each filament in µm from the centre of the field, 0.02 µm apart along
        the filament, until half a micrometre outside the field.

    Raises
    ------
    ValueError
        No filament, or a field or a persistence length that is not positive.

    Notes
    -----
    A worm-like chain in the plane: along the path s the direction makes a random walk,

    .. math:: \operatorname{var}\bigl[\theta(s) - \theta(0)\bigr] = s / P .

    It starts at a random point with a random direction and runs both ways. Used in
    :doc:`/book/renderer/05_many_molecules`.

    Examples
    --------
    >>> filaments = network(3, (5.0, 8.0), seed=1)
    >>> len(filaments), filaments[0].shape[1]
    (3, 2)
    """
    height, width = (float(length) for length in field)
    if n_filaments != int(n_filaments) or n_filaments < 1:
        raise ValueError(f"n_filaments is {n_filaments}: give a whole number, at least 1")
    if not min(height, width) > 0 or not persistence > 0:
        raise ValueError(
            f"field is {field} and persistence {persistence}: give positive lengths in µm"
        )
    rng = np.random.default_rng(seed)
    half = np.array([width, height]) / 2
    n_steps = math.ceil(2 * (math.hypot(width, height) + 2 * MARGIN) / STEP)
    filaments = []
    for _ in range(int(n_filaments)):
        start, direction = rng.uniform(-half, half), rng.uniform(0, 2 * math.pi)
        arms = []
        for heading in (direction, direction + math.pi):
            angle = heading + np.cumsum(rng.normal(0, math.sqrt(STEP / persistence), n_steps))
            path = start + STEP * np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), axis=0)
            outside = (np.abs(path) > half + MARGIN).any(1)
            arms.append(path[: np.argmax(outside)] if outside.any() else path)
        filaments.append(np.concatenate([arms[0][::-1], start[None], arms[1]]))
    return filaments


def molecules(
    filaments: Sequence[np.ndarray],
    density: float,
    *,
    thickness: float = 0.01,
    seed: int = 0,
) -> np.ndarray:
    """Place molecules on filaments at random.

    Parameters
    ----------
    filaments : list of (n, 2) arrays
        As `network` makes them.
    density : float
        Molecules per µm of filament, on average.
    thickness : float
        Standard deviation in µm of a molecule's distance from the axis: filament and label.
    seed : int
        The same seed gives the same molecules.

    Returns
    -------
    (m, 2) array
        Positions (x, y) in µm.

    Raises
    ------
    ValueError
        A density or a thickness below zero.

    Examples
    --------
    >>> line = np.stack([np.arange(0, 10, 0.02), np.zeros(500)], 1)
    >>> 60 < len(molecules([line], 10.0)) < 140
    True
    """
    if not density >= 0 or not thickness >= 0:
        raise ValueError(f"density is {density} and thickness {thickness}: neither can be negative")
    rng = np.random.default_rng(seed)
    positions = [np.empty((0, 2))]
    for points in filaments:
        steps = np.diff(points, axis=0)
        lengths = np.hypot(*steps.T)
        n = rng.poisson(density * lengths.sum())
        piece = rng.choice(len(steps), n, p=lengths / lengths.sum())
        along = points[piece] + rng.random((n, 1)) * steps[piece]
        across = steps[piece][:, ::-1] * [-1, 1] / lengths[piece, None]
        positions.append(along + rng.normal(0, thickness, (n, 1)) * across)
    return np.concatenate(positions)


def filament_images(
    n: int,
    shape: Sequence[int] = (128, 128),
    *,
    peak: float = 40.0,
    background: float = 2.0,
    n_filaments: int = 8,
    sigma: float = 1.0,
    pixel_size: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Make sharp widefield images of filament networks, without noise.

    Parameters
    ----------
    n : int
        Images, each of another network.
    shape : (int, int)
        Pixels (Y, X).
    peak : float
        Photo-electrons of the brightest pixel of each image, above the background.
    background : float
        Photo-electrons in every pixel.
    n_filaments : int
        Filaments in each image; the dimmest is a third as bright as the brightest could be.
    sigma : float
        Standard deviation of the point spread in px.
    pixel_size : float
        In µm.
    seed : int
        The same seed gives the same images, and image k does not depend on `n`.

    Returns
    -------
    (n, Y, X) float32 array
        Expected photo-electrons: give them to a noise model of `helpers.noise` to sample from.

    Raises
    ------
    ValueError
        Sizes or amounts that are not positive.

    Examples
    --------
    >>> images = filament_images(2, (32, 48))
    >>> images.shape, [round(float(image.max()), 3) for image in images]
    ((2, 32, 48), [42.0, 42.0])
    """
    if n != int(n) or n < 1 or len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"n is {n} and shape {shape}: give at least one image of (Y, X) pixels")
    if not min(peak, sigma, pixel_size) > 0 or not background >= 0:
        raise ValueError(
            f"peak {peak}, sigma {sigma}, pixel_size {pixel_size}, background {background}: "
            "the first three must be positive, the background not negative"
        )
    field = shape[0] * pixel_size, shape[1] * pixel_size
    images = np.empty((int(n), *shape), dtype=np.float32)
    for k in range(int(n)):
        filaments = network(n_filaments, field, seed=(seed, k))
        brightness = np.random.default_rng((seed, k, 1)).uniform(1 / 3, 1, n_filaments)
        x, y = np.concatenate(filaments).T / pixel_size
        photons = np.repeat(brightness, [len(points) for points in filaments])
        light = spots_image(x, y, photons, sigma, shape)
        images[k] = background + peak * light / light.max()
    return images


def spots_image(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    photons: Sequence[float] | np.ndarray,
    sigma: float,
    shape: Sequence[int],
) -> np.ndarray:
    r"""Sum of Gaussian spots, each integrated over every pixel.

    Parameters
    ----------
    x, y : (m,) arrays
        Positions in px from the image centre.
    photons : (m,) array
        Photo-electrons of each spot.
    sigma : float
        Standard deviation in px.
    shape : (int, int)
        Pixels (Y, X).

    Returns
    -------
    (Y, X) float64 array
        Expected photo-electrons.

    Notes
    -----
    The spot is a product of its integrals over rows and columns, so the sum over all spots is
    one matrix product,

    .. math:: \mu_{ij} = \sum_m N_m E_i(y_m) E_j(x_m), \qquad E_j(x) = \tfrac12 \Bigl[
        \operatorname{erf} \tfrac{j + 1/2 - x}{\sqrt 2 \sigma}
        - \operatorname{erf} \tfrac{j - 1/2 - x}{\sqrt 2 \sigma} \Bigr] .

    Examples
    --------
    >>> image = spots_image([0.0, 3.0], [0.0, -2.0], [100.0, 50.0], 1.3, (21, 21))
    >>> round(float(image.sum()), 6)
    150.0
    """
    rows, columns = (
        np.diff(erf((np.arange(n + 1) - n / 2 - np.asarray(at)[:, None]) / (math.sqrt(2) * sigma)))
        for n, at in zip(shape, (y, x), strict=True)
    )
    return (np.asarray(photons)[:, None] * rows / 4).T @ columns
