"""A page becomes a notebook in which nothing of MyST, and nothing of the site, is left."""

from __future__ import annotations

import addresses
import nbformat
import notebooks
import pytest

BODY = r"""
<section id="page"><h1>A page<a class="headerlink" href="#page">#</a></h1>
<p>The gain is <span class="pasted-text">3.5</span> dB <span id="id1">[<a href="references.html">
Beck, 2009</a>]</span>, as in <a href="02.html"><span class="doc">the next page</span></a>, with
weights <span class="math notranslate nohighlight">\(\lambda_1 \in \R_+\)</span>.</p>
<div class="tag_hide-input cell cell-1 docutils container">
<figure><img alt="x" src="_images/1.png"><figcaption><p><span class="caption-number">Fig. 1 </span
><span class="caption-text">Before and
after.</span><a class="headerlink" href="#f">#</a></p>
</figcaption></figure></div>
<div class="math notranslate nohighlight" id="eq"><span class="eqno">(2)<a href="#eq">#</a></span>
\[\norm{x} &lt; a_1\]</div>
<section id="more"><h2>More</h2>
<div class="cell cell-3 docutils container"><pre>1 + 1</pre></div>
<div class="admonition note"><p class="admonition-title">Note</p><p>Mind <em>this</em>.</p></div>
<div class="solution dropdown admonition"><p class="admonition-title">Solution</p><p>Two.</p></div>
<div class="highlight-python notranslate"><pre>x = a_b * 2</pre></div>
<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody>
</table></section></section>
"""
CELLS = [
    nbformat.v4.new_markdown_cell("# A page"),
    nbformat.v4.new_code_cell(
        "import math\nfrom myst_nb import glue\nglue('gain', 3.5)",
        metadata={"tags": ["hide-input"]},
    ),
    nbformat.v4.new_code_cell("secret = 1", metadata={"tags": ["remove-cell"]}),
    nbformat.v4.new_code_cell("1 + 1"),
    nbformat.v4.new_code_cell("last = 1", metadata={"tags": ["remove-cell"]}),
]
MACROS = {"R": r"\mathbb{R}", "norm": [r"\lVert #1 \rVert", 1], "TV": r"\operatorname{TV}"}


@pytest.fixture(scope="module")
def made():
    found = notebooks.notebook(BODY, CELLS, MACROS, "the-package")
    nbformat.validate(found)
    return found.cells


def test_all_cells_stand_in_the_order_of_the_page(made):
    kinds = [cell.cell_type for cell in made]
    assert kinds == ["markdown", "code", "code", "markdown", "code", "code", "markdown", "code"]
    code = [cell.source for cell in made if cell.cell_type == "code"]
    assert code[1:] == ["import math\nglue('gain', 3.5)", "secret = 1", "1 + 1", "last = 1"]
    folded = [bool(cell.metadata) for cell in made if cell.cell_type == "code"]
    assert folded == [False, True, True, False, True]


def test_the_first_cell_installs_what_is_missing_and_nothing_asks_for_myst(made):
    assert '%pip install -q "the-package"' in made[1].source and "def glue(" in made[1].source
    assert not any("myst_nb" in cell.source for cell in made)
    without = notebooks.notebook(BODY, CELLS[:1] + [CELLS[3]] * 3, {}, "the-package")
    assert "glue" not in without.cells[1].source


def test_numbers_links_citations_and_mathematics_are_text(made):
    first, caption, end = (cell.source for cell in made if cell.cell_type == "markdown")
    assert first.startswith("# A page\n") and "3.5 dB" in first and "Beck, 2009" in first
    assert "the next page" in first and ".html" not in first
    assert r"$\lambda_1 \in \mathbb{R}_+$" in first
    assert caption.startswith("**Fig. 1.** Before and\nafter.")
    equation = "\\begin{equation*}\n\\lVert x \\rVert < a_1 \\tag{2}\n\\end{equation*}"
    assert f"$$\n{equation}\n$$" in caption and caption.endswith("## More")
    assert "> **Note**\n>\n> Mind *this*." in end
    assert "<details>\n<summary>Solution</summary>\n\nTwo.\n\n</details>" in end
    assert "```python\nx = a_b * 2\n```" in end
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in end


def test_macros_are_written_out_with_their_arguments():
    tex = r"\TV(x) + \norm{\norm{a_{i}} - \TV} \TVx \norm x \norm\alpha"
    assert notebooks.written_out(tex, MACROS) == (
        r"\operatorname{TV}(x) + \lVert \lVert a_{i} \rVert - \operatorname{TV} \rVert \TVx "
        r"\lVert x \rVert \lVert \alpha \rVert"
    )
    with pytest.raises(ValueError, match="not closed"):
        notebooks.written_out(r"\norm{x", MACROS)


def test_links_and_pictures_lead_to_the_site_when_it_has_an_address(monkeypatch):
    class App:
        class builder:
            get_target_uri = staticmethod(lambda page: f"{page}.html")

    monkeypatch.setattr(notebooks, "site", lambda: "https://book.example/")
    body = notebooks.linked('<a href="02.html#x">next</a><img src="../a.png">', "fusion/01", App)
    text = notebooks.markdown([body], {})
    assert "[next](https://book.example/fusion/02.html#x)" in text
    assert "(https://book.example/a.png)" in text
    monkeypatch.setattr(notebooks, "site", lambda: "")
    assert notebooks.linked("<a href='02.html'>n</a>", "p", App) == "<a href='02.html'>n</a>"


def test_addresses_come_from_the_project_or_from_the_runner(monkeypatch):
    monkeypatch.setattr(addresses, "urls", dict)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.delenv("BOOK_ADDRESS", raising=False)
    assert addresses.repository() == "" and addresses.site() == ""
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/book")
    monkeypatch.setenv("BOOK_ADDRESS", "https://someone.example/book")
    assert addresses.repository() == "https://github.com/someone/book"
    assert addresses.site() == "https://someone.example/book/"
    own = {"repository": "https://code.example/b/", "documentation": "https://b.example"}
    monkeypatch.setattr(addresses, "urls", lambda: own)
    assert addresses.repository() == "https://code.example/b"
    assert addresses.site() == "https://b.example/"


@pytest.mark.parametrize("name", ["", "someone/book"])
def test_a_published_repository_has_buttons_for_colab_and_binder(monkeypatch, name):
    monkeypatch.setattr(addresses, "urls", dict)
    monkeypatch.setenv("GITHUB_REPOSITORY", name)
    context = {"ipynb_source": "book/fusion/01.ipynb", "header_buttons": []}
    addresses.launch(None, "book/fusion/01", "page.html", context, None)
    places = [button["url"] for button in context["header_buttons"]]
    where = (
        "https://colab.research.google.com/github/someone/book/blob/notebooks/book/fusion/01.ipynb"
    )
    binder = "https://mybinder.org/v2/gh/someone/book/main?urlpath=lab/tree/book/fusion/01.md"
    assert places == [where, binder] * bool(name)
