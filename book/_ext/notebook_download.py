"""Sphinx extension: every page can be downloaded as `.ipynb`, beside the theme's `.md`."""

from __future__ import annotations

from pathlib import Path

import jupytext


def add_notebook(app, pagename, templatename, context, doctree):
    """Write the page's notebook into ``_sources`` and name it to the theme's download menu."""
    if context.get("page_source_suffix") != ".md":
        return
    notebook = jupytext.read(app.env.doc2path(pagename), fmt="md:myst")
    target = Path(app.outdir) / "_sources" / f"{pagename}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, target, fmt="ipynb")
    context["ipynb_source"] = f"{pagename}.ipynb"


def setup(app):
    """Register with Sphinx, before the theme makes its buttons (priority 501)."""
    app.connect("html-page-context", add_notebook, priority=490)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
