"""The landing page shows the figures that the pages of this build have drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from tests.book_files import ROOT

HEADER = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
"""
PAGE = """# Page

```{code-cell} ipython3
:tags: [hide-input]
print("no figure here")
```

```{code-cell} ipython3
---
tags: [hide-input]
mystnb: {figure: {name: fig-a, caption: One.}, image: {alt: A blue square.}}
---
from IPython.display import Image
Image(data=bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"), format="png")
```

```{code-cell} ipython3
from IPython.display import HTML
HTML('<figure class="frames">It moves.</figure>')
```
"""
CONF = """
import sys
sys.path.insert(0, r"{ext}")
extensions = ["myst_nb", "heroes"]
nb_execution_mode = "cache"
nb_execution_cache_path = r"{cache}"
"""


def build(folder, hero, slider):
    """Build a book whose first page shows a figure and a slider of its second."""
    source = folder / "source"
    (source / "part").mkdir(parents=True)
    conf = CONF.format(ext=ROOT / "book" / "_ext", cache=folder / "cache")
    source.joinpath("conf.py").write_text(conf)
    source.joinpath("part", "page.md").write_text(HEADER + PAGE)
    toctree = "```{toctree}\npart/page\n```\n"
    heroes = f"```{{hero}} {hero}\n```\n\n```{{hero}} {slider}\n:slider:\n```\n"
    source.joinpath("index.md").write_text(f"# Home\n\n{heroes}\n{toctree}")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", source, folder / "site"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heroes")
    return folder, build(folder, "part/page", "part/page")


def test_the_figure_of_another_page_is_shown(built):
    folder, done = built
    assert done.returncode == 0, done.stderr
    pictures = []
    for page in ("index", "part/page"):
        path = folder / "site" / f"{page}.html"
        (image,) = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select(
            "main img, [role=main] img"
        )
        assert image["alt"] == "A blue square."
        pictures.append(Path(path.parent, image["src"]).resolve())
    assert pictures[0] == pictures[1] and pictures[0].is_file()


def test_the_figure_stands_above_the_code_that_made_it(built):
    html = built[0].joinpath("site", "part", "page.html").read_text(encoding="utf-8")
    first, *code = BeautifulSoup(html, "html.parser").select(".cell img, .cell_input")
    assert first.name == "img"
    marks = ("import Image", "no figure here", "import HTML")
    assert all(mark in cell.get_text() for mark, cell in zip(marks, code, strict=True))


def test_the_slider_of_another_page_is_shown(built):
    text = built[0].joinpath("site", "index.html").read_text(encoding="utf-8")
    assert text.count('<figure class="frames">It moves.</figure>') == 1


def test_a_page_without_a_figure_or_slider_is_an_error(tmp_path):
    done = build(tmp_path, "part/none", "part/none")
    assert done.returncode != 0
    assert "has no figure to show" in done.stderr and "has no slider to show" in done.stderr
