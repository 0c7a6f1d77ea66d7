"""The slider component: its two lives, its limits and its messages (Chromium: tests/book)."""

import base64
import io
import json
import re

import ipywidgets
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib import pyplot as plt
from nbclient import NotebookClient
from PIL import Image

from helpers.sliders import FrameGrid, FrameSlider, Parameter, format_values


def gray(*values):
    return np.full((12, 24), np.prod(values), dtype=float)


def slider(render=gray, values=(0.2, 0.4, 0.8), **options):
    options = {"label": "level", "alt": lambda v: f"gray at {v}", "static": True} | options
    return FrameSlider(render, values, **options)


def decode(source):
    data = base64.b64decode(source.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def script_data(page):
    return json.loads(re.search(r"\}\)\((\{.*\})\)$", page.script.string, re.S).group(1))


def test_values_are_short_but_distinct():
    assert format_values([0.005, 0.02, 0.08]) == ["0.005", "0.02", "0.08"]
    assert format_values([0.12341, 0.12342]) == ["0.12341", "0.12342"]
    assert format_values([3e-7, 100.0, 3]) == ["3e-7", "100", "3"]
    assert format_values([True, "gp"]) == ["True", "gp"]


def test_static_html_holds_every_frame_in_order():
    page = BeautifulSoup(slider(unit="nm", default=0.4)._repr_html_(), "html.parser")
    data = script_data(page)
    assert data["start"] == 1 and data["src"][1] is None, "the default frame is in the <img> only"
    sources = [data["src"][0], page.img["src"], data["src"][2]]
    for source, level in zip(sources, (0.2, 0.4, 0.8), strict=True):
        assert abs(decode(source).mean() - 255 * level) < 2
    assert data["alt"] == ["gray at 0.2", "gray at 0.4", "gray at 0.8"]
    assert page.img["alt"] == "gray at 0.4"
    knob = page.find("input", type="range")
    assert (knob["max"], knob["value"], knob["aria-valuetext"]) == ("2", "1", "0.4 nm")
    assert knob.find_parent("label").span.text == "level"
    assert "level = 0.4 nm" in page.noscript.text


def test_static_html_is_the_same_twice_and_asks_for_nothing():
    first, second = slider()._repr_html_(), slider()._repr_html_()
    assert first == second
    assert not re.search(r"https?:|url\(|@import|<link", first)
    assert not re.search(r"\bid=", first), "ids clash where two pages are joined"


def test_text_from_the_page_is_escaped():
    nasty = '</script><b a="'
    page = slider(label=nasty, caption=nasty, alt=nasty)._repr_html_()
    assert page.count("</script>") == 1
    soup = BeautifulSoup(page, "html.parser")
    assert soup.figcaption.text == nasty and soup.img["alt"] == nasty and not soup.find("b")


def test_a_grid_counts_the_last_parameter_fastest():
    grid = FrameGrid(gray, {"a": (0.2, 0.9), "b": (0.1, 0.5, 1.0)}, alt="square", static=True)
    page = BeautifulSoup(grid._repr_html_(), "html.parser")
    data = script_data(page)
    assert grid.n_frames == len(data["src"]) == 6
    assert data["start"] == 4  # a = 0.9 (second of two), b = 0.5 (second of three)
    assert abs(decode(data["src"][2]).mean() - 255 * 0.2) < 2
    assert [k["aria-label"] for k in page.find_all("input")] == ["a", "b"]


def test_a_parameter_with_one_value_has_no_static_slider_but_a_live_one():
    fixed = Parameter((30,), label="iterations", live=(1, 100))
    grid = FrameGrid(lambda a, n: gray(a), {"a": (0.2, 0.4), "n": fixed}, alt="s", static=True)
    page = BeautifulSoup(grid._repr_html_(), "html.parser")
    assert len(page.find_all("input")) == 1 and len(script_data(page)["src"]) == 2
    assert isinstance(grid.controls["n"], ipywidgets.IntSlider)


def test_moving_a_live_control_renders_that_value_once():
    seen = []

    def render(value):
        seen.append(value)
        return gray(value)

    live = slider(render, static=False)
    assert seen == [], "nothing is computed before the figure is shown or a control is asked for"
    assert isinstance(live.control, ipywidgets.SelectionSlider)
    before = live.image.value
    live.control.value = 0.8
    assert live.image.value != before
    live.control.value = 0.4
    assert live.image.value == before
    assert seen == [0.4, 0.8], "each value is rendered once and then cached"


def test_live_ranges_choose_the_control():
    grid = FrameGrid(
        lambda *v: gray(0.5),
        {
            "log": Parameter((0.01, 0.1), live=(0.001, 1.0)),
            "linear": Parameter((1.0, 1.5), live=(1.0, 2.0)),
            "count": Parameter((5, 30), live=(1, 100)),
        },
        alt="square",
        static=False,
    )
    kinds = [type(c).__name__ for c in grid.controls.values()]
    assert kinds == ["FloatLogSlider", "FloatSlider", "IntSlider"]
    grid.controls["log"].value = 0.5  # not on the static grid
    assert abs(np.asarray(Image.open(io.BytesIO(grid.image.value))).mean() - 127) < 3


def test_a_failing_render_is_shown_and_the_figure_lives_on():
    def render(value):
        if value == 0.8:
            raise RuntimeError("diverged <here>")
        return gray(value)

    live = slider(render, static=False)
    message = live.widget.children[1]
    live.control.value = 0.8
    assert "RuntimeError" in message.value and "diverged &lt;here&gt;" in message.value
    live.control.value = 0.2
    assert message.value == ""


def test_the_bundle_fits_the_front_end(monkeypatch):
    live = slider(static=False)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in live
    assert "<img" in live["text/html"] and "<input" not in live["text/html"]
    static = slider(static=True)._repr_mimebundle_()
    assert set(static) == {"text/plain", "text/html"} and "<input" in static["text/html"]
    monkeypatch.delenv("HELPERS_STATIC", raising=False)
    assert slider(static=None).static, "no kernel runs here, so there is no front end"


@pytest.mark.parametrize(("flag", "static"), [("1", True), ("0", False)])
def test_the_environment_decides_beside_a_kernel(monkeypatch, flag, static):
    monkeypatch.setenv("HELPERS_STATIC", flag)
    monkeypatch.setattr("IPython.get_ipython", lambda: type("Shell", (), {"kernel": object()}))
    assert slider(static=None).static is static


def test_figures_are_drawn_and_closed():
    def render(value):
        fig, ax = plt.subplots(figsize=(3.6, 1.8))
        ax.plot([0, value])
        return fig

    page = BeautifulSoup(slider(render)._repr_html_(), "html.parser")
    assert (page.img["width"], page.img["height"]) == ("360", "180")
    assert decode(page.img["src"]).shape == (360, 720, 3), "twice the pixels of its CSS size"
    assert plt.get_fignums() == []


def test_too_heavy_frames_lose_quality_and_then_fail():
    rng = np.random.default_rng(0)
    noise = rng.random((3, 400, 400))
    free = slider(lambda v: noise[v], (0, 1, 2), max_bytes=10**7)._repr_html_()
    tight = slider(lambda v: noise[v], (0, 1, 2), max_bytes=120_000)._repr_html_()
    assert len(tight) < 130_000 < len(free)
    with pytest.raises(ValueError, match="more than max_bytes=1000: use fewer values"):
        slider(lambda v: noise[v], (0, 1, 2), max_bytes=1000)._repr_html_()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: slider(values=()), "level has no values"),
        (lambda: slider(values=(1, 1)), "repeated values"),
        (lambda: slider(default=0.3), "default 0.3 of level is not among"),
        (lambda: slider(live_range=(0.3, 1)), "live range .* does not hold"),
        (lambda: slider(values=range(61)), "61 = 61 frames, more than max_frames=60"),
        (lambda: FrameGrid(gray, {}, alt=""), "no parameters"),
    ],
)
def test_bad_parameters_fail_before_any_rendering(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("render", "error", "message"),
    [
        (lambda v: np.zeros(3), TypeError, r"ndarray of shape \(3,\): return a matplotlib Figure"),
        (lambda v: None, TypeError, "NoneType"),
        (lambda v: np.full((4, 4), 2.0), ValueError, r"outside \[0, 1\]"),
        (lambda v: np.full((4, 4), np.nan), ValueError, r"outside \[0, 1\]"),
        (lambda v: np.zeros((int(v * 10), 600)), ValueError, "same figsize"),
    ],
)
def test_bad_frames_are_named(render, error, message):
    with pytest.raises(error, match=message):
        slider(render)._repr_html_()


PAGE = """
import numpy as np
from helpers.plots import show_curves, show_images, use_style
from helpers.sliders import FrameSlider
use_style()
noise = np.random.default_rng(0).random((3, 300, 300))
"""
CELLS = (
    "FrameSlider(lambda v: noise[v], [0, 1], label='frame', alt='noise')",
    "show_curves({'a': [1, 2, 3]})",
    "show_images({'a': noise[0], 'b': noise[1], 'c': noise[2]})",
)


@pytest.mark.parametrize("static", ["0", "1"])
def test_a_real_kernel_shows_sliders_and_light_figures(monkeypatch, static):
    monkeypatch.setenv("HELPERS_STATIC", static)
    cells = [nbformat.v4.new_code_cell(source) for source in (PAGE, *CELLS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    slider, curve, images = ([o.data for o in cell.outputs] for cell in notebook.cells[1:])
    widget = "application/vnd.jupyter.widget-view+json"
    assert [widget in data for data in slider] == [static == "0"]
    assert ("<input" in slider[0]["text/html"]) == (static == "1")
    assert [sorted(data) for data in curve] == [["image/png", "text/plain"]]
    assert [sorted(data) for data in images] == [["image/jpeg", "text/plain"]]
