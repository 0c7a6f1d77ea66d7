"""FlowFuse beside a recurrent video network: same movies, same processor time, from scratch.

The peer is of the BasicVSR++ kind, written for this comparison (`video_network.py`). It sees all
coarse frames between two key frames, FlowFuse three of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from helpers import xray
from helpers.xray import baselines
from helpers.xray.data import MoviePairs, stack
from helpers.xray.data.samples import Sample
from helpers.xray.flowfuse import FlowFuse, FlowFuseConfig
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.train import Schedule, train

from .harness import Table, threads
from .video_network import VideoNetwork
from .xray_cameras import SEEDS, WITHOUT_LEARNING

TRAINING = range(48)
TRIAL = range(2100, 2104)  # movies on which the peer's learning rate is chosen
RATES = (1e-3, 2e-3)  # 5e-3 is best in a minute, and diverges in four
CONFIG = FlowFuseConfig(both_ways=True, told=True)  # as it is shipped
AT_A_TIME = 8
KINDS = ("psnr", "moving")


class Clips:
    """What lies between two key frames, as one sample: all coarse frames in, all targets out."""

    def __init__(self, pairs):
        self.movies = pairs.movies
        movies, times, keys = pairs.places.T
        self.places = sorted(set(zip(movies.tolist(), keys.tolist(), strict=True)))
        of = list(zip(movies.tolist(), keys.tolist(), strict=True))
        self.times = [[int(t) for t, p in zip(times, of, strict=True) if p == q]
                      for q in self.places]  # fmt: skip

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        (number, k), times = self.places[index], self.times[index]
        movie = self.movies[number]
        start, end = (int(t) for t in movie.key_times[k : k + 2])
        tau = (np.array(times, np.float32) - start) / (end - start)
        coarse = movie.lr[start : end + 1, None]
        return Sample(coarse, movie.hr[k : k + 2, None], tau, movie.truth[times])


@dataclass(frozen=True)
class Budget(Schedule):
    """A schedule in processor time: half a cosine that ends when the seconds are spent."""

    seconds: float = 60.0
    start: float = 0.0

    def spent(self):
        """Share of the budget."""
        return (time.process_time() - self.start) / self.seconds

    def rate_at(self, step):
        """Learning rate of a step, now."""
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.spent())))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * fall


@dataclass(frozen=True)
class Contender:
    """A network to be trained: how it is made, its samples, the batch and the learning rate."""

    name: str
    make: type
    data: object
    batch: int
    images: int  # in a batch
    rate: float

    def trained(self, seed, seconds, rate=None):
        """Training from scratch, and its processor seconds."""
        generator = torch.Generator().manual_seed(seed)
        start = time.process_time()
        schedule = Budget(10**6, rate or self.rate, batch=self.batch, seconds=seconds, start=start)
        run = train(
            self.make(generator=generator),
            self.data,
            schedule=schedule,
            generator=torch.Generator().manual_seed(seed),
            callback=lambda step: schedule.spent() >= 1,
            device="cpu",
        )
        return run, time.process_time() - start


def run(options):
    """Train both for each seed; judge them and fusion without learning on unseen movies."""
    with threads(1):
        pairs = MoviePairs([simulate(Experiment(), seed) for seed in TRAINING])
        clips = Clips(pairs)
        peer = Contender("video network", VideoNetwork, clips, 1, len(clips[0].tau), RATES[0])
        ours = Contender("FlowFuse", _flowfuse, pairs, 4, 4, 1.5e-3)
        rate, trial = chosen(peer, options.seconds / 4)
        trial.notes.append("FlowFuse keeps the rate that it is shipped with")
        yield trial
        table, scores = trainings((ours, peer), {peer.name: rate}, options)
        yield table
        yield judged(scores, options, ours.name, peer.name)


def _flowfuse(generator):
    return FlowFuse(CONFIG, generator=generator)


def chosen(peer, seconds):
    """The peer's learning rate, and the trial that chose it."""
    table = Table(
        f"learning rate of the {peer.name}, {seconds:.0f} s of training each",
        ("learning rate", "steps", "PSNR, dB"),
        notes=[f"mean of {len(TRIAL)} other movies; the better rate is used below"],
    )  # fmt: skip
    movies = [simulate(Experiment(), seed) for seed in TRIAL]
    found = {}
    for rate in RATES:
        done, _ = peer.trained(99, seconds, rate)
        found[rate] = float(_score(done.net, movies).mean("psnr"))
        table.rows.append((rate, done.n_steps, round(found[rate], 2)))
    return max(found, key=found.get), table


