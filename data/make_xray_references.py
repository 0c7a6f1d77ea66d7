"""Make data/checkpoints/xray_edvr.safetensors and xray_swin.safetensors: train, judge, write.

    python data/make_xray_references.py edvr        # or swin; five minutes on one quiet core
    python data/make_xray_references.py control     # last: FlowFuse, same movies and CPU time
    python data/make_xray_references.py alignment   # FlowFuse with and without flows, five seeds
    python data/make_xray_references.py edvr --score

The small presets, on the movies of make_xray_checkpoints.py that are like those of the book. The
control is not shipped; what it reaches is written on the cards of the other two. Neither are the
networks of the alignment study; their scores are on the card of FlowFuse. A run that was cut off
goes on from results/xray.
"""

import argparse
import time
from dataclasses import replace

import torch
from make_xray_checkpoints import FOLDER, TEST, TRAINING, metric, recorded

from helpers import xray
from helpers.xray._shipped import save, weights_file
from helpers.xray.data import MoviePairs
from helpers.xray.edvr import EDVR
from helpers.xray.flowfuse import FlowFuse
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.swin import SwinXVR
from helpers.xray.train import Schedule, train

RUNS = {  # the class, its preset, learning rate and steps; all take the same CPU time
    "edvr": (EDVR, "small", 1e-3, 2400),
    "swin": (SwinXVR, "small", 2e-3, 2400),
    "control": (FlowFuse, "full", 1.5e-3, 6400),
}
SEEDS = TRAINING[::3]  # of each three the one that is not varied
STUDY = Schedule(450, learning_rate=2e-3, batch=4, patch=64, ema=0.99)  # as on page 5
STUDY_SEEDS, STUDY_MOVIES = range(5), range(24)


def trained(name):
    """The network of a run, and the card without its metric."""
    kind, preset, rate, steps = RUNS[name]
    data = MoviePairs([recorded(seed) for seed in SEEDS])
    start = time.process_time()
    run = train(
        kind.preset(preset, generator=torch.Generator().manual_seed(0)),
        data,
        schedule=Schedule(steps, rate, warmup=60, decay=0.7, save_every=100),
        checkpoint=FOLDER / f"{name}.safetensors",
        generator=torch.Generator().manual_seed(0),
        progress=True,
        device="cpu",
    )
    seconds = (time.process_time() - start) / max(1, run.n_steps - run.resumed)
    return run.net, {
        "data": f"{len(SEEDS)} movies of helpers.xray.simulate, generator 'standard', "
        "as on the pages",
        "seed": 0,
        "training_seeds": [SEEDS[0], SEEDS[-1]],
        "test_seeds": [TEST[0], TEST[-1]],
        "steps": run.n_steps,
        "cpu_seconds_per_step": round(seconds, 3),
    }


def alignment():
    """Scores of small FlowFuse networks trained with and without flows, for several seeds."""
    data = MoviePairs([simulate(Experiment(), seed) for seed in STUDY_MOVIES])
    test = MoviePairs([simulate(Experiment(), seed) for seed in TEST], every=3)
    scores = {}
    for name, align in (("with flows", True), ("without flows", False)):
        scores[name] = {"psnr": [], "moving": []}
        for seed in STUDY_SEEDS:
            config = replace(FlowFuse.preset("small").config, align=align)
            generator = torch.Generator().manual_seed(seed)
            net = train(
                FlowFuse(config, generator=generator),
                data,
                schedule=STUDY,
                checkpoint=FOLDER / f"{name.replace(' ', '_')}_{seed}.safetensors",
                generator=torch.Generator().manual_seed(seed),
                progress=True,
                device="cpu",
            ).net
            score = evaluate(net, test)
            for kind, of_seeds in scores[name].items():
                of_seeds.append(round(score.mean(kind), 4))
            print(name, seed, {kind: v[-1] for kind, v in scores[name].items()}, flush=True)
    return {
        "steps": STUDY.n_steps,
        "seeds": list(STUDY_SEEDS),
        "movies": len(STUDY_MOVIES),
    } | scores


def rewrite(name, **entries):
    """Add entries to the card of a shipped network."""
    net = xray.load(name, device="cpu")
    card = {key: value for key, value in net.card.items() if key not in ("versions", "created")}
    save(net, weights_file(name), card | entries)


def main():
    """Train and write, or judge only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[*RUNS, "alignment"])
    parser.add_argument("--score", action="store_true", help="judge the shipped file only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if asked.name == "alignment":
        rewrite("flowfuse", alignment=alignment())
        return
    if asked.name == "control":
        net, card = trained("control")
        judged = metric(net)
        for name in ("edvr", "swin"):
            rewrite(name, control=card | {"network": "FlowFuse", "metric": judged})
    else:
        if not asked.score:
            net, card = trained(asked.name)
            save(net, weights_file(asked.name), card | {"metric": {}})
        judged = metric(xray.load(asked.name, device="cpu"))  # as it is read, in float16
        if not asked.score:
            rewrite(asked.name, metric=judged)
    for name, row in judged.items():
        print(name, row)


if __name__ == "__main__":
    main()
