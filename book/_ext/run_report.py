"""Sphinx extension: the site and the command say how the pages ran.

A page that failed has a note at its top and at the cell where it stopped, the front page counts
such pages, ``reports/`` holds their tracebacks and, in ``failed.txt``, one line for each; the build
ends with exit code 1. The role ``{run-time}`` gives the seconds that a page took in this build.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

ANCHOR = "stopped-here"
logger = logging.getLogger(__name__)


def failures(env):
    """The failure of every page that has one, by page, in the order of their names."""
    runs = sorted(getattr(env, "page_runs", {}).items())
    return {docname: run["failure"] for docname, run in runs if run["failure"]}


def note(title, *content, ids=()):
    """Make an admonition that is red, and says in words what is wrong."""
    box = nodes.admonition(classes=["failed"], ids=list(ids))
    box += nodes.title(text=title)
    box += content
    return box


def words(*parts):
    """Make a paragraph of texts and nodes."""
    paragraph = nodes.paragraph()
    paragraph += [nodes.Text(part) if isinstance(part, str) else part for part in parts]
    return paragraph


def mark(app, doctree, docname):
    """Put the notes where they belong, and the seconds where they are asked for."""
    failed = failures(app.env)
    if docname in failed:
        mark_page(doctree, failed[docname])
    if docname == app.config.root_doc and failed:
        mark_front(app, doctree, failed)
    for place in doctree.findall(lambda node: "run_time_of" in getattr(node, "attributes", {})):
        run = getattr(app.env, "page_runs", {}).get(place["run_time_of"])
        place += nodes.Text(f"{run['execution_seconds']:.0f} s" if run else "-")


def below_title(doctree, box):
    """Put a box under the title of a page."""
    title = next(doctree.findall(nodes.title), None)
    section = title.parent if title else doctree
    section.insert(section.index(title) + 1 if title else 0, box)


def mark_page(doctree, failure):
    """Say at the top and at the cell that a page stopped there."""
    title = f"This page failed in cell {failure['cell']} (line {failure['line']})"
    error = nodes.literal(text=failure["error"])
    link = nodes.reference("", "that cell", refid=ANCHOR)
    rest = ". What the cells below would have computed is missing."
    cells = doctree.findall(lambda n: getattr(n, "attributes", {}).get("nb_element") == "cell_code")
    cell = next((cell for cell in cells if cell["cell_index"] == failure["index"]), None)
    where = link if cell else "a hidden cell"
    below_title(doctree, note(title, words(error), words("It is shown as far as ", where, rest)))
    if cell:
        box = note(f"The page stopped here, in cell {failure['cell']}", words(error.deepcopy()))
        box["ids"].append(ANCHOR)
        cell.parent.insert(cell.parent.index(cell) + 1, box)


def mark_front(app, doctree, failed):
    """Say on the front page which pages failed."""
    count = f"{len(failed)} of {len(app.env.page_runs)} pages failed in this build"
    items = nodes.bullet_list()
    for docname, failure in failed.items():
        address = app.builder.get_relative_uri(app.config.root_doc, docname)
        link = nodes.reference("", app.env.titles[docname].astext(), refuri=address, internal=True)
        error = nodes.literal(text=failure["error"])
        items += nodes.list_item("", words(link, f", cell {failure['cell']}: ", error))
    below_title(doctree, note(count, items))


class RunTime(SphinxRole):
    """The seconds that a page took: ``{run-time}`01_model```, relative as in ``{doc}``."""

    def run(self):
        """Leave a place that `mark` fills when every page has run."""
        docname = self.env.relfn2path(self.text)[0]
        return [nodes.inline(classes=["run-time"], run_time_of=docname)], []


def written_anew(app, env):
    """Name the pages that tell of others: the front page and the parts' first pages."""
    return [d for d in env.found_docs if d == app.config.root_doc or d.endswith("/index")]


def report(app, error):
    """Write the tracebacks, list the failed pages, and fail the command."""
    folder = Path(app.outdir) / "reports"
    shutil.rmtree(folder, ignore_errors=True)
    lines = []
    for docname, failure in failures(app.env).items():
        path = folder / f"{docname}.err.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(failure["traceback"] + "\n", encoding="utf-8")
        where = f"{docname}.md, cell {failure['cell']} (line {failure['line']})"
        lines.append(f"{where}: {failure['error']}")
        logger.warning("failed: %s", lines[-1])
    if lines:
        (folder / "failed.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        app.statuscode = 1  # also where a warning is not an error


def setup(app):
    """Register with Sphinx."""
    app.add_role("run-time", RunTime())
    app.connect("env-updated", written_anew)
    app.connect("doctree-resolved", mark)
    app.connect("build-finished", report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
