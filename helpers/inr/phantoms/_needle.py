"""Simulated twin of a measured tilt series: a layered needle with shadows in closed form."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import affine_transform

TILTS = np.linspace(-76, 76, 77)
AXIS = 12.4, -2.2  # px from the middle, and degrees


def twin(seed: int = 0) -> dict[str, np.ndarray]:
    """A needle of discs with an eccentric hole, tilted about x, its images adrift.

    Returns
    -------
    dict
        "projections", (77, 256, 256) int16: the offset of the detector left in, the tilt axis
        along x, about as far off and as much turned as in the measurement.
    """
    rng = np.random.default_rng(seed)
    n = 256
    place = np.arange(n) - (n - 1) / 2  # along the axis, and across it
    radius = np.interp(place, [-128, -40, 70, 75], [44, 38, 4, 0])
    layer = np.interp(place, [-41, -40, 75, 76], [0, 1, 1, 0])
    density = 0.2 + layer * (0.55 + 0.25 * np.sign(np.sin(place / 5.5)))
    theta = np.deg2rad(TILTS)[:, None]

    def discs(radii: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Chords (N, Y, S) of one disc on each line, averaged over four rays a pixel."""
        centre = (x * np.cos(theta) + z * np.sin(theta))[..., None]
        fine = place + (np.arange(4)[:, None, None, None] - 1.5) / 4
        return 2 * np.sqrt(np.maximum(radii[:, None] ** 2 - (fine - centre) ** 2, 0)).mean(0)

    x, z = 6 + 0.04 * place, -4 - 0.06 * place
    ideal = density[:, None] * discs(radius, x, z)
    ideal -= 0.5 * density[:, None] * discs(0.3 * radius, x + 0.4 * radius, z + 0.2 * radius)
    ideal *= 55000 / ideal.max()

    offset, turn = AXIS
    alpha = np.deg2rad(turn)
    to_axis = np.array([[np.cos(alpha), -np.sin(alpha)], [np.sin(alpha), np.cos(alpha)]])
    drift = np.cumsum(rng.normal(0, 1.2, (len(TILTS), 2)), axis=0)
    drift += rng.normal(0, (1.0, 5.0), drift.shape)
    middle = (n - 1) / 2 * np.ones(2)
    images = np.empty((len(TILTS), n, n), np.float32)
    for image, out, d in zip(ideal, images, drift - drift.mean(0), strict=True):
        at = middle + d + (0, offset)
        # beyond the root the needle goes on
        out[:] = affine_transform(image, to_axis, middle - to_axis @ at, order=1, mode="nearest")
    noisy = images + rng.normal(0, 1, images.shape) * (8 + 4 * np.sqrt(images))
    counts = np.clip(noisy - 31885, -32768, 32767).astype(np.int16)
    return {"projections": counts.swapaxes(1, 2).copy()}
