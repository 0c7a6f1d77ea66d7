"""Tables of molecules survive the way to a file and back."""

import numpy as np
import pytest

from helpers.io import load_h5, load_table, save_h5, save_table


def table(n=50):
    rng = np.random.default_rng(2000)
    columns = [np.arange(n), rng.normal(size=n), rng.normal(size=n) * 1e-9, rng.random(n) > 0.5]
    return np.rec.fromarrays(columns, names="frame,x,photons_std,converged")


@pytest.mark.parametrize("name", ["found.csv", "found.h5"])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_a_table_comes_back_as_it_was(tmp_path, name, n):
    before = table(n)
    save_table(tmp_path / name, before)
    after = load_table(tmp_path / name)
    assert after.dtype.names == before.dtype.names and len(after) == n
    for column in before.dtype.names:
        np.testing.assert_array_equal(after[column], before[column])
    if n:
        assert after.frame.dtype.kind == "i" and after.converged.dtype == bool


def test_an_hdf5_table_can_say_more(tmp_path):
    save_table(tmp_path / "found.h5", table(), {"pixel_size": 0.1})
    assert load_h5(tmp_path / "found.h5")[1]["pixel_size"] == 0.1


def test_another_file_is_no_table(tmp_path):
    save_h5(tmp_path / "maps.h5", {"maps": np.zeros(3)})
    with pytest.raises(ValueError, match="no table of molecules: it holds maps"):
        load_table(tmp_path / "maps.h5")


def test_a_table_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "found.csv"
    save_table(path, table(3))
    monkeypatch.setattr("pathlib.Path.write_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_table(path, table(5))
    monkeypatch.undo()
    assert len(load_table(path)) == 3 and list(tmp_path.iterdir()) == [path]


def test_a_table_cut_off_is_found_out(tmp_path):
    path = tmp_path / "found.csv"
    save_table(path, table())
    whole = path.read_text()
    for end in (len(whole) // 2, len(whole) - 3, 5):
        path.write_text(whole[:end])
        with pytest.raises(ValueError, match="not a whole table"):
            load_table(path)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda d: save_table(d / "a.txt", table()), "use .csv or .h5"),
        (lambda d: save_table(d / "a.csv", {}), "give some"),
        (lambda d: save_table(d / "a.csv", {"x": [1, 2], "y": [1]}), "of one length"),
        (lambda d: save_table(d / "a.csv", {"x": np.ones((2, 2))}), "of one length"),
        (lambda d: save_table(d / "a.csv", table(), {"px": 1}), "no place for attributes"),
    ],
)
def test_nonsense_is_refused_with_a_reason(tmp_path, save, words):
    with pytest.raises(ValueError, match=words):
        save(tmp_path)
    assert not list(tmp_path.iterdir())
