"""Neural fields: one step of each encoding, and rendering a published scene in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import torch

from helpers.inr.fields import (
    MLP,
    FeatureGrid,
    Field,
    HashGrid,
    PositionalEncoding,
    Softplus,
    Voxels,
    pyramid,
)
from helpers.inr.fields.encodings import coordinates
from helpers.inr.fields.grids import PlaneGrid

from .harness import Table, interleaved, threads

SHAPE = (16, 56, 56)
PUBLISHED = (41, 499, 499)

# Alone in a new process, because a peak counts all that a process ever had.
RENDER = """
import resource, sys, time
from pathlib import Path
import torch
from helpers.inr.fields import paper_field
from helpers.inr.render import render

field = paper_field(sys.argv[1], generator=torch.Generator().manual_seed(0))
start = time.perf_counter()
volume = render(field, tuple(map(int, sys.argv[2:5])))
assert volume.std() > 0
seconds = time.perf_counter() - start
status = Path("/proc/self/status")
if status.exists():
    peak = next(int(l.split()[1]) for l in status.read_text().splitlines() if "VmHWM" in l) * 1024
else:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(peak, seconds)
"""


def run(options):
    """Steps of a small scene, then the memory of a large one."""
    with threads(1):
        yield _steps(options.repeats or 7)
    # --sizes is for images; below 256 px the scene shrinks with it, for a quick look
    shrink = min(1.0, max(options.sizes) / 256)
    yield _memory(tuple(max(4, round(n * shrink)) for n in PUBLISHED))


def _steps(repeats):
    g = torch.Generator().manual_seed(0)

    def field(encoding, width=16, depth=2):
        network = MLP(encoding.out_features, width, depth, generator=g)
        return Field(encoding, network, Softplus(0.1))

    fields = {
        "free voxels": Voxels(SHAPE, Softplus(0.1)),
        "dense grid, 4 levels": field(FeatureGrid(pyramid(SHAPE, 4), 4, generator=g)),
        "one level, 8 x 28 x 28": field(FeatureGrid([(8, 28, 28)], 1, generator=g), 8),
        "planes, rank 8": field(PlaneGrid([SHAPE], 8, generator=g)),
        "hash, 6 levels": field(HashGrid(6, 2, log2_size=10, finest=28, generator=g)),
        "waves, 3 x 64": field(PositionalEncoding(5), 64, 3),
    }
    waves = fields["waves, 3 x 64"]
    points = coordinates(SHAPE, waves.extent)
    calls = {name: lambda f=f: f.volume(SHAPE).sum().backward() for name, f in fields.items()}
    calls["waves, point by point"] = lambda: waves(points).sum().backward()
    seconds = interleaved(calls, repeats)
    table = Table(
        "one step, 16 x 56 x 56, forward and backward, one thread",
        ("field", "weights", "best ms", "wanted"),
    )
    for name, times in seconds.items():
        weights = sum(p.numel() for p in fields.get(name, waves).parameters())
        wanted = "60" if name.startswith("dense") else ""
        table.rows.append((name, weights, 1e3 * min(times), wanted))
    return table


def _memory(size):
    table = Table(
        "render {} x {} x {} in chunks, one thread".format(*size),
        ("published field", "GiB", "wanted", "s"),
    )
    for name in ("mito", "tubulin"):
        command = [sys.executable, "-c", RENDER, name, *map(str, size)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak, seconds = map(float, output.split())
        table.rows.append((name, peak / 2**30, "6", seconds))
    table.notes.append("the whole process: Python, torch and the volume itself included")
    return table
