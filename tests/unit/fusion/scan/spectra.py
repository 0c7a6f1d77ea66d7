"""Spectra drawn photon by photon; shares nothing with what fits them.

Energies of the lines in keV are those of J. A. Bearden, Rev. Mod. Phys. 39, 78 (1967), typed here;
the shares of a shell's lines are round numbers near the measured ones.
"""

from __future__ import annotations

import numpy as np

LINES = {
    "O": [(0.5249, 1.0)],
    "Ti": [(4.5108, 0.58), (4.5049, 0.30), (4.9318, 0.12)],
    "V": [(4.9522, 0.58), (4.9446, 0.30), (5.4273, 0.12)],
    "Mn": [(5.8988, 0.58), (5.8877, 0.30), (6.4905, 0.12)],
    "Fe": [(6.4038, 0.58), (6.3908, 0.30), (7.0580, 0.12)],
    "Co": [(6.9303, 0.58), (6.9153, 0.30), (7.6494, 0.12)],
    "Cu": [(8.0478, 0.58), (8.0278, 0.30), (8.9053, 0.12)],
    "Pd": [(2.8386, 0.53), (2.8333, 0.06), (2.9902, 0.23), (3.1718, 0.08), (3.3287, 0.04),
           (3.2437, 0.02), (2.5034, 0.04)],
}  # fmt: skip


def spread(energy, at_mn=0.130):
    """Standard deviation of a silicon detector: noise, and Fano statistics of the pairs."""
    fano = 0.118 * 3.65e-3 * energy
    noise = (at_mn / 2.3548) ** 2 - 0.118 * 3.65e-3 * 5.895
    return np.sqrt(noise + fano)


def photons(rng, shares, n, at_mn=0.130):
    """Measured energies of n photons of one element."""
    energies, weights = np.array(shares).T
    true = rng.choice(energies, n, p=weights / weights.sum())
    return rng.normal(true, spread(true, at_mn))


def bremsstrahlung(rng, n, top=20.0):
    """Energies of Kramers' law between 0.05 keV and `top`, absorbed below about 0.5 keV."""
    kept = np.empty(0)
    while kept.size < n:
        energy = 0.05 * (top / 0.05) ** rng.random(4 * n + 100)  # of density 1/E
        keep = rng.random(energy.size) < (1 - energy / top) * np.exp(-((0.35 / energy) ** 2))
        kept = np.concatenate([kept, energy[keep]])
    return kept[:n]


def cube(rng, amounts, continuum, *, offset=0.0, gain=1.0, step=0.01, channels=1000, at_mn=0.130):
    """Counts (H, W, channels), and the number of photons of each element that were drawn.

    `amounts` and `continuum` are expected photons a pixel. A photon of energy E lands in the
    channel that the file calls (E - offset) / gain: the file's axis, `step * channel`, is off.
    """
    height, width = continuum.shape
    spectra = np.zeros((height * width, channels), np.uint16)
    drawn = {}

    def add(expected, energies_of):
        number = rng.poisson(expected).ravel()
        pixel = np.repeat(np.arange(number.size), number)
        channel = np.rint((energies_of(pixel.size) - offset) / gain / step).astype(int)
        inside = (channel >= 0) & (channel < channels)
        np.add.at(spectra, (pixel[inside], channel[inside]), 1)
        return number.reshape(height, width)

    for element, expected in amounts.items():
        drawn[element] = add(expected, lambda n, e=element: photons(rng, LINES[e], n, at_mn))
    add(continuum, lambda n: bremsstrahlung(rng, n))
    return spectra.reshape(height, width, channels), drawn


def specimen(size=48, scale=1.0):
    """Expected photons a pixel: a disc of one element, stripes of another, oxygen everywhere."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    disc = (np.hypot(y, x) < 0.3).astype(float)
    stripes = (np.sin(14 * x) > 0).astype(float)
    return disc * scale, stripes * scale, scale * (0.5 + y + 0.5)
