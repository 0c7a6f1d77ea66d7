"""Image quality: errors against the truth, PSNR, SSIM, and Fourier correlation.

NumPy arrays or tensors in, plain floats out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ._arrays import Array, ArrayT, to_numpy

__all__ = ["FRC", "affine_fit", "fourier_correlation", "nrmse", "psnr", "ssim"]


def affine_fit(estimate: Array, truth: Array) -> tuple[float, float]:
    """Find the scale and offset that bring an estimate closest to the truth.

    Parameters
    ----------
    estimate, truth : array or tensor
        The same shape.

    Returns
    -------
    scale, offset : float
        Minimise ``||scale estimate + offset - truth||``; a constant estimate has scale 0.

    Examples
    --------
    >>> affine_fit(np.array([0.0, 1.0, 2.0]), np.array([5.0, 8.0, 11.0]))
    (3.0, 5.0)
    """
    a, b = _pair(estimate, truth)
    x, y = a - a.mean(), b - b.mean()
    energy = float((x * x).sum())
    scale = float((x * y).sum()) / energy if energy > 0 else 0.0
    return scale, float(b.mean() - scale * a.mean())


def nrmse(estimate: Array, truth: Array, *, affine: bool = False) -> float:
    """Root-mean-square error over the standard deviation of the truth: 0 is perfect, 1 is useless.

    Parameters
    ----------
    estimate, truth : array or tensor
        The same shape.
    affine : bool
        Compare after `affine_fit`, where scale and offset carry no meaning.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Shapes differ, something is not finite, or the truth is constant.

    Examples
    --------
    >>> nrmse(np.array([0.0, 2.0]), np.array([1.0, 3.0]))
    1.0
    >>> nrmse(np.array([0.0, 2.0]), np.array([1.0, 3.0]), affine=True)
    0.0
    """
    a, b = _pair(estimate, truth)
    spread = float(b.std())
    if spread == 0:
        raise ValueError("truth is constant: an error relative to its spread has no meaning")
    if affine:
        scale, offset = affine_fit(a, b)
        a = scale * a + offset
    return float(np.sqrt(np.mean((a - b) ** 2))) / spread


def psnr(
    estimate: Array, truth: Array, *, data_range: float | None = None, scaled: bool = False
) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the range of the truth unless given.

    With `scaled` the estimate is first multiplied by the factor that brings it closest to the
    truth: it is then judged by its shape, whatever its brightness.

    Examples
    --------
    >>> psnr(np.array([0.1, 0.9]), np.array([0.0, 1.0]))
    20.0
    >>> psnr(np.array([0.2, 1.8]), np.array([0.1, 0.9]), scaled=True)
    inf
    """
    a, b = _pair(estimate, truth)
    peak = _data_range(b, data_range)
    if scaled:
        energy = float((a * a).sum())
        a = a * (float((a * b).sum()) / energy if energy > 0 else 0.0)
    error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def ssim(
    estimate: Array,
    truth: Array,
    *,
    data_range: float | None = None,
    where: np.ndarray | None = None,
) -> float:
    """Structural similarity with the Gaussian window of its authors; 1 is perfect.

    Parameters
    ----------
    estimate, truth : array or tensor
        2D images or 3D volumes, the same shape, at least 11 px along each axis.
    data_range : float, optional
        Range of possible values; that of the truth if left out.
    where : bool array, optional
        Middles of the windows that count; all of them if left out.

    Returns
    -------
    float

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13, 600 (2004).

    Examples
    --------
    >>> image = np.random.default_rng(0).random((16, 16))
    >>> round(ssim(image, image), 6)
    1.0
    """
    a, b = _pair(estimate, truth)
    if min(b.shape) < 11:
        raise ValueError(f"images are {b.shape}: the SSIM window needs 11 px along each axis")
    peak = _data_range(b, data_range)
    similarity = ssim_map(a / peak, b / peak, lambda x: gaussian_filter(x, 1.5, radius=5))
    inside = (slice(5, -5),) * b.ndim  # windows that lie in the image
    return float(similarity[inside].mean(where=True if where is None else where[inside]))


def ssim_map(a: ArrayT, b: ArrayT, mean: Callable[[ArrayT], ArrayT]) -> ArrayT:
    """Structural similarity in each window, for images within [0, 1]; also a part of a loss.

    `mean` takes the mean over the windows.
    """
    ma, mb = mean(a), mean(b)
    covariance = mean(a * b) - ma * mb
    variances = mean(a * a) - ma**2 + mean(b * b) - mb**2
    c1, c2 = 0.01**2, 0.03**2
    return (2 * ma * mb + c1) * (2 * covariance + c2) / ((ma**2 + mb**2 + c1) * (variances + c2))


