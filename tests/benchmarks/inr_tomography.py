"""Tomography: the operator against turning and summing, the choice of the weights, new scenes."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from helpers.inr import fields
from helpers.inr.fit import Stage, fit, losses
from helpers.inr.phantoms import simulate_cryo, simulate_opt
from helpers.inr.tomography import ParallelBeam, sirt
from helpers.metrics import psnr

from .harness import Table, interleaved, ratio, threads

SHAPE = (40, 40, 40)
DESIGN, SEEDS = (100, 101, 102), (11, 12, 13)
SCENES = {"OPT, 7 views": (simulate_opt, 7), "cryo, 13 tilts": (simulate_cryo, 13)}
HELD_OUT = {"OPT, 7 views": ([1], [4]), "cryo, 13 tilts": ([1, 5, 9], [2, 6, 10])}
WEIGHTS = {
    ("OPT, 7 views", "field"): (0.5, 1.0, 2.0, 4.0),
    ("OPT, 7 views", "voxels"): (1.0, 2.0, 4.0),
    ("cryo, 13 tilts", "field"): (0.12, 0.25, 0.5),
    ("cryo, 13 tilts", "voxels"): (0.2, 0.4, 0.8),
}
CHOSEN = {
    ("OPT, 7 views", "field"): (1.0, 150),
    ("OPT, 7 views", "voxels"): (2.0, 100),
    ("cryo, 13 tilts", "field"): (0.25, 60),
    ("cryo, 13 tilts", "voxels"): (0.4, 100),
}
quality = partial(psnr, scaled=True)


def run(options):
    """The operator's time; then what the page on tomography says, and how its weights came."""
    with threads(1):
        yield _operator(options.repeats or 9)
        if max(options.sizes) >= 256:
            yield _choice()
            yield _new_scenes()


def rotate_and_sum(volume, angles_deg, width):
    """Projections by bilinear sampling on a turned grid, as in many programs: (N, Y, S)."""
    depth, _, breadth = volume.shape
    steps = torch.arange(width) - (width - 1) / 2
    slices = volume.movedim(1, 0)[:, None]
    views = []
    for angle in np.deg2rad(angles_deg):
        x = steps * np.cos(angle) - steps[:, None] * np.sin(angle)
        z = steps * np.sin(angle) + steps[:, None] * np.cos(angle)
        grid = torch.stack([2 * x / breadth, 2 * z / depth], dim=-1).float()
        turned = F.grid_sample(
            slices, grid.expand(len(slices), -1, -1, -1), padding_mode="zeros", align_corners=False
        )
        views.append(turned[:, 0].sum(1))
    return torch.stack(views)


def _operator(repeats):
    table = Table(
        "forward and gradient of half the squared views, one thread",
        ("volume, views", "sparse ms", "turned ms", "ratio", "differ", "sums differ"),
        notes=["the two agree up to how a voxel is spread; light: exact, and as sampled"],
    )
    for n, count in ((48, 7), (64, 13), (64, 21)):
        op = ParallelBeam(np.linspace(-60, 60, count), (n, n, n))
        scene = simulate_opt(3, shape=(n, n, n), seed=1).truth
        volume = torch.tensor(gaussian_filter(scene, 1.5)).requires_grad_()

        def gradient(project, volume=volume):
            return torch.autograd.grad(project(volume).square().sum() / 2, volume)[0]

        turned = partial(rotate_and_sum, angles_deg=op.angles_deg, width=op.out_shape[2])
        calls = {"sparse": partial(gradient, op), "turned": partial(gradient, turned)}
        gradient(op)  # the matrices are made once
        times = interleaved(calls, repeats)
        with torch.no_grad():
            a, b = op(volume), turned(volume)
        table.rows.append((
            f"{n}^3, {count}", 1e3 * min(times["sparse"]), 1e3 * min(times["turned"]),
            ratio(times["turned"], times["sparse"]), float((a - b).norm() / a.norm()),
            float((a.sum((1, 2)) / b.sum((1, 2)) - 1).abs().max()),
        ))  # fmt: skip
    return table


