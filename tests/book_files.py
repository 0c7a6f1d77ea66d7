"""What the book's tests ask about its files: the table of contents and the pages on disk."""

from __future__ import annotations

from pathlib import Path

import jupytext
import yaml

ROOT = Path(__file__).parents[1]


def toc_pages():
    """The pages of the table of contents, in order, such as ``book/start/setup``."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return list(_files(toc))


def _files(entry):
    if isinstance(entry, dict):
        yield from (entry[key] for key in ("root", "file") if key in entry)
        for key in ("parts", "chapters", "sections"):
            yield from _files(entry.get(key, []))
    else:
        for item in entry:
            yield from _files(item)


def source(page):
    """The page's text."""
    return (ROOT / f"{page}.md").read_text(encoding="utf-8")


def code_cells(page):
    """The page's code cells, as its notebook has them."""
    notebook = jupytext.reads(source(page), fmt="md:myst")
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
