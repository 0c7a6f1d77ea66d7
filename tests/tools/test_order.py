"""The longest files start first, and a quick run has one test of each."""

from __future__ import annotations

import os
import subprocess
import sys

from tests import order

NAMES = ["a.py::one", "a.py::two", "book/p.md::Cell 0", "book/p.md::Cell 1", "tests/meta/m.py::x"]


def test_kinds_come_in_order_where_nothing_is_known():
    names = ["book/p.md::Cell 0", "book/p.md::Cell 1", "tests/meta/m.py::x", *NAMES[:2]]
    assert order.in_order(NAMES, {}) == names


def test_what_was_measured_counts():
    assert order.in_order(NAMES, {"a.py": 40.0})[:2] == ["a.py::one", "a.py::two"]
    assert order.in_order(NAMES, {"book/p.md": 5.0})[0] == "tests/meta/m.py::x"


def test_a_quick_run_has_one_of_each():
    assert order.firsts(NAMES) == ["a.py::one", "book/p.md::Cell 0", "tests/meta/m.py::x"]


def test_pytest_remembers_and_obeys(tmp_path, root):
    """The slow file is second in the alphabet, and first once it was seen."""
    (tmp_path / "test_a.py").write_text("def test_1(): pass\ndef test_2(): pass\n")
    (tmp_path / "test_b.py").write_text("import time\ndef test_3(): time.sleep(0.3)\n")

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-p", "tests.order", "-v", "--color=no"]
        done = subprocess.run(
            [*command, "--rootdir", ".", "-c", os.devnull, *options, "."],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
        lines = [line for line in done.stdout.splitlines() if "PASSED" in line]
        return [line.split("::")[1].split()[0] for line in lines]

    assert run() == ["test_1", "test_2", "test_3"]
    assert run() == ["test_3", "test_1", "test_2"]
    assert run("--quick", "-n", "0") == ["test_3", "test_1"]
