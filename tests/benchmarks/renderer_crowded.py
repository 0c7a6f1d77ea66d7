"""Crowded frames: how many a second, how many molecules right, from alone to far too dense."""

from __future__ import annotations

import time

import numpy as np

from helpers.noise import SCMOS
from helpers.renderer.detect import localize, match
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


def _timed(frames, width, noise):
    start = time.process_time()
    found = localize(frames, width, noise, device="cpu")
    return found, time.process_time() - start


def _scores(found, truth, radius):
    result = match(found, truth, radius)
    return result.n_matched, result.n_missed, result.n_extra, result.jaccard, result.rmse
