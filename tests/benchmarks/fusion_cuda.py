"""The fusion on a CUDA device: the same answer, and how near the memory's speed it comes."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch

from helpers.fusion import fuse

from .fusion_case import SETTINGS, simulated
from .harness import Table


def run(options):
    """One line a size; one line that says so where there is no device."""
    if not torch.cuda.is_available():
        yield Table("skipped: torch finds no CUDA device on this machine", ("",))
        return
    bandwidth = _copy_bandwidth()
    n_sweeps, n_elements = SETTINGS["n_iter_tv"], 3
    # Separate passes must move, for each value and sweep, y and two duals with their momentum in,
    # and the duals out: seven numbers. One pass over everything could do with (3E + 1) / E.
    passes, one_pass = 4 * 7 * n_sweeps, 4 * (3 * n_elements + 1) / n_elements
    table = Table(
        f"{torch.cuda.get_device_name()}: tutorial, whole calls without the transfers",
        ("size", "ms/iteration", "passes, GB/s", "one pass, GB/s", "x floor",
         "largest difference from the CPU", "wanted"),
        notes=[
            f"a copy kernel moves {bandwidth:.0f} GB/s",
            f"passes, one pass: useful traffic, {passes:.0f} and {one_pass:.1f} bytes a value",
            "x floor: time against that of one pass at the copy's speed",
        ],
    )  # fmt: skip
    for size in options.sizes:
        case = simulated(size).as_float32()
        call = partial(fuse, solver="tutorial", backend="torch", **SETTINGS)
        here = call(case.haadf, case.maps, case.numbers, device="cpu").maps
        haadf, maps = torch.from_numpy(case.haadf).cuda(), torch.from_numpy(case.maps).cuda()
        there = call(haadf, maps, case.numbers).maps
        apart = float(np.abs(there.cpu().numpy() - here).max())
        seconds = min(_seconds(partial(call, haadf, maps, case.numbers)) for _ in range(5))
        each = seconds / SETTINGS["n_iter"]
        table.rows.append((
            size, 1e3 * each, passes * case.work / each / 1e9, one_pass * case.work / each / 1e9,
            each / (one_pass * case.work / bandwidth / 1e9), apart, "1e-4",
        ))  # fmt: skip
    yield table


def _copy_bandwidth():
    """GB/s read and written by a copy of 1 GiB, best of ten."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    seconds = min(_seconds(lambda: target.copy_(source)) for _ in range(10))
    return 2 * source.numel() * 4 / seconds / 1e9


def _seconds(call):
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
