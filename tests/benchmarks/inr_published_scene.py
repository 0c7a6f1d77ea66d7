"""The published scene and network, coarse to fine: seconds, memory, and PSNR against the phantom.

With a CUDA device the whole of it; on the CPU the same code on a corner of the field, for a few
steps, which tells the memory and the time of a step but is far too short for a result.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers.inr.fields import Softplus, extent_of, paper_field
from helpers.inr.fit import Stage, fit, reconstruct
from helpers.inr.fit.losses import hessian, mse_ssim, poisson
from helpers.inr.lightfield import LightField, Optics, psf, richardson_lucy
from helpers.inr.phantoms import microtubules
from helpers.inr.render import render
from helpers.metrics import psnr

from .harness import Table, threads

PLANES, STEP, WINDOW = 41, 0.17, 256
PHOTONS, BACKGROUND, READ_NOISE = 200.0, 4.0, 1.5
PUBLISHED_SIZE = (41, 499, 499)


@dataclass(frozen=True)
class Scale:
    """How much of the published scene a device is given."""

    device: str
    side: int  # 499 pixels were published; 500 can be halved so that both halves share a centre
    block: int
    n_tubes: int
    n_steps: tuple  # coarse, blocks, error-driven blocks; 5000, 15000 and 5000 were published


CORNER = Scale("cpu", side=72, block=36, n_tubes=12, n_steps=(4, 3, 3))
WHOLE = Scale("cuda", side=500, block=181, n_tubes=160, n_steps=(2000, 3000, 1000))


def run(options):
    """The corner, the rendering and `reconstruct` of the whole, all of it where there is a GPU."""
    yield compared(CORNER)
    yield rendered()
    yield reconstructed()
    if torch.cuda.is_available():
        yield compared(WHOLE)
    else:
        yield Table("whole scene skipped: torch finds no CUDA device on this machine", ("",))


def compared(scale):
    """Richardson-Lucy and the published network, with its own loss and with the one used here."""
    op, views, truth = recorded(scale)
    peak = float(views.max())
    table = Table(
        f"{scale.device}: {PLANES} x {scale.side} x {scale.side}, {len(views)} views, "
        f"blocks of {scale.block}, {PHOTONS:.0f} photons",
        ("", "steps", "s", "s/step of blocks", "GiB", "objective, first", "last", "PSNR, dB"),
        notes=[
            "GiB: on the GPU what torch allocated; on the CPU the process's peak so far",
            f"as published: views divided by {peak:.0f}, MSE + SSIM, leaky ReLU, no prior",
        ],
    )
    peak_memory(scale.device, reset=True)
    baseline = partial(richardson_lucy, op, views, 30, BACKGROUND, read_noise=READ_NOISE)
    seconds, result = timed(partial(baseline, device=scale.device))
    table.rows.append((
        "Richardson-Lucy", 30, seconds, "", peak_memory(scale.device), "", "",
        psnr(result.volume, truth, scaled=True),
    ))  # fmt: skip
    sensitivity = float(op.sensitivity.sum())
    mean = max(float((views - BACKGROUND).sum()) / sensitivity, 1e-3)
    contenders = {
        "network, Poisson + Hessian": dict(
            field=network(scale, Softplus(mean)),
            data=views,
            background=BACKGROUND,
            loss=partial(poisson, read_noise=READ_NOISE),
            prior=lambda volume: 0.02 * hessian(volume, smooth=1e-2 * mean),
            schedule=stages(scale, 1e-3),
        ),
        "network as published": dict(
            field=network(scale),
            data=views / peak,
            background=BACKGROUND / peak,
            loss=partial(mse_ssim, peak=1.0),
            schedule=stages(scale, 5e-4),
        ),
    }
    for name, case in contenders.items():
        peak_memory(scale.device, reset=True)
        data = case.pop("data")
        seconds, result = timed(
            partial(fit, case.pop("field"), op, data, device=scale.device, **case)
        )
        objective, at = result.history["objective"], result.history["seconds"]
        first = scale.n_steps[0]
        table.rows.append((
            name, result.n_iter, seconds, float(at[-1] - at[first - 1]) / (len(at) - first),
            peak_memory(scale.device), objective[0], objective[-1],
            psnr(result.volume.clip(min=0), truth, scaled=True),
        ))  # fmt: skip
    return table


def rendered():
    """The whole published volume from the published network, in chunks, on the CPU."""
    field = paper_field("tubulin", generator=torch.Generator().manual_seed(0))
    seconds, volume = timed(lambda: render(field, PUBLISHED_SIZE))
    size = " x ".join(map(str, volume.shape))
    table = Table("cpu: rendered in chunks", ("voxels", "s", "GiB", "wanted"))
    table.rows.append((size, seconds, peak_memory("cpu"), "6"))
    return table


def reconstructed():
    """The whole by `reconstruct`, its prior chosen by held-out pixels, on all cores."""
    op, views, _ = recorded(Scale("cpu", PUBLISHED_SIZE[1], 0, WHOLE.n_tubes, ()))
    noise = {"background": BACKGROUND, "read_noise": READ_NOISE}
    with threads(os.cpu_count()):
        seconds, found = timed(lambda: reconstruct(op, views, device="cpu", **noise))
    volume = torch.from_numpy(found.volume)
    table = Table(
        f"cpu: reconstruct, {' x '.join(map(str, found.volume.shape))}, {len(views)} views, "
        f"{os.cpu_count()} threads",
        ("", "measured", "wanted"),
    )
    table.rows += [
        ("minutes, the choice of the prior included", seconds / 60, "15"),
        ("GiB, the process's peak so far", peak_memory("cpu"), "6"),
        ("the prior and its slope, compiled, s", prior_seconds(volume), ""),
        ("made of tensors, in double precision, s", prior_seconds(volume.double()), ""),
    ]
    return table


def prior_seconds(volume):
    """Seconds that the Hessian prior of a volume and its slope take."""
    volume = volume.clone().requires_grad_()
    return timed(lambda: hessian(volume).backward())[0]


def recorded(scale):
    """Operator, views and truth: filaments on a grid twice as deep, with shot and read noise."""
    optics = Optics()
    shape, pixel = (2 * PLANES, scale.side, scale.side), optics.voxel_size
    fine = microtubules(shape, (STEP / 2, pixel, pixel), seed=1, n_tubes=scale.n_tubes)
    signal = operator(optics, shape)(fine)
    factor = PHOTONS / signal.max()
    expected = factor * signal.clip(min=0) + BACKGROUND
    rng = np.random.default_rng(1)
    views = rng.poisson(expected) + READ_NOISE * rng.standard_normal(expected.shape)
    truth = factor * fine.reshape(PLANES, 2, scale.side, scale.side).sum(1)
    op = operator(optics, (PLANES, *shape[1:]))
    return op, views.clip(min=0).astype(np.float32), truth


def operator(optics, shape):
    """The microscope on `shape`, which fills the published depth whatever its planes."""
    n = shape[0]
    depths = (np.arange(n) - (n - 1) / 2) * PLANES * STEP / n
    return LightField(psf(optics, depths, WINDOW), shape[1:])


def network(scale, head=None):
    """The published network on the published extent, with another head if one is given."""
    field = paper_field("tubulin", generator=torch.Generator().manual_seed(0))
    field.extent = extent_of((PLANES, scale.side, scale.side), 1)
    field.head = field.head if head is None else head
    return field


def stages(scale, rate):
    """Coarse, blocks, and blocks where the views are explained worst."""
    coarse, fine, driven = scale.n_steps
    return (
        Stage(coarse, rate, coarsen=2),
        Stage(fine, rate, block=scale.block),
        Stage(driven, rate, block=scale.block, sampling="error", refresh=max(driven // 20, 2)),
    )


def timed(call):
    """Seconds that a call takes, the device's included, and what it gives."""
    start = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def peak_memory(device, *, reset=False):
    """GiB at most so far: what torch allocated on a GPU, or the whole process; 0 if unknown."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), 0.0)
