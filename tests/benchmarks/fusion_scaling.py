"""How the fusion grows: time per value, memory, and what a second core gives."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from functools import partial

from helpers.fusion import fuse

from .fusion_case import SETTINGS, simulated
from .harness import Table, interleaved, ratio, threads

SOLVERS = ("tutorial", "accelerated")

# Alone in a new process, because a peak counts all that a process ever had.
MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from helpers.fusion import fuse

size, solver = int(sys.argv[1]), sys.argv[2]
maps = np.random.default_rng(0).random((3, size, size), dtype=np.float32)
fuse(maps[0], maps, [21, 66, 8], n_iter=3, solver=solver, device="cpu")
status = Path("/proc/self/status")
if status.exists():
    print(next(int(l.split()[1]) for l in status.read_text().splitlines() if "VmHWM" in l) * 1024)
else:
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def run(options):
    """Growth of time, growth of memory, second core."""
    sizes = sorted({*options.sizes, 4096} if max(options.sizes) >= 2048 else options.sizes)
    cases = {size: simulated(size).as_float32() for size in sizes}
    with threads(1):
        for solver in SOLVERS:
            yield _growth(cases, solver, options)
    yield _memory(sizes[-1])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores < 2:
        yield Table("second core", ("skipped",), notes=["this machine has one core"])
        return
    for solver in SOLVERS:
        yield _second_core(cases, solver, options)


def _fused(case, solver):
    return partial(
        fuse, case.haadf, case.maps, case.numbers, solver=solver, device="cpu", **SETTINGS
    )


def _growth(cases, solver, options):
    seconds = interleaved(
        {size: _fused(case, solver) for size, case in cases.items()}, options.repeats or 3
    )
    table = Table(f"growth, {solver}, one thread", ("size", "best s", "ns/value/it", "median"))
    for size, case in cases.items():
        each = [1e9 * s / case.work / SETTINGS["n_iter"] for s in seconds[size]]
        table.rows.append((size, min(seconds[size]), min(each), statistics.median(each)))
    least = [row[2] for row in table.rows]
    spread = max(least) / min(least)
    table.notes.append(f"largest / smallest ns per value: {spread:.2f}   wanted: at most 1.5")
    return table


def _memory(size):
    table = Table(f"peak memory, {size} x {size} x 3 in float32", ("", "GiB", "wanted"))
    for solver in SOLVERS:
        command = [sys.executable, "-c", MEMORY, str(size), solver]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        table.rows.append((solver, int(output) / 2**30, "3"))
    table.notes.append("the whole process: Python, torch and the caller's own arrays included")
    return table


def _second_core(cases, solver, options):
    table = Table(
        f"second core, {solver}",
        ("size", "1 thread, best s", "2 threads, best s", "ratio", "wanted"),
    )
    for size, case in cases.items():
        if 512 <= size <= 2048:
            call = _fused(case, solver)

            def on(n, call=call):
                with threads(n):
                    call()

            contenders = {n: partial(on, n) for n in (1, 2)}
            seconds = interleaved(contenders, options.repeats or max(3, 4096 // size))
            table.rows.append((
                size, min(seconds[1]), min(seconds[2]), ratio(seconds[1], seconds[2]), "1.7"
            ))  # fmt: skip
    return table
