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