@dataclass(frozen=True)
class FRC:
    """Fourier ring correlation of two images.

    Parameters
    ----------
    frequency : (n,) array
        Mean spatial frequency of each ring in cycles per px, up to 0.5.
    correlation : (n,) array
        Between -1 and 1.
    n_samples : (n,) array of int
        Fourier samples in the ring; noise alone scatters by about ``n_samples ** -0.5``.
    """

    frequency: np.ndarray
    correlation: np.ndarray
    n_samples: np.ndarray

    def resolution(self, threshold: float = 1 / 7, pixel_size: float = 1.0) -> float:
        """Give the length at which the correlation first falls below `threshold`.

        Returns
        -------
        float
            In the unit of `pixel_size`; infinite if no ring reaches the threshold, and two pixels
            if all do.
        """
        below = np.flatnonzero(self.correlation < threshold)
        if below.size == 0:
            return 2.0 * pixel_size
        first = below[0]
        if first == 0:
            return float("inf")
        (f0, f1), (c0, c1) = (
            self.frequency[first - 1 : first + 1],
            self.correlation[first - 1 : first + 1],
        )
        return float(pixel_size / (f0 + (f1 - f0) * (c0 - threshold) / (c0 - c1)))


def frc(first: Array, second: Array) -> FRC:
    """Correlate two independent images of one object ring by ring in Fourier space.

    Parameters
    ----------
    first, second : (H, W) array or tensor
        The same field, with independent noise.

    Returns
    -------
    FRC

    Raises
    ------
    ValueError
        Shapes differ, something is not finite, or the images are not 2D.

    Notes
    -----
    ``FRC(q) = Re sum A conj(B) / sqrt(sum |A|^2 sum |B|^2)`` over the ring q. Where signal and
    noise have the power ratio s, its mean is ``s / (s + 1)``. The images are not windowed: a field
    with a strong step at its border should be apodised first. The zero frequency is left out.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> bool(np.allclose(frc(image, 3 * image + 1).correlation, 1))
    True
    """
    a, b = _pair(first, second)
    if a.ndim != 2:
        raise ValueError(f"images have shape {a.shape}: give two 2D images")
    fa, fb = np.fft.fft2(a), np.fft.fft2(b)
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in a.shape), indexing="ij"))
    ring = np.rint(radius * min(a.shape)).astype(int)
    inside = (radius <= 0.5) & (ring > 0)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring[inside], weights=values[inside])[1:]

    n_samples = sums(np.ones_like(radius))
    norm = np.sqrt(sums(np.abs(fa) ** 2) * sums(np.abs(fb) ** 2))
    cross = sums((fa * fb.conj()).real)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    return FRC(sums(radius) / n_samples, correlation, n_samples.astype(int))


def fourier_correlation(
    a: Array,
    b: Array,
    voxel_size: float | Sequence[float],
    *,
    band: tuple[float, float] = (0.12, 1.0),
    elevation: tuple[float, float] = (50.0, 90.0),
) -> float:
    r"""Correlate two volumes in a double cone of Fourier space, such as one that is hardly seen.

    Parameters
    ----------
    a, b : (Z, Y, X) array or tensor
        An estimate and the truth, or two independent estimates.
    voxel_size : float or (float, float, float)
        Along (z, y, x).
    band : (float, float)
        Spatial frequencies in cycles per unit of `voxel_size`.
    elevation : (float, float)
        Angles above the lateral plane, in degrees: (50, 90) is the axial cone, (0, 30) the rest.

    Returns
    -------
    float
        :math:`\mathrm{Re} \sum A B^* / \sqrt{\sum |A|^2 \sum |B|^2}`, 1 where they agree up to
        their brightness.

    Raises
    ------
    ValueError
        Shapes differ, something is not finite, or no frequency lies in the cone.

    Examples
    --------
    >>> volume = np.random.default_rng(0).random((8, 16, 16))
    >>> round(fourier_correlation(volume, 2 * volume, (0.3, 0.2, 0.2)), 6)
    1.0
    """
    a, b = _pair(a, b)
    sizes = np.broadcast_to(np.asarray(voxel_size, float), 3)
    if a.ndim != 3 or not (sizes > 0).all():
        raise ValueError(f"shape {a.shape}, voxel_size {voxel_size}: give volumes, and lengths > 0")
    steps = (np.fft.fftfreq(n, d) for n, d in zip(a.shape, sizes, strict=True))
    kz, ky, kx = np.meshgrid(*steps, indexing="ij")
    lateral = np.hypot(ky, kx)
    radius, angle = np.hypot(kz, lateral), np.degrees(np.arctan2(np.abs(kz), lateral))
    inside = (radius >= band[0]) & (radius <= band[1])
    inside &= (angle >= elevation[0]) & (angle <= elevation[1])
    if not inside.any():
        raise ValueError(f"no frequency lies in the band {band} at elevation {elevation}")
    fa, fb = np.fft.fftn(a)[inside], np.fft.fftn(b)[inside]
    norm = np.sqrt((np.abs(fa) ** 2).sum() * (np.abs(fb) ** 2).sum())
    return float((fa * fb.conj()).real.sum() / norm) if norm > 0 else 0.0


def _pair(first: Array, second: Array) -> tuple[np.ndarray, np.ndarray]:
    a, b = (to_numpy(x).astype(float) for x in (first, second))
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"shapes are {a.shape} and {b.shape}: crop both to the same field")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("an image holds NaN or infinity: mask or crop it first")
    return a, b


def _data_range(truth: np.ndarray, data_range: float | None) -> float:
    data_range = float(np.ptp(truth)) if data_range is None else data_range
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}: give the positive range of the values")
    return data_range
