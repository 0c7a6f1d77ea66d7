"""Fits of single molecules beside picasso's present fitter: 5 free parameters, one thread."""

from __future__ import annotations

import contextlib
import io
import statistics
import warnings

import numpy as np
import torch

from helpers.noise import EMCCD, SCMOS, Poisson, PoissonGauss
from helpers.renderer.mle import crlb, fit
from helpers.renderer.mle.cpu import dispatch as compiled
from helpers.renderer.renderers import Gaussian2D, Spline3D
from helpers.renderer.simulate import aberrated_psf, blinks, gaussian_spots

from .harness import Table, interleaved, ratio, threads

FIT, TORCH = "fit, compiled", "fit, torch"
PEER, EXACT = "picasso.fitting, as it runs", "picasso.fitting, to the bound"
CASES = ((13, 200, 2), (13, 1000, 10), (13, 5000, 10), (9, 1000, 10), (7, 1000, 10))
N_SPOTS, N_TORCH, N_CAMERA = 20000, 4096, 4000
CAMERAS = {
    "Poisson": Poisson(),
    "SCMOS, 2 e": SCMOS(4.0),
    "PoissonGauss, 0.2 e": PoissonGauss(0.04),
    "PoissonGauss, 2 e": PoissonGauss(4.0),
    "PoissonGauss, 20 e": PoissonGauss(400.0),
    "EMCCD, gain 300": EMCCD(300.0),
    "EMCCD, gain 200, 50 e": EMCCD(200.0, 2500.0),
}


def run(options):
    """A table for each box and amount of light, for the cameras, for a depth, and for the GPU."""
    repeats = options.repeats or 5
    with threads(1):
        for case in CASES:
            yield _beside_picasso(*case, repeats)
        yield _cameras(repeats)
        yield _depth(repeats)
    if torch.cuda.is_available():
        yield _on_cuda(repeats)


def _beside_picasso(box, photons, background, repeats):
    spot = Gaussian2D((box, box))
    spots = gaussian_spots(N_SPOTS, (box, box), photons=photons, background=background, seed=2000)
    bound = crlb(spot, spots.truth, Poisson())["x"]
    found, calls = {}, {}

    def contender(name, n, call):
        call(spots.images[:8])  # loads and compiles
        calls[name] = lambda: found.__setitem__(name, call(spots.images[:n]))

    contender(FIT, N_SPOTS, lambda y: fit(y, spot, Poisson(), device="cpu").params["x"])
    contender(TORCH, N_TORCH, lambda y: _in_torch(y, spot))
    peer = _picasso()
    if callable(peer):
        contender(PEER, N_SPOTS, peer)
        contender(EXACT, N_SPOTS, lambda y: peer(y, tolerance=1e-4, max_iterations=50))
    seconds = interleaved(calls, repeats)
    each = {name: [t / len(found[name]) for t in times] for name, times in seconds.items()}
    table = Table(
        f"{box} x {box} px, {photons} photons, background {background}: {repeats} turns",
        ("", "fits/s, best", "median", "RMSE/bound in x", "x picasso", "x at the bound", "wanted"),
        notes=[
            "both find their starts in this time; fit finds bounds and goodness of fit as well",
            "RMSE without errors above 1 px: of 20 000 fits, so many were",
        ],
    )
    for name, times in each.items():
        error = found[name] - spots.truth["x"][: len(found[name])]
        near = abs(error) < 1
        table.notes.append(f"{name}: {int((~near).sum())}")
        table.rows.append((
            name, 1 / min(times), 1 / statistics.median(times),
            float(np.sqrt(np.mean(error[near] ** 2) / np.mean(bound**2))),
            *(ratio(each[other], times) if other in each else "-" for other in (PEER, EXACT)),
            "4" if name == FIT else "",
        ))  # fmt: skip
    if PEER not in each:
        table.notes.append(peer)
    return table


def _cameras(repeats):
    spot = Gaussian2D((13, 13))
    truth = gaussian_spots(N_CAMERA, photons=1000, background=10, seed=2000).truth
    images, calls, found = {}, {}, {}
    for name, noise in CAMERAS.items():
        images[name] = noise.sample(spot.render(truth), np.random.default_rng(2000))
        fit(images[name][:8], spot, noise, device="cpu")  # compiles, and makes the tables
        calls[name] = lambda name=name, noise=noise: found.__setitem__(
            name, fit(images[name], spot, noise, device="cpu")
        )
    seconds = interleaved(calls, repeats)
    table = Table(
        f"cameras, 13 x 13 px, 1000 photons, background 10: {repeats} turns",
        ("", "fits/s, best", "median", "RMSE/bound in x", "in y", "wanted"),
    )
    for name, noise in CAMERAS.items():
        bound = crlb(spot, truth, noise)
        error = [
            float(np.sqrt(np.mean(((found[name].params[k] - truth[k]) / bound[k]) ** 2)))
            for k in ("x", "y")
        ]
        speed = N_CAMERA / min(seconds[name]), N_CAMERA / statistics.median(seconds[name])
        table.rows.append((name, *speed, *error, "5000, 1.05"))
    return table


def _in_torch(images, spot):
    """The loop that serves every renderer and every device."""
    serves = compiled.serves
    compiled.serves = lambda problem: False
    try:
        return fit(images, spot, Poisson(), device="cpu").params["x"]
    finally:
        compiled.serves = serves


def _picasso():
    """The peer's maximum-likelihood fit of x in px from the centre, or why there is none.

    Its own starts and, unless told otherwise, its own tolerance of 0.01 and at most 20 steps: what
    its programs run with. Of large images it then ends before the bound.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from picasso.fitting import gaussfit, seeds
    except ImportError as error:
        return f"picasso is not installed ({error}): make bench installs it"

    def peer(images, **schedule):
        size = images.shape[2]
        start = seeds.initial_parameters_gauss(images, size, spherical=True)
        theta, *_ = gaussfit.fit_spots(
            gaussfit.SPHERICAL, images, start.astype(np.float64), mle=True, **schedule
        )
        return theta[:, 1] - (size - 1) / 2

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
        fit(images, Gaussian2D((13, 13)), Poisson(), chunk=len(images))
        torch.cuda.synchronize()

    work()
    seconds = interleaved({"fit": work}, repeats)["fit"]
    table = Table("on CUDA, float32, 200 000 spots", ("", "fits/s, best", "wanted"))
    table.rows.append((torch.cuda.get_device_name(), len(images) / min(seconds), "1e6"))
    return table
