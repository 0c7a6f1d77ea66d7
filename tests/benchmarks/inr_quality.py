"""A league on light fields: the field, Richardson-Lucy, free voxels under three priors, Gaussians.

All have the same counts, likelihood, operator and positivity. The rivals of the field are at their
best: their iteration, or one of five weights, is chosen by the truth, scene by scene; the field
chooses its own. The published network takes minutes for one scene, and has a benchmark of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from helpers.inr import fields, phantoms
from helpers.inr.deconvolve import richardson_lucy
from helpers.inr.fit import Stage, fit, losses, reconstruct
from helpers.inr.fit._reconstruct import SHORT, steps
from helpers.metrics import fourier_correlation, psnr

from . import denoiser_prior
from .gaussians import drawn_from
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
DENOISER_WEIGHTS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
FIRST, FURTHER = 120, 80  # steps of a fit: from scratch, and from that of the weight before
N_GAUSSIANS, NUMBERS, MIDDLE = 1000, (100, 300, 1000, 3000), 1e-3
CONTENDERS = ("Richardson-Lucy", "TV", "Hessian", "denoiser", "Gaussians", "field")


@dataclass(frozen=True)
class Entry:
    """The best volume of a contender on a scene, by the truth, and what the contender took."""

    psnr: float
    cone: float
    setting: float
    seconds: float  # of processor time, for all settings together
    n_settings: int


def run(options):
    """PSNR of every scene, gains of the field, the missing cone, settings, seconds."""
    del options
    with threads(1):
        begun = time.process_time()
        kinds = {kind for kind, _ in OBJECTS.values()}
        denoisers = {kind: denoiser_prior.trained(without=kind) for kind in sorted(kinds)}
        training = (time.process_time() - begun) / len(denoisers)
        scores = {}
        for name, (kind, _) in OBJECTS.items():
            for seed in SEEDS:
                scores[name, seed] = entries(scene_of(name, seed), denoisers[kind])
        yield quality(scores)
        yield gains(scores)
        yield cones(scores)
        yield settings(scores)
        yield seconds(scores, training)
        yield numbers()


def scene_of(name, seed):
    """A recording of one of the objects."""
    kind, settings = OBJECTS[name]
    return phantoms.simulate(kind, seed=seed, shape=SHAPE, photons=PHOTONS, **settings)


def entries(scene, denoiser):
    """What each contender makes of a scene, by name."""
    noise = {"background": scene.background, "read_noise": scene.read_noise}
    flat = differences(losses.total_variation, scene)
    bend = differences(losses.hessian, scene)

    def lucy():
        looks = range(5, 251, 5)
        return richardson_lucy(
            scene.op, scene.views, 250, snapshots=looks, device="cpu", **noise
        ).snapshots

    def learned(weight):  # it has several minima: each fit from scratch
        prior = denoiser_prior.Denoising(denoiser, mean_of(scene))
        return voxels(scene, prior, [weight])[weight]

    def field():
        found = reconstruct(scene.op, scene.views, device="cpu", **noise)
        return {found.settings["choice"].weight: found.volume}

    contenders = (
        lucy,
        lambda: voxels(scene, flat, WEIGHTS),
        lambda: voxels(scene, bend, WEIGHTS),
        lambda: {weight: learned(weight) for weight in DENOISER_WEIGHTS},
        lambda: gaussians(scene, bend, WEIGHTS),
        field,
    )
    return {name: best(scene, call) for name, call in zip(CONTENDERS, contenders, strict=True)}


def best(scene, call):
    """The best of the volumes that a call gives by setting."""
    begun = time.process_time()
    volumes = call()
    taken = time.process_time() - begun
    at = max(volumes, key=lambda setting: psnr(volumes[setting], scene.truth, scaled=True))
    return Entry(
        psnr(volumes[at], scene.truth, scaled=True),
        fourier_correlation(volumes[at], scene.truth, scene.voxel_size),
        at,
        taken,
        len(volumes),
    )


def mean_of(scene):
    """Mean of a voxel that explains the light of all views together."""
    return float((scene.views - scene.background).sum() / scene.op.sensitivity.sum())


def differences(prior, scene):
    """Total variation or Hessian in the unit of a scene."""
    return partial(prior, weights=steps(scene.op), smooth=1e-3 * mean_of(scene))


def voxels(scene, prior, weights):
    """Free, positive voxels under a prior, by weight."""
    mean = mean_of(scene)
    start = fields.Voxels(SHAPE, fields.Softplus(mean, 10 * mean))
    return path(scene, start, prior, weights, 0.6)


def gaussians(scene, prior, weights, n=N_GAUSSIANS):
    """Gaussians under a prior, by weight; at first where a short Richardson-Lucy has light."""
    noise = {"background": scene.background, "read_noise": scene.read_noise}
    estimate = richardson_lucy(scene.op, scene.views, 20, device="cpu", **noise).volume
    start = drawn_from(estimate, n, scene.voxel_size, torch.Generator().manual_seed(0))
    return path(scene, start, prior, weights, 0.05)


def path(scene, fitted, prior, weights, rate):
    """Volumes that explain the counts, by weight of the prior: each fit goes on from a stronger."""
    volumes = {}
    for weight in sorted(weights, reverse=True):
        fitted = fit(
            fitted,
            scene.op,
            scene.views,
            loss=partial(losses.poisson, read_noise=scene.read_noise),
            prior=lambda volume, weight=weight: weight * prior(volume),
            schedule=Stage(FURTHER if volumes else FIRST, rate, betas=SHORT),
            background=scene.background,
            device="cpu",
        )
        volumes[weight] = fitted.volume
    return volumes


def quality(scores):
    """PSNR in dB of every contender on every scene."""
    size = " x ".join(map(str, SHAPE))
    return Table(
        f"PSNR in dB after the best common factor; {size}, seven views, {PHOTONS} photons",
        ("object", "seed", *CONTENDERS),
        [(*scene, *(found[name].psnr for name in CONTENDERS)) for scene, found in scores.items()],
        [
            "all but the field: the best iteration or weight by the truth",
            f"TV, Hessian: free voxels; {FIRST} steps with the strongest weight, from there "
            f"{FURTHER} steps with each weaker one",
            f"Gaussians: {N_GAUSSIANS} of any direction under this Hessian, in the same steps",
            "denoiser: free voxels under regularisation by denoising, "
            f"{FIRST} steps with each weight; a bias-free network in 3-D, trained for "
            f"{denoiser_prior.STEPS} steps to remove noise from simulated objects of all these "
            f"kinds but that of the table's row: {', '.join(denoiser_prior.KINDS)}",
            "field: helpers.inr.fit.reconstruct; the weight of its Hessian by held-out pixels",
        ],
    )


def gains(scores):
    """How much better the field is than its rivals."""
    table = Table(
        "gain of the field in dB, mean ± s.d. over the seeds",
        (
            "object",
            "over Richardson-Lucy",
            "wanted",
            "over the better of TV and Hessian",
            "wanted",
            "over the best of all rivals",
        ),
        notes=["the best rival: the best of all five on that scene, by the truth"],
    )
    for name in OBJECTS:
        found = np.array([[scores[name, seed][c].psnr for c in CONTENDERS] for seed in SEEDS])
        lucy, maps, rivals, field = found[:, 0], found[:, 1:3], found[:, :-1], found[:, -1]
        over_lucy, over_maps, over_all = (
            spread(field - rival, "+.2f") for rival in (lucy, maps.max(1), rivals.max(1))
        )
        table.rows.append((name, over_lucy, "1.5", over_maps, "0.5", over_all))
    return table


def cones(scores):
    """Whether what no view has seen was filled in rightly."""
    return Table(
        "correlation with the truth in the axial cone, which no view sees, mean ± s.d.",
        ("object", *CONTENDERS),
        [
            (name, *(spread([scores[name, s][c].cone for s in SEEDS], ".2f") for c in CONTENDERS))
            for name in OBJECTS
        ],
        ["of the volumes of the first table; more than 50 degrees above the lateral plane"],
    )


def settings(scores):
    """Which settings were the best, over the seeds."""

    def over_seeds(name, contender):
        chosen = sorted({scores[name, seed][contender].setting for seed in SEEDS})
        return " to ".join(f"{at:.3g}" for at in dict.fromkeys((chosen[0], chosen[-1])))

    return Table(
        "settings, least to most over the seeds",
        ("object", *CONTENDERS),
        [(name, *(over_seeds(name, contender) for contender in CONTENDERS)) for name in OBJECTS],
        [
            "iterations; weights of the prior, the field's by held-out pixels",
            f"to choose from: every fifth iteration to 250; {plain(WEIGHTS)} for TV, Hessian and "
            f"Gaussians; {plain(DENOISER_WEIGHTS)} for the denoiser",
        ],
    )


def seconds(scores, training):
    """What a contender takes for one scene."""
    table = Table(
        "processor time for a scene in s, mean over all scenes",
        ("", "with one setting", "with all that were tried"),
        notes=[
            "Richardson-Lucy: the first column has the iterations that were the best",
            "field: its own choice of the weight by held-out pixels is always included",
            f"denoiser: not its training, {training:.0f} s for each kind of object left out",
        ],
    )
    for name in CONTENDERS:
        found = [entry[name] for entry in scores.values()]
        share = [e.setting / 250 if name == CONTENDERS[0] else 1 / e.n_settings for e in found]
        taken = np.array([e.seconds for e in found])
        table.rows.append((name, float((taken * share).mean()), float(taken.mean())))
    return table


def numbers():
    """What the number of Gaussians and a prior are worth, on one scene of each object."""
    table = Table(
        f"Gaussians: PSNR in dB by their number, seed {SEEDS[0]}",
        ("object", "prior", *map(str, NUMBERS)),
        notes=[f"Hessian: with a weight of {plain((MIDDLE,))}, not tuned"],
    )
    for name in OBJECTS:
        scene = scene_of(name, SEEDS[0])
        bend = differences(losses.hessian, scene)
        for prior, weight in {"none": 0.0, "Hessian": MIDDLE}.items():
            found = (gaussians(scene, bend, [weight], n)[weight] for n in NUMBERS)
            table.rows.append((name, prior, *(psnr(v, scene.truth, scaled=True) for v in found)))
    return table


def spread(values, form):
    """Mean ± standard deviation as text."""
    values = np.asarray(values)
    return f"{values.mean():{form}} ± {values.std(ddof=1):{form.lstrip('+')}}"


def plain(weights):
    """Weights as text."""
    return ", ".join(f"{weight:g}" for weight in weights)
