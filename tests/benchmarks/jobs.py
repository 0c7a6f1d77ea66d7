"""Long work from files to files: memory, kills, workers, overhead of a chunk, a thousand fields.

``python -m tests.benchmarks jobs --frames 100000 --fields 1000``; alone on the machine, for the
ratio of two workers to one. Every call is a process of its own, as a user starts it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from helpers import fusion
from helpers.io import Stack, load_table, save_h5
from helpers.renderer.simulate import crowded_frames, spots_image
from helpers.scale import map_chunks

from .harness import Table

CHUNK = 1000
PIECE = 20_000  # frames of a call in memory: some GB
PARTS = ("overhead", "localize", "workers")


def run(options):
    """Give the tables one by one; a record of some parts says so by its command."""
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"jobs has no {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    folder = Path(tempfile.mkdtemp())
    try:
        if "overhead" in parts:
            yield _overhead(folder)
        if "localize" in parts:
            yield _localize(folder, options.frames, options.emitters)
        if "workers" in parts:
            frames = min(options.frames, 60 * CHUNK)
            yield from _workers(folder, frames, options.fields, options.emitters)
    finally:
        shutil.rmtree(folder)


def _overhead(folder, n=1000, repeats=3):
    """CPU time that a chunk costs beside its work, and the work of which that is 2 %."""
    movie = np.random.default_rng(0).random((n, 128, 128), dtype=np.float32)
    columns = ("result", "ms a chunk", "2 % of ms", "% of 100 ms", "wanted")
    notes = [f"CPU time, the best of {repeats}; a chunk is one frame of 128 x 128"]
    table = Table(f"{n} chunks without a client and without work", columns, notes=notes)

    def image(block, start):
        return block

    def rows(block, start):
        return np.rec.fromarrays([np.arange(10), np.ones(10)], names="frame,x")

    for name, function in {"images": image, "tables": rows}.items():
        costs = []
        for k in range(repeats):
            begun = time.process_time()
            map_chunks(function, movie, folder / f"{name}{k}", chunk=1)
            costs.append(1e3 * (time.process_time() - begun) / n)
        best = min(costs)
        table.rows.append((name, best, 50 * best, best, "< 2"))
    return table


def _movies(folder, n, emitters):
    """A movie of n frames in separate pages, and the same as OME-Zarr."""
    import zarr

    shape, sigma, background, period = (128, 128), 1.3, 5, 200
    options = {"emitters": emitters, "photons": (900, 1100), "present": 1.0, "seed": 1}
    _, truth = crowded_frames(
        period, shape, sigma=sigma, background=(0, 0), read_noise=0, **options
    )
    there = [truth[truth.frame == k] for k in range(period)]
    # without noise, of which 20 draws take turns below: 4000 different frames
    mean = np.stack([background + spots_image(t.x, t.y, t.photons, sigma, shape) for t in there])
    pages = folder / "pages.tif"
    store = zarr.open_group(folder / "movie.ome.zarr", mode="w")
    array = store.create_array(
        "0", shape=(n, 128, 128), chunks=(100, 128, 128), dtype="uint16",
        dimension_names=["t", "y", "x"],
    )  # fmt: skip
    axes = [{"name": "t", "type": "time"}, *({"name": a, "type": "space"} for a in "yx")]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    level = {"path": "0", "coordinateTransformations": scale}
    store.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    rng, draws = np.random.default_rng(2), []
    with tifffile.TiffWriter(pages, bigtiff=True) as file:
        for at in range(0, n, period):
            if len(draws) < 20:
                draws.append(rng.poisson(mean).astype("uint16"))
            block = draws[at // period % 20][: n - at]
            array[at : at + len(block)] = block
            for frame in block:
                file.write(frame, contiguous=False, photometric="minisblack", metadata=None)
    return pages, folder / "movie.ome.zarr"


def _call(*words):
    return [sys.executable, "-m", "helpers", *map(str, words), "--device", "cpu", "--json"]


def _timed(*words, until=None):
    """Seconds, CPU seconds, peak GiB, results and exit of a call; killed (-9) after `until`."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(_call(*words), stdout=told)
        if until is not None:
            until(process)
            process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)  # of this call and its children, of no other
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        lines = [json.loads(line) for line in told]
    cpu = usage.ru_utime + usage.ru_stime
    return wall, cpu, usage.ru_maxrss / 2**20, lines, process.returncode


