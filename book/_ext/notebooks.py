"""Sphinx extension: every page with code is also a notebook in which no MyST is left.

The text of a notebook is the page as it was built, written as Markdown: numbers stand where their
names stood, citations and references are text, captions stand below their figures, solutions are
folded. The code is the page's own, with a first cell that installs the package where it is missing.
The notebooks lie in ``_sources``, where the theme's download button looks for them.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import nbformat
from addresses import repository, site
from bs4 import BeautifulSoup, Tag
from docutils import nodes
from markdownify import MarkdownConverter
from myst_nb.core.read import read_myst_markdown_notebook

INSTALL = """\
# The package, where it is not installed: on Colab, for example.
import importlib.util

if importlib.util.find_spec("helpers") is None:
    %pip install -q "{package}"
"""
GLUE = "from myst_nb import glue\n"
PRINT = '''

def glue(name, value, display=True):
    """Print a number that the text quotes from the run of the site."""
    print(f"{name}: {value}")
'''
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
NO_TEXT = ".headerlink, .sd-d-none, script, style, .linenos"


class Text(MarkdownConverter):
    """Markdown for notebooks, of the HTML that Sphinx writes."""

    def convert_div(self, el, text, parent_tags):
        """Write equations, notes and listings; of other boxes what is in them."""
        kinds = el.get("class", ())
        if "math" in kinds:
            return display(el, self.options["macros"])
        if "admonition" in kinds:
            return admonition(el, text)
        languages = [kind.removeprefix("highlight-") for kind in kinds if "highlight-" in kind]
        if languages:
            name = LANGUAGES.get(languages[0], languages[0])
            return f"\n\n```{name}\n{el.get_text().strip()}\n```\n\n"
        return f"\n\n{text.strip()}\n\n"

    def convert_span(self, el, text, parent_tags):
        """Write a formula between dollars, and the number of a figure in bold."""
        if "caption-number" in el.get("class", ()):
            return f"**{text.strip()}.** "
        if "math" not in el.get("class", ()):
            return text
        tex = el.get_text().strip().removeprefix("\\(").removesuffix("\\)")
        return f"${written_out(tex.strip(), self.options['macros'])}$"

    def convert_a(self, el, text, parent_tags):
        """Link to other sites and to the book's own; without its address the words are left."""
        address = el.get("href", "")
        return super().convert_a(el, text, parent_tags) if "://" in address else text

    def convert_img(self, el, text, parent_tags):
        """Show a picture of the site, if that has an address."""
        return super().convert_img(el, text, parent_tags) if "://" in el["src"] else ""


LANGUAGES = {"ipython3": "python", "default": "", "none": "", "myst-ansi": ""}


def display(el, known):
    """Write a displayed equation, its number as a tag; starred, or JupyterLab counts again."""
    number = el.find(class_="eqno")
    tag = number.extract().get_text().strip("()#¶ \n") if number else ""
    tex = el.get_text().strip().removeprefix("\\[").removesuffix("\\]").strip()
    tex = written_out(tex, known)
    tex += rf" \tag{{{tag}}}" if tag else ""
    return f"\n\n$$\n\\begin{{equation*}}\n{tex}\n\\end{{equation*}}\n$$\n\n"


def admonition(el, text):
    """Write a note as a quotation below its title; what the page folds stays folded."""
    title, _, body = text.strip().partition("\n")
    title = title.strip("* ")
    if {"dropdown", "toggle"} & set(el["class"]):
        return f"\n\n<details>\n<summary>{title}</summary>\n\n{body.strip()}\n\n</details>\n\n"
    quoted = "\n".join(
        f"> {line}".rstrip() for line in f"**{title}**\n\n{body.strip()}".split("\n")
    )
    return f"\n\n{quoted}\n\n"


def markdown(parts, known):
    """Write pieces of a page as one Markdown text; `known` are the site's macros of TeX."""
    soup = BeautifulSoup("".join(str(part) for part in parts), "html.parser")
    for waste in soup.select(NO_TEXT):
        waste.decompose()
    for title in soup.select(".admonition-title"):
        title.name = "b"
        title.append("\n")
    text = Text(heading_style="ATX", bullets="-", macros=known).convert_soup(soup)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def pieces(node):
    """Go through a page in the order of reading: its cells of code, and what stands between."""
    for child in node.children:
        if isinstance(child, Tag) and child.name == "section":
            yield from pieces(child)
        elif isinstance(child, Tag) or child.strip():
            yield child


def code(source, tags=()):
    """Make a cell of code; what the page hides is folded."""
    metadata = {"jupyter": {"source_hidden": True}} if HIDDEN & set(tags) else {}
    return nbformat.v4.new_code_cell(source.replace(GLUE, ""), metadata=metadata)


