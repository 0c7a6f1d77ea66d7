"""Make data/checkpoints/xray_stems.safetensors: two ways in for key frames, trained there and back.

    python data/make_xray_stems.py            # about five minutes on one core

Each way in (max-pools, pixel-unshuffle) is trained with the same simple way back to return key
frames, from several seeds, each at the best of some learning rates. The card holds the quality on
unseen movies along every training; the tensors are those of the first seed.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers import checkpoints
from helpers.xray._shipped import weights_file
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.stems import PooledStem, SharpStem

WAYS = {"max-pool": PooledStem, "unshuffle": SharpStem}
WIDTH, PATCH, BATCH = 16, 48, 8
RATES, N_TRY = (1e-3, 2e-3, 4e-3, 8e-3), 400
SEEDS, N_STEPS, EVERY = range(5), 2000, 100
TRAINING, TEST = range(16), range(2000, 2006)


def key_frames(seeds):
    """Key frames (n, 1, y, x) of simulated movies."""
    return torch.tensor(np.concatenate([simulate(Experiment(), s).hr for s in seeds]))[:, None]


def returned(stem, back, keys):
    """Key frames (n, 1, y, x), an even number, as they come back from the coarse grid."""
    pairs = keys.unflatten(0, (-1, 2))
    coarse = torch.full((len(pairs), 3, 1, *(side // 4 for side in keys.shape[-2:])), 0.7)
    features = stem(coarse, pairs, torch.full((len(pairs),), 0.5))[:, 3:]
    return F.pixel_shuffle(back(features.flatten(0, 1)), 4)


def quality(stem, back, keys):
    """Mean PSNR in dB for a peak of 1."""
    with torch.no_grad():
        error = (returned(stem, back, keys) - keys).square().mean((1, 2, 3))
    return float(-10 * error.log10().mean())


def there_and_back(way, rate, seed, n_steps, training, test, every=EVERY):
    """A trained pair (stem, way back), and its quality every so many steps."""
    torch.manual_seed(seed)
    stem, back = WAYS[way](WIDTH), nn.Conv2d(WIDTH, 16, 3, padding=1)
    adam = torch.optim.Adam([*stem.hr.parameters(), *back.parameters()], lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, n_steps)
    rng, curve = np.random.default_rng(seed), []
    for step in range(n_steps):
        some = torch.as_tensor(rng.integers(len(training), size=BATCH))
        y, x = 4 * rng.integers(0, (training.shape[-1] - PATCH) // 4 + 1, 2)
        keys = training[some, :, y : y + PATCH, x : x + PATCH]
        loss = (returned(stem, back, keys) - keys).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
        if (step + 1) % every == 0:
            curve.append(round(quality(stem, back, test), 3))
    return stem, back, curve


def main():
    """Choose the rates, train all seeds, write file and card."""
    torch.set_num_threads(1)
    training, validation, test = (key_frames(s) for s in (TRAINING, range(1000, 1004), TEST))
    state, card = {}, {"rates": {}, "quality": {}, "rates tried": list(RATES)}
    for way in WAYS:
        tries = {
            rate: there_and_back(way, rate, 99, N_TRY, training, validation, N_TRY)[2][-1]
            for rate in RATES
        }
        print(way, tries, flush=True)
        rate = card["rates"][way] = max(tries, key=tries.get)
        runs = [there_and_back(way, rate, s, N_STEPS, training, test) for s in SEEDS]
        stem, back, _ = runs[0]
        state[way] = {"stem": stem.state_dict(), "back": back.state_dict()}
        card["quality"][way] = [curve for _, _, curve in runs]
        print(way, rate, [curve[-1] for _, _, curve in runs], flush=True)
    finals = {way: np.array(q)[:, -1] for way, q in card["quality"].items()}
    card |= {
        "data": "key frames of helpers.xray.simulate, as on the pages",
        "training_seeds": [TRAINING[0], TRAINING[-1]],
        "test_seeds": [TEST[0], TEST[-1]],
        "seed": SEEDS[0],
        "seeds": list(SEEDS),
        "steps": N_STEPS,
        "at": list(range(EVERY, N_STEPS + 1, EVERY)),
        "metric": {way: {"psnr": round(float(q.mean()), 2)} for way, q in finals.items()},
    }
    checkpoints.save(weights_file("stems"), state, card)


if __name__ == "__main__":
    main()
