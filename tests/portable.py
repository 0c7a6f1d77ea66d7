"""Run tests and pages as other processors would, and print the table page x processor.

``python -m tests.portable`` runs all of it, each combination in processes of its own; the options
choose. ``--env NAME`` prints the switches of one processor, for ``env $(...) command``. A cell of
the table is ``ok``, or says which cells of the page, or how many tests, failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tests.processors import PROCESSORS

ROOT = Path(__file__).parents[1]
CORES = 2
TESTS = "unit and other tests"  # the row of all that is no page


def switches(processor):
    """Give the variables of a processor; what this machine itself needs of OpenBLAS stays."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return {}
    return {
        key: value
        for key, value in PROCESSORS[processor].items()
        if not (key == "OPENBLAS_CORETYPE" and key in os.environ)
    }


def run(processor, threads, paths):
    """Run pytest once; give the outcomes by row: a list of what failed, and how much ran."""
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}"]
        command += ["-n", str(max(CORES // threads, 1)), "--dist=loadfile"]
        command += ["--no-loadscope-reorder", "--ignore=tests/book", "--ignore=tests/tools", *paths]
        print(f"\n{processor}, {threads} thread(s): {' '.join(command[2:])}", flush=True)
        variables = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        variables["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin slow down what they wait for
        subprocess.run(command, cwd=ROOT, env=os.environ | switches(processor) | variables)
        if not report.exists():
            raise SystemExit(f"pytest gave no report for {' '.join(paths)}: see above")
        return outcomes(ElementTree.parse(report))


def outcomes(tree):
    """Read a JUnit report: by row, what failed and how many ran."""
    failed, ran = defaultdict(list), Counter()
    for case in tree.iter("testcase"):
        home, name = case.get("classname"), case.get("name")
        row = home.removesuffix(".md").replace(".", "/") if home.endswith(".md") else TESTS
        ran[row] += case.find("skipped") is None
        if case.find("failure") is not None or case.find("error") is not None:
            failed[row].append(name)
    return {row: (failed[row], ran[row]) for row in ran}


def cell(outcome):
    """Write one outcome in a word or two."""
    if outcome is None or not outcome[1]:
        return "-"
    failed = outcome[0]
    if not failed:
        return "ok"
    if all(name.startswith("Cell ") for name in failed):
        return "cell " + ", ".join(name.removeprefix("Cell ") for name in failed)
    return f"{len(failed)} failed: " + ", ".join(failed[:3]) + ", ..." * (len(failed) > 3)


def table(results):
    """Write the table: a row for each page, one for the tests, a column for each run."""
    rows = sorted({row for outcome in results.values() for row in outcome} - {TESTS})
    rows += [TESTS] * any(TESTS in outcome for outcome in results.values())
    lines = [["", *results], ["---"] * (len(results) + 1)]
    lines += [[row, *(cell(outcome.get(row)) for outcome in results.values())] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments=None):
    """Run the combinations, print the table; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.portable", description=__doc__)
    names = list(PROCESSORS)
    parser.add_argument("--processors", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--env", choices=names, help="print the switches of this one, run nothing")
    paths = ["helpers", "tests", "book"]
    parser.add_argument("paths", nargs="*", help=f"all if left out: {' '.join(paths)}")
    chosen = parser.parse_args(arguments)
    if chosen.env:
        print(*(f"{key}={value}" for key, value in switches(chosen.env).items()))
        return 0
    results = {}
    for processor in chosen.processors:
        for threads in chosen.threads:
            column = f"{processor}, {threads} thread{'s' * (threads > 1)}"
            results[column] = run(processor, threads, chosen.paths or paths)
            print(f"\n{table(results)}", flush=True)
    return int(any(failed for rows in results.values() for failed, _ in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
