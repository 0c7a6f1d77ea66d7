"""Stacks in every kind of file, whole and broken."""

import io
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.io import Stack
from helpers.io._formats import natural_order


def frames(dtype="uint16", n=6, shape=(40, 50), seed=0):
    rng = np.random.default_rng(seed)
    top = 60_000 if dtype in ("uint16", "float32", "uint32") else 200
    return rng.integers(0, top, (n, *shape)).astype(dtype)


WAYS = {
    "plain": {},
    "imagej": {"imagej": True},
    "compressed": {"compression": "zlib"},
    "big": {"bigtiff": True},
    "big endian": {"byteorder": ">"},
}


TYPES = "uint8", "uint16", "uint32", "float32"
KINDS = [(d, w) for d in TYPES for w in WAYS if (d, w) != ("uint32", "imagej")]  # it has none


@pytest.mark.parametrize(("dtype", "way"), KINDS)
def test_a_stack_gives_what_is_in_the_file(tmp_path, dtype, way):
    values = frames(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, **WAYS[way])
    stack = Stack(tmp_path / "a.tif")
    assert stack.shape == values.shape and len(stack) == 6 and stack.dtype == values.dtype
    np.testing.assert_array_equal(stack[4], values[4].astype("float32"))
    np.testing.assert_array_equal(stack[-1], stack[5])
    np.testing.assert_array_equal(np.asarray(stack), values.astype("float32"))
    np.testing.assert_array_equal(stack[1:-1:2], values[1:-1:2].astype("float32"))
    assert stack[4:2].shape == (0, 40, 50)
    with pytest.raises(IndexError, match="frame 6"):
        stack[6]


def test_pages_that_were_written_one_by_one(tmp_path):
    values = frames()
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in values:
            file.write(page, contiguous=False, metadata=None)
    np.testing.assert_array_equal(np.asarray(Stack(tmp_path / "a.tif")), values)


def test_an_uncompressed_stack_is_not_loaded(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", frames())
    assert isinstance(Stack(tmp_path / "a.tif")._source.array, np.memmap)


def test_grey_levels_become_photo_electrons(tmp_path):
    values = frames()
    tifffile.imwrite(tmp_path / "a.tif", values)
    stack = Stack(tmp_path / "a.tif", gain=0.46, offset=100.0)
    np.testing.assert_allclose(stack[2], (values[2] - 100.0) / 0.46, rtol=1e-6)
    assert stack[2].dtype == np.float32


def test_hyperstacks_keep_their_axes_and_give_frames(tmp_path):
    values = frames(n=6).reshape(3, 2, 40, 50)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, metadata={"axes": "TZYX"})
    with Stack(tmp_path / "a.tif") as stack:
        assert stack.shape == (3, 2, 40, 50) and stack.axes == "TZYX"
        assert stack.frames.shape == (6, 40, 50) and stack.frames.ndim == 3
        np.testing.assert_array_equal(stack.frames[:], values.reshape(6, 40, 50))
        np.testing.assert_array_equal(stack.frames[[5, 1]], values.reshape(6, 40, 50)[[5, 1]])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_stack_that_stops_in_the_middle_is_found_out(tmp_path, way, share):
    """Otherwise a movie would silently become a single frame."""
    tifffile.imwrite(tmp_path / "a.tif", frames(), **WAYS[way])
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"cut\.tif stops (in the middle: page \d|within its fi)"):
        Stack(tmp_path / "cut.tif")


def test_the_first_missing_page_is_named(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in frames():
            file.write(page, contiguous=False, metadata=None)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: int(0.6 * len(data))])
    with pytest.raises(ValueError, match="page 3, counted from 0, .* save the 3 pages before"):
        Stack(tmp_path / "cut.tif")


def test_one_block_of_pages_with_a_single_directory_is_measured(tmp_path):
    """ImageJ writes stacks of more than 4 GB like this."""
    values = frames()
    said = "ImageJ=1.53t\nimages=6\nslices=6\n"
    tifffile.imwrite(tmp_path / "a.tif", values[0], description=said, metadata=None)
    head = (tmp_path / "a.tif").read_bytes()[: -2 * 40 * 50]
    (tmp_path / "whole.tif").write_bytes(head + values.astype("<u2").tobytes())
    np.testing.assert_array_equal(np.asarray(Stack(tmp_path / "whole.tif")), values)
    (tmp_path / "cut.tif").write_bytes(head + values.astype("<u2").tobytes()[: 7 * 40 * 50])
    with pytest.raises(ValueError, match="stops in the middle: page 3"):
        Stack(tmp_path / "cut.tif")


def test_what_is_no_stack_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.tif does not exist"):
        Stack(tmp_path / "nothing.tif")
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(ValueError, match="or is no TIFF"):
        Stack(tmp_path / "text.tif")
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((8, 9, 3), "uint8"), photometric="rgb")
    with pytest.raises(ValueError, match="no grey images"):
        Stack(tmp_path / "rgb.tif")


def packed(path, images, kind="tif"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("volume/notes.txt", "slices")
        for name, image in images.items():
            data = io.BytesIO()
            if kind == "tif":
                tifffile.imwrite(data, image)
            else:
                Image.fromarray(image).save(data, "PNG")
            archive.writestr(f"volume/{name}.{kind}", data.getvalue())


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_slices_come_in_natural_order(tmp_path, kind):
    values = frames(n=12)
    order = np.random.default_rng(3).permutation(12)
    packed(tmp_path / "v.zip", {f"z{k}": values[k] for k in order}, kind)
    volume = Stack(tmp_path / "v.zip")
    assert volume.shape == (12, 40, 50) and volume.dtype == np.uint16
    np.testing.assert_array_equal(np.asarray(volume), values)
    with zipfile.ZipFile(tmp_path / "v.zip") as archive:
        archive.extractall(tmp_path)
    np.testing.assert_array_equal(np.asarray(Stack(tmp_path / "volume")), values)


def test_names_without_numbers_and_with_several():
    names = ["t2_z10", "t10_z1", "t2_z9", "b", "2", "10"]
    assert natural_order(names) == ["2", "10", "b", "t2_z9", "t2_z10", "t10_z1"]


def test_broken_zips_are_refused(tmp_path):
    packed(tmp_path / "v.zip", {"z0": frames()[0], "z1": frames(shape=(40, 48))[0]})
    volume = Stack(tmp_path / "v.zip")
    with pytest.raises(ValueError, match=r"z1.tif in .* is \(40, 48\), but .*z0.tif is \(40, 50\)"):
        volume[1]
    data = (tmp_path / "v.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a whole zip"):
        Stack(tmp_path / "cut.zip")
    packed(tmp_path / "empty.zip", {})
    with pytest.raises(ValueError, match="holds no slices"):
        Stack(tmp_path / "empty.zip")


def test_a_damaged_slice_is_named(tmp_path):
    (tmp_path / "v").mkdir()
    for k, image in enumerate(frames(n=2)):
        tifffile.imwrite(tmp_path / "v" / f"z{k}.tif", image)
    whole = (tmp_path / "v" / "z1.tif").read_bytes()
    (tmp_path / "v" / "z1.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="z1.tif in .* is not a whole image"):
        Stack(tmp_path / "v")[1]
