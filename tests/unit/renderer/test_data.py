"""Pieces come from where they say, and are the same for the same index."""

import numpy as np
import pytest
import tifffile

from helpers.io import Stack
from helpers.renderer.data import Crops, Pairs


def frames(dtype="uint16", n=6, shape=(40, 50), seed=0):
    return np.random.default_rng(seed).integers(0, 60_000, (n, *shape)).astype(dtype)


@pytest.mark.parametrize("shape", [(16, 9), (3, 16, 9)])
def test_a_piece_comes_from_its_place(tmp_path, shape):
    volume = frames(n=6)
    tifffile.imwrite(tmp_path / "a.tif", volume)
    pieces, places = Crops(Stack(tmp_path / "a.tif"), shape)(50, np.random.default_rng(0))
    depth = shape[0] if len(shape) == 3 else 1
    for piece, (z, y, x) in zip(pieces, places, strict=True):
        expected = volume[z : z + depth, y : y + 16, x : x + 9]
        np.testing.assert_array_equal(piece, expected.reshape(shape))
    # every corner that fits is reached, the last ones too
    assert places.min(0).tolist() == [0, 0, 0] or (places.min(0) <= [0, 2, 2]).all()
    assert places[:, 0].max() == 6 - depth and places[:, 1].max() <= 24 and places[:, 2].max() <= 41


def test_the_same_index_is_the_same_piece():
    first, second = (Crops(frames(), (8, 8), n=5, seed=1000) for _ in range(2))
    for k in range(5):
        np.testing.assert_array_equal(first[k][0], second[k][0])
    assert (first[0][1] != first[1][1]).any()
    other = Crops(frames(), (8, 8), n=5, seed=1001)
    assert any((first[k][1] != other[k][1]).any() for k in range(5))
    with pytest.raises(IndexError, match="piece 5 of 5"):
        first[5]


def test_pieces_fit():
    with pytest.raises(ValueError, match="make them fit"):
        Crops(frames(), (41, 8))
    with pytest.raises(ValueError, match="make them fit"):
        Crops(frames(), (7, 8, 8))


@pytest.mark.parametrize("shared", [False, True])
def test_noisy_and_clean_pieces_are_the_same_place(shared):
    noisy = frames("float32")
    clean = noisy.mean(0, keepdims=True) if shared else noisy / 2
    if shared:
        noisy = np.repeat(clean, 6, 0) * 2
    pairs = Pairs(noisy, clean, (8, 9), n=10, seed=5)
    for k in range(10):
        a, b = pairs[k]
        np.testing.assert_allclose(a, 2 * b)
    a, b = pairs(4, np.random.default_rng(1))
    assert a.shape == b.shape == (4, 8, 9)
    np.testing.assert_allclose(a, 2 * b)


def test_pairs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="frames of one shape"):
        Pairs(frames(), frames(n=5), (8, 8))
    with pytest.raises(ValueError, match="frames of one shape"):
        Pairs(frames(), frames(shape=(40, 48)), (8, 8))
