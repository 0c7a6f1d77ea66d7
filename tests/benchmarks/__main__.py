"""Time the solvers beside their peers: ``python -m tests.benchmarks [names] [--sizes 256 ...]``.

Prints what was measured beside what is wanted, and writes it, with the machine, the date and the
commit, into ``tests/benchmarks/records``: one file for each benchmark. The page *How good, how
fast* shows them. It never judges: the exit status is 0 whatever the numbers are, and no test of the
project looks at a clock.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from pathlib import Path

BENCHMARKS = (
    "fusion_peers",
    "fusion_scaling",
    "fusion_solvers",
    "fusion_cuda",
    "fusion_thinning",
    "fusion_counts",
    "fusion_register",
    "inr_forward",
    "inr_fields",
    "inr_quality",
    "inr_published_network",
    "inr_sequences",
    "inr_tomography",
    "inr_published_scene",
    "renderer_mle",
    "renderer_deconvolve",
    "renderer_crowded",
    "renderer_dense",
    "renderer_chain",
    "xray_cameras",
    "xray_peers",
    "xray_interpolation",
    "xray_alarms",
    "xray_speed",
    "jobs",
)


def main(arguments=None):
    """Run the benchmarks whose names begin with one of the words given, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"beginnings of {', '.join(BENCHMARKS)}")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024, 2048])
    parser.add_argument("--repeats", type=int, help="turns; default: more for small sizes")
    parser.add_argument("--frames", type=int, default=100_000, help="of the movie of jobs")
    parser.add_argument("--emitters", type=int, default=3, help="of a frame of jobs")
    parser.add_argument("--fields", type=int, default=1000, help="of jobs")
    parser.add_argument("--parts", nargs="+", help="of jobs: overhead localize workers; or all")
    parser.add_argument(
        "--seconds",
        type=float,
        default=300.0,
        help="of processor time for a training of xray_peers and xray_interpolation",
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a network of these two")
    parser.add_argument("--guide", help="the guide's own fusion_utils.py, to be timed as well")
    parser.add_argument(
        "--records", type=Path, help="the folder of the records; default: the book's"
    )
    options = parser.parse_args(arguments)
    chosen = [n for n in BENCHMARKS if n.startswith(tuple(options.names or [""]))]
    if not chosen:
        parser.error(f"no benchmark begins with {options.names}: there are {', '.join(BENCHMARKS)}")

    # BLAS and OpenMP read these once, when they are loaded: so nothing is imported before.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    from .harness import machine
    from .records import FOLDER, save

    # The machine as the benchmark found it: its own work is no load.
    found = machine()
    words = shlex.join(sys.argv[1:] if arguments is None else map(str, arguments))
    command = f"python -m tests.benchmarks {words}".rstrip()
    print(*(f"{key}: {value}" for key, value in found.items()), "", sep="\n")
    for name in chosen:
        benchmark = importlib.import_module(f".{name}", __package__)
        print(f"== {name}: {benchmark.__doc__.splitlines()[0]}\n")
        tables = []
        for table in benchmark.run(options):
            print(table, flush=True)
            tables.append(table)
        save(name, tables, found, command, options.records or FOLDER)


if __name__ == "__main__":
    main()
