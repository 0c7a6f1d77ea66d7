"""Imports only go down, and `import helpers` costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.book_files import ROOT

PACKAGE = ROOT / "helpers"
PARTS = ("fusion", "inr", "xray", "renderer")  # one package a part of the book
SHOWN = ("plots", "sliders", "frames")  # what a page shows
# A part may draw in the modules that a page calls to see something, never in its mathematics.
DRAWING = ("explore", "figures")
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(path):
    """The modules of `helpers` that a file imports, anywhere in it, as dotted names."""
    package = ("helpers", *path.parent.parts)
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("helpers.") for name in names if name.startswith("helpers"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_its_own_floor_or_below(path):
    home = path.parts[0] if path.parts[0] in PARTS else None
    shows = path.stem in SHOWN + DRAWING
    for name in imported(path):
        first = name.split(".")[0]
        assert first != "__main__"
        if first in PARTS:
            assert first == home or path.name == "__main__.py", f"{path} imports helpers.{name}"
        if first in SHOWN:
            assert shows or path.name == "__main__.py", f"{path} imports helpers.{name}"


def test_importing_the_package_is_cheap():
    """Best of three fresh interpreters, so that a busy machine does not decide."""
    code = (
        "import sys, time; start = time.perf_counter(); import helpers; "
        "print(time.perf_counter() - start); "
        "print(*{'torch', 'matplotlib', 'numba', 'numpy'} & set(sys.modules))"
    )
    seconds = []
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        took, _, heavy = run.stdout.partition("\n")
        assert heavy.strip() == ""
        seconds.append(float(took))
    assert min(seconds) < 0.3
