"""Simulated twins of measured x-ray movies, for when those cannot be had."""

from __future__ import annotations

import numpy as np

from .experiment import Experiment
from .recordings import simulate


def meltpool_wall1() -> dict[str, np.ndarray]:
    """A melt pool in the size, noise and grey levels of `meltpool_wall1`.

    Examples
    --------
    >>> meltpool_wall1()["movie"].dtype
    dtype('uint16')
    """
    experiment = Experiment(
        shape=(120, 400), n_frames=162, key_every=1, hr_photons=11_400.0, mu=4.5e-3, distance=0.4
    )
    frames = simulate(experiment, 41).hr  # a sharp frame at every moment, with its noise
    return {"movie": (1499 * frames).round().clip(0, 65_535).astype(np.uint16)}
