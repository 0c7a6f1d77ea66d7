"""Sphinx extension: an entry of the reference shows its signature and first line; the rest unfolds.

A page of the reference is then a list that a reader can look over, whatever a room holds.
"""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes


class Rest(nodes.General, nodes.Element):
    """What of an entry is folded."""


def fold(app, doctree, docname):
    """Fold all but the first paragraph of each function and class; methods stay in their class."""
    for entry in doctree.findall(addnodes.desc):
        content = entry[-1]
        if isinstance(entry.parent, addnodes.desc_content) or len(content) < 2:
            continue
        rest = Rest()
        rest += content[1:]
        content.children = content.children[:1]
        content += rest


def visit(writer, node):
    """Open the fold; Chromium, Firefox and Safari open it for a link or a search into it."""
    writer.body.append('<details class="entry"><summary>Details</summary>')


def depart(writer, node):
    """Close the fold."""
    writer.body.append("</details>")


def setup(app):
    """Register with Sphinx."""
    app.add_node(Rest, html=(visit, depart))
    app.connect("doctree-resolved", fold)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
