"""Fusion of two x-ray cameras beside fusion without learning, over kinds of the coarse camera.

The coarse frames are made here, from the truth of the simulator, by code that no method uses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from helpers import xray
from helpers.xray import baselines, calibrate
from helpers.xray.data import MoviePairs
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, simulate

from .harness import Table, threads

SEEDS = range(7000, 7008)  # no training, page or other test has them
FIELD = (120, 120)  # a multiple of every ratio
WITHOUT_LEARNING = (
    "bicubic",
    "linear",
    "detail_injection",
    "adaptive_blend",
    "bayesian_fusion",
)


@dataclass(frozen=True)
class Coarse:
    """The coarse camera of one row."""

    name: str
    sigma: float | None = 2.2  # sharp pixels; None is antialiased bicubic, as in REDS
    photons: float = 3000.0
    gain: float = 1.0
    ratio: int = 4

    def __call__(self, truth, rng):
        """Frames (T, y, x) of the truth (T, Y, X)."""
        if self.sigma is None:
            image = torch.from_numpy(truth)[:, None]
            small = {"scale_factor": 1 / self.ratio, "mode": "bicubic", "antialias": True}
            seen = F.interpolate(image, **small)[:, 0].numpy()
        else:
            soft = gaussian_filter(truth, (0, self.sigma, self.sigma), mode="nearest")
            t, height, width = truth.shape
            blocks = (t, height // self.ratio, self.ratio, width // self.ratio, self.ratio)
            seen = soft.reshape(blocks).mean((2, 4))
        counts = rng.poisson(seen.clip(0) * self.photons)
        return (self.gain * counts / self.photons).astype(np.float32)


CAMERAS = (
    Coarse("plain bins, no blur", sigma=0.0),
    Coarse("blur 1 px", sigma=1.0),
    Coarse("blur 2.2 px, as the book"),
    Coarse("blur 3 px", sigma=3.0),
    Coarse("bicubic, as REDS", sigma=None),
    Coarse("100 photons", photons=100.0),
    Coarse("300 photons", photons=300.0),
    Coarse("1000 photons", photons=1000.0),
    Coarse("10 000 photons", photons=10_000.0),
    Coarse("gain 0.9", gain=0.9),
    Coarse("gain 1.1", gain=1.1),
    Coarse("ratio 2", ratio=2),
    Coarse("ratio 3", ratio=3),
    Coarse("ratio 5", ratio=5),
)


def run(options):
    """PSNR of every camera and generator: means of eight movies, the gain movie by movie."""
    del options
    table = Table(
        "PSNR in dB, 8 movies of 120 x 120 px that no training has seen, key frames every 10",
        (
            "coarse camera", "generator", "linear", "best without learning", "FlowFuse",
            "gain", "± movies", "worst movie", "worst over linear", "wanted",
        ),
        notes=[
            "no method is told the camera: it is measured from the co-exposed frames",
            "without learning: the best of " + ", ".join(WITHOUT_LEARNING) + ", movie by movie",
            "wanted: a gain of 2 in every row, and never below linear",
        ],
    )  # fmt: skip
    with threads(1):
        net = xray.load("flowfuse", device="cpu")
        for generator in ("standard", "other"):
            experiment = Experiment(generator=generator, shape=FIELD)
            movies = [simulate(experiment, seed) for seed in SEEDS]
            for coarse in CAMERAS:
                table.rows.append((coarse.name, generator, *_row(coarse, movies, net)))
    yield table


def _row(coarse, movies, net):
    found = {name: [] for name in (*WITHOUT_LEARNING, "net")}
    for seed, movie in zip(SEEDS, movies, strict=True):
        seen = replace(movie, lr=coarse(movie.truth, np.random.default_rng(seed)))
        frames = {"scale": coarse.ratio}
        camera = calibrate.camera(seen.lr, seen.hr, seen.key_times, **frames)
        pairs = MoviePairs([seen], every=3)
        for name, scores in found.items():
            method = net if name == "net" else getattr(baselines, name)
            scores.append(evaluate(method, pairs, camera=camera).mean("psnr"))
    psnr = {name: np.array(scores) for name, scores in found.items()}
    best = np.max([psnr[name] for name in WITHOUT_LEARNING], axis=0)
    gain, over_linear = psnr["net"] - best, psnr["net"] - psnr["linear"]
    means = (float(part.mean()) for part in (psnr["linear"], best, psnr["net"], gain))
    worst = float(gain.min()), float(over_linear.min())
    return *(round(x, 2) for x in (*means, float(gain.std(ddof=1)), *worst)), "≥ 2"
