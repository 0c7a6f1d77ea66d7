"""Make data/checkpoints/xray_edvr.safetensors and xray_swin.safetensors: train, judge, write.

    python data/make_xray_references.py edvr      # or swin; five minutes on one quiet core
    python data/make_xray_references.py edvr --score

The small presets, on the movies of make_xray_checkpoints.py that are like those of the book. A run
that was cut off goes on from results/xray.
"""

import argparse
import time

import torch
from make_xray_checkpoints import FOLDER, TEST, TRAINING, metric, recorded

from helpers import xray
from helpers.xray.edvr import EDVR
from helpers.xray.pairs import MoviePairs
from helpers.xray.swin import SwinXVR
from helpers.xray.train import Schedule, train

NETWORKS = {"edvr": (EDVR, 1e-3), "swin": (SwinXVR, 2e-3)}  # with the learning rate
SEEDS = TRAINING[::3]  # of each three the one that is not varied
STEPS = 2400


def main():
    """Train and write, or judge only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("--score", action="store_true", help="judge the shipped file only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.score:
        FOLDER.mkdir(parents=True, exist_ok=True)
        data = MoviePairs([recorded(seed) for seed in SEEDS])
        kind, rate = NETWORKS[asked.name]
        net = kind.preset("small", generator=torch.Generator().manual_seed(0))
        start = time.process_time()
        run = train(
            net,
            data,
            schedule=Schedule(STEPS, rate, warmup=60, decay=0.7, save_every=100),
            checkpoint=FOLDER / f"{asked.name}.safetensors",
            generator=torch.Generator().manual_seed(0),
            progress=True,
            device="cpu",
        )
        card = {
            "data": f"{len(SEEDS)} movies of helpers.xray.simulate, generator 'standard', "
            "as on the pages",
            "seed": 0,
            "training_seeds": [SEEDS[0], SEEDS[-1]],
            "test_seeds": [TEST[0], TEST[-1]],
            "steps": run.n_steps,
            "cpu_seconds_per_step": round(
                (time.process_time() - start) / max(1, run.n_steps - run.resumed), 3
            ),
        }
        path = xray.weights_file(asked.name)
        xray.save(run.net, path, card | {"metric": {}})
        judged = metric(xray.load(asked.name, device="cpu"))  # as it will be read, in float16
        xray.save(run.net, path, card | {"metric": judged})
    else:
        judged = metric(xray.load(asked.name, device="cpu"))
    for name, row in judged.items():
        print(name, row)


if __name__ == "__main__":
    main()
