"""No figure has smaller text than the style: what a phone shows is computed from it."""

from __future__ import annotations

import re

import pytest

from tests.book_files import ROOT, code_cells, toc_pages

STYLE = (ROOT / "helpers" / "house.mplstyle").read_text(encoding="utf-8")
SIZES = r"(?:font|label|title)_?size[\"']?\s*[=:(,]\s*[\"']?([\w.-]+)"


def smallest():
    """The smallest text of the style, in points."""
    return min(
        float(size)
        for size in re.findall(r"^\S*(?:font\.?|title|label)size: ([\d.]+)$", STYLE, re.M)
    )


def too_small(code):
    """The sizes of text in a piece of code that are below the style's, or given as a word."""
    sizes = re.findall(SIZES, code)
    return [s for s in sizes if not re.fullmatch(r"\d+\.?\d*", s) or float(s) < smallest()]


@pytest.mark.parametrize(
    "code",
    ["ax.legend(fontsize=7)", "t.set_fontsize(8)", "ax.tick_params(labelsize='small')",
     "{'font_size': 6}", "ax.set_title('a', fontsize = 8)"],
)  # fmt: skip
def test_small_text_is_found(code):
    assert too_small(code)


def test_text_of_the_style_is_not():
    assert too_small("ax.legend(fontsize=8.5); t.set_fontsize(10); PRESETS = {'size': 3}") == []


def test_no_page_draws_smaller_text():
    cells = [(page, cell.source) for page in toc_pages() for cell in code_cells(page)]
    assert [(page, too_small(code)) for page, code in cells if too_small(code)] == []


def test_no_helper_draws_smaller_text():
    found = {path: too_small(path.read_text("utf-8")) for path in ROOT.glob("helpers/**/*.py")}
    assert {path: sizes for path, sizes in found.items() if sizes} == {}
