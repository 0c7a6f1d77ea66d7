r"""Sources are plain text: a lost backslash turns ``\alpha`` into a bell and ``lpha``."""

import re

import pytest

from tests.book_files import ROOT

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
FOLDERS = {"helpers": "*.py", "tests": "*.py", "data": "*.py", "book": "*.md"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_source_has_control_characters(folder):
    sources = sorted((ROOT / folder).rglob(FOLDERS[folder]))
    assert sources
    faulty = [
        str(path.relative_to(ROOT))
        for path in sources
        if CONTROL.search(path.read_text(encoding="utf-8"))
    ]
    assert faulty == []
