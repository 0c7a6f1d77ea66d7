"""What is vendored, MathJax and axe-core, is as published, all of it and nothing else."""

from __future__ import annotations

import hashlib

import pytest

from tests.book_files import ROOT

FOLDERS = [
    ROOT / "book" / "_static" / "vendor" / "mathjax",
    ROOT / "tests" / "book" / "vendor",  # axe-core 4.14.1, MPL-2.0
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_vendored_file_has_its_sum(folder):
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    present = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert present == listed
