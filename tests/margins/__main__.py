"""Measure the margin of every assertion of pages and test files over seeds and processors.

    python -m tests.margins                      all that is new or has changed
    python -m tests.margins book/xray tests/unit/test_tv.py
    python -m tests.margins --only-failing       what is on file, too small margins only

Each page runs five times, in fresh processes, every time with other seeds (`tests.margins.seeds`)
and as another processor (`tests.processors`); so do test files, up to eight in a process. A file
that is steady (`tests.margins.store.steady`) after two runs, as published on the native processor
and with other seeds on the baseline one, is done. A page with measured data runs five times with
them, where `HELPERS_DATA_DIR` has them, and five times on simulated twins. What rests on chance
goes into `tests/chapters/margins.json`; `tests/meta/test_margins.py` reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.margins import store
from tests.processors import PROCESSORS

LIMIT = 3600  # seconds for one run
TOGETHER = 8  # test files in one process: torch is loaded once for all


def main(arguments=None):
    """Measure, keep, and print the table; 1 when a margin is too small."""
    args = parser().parse_args(arguments)
    if args.run:
        return worker(args.paths, *args.run)
    if args.merge:
        return merge()
    paths = chosen(args.paths) if args.paths else [] if args.only_failing else list(store.stale())
    for done, group in enumerate(groups := grouped(paths), 1):
        print(f"{done}/{len(groups)} {' '.join(group)}", flush=True)
        runs = measure(group, args.seeds, args.jobs)
        store.update({path: store.summary(path, each) for path, each in runs.items()})
    return table(paths, args.only_failing)


def parser():
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m tests.margins", description=__doc__)
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument(
        "paths", nargs="*", help="pages, 'PAGE on twins', test files, or folders of them"
    )
    found.add_argument("--seeds", type=int, default=store.SEEDS, help="runs of each file")
    found.add_argument("--jobs", type=int, default=1, help="processes side by side")
    found.add_argument("--only-failing", action="store_true", help="print too small margins only")
    found.add_argument("--merge", action="store_true", help="resolve a conflict of the JSON file")
    found.add_argument("--run", nargs=2, metavar=("NUMBER", "OUT"), help=argparse.SUPPRESS)
    return found


def chosen(paths):
    """The measurable files among paths and below folders."""
    known = store.measurable()
    names = [Path(path).resolve().relative_to(store.ROOT).as_posix() for path in paths]
    found = [
        k for k in known if any(n in (k, store.file(k)) or k.startswith(f"{n}/") for n in names)
    ]
    if not found:
        sys.exit(f"no file with an assertion that has a threshold in {', '.join(paths)}")
    return found


def grouped(paths):
    """Pages one by one, test files of a folder some at a time."""
    tests = [path for path in paths if path.endswith(".py")]
    groups = [[path] for path in paths if path not in tests]
    for folder in sorted({Path(path).parent for path in tests}):
        inside = [path for path in tests if Path(path).parent == folder]
        groups += [inside[k : k + TOGETHER] for k in range(0, len(inside), TOGETHER)]
    return groups


def measure(group, seeds, jobs):
    """All runs of each file of a group, in processes of their own: path -> runs."""
    first = [k for k in (0, 2) if k < seeds]  # as published, and with other seeds on the baseline
    rest = [k for k in range(seeds) if k not in first]
    processors = [list(PROCESSORS)[k % len(PROCESSORS)] for k in range(seeds)]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda k: one_run(group, k, processors[k]), first))
        moved = [path for path in group if not store.steady(path, found)]
        if moved:
            found += pool.map(lambda k: one_run(moved, k, processors[k]), rest)
    numbers = (first + rest)[: len(found)]
    in_order = [found[numbers.index(k)] for k in sorted(numbers)]
    return {path: in_order if path in moved else found[: len(first)] for path in group}


def one_run(group, number, processor, root=store.ROOT):
    """One run in a fresh process; a process that died counts as a failure of each file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **PROCESSORS[processor]}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(store.ROOT), environment.get("PYTHONPATH")))
    )
    with tempfile.TemporaryDirectory() as folder:
        if group[0].endswith(store.TWIN):
            environment.pop("HELPERS_DATA_DIR", None)
            environment |= {"HELPERS_OFFLINE": "1", "HELPERS_CACHE_DIR": str(Path(folder, "none"))}
        out, files = Path(folder) / "run.json", list(map(store.file, group))
        command = [sys.executable, "-m", "tests.margins", *files, "--run", str(number), str(out)]
        try:
            ended = subprocess.run(
                command, cwd=root, env=environment, timeout=LIMIT, capture_output=True, text=True
            )
            died = (ended.stderr.splitlines() or [f"exit code {ended.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            died = f"did not end within {LIMIT} s"
        if out.exists():
            found = json.loads(out.read_text(encoding="utf-8"))
        else:
            errors = {f"{path}::run": died[:100] for path in files}
            found = {"records": [], "errors": errors, "drawn": []}
    found["records"] = {(place, text): each for place, text, each in found["records"]}
    return {"processor": processor, **found}


def worker(paths, number, out):
    """Run files in this process and write down what came."""
    from tests.margins.run import run

    found = run(paths, int(number))
    Path(out).write_text(json.dumps(found), encoding="utf-8")
    return 0


def merge():
    """Take, of both sides of a conflict, what fits the files as they are now."""
    known, sides = store.measurable(), []
    for stage in (2, 3):
        command = ["git", "show", f":{stage}:{store.STORE}"]
        sides.append(json.loads(subprocess.check_output(command, cwd=store.ROOT, text=True)))
    files = {}
    for side in sides:
        for path, each in side["files"].items():
            if path not in files or each["digest"] == known.get(path):
                files[path] = each
    store.write({"files": {}})
    store.update(files)
    return 0


def table(paths, only_failing):
    """Print the entries of these files, or of all, the worst first."""
    kept = store.read()["files"]
    rows = [(p, e) for p in (paths or kept) for e in kept[p]["entries"]]
    bad = [(p, e) for p, e in store.fragile() if p in (paths or kept)]
    rows = bad if only_failing else sorted(rows, key=lambda row: (*store.badness(row[1]), row[0]))
    for path, entry in rows:
        z = f"{entry['z']:8.1f}" if "z" in entry else "        "
        failed = f" failed with seeds {entry['failed']}" if "failed" in entry else ""
        what = entry.get("assert", entry.get("raised"))
        print(f"{z}  {path}::{entry['in']}  {what}{failed}")
        if "z" in entry:
            value, bound, spread = entry["value"], entry["bound"], entry["spread"]
            print(f"{'':10}{value:.4g} against {bound:.4g}, spread {spread:.2g}")
    print(f"{len(bad)} of {len(rows) if not only_failing else len(bad)} have too small a margin")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
