"""Imports only go down, and `import helpers` costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.doors import PACKAGE, PARTS, dotted, imports

SHOWN = ("plots", "sliders", "_pictures")  # what a page shows
# A part may draw in the modules that a page calls to see something, never in its mathematics.
DRAWING = ("_explore", "figures")
ABOVE = ("jobs",)  # the command's jobs stand on the parts; only the command imports them
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_its_own_floor_or_below(path):
    if path.name == "__main__.py":
        return
    home = dotted(path).split(".")[0]
    shows = path.stem in SHOWN + DRAWING
    for name in imports(path):
        first = name.split(".")[0]
        assert first != "__main__"
        assert first not in ABOVE or home in ABOVE
        if first in PARTS and home not in ABOVE:
            assert first == home, f"{path} imports helpers.{name}"
        if first in SHOWN:
            assert shows, f"{path} imports helpers.{name}"


def test_importing_the_package_is_cheap():
    """It loads the standard library and nothing else, which no clock need show."""
    code = (
        "import sys; before = set(sys.modules); import helpers; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "['helpers']"
