"""How well register finds the drift of a scan, beside what the counts of its rows can tell."""

from __future__ import annotations

import numpy as np

from helpers.fusion import register

from .harness import Table, threads


def run(options):
    """Rigid drift, slow drift, and rows that jump."""
    with threads(1):
        yield drift()


def drift(size=96, seeds=8):
    """Fields whose value is known at any place, so that nothing is interpolated."""
    table = Table(
        f"register against a clean image, {size} px, rms error in px of {seeds} fields",
        ("drift", "counts at the peak", "along y", "along x", "error it states", "wanted",
         "least, along x"),
        notes=["least: of an estimate that knows the drift and the size of the jumps beforehand, "
               "by the information in each row; rows that leave the reference have none"],
    )  # fmt: skip
    t = np.arange(size)[:, None] / size
    slow = np.concatenate([4 * t**2 - 1, 6 * t - 2], axis=1)
    kinds = {"rigid": np.array([[3.3, -5.7]]) + 0 * slow, "slow, by rows": slow,
             "slow, and rows that jump by 0.1, 0.5": slow}  # fmt: skip
    for kind, shifts in kinds.items():
        for dose in (50, 500):
            errors, stated, least = [], [], []
            for seed in range(seeds):
                rng = np.random.default_rng([seed, dose])
                moved = shifts + ("jump" in kind) * rng.normal(0, (0.1, 0.5), (size, 2))
                image, reference, told = _scanned(rng, size, moved, dose)
                found = register(image, reference, rows=kind != "rigid")
                errors.append(found.rows - moved)
                stated.append(np.broadcast_to(found.error, moved.shape))
                known = 4.0 if "jump" in kind else 0.0  # 1 / 0.5^2
                least.append(told.sum() if kind == "rigid" else told + known)
            rms = np.sqrt(np.mean(np.square(errors), axis=(0, 1)))
            mean = float(np.sqrt(np.mean(np.square(stated))))
            best = "" if kind == "slow, by rows" else float(np.sqrt(np.mean(1 / np.stack(least))))
            table.rows.append((kind, dose, *map(float, rms), mean, "<= 0.2", best))
    return table


def _scanned(rng, size, shifts, dose):
    """An image whose rows have their own shifts, the same field at rest, and what each row tells.

    That is the Fisher information of its shift along x, with the noise of both images.
    """
    centres, radii = rng.random((30, 2)) * (size + 40) - 20, rng.uniform(3, 9, 30)
    y, x = np.mgrid[:size, :size].astype(float)

    def field(y, x):
        return sum(
            np.exp(-0.5 * ((y - r) ** 2 + (x - c) ** 2) / radius**2)
            for (r, c), radius in zip(centres, radii, strict=True)
        )

    places = y + shifts[:, :1], x + shifts[:, 1:]
    mean = dose * field(*places)
    slope = dose * (field(places[0], places[1] + 0.01) - field(places[0], places[1] - 0.01)) / 0.02
    inside = (places[0] >= 0) & (places[0] <= size - 1)
    told = (inside * slope**2 / np.maximum(mean, 1e-9) / (1 + 1 / 20)).sum(axis=1)
    return rng.poisson(mean), rng.poisson(20 * dose * field(y, x)) / (20 * dose), told
