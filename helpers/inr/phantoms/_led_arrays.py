"""Simulated twins of measured LED arrays: a blood smear, aberrated; algae, thick and coloured."""

from __future__ import annotations

import numpy as np
from scipy.fft import fft2, fftfreq, ifft2
from scipy.ndimage import gaussian_filter

WAVELENGTH, NA, PIXEL = 0.63, 0.1, 1.845  # um
PITCH, DISTANCE, PLACE = 4.0, 90.88, (-0.09, -2.949)  # mm, and (y, x) of the first LED
CAMERA, WIDER, FINER = 128, 144, 4  # camera pixels, those of the simulated field, object pixels
N_LEDS = 225
PHOTONS = 20000

# of the algae, where they differ; distance and place are of this array, not of its card
ALGAE_NA, ALGAE_INDEX, ALGAE_PIXEL = 0.25, 1.33, 6.5 / 10.07  # um
ALGAE_DISTANCE, ALGAE_PLACE, CENTRE = 81.0, (-1.0, 0.4), 17  # mm; number of the LED on the axis
ALGAE_CAMERA, ALGAE_WIDER = 288, 320  # pixels, and those of the simulated field
SLICES, STEP, MIDDLE = 16, 8.0, 36.0  # number, um, and um from the focus
COUNTS, OFFSET = 9000, 60  # of a bright field, and of the camera in the dark


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


def blood_smear(seed: int = 0) -> dict[str, np.ndarray]:
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


def lit() -> np.ndarray:
    """(89, 2) numbers, (row, column), of the LEDs, row by row, as in the measurement."""
    row, column = np.mgrid[-5:6, -5:6].reshape(2, -1)
    inside = row**2 + column**2 <= 26
    return np.stack([row, column], 1)[inside] + CENTRE


def filaments(n_pixels: int, pixel_size: float, depths: np.ndarray, seed: int = 0) -> np.ndarray:
    """Complex contrast (Z, n, n) of two crossing filaments with helical chloroplasts.

    The field repeats at its border; lengths in um.
    """
    rng = np.random.default_rng(seed)
    size = n_pixels * pixel_size
    y, x = (np.indices((n_pixels, n_pixels)) + 0.5) * pixel_size
    index = np.zeros((len(depths), n_pixels, n_pixels))
    absorption = np.zeros_like(index)
    for height, upright in ((12.0, True), (62.0, False)):
        along, across = (y, x) if upright else (x, y)
        middle = size * rng.uniform(0.35, 0.65) + 6 * np.sin(2 * np.pi * along / size)
        off = (across - middle + size / 2) % size - size / 2
        turns, start = int(rng.integers(3, 6)), rng.uniform(0, 2 * np.pi, 2)
        for layer, depth in enumerate(depths):
            up = depth - height
            radius = np.hypot(off, up)
            angle = np.arctan2(up, off)
            wall = np.exp(-0.5 * ((radius - 22) / 2.0) ** 2)
            index[layer] += 0.003 * (radius < 22) + 0.008 * wall
            for first in start:
                twist = angle - first - 2 * np.pi * turns * along / size
                away = 17 * np.abs((twist + np.pi) % (2 * np.pi) - np.pi)
                ribbon = np.exp(-0.5 * ((radius - 17) / 3.0) ** 2 - 0.5 * (away / 4.0) ** 2)
                grain = 1 + 0.4 * np.cos(along * 2 * np.pi * 23 / size)
                index[layer] += 0.012 * ribbon * grain
                absorption[layer] += 0.003 * ribbon * grain
    blur = (0, 0.4 / pixel_size, 0.4 / pixel_size)
    return gaussian_filter(index + 1j * absorption, blur, mode="wrap")


def algae(seed: int = 0) -> dict[str, np.ndarray]:
    """Images of algae behind 89 LEDs.

    Returns
    -------
    dict
        "images", (89, 288, 288) uint16 counts; "led_index_yx", (89, 2) numbers of the LEDs, of
        which the rows count against y.
    """
    rng = np.random.default_rng([seed, 2])
    numbers = lit()
    away = PITCH * (numbers - CENTRE) * (-1, 1) + ALGAE_PLACE
    sine = away / np.sqrt((away**2).sum(1, keepdims=True) + ALGAE_DISTANCE**2)
    bins = np.rint(sine * ALGAE_WIDER * ALGAE_PIXEL / WAVELENGTH).astype(int)
    depths = (np.arange(SLICES) - (SLICES - 1) / 2) * STEP + MIDDLE
    contrast = filaments(ALGAE_WIDER, ALGAE_PIXEL, depths, seed).astype(np.complex64)
    screens = np.exp(2j * np.pi * STEP / WAVELENGTH * contrast).astype(np.complex64)
    k = fftfreq(ALGAE_WIDER, ALGAE_PIXEL) * WAVELENGTH
    squared = k[:, None] ** 2 + k**2
    upward = np.sqrt(ALGAE_INDEX**2 - squared)  # no frequency of this grid is evanescent
    step = np.exp(2j * np.pi * STEP / WAVELENGTH * (upward - ALGAE_INDEX)).astype(np.complex64)
    back = np.exp(-2j * np.pi * depths[-1] / WAVELENGTH * (upward - ALGAE_INDEX))
    rim = np.clip(0.5 + (ALGAE_NA - np.sqrt(squared)) / 0.004, 0, 1)
    imaging = (back * rim).astype(np.complex64)
    pixels = np.arange(ALGAE_WIDER) / ALGAE_WIDER
    images = np.empty((len(bins), ALGAE_CAMERA, ALGAE_CAMERA), np.uint16)
    edge = (ALGAE_WIDER - ALGAE_CAMERA) // 2
    for n, (row, column) in enumerate(bins):
        turns = row * pixels[:, None] + column * pixels
        wave = np.exp(2j * np.pi * turns).astype(np.complex64)
        for screen in screens[:-1]:
            wave = ifft2(step * fft2(wave * screen))
        wave = ifft2(imaging * fft2(wave * screens[-1]))
        light = rng.normal(1.0, 0.05) * COUNTS * np.abs(wave) ** 2 + OFFSET
        inner = light[edge : edge + ALGAE_CAMERA, edge : edge + ALGAE_CAMERA]
        images[n] = rng.poisson(inner).clip(max=65535)
    return {
        "images": images,
        "led_index_yx": numbers,
    }
