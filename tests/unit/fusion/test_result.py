"""A fusion on disk: it comes back whole, other programs read it, a failed save does no harm."""

import json

import h5py
import numpy as np
import pytest
import tifffile
import torch

from helpers import io
from helpers.fusion import Cost, Fusion, fuse
from tests.unit.fusion.equation import NUMBERS, scene

SETTINGS = {
    "elements", "atomic_numbers", "weights", "gamma", "lambda_haadf", "lambda_chem", "lambda_tv",
    "background", "n_iter", "n_iter_tv", "kind", "solver", "start", "tol", "masked", "dtype",
    "device", "backend",
}  # fmt: skip


def result(kind="dict", **settings):
    haadf, maps = scene(2, (9, 7))
    if kind == "dict":
        maps = {"Sc": maps[0], "Dy": maps[1]}
        return fuse(haadf, maps, list(maps), n_iter=3, **settings)
    if kind == "batch":
        haadf, maps = np.stack([haadf, haadf[::-1]]), np.stack([maps, maps[:, ::-1]])
    if kind == "dict of batches":
        haadf = np.stack([haadf, haadf[::-1]])
        maps = {e: np.stack([m, m[::-1]]) for e, m in zip(("Sc", "Dy"), maps, strict=True)}
    if kind == "tensor":
        haadf, maps = torch.tensor(haadf), torch.tensor(maps)
    return fuse(haadf, maps, NUMBERS[:2], n_iter=3, **settings)


@pytest.mark.parametrize("kind", ["dict", "array", "batch", "dict of batches", "tensor"])
def test_everything_comes_back(tmp_path, kind):
    before = result(kind, lambda_tv=0.07, tol=np.float32(1e-9))
    path = before.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "fusion.h5"
    for where in (path, path.parent, str(path)):
        after = Fusion.load(where)
        assert isinstance(after.maps, dict) is kind.startswith("dict")
        if isinstance(after.maps, dict):
            assert list(after.maps) == list(before.maps) == ["Sc", "Dy"]
            for element in after.maps:
                np.testing.assert_array_equal(after.maps[element], before.maps[element])
        else:
            np.testing.assert_array_equal(after.maps, np.asarray(before.maps))
        np.testing.assert_array_equal(after.haadf, np.asarray(before.haadf))
        for term in ("haadf", "chem", "tv", "total"):
            np.testing.assert_array_equal(after.cost[term], before.cost[term])
        np.testing.assert_array_equal(after.n_iter, before.n_iter)
        np.testing.assert_array_equal(after.converged, before.converged)
        assert after.settings == before.settings and type(after.n_iter) is type(before.n_iter)
        assert after.settings["lambda_tv"] == 0.07 and set(after.settings) == SETTINGS


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_precision_is_kept(tmp_path, dtype):
    before = result(dtype=dtype)
    before.save(tmp_path)
    assert Fusion.load(tmp_path).maps["Dy"].dtype == dtype
    assert tifffile.imread(tmp_path / "Dy.tif").dtype == dtype


def test_a_tif_for_every_map_with_its_pixel_size(tmp_path):
    before = result()
    before.save(tmp_path, pixel_size=0.016, unit="nm")
    assert {p.name for p in tmp_path.iterdir()} == {"Sc.tif", "Dy.tif", "haadf.tif", "fusion.h5"}
    for name, image in {**before.maps, "haadf": before.haadf}.items():
        saved = io.load_tif(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(saved.image, image)
        assert (saved.pixel_size, saved.unit) == (0.016, "nm")
    result("batch").save(tmp_path / "batch")
    assert tifffile.imread(tmp_path / "batch" / "map_1.tif").shape == (2, 9, 7)


def test_the_h5_says_what_made_it_to_a_reader_without_helpers(tmp_path):
    before = result()
    raw = {"Sc": np.ones((9, 7)), "HAADF": torch.zeros(9, 7)}
    path = before.save(tmp_path, pixel_size=0.016, raw=raw)
    with h5py.File(path) as file:
        assert json.loads(file.attrs["elements"]) == ["Sc", "Dy"]
        settings = json.loads(file.attrs["settings"])
        assert settings["lambda_tv"] == 0.015 and settings["atomic_numbers"] == [21, 66]
        assert file.attrs["pixel_size"] == 0.016 and file.attrs["unit"] == "nm"
        assert {"created", "helpers_version", "numpy"} <= set(file.attrs)
        np.testing.assert_array_equal(file["maps/Dy"], before.maps["Dy"])
        np.testing.assert_array_equal(file["cost/total"], before.cost.total)
        assert file["raw/Sc"][()].all() and file["raw/HAADF"].shape == (9, 7)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_exists_is_used_and_its_other_files_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result(lambda_tv=0.5).save(tmp_path)
    result(lambda_tv=0.01).save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert Fusion.load(tmp_path).settings["lambda_tv"] == 0.01
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "Sc.tif"), Fusion.load(tmp_path).maps["Sc"]
    )
    assert len(contents(tmp_path)) == 5


