"""Files of other programs, written by their own packages, open as stacks."""

import sys
import types
import warnings

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import yaml
import zarr
from scipy.io import savemat

from helpers.io import Stack, save_h5


def values(dtype="uint16", shape=(6, 10, 12)):
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


def holds(path, expected, **options):
    with Stack(path, **options) as stack:
        assert stack.shape == expected.shape and stack.dtype == expected.dtype
        np.testing.assert_array_equal(stack[...], expected)
        np.testing.assert_array_equal(stack[[4, 1], 3:8, ::2], expected[[4, 1], 3:8, ::2])
        return stack


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", "float32", "float64"])
def test_npy(tmp_path, dtype):
    np.save(tmp_path / "a.npy", values(dtype))
    holds(tmp_path / "a.npy", values(dtype).astype(np.dtype(dtype).newbyteorder("=")))
    np.save(tmp_path / "one.npy", values()[0])
    assert Stack(tmp_path / "one.npy").shape == (1, 10, 12)
    data = (tmp_path / "a.npy").read_bytes()
    for keep in (5, 90, len(data) - 7):
        (tmp_path / "cut.npy").write_bytes(data[:keep])
        with pytest.raises(ValueError, match="cut.npy is not a whole NPY file"):
            Stack(tmp_path / "cut.npy")


def test_npz_and_matlab_by_the_name_of_the_array(tmp_path):
    """MATLAB stacks images along the last axis; its newer format is HDF5 the other way round."""
    expected = values("float32")
    along = expected.transpose(1, 2, 0)  # (Y, X, N)
    np.savez(tmp_path / "a.npz", images=expected, times=np.arange(3.0), name="x")
    savemat(tmp_path / "a.mat", {"images": along, "pitch": 4.0, "pupil": np.ones((9, 9)) * 1j})
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["images"] = along.T
        file["pitch"] = np.ones((1, 1))
    with (tmp_path / "new.mat").open("rb+") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116))
    for name in ("a.npz", "a.mat"):
        holds(tmp_path / name, expected)
    for name in ("a.npz", "a.mat", "new.mat"):
        holds(tmp_path / name, expected, dataset="images")
        with pytest.raises(ValueError, match=f"{name} has no images 'light': it has images"):
            Stack(tmp_path / name, dataset="light")
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match="is not a whole"):
            Stack(tmp_path / f"cut-{name}")
    np.savez(tmp_path / "two.npz", first=expected, second=expected)
    with pytest.raises(ValueError, match="two.npz has first, second: name one by dataset="):
        Stack(tmp_path / "two.npz")
    np.savez(tmp_path / "none.npz", note="x")
    with pytest.raises(ValueError, match="none.npz has no images: name one"):
        Stack(tmp_path / "none.npz")
    np.savez(tmp_path / "objects.npz", images=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Stack(tmp_path / "objects.npz")


def test_hdf5_by_the_name_of_the_data_set(tmp_path):
    save_h5(tmp_path / "a.h5", {"entry": {"data": values("float32")}, "note": "x"})
    holds(tmp_path / "a.h5", values("float32"))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["entry/dark"] = values("uint8")
        file["entry/data"].attrs["element_size_um"] = [0.3, 0.1, 0.1]
    with pytest.raises(ValueError, match="a.h5 has entry/dark, entry/data: name one by dataset="):
        Stack(tmp_path / "a.h5")
    with pytest.raises(ValueError, match="no images 'light'"):
        Stack(tmp_path / "a.h5", dataset="light")
    holds(tmp_path / "a.h5", values("uint8"), dataset="/entry/dark")
    stack = holds(tmp_path / "a.h5", values("float32"), dataset="entry/data")
    assert (stack.z_step, stack.pixel_size, stack.unit) == (0.3, 0.1, "µm")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:700])
    with pytest.raises(ValueError, match="cut.h5 is not a whole HDF5 file"):
        Stack(tmp_path / "cut.h5")


@pytest.mark.parametrize("name", ["a.mrc", "a.st", "a.ali"])
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_mrc_of_tomography(tmp_path, name, dtype):
    with mrcfile.new(tmp_path / name) as file:
        file.set_data(values(dtype))
        file.voxel_size = (2.5, 2.5, 5.0)
    stack = holds(tmp_path / name, values(dtype))
    assert (stack.pixel_size, stack.z_step, stack.unit) == (2.5, 5.0, "Å")
    assert stack.axes == "ZYX"
    data = (tmp_path / name).read_bytes()
    (tmp_path / f"cut{name}").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cuta.* is not a whole MRC file"):
        Stack(tmp_path / f"cut{name}")


