"""Frames of two fused x-ray cameras a second, on one core."""

from __future__ import annotations

import statistics
import time

import torch

from helpers import xray
from helpers.xray import baselines
from helpers.xray.reconstruct import by_tiles

from .harness import Table, threads

SIDE, REPEATS = 1024, 3


def run(options):
    """A field of 1024 x 1024, whole and in tiles; processor time."""
    del options
    table = Table(
        f"{SIDE} x {SIDE} px, frames a second of one core's processor time",
        ("method", "tile", "frames/s", "wanted"),
        notes=[f"median of {REPEATS}; reading, scoring and writing left out"],
    )
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 3, 1, SIDE // 4, SIDE // 4, generator=generator)
    hr = torch.rand(1, 2, 1, SIDE, SIDE, generator=generator)
    tau = torch.tensor([0.5])
    methods = {
        "linear": (baselines.linear, None),
        "adaptive blend": (baselines.adaptive_blend, None),
        "FlowFuse": (xray.load("flowfuse", device="cpu"), None),
        "FlowFuse, tiles": (xray.load("flowfuse", device="cpu"), 256),
        "EDVR small, tiles": (xray.load("edvr", device="cpu"), 256),
        "Swin small, tiles": (xray.load("swin", device="cpu"), 256),
    }
    with threads(1), torch.inference_mode():
        for name, (method, tile) in methods.items():
            seconds = []
            for _ in range(REPEATS):
                start = time.process_time()
                by_tiles(method, lr, hr, tau, tile=tile)
                seconds.append(time.process_time() - start)
            wanted = "≥ 1" if name == "FlowFuse" else ""
            table.rows.append((name, tile or "whole", 1 / statistics.median(seconds), wanted))
    yield table
