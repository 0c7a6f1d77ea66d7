"""How good an estimate is: against the truth, and against a second measurement.

NumPy arrays or tensors in, plain floats out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._arrays import to_numpy

__all__ = ["FRC", "affine_fit", "fourier_correlation", "nrmse", "psnr", "ssim"]


def affine_fit(estimate, truth):
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
    estimate, truth = _pair(estimate, truth)
    x, y = estimate - estimate.mean(), truth - truth.mean()
    energy = float((x * x).sum())
    scale = float((x * y).sum()) / energy if energy > 0 else 0.0
    return scale, float(truth.mean() - scale * estimate.mean())


def nrmse(estimate, truth, *, affine=False):
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
    estimate, truth = _pair(estimate, truth)
    spread = float(truth.std())
    if spread == 0:
        raise ValueError("truth is constant: an error relative to its spread has no meaning")
    if affine:
        scale, offset = affine_fit(estimate, truth)
        estimate = scale * estimate + offset
    return float(np.sqrt(np.mean((estimate - truth) ** 2))) / spread


def snr_gain(before, after, truth, *, affine=False):
    """How many times smaller the error against the truth became.

    Examples
    --------
    >>> truth = np.array([0.0, 1.0])
    >>> snr_gain(truth + 0.5, truth + 0.25, truth)
    2.0
    """
    return nrmse(before, truth, affine=affine) / nrmse(after, truth, affine=affine)


def psnr(estimate, truth, *, data_range=None, scaled=False):
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
    from skimage.metrics import peak_signal_noise_ratio

    estimate, truth = _pair(estimate, truth)
    data_range = _data_range(truth, data_range)
    if scaled:
        energy = float((estimate * estimate).sum())
        estimate = estimate * (float((estimate * truth).sum()) / energy if energy > 0 else 0.0)
    if np.array_equal(estimate, truth):
        return float("inf")
    return float(peak_signal_noise_ratio(truth, estimate, data_range=data_range))


def ssim(estimate, truth, *, data_range=None):
    """Structural similarity with the Gaussian window of its authors; 1 is perfect.

    Parameters
    ----------
    estimate, truth : array or tensor
        2D images or 3D volumes, the same shape, at least 11 px along each axis.
    data_range : float, optional
        Range of possible values; that of the truth if left out.

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
    from skimage.metrics import structural_similarity

    estimate, truth = _pair(estimate, truth)
    if min(truth.shape) < 11:
        raise ValueError(f"images are {truth.shape}: the SSIM window needs 11 px along each axis")
    return float(
        structural_similarity(
            truth,
            estimate,
            data_range=_data_range(truth, data_range),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


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

    def resolution(self, threshold=1 / 7, pixel_size=1.0):
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


def frc(a, b):
    """Correlate two independent images of one object ring by ring in Fourier space.

    Parameters
    ----------
    a, b : (H, W) array or tensor
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
    a, b = _pair(a, b)
    if a.ndim != 2:
        raise ValueError(f"images have shape {a.shape}: give two 2D images")
    fa, fb = np.fft.fft2(a), np.fft.fft2(b)
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in a.shape), indexing="ij"))
    ring = np.rint(radius * min(a.shape)).astype(int)
    inside = (radius <= 0.5) & (ring > 0)

    def sums(values):
        return np.bincount(ring[inside], weights=values[inside])[1:]

    n_samples = sums(np.ones_like(radius))
    norm = np.sqrt(sums(np.abs(fa) ** 2) * sums(np.abs(fb) ** 2))
    cross = sums((fa * fb.conj()).real)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    return FRC(sums(radius) / n_samples, correlation, n_samples.astype(int))


def fourier_correlation(a, b, voxel_size, *, band=(0.12, 1.0), elevation=(50.0, 90.0)):
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


def _pair(a, b):
    a, b = (to_numpy(x).astype(float) for x in (a, b))
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"shapes are {a.shape} and {b.shape}: crop both to the same field")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("an image holds NaN or infinity: mask or crop it first")
    return a, b


def _data_range(truth, data_range):
    data_range = float(np.ptp(truth)) if data_range is None else data_range
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}: give the positive range of the values")
    return data_range
