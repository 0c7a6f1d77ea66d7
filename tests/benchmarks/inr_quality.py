"""A league on light fields: the field, Richardson-Lucy, total variation, free voxels; four objects.

All have the same counts, likelihood, operator and positivity. The rivals of the field are at their
best: their iteration or weight is chosen by the truth, scene by scene; the field chooses its own.
"""

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

SEEDS = range(501, 506)
OBJECTS = {
    "tubes": ("mitochondria", {}),
    "tubes in cytoplasm": ("mitochondria", {"cytoplasm": 0.15}),
    "filaments": ("microtubules", {}),
    "beads": ("beads", {}),
}
SHAPE, PHOTONS = (12, 48, 48), 100
WEIGHTS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
N_STEPS = 200
CONTENDERS = ("Richardson-Lucy", "TV", "Hessian", "field")
COLUMNS = (
    "object",
    "seed",
    *CONTENDERS,
    "RL iterations",
    "TV weight",
    "Hessian weight",
    "field, s",
)


def run(options):
    """PSNR in dB of every scene, then the gains of the field."""
    del options
    size = " x ".join(map(str, SHAPE))
    table = Table(
        f"PSNR in dB after the best common factor; {size}, seven views, {PHOTONS} photons",
        COLUMNS,
        notes=[
            "iterations of Richardson-Lucy and weights of TV and Hessian: the best by the truth",
            f"TV and Hessian: free voxels, {N_STEPS} steps, weights {WEIGHTS}",
            "field: helpers.inr.fit.reconstruct; the weight of its Hessian by held-out pixels",
        ],
    )
    with threads(1):
        for name, (kind, settings) in OBJECTS.items():
            for seed in SEEDS:
                table.rows.append((name, seed, *_scene(kind, seed, settings)))
    yield table
    yield _gains(table.rows)


def _scene(kind, seed, settings):
    scene = phantoms.simulate(kind, seed=seed, shape=SHAPE, photons=PHOTONS, **settings)
    noise = {"background": scene.background, "read_noise": scene.read_noise}
    quality = partial(psnr, truth=scene.truth, scaled=True)

    run_ = richardson_lucy(
        scene.op, scene.views, 250, snapshots=range(5, 251, 5), device="cpu", **noise
    )
    curve = {k: quality(volume) for k, volume in run_.snapshots.items()}
    at = max(curve, key=curve.get)

    begun = time.process_time()
    result = reconstruct(scene.op, scene.views, device="cpu", **noise)
    seconds = time.process_time() - begun

    mean = result.field.head.mean
    best = {}
    for prior in (losses.total_variation, losses.hessian):
        tried = {w: quality(_voxels(scene, mean, prior, w)) for w in WEIGHTS}
        weight = max(tried, key=tried.get)
        best[prior] = tried[weight], weight
    (tv, tv_weight), (bend, bend_weight) = best.values()
    return curve[at], tv, bend, quality(result.volume), at, tv_weight, bend_weight, seconds


def _voxels(scene, mean, prior, weight):
    """Maximum a posteriori of free, positive voxels."""
    return fit(
        fields.Voxels(scene.truth.shape, fields.Softplus(mean, 10 * mean)),
        scene.op,
        scene.views,
        loss=partial(losses.poisson, read_noise=scene.read_noise),
        prior=lambda v: weight * prior(v, weights=steps(scene.op), smooth=1e-3 * mean),
        schedule=Stage(N_STEPS, 0.6, betas=SHORT),
        background=scene.background,
        device="cpu",
    ).volume


def _gains(rows):
    table = Table(
        "gain of the field in dB, mean ± s.d. over the seeds",
        ("object", "over Richardson-Lucy", "wanted", "over the better of TV and Hessian", "wanted"),
    )
    for name in OBJECTS:
        values = np.array([row[2:6] for row in rows if row[0] == name], dtype=float)
        field = values[:, 3]
        over_lucy, over_best = (
            f"{gain.mean():+.2f} ± {gain.std(ddof=1):.2f}"
            for gain in (field - values[:, 0], field - values[:, 1:3].max(1))
        )
        table.rows.append((name, over_lucy, "1.5", over_best, "0.5"))
    return table
