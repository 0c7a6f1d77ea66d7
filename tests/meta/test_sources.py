r"""Sources are plain text that other tools can read.

A lost backslash turns ``\alpha`` into a bell and ``lpha``.
"""

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


MARKUP = re.compile(r"^(?:`{3,}|:{3,})\{([a-z:-]+)\}|\{([a-z:-]+)\}`", re.M)
HTML = re.compile(r"^\s*</?[a-z]+[^>]*>", re.M)
CELL = re.compile(r"^```\{code-cell\}.*?^```", re.M | re.S)


def listed():
    """The directives and roles that CONTRIBUTING.md allows pages to use."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Portable sources")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z:-]+)`", row)}


def test_pages_use_what_a_move_to_another_engine_has_an_answer_for():
    found = {}
    for path in sorted((ROOT / "book").rglob("*.md")):
        prose = CELL.sub("", path.read_text(encoding="utf-8"))
        name = path.relative_to(ROOT).as_posix()
        for each in MARKUP.findall(path.read_text(encoding="utf-8")):
            word = re.sub("-(start|end)$", "", max(each))
            found.setdefault(word, set()).add(name)
        assert not HTML.search(prose), f"{name} has HTML of its own"
    assert set(found) == listed()
    assert {path.split("/")[1] for path in found["eval-rst"]} == {"api"}


def test_no_two_figures_equations_or_exercises_share_a_label():
    label = re.compile(r"^\s*(?:name|:label): *(\S+)|^`{3}\{exercise\} *\n:label: (\S+)", re.M)
    homes = {}
    for path in sorted((ROOT / "book").rglob("*.md")):
        for each in label.findall(path.read_text(encoding="utf-8")):
            if max(each) != "python3":  # the kernel of every page
                homes.setdefault(max(each), []).append(path.name)
    assert len(homes) > 100
    assert {name: pages for name, pages in homes.items() if len(pages) > 1} == {}
