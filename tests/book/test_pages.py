"""The built pages, read as HTML: complete, executed, whole without a network, light."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup, NavigableString, Tag
from used_in import origin, shortest, used

from tests.book_files import ROOT, code_cells, source, toc_pages

MB = 1e6
PAGES = toc_pages()
# Elements that make a browser load something, and the attribute that says what.
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
}


@cache
def parse(path):
    return BeautifulSoup(Path(path).read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path):
    """The places of a page that a link can lead to."""
    return set(re.findall(r'\sid="([^"]+)"', Path(path).read_text(encoding="utf-8")))


# A page is parsed by one process only, where they are several: --dist loadgroup.
@pytest.fixture(params=[pytest.param(p, marks=pytest.mark.xdist_group(p)) for p in PAGES])
def page(request, site):
    """One page of the table of contents: its name, its file and its parsed HTML."""
    path = site / f"{request.param}.html"
    assert path.exists(), f"{request.param} is in _toc.yml but was not built"
    return request.param, path, parse(path)


def loaded(html):
    """What a browser fetches for the page, except the links that only name other pages."""
    for element in html.find_all(list(LOADS)):
        address = element.get(LOADS[element.name])
        navigation = {"index", "search", "prev", "next", "canonical"} & set(element.get("rel", []))
        if address and not navigation:
            yield address


def test_every_cell_is_there_and_none_failed(page):
    name, _, html = page
    cells = code_cells(name)
    hidden = [cell for cell in cells if "remove-cell" in cell.metadata.get("tags", [])]
    expected = [cell for cell in cells if "raises-exception" in cell.metadata.get("tags", [])]
    assert len(html.select("div.cell")) == len(cells) - len(hidden)
    if cells:
        assert html.select("div.cell_output"), f"{name} has code but no output: it did not run"
    assert len(html.select("div.output.traceback")) <= len(expected)


def test_nothing_is_loaded_from_outside(page):
    _, _, html = page
    outside = [address for address in loaded(html) if re.match(r"(https?:)?//", address)]
    assert outside == []


def test_stylesheets_load_nothing_from_outside(site):
    pattern = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^)'\"\s]+)")
    outside = {}
    for path in site.rglob("*.css"):
        if found := pattern.findall(path.read_text(encoding="utf-8")):
            outside[path.name] = found
    assert outside == {}


def test_internal_links_and_anchors_resolve(page):
    _, path, html = page
    broken = []
    addresses = [a["href"] for a in html.find_all("a", href=True)] + list(loaded(html))
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = path
        if parts.path:
            target = Path(path.parent, unquote(parts.path)).resolve()
        if not target.is_file():
            broken.append(address)
        elif parts.fragment and target.suffix == ".html":
            anchor = unquote(parts.fragment)
            if anchor not in anchors(target):
                broken.append(address)
    assert broken == []


def test_every_image_says_what_it_shows(page):
    _, _, html = page
    silent = []
    for image in html.find_all("img"):
        alt = image.get("alt", "").strip()
        if not alt or re.search(r"_images/|\.(png|jpe?g|webp|svg|gif)$", alt):
            silent.append((image.get("src", "")[:80], alt))
    assert silent == []


def prose(element):
    """The text of an element that is no code."""
    for child in element.children:
        if type(child) is NavigableString:
            yield str(child)
        elif isinstance(child, Tag) and child.name not in ("pre", "code", "script", "style"):
            yield from prose(child)


def test_no_markup_is_left_unread(page):
    """A role or directive that nothing understood shows as raw text; so does a missing glue."""
    _, _, html = page
    article = html.find("article")
    text = "".join(prose(article))
    printed = "".join(output.get_text() for output in html.select(".cell_output pre"))
    assert re.findall(r"\{[\w:-]+\}`|^:::.*|\[\[.*?\]\]", text, re.MULTILINE) == []
    # a glued number is plain: NumPy's own prints as np.float64(0.5)
    assert re.findall(r"\bnp\.\w+\(.*?\)", text + printed) == []
    assert not article.select(".problematic, .system-message")


def test_the_page_is_light(page):
    _, path, html = page
    images = {address for address in loaded(html) if "_images/" in address}
    sizes = [(path.parent / unquote(address)).stat().st_size for address in images]
    assert path.stat().st_size + sum(sizes) <= 2 * MB


def test_the_site_is_light(site):
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    chapters = [page for page in PAGES if not page.startswith("book/api/")]
    modules = list((site / "_modules").rglob("*.html"))  # the sources of the reference
    assert size <= (10 + 0.65 * len(chapters) + 0.08 * len(modules)) * MB
    assert not list(site.rglob("*.map"))


def test_a_method_page_shows_its_figure_before_any_code(page):
    name, _, html = page
    if not re.search(r"/\d\d_\w+$", name):
        return
    first = html.find("article").select_one("img, details.hide, .cell_input")
    assert first.name == "img"


def test_the_page_leads_to_its_code(page):
    """Below a page stands what it uses of the package; the reference has it with its source."""
    name, path, html = page
    if name == "book/index":  # which leads to the parts, and has nothing else
        return
    section = html.find(id="code-of-this-page")
    expected = {documented().get(origin(found)) for found in used(source(name))} - {None}
    links = section.select("li a[href]") if section else []
    assert {urlsplit(link["href"]).fragment for link in links} == expected
    for link in links[:3]:
        target = Path(path.parent, urlsplit(link["href"]).path).resolve()
        entry = parse(target).find(id=urlsplit(link["href"]).fragment).find_parent("dl")
        back = {Path(target.parent, a["href"]).resolve() for a in entry.select("a.reference[href]")}
        assert path.resolve() in back
        assert entry.select_one(".viewcode-link")


@cache
def documented():
    """The reference's name of each function and class, by where it was defined."""
    found = {}
    for page in PAGES:
        if page.startswith("book/api/"):
            for entry in parse(ROOT / "_build" / "html" / f"{page}.html").select("dl.py > dt[id]"):
                if where := origin(entry["id"]):
                    found[where] = min(found.get(where, entry["id"]), entry["id"], key=shortest)
    return found


