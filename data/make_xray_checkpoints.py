"""Make data/checkpoints/xray_flowfuse.safetensors: simulate movies, train, judge, write the card.

    python data/make_xray_checkpoints.py                 # all of it, about two hours on one core
    python data/make_xray_checkpoints.py --score         # judge the shipped file once more

Everything that takes long is kept in results/xray, and a run that was cut off goes on from there.
The network is not shown a single frame of the generator "other".
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from helpers import xray
from helpers.xray import CoarseCamera, baselines
from helpers.xray._shipped import save, weights_file
from helpers.xray.data import MoviePairs
from helpers.xray.flowfuse import FlowFuse, FlowFuseConfig
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, TwoCameraMovie, simulate
from helpers.xray.train import RandomCamera, Schedule, train
from helpers.xray.train.losses import charbonnier, negative_psnr

FOLDER = Path("results/xray")
TRAINING, TEST = range(520), range(2000, 2012)
CONFIG = FlowFuseConfig(both_ways=True)
STEADY = Schedule(6800, learning_rate=1.5e-3, warmup=200, decay=0.0, ema=0.998, save_every=100)
FALLING = Schedule(12000, learning_rate=1.5e-3, warmup=20, decay=1.0, ema=0.998, save_every=100)
AGAIN = Schedule(8000, learning_rate=1.2e-3, warmup=50, decay=1.0, ema=0.998, save_every=100)
# then it is told its camera, and sees another one in every sample
TOLD = (
    Schedule(10680, learning_rate=1e-3, warmup=100, decay=0.0, ema=0.998, save_every=200),
    Schedule(15000, learning_rate=1e-3, warmup=20, decay=1.0, ema=0.998, save_every=200),
)


def varied(seed):
    """An experiment of the training set: every third like those of the book, the rest unlike it."""
    rng = np.random.default_rng([seed, 99])
    if seed % 3 == 0:
        return Experiment()
    key_every = int(rng.integers(5, 17))
    return Experiment(
        scene=str(rng.choice(["melt_pool", "bubbles", "cracks"], p=[0.6, 0.2, 0.2])),
        hr_pixel=rng.uniform(1.4, 2.8),
        plate=rng.uniform(120, 300),
        mu=rng.uniform(3e-3, 5e-3),
        delta=rng.uniform(1.0e-6, 1.7e-6),
        distance=rng.uniform(0.15, 0.5),
        hr_photons=float(np.exp(rng.uniform(np.log(1500), np.log(12000)))),
        lr_photons=float(np.exp(rng.uniform(np.log(1000), np.log(10000)))),
        key_every=key_every,
        n_frames=2 * key_every + 1,
    )


def turned(movie, seed):
    """Half of the unlike movies mirrored, turned on their side, or with less or negative contrast.

    All of it commutes with the coarse camera, so that the movie stays one that could be recorded.
    """
    rng = np.random.default_rng([seed, 98])
    if seed % 3 == 0 or rng.random() < 0.5:
        return movie
    quarters, mirrored = rng.integers(4), rng.random() < 0.5
    contrast = rng.uniform(0.6, 1.3) * rng.choice([1, -1], p=[0.75, 0.25])
    mean = movie.truth.mean()

    def change(frames):
        frames = np.rot90(frames, quarters, axes=(1, 2))
        frames = frames[:, ::-1] if mirrored else frames
        return (mean + contrast * (frames - mean)).astype(np.float32)

    parts = {name: change(getattr(movie, name)) for name in ("hr", "lr", "truth")}
    return replace(movie, **parts)


def recorded(seed):
    """The training movie of a seed, simulated once."""
    path = FOLDER / f"movie_{seed:03}.npz"
    experiment = varied(seed)
    if not path.exists():
        movie = simulate(experiment, seed)
        np.savez(path, hr=movie.hr, lr=movie.lr, key_times=movie.key_times, truth=movie.truth)
    with np.load(path) as kept:
        movie = TwoCameraMovie(
            **kept,
            transform=experiment.transform,
            time_offset=0.0,
            experiment=experiment,
            seed=seed,
        )
    return turned(movie, seed)


def trained():
    """The network, after a stretch at one learning rate and two in which it falls to zero."""
    data = MoviePairs([recorded(seed) for seed in TRAINING])
    net = FlowFuse(CONFIG, generator=torch.Generator().manual_seed(0))
    # first what is robust, then what it is judged by
    stretches = (STEADY, charbonnier), (FALLING, negative_psnr), (AGAIN, negative_psnr)
    for part, (schedule, loss) in enumerate(stretches):
        net = train(
            net.train().requires_grad_(True),
            data,
            loss=loss,
            schedule=schedule,
            checkpoint=FOLDER / f"flowfuse_{part}.safetensors",
            generator=torch.Generator().manual_seed(part),
            progress=True,
            device="cpu",
        ).net
    return net


def widened(net):
    """The same network with four inputs more, for the camera, whose weights are zero."""
    wider = FlowFuse(replace(net.config, told=True))
    state = net.state_dict()
    weight = state["stem.weight"]
    new = wider.stem.weight.shape[1] - weight.shape[1]
    state["stem.weight"] = torch.cat([weight, weight.new_zeros(len(weight), new, 3, 3)], dim=1)
    wider.load_state_dict(state)
    return wider


def told(net):
    """The network, after two stretches with a camera that is drawn anew for every sample."""
    data = MoviePairs([recorded(seed) for seed in TRAINING], frames=True)
    net = widened(net)
    for part, schedule in enumerate(TOLD):
        net = train(
            net.train().requires_grad_(True),
            data,
            loss=negative_psnr,
            record=RandomCamera(),
            schedule=schedule,
            checkpoint=FOLDER / f"flowfuse_told_{part}.safetensors",
            generator=torch.Generator().manual_seed(3 + part),
            progress=True,
            device="cpu",
        ).net
    return net


def metric(net, seeds=TEST):
    """What the card says: means over unseen movies, and gains in dB over the baselines."""
    result = {}
    for name in ("standard", "other"):
        data = MoviePairs([simulate(Experiment(generator=name), seed) for seed in seeds], every=3)
        score = evaluate(net, data)
        row = {key: round(score.mean(key), 4) for key in ("psnr", "ssim", "aad", "moving")}
        peers = baselines.bicubic, baselines.linear, baselines.detail_injection
        for baseline in (*peers, baselines.adaptive_blend):
            gain = score.by_clip("psnr") - evaluate(baseline, data).by_clip("psnr")
            row[f"over_{baseline.__name__}"] = round(float(gain.mean()), 3)
            row[f"over_{baseline.__name__}_worst"] = round(float(gain.min()), 3)
        result[name] = row
    return result


def other_cameras(net, seeds=TEST[:4]):
    """PSNR with coarse cameras that the simulator does not have: network, best of the others."""
    rows = {}
    changes = [{"sigma": s} for s in (0.0, 1.0, 3.0)] + [{"photons": n} for n in (100.0, 300.0)]
    changes += [{"gain": 1.1}, {"scale": 2}, {"scale": 3}, {"scale": 5}]
    for change in changes:
        camera = CoarseCamera(**{"sigma": 2.2, "photons": 3000.0} | change)
        found = []
        for seed in seeds:
            movie = simulate(Experiment(), seed)
            side = int(movie.truth.shape[-1] // camera.scale * camera.scale)
            truth, hr = movie.truth[:, :side, :side], movie.hr[:, :side, :side]
            plain = CoarseCamera(camera.sigma, camera.scale)(truth).clip(0)
            light = np.random.default_rng(seed).poisson(plain * camera.photons) / camera.photons
            lr = (camera.gain * light).astype(np.float32)
            data = MoviePairs([replace(movie, lr=lr, hr=hr, truth=truth)], every=3)
            fusions = net, baselines.linear, baselines.detail_injection, baselines.adaptive_blend
            found.append([evaluate(f, data, camera=camera).mean("psnr") for f in fusions])
        mean = np.mean(found, axis=0)
        name = " ".join(f"{key} {value:g}" for key, value in change.items())
        rows[name] = [round(float(mean[0]), 2), round(float(mean[1:].max()), 2)]
    return rows


def main():
    """Train and write, or judge only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--score", action="store_true", help="judge the shipped file only")
    torch.set_num_threads(1)
    if not parser.parse_args().score:
        FOLDER.mkdir(parents=True, exist_ok=True)
        card = {
            "data": f"{len(TRAINING)} movies of helpers.xray.simulate, generator 'standard'; "
            "a third as on the pages, the rest with other scenes, scales, photons and key gaps; "
            "then with a coarse camera drawn anew for every sample",
            "seed": 0,
            "training_seeds": [TRAINING[0], TRAINING[-1]],
            "test_seeds": [TEST[0], TEST[-1]],
            "steps": sum(stretch.n_steps for stretch in (STEADY, FALLING, AGAIN, *TOLD)),
        }
        ship(told(trained()), card)
    else:
        net = xray.load("flowfuse", device="cpu")
        for name, row in {**metric(net), **other_cameras(net)}.items():
            print(name, row)


def ship(net, card):
    """Write the network, and then its scores, measured as it will be read: in float16."""
    file = weights_file("flowfuse")
    if file.exists():  # the study of make_xray_references.py
        card |= {"alignment": xray.load("flowfuse", device="cpu").card.get("alignment")}
    save(net, file, card | {"metric": {}})
    read = xray.load("flowfuse", device="cpu")
    judged = metric(read)
    cameras = other_cameras(read)
    save(net, file, card | {"metric": judged, "cameras": cameras})
    for name, row in {**judged, **cameras}.items():
        print(name, row)


if __name__ == "__main__":
    main()
