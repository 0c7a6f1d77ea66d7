"""Files of microscopes: read back whatever the names, the units and the order of the axes."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
import tifffile

from helpers import fusion, io
from helpers.fusion import read
from helpers.fusion.scan._read import blocks

ENERGIES = 0.1 + 0.02 * np.arange(60)
CUBE = np.random.default_rng(0).poisson(0.3, (6, 7, 60)).astype(np.uint16)
HAADF = np.random.default_rng(1).random((6, 7))


def axis(name, size, units, scale=1.0, offset=0.0, navigate=True):
    return {
        "_type": "UniformDataAxis", "name": name, "size": size, "units": units, "scale": scale,
        "offset": offset, "navigate": navigate,
    }  # fmt: skip


def signal(title="EDX", kind="EDS_TEM", unit="keV", data=CUBE, navigate=False):
    factor = {"keV": 1, "eV": 1000}[unit]
    return {
        "data": data,
        "axes": [
            axis("y", 6, "µm", 5e-4),
            axis("x", 7, "µm", 5e-4),
            axis("Energy", 60, unit, 0.02 * factor, 0.1 * factor, navigate),
        ],
        "metadata": {"General": {"title": title}, "Signal": {"signal_type": kind}},
        "original_metadata": {}, "attributes": {"_lazy": False}, "learning_results": {},
        "package": "", "package_version": "", "package_info": {}, "tmp_parameters": {},
        "models": {},
    }  # fmt: skip


def hspy(path, item):
    pytest.importorskip("rsciio")
    from rsciio import hspy

    hspy.file_writer(str(path), item)
    return path


def arrays(**more):
    return {"HAADF": HAADF, "EDX": CUBE, "energies": ENERGIES, **more}


def check(scan, unit="keV"):
    assert scan.spectra.shape == CUBE.shape
    assert np.array_equal(np.concatenate([b for _, b in blocks(scan.spectra)]), CUBE)
    assert scan.energy_unit == unit
    assert scan.energies == pytest.approx(ENERGIES * (1000 if unit == "eV" else 1))


@pytest.mark.parametrize("first", [False, True])
def test_arrays_of_npz_with_energies_last_or_first(tmp_path, first):
    cube = np.moveaxis(CUBE, -1, 0) if first else CUBE
    np.savez(tmp_path / "a.npz", **arrays(EDX=cube, pixel_size=0.5, unit="nm", dwell=1e-3))
    scan = read(tmp_path / "a.npz")
    check(scan)
    assert np.array_equal(scan.haadf, HAADF)
    assert (scan.pixel_size, scan.unit, scan.dwell) == (0.5, "nm", 1e-3)


@pytest.mark.parametrize("first", [False, True])
def test_h5_stays_on_disk_until_it_is_sliced(tmp_path, first):
    cube = np.moveaxis(CUBE, -1, 0) if first else CUBE
    tree = arrays(EDX=cube)
    io.save_h5(tmp_path / "a.h5", tree, {"pixel_size": 2.0, "unit": "Å"})
    scan = read(tmp_path / "a.h5")
    assert not isinstance(scan.spectra, np.ndarray)
    check(scan)
    assert np.array_equal(scan.spectra[2], CUBE[2])
    assert np.array_equal(scan.spectra[1:3, 4], CUBE[1:3, 4])
    assert np.array_equal(scan.spectra[..., -1], CUBE[..., -1])
    assert scan.pixel_size == pytest.approx(0.2)


def test_hyperspys_file_without_hyperspy(tmp_path):
    scan = read(hspy(tmp_path / "a.hspy", signal()))
    check(scan)
    assert scan.pixel_size == pytest.approx(0.5)
    assert scan.metadata["signal"] == "EDS"


def test_hspy_named_h5_and_x_rays_in_ev(tmp_path):
    hspy(tmp_path / "a.hspy", signal(unit="eV")).rename(tmp_path / "a.h5")
    check(read(tmp_path / "a.h5"))


def test_energy_losses_are_in_ev(tmp_path):
    scan = read(hspy(tmp_path / "a.hspy", signal(kind="EELS", unit="eV")))
    check(scan, "eV")
    assert scan.metadata["signal"] == "EELS"


def test_energy_axis_in_front(tmp_path):
    item = signal(data=np.moveaxis(CUBE, -1, 0))
    item["axes"] = [item["axes"][k] for k in (2, 0, 1)]
    check(read(hspy(tmp_path / "a.hspy", item)))


def test_zspy(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "a.zspy", mode="w").create_group("Experiments/map")
    group.create_array("data", data=CUBE)
    for k, a in enumerate(signal()["axes"]):
        group.create_group(f"axis-{k}").attrs.update(a)
    group.create_group("metadata/Signal").attrs["signal_type"] = "EDS_TEM"
    check(read(tmp_path / "a.zspy"))


def test_emd_of_ncem(tmp_path):
    pytest.importorskip("rsciio")
    from rsciio import emd

    emd.file_writer(str(tmp_path / "a.emd"), signal())
    check(read(tmp_path / "a.emd"))


def test_emd_of_velox_as_far_as_it_can_be_written(tmp_path):
    """Images of a Velox file: a folder of images with their metadata as JSON."""
    pytest.importorskip("rsciio")
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file["Version"] = np.array([b'{"format": "Velox", "version": "1.11"}'], dtype="S64")
    with pytest.raises(ValueError, match="cannot be read|neither"):
        read(tmp_path / "a.emd")


def test_tif_is_an_image_and_a_stack_with_energies_is_spectra(tmp_path):
    io.save_tif(tmp_path / "haadf.tif", HAADF.astype(np.float32), pixel_size=0.3, unit="nm")
    scan = read(tmp_path / "haadf.tif")
    assert scan.spectra is None and scan.pixel_size == pytest.approx(0.3)
    assert scan.haadf == pytest.approx(HAADF, rel=1e-6)
    tifffile.imwrite(tmp_path / "cube.tif", np.moveaxis(CUBE, -1, 0))
    check(read(tmp_path / "cube.tif", energies=ENERGIES))
    check(read(tmp_path / "cube.tif", energies=ENERGIES, energy_axis=0))


def test_frames_of_spectra_are_added_and_of_images_averaged(tmp_path):
    np.savez(tmp_path / "a.npz", EDX=np.stack([CUBE, CUBE]), HAADF=HAADF, energies=ENERGIES)
    scan = read(tmp_path / "a.npz")
    assert np.array_equal(scan.spectra, 2 * CUBE)
    np.savez(tmp_path / "b.npz", EDX=CUBE, HAADF=np.stack([HAADF, 3 * HAADF]), energies=ENERGIES)
    assert read(tmp_path / "b.npz").haadf == pytest.approx(2 * HAADF)


def test_bruker_file_has_another_detectors_name_and_a_saturated_image(measured):
    scan = read(measured)
    assert scan.spectra.shape == (64, 64, 2048) and int(scan.spectra.sum()) == 26_005
    assert scan.energies[0] == pytest.approx(-0.4754, abs=1e-3)
    assert scan.pixel_size == pytest.approx(0.771, abs=1e-3) and scan.unit == "nm"
    assert (scan.haadf == 65535).sum() == 382


# ---- images and their names


@pytest.mark.parametrize("name", ["DF4", "scan 42", "Ch0"])
def test_the_only_image_is_the_haadf_whatever_its_name(tmp_path, name):
    np.savez(tmp_path / "a.npz", EDX=CUBE, energies=ENERGIES, **{name: HAADF})
    assert np.array_equal(read(tmp_path / "a.npz").haadf, HAADF)


def test_choices_are_listed_where_the_haadf_is_not_clear(tmp_path):
    np.savez(tmp_path / "a.npz", EDX=CUBE, energies=ENERGIES, BF=HAADF, Ch1=HAADF[:3])
    scan = read(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"not clear.*'BF' \(6 x 7\), 'Ch1' \(3 x 7\)"):
        _ = scan.haadf


def test_of_two_haadf_images_the_one_of_the_scan(tmp_path):
    survey = np.random.default_rng(2).random((20, 20))
    np.savez(
        tmp_path / "a.npz", EDX=CUBE, energies=ENERGIES, **{"HAADF 1": survey, "HAADF 2": HAADF}
    )
    assert np.array_equal(read(tmp_path / "a.npz").haadf, HAADF)


def test_images_of_one_title_get_numbers(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["one/HAADF"], file["two/HAADF"] = HAADF, HAADF
    assert list(read(tmp_path / "a.h5").images) == ["one/HAADF", "two/HAADF"]


# ---- what cannot be read is said in one line


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    for word in words:
        assert word in text
    return text


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read(tmp_path / "no.emd")
    one_line(caught, "does not exist")


@pytest.mark.parametrize("end", [".bcf", ".dm3", ".dm4", ".emd", ".hspy", ".h5", ".npz", ".npy"])
@pytest.mark.parametrize("content", [b"", b"no such format, whatever the ending says"])
def test_a_file_with_something_else_in_it(tmp_path, end, content):
    if end in (".bcf", ".dm3", ".dm4", ".emd"):
        pytest.importorskip("rsciio")
    (tmp_path / f"a{end}").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read(tmp_path / f"a{end}")
    one_line(caught, f"a{end}", "copy it again")


def test_a_truncated_file(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.npz")
    one_line(caught, "cut off")


def test_a_truncated_vendors_file(measured, tmp_path):
    whole = measured.read_bytes()
    (tmp_path / "a.bcf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.bcf")
    one_line(caught, "cut off")


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.bcf").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "rsciio.bruker", None)
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.bcf")
    one_line(caught, "pip install rosettasciio")


def test_an_ending_that_nobody_knows(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"anything")
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.xyz")
    one_line(caught, "no known format", ".emd")


def test_several_spectrum_images_are_listed(tmp_path):
    np.savez(tmp_path / "a.npz", A=CUBE, B=2 * CUBE, energies=ENERGIES)
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.npz")
    one_line(caught, "2 spectrum images", "0: 'A' (6 x 7 x 60), 1: 'B'")
    assert np.array_equal(read(tmp_path / "a.npz", spectra="B").spectra, 2 * CUBE)
    assert np.array_equal(read(tmp_path / "a.npz", spectra=0).spectra, CUBE)


def test_an_axis_that_could_be_either(tmp_path):
    np.savez(tmp_path / "a.npz", EDX=np.ones((6, 60, 60)), energies=ENERGIES)
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.npz")
    one_line(caught, "2 axes fit")


def test_energies_that_fall_or_do_not_fit(tmp_path):
    np.savez(tmp_path / "a.npz", EDX=CUBE, energies=ENERGIES[::-1])
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.npz")
    one_line(caught, "must be finite and rise")
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a.npz", energies=ENERGIES[:-1], energy_axis=-1)
    one_line(caught, "59 energies for 60 channels")


def test_spectra_of_a_line(tmp_path):
    np.savez(tmp_path / "a.npz", EDX=CUBE[:1], energies=ENERGIES)
    assert read(tmp_path / "a.npz").spectra.shape == (1, 7, 60)


def test_pixels_that_are_not_square_are_said(tmp_path):
    item = signal()
    item["axes"][0]["scale"] = 1e-3
    with pytest.warns(UserWarning, match="1 nm high and 0.5 nm wide"):
        read(hspy(tmp_path / "a.hspy", item))


def test_the_face_says_what_it_has(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    assert "'HAADF' 6 x 7; spectra 6 x 7 x 60, 0.1 to 1.28 keV" in repr(read(tmp_path / "a.npz"))
    assert isinstance(read(tmp_path / "a.npz"), fusion.Scan)
