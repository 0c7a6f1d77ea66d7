"""Images from tables against sums by hand; their resolution against what must come out."""

import numpy as np
import pytest

from helpers.renderer.detect import gaussians, ring_correlation
from helpers.renderer.detect.render import halves, histogram
from helpers.renderer.simulate import molecules, network, spots_image


def table(n, seed=2000, std=0.1, shape=(20, 30)):
    rng = np.random.default_rng(seed)
    y, x = (rng.uniform(-side / 2, side / 2, n) for side in shape)
    columns = [rng.integers(0, 1000, n), x, y, np.full(n, std), np.full(n, std)]
    return np.rec.fromarrays(columns, names="frame,x,y,x_std,y_std")


def test_every_molecule_is_counted_once_and_in_its_place():
    found = table(500)
    image = histogram(found, (20, 30), zoom=4)
    assert image.shape == (80, 120) and image.sum() == 500
    by_hand = np.histogram2d(
        found.y, found.x, bins=(80, 120), range=((-10, 10), (-15, 15))
    )[0]  # fmt: skip
    np.testing.assert_array_equal(image, by_hand)
    assert histogram(found, (10, 10), zoom=1).sum() < 500  # those outside are left out


def test_each_molecule_is_drawn_with_its_own_widths():
    found = table(40, std=0.3)
    found.x_std[:] = np.random.default_rng(1).uniform(0.2, 1.5, 40)
    found.y_std[:] = found.x_std
    by_hand = sum(
        spots_image([5 * row.x], [5 * row.y], [1.0], 5 * row.x_std, (100, 150)) for row in found
    )
    np.testing.assert_allclose(gaussians(found, (20, 30)), by_hand, atol=2e-5)


def test_widths_may_differ_along_x_and_y():
    spot = {"x": [0.0], "y": [0.0], "x_std": [1.0], "y_std": [0.2]}
    image = gaussians(spot, (15, 15), zoom=3).astype(float)
    at = (np.arange(45) - 22) / 3
    assert image.sum() == pytest.approx(1, abs=1e-3)
    assert (image.sum(0) * at**2).sum() == pytest.approx(1 + 1 / 108, rel=0.01)
    assert (image.sum(1) * at**2).sum() < 0.1


def test_the_batches_of_a_long_table_do_not_show():
    found = table(30_000, std=0.4)
    image = gaussians(found, (20, 30), zoom=5)
    parts = sum(gaussians(found[k::3], (20, 30), zoom=5) for k in range(3))
    np.testing.assert_allclose(image, parts, rtol=1e-4, atol=1e-5)


def test_halves_are_blocks_of_frames():
    found = table(300)
    even, odd = halves(found, 50)
    assert len(even) + len(odd) == 300
    assert set(even.frame // 50 % 2) == {0} and set(odd.frame // 50 % 2) == {1}


def test_resolution_is_set_by_the_error_of_the_positions():
    """For many molecules the correlation falls where exp(-4 pi^2 q^2 s^2) drowns in the noise."""
    lines = network(6, (3.0, 3.0), seed=2000)
    rng = np.random.default_rng(2000)
    found = {}
    for error in (0.1, 0.4):  # px of 0.1 µm
        x, y = molecules(lines, 1500, seed=2001).T / 0.1
        x, y = (p + rng.normal(0, error, p.size) for p in (x, y))
        columns = [rng.integers(0, 1000, x.size), x, y]
        points = np.rec.fromarrays(columns, names="frame,x,y")
        found[error] = ring_correlation(points, (30, 30), 10).resolution(pixel_size=0.1)
    assert found[0.1] < 0.8 and found[0.4] > 1.7 * found[0.1]


def test_noise_has_no_resolution():
    assert ring_correlation(table(3000), (20, 30), 5).resolution() > 10


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: histogram(table(3), (20, 30), zoom=0), "zoom 0"),
        (lambda: histogram(table(3), (20,)), "shape"),
        (lambda: gaussians(table(3, std=np.nan), (20, 30)), "NaN or infinity"),
        (lambda: halves(table(3), 0), "block is 0"),
    ],
)
def test_nonsense_is_refused_with_a_reason(call, words):
    with pytest.raises(ValueError, match=words):
        call()
