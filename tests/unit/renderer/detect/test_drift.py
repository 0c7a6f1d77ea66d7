"""Drift, blinks, limits and precision of a table of molecules, against their truth."""

import numpy as np
import pytest

from helpers.renderer.detect import Drift, find_drift, link, nearest_neighbour_precision, select


def seen(seed, n=20_000, n_frames=10_000, error=0.1):
    """Molecules seen many times while 300 nm of drift go by, at 100 nm a pixel."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_frames) / n_frames
    drift = np.stack([2 * t + 0.5 * np.sin(5 * t), -(t**2) + 0.3 * np.sin(9 * t)])
    drift *= 3 / np.ptp(drift, axis=1, keepdims=True)
    place = rng.uniform(-8, 8, (2, 300))[:, rng.integers(0, 300, n)]
    frame = np.sort(rng.integers(0, n_frames, n))
    x, y = place + drift[:, frame] + error * rng.standard_normal((2, n))
    return np.rec.fromarrays([frame, x, y], names="frame,x,y"), drift


def test_a_drift_of_300_nm_is_found_to_less_than_5_nm():
    for seed in range(3):
        table, drift = seen(seed)
        found = find_drift(table, windows=12)
        assert isinstance(found, Drift) and found.residual < 0.05
        for got, true in zip((found.x, found.y), drift, strict=True):
            assert np.std(got - true[: len(got)]) < 0.05  # to the last frame with a molecule
        moved = found.correct(table)
        left = moved.x - (table.x - drift[0][table.frame])
        assert np.std(left) < 0.05


def test_too_few_molecules_for_the_windows_are_refused():
    with pytest.raises(ValueError, match="20 or more"):
        find_drift(seen(0, n=100)[0])
    with pytest.raises(ValueError, match="give px above 0"):
        link(seen(0, n=100)[0], 0)
    with pytest.raises(ValueError, match="50 are needed"):
        nearest_neighbour_precision(seen(0, n=20)[0])


def blinks(seed=3, n=400, error=0.1):
    """Rows of blinks of one to five frames, with a dark frame in every third."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        x, y = rng.uniform(-100, 100, 2)
        first, length = rng.integers(0, 500), rng.integers(1, 6)
        for step in range(length):
            if not (k % 3 == 0 and step == 1 and length > 2):
                dx, dy = error * rng.standard_normal(2)
                rows.append((first + step, x + dx, y + dy, 100.0, error, error))
    names = "frame,x,y,photons,x_std,y_std"
    table = np.rec.fromrecords(rows, names=names)
    return table[np.argsort(table.frame, kind="stable")], n


def test_blinks_are_joined_and_light_is_kept():
    table, n = blinks()
    found = link(table, radius=0.6)
    assert abs(len(found) - n) <= 0.02 * n
    assert found.photons.sum() == table.photons.sum() and found.n_frames.sum() == len(table)
    assert (np.diff(found.frame) >= 0).all()
    np.testing.assert_allclose(found.x_std, 0.1 / np.sqrt(found.n_frames))
    split = link(table, radius=0.6, gap=0)
    assert len(split) > 1.15 * n  # a dark frame ends a blink


def test_the_precision_is_that_of_the_positions():
    for error in (0.05, 0.2):
        table, _ = blinks(4, 2000, error)
        assert nearest_neighbour_precision(table) == pytest.approx(error, rel=0.1)


def test_limits_count_what_they_take():
    table = np.rec.fromarrays([np.arange(5.0), np.array([1, 1, 9, np.nan, 1])], names="a,b")
    kept, reasons = select(table, {"a": (1, 4), "b": (0, 2)})
    assert kept.a.tolist() == [1, 4] and reasons == {"a": 1, "b": 2, "kept": 2}
    with pytest.raises(ValueError, match="no column c"):
        select(table, {"c": (0, 1)})
