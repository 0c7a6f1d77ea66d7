"""Sphinx extension: each function of the reference names the pages that use it, and back.

Both are read from the pages' code when the book is built: the imports of `helpers` in a page's
cells and listings, and the names that come from them. Nothing is typed.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

from docutils import nodes

PACKAGE = "helpers"
CODE = re.compile(r"^(`{3,})(?:\{code-cell\}|python\b).*?\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
OPTIONS = re.compile(r"\A(?:---\n.*?^---\n|(?::[\w-]+:[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
MAGIC = re.compile(r"^[%!].*$", re.MULTILINE)


def code(text):
    """Give the Python of a page's cells and listings as trees; what is no Python is left out."""
    for _, lines in CODE.findall(text):
        try:
            yield ast.parse(MAGIC.sub("", OPTIONS.sub("", lines)))
        except SyntaxError:
            continue


def used(text):
    r"""List what of the package a page's code uses.

    Examples
    --------
    >>> used("```python\nfrom helpers import tv as t\ny = t.prox_tv(x, 1)\n```\n")
    ['helpers.tv', 'helpers.tv.prox_tv']
    """
    trees = list(code(text))
    known = {PACKAGE: PACKAGE}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and re.match(rf"{PACKAGE}(\.|$)", node.module or ""):
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            known |= {a.asname: a.name for a in node.names if a.asname}
    names = {dotted(node, known) for tree in trees for node in ast.walk(tree)}
    return sorted(name for name in names if name and name.startswith(f"{PACKAGE}."))


def dotted(node, known):
    """Write an expression such as ``xray.edvr.EDVR`` with all its parts; None for another kind."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id in known:
        return ".".join([known[node.id], *parts])
    return None


def origin(name):
    """Find where the function or class of a dotted name is defined; None for anything else."""
    thing, path = import_module(PACKAGE), PACKAGE
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        try:
            thing = getattr(thing, part) if hasattr(thing, part) else import_module(path)
        except ImportError:
            return None
        if callable(thing):
            return key(thing)
    return None


def key(thing):
    """Tell a function or class by the place of its definition, whichever face gives it out."""
    return getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)


def shortest(name):
    """Rank the names of one thing: the reference's entry is that of the shortest path."""
    return name.count("."), name


def read_pages(app, env, added, changed, removed):
    """Read what each page uses; the reference is read again where that has changed."""
    before, env.helpers_used = getattr(env, "helpers_used", {}), {}
    for page in sorted(env.found_docs):
        text = Path(env.doc2path(page)).read_text(encoding="utf-8")
        if found := {origin(name) for name in used(text)} - {None}:
            env.helpers_used[page] = found
    about = env.metadata if before != env.helpers_used else {}
    return [page for page in about if about[page].get("documents_helpers")]


def list_pages(app, what, name, thing, options, lines):
    """Write the pages that use a function or class below its docstring."""
    if what not in ("function", "class"):
        return
    env = app.env
    env.metadata[env.docname]["documents_helpers"] = True
    env.helpers_documented = getattr(env, "helpers_documented", {})
    known = env.helpers_documented.get(key(thing), (env.docname, name))
    env.helpers_documented[key(thing)] = min(
        known, (env.docname, name), key=lambda e: shortest(e[1])
    )
    pages = [page for page, found in env.helpers_used.items() if key(thing) in found]
    if pages:
        lines += ["", ".. rubric:: Used in", "", ", ".join(f":doc:`/{page}`" for page in pages), ""]


def list_code(app, doctree, docname):
    """Write the reference's entries that a page uses at its end, by face."""
    documented = getattr(app.env, "helpers_documented", {})
    entries = {documented[k] for k in app.env.helpers_used.get(docname, ()) if k in documented}
    section = next(doctree.findall(nodes.section), None)
    if not entries or section is None or docname == app.config.root_doc:
        return
    faces = nodes.bullet_list()
    for face in sorted({name.rpartition(".")[0] for _, name in entries}):
        item = nodes.paragraph("", "", nodes.literal(text=face), nodes.Text(": "))
        of_face = sorted(entry for entry in entries if entry[1].rpartition(".")[0] == face)
        for number, (page, name) in enumerate(of_face):
            address = f"{app.builder.get_relative_uri(docname, page)}#{name}"
            link = nodes.reference("", "", internal=True, refuri=address)
            link += nodes.literal(text=name.rpartition(".")[2])
            item += [nodes.Text(", ")] * bool(number) + [link]
        faces += nodes.list_item("", item)
    title = nodes.title(text="Code of this page")
    section += nodes.section("", title, faces, ids=["code-of-this-page"])


def setup(app):
    """Register with Sphinx: the list comes after what numpydoc makes of a docstring (500)."""
    app.connect("env-get-outdated", read_pages)
    app.connect("autodoc-process-docstring", list_pages, priority=600)
    app.connect("doctree-resolved", list_code)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
