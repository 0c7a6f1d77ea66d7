"""Deconvolution: time of an iteration beside scikit-image, and quality on bars not seen before."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from skimage.restoration import richardson_lucy as skimage_richardson_lucy

from helpers.metrics import psnr
from helpers.optics import Pupil
from helpers.renderer.deconvolve import (
    Blur,
    blind,
    choose_weight,
    map_tv,
    richardson_lucy,
    widefield_kernel,
)
from helpers.renderer.simulate import bars, widefield
from helpers.renderer.simulate.volumes import ABERRATION

from .harness import Table, interleaved, ratio, threads

SHAPE, BACKGROUND = (24, 64, 64), 5.0
SEEDS = (2010, 2011, 2012)
PUPIL = Pupil(1.3, 0.6, 1.515, 0.08, samples=96)


def run(options):
    """Time of an iteration, then quality where sizes are not small."""
    with threads(1):
        yield _times(options.repeats or 5)
        if max(options.sizes) >= 256:
            yield _quality()


def kernel_of(zernikes):
    pupil = Pupil(1.3, 0.6, 1.515, 0.08, samples=96, zernikes=zernikes)
    size = [2 * n - 1 for n in SHAPE]
    return widefield_kernel(pupil, size, 0.2, planes=SHAPE[0]).astype(np.float32)


def _times(repeats):
    """Ten iterations each. What surrounds them, such as the kernel's transform, is in the time."""
    kernel = kernel_of(ABERRATION)
    small = kernel[12:35, 48:79, 48:79]
    table = Table(
        "seconds for an iteration of Richardson-Lucy, float32, one thread",
        ("kernel", "scikit-image", "here", "ratio", "MAP-TV here"),
        notes=["scikit-image has no background: it is given the counts without it"],
    )
    counts = widefield(bars(SHAPE, seed=SEEDS[0]), seed=SEEDS[0]).counts
    for h in (kernel, small):
        op = Blur(h, SHAPE)
        theirs = partial(
            skimage_richardson_lucy, counts, h, num_iter=10, clip=False, filter_epsilon=1e-6
        )
        ours = partial(richardson_lucy, op, counts, 10, BACKGROUND, device="cpu")
        penalised = partial(map_tv, op, counts, 3e-4, BACKGROUND, n_iter=10, tol=0, device="cpu")
        ours()
        seconds = interleaved({"theirs": theirs, "ours": ours, "map": penalised}, repeats)
        best = {name: min(values) / 10 for name, values in seconds.items()}
        size = " x ".join(map(str, h.shape))
        faster = ratio(seconds["theirs"], seconds["ours"])
        table.rows.append((size, best["theirs"], best["ours"], faster, best["map"]))
    return table


def _quality():
    table = Table(
        "PSNR in dB; the iteration of Richardson-Lucy is chosen by the truth, the weight is not",
        ("photons", "seed", "RL", "at", "RL fast", "at", "MAP-TV", "gain", "wanted", "weight",
         "RL, no aberration", "blind", "milliwaves", "s, MAP-TV", "s, blind"),
        notes=[
            "milliwaves: error of the pupil before and after; at most half is wanted",
            "s, MAP-TV: with the choice of the weight",
        ],
    )  # fmt: skip
    for level in (1000.0, 200.0):
        for seed in SEEDS:
            table.rows.append((level, seed, *_scene(seed, level)))
    return table


def _scene(seed, level):
    stack = widefield(bars(SHAPE, seed=seed, level=level), seed=seed)
    op, unaberrated = Blur(kernel_of(ABERRATION), SHAPE), Blur(kernel_of({}), SHAPE)
    plain, at = _best(stack, op, 400)
    fast, fast_at = _best(stack, op, 150, accelerate=True)
    wrong, _ = _best(stack, unaberrated, 150, accelerate=True)
    begun = time.perf_counter()
    weight = choose_weight(op, stack.counts, BACKGROUND, device="cpu").weight
    fit = map_tv(op, stack.counts, weight, BACKGROUND, device="cpu")
    middle = time.perf_counter()
    found = blind(stack.counts, PUPIL, weight, z_step=0.2, background=10.0, device="cpu")
    ended = time.perf_counter()
    quality = psnr(fit.volume, stack.truth)
    errors = [
        1e3 * np.linalg.norm([zernikes.get(j, 0) - c for j, c in ABERRATION.items()])
        for zernikes in ({}, found.zernikes)
    ]
    return (
        plain, at, fast, fast_at, quality, f"{quality - max(plain, fast):+.2f}", "+0.2", weight,
        wrong, psnr(found.volume, stack.truth), f"{errors[0]:.0f} -> {errors[1]:.0f}",
        middle - begun, ended - middle,
    )  # fmt: skip


def _best(stack, op, n_iter, **options):
    """The best PSNR of any iteration, by the truth, and which it was."""
    scores = {}

    def judge(k, x):
        if k % 4 == 0:
            scores[k] = psnr(op.crop(x).cpu().numpy(), stack.truth)

    richardson_lucy(op, stack.counts, n_iter, BACKGROUND, judge, device="cpu", **options)
    best = max(scores, key=scores.get)
    return scores[best], best
