"""The execution cache forgets a page's outputs when anything that made them changes."""

from __future__ import annotations

import importlib.util

import pytest

from tests.book_files import ROOT


@pytest.fixture(scope="module")
def fingerprint():
    path = ROOT / "book" / "_ext" / "static_mode.py"
    spec = importlib.util.spec_from_file_location("static_mode", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fingerprint


@pytest.fixture
def book(tmp_path):
    for name in ("helpers/fusion/solver.py", "data/registry.json", "constraints.txt", "README.md"):
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first", encoding="utf-8")
    return tmp_path / "repository"


@pytest.mark.parametrize(
    "name", ["helpers/fusion/solver.py", "data/registry.json", "constraints.txt"]
)
def test_a_changed_file_changes_it(fingerprint, book, name):
    before = fingerprint(book, {})
    assert fingerprint(book, {}) == before
    (book / name).write_text("second", encoding="utf-8")
    assert fingerprint(book, {}) != before


def test_a_new_or_renamed_file_changes_it(fingerprint, book):
    before = fingerprint(book, {})
    (book / "helpers" / "fusion" / "solver.py").rename(book / "helpers" / "solver.py")
    assert fingerprint(book, {}) != before


def test_what_no_page_reads_does_not_change_it(fingerprint, book):
    before = fingerprint(book, {})
    (book / "README.md").write_text("second", encoding="utf-8")
    cached = book / "helpers" / "__pycache__" / "solver.py"
    cached.parent.mkdir()
    cached.write_text("bytes", encoding="utf-8")
    assert fingerprint(book, {"HOME": "/", "HELPERS_STATIC": "1"}) == before


def test_the_settings_change_it(fingerprint, book, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "maps.npz").write_bytes(b"1234")
    settings = [
        {},
        {"HELPERS_OFFLINE": "1"},
        {"HELPERS_DEVICE": "cpu"},
        {"HELPERS_DATA_DIR": str(data)},
        {"HELPERS_DATA_DIR": str(tmp_path)},
    ]
    assert len({fingerprint(book, environ) for environ in settings}) == len(settings)


def test_the_data_change_it(fingerprint, book, tmp_path):
    environ = {"HELPERS_DATA_DIR": str(tmp_path)}
    before = fingerprint(book, environ)
    (tmp_path / "maps.npz").write_bytes(b"1234")
    assert fingerprint(book, environ) != before
