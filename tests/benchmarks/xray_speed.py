"""Frames of two fused x-ray cameras a second, on one core."""

from __future__ import annotations

import statistics
import time

import torch

from helpers import xray
from helpers._arrays import bits_of
from helpers.xray import baselines
from helpers.xray.reconstruct import by_tiles

from .harness import Table, threads

SIDE, REPEATS = 1024, 3
PRECISIONS = "float32", "bfloat16"


def run(options):
    """A field of 1024 x 1024, whole and in tiles; processor time."""
    del options
    table = Table(
        f"{SIDE} x {SIDE} px, frames a second of one core's processor time",
        ("method", "tile", "precision", "frames/s", "wanted"),
        notes=[f"median of {REPEATS}; reading, scoring and writing left out"],
    )
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 3, 1, SIDE // 4, SIDE // 4, generator=generator)
    hr = torch.rand(1, 2, 1, SIDE, SIDE, generator=generator)
    tau = torch.tensor([0.5])
    methods = {
        "linear": (baselines.linear, None, ("float32",)),
        "adaptive blend": (baselines.adaptive_blend, None, ("float32",)),
        "Bayesian fusion": (baselines.bayesian_fusion, None, ("float32",)),
        "FlowFuse": (xray.load("flowfuse", device="cpu"), None, PRECISIONS),
        "FlowFuse, tiles": (xray.load("flowfuse", device="cpu"), 256, PRECISIONS),
        "EDVR small, tiles": (xray.load("edvr", device="cpu"), 256, PRECISIONS),
        "Swin small, tiles": (xray.load("swin", device="cpu"), 256, PRECISIONS),
    }
    with threads(1), torch.inference_mode():
        for name, (method, tile, precisions) in methods.items():
            for precision in precisions:
                seconds = []
                for _ in range(REPEATS):
                    start = time.process_time()
                    with bits_of(precision, torch.device("cpu"))():
                        by_tiles(method, lr, hr, tau, tile=tile)
                    seconds.append(time.process_time() - start)
                wanted = "≥ 1" if name == "FlowFuse" else ""
                speed = 1 / statistics.median(seconds)
                table.rows.append((name, tile or "whole", precision, speed, wanted))
    yield table
