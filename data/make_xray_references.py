"""Make data/checkpoints/xray_edvr.safetensors and xray_swin.safetensors: train, judge, write.

    python data/make_xray_references.py edvr        # or swin; five minutes on one quiet core
    python data/make_xray_references.py control     # last: FlowFuse, same movies and CPU time
    python data/make_xray_references.py edvr --score

The small presets, on the movies of make_xray_checkpoints.py that are like those of the book. The
control is not shipped; what it reaches is written on the cards of the other two. A run that was cut
off goes on from results/xray.
"""

import argparse
import time

import torch
from make_xray_checkpoints import FOLDER, TEST, TRAINING, metric, recorded

from helpers import xray
from helpers.xray.data import MoviePairs
from helpers.xray.edvr import EDVR
from helpers.xray.flowfuse import FlowFuse
from helpers.xray.swin import SwinXVR
from helpers.xray.train import Schedule, train

RUNS = {  # the class, its preset, learning rate and steps; all take the same CPU time
    "edvr": (EDVR, "small", 1e-3, 2400),
    "swin": (SwinXVR, "small", 2e-3, 2400),
    "control": (FlowFuse, "full", 1.5e-3, 6400),
}
SEEDS = TRAINING[::3]  # of each three the one that is not varied


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


def rewrite(name, **entries):
    """Add entries to the card of a shipped network."""
    net = xray.load(name, device="cpu")
    card = {key: value for key, value in net.card.items() if key not in ("versions", "created")}
    xray.save(net, xray.weights_file(name), card | entries)


def main():
    """Train and write, or judge only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--score", action="store_true", help="judge the shipped file only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if asked.name == "control":
        net, card = trained("control")
        judged = metric(net)
        for name in ("edvr", "swin"):
            rewrite(name, control=card | {"network": "FlowFuse", "metric": judged})
    else:
        if not asked.score:
            net, card = trained(asked.name)
            xray.save(net, xray.weights_file(asked.name), card | {"metric": {}})
        judged = metric(xray.load(asked.name, device="cpu"))  # as it is read, in float16
        if not asked.score:
            rewrite(asked.name, metric=judged)
    for name, row in judged.items():
        print(name, row)


if __name__ == "__main__":
    main()
