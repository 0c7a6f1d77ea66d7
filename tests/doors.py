"""The doors of `helpers`, read from its files: faces, their names, and the rooms behind them.

A face is a module with an ``__all__``: the ``__init__.py`` of a room, or a module that stands on
the ground floor or in a part itself. The other modules are private.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module

from tests.book_files import ROOT

PACKAGE = ROOT / "helpers"
PARTS = ("fusion", "inr", "xray", "renderer")


def dotted(path):
    """``inr.fit`` for ``helpers/inr/fit/__init__.py``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rooms():
    """Every folder of the package: its dotted name ("" for the ground floor) and its files."""
    for face in sorted(PACKAGE.rglob("__init__.py")):
        files = [path for path in sorted(face.parent.glob("*.py")) if path.stem[:2] != "__"]
        yield dotted(face), files


@cache
def faces():
    """Dotted names of the public modules: those that have an ``__all__``."""
    return [
        dotted(path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if re.search(r"^(__getattr__, __dir__, )?__all__ = ", path.read_text("utf-8"), re.M)
    ]


@cache
def own_names(face):
    """The names that a face gives out; the rooms and modules among them have faces of their own."""
    module = import_module(f"helpers.{face}")
    return [name for name in module.__all__ if f"{face}.{name}" not in faces()]


def imports(path):
    """The modules of `helpers` that a file imports, anywhere in it, as dotted names.

    ``from .a import b`` is ``a.b`` where that is a module, else ``a``.
    """
    package = ("helpers", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("helpers."):
                yield _module_of(name.removeprefix("helpers."))


def _module_of(name):
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        at = PACKAGE.joinpath(*parts[:n])
        if at.with_suffix(".py").is_file() or (at / "__init__.py").is_file():
            return ".".join(parts[:n])
    return ""


def page_imports(text):
    """The module paths that the cells of a page import of `helpers`, one for each statement."""
    cells = "\n".join(re.findall(r"^```\{code-cell\}.*?^```", text, re.M | re.S))
    return re.findall(r"^ *(?:from|import) (helpers[\w.]*)", cells, re.M)
