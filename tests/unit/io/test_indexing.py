"""A `Stack` is indexed as the array in its file is, whatever the file."""

import pickle
import threading

import dask.array
import numpy as np
import pytest
import tifffile
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices, integer_array_indices

from helpers.io import Stack
from helpers.io._lazy import Joined, Lazy, Planes, Reordered, read

SHAPE = (3, 4, 5, 6)
VALUES = np.arange(np.prod(SHAPE)).reshape(SHAPE)


def sources():
    planes = VALUES.reshape(-1, 5, 6)
    turned = VALUES.transpose(1, 3, 0, 2)[:, None]
    yield Lazy(VALUES)
    yield Planes(lambda n: planes[n], SHAPE, VALUES.dtype)
    yield Reordered(Lazy(turned), (3, 0, 4, 2))


@given(
    basic_indices(SHAPE, allow_newaxis=True)
    | integer_array_indices(SHAPE)
    | st.tuples(st.slices(3), integer_array_indices(SHAPE[1:2]).map(lambda i: i[0]))
)
@settings(max_examples=60, deadline=None)
def test_every_index_of_numpy_gives_what_numpy_gives(index):
    for source in sources():
        found = read(source, index)
        assert np.shape(found) == VALUES[index].shape
        np.testing.assert_array_equal(found, VALUES[index])


@pytest.mark.parametrize(
    "index",
    [
        (slice(0, 2), slice(None), 4),
        Ellipsis,
        np.array([0, 2]),
        [2, 0, 2],
        VALUES[:, 0, 0, 0] > 100,
        VALUES % 7 == 0,
        (Ellipsis, VALUES[0, 0] % 2 == 0),
        (VALUES[..., 0, 0] > 200, slice(1, 3)),
        (slice(None, None, -2), None, [1, -1], ..., np.int64(-1)),
        (),
        slice(2, 2),
        [],
    ],
    ids=str,
)
def test_masks_lists_and_what_used_to_fail(index):
    for source in sources():
        np.testing.assert_array_equal(read(source, index), VALUES[index])


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (3, "frame 3 of 3"),
        ((0, 4), "index of axis 1, 4 of 4"),
        ([0, 3], "indices 0 to 3 of axis 0, size 3"),
        ((0, 0, 0, 0, 0), "5 indices for an array with 4 axes"),
        ((..., ...), "one ellipsis only"),
        (0.5, "0.5 is no index"),
        ("x", "'x' is no index"),
        (np.array([0.5]), "array of float64 is no index"),
        (np.ones(2, bool), r"a mask of shape \(2,\) on axes of shape \(3,\)"),
    ],
)
def test_an_index_that_makes_no_sense_says_so(index, words):
    with pytest.raises(IndexError, match=words):
        read(Lazy(VALUES), index)


def test_joined_frames_and_a_single_image():
    joined = Joined(Lazy(VALUES))
    np.testing.assert_array_equal(read(joined, [11, 3]), VALUES.reshape(-1, 5, 6)[[11, 3]])
    assert read(Joined(Lazy(VALUES[0, 0])), 0).shape == (5, 6)


def test_frames_from_all_over_are_read_one_by_one():
    """Two frames of a movie must not read those between them."""
    asked = []

    class Counting:
        shape, dtype = (1000, 4, 4), np.dtype("u1")

        def __getitem__(self, index):
            asked.append(index[0])
            return np.zeros((len(range(*index[0].indices(1000))), 4, 4), "u1")

    read(Lazy(Counting()), [0, 7, 8, 999])
    assert asked == [slice(0, 1), slice(7, 9), slice(999, 1000)]


@pytest.fixture
def movie(tmp_path):
    values = np.random.default_rng(0).integers(0, 60_000, (40, 12, 14)).astype("uint16")
    path = tmp_path / "movie.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for page in values:
            file.write(page, contiguous=False, metadata=None, compression="zlib")
    return path, values


def test_a_stack_is_an_array_for_dask_and_xarray(movie):
    path, values = movie
    with Stack(path) as stack:
        assert (stack.ndim, stack.size, stack.nbytes) == (3, values.size, values.nbytes)
        lazy = stack.to_dask(chunks=(7, -1, -1))
        assert lazy.dtype == stack.dtype == np.uint16 and lazy.chunks[0] == (7,) * 5 + (5,)
        np.testing.assert_array_equal(lazy[3:30, 2].compute(scheduler="threads"), values[3:30, 2])
        np.testing.assert_array_equal(dask.array.from_array(stack).compute(), values)
        labelled = xarray.DataArray(stack.to_dask(), dims=("t", "y", "x"))
        assert labelled.isel(t=5).sum().compute() == values[5].sum()
        assert stack.to_dask().numblocks == (1, 1, 1)


def test_many_threads_read_the_same(movie):
    path, values = movie
    wrong = []
    with Stack(path) as stack:

        def look(seed):
            for k in np.random.default_rng(seed).integers(0, 40, 60):
                if not (stack[int(k)] == values[k]).all():
                    wrong.append(k)

        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_pickled_stack_opens_its_file_again(movie):
    path, values = movie
    with Stack(path, gain=2, offset=100) as stack:
        again = pickle.loads(pickle.dumps(stack))
        np.testing.assert_array_equal(again[7], (values[7].astype("float32") - 100) / 2)
        again.close()


def test_a_closed_stack_says_so(movie):
    stack = Stack(movie[0])
    stack.close()
    with pytest.raises(ValueError, match="is closed: open it again"):
        stack[0]


def test_gain_and_offset_of_each_pixel_follow_the_index(movie):
    path, values = movie
    gain = np.linspace(1, 2, 12 * 14).reshape(12, 14)
    with Stack(path, gain=gain, offset=np.full((12, 14), 3.0)) as stack:
        expected = ((values - 3.0) / gain).astype("float32")
        np.testing.assert_allclose(stack[4, 2:9:3, [5, 1]], expected[4, 2:9:3, [5, 1]], rtol=1e-6)


@pytest.fixture
def long_movie(tmp_path):
    path = tmp_path / "long.tif"
    with tifffile.TiffWriter(path) as file:
        for k in range(2000):
            file.write(np.full((8, 8), k, "uint16"), contiguous=False, metadata=None)
    return path


def test_a_long_movie_is_opened_once_and_each_directory_read_once(long_movie, monkeypatch):
    """Reading a frame must not cost more in a longer movie: no directory is read for it."""
    counts = {"directories": 0, "opened": 0}
    for kind in (tifffile.TiffPage, tifffile.TiffFrame):
        before = kind.__init__

        def counting(self, *args, _before=before, **kwargs):
            counts["directories"] += 1
            _before(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", counting)
    opened = tifffile.TiffFile.__init__

    def opening(self, *args, **kwargs):
        counts["opened"] += 1
        opened(self, *args, **kwargs)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", opening)
    with Stack(long_movie) as stack:
        assert counts["opened"] == 1 and counts["directories"] <= 2000 + 10
        so_far = dict(counts)
        assert [int(stack[k, 0, 0]) for k in (1999, 3, 1000)] == [1999, 3, 1000]
        assert (stack[::400, 0, 0] == np.arange(0, 2000, 400)).all()
        assert counts == so_far
