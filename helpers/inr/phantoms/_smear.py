"""Simulated twin of a measured blood smear under an LED array, through an aberrated objective."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

WAVELENGTH, NA, PIXEL = 0.63, 0.1, 1.845  # um
PITCH, DISTANCE, PLACE = 4.0, 90.88, (-0.09, -2.949)  # mm, and (y, x) of the first LED
CAMERA, WIDER, FINER = 128, 144, 4  # camera pixels, those of the simulated field, object pixels
N_LEDS = 225
PHOTONS = 20000


def smear(n_pixels: int, pixel_size: float, seed: int = 0) -> np.ndarray:
    """Complex transmission (n, n) of red cells: dimpled discs that delay, and absorb a little.

    The field repeats at its border; lengths in um.
    """
    rng = np.random.default_rng(seed)
    size = n_pixels * pixel_size
    place = (np.arange(n_pixels) + 0.5) * pixel_size
    thick = np.zeros((n_pixels, n_pixels))
    for _ in range(int(0.006 * size**2)):
        (y, x), radius = rng.uniform(0, size, 2), rng.normal(3.7, 0.25)
        off = [(place - centre + size / 2) % size - size / 2 for centre in (y, x)]
        r = np.hypot(off[0][:, None], off[1]) / radius
        dimpled = (1 - r**2).clip(0) ** 0.5 * (0.35 + 1.3 * r**2)
        thick = np.maximum(thick, rng.uniform(0.8, 1.2) * dimpled)
    thick = gaussian_filter(thick, 0.3 / pixel_size, mode="wrap")
    return np.exp((1.3j - 0.12) * thick)


def spiral_on_a_square(n: int) -> np.ndarray:
    """Places (n, 2), (row, column), on a square grid in a spiral from its middle: +x, then +y."""
    places, at, step = [], np.zeros(2, int), np.array([0, 1])
    for run in range(1, n):
        for _ in range(2):
            for _ in range(run):
                places.append(at.copy())
                at = at + step
            step = np.array([step[1], -step[0]])
    return np.array(places[:n])


def twin(seed: int = 0) -> dict[str, np.ndarray]:
    """Images of a smear behind 225 LEDs, and the pupil through which they were taken.

    Returns
    -------
    dict
        "imlow_HDR", (128, 128, 225) float32 in units of about the bright field, and "aberration",
        (128, 128) complex64, with the direction of the axis in the middle of the array.
    """
    rng = np.random.default_rng([seed, 1])
    spectrum = np.fft.fftshift(np.fft.fft2(smear(WIDER * FINER, PIXEL / FINER, seed)))
    spectrum /= FINER**2
    away = PITCH * spiral_on_a_square(N_LEDS) + PLACE
    away = away + rng.normal(0, 0.05, away.shape)  # no LED is quite at its place
    sine = away / np.sqrt((away**2).sum(1, keepdims=True) + DISTANCE**2)
    # the field is wider than the camera's, so that nothing repeats at the border of an image
    bins = np.rint(sine * WIDER * PIXEL / WAVELENGTH).astype(int)
    strengths = rng.normal(0, 1, 7)
    pupil = _pupil(WIDER, strengths)
    middle, half = WIDER * FINER // 2, WIDER // 2
    images = np.empty((CAMERA, CAMERA, N_LEDS), np.float32)
    edge = (WIDER - CAMERA) // 2
    for n, (row, column) in enumerate(bins):
        top, left = middle + row - half, middle + column - half
        field = np.fft.ifft2(
            np.fft.ifftshift(pupil * spectrum[top : top + WIDER, left : left + WIDER])
        )
        light = rng.normal(1.2, 0.03) * np.abs(field) ** 2 + 0.002
        dim = 1 if light.mean() > 0.3 else 20  # dark fields are exposed for longer
        counts = rng.poisson(PHOTONS * dim * light) / (PHOTONS * dim)
        images[..., n] = counts[edge : edge + CAMERA, edge : edge + CAMERA]
    return {
        "imlow_HDR": images.clip(1e-4),
        "aberration": _pupil(CAMERA, strengths, rim=False).astype(np.complex64),
    }


def _pupil(n: int, strengths: np.ndarray, rim: bool = True) -> np.ndarray:
    """Complex pupil (n, n) with defocus, astigmatism, coma, spherical and trefoil."""
    along = (np.arange(n) - n // 2) * WAVELENGTH / (n * PIXEL) / NA
    y, x = along[:, None], along[None, :]
    squared = y**2 + x**2
    forms = (
        0.6 * (2 * squared - 1),
        0.5 * (x**2 - y**2),
        1.0 * x * y,
        0.7 * (3 * squared - 2) * x,
        0.7 * (3 * squared - 2) * y,
        0.3 * (6 * squared**2 - 6 * squared + 1),
        0.5 * (x**3 - 3 * x * y**2),
    )
    phase = sum(s * f for s, f in zip(strengths, forms, strict=True))
    return np.exp(1j * phase) * (squared <= 1 if rim else 1)
