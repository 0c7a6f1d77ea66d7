"""The problem that every fusion benchmark solves: DyScO3, with the settings of the guide."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from helpers.datasets import describe, find
from helpers.fusion import normalize, simulate

SETTINGS = {
    "gamma": 1.6,
    "lambda_chem": 0.08,
    "lambda_tv": 0.15,
    "background": 0.24,
    "n_iter": 30,
    "n_iter_tv": 3,
}
NUMBERS = describe("dysco3")["atomic_numbers"]


@dataclass(frozen=True)
class Case:
    """Maps (E, H, W) and HAADF (H, W), from 0 to 1, float64 as the measured file."""

    name: str
    maps: np.ndarray
    haadf: np.ndarray
    symbols: tuple = tuple(NUMBERS)
    numbers: tuple = tuple(NUMBERS.values())

    @property
    def work(self):
        """Pixels times elements: what the time of an iteration is divided by."""
        return self.maps.size

    def as_float32(self):
        """The same in single precision."""
        return replace(self, maps=self.maps.astype(np.float32), haadf=self.haadf.astype(np.float32))


def simulated(size):
    """A simulated field of `size` x `size` pixels; beyond 512 a repeated one, which is quick."""
    data = simulate("dysco3", counts=8, seed=0, size=min(size, 512))
    haadf, maps = normalize(data.haadf, data.maps)
    maps = np.stack([maps[s] for s in NUMBERS])
    times = -(-size // len(haadf))
    maps, haadf = np.tile(maps, (1, times, times)), np.tile(haadf, (times, times))
    return Case(f"simulated {size}", maps[:, :size, :size].copy(), haadf[:size, :size].copy())


def measured():
    """The measured data, or None where they are not on this machine; nothing is downloaded."""
    found = find("dysco3")
    if found is None:
        return None
    with np.load(found[0]) as file:
        haadf, maps = normalize(file["HAADF"], {s: file[s] for s in NUMBERS})
    return Case(f"measured {len(haadf)}", np.stack([maps[s] for s in NUMBERS]), haadf)
