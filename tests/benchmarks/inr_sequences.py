"""Sequences: steps of a further frame from the one before it, and frames fitted at once."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from helpers.inr import fields, phantoms
from helpers.inr.fit import Stage, fit, fit_sequence, losses
from helpers.inr.fit.spacetime import space_time_hessian
from helpers.metrics import psnr

from .harness import Table, threads

SEEDS = (501, 502, 503)
SHAPE = (16, 56, 56)
STEPS = 200
BETAS = (0.5, 0.95)
WEIGHT = 2.4e-3  # of the prior, as held-out pixels chose it at 100 photons on another scene
RATES = {"voxels": 0.6, "field": 3e-2}
known = dict(loss=partial(losses.poisson, read_noise=1.5), background=4.0, device="cpu")


def run(options):
    """A further frame of a slow sequence, then fast motion."""
    del options
    with threads(1):
        yield _slow()
        yield _fast()


def _slow():
    table = Table(
        f"A further frame, 0.1 later: PSNR in dB, against {STEPS} steps from scratch",
        ("start", "seed", "apart, dB", "scratch", "in 5 steps", "in 20 steps"),
        notes=["wanted: 5 steps at most 0.5 dB, 20 steps at most 0.1 dB below scratch"],
    )
    for name in RATES:
        for seed in SEEDS:
            table.rows.append((name, seed, *_further_frame(name, seed)))
    return table


def _further_frame(name, seed):
    before, frame = (phantoms.simulate(seed=seed, t=t, shape=SHAPE) for t in (0.4, 0.5))
    quality = partial(psnr, truth=frame.truth, scaled=True)
    start, rate = _start(name, before), RATES[name]
    # from scratch the field takes twice the rate: of three rates the best by its objective
    whole = Stage(STEPS, rate if name == "voxels" else 2 * rate, betas=BETAS)
    scratch = fit(start, frame.op, frame.views, schedule=whole, prior=_prior, **known)
    warm = fit(start, before.op, before.views, schedule=whole, prior=_prior, **known)
    if name == "field":
        warm.field.network.requires_grad_(False)
    few = [
        fit(
            warm, frame.op, frame.views, prior=_prior, **known,
            schedule=Stage(STEPS // part, rate, betas=BETAS),
        )
        for part in (40, 10)
    ]  # fmt: skip
    return (quality(before.truth), *(quality(result.volume) for result in (scratch, *few)))


def _fast():
    table = Table(
        "Fast motion, 8 frames of 12 x 40 x 40, 0.6 apart: mean PSNR in dB, free voxels",
        ("seed", "apart, dB", "scratch", "chain", "its steps", "joint", "joint, rank 6"),
        notes=["scratch and joint take 200 steps; wanted: joint above chain"],
    )
    for seed in SEEDS:
        sims = [
            phantoms.simulate(seed=seed, t=0.6 * k, shape=(12, 40, 40), n_tubes=9) for k in range(8)
        ]
        frames = np.stack([sim.views for sim in sims])
        stage = Stage(STEPS, RATES["voxels"], betas=BETAS)
        go = partial(fit_sequence, _start("voxels", sims[0]), sims[0].op, frames, schedule=stage)
        alone = {init: go(init, prior=_prior, **known) for init in ("scratch", "previous")}
        joint, narrow = (go("joint", prior=_joint_prior, rank=rank, **known) for rank in (8, 6))
        quality = [_mean_quality(r, sims) for r in (*alone.values(), joint, narrow)]
        steps = alone["previous"].n_steps[1:].mean()
        apart = psnr(sims[0].truth, sims[1].truth, scaled=True)
        table.rows.append((seed, apart, *quality[:2], steps, *quality[2:]))
    return table


def _mean_quality(result, sims):
    pairs = zip(result.volumes, sims, strict=True)
    return np.mean([psnr(volume, sim.truth, scaled=True) for volume, sim in pairs])


def _start(name, sim):
    mean = float((sim.views - sim.background).sum() / sim.truth.size)
    head, shape = fields.Softplus(mean, 10 * mean), sim.truth.shape
    if name == "voxels":
        return fields.Voxels(shape, head)
    rng = torch.Generator().manual_seed(0)
    levels = fields.FeatureGrid(fields.pyramid(shape, 4), 4, generator=rng)
    network = fields.MLP(16, 16, 2, generator=rng)
    return fields.Field(levels, network, head, fields.extent_of(shape, sim.voxel_size))


def _prior(volume):
    return WEIGHT * losses.hessian(volume, weights=(0.2171 / 0.34, 1, 1))


def _joint_prior(volumes):
    return WEIGHT * space_time_hessian(volumes, weights=(1, 0.2171 / 0.34, 1, 1))