def test_a_raw_movie_of_picasso(tmp_path):
    info = {"Byte Order": ">", "Data Type": "uint16", "Frames": 6, "Height": 10, "Width": 12}
    info |= {"Pixelsize": 130}
    values(">u2").tofile(tmp_path / "m.raw")
    with pytest.raises(FileNotFoundError, match="m.raw is a raw movie: m.yaml must lie beside it"):
        Stack(tmp_path / "m.raw")
    (tmp_path / "m.yaml").write_text(yaml.dump(info))
    stack = holds(tmp_path / "m.raw", values())
    assert (stack.pixel_size, stack.unit) == (130, "nm")
    (tmp_path / "m.raw").write_bytes(values(">u2").tobytes()[:-2])
    with pytest.raises(ValueError, match=r"m.raw stops in the middle: 1438 bytes of 1440"):
        Stack(tmp_path / "m.raw")
    (tmp_path / "m.yaml").write_text("Frames: 6\n")
    with pytest.raises(ValueError, match="does not say 'Height'"):
        Stack(tmp_path / "m.raw")


@pytest.mark.parametrize("version", [2, 3])
def test_a_plain_zarr_array(tmp_path, version):
    array = zarr.create_array(
        tmp_path / "a.zarr", data=values(), chunks=(4, 5, 12), zarr_format=version
    )
    assert array.shape == (6, 10, 12)
    holds(tmp_path / "a.zarr", values())


