"""What a solver reaches and when: the cost against time, and the wait of someone at a slider."""

from __future__ import annotations

import statistics
import time
from functools import partial

from helpers.fusion import fuse

from .fusion_case import SETTINGS, measured, simulated
from .harness import Table, interleaved, threads

LONG = 600


def run(options):
    """Convergence and live use, both at 256 x 256 on one thread."""
    with threads(1):
        yield _convergence(measured() or simulated(256))
        yield _live((measured() or simulated(256)).as_float32(), options)


def _convergence(case):
    case = case.as_float32()
    accelerated = _timed(case, "accelerated", LONG)
    tutorial = _timed(case, "tutorial", 300)
    minimum = min(cost for _, cost in accelerated)
    first = next(k for k, (_, cost) in enumerate(accelerated, 1) if cost <= minimum * (1 + 1e-4))
    table = Table(
        f"{case.name}: cost against time, one thread",
        ("solver", "iterations", "seconds", "cost", "above the minimum"),
        notes=[
            f"minimum: the accelerated solver after {LONG} iterations",
            "the tutorial iteration stands still elsewhere: three sweeps are a rough projection",
        ],
    )
    for name, history, n in (
        ("accelerated, within 1e-4", accelerated, first),
        ("accelerated", accelerated, 30),
        ("tutorial", tutorial, 30),
        ("tutorial", tutorial, 300),
    ):
        seconds, cost = history[n - 1]
        table.rows.append((name, n, seconds, f"{cost:.2f}", f"{cost / minimum - 1:.1e}"))
    return table


def _timed(case, solver, n_iter):
    """Seconds and total cost after each iteration; a first short run loads what must be loaded."""
    settings = {**SETTINGS, "solver": solver, "device": "cpu"}
    fuse(case.haadf, case.maps, case.numbers, **{**settings, "n_iter": 1})
    seconds, start = [], time.perf_counter()
    result = fuse(
        case.haadf, case.maps, case.numbers, **{**settings, "n_iter": n_iter},
        callback=lambda *_: seconds.append(time.perf_counter() - start),
    )  # fmt: skip
    return list(zip(seconds, result.cost.total[1:], strict=True))


def _live(case, options):
    calls = {
        solver: partial(fuse, case.haadf, case.maps, case.numbers, solver=solver, device="cpu")
        for solver in ("accelerated", "tutorial")
    }
    for call in calls.values():
        call(n_iter=1)
    seconds = interleaved(calls, options.repeats or 15)
    table = Table(
        f"{case.name}: one move of a slider, 30 x 3, one thread",
        ("solver", "best s", "median s", "wanted"),
    )
    for solver, times in seconds.items():
        table.rows.append((solver, min(times), statistics.median(times), "0.3"))
    return table
