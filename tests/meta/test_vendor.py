"""The vendored MathJax is the one that was published, all of it and nothing else."""

from __future__ import annotations

import hashlib

from tests.book_files import ROOT

FOLDER = ROOT / "book" / "_static" / "vendor" / "mathjax"


def test_every_vendored_file_has_its_sum():
    lines = (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    present = {
        path.relative_to(FOLDER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FOLDER.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert present == listed
