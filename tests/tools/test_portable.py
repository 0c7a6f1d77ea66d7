"""The switches reach the libraries, and the table says what failed where."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests import portable
from tests.processors import PROCESSORS

X86 = platform.machine() in ("x86_64", "AMD64")
SHOW = """
import numba.core.config, torch
print(torch.backends.cpu.get_cpu_capability(), numba.core.config.CPU_NAME)
"""


@pytest.mark.skipif(not X86, reason="the switches are for x86-64")
@pytest.mark.parametrize("name, seen", [("baseline", "DEFAULT generic"), ("avx2", "AVX2 haswell")])
def test_the_libraries_obey(name, seen):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SHOW],
        env=os.environ | PROCESSORS[name],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == seen, done.stderr


@pytest.mark.skipif(not X86, reason="the switches are for x86-64")
def test_a_shell_can_take_the_switches(capsys, monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert portable.main(["--env", "native"]) == 0
    assert capsys.readouterr().out == "\n"
    assert portable.main(["--env", "baseline"]) == 0
    said = capsys.readouterr().out.split()
    assert dict(pair.split("=", 1) for pair in said) == PROCESSORS["baseline"]


def test_what_the_machine_needs_of_openblas_stays(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    assert "OPENBLAS_CORETYPE" not in portable.switches("baseline")


REPORT = """<testsuites><testsuite>
<testcase classname="book.xray.03_edvr.md" name="Cell 22"/>
<testcase classname="book.xray.03_edvr.md" name="Cell 23"><failure/></testcase>
<testcase classname="book.fusion.01_model.md" name="Cell 0"/>
<testcase classname="tests.unit.test_tv" name="test_a"><error/></testcase>
<testcase classname="tests.unit.test_tv" name="test_b"><skipped/></testcase>
</testsuite></testsuites>"""


def test_the_table_names_what_failed():
    first = portable.outcomes(ElementTree.ElementTree(ElementTree.fromstring(REPORT)))
    second = {"book/fusion/01_model": ([], 3)}
    assert portable.table({"baseline": first, "native": second}).splitlines()[2:] == [
        "| book/fusion/01_model | ok | ok |",
        "| book/xray/03_edvr | cell 23 | - |",
        "| unit and other tests | 1 failed: test_a | - |",
    ]


def test_it_runs_what_it_is_asked(capfd):
    paths = ["tests/meta/test_vendor.py"]
    assert portable.main(["--processors", "native", "--threads", "2", "--", *paths]) == 0
    assert "| unit and other tests | ok |" in capfd.readouterr().out
