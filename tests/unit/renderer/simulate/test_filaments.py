"""Filaments against the theory of worm-like chains; their images against sums by hand."""

import numpy as np
import pytest
from scipy.stats import norm

from helpers.renderer.simulate import filament_images, molecules, network, spots_image
from tests.margins.seeds import within


def test_the_direction_makes_a_random_walk():
    """var of the turn over a path of length s is s / P."""
    filaments = network(300, (6.0, 6.0), persistence=5.0, seed=2000)
    lag = 50  # steps of 0.02 µm
    turns = []
    for points in filaments:
        step = np.diff(points, axis=0)
        angle = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        turns.append(angle[lag::lag] - angle[:-lag:lag])
    turns = np.concatenate(turns)
    assert np.var(turns) == pytest.approx(lag * 0.02 / 5.0, rel=0.15)
    assert abs(turns.mean()) < 4 * turns.std() / np.sqrt(turns.size)


def test_filaments_cross_the_field_and_leave_it_together():
    height, width = 4.0, 9.0
    for points in network(40, (height, width), seed=2001):
        np.testing.assert_allclose(np.hypot(*np.diff(points, axis=0).T), 0.02, rtol=1e-9)
        beyond = np.abs(points) - [width / 2, height / 2]
        assert within(beyond, -np.inf, 0.5)
        assert (beyond[[0, -1]].max(1) > 0.4).all()  # both ends lie outside


def test_molecules_lie_about_their_filament_as_dense_as_asked():
    line = np.stack([np.linspace(-10, 10, 1001), np.full(1001, 2.0)], 1)
    found = molecules([line, line], 100.0, thickness=0.03, seed=2000)
    assert len(found) == pytest.approx(4000, abs=4 * np.sqrt(4000))
    assert np.std(found[:, 1] - 2) == pytest.approx(0.03, rel=0.05)
    assert found[:, 0].mean() == pytest.approx(0, abs=4 * 20 / np.sqrt(12 * 4000))
    assert molecules([line], 0.0).shape == (0, 2)


def test_a_spot_is_the_integral_of_its_gaussian():
    image = spots_image([1.3], [-0.4], [500.0], 1.1, (8, 11))
    down, right = np.arange(8) - 3.5, np.arange(11) - 5.0
    ey = norm.cdf((down + 0.5 + 0.4) / 1.1) - norm.cdf((down - 0.5 + 0.4) / 1.1)
    ex = norm.cdf((right + 0.5 - 1.3) / 1.1) - norm.cdf((right - 0.5 - 1.3) / 1.1)
    np.testing.assert_allclose(image, 500 * np.outer(ey, ex), rtol=1e-9)
    assert spots_image([], [], [], 1.0, (3, 4)).shape == (3, 4)


def test_filament_images_have_their_peak_and_background():
    images = filament_images(3, (40, 64), peak=30.0, background=1.5, seed=2000)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.max((1, 2)), 31.5, rtol=1e-6)
    assert images.min() >= 1.5
    assert len({float(image.mean()) for image in images}) == 3
    # an image does not depend on how many are asked for
    np.testing.assert_array_equal(
        images[:1], filament_images(1, (40, 64), peak=30.0, background=1.5, seed=2000)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: network(0, (5, 5)), "n_filaments is 0"),
        (lambda: network(2, (5, 0)), "positive lengths"),
        (lambda: network(2, (5, 5), persistence=-1), "positive lengths"),
        (lambda: molecules([], -1.0), "density is -1.0"),
        (lambda: filament_images(0), "n is 0"),
        (lambda: filament_images(1, (5, 5, 5)), "shape"),
        (lambda: filament_images(1, peak=0), "must be positive"),
        (lambda: filament_images(1, background=-1), "not negative"),
    ],
)
def test_nonsense_is_refused_with_a_reason(call, words):
    with pytest.raises(ValueError, match=words):
        call()