def _likelihood(data):
    if data.background:
        return losses.poisson
    rim = data.projections[..., [0, 1, 2, 3, -4, -3, -2, -1]]
    return partial(losses.gaussian, sigma=float(rim.std()))


def _recover(data, model, weight, n_steps, views=None):
    views = list(range(len(data.projections))) if views is None else views
    op, y = data.op.select(views), data.projections[views]
    mean = float((y - data.background).sum() / op(np.ones(op.in_shape)).sum())
    head = fields.Softplus(mean)
    start = fields.Voxels(op.in_shape, head)
    if model == "field":
        seeded = torch.Generator().manual_seed(0)
        levels = [[n // k for n in op.in_shape] for k in (8, 4, 2)]
        grid = fields.FeatureGrid(levels, 2, generator=seeded)
        start = fields.Field(grid, fields.MLP(6, 8, 2, generator=seeded), head)
    stage = Stage(n_steps, 0.05 if model == "field" else 1.0, betas=(0.8, 0.9))
    return fit(
        start, op, y, loss=_likelihood(data), background=data.background, schedule=stage,
        prior=lambda v: weight * losses.hessian(v / head.scale), device="cpu",
    ).volume  # fmt: skip


def _choice():
    table = Table(
        f"misfit of held-out views per pixel, mean of scenes {DESIGN} and two folds; PSNR of all",
        ("scene", "model", "weight", "held-out", "PSNR dB, by the truth", "chosen"),
    )
    for (kind, model), weights in WEIGHTS.items():
        simulate, n = SCENES[kind]
        chosen, n_steps = CHOSEN[kind, model]
        for weight in weights:
            held, found = [], []
            for seed in DESIGN:
                data = simulate(n, shape=SHAPE, seed=seed)
                for out in HELD_OUT[kind]:
                    kept = [view for view in range(n) if view not in out]
                    volume = _recover(data, model, weight, n_steps, kept)
                    predicted = torch.as_tensor(data.op.select(out)(volume) + data.background)
                    unseen = torch.as_tensor(data.projections[out])
                    held.append(float(_likelihood(data)(predicted, unseen)) / unseen.numel())
                found.append(quality(_recover(data, model, weight, n_steps), data.truth))
            mark = "*" if weight == chosen else ""
            row = (kind, model, weight, f"{np.mean(held):.4f}", f"{np.mean(found):.2f}", mark)
            table.rows.append(row)
    return table


def _new_scenes():
    table = Table(
        f"PSNR in dB on scenes {SEEDS}; SIRT's iteration is chosen by the truth",
        ("scene", "model", *map(str, SEEDS), "mean", "over SIRT, best", "wanted"),
    )
    for kind, (simulate, n) in SCENES.items():
        rows = {"SIRT, 30": [], "SIRT, best": [], "voxels": [], "field": []}
        for seed in SEEDS:
            data = simulate(n, shape=SHAPE, seed=seed)
            curve = []
            sirt(
                data.op, data.projections - data.background, 150, device="cpu",
                callback=lambda k, v, c=curve, t=data.truth: c.append(quality(v, t)),
            )  # fmt: skip
            rows["SIRT, 30"].append(curve[29])
            rows["SIRT, best"].append(max(curve))
            for model in ("voxels", "field"):
                volume = _recover(data, model, *CHOSEN[kind, model])
                rows[model].append(quality(volume, data.truth))
        for model, values in rows.items():
            gain = np.subtract(values, rows["SIRT, best"])
            text = f"{gain.mean():+.2f} ± {gain.std(ddof=1):.2f}"
            texts = [f"{value:.2f}" for value in (*values, np.mean(values))]
            table.rows.append((kind, model, *texts, text, "1" if model == "field" else ""))
    return table
