"""No figure has smaller text than the style: what a phone shows is computed from it."""

from __future__ import annotations

import ast
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text

from helpers import plots
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


# --- what stands above or below the line is smaller than the rest of its text ------------------


def drawn(text, size):
    """The sizes in which the letters of a text are drawn, in points: a script has 0.7 of it."""
    if "$" not in text.replace(r"\$", ""):
        return [size]
    font = matplotlib.font_manager.FontProperties(size=size)
    parsed = MathTextParser("path").parse(text, dpi=72, prop=font)
    return [glyph[1] for glyph in parsed.glyphs]


def sizes(figure):
    """The smallest letters of each visible text of a figure that was drawn."""
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return {t.get_text(): min(drawn(t.get_text(), t.get_size())) for t in texts}


@pytest.fixture
def house_style():
    with matplotlib.rc_context():
        plots.use_style()
        yield


def log_axes():
    """Two axes over fourteen decades, and two over less than one, where minor ticks have names."""
    wide, narrow = np.logspace(-7, 7, 15), np.linspace(0.2, 0.8, 5)
    for x in (wide, narrow):
        yield plots.show_curves({"a": (x, x), "b": (x, 2 * x)}, xlog=True, ylog=True)


def other_figures():
    """A symmetric log axis, a colour bar with log values, and images with bars of scale."""
    figure = plots.show_curves({"a": [-1e5, 0.0, 1e5]}, xlabel="x (µm)")
    figure.axes[0].set_yscale("symlog", linthresh=1e-3)
    yield figure
    figure = Figure()
    image = figure.subplots().imshow(np.logspace(-6, 6, 16).reshape(4, 4), norm=LogNorm())
    figure.colorbar(image)
    yield figure
    yield plots.show_images({"a": np.eye(9) * 1e-6, "b": np.eye(9)}, pixel_size=0.1, limits="each")


@pytest.mark.parametrize("number", range(5))
def test_no_tick_is_smaller_than_the_style_says(number, house_style):
    figure = [*log_axes(), *other_figures()][number]
    found = sizes(figure)
    assert len(found) >= 4
    assert {text: size for text, size in found.items() if size < smallest()} == {}


def test_an_exponent_above_the_line_is_found(house_style):
    assert min(drawn("$10^{-3}$", 8.5)) == pytest.approx(0.7 * 8.5)
    matplotlib.rcParams["axes.formatter.min_exponent"] = 0
    assert min(sizes(next(log_axes())).values()) < smallest()


SCRIPT = r"\$[^$\n]*[\^_][^$\n]*\$|[⁰⁴-⁹⁺⁻₀-₉]"  # squares and cubes of units can be read


def scripts(code):
    """The texts in a piece of code whose mathematics has letters above or below the line."""
    tree = ast.parse(re.sub(r"^[%!].*$", "", code, flags=re.M))
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return [t for t in texts if isinstance(t, str) and re.search(SCRIPT, t)]


def test_no_page_draws_letters_above_or_below_the_line():
    assert scripts('ax.set(xlabel="$q_x$", ylabel=r"$\\alpha$")') == ["$q_x$"]
    assert scripts('ax.set(xlabel="counts (10⁶)", ylabel="area (µm²)")') == ["counts (10⁶)"]
    cells = [(page, cell.source) for page in toc_pages() for cell in code_cells(page)]
    assert [(page, scripts(code)) for page, code in cells if scripts(code)] == []
