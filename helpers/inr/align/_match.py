"""Shifts between images: by correlation for a start, by least squares for the last hundredth."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d


def lag(profile: np.ndarray, reference: np.ndarray, sigma: float = 1.0) -> float:
    """Lag of `profile` behind `reference` in samples, from the peak of their correlation.

    Both are high-pass filtered by a derivative of width `sigma`; the peak is refined by a parabola.
    """
    a, b = (gaussian_filter1d(p, sigma, axis=-1, order=1) for p in (profile, reference))
    n = 2 * a.shape[-1]
    spectrum = np.fft.rfft(a, n) * np.fft.rfft(b, n).conj()
    correlation = np.fft.irfft(spectrum.reshape(-1, spectrum.shape[-1]).sum(0), n)
    top = int(correlation.argmax())
    before, at, after = correlation[[top - 1, top, (top + 1) % n]]
    bend = before - 2 * at + after
    peak = top + (0.5 * (before - after) / bend if bend < 0 else 0.0)
    return float((peak + n / 2) % n - n / 2)


def merged(images: np.ndarray, width: int) -> np.ndarray:
    """Means (N, Y, X) of squares of `width` pixels; what is left over at the far sides is cut."""
    n, rows, columns = len(images), images.shape[1] // width, images.shape[2] // width
    whole = images[:, : rows * width, : columns * width]
    return np.asarray(whole.reshape(n, rows, width, columns, width).mean((2, 4)))


def matched(
    images: np.ndarray, model: np.ndarray, most: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Shift of each image against its model, and the standard errors.

    Parameters
    ----------
    images, model : (N, Y, X) arrays
    most : float
        A step is cut at this many px.

    Returns
    -------
    (N, 2) arrays
        In px along (Y, X): the image's content lies that much further on.

    Notes
    -----
    One Gauss-Newton step on :math:`\|y - a\,m(r - \delta) - b\|^2` in shift, brightness and
    background of each image, with the residual's variance as that of the noise.
    """
    steps, errors = np.zeros((2, len(images), 2))
    for n, (image, m) in enumerate(zip(images, model, strict=True)):
        slopes = np.gradient(m)
        inner = (slice(1, -1), slice(1, -1)) if min(m.shape) > 4 else (slice(None),) * 2
        columns = [(-s)[inner].ravel() for s in slopes] + [m[inner].ravel()]
        basis = np.stack([*columns, np.ones(columns[0].size)], 1)
        found, _, rank, _ = np.linalg.lstsq(basis, image[inner].ravel(), rcond=1e-10)
        if rank < basis.shape[1] or not abs(found[2]) > 1e-12:
            errors[n] = np.inf
            continue
        variance = ((image[inner].ravel() - basis @ found) ** 2).sum() / max(len(basis) - 4, 1)
        spread = np.sqrt(variance * np.diag(np.linalg.inv(basis.T @ basis))[:2])
        steps[n], errors[n] = np.clip(found[:2] / found[2], -most, most), spread / abs(found[2])
    return steps, errors
