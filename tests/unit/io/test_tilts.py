"""Tilt angles as IMOD writes them."""

import numpy as np
import pytest

from helpers.io import Stack, load_alignment, load_tilt_angles

XF = "   1.0000000   0.0100000  -0.0100000   1.0000000       3.250      -1.500\n"


@pytest.mark.parametrize("end", [".tlt", ".rawtlt"])
def test_one_angle_a_line(tmp_path, end):
    path = tmp_path / f"a{end}"
    path.write_text(" -60.00\n   0.10\n\n  57.5\n\n")
    assert load_tilt_angles(path).tolist() == [-60, 0.1, 57.5]


def test_alignments_and_the_angles_beside_them(tmp_path):
    (tmp_path / "a.xf").write_text(XF * 3)
    alignment = load_alignment(tmp_path / "a.xf")
    assert alignment.shape == (3, 2, 3)
    np.testing.assert_allclose(alignment[1] @ [10, 20, 1], [10 + 0.2 + 3.25, -0.1 + 20 - 1.5])
    with pytest.raises(FileNotFoundError, match="no tilts: put a.tlt or a.rawtlt beside it"):
        load_tilt_angles(tmp_path / "a.xf")
    (tmp_path / "a.rawtlt").write_text("1\n2\n3\n")
    assert load_tilt_angles(tmp_path / "a.xf").tolist() == [1, 2, 3]
    (tmp_path / "a.tlt").write_text("1\n2\n")  # the refined angles come first
    with pytest.raises(ValueError, match="a.tlt has 2 angles but a.xf 3 images"):
        load_tilt_angles(tmp_path / "a.xf")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.tlt", "", "is empty: one line an image"),
        ("a.tlt", "1\nx\n", "line 2 is 'x': an angle is expected"),
        ("a.tlt", "1 2\n", "line 1 is '1 2': an angle is expected"),
        ("a.tlt", "nan\n", "line 1 is 'nan'"),
        ("a.tlt", "200\n", "has the angle 200: degrees"),
        ("a.xf", "1 0 0 1 2\n", "line 1 is '1 0 0 1 2': 6 numbers is expected"),
        ("a.txt", "1\n", "ends on .tlt, .rawtlt, .xf"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        load_tilt_angles(tmp_path / name)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.tlt does not exist"):
        load_tilt_angles(tmp_path / "a.tlt")


def old_mrc(path, images, angles):
    """A file as an FEI microscope writes it: no word MAP, 1024 records of 32 numbers in front."""
    header = np.zeros(256, "<i4")
    header[:4] = (*images.shape[::-1], 1)
    header[23] = 131072
    records = np.zeros((1024, 32), "<f4")
    records[: len(angles), 0] = angles
    path.write_bytes(header.tobytes() + records.tobytes() + images.astype("<i2").tobytes())


def test_tilts_and_images_of_an_old_microscope(tmp_path):
    images = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    old_mrc(tmp_path / "a.mrc", images, [-2.0, 0.0, 2.0])
    np.testing.assert_array_equal(load_tilt_angles(tmp_path / "a.mrc"), [-2, 0, 2])
    np.testing.assert_array_equal(np.asarray(Stack(tmp_path / "a.mrc").frames), images)
    old_mrc(tmp_path / "b.mrc", images, [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="no tilts that can be read"):
        load_tilt_angles(tmp_path / "b.mrc")
    whole = (tmp_path / "a.mrc").read_bytes()
    (tmp_path / "c.mrc").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match="not a whole MRC file"):
        Stack(tmp_path / "c.mrc")
    (tmp_path / "d.mrc").write_bytes(whole[:500])
    with pytest.raises(ValueError, match="stops within its header"):
        load_tilt_angles(tmp_path / "d.mrc")
