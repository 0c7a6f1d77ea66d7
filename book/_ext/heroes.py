"""Sphinx extension: the first figure of another page, as that page's run has drawn it.

``{hero} fusion/03_dysco3`` shows it; with ``:slider:`` the page's first slider, which moves here,
too. Nothing is computed twice, nor kept in the repository.

On a page of its own the first figure stands above the folded code that made it.
"""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOG = logging.getLogger(__name__)


class Hero(SphinxDirective):
    """Hold a place for the first figure of a page."""

    required_arguments = 1
    option_spec = {"slider": directives.flag}

    def run(self):
        """Note the page; its figure is known only when all pages are read."""
        page = self.env.relfn2path(f"{self.arguments[0]}.md")[0].removesuffix(".md")
        self.env.metadata[self.env.docname]["shows_heroes"] = True
        slider = "slider" in self.options
        place = nodes.container(classes=[] if slider else ["hero"])
        place["hero"], place["slider"] = page, slider
        self.set_source_info(place)
        return [place]


def pages(app, env):
    """Pages that show figures of others are written in every build."""
    return [name for name, about in env.metadata.items() if about.get("shows_heroes")]


def first_figure(doctree):
    """The first image that a cell of a page has drawn; None without one."""
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") == "cell_code_output":
            for image in cell.findall(nodes.image):
                return image
    return None


def first_slider(doctree):
    """The first slider of a page, which is a piece of HTML; None without one."""
    for html in doctree.findall(nodes.raw):
        if 'class="frames"' in html.astext():
            return html
    return None


def is_folded_cell(node):
    """Tell a cell whose code is folded."""
    return isinstance(node, nodes.container) and "tag_hide-input" in node["classes"]


def figure_first(app, doctree, docname):
    """Move the first figure above the folded cells that lead to it."""
    for image in doctree.findall(nodes.image):
        cell = image.parent
        while cell is not None and not is_folded_cell(cell):
            cell = cell.parent
        if cell is None:
            return
        section = cell.parent
        begin = next(k for k, node in enumerate(section) if is_folded_cell(node))
        section.remove(cell)
        section.insert(begin, cell)
        cell.children.sort(key=lambda part: part.get("nb_element") != "cell_code_output")
        return


def show(app, doctree, docname):
    """Put the figures in their places."""
    for place in list(doctree.findall(nodes.container)):
        page = place.get("hero")
        if page is None:
            continue
        kind, find = ("slider", first_slider) if place["slider"] else ("figure", first_figure)
        known = page in app.env.found_docs
        found = find(app.env.get_doctree(page)) if known else None
        if found is None:
            LOG.warning("%s has no %s to show", page, kind, location=place)
        else:
            place += found.deepcopy()


def setup(app):
    """Register with Sphinx."""
    app.add_directive("hero", Hero)
    app.connect("env-updated", pages)
    app.connect("doctree-resolved", figure_first)
    app.connect("doctree-resolved", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
