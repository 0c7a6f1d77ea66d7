"""One call of the light-field operator, and of its adjoint, beside two ways to do it plainly."""

from __future__ import annotations

import statistics

import numpy as np
import torch

from helpers.inr.lightfield import LightField, Optics, psf

from .harness import Table, interleaved, ratio, threads

PLANES, SIDE = 20, 120
WANTED = 10.0  # milliseconds


def run(options):
    """7 views of 20 planes of 120 x 120, on one thread."""
    with threads(1):
        yield _calls(options)


def _calls(options):
    h = psf(Optics(), (np.arange(PLANES) - (PLANES - 1) / 2) * 0.34, SIDE)
    op = LightField(h)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(op.in_shape, generator=generator)
    y = torch.rand(op.out_shape, generator=generator)
    kernels = torch.as_tensor(h)
    contenders = {
        "forward": lambda: op(x),
        "adjoint": lambda: op.adjoint(y),
        "forward, view by view": lambda: _view_by_view(x, kernels),
        "forward, nothing kept": lambda: LightField(h)(x),
    }
    expected = op(x)
    for name in ("forward, view by view", "forward, nothing kept"):
        worst = float((contenders[name]() - expected).abs().max() / expected.max())
        assert worst < 1e-4, f"{name} gives other views: {worst:.1e}"
    seconds = interleaved(contenders, options.repeats or 25)
    table = Table(
        f"7 x {PLANES} x {SIDE}^2, one thread",
        ("call", "best ms", "median ms", "times forward", "wanted ms"),
    )
    for name, times in seconds.items():
        table.rows.append((
            name, 1e3 * min(times), 1e3 * statistics.median(times),
            ratio(times, seconds["forward"]),
            f"{WANTED:g}" if name == "forward" else "",
        ))  # fmt: skip
    return table


def _view_by_view(x, kernels):
    """Each view by itself: the spectra of the volume and of the PSF are made again for each."""
    grid = [n + k - 1 for n, k in zip(x.shape[1:], kernels.shape[2:], strict=True)]
    first = kernels.shape[-1] // 2
    views = []
    for kernel in kernels:
        product = torch.fft.rfft2(x, s=grid) * torch.fft.rfft2(kernel, s=grid)
        whole = torch.fft.irfft2(product.sum(0), s=grid)
        views.append(whole[first : first + x.shape[1], first : first + x.shape[2]])
    return torch.stack(views)
