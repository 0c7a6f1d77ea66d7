"""Jobs of the command: from files to results on disk, by options, by TOML, and after a stop."""

import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from helpers import fusion
from helpers.__main__ import main
from helpers.fusion import Fusion
from helpers.io import load_table, load_tif, save_h5, save_tif
from helpers.jobs import find
from helpers.jobs._command import names
from helpers.renderer.detect import localize
from helpers.renderer.simulate import crowded_frames

DEVICE = ["--device", "cpu", "--json"]


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    options = {"emitters": 2, "photons": (900, 1100), "sigma": 1.3, "background": (5, 5)}
    frames, _ = crowded_frames(12, (24, 26), read_noise=0, seed=3, **options)
    counts = np.random.default_rng(0).poisson(np.maximum(frames, 0)).astype("uint16")
    path = tmp_path_factory.mktemp("movie") / "movie.tif"
    save_tif(path, 2 * counts + 100, pixel_size=0.13, unit="µm", axes="TYX")
    return path, counts.astype("float32")


LOCALIZE = ["--psf", "1.3", "--gain", "2", "--offset", "100", "--chunk", "5"]


def test_localize_equals_the_call_in_memory(movie, tmp_path, capsys):
    path, counts = movie
    assert main(["localize", str(path), "--out", str(tmp_path), *LOCALIZE, *DEVICE]) == 0
    (result,) = said(capsys)
    found, expected = load_table(result["output"]), localize(counts, 1.3, batch=5, device="cpu")
    assert result["molecules"] == len(expected) > 15 and result["frames"] == 12
    assert found.dtype.names == expected.dtype.names
    for name in expected.dtype.names:
        np.testing.assert_array_equal(found[name], expected[name])
    note = json.loads((tmp_path / "movie" / "job.json").read_text())
    assert list(note["inputs"]) == [str(path)] and note["versions"]["helpers"]


def test_localize_again_does_nothing_twice_and_writes_for_picasso(movie, tmp_path, capsys):
    call = ["localize", str(movie[0]), "--out", str(tmp_path), *LOCALIZE, *DEVICE]
    assert main(call) == 0 and said(capsys)[0]["chunks_new"] == 3
    assert main([*call, "--table", "picasso"]) == 0
    (result,) = said(capsys)
    assert result["chunks_new"] == 0
    own, theirs = load_table(tmp_path / "movie" / "molecules.h5"), load_table(result["output"])
    np.testing.assert_allclose(theirs.x, own.x, atol=3e-6)
    assert "Pixelsize: 130.0" in (tmp_path / "movie" / "molecules.yaml").read_text()
    assert main([*call, "--no-resume"]) == 0 and said(capsys)[0]["chunks_new"] == 3


def test_the_record_is_a_job_that_gives_the_same(movie, tmp_path, capsys):
    call = ["localize", str(movie[0]), "--out", str(tmp_path / "a"), *LOCALIZE, *DEVICE]
    assert main(call) == 0
    kept = (tmp_path / "a" / "movie" / "job.toml").read_text()
    before = load_table(tmp_path / "a" / "movie" / "molecules.h5")
    again = kept.replace(json.dumps(str(tmp_path / "a")), '"b"')
    (tmp_path / "again.toml").write_text(again)
    capsys.readouterr()
    assert main(["run", str(tmp_path / "again.toml"), "--json"]) == 0
    assert said(capsys)[0]["output"] == str(tmp_path / "b" / "movie" / "molecules.h5")
    np.testing.assert_array_equal(load_table(tmp_path / "b" / "movie" / "molecules.h5"), before)


def test_a_movie_that_is_cut_off_fails_and_the_next_is_done(movie, tmp_path, capsys):
    data = movie[0].read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    call = ["localize", str(tmp_path / "cut.tif"), str(movie[0]), "--out", str(tmp_path / "out")]
    assert main([*call, *LOCALIZE, *DEVICE]) == 1
    first, second = said(capsys)
    assert "stops in the middle" in first["error"] and second["molecules"] > 0


def test_a_scheduler_that_is_not_there_is_said(movie, tmp_path, capsys, monkeypatch):
    import distributed

    def nobody(*_, **__):
        raise OSError("Timed out")

    monkeypatch.setattr(distributed, "Client", nobody)
    call = ["localize", str(movie[0]), "--out", str(tmp_path), *LOCALIZE]
    assert main([*call, "--scheduler", "tcp://127.0.0.1:1"]) == 1
    assert "no scheduler answers at tcp://127.0.0.1:1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    for seed in range(3):
        data = fusion.simulate("dysco3", counts=2, seed=seed, size=24)
        save_h5(folder / f"f{seed}.h5", {"maps": dict(data.maps), "haadf": data.haadf})
    return folder, data


def test_fuse_does_every_field_that_it_can(fields, tmp_path, capsys):
    folder, data = fields
    (tmp_path / "bad.npz").write_bytes(b"half")
    files = [str(p) for p in (*sorted(folder.glob("*.h5")), tmp_path / "bad.npz")]
    call = ["fuse", *files, "--out", str(tmp_path / "out"), "--n-iter", "5", *DEVICE]
    assert main(call) == 1
    results = said(capsys)
    assert ["error" in r for r in results] == [False, False, False, True]
    haadf, maps = fusion.normalize(data.haadf, data.maps)
    expected = fusion.fuse(haadf, maps, {n: n for n in maps}, n_iter=5, device="cpu")
    found = Fusion.load(tmp_path / "out" / "f2")
    assert set(found.maps) == {"Sc", "Dy", "O"} and results[2]["n_iter"] == 5
    for name in maps:
        np.testing.assert_allclose(found.maps[name], expected.maps[name], atol=1e-5)
    assert main(call[:3] + call[5:]) == 0
    assert [r["new"] for r in said(capsys)] == [False, False]
    (tmp_path / "out" / "f0" / "Sc.tif").unlink()
    assert main(call[:3] + call[5:]) == 0
    assert [r["new"] for r in said(capsys)] == [True, False], "what is not whole is done again"