def trainings(contenders, rates, options):
    """What each training was, and the scores (method, generator) -> kind -> (seeds, movies)."""
    table = Table(
        f"trainings from scratch, {options.seconds:.0f} s of processor time each, "
        f"{len(TRAINING)} movies",
        ("network", "parameters", "learning rate", "images a step", "seed", "steps", "s",
         "s/step", "loss, first tenth", "loss, last tenth"),
        notes=["one core; the rate falls with the processor time, along half a cosine",
               "loss: Charbonnier, in transmission, on squares of 64 px"],
    )  # fmt: skip
    movies = {
        generator: [simulate(Experiment(generator=generator), seed) for seed in SEEDS]
        for generator in ("standard", "other")
    }
    scores = {}
    for generator, unseen in movies.items():
        for name in WITHOUT_LEARNING:
            _add(scores, name, generator, _score(getattr(baselines, name), unseen))
        shipped = xray.load("flowfuse", device="cpu")
        _add(scores, "FlowFuse, shipped", generator, _score(shipped, unseen))
    for seed in range(options.seeds):
        for one in contenders:
            rate = rates.get(one.name, one.rate)
            done, seconds = one.trained(seed, options.seconds, rate)
            tenth = max(1, done.n_steps // 10)
            first, last = done.history[:tenth].mean(), done.history[-tenth:].mean()
            size = sum(p.numel() for p in done.net.parameters())
            table.rows.append(
                (one.name, size, rate, one.images, seed, done.n_steps, round(seconds),
                 round(seconds / done.n_steps, 3), float(first), float(last))
            )  # fmt: skip
            print(*table.rows[-1], flush=True)  # this takes long
            for generator, unseen in movies.items():
                _add(scores, one.name, generator, _score(done.net, unseen))
    return table, scores


def _add(scores, name, generator, score):
    found = scores.setdefault((name, generator), {kind: [] for kind in KINDS})
    for kind in KINDS:
        found[kind].append(score.by_clip(kind))


def _score(method, movies):
    """Its score on every third frame between two key frames."""
    pairs = MoviePairs(movies, every=3)
    if not isinstance(method, VideoNetwork):
        return evaluate(method, pairs)
    # a whole clip at once, then image by image in the order of the pairs
    with torch.no_grad():
        images = [method(*stack([clip])[:3])[0] for clip in Clips(pairs)]
    waiting = iter(torch.cat(images)[:, None].split(AT_A_TIME))
    return evaluate(lambda *_: next(waiting), pairs, batch=AT_A_TIME)


def judged(scores, options, ours, peer, plain=()):
    """Scores of the networks and of `plain` fusion without learning, and of `ours` less `peer`."""
    table = Table(
        f"PSNR in dB, {len(SEEDS)} movies of each generator that no training has seen, "
        "key frames every 10",
        ("method", "generator", "all pixels", "± movies", "± seeds", "moving pixels",
         "over no learning", "± movies", "worst movie"),
        notes=["without learning: the best of " + ", ".join(WITHOUT_LEARNING) + ", movie by movie",
               f"trained here: means over {options.seeds} seeds; ± is a standard deviation, of the "
               "movies (each a mean over the seeds) or of the seeds",
               "worst movie: the least gain over the best without learning, of any seed",
               "FlowFuse, shipped: a longer training on more kinds of movies; no contest"],
    )  # fmt: skip
    for generator in ("standard", "other"):
        found = {
            name: {kind: np.array(values) for kind, values in kinds.items()}  # (seeds, movies)
            for (name, where), kinds in scores.items()
            if where == generator
        }
        simple = {name: found.pop(name) for name in WITHOUT_LEARNING}
        best = {kind: np.max([s[kind] for s in simple.values()], axis=0) for kind in KINDS}
        found = {name: simple[name] for name in plain} | found
        table.rows.append(("best without learning", generator, *_means(best), "", "", ""))
        for name, scored in found.items():
            gain = scored["psnr"] - best["psnr"]
            over = gain.mean(), gain.mean(0).std(ddof=1), gain.min()
            table.rows.append((name, generator, *_means(scored), *map(_rounded, over)))
        ahead = {kind: found[ours][kind] - found[peer][kind] for kind in KINDS}
        name = f"{ours} less {peer}"
        table.rows.append((name, generator, *_means(ahead), "", "", ""))
    return table


def _means(scored):
    """Mean, spread over movies, spread over seeds, and mean where things move."""
    psnr = scored["psnr"]
    seeds = _rounded(psnr.mean(1).std(ddof=1)) if len(psnr) > 1 else ""
    return (
        _rounded(psnr.mean()),
        _rounded(psnr.mean(0).std(ddof=1)),
        seeds,
        _rounded(scored["moving"].mean()),
    )


def _rounded(number):
    return round(float(number), 2)
