"""What cannot be done is said in one line, before any work where it can be, and nothing is lost."""

import errno
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers.__main__ import main
from helpers.io import load_table, save_tif
from helpers.jobs import find
from helpers.jobs._command import names
from tests.unit.jobs.cases import DEVICE, run

NEEDED = {
    "localize": ["--psf", "1.3"],
    "deconvolve": ["--kernel", "psf.npy"],
    "field": ["--psf", "psf.npy"],
    "film": ["--psf", "psf.npy"],
    "diffraction": ["--wavelength", "0.5", "--na", "0.1"],
}


def said(capsys):
    """The one line of an error."""
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told, told
    return told


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files that a job needs beside its own."""
    monkeypatch.chdir(tmp_path)
    np.save("psf.npy", np.ones((3, 3)) / 9)
    return tmp_path


@pytest.mark.parametrize("name", names())
def test_a_file_that_is_not_there(name, here, capsys):
    call = [name, "none.tif", "--out", "out", *NEEDED.get(name, [])]
    assert main(call) == 1
    assert "none.tif does not exist" in said(capsys)
    assert not (here / "out").exists()


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("kind", ["another kind", "truncated"])
def test_a_file_of_another_kind_or_cut_off_fails_and_says_so(name, kind, here, capsys):
    """The others of the same call are done: see `test_the_rest_is_done`."""
    path = here / "a.tif"
    if kind == "another kind":
        path.write_text("no image at all")
    else:
        save_tif(here / "whole.tif", np.ones((6, 40, 40), "uint16"), axes="TYX")
        path.write_bytes((here / "whole.tif").read_bytes()[:4000])
    assert main([name, "a.tif", "--out", "out", *NEEDED.get(name, []), *DEVICE]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["input"] == "a.tif" and "\n" not in result["error"]
    assert not list((here / "out").rglob("job.json"))


def test_the_rest_is_done(case, tmp_path, capsys):
    movie = case("localize").files[0]
    data = movie.read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    case("localize").files.insert(0, tmp_path / "cut.tif")
    first, second = run(case("localize"), tmp_path / "out", capsys, ends=1)
    del case("localize").files[0]
    assert "stops in the middle" in first["error"] and second["molecules"] > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\nlambda_tvv = 1', "did you mean lambda_tv?"),
        ('job = "fuse"\nout = "b"', "fuse needs files"),
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\nn_iter = "x"', "a value of type int"),
        ('job = "fuse"\nfiles = "a"\nout = "b"', "files is 'a': give a list"),
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\nelements = ["Xx"]', "unknown element 'Xx'"),
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\ngamma = 0.5', "gamma is 0.5: give a number not"),
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\nworkers = -1', "workers is -1: give a number"),
        ('job = "fuse"\nfiles = ["a"]\nout = "b"\ndevice = "gpu"', "gpu"),
        ('job = "localize"\nfiles = ["a"]\nout = "b"\npsf = 1\ntable = "smap"', "use own, csv"),
        ('job = "localize"\nfiles = ["a"]\nout = "b"\npsf = -1', "psf is -1.0: give a number"),
        ('job = "localize"\nfiles = ["a"]\nout = "b"\npsf = nan', "psf is nan: give a number"),
        ('job = "xray-infer"\nfiles = ["a"]\nout = "b"\nwhite = [1]', "of the fast and of the"),
        ('job = "xray-infer"\nfiles = ["a"]\nout = "b"\nnetwork = "raft"', "use flowfuse, edvr"),
        ('job = "xray-calibrate"\nfiles = ["a"]\nout = "b"\nnear = [1.0]', "give 5 numbers: theta"),
        (
            'job = "film"\nfiles = ["a"]\nout = "b"\npsf = "a.toml"\nchain = 0',
            "chain is 0: give a number",
        ),
        (
            'job = "field"\nfiles = ["a"]\nout = "b"\npsf = "a.toml"\nvoxel_size = [1, 2, 0]',
            "give 3 lengths in",
        ),
        ('job = "fusion"', "there is no job 'fusion'"),
        ("job = ", "is no TOML"),
    ],
)
def test_a_wrong_toml_is_refused_before_any_work(tmp_path, capsys, text, words):
    (tmp_path / "a.toml").write_text(text)
    assert main(["run", str(tmp_path / "a.toml")]) == 2
    assert words in said(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["a.toml"]


@pytest.mark.parametrize("name", names())
def test_a_misspelt_setting_of_any_job_names_the_nearest_one(name, tmp_path, capsys):
    wrong = {s.name: f"{s.name}x" for s in find(name).settings[2:]}
    for right, setting in wrong.items():
        text = f'job = "{name}"\nfiles = ["a"]\nout = "b"\n{setting} = 1'
        (tmp_path / "a.toml").write_text(text)
        assert main(["run", str(tmp_path / "a.toml")]) == 2
        assert f"{name} has no setting '{setting}': did you mean {right}?" in said(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["a.toml"]


def test_wrong_calls_end_with_2(here, capsys):
    assert main(["fuse", "a.h5"]) == 2  # no --out
    assert main(["fuse", "a.h5", "--out", "out", "--lambda-tvv", "1"]) == 2
    capsys.readouterr()
    for call in (["init", "fusion"], ["run"], ["run", "none.toml"]):
        assert main(call) == 2
        assert said(capsys)
    (here / "a.h5").touch()
    (here / "b").mkdir()
    (here / "b" / "a.npz").touch()
    assert main(["fuse", "a.h5", "b/a.npz", "--out", "out"]) == 2
    assert "several inputs are named a" in said(capsys)
    assert main(["fuse", "a.h5", "--out", "a.h5"]) == 2
    assert "a.h5 is a file" in said(capsys)
    assert main(["deconvolve", "a.h5", "--out", "out", "--kernel", "none.npy"]) == 1
    assert "none.npy does not exist" in said(capsys)


def test_a_full_file_system_ends_the_work_and_keeps_what_is_done(
    case, tmp_path, capsys, monkeypatch
):
    """Room again, and the same call goes on."""
    from helpers import scale

    written = scale._write_table
    room = [2]

    def full(*arguments):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return written(*arguments)

    monkeypatch.setattr(scale, "_write_table", full)
    (result,) = run(case("localize"), tmp_path, capsys, ends=1)
    assert "No space left" in result["error"] and "2 of 4 chunks are kept" in result["error"]
    room[0] = 9
    (result,) = run(case("localize"), tmp_path, capsys)
    assert (result["chunks_new"], room[0]) == (2, 7)
    assert len(load_table(result["output"])) == result["molecules"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("name", names())
def test_a_device_that_is_full_leaves_no_half_file(name, case, tmp_path, capsys, monkeypatch):
    """A whole first result stays as it was."""
    results = run(case(name), tmp_path, capsys)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    opened = os.fsync
    files = []

    def full(number):
        files.append(number)
        with open("/dev/full", "wb") as device:
            device.write(b"x" * 10)
            device.flush()
        opened(number)

    monkeypatch.setattr(os, "fsync", full)
    again = run(case(name), tmp_path, capsys, "--no-resume", ends=1)
    assert files and len(again) == len(results)
    assert all("No space left" in result["error"] for result in again)
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert {p: after[p] for p in before} == before
    left = [p for p in after if p not in before and "unfinished" not in str(p.parent)]
    assert left == [], "no part of a file is left"


@pytest.mark.parametrize("name", names())
def test_a_folder_that_may_not_be_written(name, case, tmp_path, capsys, monkeypatch):
    import tempfile

    call = case(name).call(tmp_path / "out")
    if os.name == "posix" and os.geteuid() != 0:
        (tmp_path / "out").mkdir(mode=0o500)
    else:  # root may write everywhere

        def refused(**_):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert main(call) == 1
    assert "no permission to write in" in said(capsys)


def test_a_scheduler_that_is_not_there(case, tmp_path):
    """The real client waits ten seconds; what it logs is no second line."""
    call = [sys.executable, "-c", "import sys; from helpers.__main__ import main; sys.exit(main())"]
    call += case("localize").call(tmp_path, "--scheduler", "tcp://127.0.0.1:9")
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "no scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", names())
def test_no_job_begins_without_its_scheduler(name, case, tmp_path, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed")
    client = partial(distributed.Client, timeout=0.2)
    monkeypatch.setattr(distributed, "Client", lambda address, **_: client(address))
    assert main(case(name).call(tmp_path, "--scheduler", "tcp://127.0.0.1:9")) == 1
    assert "no scheduler answers at tcp://127.0.0.1:9" in said(capsys)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