@pytest.mark.parametrize(
    "broken", ["tifffile.imwrite of the last", "h5py.File.create_dataset", "os.fsync of the third"]
)
def test_a_failed_save_leaves_every_old_file_whole(tmp_path, monkeypatch, broken):
    result(lambda_tv=0.5).save(tmp_path)
    before, calls = contents(tmp_path), []
    write = tifffile.imwrite

    def third_time(*args, **kw):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("No space left on device")
        if args[1:]:
            write(*args, **kw)

    def full(*args, **kw):
        calls.append(args)
        raise OSError("No space left on device")

    if "imwrite" in broken:
        monkeypatch.setattr(tifffile, "imwrite", third_time)
    elif "fsync" in broken:
        monkeypatch.setattr("os.fsync", third_time)
    else:
        monkeypatch.setattr(h5py.Group, "__setitem__", full)
    with pytest.raises(OSError, match="No space left"):
        result(lambda_tv=0.01).save(tmp_path)
    assert calls
    assert contents(tmp_path) == before, "old files are whole, and no part of a new one is left"
    monkeypatch.undo()
    assert Fusion.load(tmp_path).settings["lambda_tv"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "parsec"}, "unit is 'parsec': use one of"),
        ({"pixel_size": -1}, "pixel_size is -1: give a positive length"),
        ({"raw": {"a/b": np.ones(2)}}, "key 'a/b' in /raw: use strings without a slash"),
    ],
)
def test_bad_settings_write_nothing(tmp_path, settings, message):
    result(lambda_tv=0.5).save(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        result(lambda_tv=0.01).save(tmp_path, **settings)
    assert contents(tmp_path) == before


def test_an_element_cannot_lead_out_of_the_folder(tmp_path):
    haadf, maps = scene(1, (9, 7))
    escaping = fuse(haadf, {"../Sc": maps[0]}, [21], n_iter=1)
    with pytest.raises(ValueError, match="its key must be a file's name"):
        escaping.save(tmp_path / "folder")
    assert not (tmp_path / "Sc.tif").exists()


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file: give the name of a folder"):
        result().save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_no_permission_is_said(tmp_path, monkeypatch):
    """A superuser may write anywhere, so the refusal is that of a stand-in."""

    def refuse(self, *args, **kw):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionError, match=f"no permission to write in {tmp_path}"):
        result().save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_loading_what_is_not_there_or_not_a_fusion(tmp_path):
    with pytest.raises(FileNotFoundError, match="fusion.h5 does not exist"):
        Fusion.load(tmp_path)
    path = result().save(tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], b"", b"not an h5 file" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a whole HDF5 file"):
            Fusion.load(path)
    io.save_h5(path, {"maps": {"Sc": np.ones((2, 2))}})
    with pytest.raises(ValueError, match="no fusion: it has no cost, elements, haadf, settings"):
        Fusion.load(path)


def test_the_total_is_the_sum_of_the_terms():
    cost = Cost(np.array([1.0, 2.0]), np.array([10.0, -20.0]), np.array([0.5, 0.25]))
    assert cost.total.tolist() == cost["total"].tolist() == [11.5, -17.75]
    assert cost["chem"] is cost.chem


def test_maps_of_an_earlier_fusion_do_not_stay(tmp_path):
    haadf, maps = scene(3, (9, 7))
    named = dict(zip(("Sc", "Dy", "O"), maps, strict=True))
    (tmp_path / "Mn.tif").write_bytes(b"of another program")
    fuse(haadf, named, n_iter=1).save(tmp_path)
    fuse(haadf, {e: named[e] for e in ("Sc", "O")}, n_iter=1).save(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"Sc.tif", "O.tif", "haadf.tif", "fusion.h5", "Mn.tif"}


@pytest.mark.parametrize("key", ["haadf", "HAADF", "fusion", "Co/a", "..", "", "a:b", "sc"])
def test_a_key_that_is_no_name_of_a_file_writes_nothing(tmp_path, key):
    haadf, maps = scene(2, (9, 7))
    named = fuse(haadf, {"Sc": maps[0], key: maps[1]}, [21, 66], n_iter=1)
    with pytest.raises(ValueError, match="cannot be saved|would take the place"):
        named.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_picture_is_not_called_a_damaged_fusion(tmp_path):
    path = result().save(tmp_path)
    with pytest.raises(ValueError, match="Sc.tif is no HDF5 file: give fusion.h5"):
        Fusion.load(path.with_name("Sc.tif"))


def test_the_guides_files(tmp_path):
    """Names, shapes and signs of the guide's `save_data`, as its programs read them."""
    haadf, maps = scene(2, (9, 7))
    named = {"Sc": maps[0], "Dy": maps[1]}
    fused = fuse(haadf, named, lambda_tv=0.1, n_iter=4, dtype="float64")
    path = fused.export_guide(tmp_path / "guide", raw={"haadf": haadf, **named})
    assert {p.name for p in path.parent.iterdir()} == {
        "haadf_recon.tif", "Sc_signal.tif", "Dy_signal.tif", "Fused_Reconstruction.h5",
    }  # fmt: skip
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["raw_haadf"], haadf.ravel())
        np.testing.assert_array_equal(file["fused_haadf"], fused.haadf.ravel())
        np.testing.assert_array_equal(file["fused_Dy"], fused.maps["Dy"])
        np.testing.assert_array_equal(file["raw_Sc"], maps[0])
        assert file["lambdaHAADF"][()] == 0.5 and file["lambdaTV"][()] == 0.1
        assert file["lambdaChem"][()] == 0.08 and file["gamma"][()] == 1.6
        x = np.stack(list(fused.maps.values()))
        likelihood = (maps * np.log(x + 0.24) - x).sum()
        assert file["costChem"][-1] == pytest.approx(likelihood, rel=1e-6)
        assert file["costHAADF"][-1] == pytest.approx(((fused.haadf - haadf) ** 2).sum() / 2)
        assert file["costTV"].dtype == np.float32
    with pytest.raises(ValueError, match="raw lacks Dy"):
        fused.export_guide(tmp_path, raw={"haadf": haadf, "Sc": maps[0]})
