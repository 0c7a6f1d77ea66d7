"""Sphinx extension: the first figure of another page, as that page's run has drawn it.

``{hero} fusion/03_dysco3`` shows it; nothing is computed twice, nor kept in the repository.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOG = logging.getLogger(__name__)


class Hero(SphinxDirective):
    """Hold a place for the first figure of a page."""

    required_arguments = 1

    def run(self):
        """Note the page; its figure is known only when all pages are read."""
        page = self.env.relfn2path(f"{self.arguments[0]}.md")[0].removesuffix(".md")
        self.env.metadata[self.env.docname]["shows_heroes"] = True
        place = nodes.container(classes=["hero"])
        place["hero"] = page
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


def show(app, doctree, docname):
    """Put the figures in their places."""
    for place in list(doctree.findall(nodes.container)):
        page = place.get("hero")
        if page is None:
            continue
        known = page in app.env.found_docs
        image = first_figure(app.env.get_doctree(page)) if known else None
        if image is None:
            LOG.warning("%s has no figure to show", page, location=place)
        else:
            place += image.deepcopy()


def setup(app):
    """Register with Sphinx."""
    app.add_directive("hero", Hero)
    app.connect("env-updated", pages)
    app.connect("doctree-resolved", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
