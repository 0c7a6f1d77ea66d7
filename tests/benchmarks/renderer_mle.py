"""Fits of single molecules beside picasso's: 13 x 13 pixels, 5 free parameters, one thread."""

from __future__ import annotations

import contextlib
import io
import statistics
import warnings

import numpy as np
import torch

from helpers.noise import Poisson
from helpers.renderer.mle import crlb, fit
from helpers.renderer.mle.cpu import dispatch as compiled
from helpers.renderer.renderers import Gaussian2D, Spline3D
from helpers.renderer.simulate import aberrated_psf, blinks, gaussian_spots

from .harness import Table, interleaved, ratio, threads

FIT, TORCH, PEER = "fit, compiled", "fit, torch", "picasso gaussmle, sigma"
LIGHT = ((200, 2), (1000, 10), (5000, 10))
N_SPOTS, N_TORCH = 20000, 4096
SPOT = Gaussian2D((13, 13))


def run(options):
    """A table for each amount of light, one of depth, and one of the graphics card."""
    repeats = options.repeats or 5
    with threads(1):
        for photons, background in LIGHT:
            yield _beside_picasso(photons, background, repeats)
        yield _depth(repeats)
    if torch.cuda.is_available():
        yield _on_cuda(repeats)


def _beside_picasso(photons, background, repeats):
    spots = gaussian_spots(N_SPOTS, photons=photons, background=background, seed=2000)
    bound = crlb(SPOT, spots.truth, Poisson())["x"]
    found, calls = {}, {}

    def contender(name, n, call):
        call(spots.images[:8])  # loads and compiles
        calls[name] = lambda: found.__setitem__(name, call(spots.images[:n]))

    contender(FIT, N_SPOTS, lambda y: fit(y, SPOT, Poisson(), device="cpu").params["x"])
    contender(TORCH, N_TORCH, _in_torch)
    peer = _picasso()
    if callable(peer):
        contender(PEER, N_TORCH, peer)
    seconds = interleaved(calls, repeats)
    each = {name: [t / len(found[name]) for t in times] for name, times in seconds.items()}
    table = Table(
        f"{photons} photons, background {background}: {repeats} turns",
        ("", "fits/s, best", "median", "RMSE/bound in x", "x picasso", "wanted"),
        notes=["fit finds its starts, bounds and goodness of fit in this time as well"],
    )
    for name, times in each.items():
        error = found[name] - spots.truth["x"][: len(found[name])]
        table.rows.append((
            name, 1 / min(times), 1 / statistics.median(times),
            float(np.sqrt(np.mean(error**2) / np.mean(bound**2))),
            ratio(each[PEER], times) if PEER in each else "-", "15" if name == FIT else "",
        ))  # fmt: skip
    if PEER not in each:
        table.notes.append(peer)
    return table


def _in_torch(images):
    """The loop that serves every renderer and every device."""
    serves = compiled.serves
    compiled.serves = lambda problem: False
    try:
        return fit(images, SPOT, Poisson(), device="cpu").params["x"]
    finally:
        compiled.serves = serves


def _picasso():
    """The peer's fit of x in px from the centre, or why there is none.

    Its own tolerance, 0.001 px, and at most 100 steps: what its programs run with.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from picasso.gaussmle import gaussmle
    except ImportError as error:
        return f"picasso is not installed ({error}): make bench installs it"

    def peer(images):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself deprecated
            theta, *_ = gaussmle(images, 0.001, 100, method="sigma")
        return theta[:, 0] - (images.shape[2] - 1) / 2

    return peer


def _depth(repeats):
    aberrations = {5: 0.08, 7: 0.03, 11: -0.03}
    stack = aberrated_psf((25, 25), aberrations, z=np.arange(-14, 15) * 0.05)
    renderer = Spline3D((17, 17), stack, 0.05)
    data = blinks(
        aberrations, 1000, shape=(17, 17), photons=(3000, 3000), background=(20, 20), seed=2000
    )
    truth = {name: getattr(data, name) for name in renderer.params}
    bound = crlb(renderer, truth, Poisson())
    fits = fit(data.images, renderer, Poisson(), device="cpu")  # compiles
    seconds = interleaved(
        {"fit": lambda: fit(data.images, renderer, Poisson(), device="cpu")}, repeats
    )["fit"]
    table = Table(
        "a cubic spline on images of a pupil, 17 x 17, 3000 photons, five starts in depth",
        ("", "measured", "wanted"),
    )
    table.rows.append(("fits/s, best", len(data.images) / min(seconds), "1000"))
    for name in ("x", "y", "z"):
        error = fits.params[name] - truth[name]
        value = float(np.sqrt(np.mean(error**2) / np.mean(bound[name] ** 2)))
        table.rows.append((f"RMSE/bound in {name}", value, "0.9 to 1.1"))
    off = float(np.mean(abs(fits.params["z"] - truth["z"]) > 0.3))
    table.rows.append(("z off by more than 0.3 µm", off, "0.01"))
    return table


def _on_cuda(repeats):
    images = torch.as_tensor(gaussian_spots(200_000, seed=2000).images).cuda()

    def work():
        fit(images, SPOT, Poisson(), chunk=len(images))
        torch.cuda.synchronize()

    work()
    seconds = interleaved({"fit": work}, repeats)["fit"]
    table = Table("on CUDA, float32, 200 000 spots", ("", "fits/s, best", "wanted"))
    table.rows.append((torch.cuda.get_device_name(), len(images) / min(seconds), "1e6"))
    return table