# Roles, directives, attributes and delimiters that no Jupyter shows as they are meant.
MYST = re.compile(
    r"\{[a-z][\w:+-]*\}`|^ *:::|^ *```\{|^\([\w-]+\)=$|\\\\[\[(]|\[\[#\]\]", re.MULTILINE
)


@cache
def macros():
    """The site's own macros of TeX, which no Jupyter knows."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return list(config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"])


def linked(html, path):
    """The files that the page's download button leads to."""
    return [Path(path.parent, a["href"]).resolve() for a in html.select("a.dropdown-item[href]")]


def test_the_source_can_be_downloaded(page, site):
    name, path, html = page
    target = site / "_sources" / f"{name}.md"
    assert target.resolve() in linked(html, path)
    assert target.read_bytes() == Path(f"{name}.md").read_bytes()


def test_the_notebook_can_be_downloaded_and_holds_no_myst(page, site):
    name, path, html = page
    target = site / "_sources" / f"{name}.ipynb"
    assert (target.resolve() in linked(html, path)) == target.exists() == bool(code_cells(name))
    if not target.exists():
        return
    notebook = nbformat.read(target, as_version=4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    source = [cell.source for cell in code_cells(name)]
    assert "find_spec" in code[0]
    assert code[1:] == [text.replace("from myst_nb import glue\n", "") for text in source]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    outside = re.sub(r"```.*?```|`[^`\n]*`", "`code`", text, flags=re.DOTALL)
    assert MYST.findall(outside) == [] and "glue:" not in text
    assert [m for m in macros() if re.search(rf"\\{m}(?![A-Za-z])", outside)] == []
    assert outside.count("$$") == 2 * outside.count(r"\begin{equation*}")
    prose = " ".join(text.split())
    for number in html.select("span.pasted-text"):
        assert number.get_text().strip().split()[0] in prose
    captions = html.select("div.cell_output figcaption .caption-number")
    assert all(f"**{caption.get_text().strip()}.**" in text for caption in captions)
    assert text.count("<details>") >= len(html.select(".solution.dropdown"))
