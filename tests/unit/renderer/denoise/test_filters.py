"""Filters against flat fields, sums by hand and another implementation."""

import numpy as np
import pytest
from skimage.restoration import denoise_nl_means

from helpers.renderer.denoise import filters
from helpers.renderer.simulate import filament_images


def noisy(level=30.0, shape=(2, 40, 44), read=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(level, shape) + rng.normal(0, np.sqrt(read), shape)


@pytest.mark.parametrize(("level", "read"), [(4.0, 4.0), (30.0, 0.0), (30.0, 25.0)])
def test_stabilised_values_have_unit_variance(level, read):
    values = filters.stabilise(noisy(level, (400, 400), read), read)
    assert values.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("level", "read"), [(5.0, 4.0), (30.0, 0.0), (30.0, 25.0)])
def test_the_way_back_has_no_bias(level, read):
    """The mean of many stabilised values gives the level, not a quarter less."""
    values = filters.stabilise(noisy(level, (500, 500), read), read)
    back = filters.unstabilise(np.full((1, 1, 1), values.mean()), read)
    assert float(back[0, 0, 0]) == pytest.approx(level, abs=0.1)


def test_every_filter_lowers_the_noise_and_keeps_the_level():
    images = noisy(30.0, read=4.0)
    for result in (
        filters.gaussian(images, 2.0),
        filters.stabilised_tv(images, 2.0, read_variance=4.0),
        filters.stabilised_means(images, 1.0, read_variance=4.0),
    ):
        assert result.shape == images.shape and result.dtype == np.float32
        assert result.std() < images.std() / 4
        assert result.mean() == pytest.approx(30, abs=0.6)


def test_non_local_means_by_hand():
    """One pixel, every weight written out."""
    image = np.random.default_rng(2).normal(0, 1, (1, 15, 15))
    image[0, :, 7] += 5
    result = filters.nonlocal_means(image, 0.9, patch=3, reach=2, sigma=1.0)
    y, x, total, weights = 7, 7, image[0, 7, 7], 1.0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if dy == dx == 0:
                continue
            here = image[0, y - 1 : y + 2, x - 1 : x + 2]
            there = image[0, y + dy - 1 : y + dy + 2, x + dx - 1 : x + dx + 2]
            weight = np.exp(-max(np.mean((here - there) ** 2) - 2, 0) / 0.9**2)
            total, weights = total + weight * image[0, y + dy, x + dx], weights + weight
    assert result[0, 7, 7] == pytest.approx(total / weights, rel=1e-5)


def test_it_is_no_worse_than_a_known_implementation():
    """On images of filaments, each with the setting that suits it best."""
    truth = filament_images(3, (96, 96), seed=7)
    image = noisy(truth, truth.shape, read=4.0)
    settings = [0.5, 0.6, 0.7, 0.8, 0.9]

    def known(images, h):
        values = filters.stabilise(images, 4.0)
        smooth = [denoise_nl_means(v, patch_size=5, patch_distance=8, h=h, sigma=1) for v in values]
        return filters.unstabilise(np.stack(smooth), 4.0)

    def ours(images, h):
        return filters.stabilised_means(images, h, read_variance=4.0, patch=5, reach=8)

    theirs, mine = (
        filters.best_by_truth(f, settings, image, truth)[2].min() for f in (known, ours)
    )
    assert mine < 1.05 * theirs < 0.4 * np.mean((image - truth) ** 2)


def test_the_best_setting_is_found():
    truth = np.full((1, 30, 30), 20.0)
    setting, result, errors = filters.best_by_truth(
        filters.gaussian, [0.0, 1.0, 4.0], noisy(20.0, (1, 30, 30)), truth
    )
    assert setting == 4.0 and errors.argmin() == 2
    assert np.mean((result - truth) ** 2) == pytest.approx(errors.min())


def test_bad_input_is_refused():
    for images in (np.ones((8, 8)), np.ones((1, 2, 8, 8))):
        with pytest.raises(ValueError, match="stack"):
            filters.gaussian(images, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        filters.nonlocal_means(np.full((1, 8, 8), np.nan), 1.0)
    for wrong in ({"strength": 0.0}, {"strength": 1.0, "patch": 4}, {"strength": 1.0, "reach": 0}):
        with pytest.raises(ValueError, match="odd"):
            filters.nonlocal_means(np.ones((1, 8, 8)), **wrong)
