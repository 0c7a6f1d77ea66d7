"""Drift is found to 0.2 px, rigid and by rows; counts are moved whole; totals are conserved."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.fusion import register, resample

SIZE = 96


def scene(seed):
    """A smooth random field as a function of the place: exact at any shift."""
    rng = np.random.default_rng(seed)
    centres, radii = rng.random((30, 2)) * (SIZE + 40) - 20, rng.uniform(3, 9, 30)
    heights = rng.uniform(0.4, 1, 30)

    def at(y, x):
        return sum(
            h * np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / r**2)
            for (cy, cx), r, h in zip(centres, radii, heights, strict=True)
        )

    return at


def scanned(seed, shifts, dose=500):
    """An image whose row y shows the scene at its own shift, a clean reference, and the truth."""
    at, rng = scene(seed), np.random.default_rng(seed + 100)
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    shifts = np.broadcast_to(shifts, (SIZE, 2))
    image = rng.poisson(dose * at(y + shifts[:, :1], x + shifts[:, 1:]))
    return image, rng.poisson(2000 * at(y, x)) / 2000, shifts


def drift():
    t = np.arange(SIZE) / SIZE
    return np.stack([4 * t**2 - 1, 6 * t - 2], axis=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.3, -5.7), (-11.4, 8.25)])
def test_a_rigid_shift_is_found_to_a_fifth_of_a_pixel(seed, shift):
    image, reference, _ = scanned(seed, shift, 50)
    found = register(image, reference)
    assert np.abs(found.shift - shift).max() < 0.2
    assert np.allclose(found.rows, found.shift, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_slow_drift_is_found_row_by_row(seed):
    image, reference, shifts = scanned(seed, drift())
    found = register(image, reference, rows=True)
    errors = found.rows - shifts
    assert np.sqrt((errors**2).mean(0)).max() < 0.2
    assert found.residual / found.residual_before < 0.7
    rigid = register(image, reference).rows - shifts
    assert np.sqrt((rigid**2).mean()) > 3 * np.sqrt((errors**2).mean())


def test_rows_that_jump_are_found_too_and_errors_are_honest():
    errors, pulls = [], []
    for seed in range(3):
        jitter = np.random.default_rng(seed).normal(0, 0.5, (SIZE, 2)) * [0.2, 1]
        image, reference, shifts = scanned(seed, drift() + jitter)
        found = register(image, reference, rows=True)
        errors.append(found.rows - shifts)
        pulls.append(errors[-1] / found.error)
    assert np.sqrt(np.square(errors).mean((0, 1))).max() < 0.4
    assert 0.6 < np.std(pulls) < 1.8


def test_contrast_may_differ_and_the_reference_lands_on_the_scan():
    image, reference, shifts = scanned(1, drift())
    found = register(image * 3.0 + 700, reference, rows=True)
    moved = found.move(reference)
    seen = ~np.ma.getmaskarray(moved)
    assert seen.mean() > 0.85
    assert np.corrcoef(moved[seen].filled(0), image[seen])[0, 1] > 0.98
    assert found.residual / found.residual_before < 0.7


def test_counts_move_by_whole_pixels_and_none_is_made():
    image, reference, _ = scanned(2, drift())
    found = register(image, reference, rows=True)
    maps = np.random.default_rng(0).poisson(1.0, (2, SIZE, SIZE))
    moved = found.shift_counts(maps)
    assert moved.dtype == maps.dtype and moved.shape == maps.shape
    assert 0.9 * maps.sum() < moved.sum() <= maps.sum()
    flat = np.ma.getmaskarray(moved)
    assert (moved.filled(0)[flat] == 0).all()


def test_a_known_shift_of_counts():
    image, reference, _ = scanned(0, (2.0, -3.0))
    found = register(image, reference)
    maps = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    moved = found.shift_counts(maps)
    assert moved[40, 40] == maps[38, 43]
    assert moved.mask[:2].all() and moved.mask[:, -3:].all()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a, b: (a[:90], b), "image is 90 x 96 but reference is 96 x 96"),
        (lambda a, b: (a, np.ones_like(b)), "reference is constant"),
        (lambda a, b: (np.where(a > 0, np.nan, a), b), "NaN"),
        (lambda a, b: (np.ma.masked_greater(a, a.mean()), b), "image is masked"),
        (lambda a, b: (a[None], b), r"expected \(H, W\)"),
        (lambda a, b: (a[:4, :4], b[:4, :4]), "too small"),
        (lambda a, b: (a.astype(str), b), "dtype"),
    ],
)
def test_images_that_cannot_be_registered_are_named(change, words):
    image, reference, _ = scanned(0, (0.0, 0.0))
    with pytest.raises(ValueError, match=words):
        register(*change(image.astype(float), reference))


def test_limits_of_the_shift():
    image, reference, _ = scanned(0, (0.0, 0.0))
    with pytest.raises(ValueError, match="at most half"):
        register(image, reference, max_shift=90)
    found = register(image, reference)
    with pytest.raises(ValueError, match="resample first"):
        found.move(reference[:50])
    with pytest.raises(ValueError, match="give its own maps"):
        found.shift_counts(reference[:50])


# ---- resample


@pytest.mark.parametrize("shape", [(96, 96), (48, 32), (33, 71), (1, 1), (95, 96)])
def test_sums_keep_the_total_and_means_the_mean(shape):
    counts = np.random.default_rng(0).poisson(2.0, (96, 96))
    assert resample(counts, shape, counts=True).sum() == pytest.approx(counts.sum(), rel=1e-12)
    assert resample(counts, shape).mean() == pytest.approx(counts.mean(), rel=1e-12)
    assert resample(counts, shape).shape == shape


def test_whole_factors_are_block_sums_and_stay_whole():
    counts = np.random.default_rng(0).poisson(2.0, (3, 96, 60))
    blocks = counts.reshape(3, 24, 4, 20, 3).sum((2, 4))
    found = resample(counts, (24, 20), counts=True)
    assert found.dtype.kind == "i" and np.array_equal(found, blocks)
    assert np.allclose(resample(counts, (24, 20)), blocks / 12)


def test_shares_are_exact_for_any_factor():
    """The sum up to any border is the integral of the fine image up to there."""
    fine = np.random.default_rng(1).random((1, 100))
    coarse = resample(fine, (1, 37), counts=True)[0]
    integral = np.concatenate([[0], fine[0].cumsum()])
    borders = np.interp(np.arange(38) * 100 / 37, np.arange(101), integral)
    assert np.allclose(coarse.cumsum(), borders[1:])


def test_a_mean_keeps_the_dose_that_sampling_throws_away():
    """Finding: a quarter of the pixels picked from a noisy HAADF is 3 to 4 times as noisy."""
    at, rng = scene(0), np.random.default_rng(0)
    y, x = np.mgrid[:384, :384] / 4
    clean = at(y, x)
    noisy = rng.poisson(20 * clean) / 20
    truth = clean.reshape(96, 4, 96, 4).mean((1, 3))
    mean, picked = resample(noisy, (96, 96)), noisy[::4, ::4]
    assert np.std(mean - truth) < 0.4 * np.std(picked - truth)


def test_masked_pixels_have_no_say():
    image = np.ma.masked_array(np.arange(16.0).reshape(4, 4), np.eye(4, dtype=bool))
    found = resample(image, (2, 2))
    assert found[0, 0] == pytest.approx((1 + 4) / 2) and not found.mask.any()
    sums = resample(image, (2, 2), counts=True)
    assert sums.mask.tolist() == [[True, False], [False, True]]
    hidden = np.ma.masked_array(np.ones((4, 4)), [[1, 1, 0, 0]] * 2 + [[0] * 4] * 2)
    assert resample(hidden, (2, 2)).mask.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(
    "image, shape, words",
    [
        (np.ones((4, 4)), (8, 4), "finer than the image"),
        (np.ones((4, 4)), (2.5, 2), "whole numbers"),
        (np.ones((4, 4)), 2, "whole numbers"),
        (np.ones((4, 4)), (0, 2), "whole numbers"),
        (np.ones(4), (2, 2), "expected"),
        (np.array([["a"]]), (1, 1), "dtype"),
    ],
)
def test_shapes_that_make_no_sense_are_named(image, shape, words):
    with pytest.raises(ValueError, match=words):
        resample(image, shape)
