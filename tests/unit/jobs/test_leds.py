"""The job `diffraction`: tables of LEDs, and what cannot be done, each in one line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.__main__ import main
from helpers.inr.diffraction import led_directions
from helpers.io import save_tif
from helpers.jobs.inr import _diffraction, _leds
from tests.unit.jobs.cases import DEVICE, GRID

LENS = ["--wavelength", "0.6", "--na", "0.12", "--pixel-size", "1.5"]
SQUARE = ["--pitch", "4", "--distance", "90", "--order", "rows"]
THICK = ["--method", "tomography", "--depths", "-10", "10"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Nine dull images, and tables of LEDs that are right or wrong."""
    monkeypatch.chdir(tmp_path)
    images = np.full((9, 16, 18), 500.0, "float32")
    np.save("dull.npy", images)
    np.save("plane.npy", images[0])
    images[4, 3, 3] = np.nan
    np.save("nan.npy", images)
    np.save("eight.npy", images[:8])
    np.savetxt("two.csv", np.zeros((2, 2)), delimiter=",")
    np.savetxt("nine.csv", GRID[:9] * 4.0, delimiter=",")
    texts = {"empty": "# nothing\n", "names": "row,column\n1,2\n", "word": "y,x\n1,2\n3,far\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("dull.npy", [], "where the LEDs are is not said: give a table by leds"),
        ("dull.npy", ["--pitch", "4"], "where the LEDs are is not said"),
        ("dull.npy", ["--leds", "two.csv"], "two.csv has 2 LEDs but dull.npy 9 images"),
        ("dull.npy", ["--leds", "nine.csv"], "reach to 17: give the distance of the array"),
        ("dull.npy", ["--leds", "empty.csv"], "empty.csv is empty"),
        ("dull.npy", ["--leds", "names.csv"], "begins with 'row,column': columns named y and x"),
        ("dull.npy", ["--leds", "word.csv"], "word.csv, line 3 is '3,far': 2 columns are expected"),
        ("eight.npy", SQUARE, "has 8 images, and no square array has as many"),
        ("plane.npy", SQUARE, "plane.npy is (1, 16, 18): give one image an LED"),
        ("nan.npy", SQUARE, "image 4 of nan.npy has NaN"),
        ("dull.npy", [*SQUARE, "--crop", "17"], "crop is 17, but the images of dull.npy are"),
        ("dull.npy", [*SQUARE, "--shift", "0", "30"], "0 of 9 LEDs are in the bright field"),
        ("dull.npy", [*SQUARE, "--offset", "600"], "a median of 0: check na"),
        ("dull.npy", [*SQUARE, "--hidden", "0.9"], "8 of 9 LEDs would be hidden: leave three"),
        ("dull.npy", [*SQUARE, "--align", "place"], "five inside and five outside"),
        ("dull.npy", [*SQUARE, "--pixel-size", "4"], "pixels are 4.0 um"),
        ("dull.npy", [*SQUARE, "--method", "tomography"], "depths are None: tomography needs"),
        ("dull.npy", [*SQUARE, *THICK, "--depths", "3", "3"], "depths are [3.0, 3.0]"),
        ("dull.npy", [*SQUARE, *THICK, "--pixel-size", "2"], "1 of 9 LEDs are inside"),
        ("dull.npy", [*SQUARE, *THICK, "--offset", "600"], "image 0 is dark, but its LED"),
        ("dull.npy", [*SQUARE, *THICK, "--index", "0.1"], "na is 0.12 in a medium of index 0.1"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_no_result(
    file, options, words, here, capsys
):
    assert main(["diffraction", file, "--out", "out", *LENS, *options, *DEVICE]) == 1
    told = capsys.readouterr()
    assert words in json.loads(told.out)["error"] and told.err == ""
    assert not [p for p in (here / "out").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--hidden", "1"], "hidden is 1.0: give a share of one"),
        (["--edge", "-0.1"], "edge is -0.1: give a share of one"),
        (["--shift", "1"], "give 2 lengths in mm: y x"),
        (["--depths", "1", "2", "3"], "give 2 depths in µm"),
        (["--na", "0"], "na is 0.0: give a number above 0"),
        (["--leds", "none.csv"], "none.csv does not exist"),
    ],
)
def test_settings_are_checked_before_a_file_is_opened(option, words, here, capsys):
    assert main(["diffraction", "dull.npy", "--out", "out", *LENS, *option]) > 0
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and not (here / "out").exists()


@pytest.mark.parametrize("method", [[], THICK])
def test_a_fit_that_the_memory_cannot_hold_is_refused(method, here, capsys, monkeypatch):
    free = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(_diffraction, "psutil", free)
    assert main(["diffraction", "dull.npy", "--out", "out", *LENS, *SQUARE, *method, *DEVICE]) == 1
    assert "GB are free: crop the images" in json.loads(capsys.readouterr().out)["error"]


def test_pixels_without_a_size_are_refused_and_those_of_a_file_are_taken(here, capsys):
    call = ["diffraction", "dull.npy", "--out", "out", *LENS[:4], *SQUARE, *DEVICE]
    assert main(call) == 1
    assert "does not say the size of its pixels" in json.loads(capsys.readouterr().out)["error"]
    save_tif("sized.tif", np.load("dull.npy"), pixel_size=15000, unit="nm", axes="TYX")
    array = _leds.Array(None, 4.0, 90.0, "rows", (1.0, -2.0))
    options = {"align": "no", "dataset": None, "offset": 100.0, "crop": 8, "pixel_size": None}
    found = _leds.record(
        here / "sized.tif", array, wavelength=0.6, na=0.12, magnification=10.0, **options
    )
    assert found.pixel_size == pytest.approx(1.5) and found.told == {}
    assert found.images.shape == (9, 8, 8) and (found.images == 400).all()
    middle = np.indices((3, 3)).reshape(2, -1).T - 1
    np.testing.assert_array_equal(found.leds, led_directions(4 * middle + [1, -2], 90))


@pytest.mark.parametrize(
    "text",
    [
        "1.5 -2\n3 4\n",
        "1.5;-2\n\n3;4\n",
        "# by hand\nx (mm),LED,y (mm)\n-2,a,1.5\n4,b,3\n",
        "\ufeffn\tY\tX\n1\t1.5\t-2\n2\t3\t4\n",
    ],
)
def test_tables_of_places_in_several_hands(text, tmp_path):
    (tmp_path / "leds.csv").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(_leds.load_places(tmp_path / "leds.csv"), [[1.5, -2], [3, 4]])


def test_the_nearest_fitted_led_is_the_neighbour_of_one_that_is_hidden():
    leds = np.array([[0.0, 0], [0, 1], [1, 0], [0.9, 0.1]])
    hidden = np.array([False, False, False, True])
    assert _diffraction._nearest(leds, ~hidden, hidden).tolist() == [2]
    for seed in range(20):
        chosen = _diffraction._held_out(leds, 0.25, np.random.default_rng(seed))
        assert chosen.sum() == 1 and not chosen[0]
