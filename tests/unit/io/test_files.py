"""Files: round trips, calibration that Fiji reads, atomic writing, and messages."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import xarray

from helpers.io import Stack, load_h5, load_tif, save_h5, save_tif
from helpers.io._calibration import AXES
from helpers.io.files import atomic_path


def files(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_a_new_file_appears_and_nothing_else(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path, "only in the same folder is a rename atomic"
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new" and files(tmp_path) == ["a.txt"]


def test_a_reader_in_the_middle_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old" and path.read_text() == "new"


@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_whole(tmp_path, trouble):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(trouble), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise trouble
    assert path.read_text() == "old" and files(tmp_path) == ["a.txt"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"


def test_permissions_follow_the_users_mask(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def locked(tmp_path):
    """A folder that may be read but not written, also where the tests run as root."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        for parent in (tmp_path, *list(tmp_path.parents)[:-2]):  # all below /tmp
            parent.chmod(0o755)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)


def test_no_permission_is_said(locked):
    with pytest.raises(PermissionError, match="no permission to write in .*locked"):
        save_h5(locked / "a.h5", {})


@pytest.mark.parametrize("save", [save_tif, save_h5])
def test_missing_folder_and_folder_as_file(tmp_path, save):
    content = {} if save is save_h5 else np.zeros((2, 2), "float32")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder: create it before"):
        save(tmp_path / "nowhere" / "a", content)
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file"):
        save(tmp_path, content)
    assert files(tmp_path) == []


@pytest.mark.parametrize("load", [load_tif, load_h5])
def test_loading_what_is_not_there(tmp_path, load):
    with pytest.raises(FileNotFoundError, match="does not exist: check the name"):
        load(tmp_path / "a")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load(tmp_path)


TYPES = "uint8 uint16 float32 int8 int16 int32 uint32 float64".split()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("ndim", [2, 3, 4, 5])
def test_tif_round_trip(tmp_path, dtype, ndim):
    shape = (2, 3, 4, 5, 6)[-ndim:]
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    save_tif(tmp_path / "a.tif", image, pixel_size=0.0813, unit="µm")
    back, pixel_size, unit = load_tif(tmp_path / "a.tif")
    np.testing.assert_array_equal(back, image)
    assert back.dtype == image.dtype and (pixel_size, unit) == (0.0813, "µm")


@pytest.mark.parametrize("unit", ["pm", "Å", "nm", "µm", "um", "mm"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_come_back(tmp_path, unit, dtype):
    save_tif(tmp_path / "a.tif", np.ones((3, 4), dtype), pixel_size=25, unit=unit)
    assert load_tif(tmp_path / "a.tif")[1:] == (25, "µm" if unit == "um" else unit)


def test_channels_are_channels_to_imagej(tmp_path):
    maps = torch.arange(24, dtype=torch.float32).reshape(3, 2, 4)
    save_tif(tmp_path / "a.tif", maps, axes="CYX", pixel_size=0.5)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.imagej_metadata["channels"] == 3 and file.imagej_metadata["unit"] == "nm"
        assert file.pages[0].tags["XResolution"].value == (2, 1)
    np.testing.assert_array_equal(load_tif(tmp_path / "a.tif").image, maps.numpy())


def test_ome_resolution_is_also_in_the_plain_tags(tmp_path):
    save_tif(tmp_path / "a.tif", np.ones((3, 4)), pixel_size=0.5, unit="µm")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        assert tags["ResolutionUnit"].value == 3, "centimetres"
        assert tags["XResolution"].value == (20000, 1)


def test_a_tif_without_calibration_is_in_pixels(tmp_path):
    save_tif(tmp_path / "a.tif", np.ones((3, 4), "uint8"))
    tifffile.imwrite(tmp_path / "b.tif", np.ones((3, 4)), resolution=(72, 72))
    assert load_tif(tmp_path / "a.tif")[1:] == load_tif(tmp_path / "b.tif")[1:] == (None, "px")


def test_pixels_that_are_not_square_are_said(tmp_path):
    options = {"resolution": (1, 2), "metadata": {"unit": "nm"}}
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), "uint8"), imagej=True, **options)
    with pytest.warns(UserWarning, match="1.0 x 0.5 nm"):
        assert load_tif(tmp_path / "a.tif").pixel_size == 1


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.ones((2, 2), complex), {}, TypeError, "complex128: convert it to one of uint8"),
        (np.ones((2, 2), bool), {}, TypeError, "image is bool"),
        (np.ones(3, "uint8"), {}, ValueError, r"shape \(3,\)"),
        (np.ones((0, 3), "uint8"), {}, ValueError, "none of them empty"),
        (np.ones((2, 2), "uint8"), {"unit": "px"}, ValueError, "unit is 'px'"),
        (np.ones((2, 2), "uint8"), {"pixel_size": -1}, ValueError, "positive length"),
        (np.ones((2, 2), "uint8"), {"axes": "XY"}, ValueError, f"use letters of {AXES}"),
        (np.ones((2, 2, 2), "uint8"), {"axes": "YX"}, ValueError, "of a 3D image"),
    ],
)
def test_bad_images_are_refused_before_writing(tmp_path, image, options, error, message):
    with pytest.raises(error, match=message):
        save_tif(tmp_path / "a.tif", image, **options)
    assert files(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.95])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_truncated_tif_is_an_error(tmp_path, keep, dtype, caplog):
    path = tmp_path / "a.tif"
    save_tif(path, np.random.default_rng(0).random((64, 64)).astype(dtype), pixel_size=1)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with warnings.catch_warnings(), pytest.raises(ValueError, match="a.tif is not a whole TIFF"):
        warnings.simplefilter("error")
        load_tif(path)


