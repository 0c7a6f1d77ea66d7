"""The reference has a place for every module of a part."""

import re

import pytest

from tests.book_files import ROOT

API = ROOT / "book" / "api"
PARTS = sorted(p.stem for p in API.glob("*.md") if (ROOT / "helpers" / p.stem).is_dir())


def listed(part):
    """Modules of a part that its page of the reference names, "" for the package itself."""
    text = (API / f"{part}.md").read_text(encoding="utf-8")
    return re.findall(rf"automodule:: helpers\.{part}\.?([\w.]*)\n", text)


def test_there_are_parts_with_a_page():
    assert {"fusion", "inr"} <= set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_listed_exists_and_is_listed_once(part):
    names = listed(part)
    assert len(names) == len(set(names))
    for name in names:
        path = ROOT / "helpers" / part / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


@pytest.mark.parametrize("part", PARTS)
def test_every_public_module_is_listed(part):
    """A part lists its modules, or has one page for all that its package gives out."""
    names = listed(part)
    if names == [""]:
        return
    home = ROOT / "helpers" / part
    public = {
        ".".join(path.relative_to(home).with_suffix("").parts) for path in home.rglob("[!_]*.py")
    }
    assert public - set(names) == set(), f"book/api/{part}.md lacks these modules"
