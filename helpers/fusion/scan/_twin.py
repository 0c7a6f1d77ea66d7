"""Simulated twin of a measured x-ray scan: Pd particles on TiO2, drawn photon by photon.

It shares nothing with the fit of `helpers.fusion.maps_from_spectra`, the energies of the lines
included: they are those of J. A. Bearden, Rev. Mod. Phys. 39, 78 (1967).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

SIZE, CHANNELS = 64, 2048
OFFSET, STEP = -0.4754, 0.010001  # keV, as the measured file has them
TRUE_OFFSET = 0.03  # keV: the axis of the twin is off by so much
# Photons in all of each line in the measured scan, and its energy in keV.
LINES = {
    "Ti": (3200, ((4.5108, 0.58), (4.5049, 0.30), (4.9318, 0.12))),
    "Ti soft": (1250, ((0.4522, 0.8), (0.3953, 0.2))),
    "O": (2950, ((0.5249, 1.0),)),
    "Pd": (130, ((2.8386, 0.60), (2.9902, 0.25), (3.1718, 0.09), (3.3287, 0.06))),
    "Cu": (45, ((8.0478, 0.88), (8.9053, 0.12))),
    "N": (1300, ((0.3924, 1.0),)),
    "Si": (9900, ((1.7398, 0.98), (1.8359, 0.02))),
    "C": (230, ((0.2774, 1.0),)),
    "strobe": (1600, ((0.0, 1.0),)),
}


def pd_tio2_edx(seed: int = 0) -> dict[str, np.ndarray]:
    """HAADF (64, 64) uint16, saturated; EDX (64, 64, 2048) uint8; energies (2048,) in keV."""
    spectra, haadf, _ = draw(seed)
    return {"HAADF": haadf, "EDX": spectra, "energies": OFFSET + STEP * np.arange(CHANNELS)}


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Spectra, HAADF, and the photons of each line that were drawn in each pixel."""
    rng = np.random.default_rng(seed)
    oxide, metal = _specimen(rng)
    flat = np.full((SIZE, SIZE), 1.0)
    where = {"Ti": oxide, "Ti soft": oxide, "O": oxide + 0.15, "Pd": metal}
    spectra = np.zeros((SIZE * SIZE, CHANNELS), np.uint8)
    drawn = {}
    for name, (photons, lines) in LINES.items():
        shape = where.get(name, flat)
        number = rng.poisson(photons * shape / shape.sum())
        energies, shares = np.array(lines).T
        true = rng.choice(energies, number.sum(), p=shares / shares.sum())
        # Noise of the electronics, and Fano statistics of the pairs of charges.
        width = np.sqrt(0.0285**2 + 4.3e-4 * true)
        _add(spectra, number, rng.normal(true, width))
        drawn[name] = number
    continuum = 0.4 + oxide / oxide.max() + 2 * metal / metal.max()
    number = rng.poisson(5100 * continuum / continuum.sum())
    energy = np.empty(0)
    while energy.size < number.sum():
        trial = 0.08 * (20 / 0.08) ** rng.random(20_000)
        kept = rng.random(trial.size) < (1 - trial / 25) * np.exp(-0.3 / trial)
        energy = np.concatenate([energy, trial[kept]])
    _add(spectra, number, energy[: number.sum()])
    thickness = oxide + 6 * metal
    haadf = rng.poisson(400 * gaussian_filter(thickness + 0.3, 0.7)) * 40.0 + 9000
    ceiling = np.quantile(haadf, 0.907)
    haadf = np.minimum(haadf * (65535 / ceiling), 65535).astype(np.uint16)
    return spectra.reshape(SIZE, SIZE, CHANNELS), haadf, drawn


def _specimen(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Thickness of the oxide, grains that touch; and of the metal, small particles on them."""
    y, x = np.mgrid[:SIZE, :SIZE]
    oxide = np.zeros((SIZE, SIZE))
    for _ in range(14):
        cy, cx = rng.normal(SIZE / 2, SIZE / 5, 2)
        radius = rng.uniform(6, 12)
        oxide += np.sqrt(np.maximum(radius**2 - (y - cy) ** 2 - (x - cx) ** 2, 0)) / 12
    metal = np.zeros((SIZE, SIZE))
    spots = np.argwhere(oxide > 0.5)
    for cy, cx in spots[rng.choice(len(spots), 5, replace=False)]:
        radius = rng.uniform(2.5, 4.5)
        metal += np.sqrt(np.maximum(radius**2 - (y - cy) ** 2 - (x - cx) ** 2, 0)) / 8
    return oxide, metal


def _add(spectra: np.ndarray, number: np.ndarray, energies: np.ndarray) -> None:
    """Put photons into the channels of their pixels."""
    pixel = np.repeat(np.arange(number.size), number.ravel())
    channel = np.rint((energies - TRUE_OFFSET - OFFSET) / STEP).astype(int)
    inside = (channel >= 0) & (channel < CHANNELS)
    np.add.at(spectra, (pixel[inside], channel[inside]), 1)
