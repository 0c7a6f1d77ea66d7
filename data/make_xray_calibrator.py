"""Train the flow network that ships with the book: first alone, then judged by the fusion.

``python data/make_xray_calibrator.py``, about six minutes on one CPU core. Movies of the seeds 0 to
31 train it; those of 1000 to 1007, which choose nothing, give the metric on its card.
"""

from dataclasses import asdict

import torch

from helpers import checkpoints
from helpers.xray import load
from helpers.xray._shipped import weights_file
from helpers.xray.calibrate import Misalignments, end_point_error
from helpers.xray.calibrate.calibrator import train_calibrator
from helpers.xray.flow import FlowNet
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.train import Schedule

SEED = 0


def movies(seeds):
    """Small fields: the network has no size of its own."""
    return Misalignments([simulate(Experiment(shape=(96, 96)), seed) for seed in seeds])


def main():
    """Train, measure, write."""
    torch.manual_seed(SEED)
    net, data = FlowNet.preset("small"), movies(range(32))
    generator = torch.Generator().manual_seed(SEED)
    alone = Schedule(600, learning_rate=1e-3, warmup=30, clip=1.0)
    judged = Schedule(80, learning_rate=1e-4, warmup=5, clip=1.0)
    options = {"generator": generator, "progress": True, "device": "cpu"}
    train_calibrator(net, None, data, schedule=alone, **options)
    train_calibrator(net, load("flowfuse", device="cpu"), data, schedule=judged, **options)
    errors = end_point_error(net, movies(range(1000, 1008)), 64, device="cpu")
    metric = {"epe": float(errors.mean()), "worst": float(errors.max()), "unit": "sharp px"}
    half = {key: value.half() for key, value in net.state_dict().items()}
    checkpoints.save(
        weights_file("calibrator"),
        {"kind": "calibrator", "config": asdict(net.config), "net": half},
        {
            "data": "simulated melt pools 96 x 96, seeds 0 to 31, transforms drawn anew",
            "seed": SEED,
            "steps": [alone.n_steps, judged.n_steps],
            "metric": metric,
            "measured": "64 samples of the seeds 1000 to 1007",
        },
    )
    print(metric)


if __name__ == "__main__":
    main()