def test_fuse_takes_folders_of_tiff_with_their_pixel_size(fields, tmp_path, capsys):
    _, data = fields
    (tmp_path / "field").mkdir()
    for name, image in {"haadf": data.haadf, **data.maps}.items():
        path = tmp_path / "field" / f"{name}.tif"
        save_tif(path, np.asarray(image, "float32"), pixel_size=0.08, unit="nm")
    call = ["fuse", str(tmp_path / "field"), "--out", str(tmp_path / "out"), "--n-iter", "2"]
    assert main([*call, "--elements", "Dy", "O", *DEVICE]) == 0
    assert said(capsys)[0]["elements"] == ["Dy", "O"]
    assert load_tif(tmp_path / "out" / "field" / "Dy.tif").pixel_size == 0.08
    assert main([*call, "--haadf", "bf", *DEVICE]) == 1
    assert "has no image 'bf': it has Dy, O, Sc, haadf" in said(capsys)[0]["error"]


def test_denoise_keeps_axes_and_pixel_size(tmp_path, capsys):
    rng = np.random.default_rng(0)
    clean = 40 + 30 * np.sin(np.arange(32) / 4)[:, None] * np.ones((3, 32, 32))
    path, out = tmp_path / "a.tif", str(tmp_path / "out")
    save_tif(path, rng.poisson(clean).astype("uint16"), pixel_size=0.1, unit="µm", axes="TYX")
    call = ["denoise", str(path), "--out", out, "--n-steps", "3", "--width", "4", *DEVICE]
    assert main(call) == 0
    (result,) = said(capsys)
    tif = load_tif(result["output"])
    assert tif.image.shape == (3, 32, 32) and (tif.pixel_size, tif.unit) == (0.1, "µm")
    assert np.isfinite(tif.image).all() and result["new"]
    first = Path(result["output"]).read_bytes()
    assert main(call) == 0 and said(capsys)[0]["new"] is False
    assert Path(result["output"]).read_bytes() == first


def test_fuse_has_the_defaults_of_the_function():
    known = inspect.signature(fusion.fuse).parameters
    shared = [s for s in find("fuse").settings if s.name in known and s.name != "haadf"]
    assert len(shared) > 5
    for setting in shared:
        assert setting.default == known[setting.name].default, setting.name


@pytest.mark.parametrize("name", names())
def test_the_toml_of_a_job_is_its_defaults(name, capsys):
    assert main(["init", name]) == 0
    text = capsys.readouterr().out
    given = tomllib.loads(text)
    assert given.pop("job") == name and max(map(len, text.splitlines())) <= 80
    job = find(name)
    settings = job.check(given)
    needed = {s.name for s in job.settings if s.needed}
    for setting in job.settings:
        assert setting.help and f"{setting.name} =" in text
        if setting.name not in needed:
            assert settings[setting.name] == setting.default


@pytest.mark.parametrize("name", names())
def test_the_help_of_a_job_reads_well(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80 and "`" not in text
    for option in ("--out", "--resume", "--device", "--json"):
        assert option in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\nlambda_tvv = 1', "did you mean lambda_tv?"),
        ('job = "fuse"\nout = "b"', "fuse needs files"),
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\nn_iter = "x"', "a value of type int"),
        ('job = "fuse"\nfiles = "a"\nout = "b"', "files is 'a': give a list"),
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\nelements = ["Xx"]', "unknown element 'Xx'"),
        ('job = "localize"\nfiles = ["a"]\nout = "b"\npsf = 1\ntable = "smap"', "use own, csv"),
        (
            'job = "localize"\nfiles = ["a"]\nout = "b"\npsf = -1',
            "psf is -1.0: give a number",
        ),
        ('job = "fusion"', "there is no job 'fusion'"),
        ("job = ", "is no TOML"),
    ],
)
def test_a_wrong_toml_is_refused_before_any_work(tmp_path, capsys, text, words):
    (tmp_path / "a.toml").write_text(text)
    assert main(["run", str(tmp_path / "a.toml")]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.toml"]


def test_wrong_calls_end_with_2_and_what_cannot_be_done_with_1(tmp_path, capsys):
    assert main(["fuse", "a.h5"]) == 2  # no --out
    assert main(["init", "fusion"]) == 2
    assert main(["run"]) == 2
    assert main(["run", str(tmp_path / "none.toml")]) == 2
    assert main(["fuse", str(tmp_path / "none.h5"), "--out", str(tmp_path / "out")]) == 1
    assert "none.h5 does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "a.h5").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.npz").touch()
    both = [str(tmp_path / "a.h5"), str(tmp_path / "b" / "a.npz")]
    assert main(["fuse", *both, "--out", str(tmp_path / "out")]) == 2
    assert "several inputs are named a" in capsys.readouterr().err


def test_the_help_lists_every_job_without_loading_torch():
    code = "import sys; from helpers.jobs._command import listing; print(listing()); "
    code += "print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "False", run.stderr
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert all(f"  {name} " in run.stdout for name in names())
