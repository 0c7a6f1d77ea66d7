"""Time the solvers beside their peers: ``python -m tests.benchmarks [names] [--sizes 256 ...]``.

Prints what was measured beside what is wanted. It never judges: the exit status is 0 whatever the
numbers are, and no test of the project looks at a clock.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path

BENCHMARKS = (
    "fusion_peers",
    "fusion_scaling",
    "fusion_solvers",
    "fusion_cuda",
    "fusion_thinning",
    "fusion_counts",
    "inr_forward",
    "inr_fields",
    "inr_quality",
    "inr_sequences",
    "inr_tomography",
    "inr_published_scene",
    "renderer_mle",
    "renderer_deconvolve",
    "renderer_crowded",
    "jobs",
)


def main(arguments=None):
    """Run the benchmarks whose names begin with one of the words given, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"beginnings of {', '.join(BENCHMARKS)}")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024, 2048])
    parser.add_argument("--repeats", type=int, help="turns; default: more for small sizes")
    parser.add_argument("--frames", type=int, default=100_000, help="of the movie of jobs")
    parser.add_argument("--fields", type=int, default=1000, help="of jobs")
    parser.add_argument("--guide", help="the guide's own fusion_utils.py, to be timed as well")
    parser.add_argument("--json", type=Path, help="write all numbers to this file as well")
    options = parser.parse_args(arguments)
    chosen = [n for n in BENCHMARKS if n.startswith(tuple(options.names or [""]))]
    if not chosen:
        parser.error(f"no benchmark begins with {options.names}: there are {', '.join(BENCHMARKS)}")

    # BLAS and OpenMP read these once, when they are loaded: so nothing is imported before.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    from .harness import machine

    report = {"machine": machine(), "tables": []}
    print(*(f"{key}: {value}" for key, value in report["machine"].items()), "", sep="\n")
    for name in chosen:
        benchmark = importlib.import_module(f".{name}", __package__)
        print(f"== {name}: {benchmark.__doc__.splitlines()[0]}\n")
        for table in benchmark.run(options):
            print(table, flush=True)
            report["tables"].append({"benchmark": name, **table.plain()})
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
