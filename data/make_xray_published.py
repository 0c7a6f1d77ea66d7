"""Train the networks of the published size, judge them beside FlowFuse, write them with a card.

    python data/make_xray_published.py movies        # the training movies; minutes, without a GPU
    python data/make_xray_published.py swin-full     # or swin-actual, or edvr-full: on a GPU
    python data/make_xray_published.py swin-full --try    # four small steps, on any machine

The movies are those that FlowFuse has seen, the schedules the published ones; EDVR makes an eighth
of its steps, on smaller squares, for the movies have 128 x 128 pixels. What a run costs is counted
on page 4 of the x-ray part. A run that was cut off goes on from results/xray, where the network is
written, too: it is too large to be shipped.
"""

import argparse
import time
from dataclasses import replace

import torch
from make_xray_checkpoints import FOLDER, TEST, TRAINING, metric, recorded

from helpers import xray
from helpers.devices import describe, pick_device
from helpers.xray._shipped import save
from helpers.xray.data import MoviePairs
from helpers.xray.edvr import EDVR
from helpers.xray.swin import SwinXVR
from helpers.xray.train import train

RUNS = {
    "swin-full": (SwinXVR, "full", SwinXVR.recipes["full"]),
    "swin-actual": (SwinXVR, "actual", SwinXVR.recipes["actual"]),
    "edvr-full": (EDVR, "full", replace(EDVR.recipes["full"], n_steps=75_000, patch=96)),
}


def trained(name, seeds, precision, **changes):
    """The network of a run, and the card without its metric; `changes` are of the schedule."""
    kind, preset, schedule = RUNS[name]
    data = MoviePairs([recorded(seed) for seed in seeds])
    start = time.perf_counter()
    run = train(
        kind.preset(preset, generator=torch.Generator().manual_seed(0)),
        data,
        schedule=replace(schedule, **changes),
        checkpoint=FOLDER / f"{name}{'-try' if changes else ''}.safetensors",
        generator=torch.Generator().manual_seed(0),
        precision=precision,
        progress=True,
    )
    if run.interrupted:
        raise SystemExit("stopped: the same call goes on from here")
    seconds = (time.perf_counter() - start) / max(1, run.n_steps - run.resumed)
    return run.net, {
        "data": f"{len(seeds)} movies of helpers.xray.simulate, generator 'standard': a third as "
        "on the pages, the rest with other scenes, scales, photons and key gaps",
        "seed": 0,
        "training_seeds": [seeds[0], seeds[-1]],
        "steps": run.n_steps,
        "precision": precision,
        "device": describe(),
        "seconds_per_step": round(seconds, 4),
    }


def main(arguments=None):
    """Make the movies, or train, write and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["movies", *RUNS])
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--try", action="store_true", dest="briefly", help="four small steps")
    asked = parser.parse_args(arguments)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if asked.name == "movies":
        for seed in TRAINING:
            recorded(seed)
        return
    seeds, judges, changes = TRAINING, TEST, {}
    if asked.briefly:
        seeds, judges = TRAINING[:2], TEST[:1]
        changes = {"n_steps": 4, "warmup": 2, "batch": 1, "patch": 32, "save_every": 2}
    net, card = trained(asked.name, seeds, asked.precision, **changes)
    file = FOLDER / f"xray_{asked.name}{'-try' if changes else ''}.safetensors"
    card |= {"test_seeds": [judges[0], judges[-1]]}
    save(net, file, card | {"metric": {}})
    told = metric(xray.load(file, device=pick_device()), judges)  # as it is read, in float16
    save(net, file, card | {"metric": told})
    peer = xray.load("flowfuse", device="cpu").card["metric"]
    for name, row in told.items():
        print(f"{name}: {row['psnr']:.2f} dB, FlowFuse {peer[name]['psnr']:.2f} dB")


if __name__ == "__main__":
    main()
