"""Simulated stand-ins for published measurements, for `helpers.datasets`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .filaments import filament_images
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
