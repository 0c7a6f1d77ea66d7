"""Rows of a scan that drift and jump, on fields that are known at any place."""

import numpy as np
from scipy.ndimage import map_coordinates

from helpers.fusion import register, simulate
from tests.benchmarks.fusion_register import drift


def test_rows_are_found_to_what_their_counts_tell():
    rows = {row[:2]: row[2:] for row in drift().rows}
    y, x, _, _, _ = rows["slow, by rows", 50]
    assert y < 0.17 and x < 0.147, "0.2 without the noise of each pixel"
    for dose in (50, 500):
        _, x, _, _, least = rows["slow, and rows that jump by 0.1, 0.5", dose]
        assert x < 1.7 * least


def test_the_errors_of_rows_are_true_beside_a_dark_vacuum():
    """Noise of the reference is no structure, though in the dark it is faint."""
    clean = simulate("core_shell", counts=1, seed=0, size=96, peak=1e9).haadf
    clean = clean / clean.max()
    t = np.arange(96) / 96
    true = np.stack([3 * t**2 - 1, 5 * t - 2], axis=1)
    y, x = np.mgrid[:96, :96] + true.T[:, :, None]
    moved = map_coordinates(clean, [y, x], order=3, mode="nearest").clip(0)
    squares, stated = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        found = register(rng.poisson(500 * moved), rng.poisson(2000 * clean), rows=True)
        known = found.error.max(axis=1) < 0.2  # rows with matter in them
        squares.append(np.mean((found.rows - true)[known] ** 2))
        stated.append(np.mean(found.error[known] ** 2))
    assert np.sqrt(np.mean(squares) / np.mean(stated)) < 2, "3 with the noise of each pixel alone"