def written_out(tex, known):
    r"""Replace the site's macros of TeX by what they mean: JupyterLab and Colab know none of them.

    Examples
    --------
    >>> written_out(r"\norm{x_{1}} \in \R", {"R": r"\mathbb{R}", "norm": [r"\| #1 \|", 1]})
    '\\| x_{1} \\| \\in \\mathbb{R}'
    """
    for name, meaning in known.items():
        body, count = (meaning, 0) if isinstance(meaning, str) else meaning
        while found := re.search(rf"\\{name}(?![A-Za-z])", tex):
            filled, end = body, found.end()
            for k in range(count):
                argument, end = group(tex, end)
                filled = filled.replace(f"#{k + 1}", argument)
            tex = tex[: found.start()] + filled + tex[end:]
    return tex


def group(tex, begin):
    """Read what stands in the braces at `begin`, or the one sign there; gives the place behind."""
    begin += len(tex[begin:]) - len(tex[begin:].lstrip())
    if tex[begin] != "{":
        sign = re.match(r"\\[A-Za-z]+|.", tex[begin:])[0]
        return sign, begin + len(sign)
    depth = 0
    for end in range(begin, len(tex)):
        depth += (tex[end] == "{") - (tex[end] == "}")
        if depth == 0:
            return tex[begin + 1 : end], end + 1
    raise ValueError(f"braces are not closed in {tex!r}")


def notebook(body, cells, known, package):
    """Make the notebook of a page.

    Parameters
    ----------
    body : str
        The page's HTML; cells of code carry a class ``cell-N``.
    cells : list
        The cells of the page's source, in which N counts.
    known : dict
        The site's macros of TeX.
    package : str
        What pip installs where the package is missing.

    Returns
    -------
    nbformat.NotebookNode
    """
    found, between, done = [], [], -1

    def close():
        text = markdown(between, known)
        between.clear()
        if text:
            found.append(nbformat.v4.new_markdown_cell(text))

    def hand_over(until):
        nonlocal done
        for k in range(done + 1, until + 1):  # those that the page removes, too
            if cells[k].cell_type == "code":
                found.append(code(cells[k].source, cells[k].metadata.get("tags", ())))
        done = max(done, until)

    for piece in pieces(BeautifulSoup(body, "html.parser")):
        number = cell_number(piece)
        if number is None:
            between.append(piece)
            continue
        close()
        hand_over(number)
        between.extend(piece.select("figcaption"))
    close()
    hand_over(len(cells) - 1)
    uses_glue = any(GLUE in cell.source for cell in cells)
    found.insert(1, code(INSTALL.format(package=package) + PRINT * uses_glue))
    for k, cell in enumerate(found):
        cell["id"] = f"cell-{k}"  # nbformat draws one at random
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=found, metadata={"kernelspec": kernel})


def cell_number(piece):
    """Read which cell of the source a piece of the page shows; None for text."""
    kinds = piece.get("class", ()) if isinstance(piece, Tag) else ()
    return next((int(k[5:]) for k in kinds if re.fullmatch(r"cell-\d+", k)), None)


def number_cells(app, doctree, docname):
    """Give each cell of code its number as a class, which the HTML keeps."""
    for node in doctree.findall(nodes.container):
        if node.get("nb_element") == "cell_code":
            node["classes"].append(f"cell-{node['cell_index']}")


def add_notebook(app, pagename, templatename, context, doctree):
    """Write the page's notebook and name it to the theme's download menu."""
    if context.get("page_source_suffix") != ".md" or "cell-" not in context.get("body", ""):
        return
    text = Path(app.env.doc2path(pagename)).read_text(encoding="utf-8")
    source = read_myst_markdown_notebook(text)
    body = linked(context["body"], pagename, app)
    known = app.config.mathjax3_config["tex"]["macros"]
    address = repository()
    package = f"git+{address}" if address else "computational-microscopy-helpers"
    target = Path(app.outdir) / "_sources" / f"{pagename}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(body, source.cells, known, package), target)
    context["ipynb_source"] = f"{pagename}.ipynb"


def linked(body, pagename, app):
    """Give links within the book the site's address, if it has one."""
    if not site():
        return body
    soup = BeautifulSoup(body, "html.parser")
    here = site() + app.builder.get_target_uri(pagename)
    for kind, name in (("a", "href"), ("img", "src")):
        for el in soup.select(f"{kind}[{name}]"):
            el[name] = urljoin(here, el[name])
    return str(soup)


def setup(app):
    """Register with Sphinx, before the theme makes its buttons (priority 501)."""
    app.connect("doctree-resolved", number_cells)
    app.connect("html-page-context", add_notebook, priority=490)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
