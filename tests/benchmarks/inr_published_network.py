"""The published network with the published loss on scenes of the league: does it still gain?"""

from __future__ import annotations

import time
from functools import partial

import torch

from helpers.inr import fields
from helpers.inr.fit import Stage, fit, losses, reconstruct
from helpers.metrics import psnr

from .harness import Table, threads
from .inr_quality import OBJECTS, SEEDS, SHAPE, scene_of

COARSE, WHOLE, LOOKS = 600, 240, 6  # steps, and how often the fit is looked at


def run(options):
    """PSNR by the number of steps, one scene of each object; the field of `reconstruct` beside."""
    del options
    n, seed = COARSE + WHOLE, SEEDS[0]
    table = Table(
        f"PSNR in dB after so many steps, seed {seed}",
        ("object", *(f"{n * k // LOOKS}" for k in range(1, LOOKS + 1)), "s", "field", "field, s"),
        notes=[
            "as published: views divided by their peak, paper_field('tubulin') with a leaky ReLU, "
            "losses.mse_ssim, no prior",
            f"{COARSE} steps on half as many pixels a side, {WHOLE} on all; 25000 were published",
            "s: processor time; field: helpers.inr.fit.reconstruct on the same views",
        ],
    )
    with threads(1):
        for name in OBJECTS:
            scene = scene_of(name, seed)
            begun = time.process_time()
            path = published(scene)
            middle = time.process_time()
            field = reconstruct(
                scene.op,
                scene.views,
                background=scene.background,
                read_noise=scene.read_noise,
                device="cpu",
            )
            table.rows.append((
                name, *path, middle - begun,
                psnr(field.volume, scene.truth, scaled=True), time.process_time() - middle,
            ))  # fmt: skip
    yield table


def published(scene):
    """PSNR in dB at each look."""
    peak, path = float(scene.views.max()), []

    def look(step):
        if step * LOOKS % (COARSE + WHOLE) == 0:
            volume = step.model.volume(SHAPE).detach().clamp(min=0)
            path.append(psnr(volume, scene.truth, scaled=True))

    fit(
        fields.paper_field("tubulin", shape=SHAPE, generator=torch.Generator().manual_seed(0)),
        scene.op,
        scene.views / peak,
        loss=partial(losses.mse_ssim, peak=1.0),
        schedule=(Stage(COARSE, 5e-4, coarsen=2), Stage(WHOLE, 5e-4)),
        background=scene.background / peak,
        callback=look,
        device="cpu",
    )
    return path
