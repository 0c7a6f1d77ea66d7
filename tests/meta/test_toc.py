"""Every page is in the table of contents, and in the table of its part."""

from __future__ import annotations

import re

import pytest

from tests.book_files import ROOT, source, toc_pages


def test_the_contents_and_the_folder_agree():
    on_disk = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in (ROOT / "book").rglob("*.md")
        if not {"_static", "_ext"} & set(path.parts) and ".ipynb_checkpoints" not in path.parts
    }
    pages = toc_pages()
    assert len(pages) == len(set(pages))
    assert set(pages) == on_disk


def test_no_page_is_an_ipynb():
    assert list((ROOT / "book").rglob("*.ipynb")) == []


@pytest.mark.parametrize("part", ["fusion", "inr", "xray", "renderer"])
def test_every_page_of_a_part_is_in_its_table_with_the_time_of_this_build(part):
    rows = re.findall(
        r"^\| \{doc\}`(\d\d_\w+)` \|.*\| (.*) \|$", source(f"book/{part}/index"), re.M
    )
    pages = [page for page in toc_pages() if re.match(rf"book/{part}/\d\d_", page)]
    assert [f"book/{part}/{name}" for name, _ in rows] == pages
    assert [time for _, time in rows] == [f"{{run-time}}`{name}`" for name, _ in rows]
