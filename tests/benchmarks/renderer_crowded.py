"""Crowded frames: how many a second, how many molecules right, from alone to far too dense."""

from __future__ import annotations

import time

import numpy as np
from scipy.special import ndtr

from helpers.noise import SCMOS, Poisson
from helpers.renderer.detect import localize, match
from helpers.renderer.mle import crlb
from helpers.renderer.renderers import Gaussian3D
from helpers.renderer.simulate import blinking_movie, crowded_frames, molecules, network

from .harness import Table, threads

SEEDS = (2000, 2001, 2002)
SCORES = ("pairs", "missed", "extra", "Jaccard", "RMSE px")


def run(options):
    """The standard task, a sweep over density, and a movie; processor time of one thread."""
    del options
    with threads(1):
        localize(crowded_frames(20, seed=0)[0], 5**0.5, SCMOS(1e4), device="cpu")  # compiles
        yield _standard()
        yield _density()
        yield _movie()
        yield _depth()


def _standard():
    table = Table(
        "32 x 32 px, none to four molecules, read noise 100, 1000 frames",
        ("seed", "frames/s", *SCORES),
        notes=["wanted: 100 frames/s, Jaccard 0.95, RMSE 0.15 px"],
    )
    for seed in SEEDS:
        frames, truth = crowded_frames(1000, seed=seed)
        found, seconds = _timed(frames, 5**0.5, SCMOS(1e4))
        table.rows.append((seed, len(frames) / seconds, *_scores(found, truth, 2.5)))
    return table


def _density():
    table = Table(
        "32 x 32 px of 0.1 µm, spots of 1.3 px, 1000 photons, 10 of background, 200 frames",
        ("molecules per µm²", "frames/s", "molecules/s", *SCORES),
    )
    for n in (1, 2, 4, 8, 16, 32):
        frames, truth = crowded_frames(
            200, emitters=n, present=1, photons=(800, 1200), background=(10, 10), sigma=1.3,
            read_noise=0, extent=0.8, seed=SEEDS[0] + n,
        )  # fmt: skip
        found, seconds = _timed(frames, 1.3, None)
        speed = len(frames) / seconds, len(found) / seconds
        table.rows.append((n / (0.8 * 3.2) ** 2, *speed, *_scores(found, truth, 2.0)))
    return table


def _movie():
    table = Table(
        "a movie of filaments, 64 x 64 px, 400 frames; truth above 100 photons in a frame",
        ("dark frames", "frames/s", "molecules/s", *SCORES),
    )
    dyes = molecules(network(8, (6.4, 6.4), seed=SEEDS[0]), 100, seed=SEEDS[0])
    for dark in (300, 1000, 3000):
        movie = blinking_movie(dyes, (64, 64), 400, time_off=dark, seed=SEEDS[0])
        frames = np.stack([movie[k] for k in range(len(movie))])
        found, seconds = _timed(frames, 1.3, SCMOS(1.0))
        truth = movie.truth[movie.truth.photons > 100]
        truth = truth[np.maximum(np.abs(truth.x), np.abs(truth.y)) < 32]
        speed = len(frames) / seconds, len(found) / seconds
        table.rows.append((dark, *speed, *_scores(found, truth, 2.0)))
    return table


def _depth():
    """Astigmatic spots at two densities; the bound is that of a molecule alone."""
    side, pixel, n_frames = 64, 0.1, {0.2: 60, 2.0: 12}
    table = Table(
        "astigmatic, 64 x 64 px of 0.1 µm, 3000 photons, 10 of background, depths of +-0.45 µm",
        (
            "molecules per µm²", "frames/s", "molecules", "recall", "Jaccard", "lateral RMSE nm",
            "bound", "axial RMSE nm", "bound", "efficiency %",
        ),
        notes=[
            "pairs within 250 nm in the plane and 500 nm in depth; efficiency as in the challenge "
            "of 2016; the bounds are those of molecules that stand alone",
        ],
    )  # fmt: skip
    for density, n in n_frames.items():
        frames, truth = _astigmatic_frames(n, side, pixel, density, SEEDS[0])
        found, seconds = _timed(frames, Gaussian3D((17, 17)), Poisson())
        result = match(found, truth, 0.25 / pixel, 0.5)
        known = {"z": truth.z, "photons": 3000.0, "background": 10.0}
        bound = crlb(Gaussian3D((17, 17)), known, Poisson())
        lateral = np.sqrt(np.mean(bound["x"] ** 2 + bound["y"] ** 2))
        table.rows.append((
            density, n / seconds, len(truth), result.recall, result.jaccard,
            1000 * pixel * 2**0.5 * result.rmse, 1000 * pixel * float(lateral),
            1000 * result.rmse_z, 1000 * float(np.sqrt(np.mean(bound["z"] ** 2))),
            result.efficiency(pixel),
        ))  # fmt: skip
    return table


def _astigmatic_frames(n, side, pixel, density, seed, depth=0.45, photons=3000.0):
    """Frames of spots that SciPy draws, in the inner 0.8 of each side, and their truth."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(density * (0.8 * side * pixel) ** 2, n)
    frame = np.repeat(np.arange(n), count)
    x, y = 0.8 * side * (rng.random((2, len(frame))) - 0.5)
    z = rng.uniform(-depth, depth, len(frame))
    edges = np.arange(side + 1) - side / 2
    along, down = (
        np.diff(ndtr((edges - c[:, None]) / (1.3 * np.hypot(1, (z - focus) / 0.4))[:, None]))
        for c, focus in ((x, 0.25), (y, -0.25))
    )
    rate = np.full((n, side, side), 10.0)
    np.add.at(rate, frame, photons * down[:, :, None] * along[:, None, :])
    truth = np.rec.fromarrays([frame, x, y, z], names="frame,x,y,z")
    return rng.poisson(rate).astype(np.float32), truth


def _timed(frames, width, noise):
    start = time.process_time()
    found = localize(frames, width, noise, device="cpu")
    return found, time.process_time() - start


def _scores(found, truth, radius):
    result = match(found, truth, radius)
    return result.n_matched, result.n_missed, result.n_extra, result.jaccard, result.rmse
