"""The command line: what it prints and how it exits."""

import hashlib
import re

import pytest

from helpers import __version__, datasets
from helpers.__main__ import main
from helpers.jobs._command import names


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HELPERS_OFFLINE", "1")
    monkeypatch.delenv("HELPERS_DATA_DIR", raising=False)


def test_doctor_says_what_is_here(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for part in ("helpers ", "torch 2.", "device ", "threads: ", "GiB are free", "dysco3: not on"):
        assert part in said


def test_data_list_names_the_licence(capsys):
    assert main(["data", "list"]) == 0
    said = capsys.readouterr().out
    assert "core_shell: " in said and said.count("MIT, (c) 2023") == 2


def test_verify_fails_on_what_is_absent_or_damaged(capsys, tmp_path, monkeypatch):
    assert main(["data", "verify", "dysco3"]) == 1
    monkeypatch.setenv("HELPERS_DATA_DIR", str(tmp_path))
    (tmp_path / "PTO_Trilayer_dataset.npz").write_bytes(b"half")
    assert main(["data", "verify"]) == 1
    said = capsys.readouterr().out
    assert "dysco3: not on" in said and "is not the published file" in said
    assert "hagen_actin: not on this machine: put actin-60x" in said


def test_what_is_fetched_by_hand_says_so(capsys):
    assert main(["data", "fetch", "hagen_actin", "epfl_worm"]) == 1
    said = capsys.readouterr().err.splitlines()
    files = ("hagen_actin", "actin-60x"), ("epfl_worm", "CElegans-FITC")
    for line, (name, file) in zip(said, files, strict=True):
        assert line.startswith(f"{name} is not fetched, you do it by hand: put {file}")


@pytest.fixture
def two_sets(tmp_path, monkeypatch):
    """A published set and one that is fetched by hand; the folder has neither."""
    card = {"file": "a.npz", "sha256": hashlib.sha256(b"whole").hexdigest(), "bytes": 5}
    hand = {"file": "b.tif", "files": {"image": "b.tif"}, "arrays": {"image": [1, 8, 8]}}
    cards = {"a": card, "b": hand | {"by_hand": "put b.tif there", "url": "somewhere"}}
    monkeypatch.setattr(datasets, "registry", lambda: cards)
    monkeypatch.setenv("HELPERS_DATA_DIR", str(tmp_path))
    return tmp_path


def test_absent_by_hand_is_not_damaged(two_sets, capsys):
    assert main(["data", "verify"]) == 1, "a could be downloaded"
    (two_sets / "a.npz").write_bytes(b"whole")
    assert main(["data", "verify"]) == 0 and main(["data", "fetch"]) == 0
    assert main(["data", "verify", "b"]) == main(["data", "fetch", "b"]) == 1, "asked for by name"
    (two_sets / "b.tif").write_bytes(b"no picture")
    assert main(["data", "verify"]) == 1, "b is damaged"
    assert "b: " in capsys.readouterr().out


def test_fetch_tries_all_of_them(two_sets, capsys, monkeypatch):
    tried = []
    monkeypatch.setattr(datasets, "find", lambda name: None)
    cards = {name: {"file": name} for name in "ac"} | {"b": datasets.registry()["b"]}
    monkeypatch.setattr(datasets, "registry", lambda: cards)

    def fetch(name):
        tried.append(name)
        raise datasets.NoNetwork(f"{name} cannot be reached")

    monkeypatch.setattr(datasets, "fetch", fetch)
    assert main(["data", "fetch"]) == 1
    assert tried == ["a", "c"] and len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_no_data(option, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "registry", lambda: 1 / 0)
    with pytest.raises(SystemExit) as end:
        main([option])
    said = capsys.readouterr().out
    assert end.value.code == 0 and (f"helpers {__version__}" in said or "export-notebooks" in said)


def test_verify_and_fetch_find_a_whole_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_DATA_DIR", str(tmp_path))
    (tmp_path / "a.npz").write_bytes(b"whole")
    card = {"file": "a.npz", "sha256": hashlib.sha256(b"whole").hexdigest(), "bytes": 5}
    monkeypatch.setattr(datasets, "registry", lambda: {"a": card})
    assert main(["data", "verify"]) == 0 and main(["data", "fetch", "a"]) == 0
    said = capsys.readouterr().out
    assert "(local), checksum as published" in said and "a.npz (local)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "fetch", "dysco3"], "NoNetwork: .*HELPERS_OFFLINE is set"),
        (["data", "list", "quartz"], "no data set is called 'quartz'"),
        (["export-notebooks", "out", "--site", "nowhere"], "no notebooks in nowhere: build"),
    ],
)
def test_errors_are_one_line_and_exit_1(capsys, arguments, message):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert re.search(message, captured.err)


def test_unknown_commands_exit_2():
    with pytest.raises(SystemExit) as caught:
        main(["data", "burn"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("word", "hint"), [("fues", "did you mean fuse?"), ("xray-trian", "did you mean xray-train?"),
                       ("exports-notebook", "export-notebooks?"), ("q", "see cmx --help")]
)  # fmt: skip
def test_a_misspelt_job_is_one_line_with_the_nearest_one(word, hint, capsys):
    assert main([word, "a.h5"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and hint in told.err


def test_the_help_names_every_job_and_command_and_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert not [line for line in said.splitlines() if line[80:]] and "`" not in said
    for name in (*names(), "init JOB", "run FILE", "doctor", "data", "export-notebooks"):
        assert re.search(rf"^ +{name}\b", said, re.M), name


def test_the_notebooks_of_a_built_book_are_copied(tmp_path, capsys):
    built = tmp_path / "html" / "_sources" / "book" / "part"
    built.mkdir(parents=True)
    (built / "page.ipynb").write_text("{}")
    (built / "page.md").write_text("# Page")
    out = tmp_path / "out"
    assert main(["export-notebooks", str(out), "--site", str(tmp_path / "html")]) == 0
    assert [p.relative_to(out).as_posix() for p in out.rglob("*.*")] == ["part/page.ipynb"]
    assert capsys.readouterr().out == f"1 notebooks in {out}\n"