def _localize(folder, n, emitters):
    """Memory and table of a call that is killed five times, beside the call in memory."""
    title = f"cmx localize, {n} frames of 128 x 128 with {emitters} molecules, chunks of {CHUNK}"
    columns = ("file", "calls", "killed", "s", "CPU s", "peak GiB", "molecules", "as in memory")
    notes = [
        "a call that is killed (-9) at five moments, and the sixth that ends: together",
        "4000 different frames, which take turns; chance places and noise",
        f"wanted: 5 killed, peak < 2 GiB, and bit for bit the table of calls of {PIECE} in memory",
    ]
    table = Table(title, columns, notes=notes)
    pages, store = _movies(folder, n, emitters)
    expected = _in_memory(pages)
    for path in (pages, store):
        out = folder / f"of {path.name}"
        words = ["localize", path, "--psf", 1.3, "--chunk", CHUNK, "--out", out]
        calls = [
            _timed(*words, until=partial(_some, out, k * n // CHUNK // 6)) for k in range(1, 6)
        ]
        calls.append(_timed(*words))
        walls, cpus, peaks, lines, codes = zip(*calls, strict=True)
        found = load_table(lines[-1][0]["output"])
        equal = all(np.array_equal(found[k], expected[k]) for k in expected.dtype.names)
        killed = sum(code == -signal.SIGKILL for code in codes)
        row = (path.name, len(calls), killed, sum(walls), sum(cpus), max(peaks), len(found))
        table.rows.append((*row, str(equal)))
    return table


def _some(out, wanted, process):
    """Wait until so many chunks are there, or the call has ended."""
    while len(list(out.glob("*/chunks/.parts/*/*.json"))) < wanted:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.05)


def _in_memory(path):
    """Table of the call in memory, by pieces that fit; in processes that leave no trace here."""
    code = (
        "import sys, numpy as np; from helpers.io import Stack; "
        "from helpers.renderer.detect import localize; "
        "a, b = int(sys.argv[3]), int(sys.argv[4]); "
        "stack = Stack(sys.argv[1], gain=1.0, offset=0.0); "
        "found = localize(stack[a:b], 1.3, device='cpu'); found.frame += a; "
        "np.save(sys.argv[2], found)"
    )
    with Stack(path, gain=1.0, offset=0.0) as stack:
        n = len(stack)
    tables = []
    for start in range(0, n, PIECE):
        table = path.with_suffix(".npy")
        words = [path, table, str(start), str(min(start + PIECE, n))]
        subprocess.run([sys.executable, "-c", code, *words], check=True)
        tables.append(np.load(table))
    return np.concatenate(tables)


def _workers(folder, n_frames, n_fields, emitters):
    """Two workers against one; the time of starting them counts. Two of the fields are broken."""
    table = Table(
        f"two workers against one: {n_frames} frames, {n_fields} fields of 256 x 256 x 3",
        ("job", "1: s", "CPU s", "2: s", "CPU s", "times", "wanted"),
        notes=[f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"],
    )
    many = Table(
        f"cmx fuse, {n_fields} fields of 256 x 256 x 3, two of them broken",
        ("workers", "exit", "s", "CPU s", "peak GiB", "fused", "listed as failed"),
        notes=["peak of the largest process; default settings"],
    )
    files = _make_fields(folder / "many", n_fields)
    for path in files[:2]:
        path.write_bytes(path.read_bytes()[:1000])
    _movies(folder, n_frames, emitters)
    jobs = {
        "fuse": ["fuse", *files],
        "localize": ["localize", folder / "pages.tif", "--psf", 1.3, "--chunk", 500],
    }
    for name, words in jobs.items():
        calls = [_timed(*words, "--out", folder / f"{name}{n}", "--workers", n) for n in (1, 2)]
        (one, cpu_of_one, *_), (two, cpu_of_two, *_) = calls
        table.rows.append((name, one, cpu_of_one, two, cpu_of_two, one / two, ">= 1.7"))
        if name == "fuse":
            for n, (wall, cpu, peak, lines, code) in enumerate(calls, 1):
                failed = sum("error" in line for line in lines)
                many.rows.append((n, code, wall, cpu, peak, len(lines) - failed, failed))
    return many, table


def _make_fields(folder, n, size=256):
    folder.mkdir()
    data = fusion.simulate("dysco3", counts=2, seed=0, size=size)
    rng = np.random.default_rng(0)
    for k in range(n):
        maps = {e: rng.poisson(m).astype("float32") for e, m in data.truth.items()}
        save_h5(folder / f"f{k:04d}.h5", {"maps": maps, "haadf": data.haadf})
    return sorted(folder.glob("*.h5"))
