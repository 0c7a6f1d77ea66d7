"""Drift, blinks, limits, precision and channels of a table of molecules, against their truth."""

import numpy as np
import pytest

from helpers.renderer.detect import (
    Drift,
    find_drift,
    link,
    nearest_neighbour_precision,
    register_channels,
    select,
)


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


# --- two colour channels

BETWEEN = np.array([[1.004, 0.012, 229.3], [-0.011, 0.997, -4.2]])


def channel(places, frame=None):
    columns = list(places.T) if frame is None else [*places.T, frame]
    return np.rec.fromarrays(columns, names="x,y" if frame is None else "x,y,frame")


def two_channels(n, error, lost=0.0, extra=0, seed=0):
    """Places in both channels, a share of them lost in each and others added to each."""
    rng = np.random.default_rng(seed)
    here = rng.uniform(-60, 60, (n, 2))
    there = here @ BETWEEN[:, :2].T + BETWEEN[:, 2]
    order = rng.permutation(n)
    channels = []
    for places, middle in ((here, 0.0), (there[order], BETWEEN[:, 2])):
        places = places[rng.random(n) >= lost]
        places = places + error * rng.standard_normal(places.shape)
        channels.append(np.concatenate([places, middle + rng.uniform(-60, 60, (extra, 2))]))
    return channels


def test_without_errors_the_map_is_exact():
    one, other = two_channels(30, 0.0)
    found = register_channels(channel(one), channel(other))
    np.testing.assert_allclose(found.affine, BETWEEN, atol=1e-9)
    assert found.residual < 1e-9 and len(found.pairs) == 30
    moved = found.apply(channel(one))
    i, j = found.pairs.T
    np.testing.assert_allclose(moved.x[i], other[j, 0], atol=1e-9)
    np.testing.assert_allclose(moved.y[i], other[j, 1], atol=1e-9)


def test_the_residual_is_the_error_of_both_channels():
    """Also where a fifth is seen in one channel only, beside as many false ones."""
    one, other = two_channels(400, 0.1, lost=0.2, extra=80, seed=1)
    found = register_channels(channel(one), channel(other))
    assert found.residual == pytest.approx(0.1 * np.sqrt(2), rel=0.2)
    corners = np.array([[x, y, 1.0] for x in (-60, 60) for y in (-60, 60)])
    assert abs(corners @ (found.affine - BETWEEN).T).max() < 0.1


def test_molecules_of_different_frames_are_no_pair():
    one, other = two_channels(60, 0.0, seed=2)
    frame = np.arange(60) % 5
    nearest = np.linalg.norm(
        (one @ BETWEEN[:, :2].T + BETWEEN[:, 2])[:, None] - other[None], axis=-1
    ).argmin(1)
    theirs = np.empty(60, int)
    theirs[nearest] = frame
    found = register_channels(channel(one, frame), channel(other, theirs))
    assert len(found.pairs) == 60
    np.testing.assert_array_equal(frame[found.pairs[:, 0]], theirs[found.pairs[:, 1]])
    with pytest.raises(ValueError, match="no frame in common"):
        register_channels(channel(one, frame), channel(other, theirs + 100))


def test_what_cannot_be_registered_is_refused():
    one, other = two_channels(30, 0.0, seed=3)
    with pytest.raises(ValueError, match="radius is 0: give the largest"):
        register_channels(channel(one), channel(other), 0)
    with pytest.raises(ValueError, match="30 and 4 molecules: at least 6 are needed"):
        register_channels(channel(one), channel(other[:4]))
    other[:, 0] *= -1
    with pytest.raises(ValueError, match="mirrored in neither"):
        register_channels(channel(one), channel(other), 0.3)