TREE = {
    "maps": {"Sc": np.random.default_rng(0).random((64, 32)), "O": np.arange(6, dtype="uint16")},
    "settings": {"gamma": 1.6, "n_iter": 30, "kind": "isotropic", "tol": None, "flag": True},
    "elements": ["Sc", "Ø"],
    "numbers": [1.0, 2.0],
    "empty": {},
}


def test_h5_round_trip_with_history(tmp_path):
    save_h5(tmp_path / "a.h5", TREE, {"sample": "DyScO3", "dose": 12.5})
    tree, attributes = load_h5(tmp_path / "a.h5")
    np.testing.assert_array_equal(tree["maps"].pop("Sc"), TREE["maps"]["Sc"])
    back = tree["maps"].pop("O")
    assert back.dtype == "uint16" and back.tolist() == list(range(6))
    assert tree["settings"] == TREE["settings"] and tree["elements"] == TREE["elements"]
    assert tree["numbers"].tolist() == [1, 2] and tree["empty"] == {}
    assert set(tree) == set(TREE)
    assert attributes["sample"] == "DyScO3" and attributes["dose"] == 12.5
    assert {"created", "helpers_version", "python", "numpy", "h5py"} <= set(attributes)


def test_h5_takes_tensors(tmp_path):
    save_h5(tmp_path / "a.h5", {"x": torch.ones(2, 3)})
    assert load_h5(tmp_path / "a.h5")[0]["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"a": {"b": object()}}, TypeError, "/a/b is of type object"),
        ({"a": [[1], [1, 2]]}, TypeError, "/a is of type list"),
        ({"a/b": 1}, ValueError, "key 'a/b' in the tree"),
        ({"a": {3: 1}}, ValueError, "key 3 in /a"),
    ],
)
def test_a_bad_tree_is_refused_and_the_old_file_stays(tmp_path, tree, error, message):
    save_h5(tmp_path / "a.h5", {"old": 1})
    with pytest.raises(error, match=message):
        save_h5(tmp_path / "a.h5", {"good": np.ones(3)} | tree)
    assert load_h5(tmp_path / "a.h5")[0] == {"old": 1} and files(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.95])
def test_a_truncated_h5_is_an_error(tmp_path, keep):
    path = tmp_path / "a.h5"
    save_h5(path, TREE)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="a.h5 is not a whole HDF5 file"):
        load_h5(path)


OME = {
    "axes": "TCZYX",
    "PhysicalSizeX": 0.1,
    "PhysicalSizeY": 0.2,
    "PhysicalSizeZ": 300,
    "PhysicalSizeXUnit": "µm",
    "PhysicalSizeYUnit": "µm",
    "PhysicalSizeZUnit": "nm",
    "TimeIncrement": 2000,
    "TimeIncrementUnit": "ms",
    "Channel": {"Name": ["DAPI", "GFP"]},
}


def told(thing):
    names = "pixel_size pixel_size_y z_step time_step channel_names unit".split()
    return [getattr(thing, name) for name in names]


@pytest.mark.parametrize("dtype", ["uint16", "float64"])
def test_ome_metadata_survive_a_round_trip(tmp_path, dtype):
    image = np.arange(2 * 2 * 3 * 4 * 5).reshape(2, 2, 3, 4, 5).astype(dtype)
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata=OME)
    expected = [0.1, 0.2, 0.3, 2.0, ("DAPI", "GFP"), "µm"]
    with pytest.warns(UserWarning, match="pixels are 0.1 x 0.2 µm"):
        tif = load_tif(tmp_path / "a.ome.tif")
    assert told(tif) == expected and tif.axes == "TCZYX"
    with Stack(tmp_path / "a.ome.tif") as stack:
        assert told(stack) == expected and stack.axes == "TCZYX"
        np.testing.assert_array_equal(stack[1, :, 2], image[1, :, 2])
    save_tif(tmp_path / "b.tif", tif)
    with pytest.warns(UserWarning, match="pixels are"):
        back = load_tif(tmp_path / "b.tif")
    assert told(back) == expected
    np.testing.assert_array_equal(back.image, image)
    with Stack(tmp_path / "b.tif") as stack:
        assert told(stack) == expected


