"""Worms of refractive index, and what a camera counts behind them."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.inr.diffraction import Microscope, MultiSlice, rings
from helpers.inr.phantoms import worm
from helpers.inr.phantoms.diffraction import simulate

SHAPE, VOXEL = (20, 64, 64), (0.6, 0.2, 0.2)
SMALL = {"shape": (8, 24, 24), "leds": rings(3, 0.6)}


@pytest.mark.parametrize("seed", range(6))
def test_a_worm_is_denser_than_water_and_fits_into_the_field(seed):
    volume = worm(SHAPE, VOXEL, seed=seed)
    assert volume.dtype == np.float32 and volume.shape == SHAPE
    assert volume.min() == 0 and 0.02 < volume.max() < 0.045
    body = volume[volume > 0.006]
    assert 0.012 < np.median(body) < 0.022
    assert 0.03 < body.size / volume.size < 0.2
    for axis in range(3):
        ends = np.take(volume, [0, -1], axis)
        assert ends.max() < 1e-3, "nothing touches the border"


def test_the_seed_decides_and_nothing_else():
    first = worm(SHAPE, VOXEL, seed=1)
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(worm(SHAPE, VOXEL, seed=1), first)
    assert abs(worm(SHAPE, VOXEL, seed=2) - first).max() > 0.01


def test_a_finer_grid_shows_the_same_worm():
    coarse = worm(SHAPE, VOXEL, seed=4)
    fine = worm((60, 192, 192), tuple(d / 3 for d in VOXEL), seed=4)
    np.testing.assert_allclose(fine[1::3, 1::3, 1::3], coarse, atol=1e-6)
    mean = fine.reshape(20, 3, 64, 3, 64, 3).mean(axis=(1, 3, 5))
    assert np.sqrt(np.mean((mean - coarse) ** 2)) < 0.05 * coarse.max()


def test_it_has_a_gut_a_pharynx_and_granules():
    """Inside there is much that is denser than the body, and some that is not."""
    volume = worm((40, 192, 192), (0.3, 0.0667, 0.0667), seed=0)
    inside = volume[volume > 0.006]
    assert (inside > 0.020).mean() > 0.05 and (inside < 0.0118).mean() > 0.02


def test_the_counts_are_poisson():
    scan = simulate(**SMALL, photons=500, seed=1)
    counts = scan.intensity.astype(float) * 500
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
    normal = (counts - 500 * scan.expected) / np.sqrt(500 * scan.expected)
    assert abs(normal.mean()) < 0.1 and normal.std() == pytest.approx(1, abs=0.1)
    assert scan.expected.mean() == pytest.approx(1, abs=0.1)


def test_the_truth_is_the_mean_of_finer_voxels():
    scan = simulate(**SMALL, seed=2)
    fine = worm((32, 48, 48), (0.125, 0.1, 0.1), seed=2)
    expected = fine.reshape(8, 4, 24, 2, 24, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(scan.truth, expected, atol=1e-7)
    assert scan.truth.dtype == np.float32


def test_the_images_are_not_those_of_the_model_that_inverts_them():
    scan = simulate(**SMALL, seed=2)
    model = MultiSlice(scan.optics, scan.leds, scan.truth.shape)
    mismatch = np.sqrt(np.mean((model(scan.truth) - scan.expected) ** 2))
    assert 0.002 < mismatch / scan.expected.std() < 0.1


def test_strength_scales_the_object():
    weak, strong = (simulate(**SMALL, seed=2, strength=s) for s in (0.01, 0.02))
    np.testing.assert_allclose(strong.truth, 2 * weak.truth, atol=1e-9)
    ratio = (strong.expected - 1).std() / (weak.expected - 1).std()
    assert ratio == pytest.approx(2, rel=0.02)


def test_any_phantom_and_any_microscope():
    optics = replace(Microscope(), voxel_size=(0.4, 0.15, 0.15))

    def plate(shape, voxel_size, *, seed):
        assert voxel_size == pytest.approx((0.1, 0.075, 0.075))
        return np.full(shape, 0.01, np.float32)

    scan = simulate(**SMALL, phantom=plate, optics=optics)
    np.testing.assert_allclose(scan.truth, 0.01)
    np.testing.assert_allclose(scan.expected, 1, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: worm((8, 8), VOXEL, seed=0), r"shape is \(8, 8\)"),
        (lambda: worm((8, 8, 0), VOXEL, seed=0), r"shape is \(8, 8, 0\)"),
        (lambda: worm(SHAPE, (1, 1), seed=0), r"voxel_size is \(1, 1\)"),
        (lambda: worm(SHAPE, (1, -1, 1), seed=0), "give three lengths"),
        (lambda: simulate(**SMALL, photons=0), "photons is 0"),
        (lambda: simulate(**SMALL, photons=np.nan), "photons is nan"),
        (lambda: simulate(**SMALL, finer=(2, 1)), r"finer is \(2, 1\)"),
        (lambda: simulate(**SMALL, finer=(1, 1, 1)), "slices are 0.5 um"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
