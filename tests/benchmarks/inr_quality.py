"""Light fields: reconstruct against Richardson-Lucy and free voxels, on scenes not seen before."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from helpers.inr import fields, phantoms
from helpers.inr.deconvolve import richardson_lucy
from helpers.inr.fit import Stage, fit, losses, reconstruct
from helpers.inr.fit._reconstruct import SHORT, steps
from helpers.metrics import psnr

from .harness import Table, threads

SEEDS = (501, 502, 503)
CASES = {
    "16x56x56, 100 photons": {"photons": 100},
    "16x56x56, 30 photons": {"photons": 30},
    "16x56x56, 100 photons, 3 views": {"photons": 100, "views": "hex3"},
    "20x72x72, 9 tubes, 200 photons": {"shape": (20, 72, 72), "n_tubes": 9, "photons": 200},
}
WANTED = {
    "16x56x56, 100 photons": ("1.5", "0.8"),
    "20x72x72, 9 tubes, 200 photons": ("3", ""),
}
COLUMNS = ("scene", "seed", "RL, 30", "RL, best", "at", "voxels", "field", "field, s")


def run(options):
    """PSNR in dB of every scene, then the gains."""
    del options
    table = Table(
        "PSNR in dB after the best common factor; RL's best iteration is chosen by the truth",
        COLUMNS,
        notes=["the strength of the prior is chosen by held-out pixels, in each scene anew"],
    )
    with threads(1):
        for case, settings in CASES.items():
            for seed in SEEDS:
                table.rows.append((case, seed, *_scene(seed, settings)))
    yield table
    yield _gains(table.rows)


def _scene(seed, settings):
    scene = phantoms.simulate("mitochondria", seed=seed, **settings)
    noise = {"background": scene.background, "read_noise": scene.read_noise}
    quality = partial(psnr, truth=scene.truth, scaled=True)

    baseline = richardson_lucy(
        scene.op, scene.views, 250, snapshots=range(5, 251, 5), device="cpu", **noise
    )
    curve = {k: quality(volume) for k, volume in baseline.snapshots.items()}
    best = max(curve, key=curve.get)

    begun = time.perf_counter()
    result = reconstruct(scene.op, scene.views, device="cpu", **noise)
    seconds = time.perf_counter() - begun

    mean = result.field.head.mean
    weight = result.settings["choice"].weight
    voxels = fit(
        fields.Voxels(scene.truth.shape, fields.Softplus(mean, 10 * mean)),
        scene.op,
        scene.views,
        loss=partial(losses.poisson, read_noise=scene.read_noise),
        prior=lambda v: weight * losses.hessian(v, weights=steps(scene.op), smooth=1e-3 * mean),
        schedule=Stage(result.n_iter, 0.6, betas=SHORT),
        background=scene.background,
        device="cpu",
    )
    return curve[30], curve[best], best, quality(voxels.volume), quality(result.volume), seconds


def _gains(rows):
    table = Table(
        "gain of the field in dB, mean ± s.d. over the seeds",
        ("scene", "over RL, 30", "wanted", "over RL, best", "wanted", "over voxels"),
    )
    for case in CASES:
        values = np.array([row[2:] for row in rows if row[0] == case], dtype=float)
        gains = values[:, 4, None] - values[:, [0, 1, 3]]
        over30, over_best, over_voxels = (f"{g.mean():+.2f} ± {g.std(ddof=1):.2f}" for g in gains.T)
        wanted = WANTED.get(case, ("", ""))
        table.rows.append((case, over30, wanted[0], over_best, wanted[1], over_voxels))
    return table
