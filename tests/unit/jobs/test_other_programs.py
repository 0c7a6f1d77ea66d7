"""Files that other programs open: with the real packages where they are installed.

The job `interop` of the continuous integration installs both; no graphics are needed to read.
"""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from helpers.__main__ import main
from helpers.io import Stack, load_table, save_tif

FILM = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)
KNOWN = {"pixel_size": (0.2, 0.1), "z_step": 0.3, "unit": "µm", "time_step": 2.0}


def images(path):
    """What napari's own reader gives of a file, without a window."""
    builtins = pytest.importorskip("napari_builtins.io")
    reader = builtins.napari_get_reader(str(path))
    return [np.asarray(layer[0]) for layer in reader(str(path))]


@pytest.mark.parametrize("kind", ["ImageJ", "OME"])
def test_napari_shows_the_images_that_we_save(tmp_path, kind):
    film = FILM if kind == "ImageJ" else FILM.astype("int32")
    save_tif(tmp_path / "film.tif", film, channel_names=("a", "b", "c"), **KNOWN)
    (shown,) = images(tmp_path / "film.tif")
    axes = tifffile.TiffFile(tmp_path / "film.tif").series[0].axes  # ImageJ has z before c
    order = [axes.index(axis) for axis in "TCZYX"]
    np.testing.assert_array_equal(shown.transpose(order), film)


def test_napari_shows_a_stack_without_loading_it(tmp_path):
    """A stack has the array protocol: napari takes it as it is, and reads what it shows."""
    components = pytest.importorskip("napari.components")
    save_tif(tmp_path / "film.tif", FILM, **KNOWN)
    with Stack(tmp_path / "film.tif") as stack:
        scale = (stack.z_step, stack.pixel_size_y, stack.pixel_size)
        layer = components.ViewerModel().add_image(stack, scale=(1, 1, *scale))
        assert layer.data is stack and layer.ndim == 5
        np.testing.assert_array_equal(np.asarray(layer.data[1, 2]), FILM[1, 2])


def test_picasso_reads_the_table_of_the_command(case, tmp_path):
    """The contract of its documentation without it, the real reader with it."""
    import h5py
    import yaml

    call = case("localize").call(tmp_path, "--table", "picasso")
    assert main(call) == 0
    path = tmp_path / "movie" / "molecules.hdf5"
    with h5py.File(path) as file:
        table = file["locs"][:]
    assert {"frame", "x", "y", "photons", "sx", "sy", "bg", "lpx", "lpy"} <= set(table.dtype.names)
    info = list(yaml.safe_load_all(path.with_suffix(".yaml").read_text()))
    assert (info[0]["Width"], info[0]["Height"], info[0]["Frames"]) == (26, 24, 12)
    assert main(case("localize").call(tmp_path)) == 0
    own = load_table(tmp_path / "movie" / "molecules.h5")
    np.testing.assert_allclose(table["x"], own.x + 12.5, atol=1e-5)  # from the first pixel
    np.testing.assert_allclose(table["y"], own.y + 11.5, atol=1e-5)
    io = pytest.importorskip("picasso.io")
    locs, read = io.load_locs(str(path))
    assert read[0]["Width"] == 26
    # it leaves out what was fitted to a place beside the frame
    inside = (table["x"] > 0) & (table["x"] < 26) & (table["y"] > 0) & (table["y"] < 24)
    assert inside.sum() > 20
    for name in ("x", "y", "photons", "frame"):
        np.testing.assert_array_equal(np.asarray(locs[name]), table[name][inside])
