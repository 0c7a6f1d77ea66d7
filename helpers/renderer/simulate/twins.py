"""Simulated stand-ins for published measurements, for `helpers.datasets`."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from .beads import Microscope, aberrated_psf
from .filaments import filament_images, spots_image
from .volumes import tubes, widefield

GAIN, OFFSET, READ = 2.0, 100.0, 4.0  # ADU per photo-electron, ADU, photo-electrons squared
EXPOSURES = 40  # how many short exposures make a long one


def hagen_actin() -> dict[str, Any]:
    """Short and long exposures of filaments, in grey levels like the measurement.

    Returns
    -------
    dict
        ``"noisy"`` and ``"clean"``, both (20, 128, 128) uint16. A short exposure has a peak of 40
        photo-electrons, a background of 2 and a read variance of 4; a long one is 40 times as
        long, and scaled to the same grey levels. The camera has a gain of 2 and an offset of 100.

    Examples
    --------
    >>> {key: (value.shape, str(value.dtype)) for key, value in hagen_actin().items()}
    {'noisy': ((20, 128, 128), 'uint16'), 'clean': ((20, 128, 128), 'uint16')}
    """
    expected = filament_images(20, (128, 128), seed=60)
    rng = np.random.default_rng((60, 1))
    images = {}
    for name, times in (("noisy", 1), ("clean", EXPOSURES)):
        counts = rng.poisson(times * expected) + rng.normal(0, np.sqrt(READ), expected.shape)
        grey = np.round(OFFSET + GAIN * counts / times)
        images[name] = grey.clip(0, 65535).astype(np.uint16)
    return images


def epfl_worm() -> dict[str, Any]:
    """A widefield stack of hollow tubes and the PSF of its microscope.

    Returns
    -------
    dict
        ``"FITC"`` and ``"PSF"``, (24, 64, 64) uint16, in grey levels of one photo-electron. The
        PSF is the stack of a single bright voxel, without aberration.

    Examples
    --------
    >>> {key: (value.shape, str(value.dtype)) for key, value in epfl_worm().items()}
    {'FITC': ((24, 64, 64), 'uint16'), 'PSF': ((24, 64, 64), 'uint16')}
    """
    stack = widefield(tubes(seed=60), seed=60)
    point = np.zeros((24, 64, 64))
    point[12, 32, 32] = 1e8
    psf = widefield(point, background=0.0, aberration={}).expected
    psf = psf * (60_000 / psf.max())
    return {"FITC": stack.counts.astype(np.uint16), "PSF": np.round(psf).astype(np.uint16)}


def pmhc() -> dict[str, Any]:
    """Single molecules that walk and bleach, in grey levels of an EMCCD.

    Returns
    -------
    dict
        ``"frames"`` (10, 128, 128) uint16. The multiplication register of the twin gives 10 grey
        levels for each photo-electron on average, on an offset of 200, and hands a tenth of a
        pixel's charge on to the next along x.

    Examples
    --------
    >>> pmhc()["frames"].shape
    (10, 128, 128)
    """
    rng, n, size = np.random.default_rng(61), 55, 128
    y, x = np.mgrid[:size, :size] / size - 0.5
    haze = 3.0 + 4.0 * np.exp(-(x**2 + y**2) / 0.1)
    place, last = rng.uniform(-60, 60, (2, n)), rng.exponential(6.0, n)
    light, frames = rng.uniform(150, 450, n), []
    for k in range(10):
        place = place + 0.35 * rng.standard_normal(place.shape)
        lit = last > k
        x_lit, y_lit = place[:, lit]
        rate = haze + spots_image(x_lit, y_lit, light[lit], 1.2, (size, size))
        charge = rng.standard_gamma(rng.poisson(rate).clip(1e-9))
        charge = 0.9 * charge + 0.1 * np.roll(charge, 1, 1)
        frames.append(200 + 10 * charge + 3 * rng.standard_normal(rate.shape))
    return {"frames": np.round(frames).clip(0, 65535).astype(np.uint16)}


def bead_in_air() -> dict[str, Any]:
    """A bead that is no point, in 25 planes whose light falls, in grey levels.

    Returns
    -------
    dict
        ``"image"`` (25, 256, 256) uint16, planes 300 nm apart, pixels of 130 nm.

    Examples
    --------
    >>> bead_in_air()["image"].shape
    (25, 256, 256)
    """
    rng, planes = np.random.default_rng(62), np.arange(-12, 13)
    scope = Microscope(na=0.85, wavelength=0.52, index=1.0, pixel_size=0.13)
    waves = {5: 0.03, 7: -0.04, 8: 0.05, 12: 0.06}
    psf = aberrated_psf((61, 61), waves, z=0.3 * planes, microscope=scope)
    psf = gaussian_filter(psf, (0, 0.8, 0.8)) * np.linspace(1.0, 0.85, 25)[:, None, None]
    image = np.full((25, 256, 256), 320.0)
    image[:, 98:159, 101:162] += 1.7e6 * psf
    grey = 100 + 0.46 * (rng.poisson(image) + 2 * rng.standard_normal(image.shape))
    return {"image": np.round(grey).clip(0, 65535).astype(np.uint16)}


def two_colour_beads() -> dict[str, Any]:
    """Beads that a camera sees twice, in two colours side by side, in grey levels.

    Returns
    -------
    dict
        ``"img"`` (121, 421) uint16: 13 grey levels for each photo-electron on an offset of 180.
        The right half shows the places of the left one turned, scaled and shifted a little.

    Examples
    --------
    >>> two_colour_beads()["img"].shape
    (121, 421)
    """
    rng, places = np.random.default_rng(63), np.zeros((0, 2))
    while len(places) < 34:
        place = rng.uniform((-50, -95), (50, 95))
        if not len(places) or np.hypot(*(places - place).T).min() > 9:
            places = np.concatenate([places, place[None]])
    light = rng.uniform(1500, 6000, len(places))
    rows, columns = np.mgrid[:121, :421]
    rate = 3 + 9 * np.exp(-((rows - 60) ** 2 + (columns % 211 - 105) ** 2) / 6000.0)
    turned = places @ np.array([[1.002, -0.006], [0.006, 1.001]]).T + (0.7, 1.3)
    for middle, seen, colour, share in ((105, places, 0.58, 1.0), (315, turned, 0.68, 0.7)):
        scope = Microscope(wavelength=colour, pixel_size=0.10)
        for (y, x), n in zip(seen, share * light, strict=True):
            row, column = round(60 + y), round(middle + x)
            part = np.s_[row - 9 : row + 10, column - 9 : column + 10]
            here = rate[part]  # less where a bead hangs over the rim
            bead = aberrated_psf(
                (19, 19), {5: 0.04, 8: 0.05}, x=middle + x - column, y=60 + y - row,
                microscope=scope,
            )  # fmt: skip
            here += n * bead.reshape(19, 19)[: here.shape[0], : here.shape[1]]
    grey = 180 + 13 * (rng.poisson(rate) + 1.0 * rng.standard_normal(rate.shape))
    return {"img": np.round(grey).clip(0, 65535).astype(np.uint16)}
