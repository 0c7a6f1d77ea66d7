"""The grid of one image against grids of which everything is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from helpers.xray.calibrate import find_lattice


def draw(shape=(120, 150), pitch=11.0, angle=0.1, shift=(0.3, 0.4), blocked=(), shading=0.0):
    """Square holes with etched walls, drawn four times finer and binned."""
    fine = 4
    y, x = ((np.arange(fine * n) + 0.5) / fine - 0.5 for n in shape)
    c, s = np.cos(angle), np.sin(angle)
    u = (c * x + s * y[:, None]) / pitch - shift[0]
    v = (-s * x + c * y[:, None]) / pitch - shift[1]
    cell = np.rint(u), np.rint(v)
    holes = 1.0
    for w, n in zip((u, v), cell, strict=True):
        holes = holes / (1 + np.exp((np.abs(w - n) - 0.31) * pitch / 0.4))
    for i, j in blocked:
        holes[(cell[0] == i) & (cell[1] == j)] = 0
    image = gaussian_filter(0.4 + 0.6 * holes, 1.2 * fine)
    image = image.reshape(shape[0], fine, shape[1], fine).mean((1, 3))
    away = np.add.outer(np.linspace(-1, 0.6, shape[0]) ** 2, np.linspace(-0.4, 1, shape[1]) ** 2)
    basis = pitch * np.array([[c, -s], [s, c]])
    return image * (1 - shading * away), basis, basis @ np.array(shift)


@pytest.mark.parametrize("angle", [-0.3, 0.0, 0.1, 0.6])
@pytest.mark.parametrize("pitch", [7.75, 31.0])
def test_holes_lie_where_they_were_drawn(angle, pitch):
    shape = tuple(int(14 * pitch + n) for n in (0, 13))
    image, basis, origin = draw(shape, pitch, angle)
    found = find_lattice(image)
    np.testing.assert_allclose(found.basis, basis, atol=2e-4 * pitch)
    assert found.pitch == pytest.approx(pitch, abs=1e-4 * pitch)
    cells = np.linalg.solve(basis, (found.centres - origin).T).T
    assert np.abs(cells - np.rint(cells)).max() * pitch < 0.02
    assert found.open.all() and len(found.sites) > 80
    # the numbers go with the places
    np.testing.assert_allclose(found.place(found.sites), found.centres, atol=0.02)


def test_shading_does_not_move_the_holes():
    plain, shaded = (find_lattice(draw(shading=s)[0]) for s in (0, 0.15))
    np.testing.assert_array_equal(plain.sites, shaded.sites)
    assert np.abs(plain.centres - shaded.centres).max() < 0.01
    assert np.ptp(gaussian_filter(shaded.flat, 11)[20:-20, 20:-20]) < 0.03


def test_blocked_holes_are_known_as_such():
    blocked = [(3, 4), (4, 4), (9, 2)]
    image, basis, origin = draw(blocked=blocked)
    noisy = np.random.default_rng(0).poisson(image * 2000) / 2000
    found = find_lattice(noisy)
    shut = found.place(found.sites[~found.open])
    cells = np.rint(np.linalg.solve(basis, (shut - origin).T).T)
    assert sorted(map(tuple, cells)) == blocked


def test_a_quarter_turn_is_undone():
    image, *_ = draw()
    found = find_lattice(image)
    for turn in ([[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]):
        like = found.basis @ np.array(turn) / found.pitch
        turned = found.turned(like)
        np.testing.assert_allclose(turned.basis / found.pitch, like, atol=1e-3)
        np.testing.assert_allclose(turned.place(turned.sites), found.place(found.sites), atol=1e-9)


BLANK = np.random.default_rng(0).poisson(1000, (64, 64)) / 1000
STRIPES = np.tile(1 + 0.5 * np.cos(2 * np.pi * np.arange(64) / 8), (64, 1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (BLANK, "image shows no grid of at least three periods"),
        (STRIPES * BLANK, "shows no grid .* in both directions"),
        (draw((24, 24), 20.0)[0], "shows"),
        (np.ones((8, 8)), r"shape \(8, 8\): give one image of 16 x 16"),
        (np.ones((3, 64, 64)), "give one image"),
        (np.full((64, 64), np.nan), "not finite and positive"),
        (-BLANK, "not finite and positive"),
    ],
)
def test_images_without_a_grid_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        find_lattice(image)
