"""Timing side by side, and the tables that come out of it.

Every machine has quiet and busy seconds. So contenders run in turns, A B C A B C, and a ratio is
taken within each turn; its median says more than the ratio of two best times.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass
class Table:
    """What a benchmark found: plain cells, and a `wanted` column where the project has a goal."""

    title: str
    columns: tuple
    rows: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def __str__(self):
        cells = [self.columns, *([_text(cell) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  " + "  ".join(
                cell.ljust(width) if n == 0 else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]  # fmt: skip
        lines.insert(1, "  " + "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *lines, *(f"  {note}" for note in self.notes), ""])

    def plain(self):
        """The table as JSON can hold it."""
        return asdict(self)


def _text(cell):
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def interleaved(contenders, repeats):
    """Seconds of each call in `contenders`, a dict by name, `repeats` times in turns."""
    seconds = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow, fast):
    """How many times longer `slow` takes: the median of the ratios, turn by turn."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


@contextmanager
def threads(n):
    """Run with `n` torch threads, on as many cores and always the same where the system allows."""
    import torch

    before = torch.get_num_threads()
    pinned = hasattr(os, "sched_setaffinity")
    allowed = os.sched_getaffinity(0) if pinned else None
    torch.set_num_threads(n)
    if pinned:
        os.sched_setaffinity(0, sorted(allowed)[-n:])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if pinned:
            os.sched_setaffinity(0, allowed)


def machine():
    """What the numbers were measured on."""
    import torch

    facts = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
    }
    for library in ("numpy", "scipy", "torch", "numba", "multimodal-fusion"):
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            facts[library] = None
    return facts


def _processor():
    """The processor's name; on Linux the kernel knows more than Python."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