def ome_zarr(path, version, data):
    """OME-Zarr as its specification has it: 0.4 on Zarr 2, 0.5 on Zarr 3."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=data, chunks=(1, 1, 2, 10, 12))
    units = {"t": "millisecond", "c": None, "z": "nanometer", "y": "micrometer", "x": "micrometer"}
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": n, "type": kinds.get(n, "space")} for n in "tczyx"]
    for axis in axes:
        if units[axis["name"]]:
            axis["unit"] = units[axis["name"]]
    scale = {"type": "scale", "scale": [50.0, 1.0, 300.0, 0.2, 0.1]}
    image = {"version": version, "axes": axes, "name": "cell"}
    image["datasets"] = [{"path": "0", "coordinateTransformations": [scale]}]
    channels = [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00"}]
    metadata = {"multiscales": [image], "omero": {"channels": channels}}
    group.attrs.update(metadata if version == "0.4" else {"ome": {"version": "0.5", **metadata}})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path, version):
    data = values(shape=(5, 2, 4, 10, 12))
    ome_zarr(tmp_path / "a.ome.zarr", version, data)
    with Stack(tmp_path / "a.ome.zarr") as stack:
        assert stack.shape == data.shape and stack.axes == "TCZYX"
        assert (stack.pixel_size, stack.pixel_size_y, stack.unit) == (0.1, 0.2, "µm")
        assert (stack.z_step, stack.time_step) == (0.3, 0.05)
        assert stack.channel_names == ("DAPI", "GFP")
        np.testing.assert_array_equal(stack[1:4, 0, ::2], data[1:4, 0, ::2])
        np.testing.assert_array_equal(stack.to_dask()[..., 3].compute(), data[..., 3])
        np.testing.assert_array_equal(stack.frames[17], data.reshape(-1, 10, 12)[17])


def test_a_zarr_that_is_no_image(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("maps", data=values())
    with pytest.raises(ValueError, match=r"group without OME metadata: .*\(maps\)"):
        Stack(tmp_path / "a.zarr")
    holds(tmp_path / "a.zarr" / "maps", values())
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(ValueError, match="b.zarr is no Zarr array or group"):
        Stack(tmp_path / "b.zarr")


def test_ome_tiff_of_separate_compressed_pages(tmp_path):
    data = values(shape=(3, 2, 10, 12))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        options = {"metadata": {"axes": "TCYX"}, "compression": "zlib"}
        file.write(data, **options)
    with Stack(tmp_path / "a.ome.tif") as stack:
        assert stack.axes == "TCYX"
        np.testing.assert_array_equal(stack[:, 1], data[:, 1])


def test_ome_tiff_in_several_files(tmp_path):
    """A series whose planes lie in other files is read from these."""
    data = values(shape=(2, 10, 12))
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="12" SizeY="10" '
        'SizeZ="1" SizeC="1" SizeT="2"><Channel ID="Channel:0:0"/>'
        '<TiffData IFD="0" FirstT="0" PlaneCount="1"><UUID FileName="t0.ome.tif">urn:uuid:'
        "11111111-1111-1111-1111-111111111111</UUID></TiffData>"
        '<TiffData IFD="0" FirstT="1" PlaneCount="1"><UUID FileName="t1.ome.tif">urn:uuid:'
        "22222222-2222-2222-2222-222222222222</UUID></TiffData></Pixels></Image></OME>"
    )
    for k in range(2):
        uuid = str(k + 1) * 8 + ("-" + str(k + 1) * 4) * 3 + "-" + str(k + 1) * 12
        text = xml.replace("<OME ", f'<OME UUID="urn:uuid:{uuid}" ')
        path = tmp_path / f"t{k}.ome.tif"
        tifffile.imwrite(path, data[k], description=text, metadata=None, ome=False)
    with warnings.catch_warnings(), Stack(tmp_path / "t0.ome.tif") as stack:
        warnings.simplefilter("error")
        np.testing.assert_array_equal(stack[...], data)
        np.testing.assert_array_equal(stack[::-1], data[::-1])


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("m.nd2", "bioio-nd2"),
        ("m.czi", "bioio-czi"),
        ("m.lif", "bioio-lif"),
        ("m.dm4", "rosettasciio"),
        ("m.emd", "rosettasciio"),
        ("m.cine", "pims"),
    ],
)
def test_a_vendors_file_names_the_package_that_reads_it(tmp_path, name, package, monkeypatch):
    for module in ("bioio", "pims"):
        monkeypatch.setitem(sys.modules, module, None)  # as if they were not installed
    (tmp_path / name).write_bytes(b"\x89something of a vendor")
    with pytest.raises(ValueError, match=f"{name} is a .* file: pip install .*{package}") as error:
        Stack(tmp_path / name)
    assert "copy it again" not in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_file_says_what_is_known(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="a.xyz is of no known format: TIFF, .h5"):
        Stack(tmp_path / "a.xyz")
    tifffile.imwrite(tmp_path / "b.xyz", values())  # known by its first bytes
    holds(tmp_path / "b.xyz", values())


def test_bioio_gives_a_stack_where_it_is_installed(tmp_path, monkeypatch):
    """The attributes that bioio's documentation lists; its readers are no part of the tests."""
    import dask.array

    data = values(shape=(3, 2, 1, 10, 12))

    class BioImage:
        dask_data = dask.array.from_array(data)
        dims = types.SimpleNamespace(order="TCZYX")
        physical_pixel_sizes = types.SimpleNamespace(Z=None, Y=0.1, X=0.1)
        channel_names = ["A", "B"]

        def __init__(self, path):
            assert path.name == "m.nd2"

    monkeypatch.setitem(sys.modules, "bioio", types.SimpleNamespace(BioImage=BioImage))
    (tmp_path / "m.nd2").write_bytes(b"nd2")
    with Stack(tmp_path / "m.nd2") as stack:
        assert stack.axes == "TCYX" and stack.channel_names == ("A", "B")
        assert (stack.pixel_size, stack.unit) == (0.1, "µm")
        np.testing.assert_array_equal(stack[2, 1], data[2, 1, 0])


@pytest.mark.parametrize("package", ["mrcfile", "zarr"])
def test_a_reader_that_is_not_installed_is_named(tmp_path, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / ("a.mrc" if package == "mrcfile" else "a.zarr")
    path.mkdir() if package == "zarr" else path.write_bytes(b"x")
    with pytest.raises(ValueError, match=f"is read by {package}: pip install {package}"):
        Stack(path)


def test_pages_that_were_written_one_by_one_are_a_movie(tmp_path):
    """Each has a description of its own, as tifffile's default is: a series of one page."""
    movie = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as file:
        for frame in movie:
            file.write(frame, contiguous=False, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.series) == 5
    with Stack(tmp_path / "a.tif") as stack:
        assert (stack.shape, stack.axes) == ((5, 6, 7), "TYX")
        np.testing.assert_array_equal(stack[3], movie[3])
        np.testing.assert_array_equal(stack[...], movie)


def test_a_preview_beside_the_images_is_said(tmp_path):
    movie = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(movie, photometric="minisblack")
        file.write(movie[0, :3, :3], photometric="minisblack")
    with pytest.warns(UserWarning, match="holds 2 images of several shapes: the first"):
        assert Stack(tmp_path / "a.tif").shape == (5, 6, 7)
