"""Train the blind-spot network that ships with the book.

``python data/make_renderer_denoiser.py``, about three minutes on one CPU core. It has seen noisy
images of filaments of the seeds 0 to 9, never a clean one. Images of the seeds 1000 to 1002, which
choose nothing, give the metric on its card.
"""

import numpy as np
import torch

from helpers.datasets import data_folder
from helpers.metrics import psnr
from helpers.noise import PoissonGauss
from helpers.renderer.denoise import BlindSpot, apply, load, train
from helpers.renderer.denoise.blindspot import save
from helpers.renderer.simulate import filament_images

PEAK, READ = 40.0, 4.0
SEED, STEPS = 0, 6000
PATH = data_folder() / "checkpoints" / "renderer_denoiser.safetensors"


def recorded(seed, n=20):
    """Clean and noisy images of one seed."""
    clean = filament_images(n, peak=PEAK, seed=seed)
    return clean, PoissonGauss(READ).sample(clean, np.random.default_rng((seed, 1)))


def measured(network, seeds):
    """Mean PSNR of noisy and of denoised images."""
    before, after = [], []
    for seed in seeds:
        clean, noisy = recorded(seed)
        denoised = apply(network, noisy).images
        before += [psnr(a, b, data_range=PEAK) for a, b in zip(noisy, clean, strict=True)]
        after += [psnr(a, b, data_range=PEAK) for a, b in zip(denoised, clean, strict=True)]
    return {"noisy": float(np.mean(before)), "denoised": float(np.mean(after)), "unit": "dB"}


def main():
    """Train, write, read again, measure, write with the metric."""
    noisy = np.concatenate([recorded(seed)[1] for seed in range(10)])
    network = BlindSpot(
        centre=float(noisy.mean()),
        scale=float(noisy.std()),
        noise=(READ, 1.0),
        generator=torch.Generator().manual_seed(SEED),
    )
    options = {"rate": 1e-2, "seed": SEED, "progress": True, "device": "cpu"}
    train(network, noisy, n_steps=STEPS, **options)
    card = {
        "data": "noisy filament images 128 x 128, 20 of each of the seeds 0 to 9; no clean ones",
        "seed": SEED,
        "steps": STEPS,
        "metric": {},
        "measured": "20 images of each of the seeds 1000 to 1002",
    }
    save(network, PATH, card)
    card["metric"] = measured(load(PATH, "cpu"), range(1000, 1003))
    save(network, PATH, card)
    print(card["metric"])


if __name__ == "__main__":
    main()