@pytest.mark.parametrize("dtype", ["uint16", "float64"])
def test_every_step_has_its_own_argument(tmp_path, dtype):
    image = np.ones((2, 3, 4, 5), dtype)
    options = {"z_step": 0.5, "time_step": 0.04, "channel_names": ["Mn", "O"], "unit": "nm"}
    save_tif(tmp_path / "a.tif", image, axes="CZYX", pixel_size=(0.1, 0.2), **options)
    with pytest.warns(UserWarning, match="0.2 x 0.1 nm"):
        tif = load_tif(tmp_path / "a.tif")
    assert told(tif) == [0.2, 0.1, 0.5, 0.04, ("Mn", "O"), "nm"]


def test_a_single_channel_keeps_its_name(tmp_path):
    save_tif(tmp_path / "a.tif", np.ones((4, 5), "uint16"), channel_names=["GFP"])
    assert load_tif(tmp_path / "a.tif").channel_names == ("GFP",)


def test_fiji_reads_the_z_step(tmp_path):
    save_tif(tmp_path / "a.tif", np.ones((3, 4, 5), "uint16"), pixel_size=(0.3, 0.1, 0.1))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.imagej_metadata["spacing"] == 0.3 and file.imagej_metadata["slices"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pixel_size": (1, 2, 3, 4)}, r"one length, \(y, x\) or \(z, y, x\)"),
        ({"z_step": 0}, "z_step is 0: give a positive length"),
        ({"time_step": np.nan}, "positive number of seconds"),
        ({"channel_names": ["a", "b"]}, "the image has 1 channels, name each"),
    ],
)
def test_steps_that_make_no_sense(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        save_tif(tmp_path / "a.tif", np.ones((3, 4, 5), "uint8"), **options)
    assert files(tmp_path) == []


def labelled(**more):
    return xarray.DataArray(
        np.arange(48, dtype="float32").reshape(2, 2, 3, 4),
        dims=("channel", "time", "y", "x"),
        coords={
            "channel": ["DAPI", "GFP"],
            "time": ("time", [0.0, 40.0], {"units": "ms"}),
            "y": ("y", np.arange(3) * 0.2, {"units": "µm"}),
            "x": ("x", np.arange(4) * 0.1, {"units": "micrometer"}),
            **more,
        },
    )


def test_a_labelled_array_brings_its_pixel_size(tmp_path):
    array = labelled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_tif(tmp_path / "a.tif", array)
    with pytest.warns(UserWarning, match="pixels are 0.1 x 0.2"):
        tif = load_tif(tmp_path / "a.tif")
    assert told(tif) == [0.1, 0.2, None, 0.04, ("DAPI", "GFP"), "µm"] and tif.axes == "TCYX"
    np.testing.assert_array_equal(tif.image, array.transpose("time", "channel", "y", "x").values)


def test_what_tiff_has_no_place_for_is_named(tmp_path):
    array = labelled(dose=3.0).assign_attrs(sample="worm")
    array = array.assign_coords(x=("x", 5 + np.arange(4) * 0.1, {"units": "µm"}))
    with pytest.warns(
        UserWarning, match=r"no place for sample, dose, origin of x \(5 µm\): dropped"
    ):
        save_tif(tmp_path / "a.tif", array)
    with pytest.raises(ValueError, match="coordinate x is not evenly spaced"):
        save_tif(tmp_path / "b.tif", array.assign_coords(x=[0, 1, 3, 4]))
    with pytest.raises(ValueError, match="name them t, c, z, y, x"):
        save_tif(tmp_path / "b.tif", array.rename(x="k"))


@pytest.mark.parametrize("name", ["m.czi", "m.nd2", "m.dm4", "m.emd"])
def test_a_vendors_file_is_said_to_be_one(tmp_path, name):
    (tmp_path / name).write_bytes(b"whatever" * 10)
    with pytest.raises(ValueError, match=rf"{name} is a \w+ file: pip install") as error:
        load_tif(tmp_path / name)
    assert "truncated" not in str(error.value)


def test_other_formats_are_opened_by_stack(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    with pytest.raises(ValueError, match="a.npy is no TIFF: helpers.io.Stack opens other formats"):
        load_tif(tmp_path / "a.npy")
    (tmp_path / "a.ome.zarr").mkdir()
    with pytest.raises(IsADirectoryError, match="is a Zarr image: open it by helpers.io.Stack"):
        load_tif(tmp_path / "a.ome.zarr")
