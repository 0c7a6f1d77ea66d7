r"""From a table of molecules to an image, and how fine a detail that image can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.special import erf

from ...metrics import FRC, frc


def histogram(
    table: Mapping[str, np.ndarray] | np.ndarray, shape: tuple[int, int], zoom: int = 5
) -> np.ndarray:
    """Count molecules (`x`, `y` in camera px from the centre) in pixels `zoom` times finer.

    Those outside the frame are left out.

    Examples
    --------
    >>> table = {"x": np.array([0.1, 0.1, -1.4]), "y": np.array([0.1, 0.2, 0.0])}
    >>> histogram(table, (3, 3), zoom=1)
    array([[0., 0., 0.],
           [1., 2., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    height, width = _fine_shape(shape, zoom)
    rows, columns = (
        np.floor((np.asarray(table[name]) + n / 2) * zoom).astype(int)
        for name, n in zip("yx", shape, strict=True)
    )
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = rows[inside] * width + columns[inside]
    return np.bincount(places, minlength=height * width).reshape(height, width).astype(np.float32)


def gaussians(
    table: Mapping[str, np.ndarray] | np.ndarray,
    shape: tuple[int, int],
    zoom: int = 5,
    *,
    floor: float = 0.5,
) -> np.ndarray:
    r"""Draw each molecule as blurred as its position is uncertain.

    Parameters
    ----------
    table : structured array or dict of arrays
        Columns `x`, `y`, `x_std`, `y_std` in camera px, as `helpers.renderer.detect.localize`
        gives them.
    shape : (int, int)
        Camera pixels (Y, X).
    zoom : int
        Fine pixels along one side of a camera pixel.
    floor : float
        Smallest standard deviation drawn, in fine px.

    Returns
    -------
    (Y zoom, X zoom) float32 array
        Molecules per fine pixel. Each adds up to one but for what falls outside the frame.

    Raises
    ------
    ValueError
        A shape that is not two positive numbers, a zoom below 1, or widths that are not finite.

    Notes
    -----
    Each molecule is a Gaussian of the widths given by the Cramer-Rao bound, integrated over every
    fine pixel. A certain position makes a sharp spot, an uncertain one a faint smear. The width of
    a line in the picture is the root sum of squares of the line's own, the error of the positions,
    and this blur: drawn by their own error, positions are blurred twice. See
    :doc:`/book/renderer/05_many_molecules`.

    Examples
    --------
    >>> spot = {name: np.array([0.2]) for name in ("x", "y", "x_std", "y_std")}
    >>> image = gaussians(spot, (9, 9))
    >>> image.shape, round(float(image.sum()), 4)
    ((45, 45), 1.0)
    """
    height, width = _fine_shape(shape, zoom)
    x, y, x_std, y_std = (np.asarray(table[n], float) for n in ("x", "y", "x_std", "y_std"))
    if not np.isfinite([x, y, x_std, y_std]).all():
        raise ValueError("positions or their errors hold NaN or infinity: drop these molecules")
    x, y = (x + shape[1] / 2) * zoom, (y + shape[0] / 2) * zoom  # from the corner of the image
    x_std, y_std = (np.maximum(std * zoom, floor) for std in (x_std, y_std))
    reach = np.ceil(4 * np.maximum(x_std, y_std)).astype(int)
    # one window size for all molecules of nearly the same width; rounding up loses nothing
    reach = np.minimum(2 ** np.ceil(np.log2(reach)).astype(int), max(height, width))
    image = np.zeros(height * width)
    for half in np.unique(reach):
        group = np.flatnonzero(reach == half)
        most = max(1, 2_000_000 // (2 * half + 1) ** 2)
        for some in np.split(group, range(most, group.size, most)):
            rows, down = _shares(y[some], y_std[some], half)
            columns, across = _shares(x[some], x_std[some], half)
            places = rows[:, :, None] * width + columns[:, None, :]
            inside = ((rows >= 0) & (rows < height))[:, :, None]
            inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
            light = (down[:, :, None] * across[:, None, :])[inside]
            image += np.bincount(places[inside], light, image.size)
    return image.reshape(height, width).astype(np.float32)


def halves(table: Mapping[str, np.ndarray] | np.ndarray, block: int = 50) -> tuple[Any, Any]:
    """Split a table in two by alternating blocks of frames.

    A block should be much longer than a blink, or both halves show the same blinks.

    Examples
    --------
    >>> table = np.rec.fromarrays([np.arange(6)], names="frame")
    >>> [half["frame"].tolist() for half in halves(table, 2)]
    [[0, 1, 4, 5], [2, 3]]
    """
    if block != int(block) or block < 1:
        raise ValueError(f"block is {block}: give a whole number of frames, at least 1")
    odd = (np.asarray(table["frame"]) // int(block)) % 2 == 1
    return table[~odd], table[odd]


def ring_correlation(
    table: Mapping[str, np.ndarray] | np.ndarray,
    shape: tuple[int, int],
    zoom: int = 5,
    *,
    block: int = 50,
) -> FRC:
    r"""Fourier ring correlation of the images of two halves of a table.

    Parameters
    ----------
    table : structured array
        Columns `frame`, `x`, `y`.
    shape : (int, int)
        Camera pixels (Y, X).
    zoom : int
        Fine pixels along one side of a camera pixel.
    block : int
        Frames in the blocks that go to one half or the other.

    Returns
    -------
    helpers.metrics.FRC
        ``.resolution(pixel_size=camera_pixel / zoom)`` is the length at which the correlation falls
        below 1/7.

    Notes
    -----
    Both halves are drawn as histograms, with the rim faded out, and correlated
    :cite:p:`nieuwenhuizen2013`; the curve is the mean over five neighbouring rings. It is a
    resolution for the whole chain: the precision of the positions and the number of molecules
    found. A molecule that blinks in both halves agrees with itself and makes the number too good;
    a systematic error that both halves share is not seen.
    See :doc:`/book/renderer/05_many_molecules`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, frame = rng.uniform(-8, 8, 4000), rng.integers(0, 1000, 4000)
    >>> line = np.rec.fromarrays([frame, x, 4 * np.sin(x)], names="frame,x,y")
    >>> ring_correlation(line, (16, 16)).resolution(pixel_size=1 / 5) < 1
    True
    """
    images = [histogram(half, shape, zoom) for half in halves(table, block)]
    fade = np.outer(*(_tukey(n) for n in images[0].shape))
    rings = frc(*(fade * image for image in images))
    weight = uniform_filter1d(rings.n_samples.astype(float), 5, mode="constant")
    weighted = uniform_filter1d(rings.correlation * rings.n_samples, 5, mode="constant")
    return replace(rings, correlation=weighted / weight)


def _fine_shape(shape, zoom):
    if len(shape) != 2 or min(shape) < 1 or zoom != int(zoom) or zoom < 1:
        raise ValueError(f"shape is {shape} and zoom {zoom}: give (Y, X) and a whole number from 1")
    return int(shape[0] * zoom), int(shape[1] * zoom)


def _shares(at, std, half):
    """Pixels about each position, and the share of a Gaussian in each of them."""
    pixels = np.floor(at).astype(int)[:, None] + np.arange(-half, half + 1)
    edges = np.concatenate([pixels, pixels[:, -1:] + 1], axis=1) - at[:, None]
    return pixels, np.diff(erf(edges / (math.sqrt(2) * std[:, None]))) / 2


def _tukey(n):
    """One in the middle, falling to zero over the outer eighths as a cosine."""
    inward = np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / (n / 8)
    return 0.5 - 0.5 * np.cos(math.pi * np.minimum(inward, 1))
