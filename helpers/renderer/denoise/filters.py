r"""Classical filters against noise, and the setting that suits each best.

They are what learning has to beat. All take a stack of images in photo-electrons and give a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

from ...noise.counting import inverse_anscombe
from ...tv import prox_tv


def gaussian(images: np.ndarray, sigma: float) -> np.ndarray:
    """Average over a Gaussian window.

    Parameters
    ----------
    images : (B, Y, X) array
        Any unit.
    sigma : float
        Standard deviation of the window in px; 0 changes nothing.

    Returns
    -------
    (B, Y, X) float32 array

    Examples
    --------
    >>> image = np.zeros((1, 9, 9))
    >>> image[0, 4, 4] = 1
    >>> round(float(gaussian(image, 1.0)[0, 4, 4]), 3)
    0.159
    """
    return gaussian_filter(_stack(images), (0, sigma, sigma), mode="nearest")


def stabilised_tv(
    images: np.ndarray, weight: float, *, read_variance: float = 0.0, n_iter: int = 60
) -> np.ndarray:
    """Total variation on values of equal noise: stabilise, denoise, transform back.

    Parameters
    ----------
    images : (B, Y, X) array
        Photo-electrons.
    weight : float
        Weight of the total variation, in units of the noise.
    read_variance : float
        Of the camera, in squared photo-electrons.
    n_iter : int
        Sweeps of `helpers.tv.prox_tv`.

    Returns
    -------
    (B, Y, X) float32 array

    Notes
    -----
    The transform of `stabilise`, the denoiser of :doc:`/book/fusion/02_total_variation`.

    Examples
    --------
    >>> flat = np.random.default_rng(0).poisson(20.0, (1, 16, 16))
    >>> bool(stabilised_tv(flat, 2.0).std() < flat.std() / 3)
    True
    """
    values = stabilise(images, read_variance)
    smooth = prox_tv(values, weight, n_iter=n_iter, lower=None).x
    return unstabilise(smooth, read_variance)


def stabilised_means(
    images: np.ndarray,
    strength: float,
    *,
    read_variance: float = 0.0,
    patch: int = 3,
    reach: int = 6,
) -> np.ndarray:
    """Non-local means on values of equal noise: stabilise, denoise, transform back.

    Parameters
    ----------
    images : (B, Y, X) array
        Photo-electrons.
    strength : float
        How different two patches may be and still be averaged; see `nonlocal_means`.
    read_variance : float
        Of the camera, in squared photo-electrons.
    patch, reach : int
        Side of a patch, and how far away it is looked for, in px.

    Returns
    -------
    (B, Y, X) float32 array

    Examples
    --------
    >>> flat = np.random.default_rng(0).poisson(20.0, (1, 16, 16))
    >>> bool(stabilised_means(flat, 1.0).std() < flat.std() / 3)
    True
    """
    values = stabilise(images, read_variance)
    return unstabilise(nonlocal_means(values, strength, patch=patch, reach=reach), read_variance)


def nonlocal_means(
    images: np.ndarray,
    strength: float,
    *,
    patch: int = 3,
    reach: int = 6,
    sigma: float = 1.0,
) -> np.ndarray:
    r"""Average pixels whose neighbourhoods look alike.

    Parameters
    ----------
    images : (B, Y, X) array
        With noise of the same standard deviation `sigma` everywhere.
    strength : float
        Width h of the weights, in units of `sigma`.
    patch, reach : int
        Side of a patch (odd), and how far away it is looked for, in px.
    sigma : float
        Standard deviation of the noise.

    Returns
    -------
    (B, Y, X) float32 array

    Raises
    ------
    ValueError
        A strength that is not positive, an even patch, or a reach below 1.

    Notes
    -----
    With :math:`d^2` the mean squared difference of two patches, of which noise alone makes
    :math:`2 \sigma^2`, the weight is :math:`\exp(-\max(d^2 - 2 \sigma^2, 0) / h^2 \sigma^2)`
    :cite:p:`buades2005`. Every shift is made once for all pixels, and serves both ways.

    Examples
    --------
    >>> lines = np.tile([0.0, 0.0, 9.0, 0.0], (1, 16, 4))
    >>> noisy = lines + np.random.default_rng(0).normal(0, 1, lines.shape)
    >>> bool(np.std(nonlocal_means(noisy, 0.8) - lines) < 0.3)
    True
    """
    if not strength > 0 or patch < 1 or patch % 2 == 0 or reach < 1:
        raise ValueError(
            f"strength {strength}, patch {patch}, reach {reach}: give a positive strength, an odd "
            "patch and a reach of at least 1 px"
        )
    images = _stack(images)
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach)), mode="symmetric")
    padded = np.pad(padded, ((0, 0), (reach, reach), (0, 0)), mode="symmetric")
    height, width = images.shape[1:]

    def looked_up(stack, dy, dx):
        return stack[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]

    total, weights = images.copy(), np.ones_like(images)
    shifts = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    for dy, dx in shifts:
        if (dy, dx) == (0, 0):
            continue
        other = looked_up(padded, dy, dx)
        distance = uniform_filter((images - other) ** 2, (0, patch, patch), mode="nearest")
        excess = np.maximum(distance - 2 * sigma**2, 0)
        weight = np.exp(-excess / (strength * sigma) ** 2)
        total += weight * other
        weights += weight
    return total / weights


def stabilise(images: np.ndarray, read_variance: float = 0.0) -> np.ndarray:
    r"""Turn photo-electrons with read noise into values of nearly unit variance.

    :math:`2 \sqrt{\max(y + 3/8 + v, 0)}`, the generalised Anscombe transform
    :cite:p:`makitalo2011,anscombe1948`; negative values are allowed.

    Examples
    --------
    >>> float(stabilise(np.array(1.625), 2.0))
    4.0
    """
    shifted = np.asarray(images, dtype=np.float32) + np.float32(0.375 + read_variance)
    return 2 * np.sqrt(np.maximum(shifted, 0))


def unstabilise(values: np.ndarray, read_variance: float = 0.0) -> np.ndarray:
    """Rate whose stabilised values have the mean `values`: the inverse without bias, less v."""
    rate = inverse_anscombe(values) - read_variance
    return np.maximum(rate, 0).astype(np.float32)


def best_by_truth(
    denoiser: Callable[..., Any], settings: Sequence[float], images: np.ndarray, truth: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Pick the setting that comes closest to the truth: more than anybody has in practice.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(images, setting)`` gives the denoised stack.
    settings : sequence
        What to try.
    images, truth : (B, Y, X) arrays
        Noisy and noise-free.

    Returns
    -------
    setting
        Of the smallest mean squared error.
    denoised : (B, Y, X) array
    errors : (n,) array
        Mean squared error of each setting.

    Examples
    --------
    >>> noisy = np.random.default_rng(0).normal(5, 1, (1, 32, 32))
    >>> best_by_truth(gaussian, [0.0, 1.0, 3.0], noisy, np.full((1, 32, 32), 5.0))[0]
    3.0
    """
    results = [denoiser(images, setting) for setting in settings]
    errors = np.array([np.mean((result - truth) ** 2) for result in results])
    k = int(errors.argmin())
    return settings[k], results[k], errors


def _stack(images):
    images = np.asarray(images, dtype=np.float32)
    if images.ndim != 3:
        raise ValueError(f"images are {images.shape}: give a stack (B, Y, X)")
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinity: mask or fill them first")
    return images
