"""Train the encoder that ships with the book: on images alone, about a minute on one CPU core.

``python data/make_renderer_encoder.py``. Every batch is new, drawn from the seed 0. The errors on
the card are those of 4000 images of the seed 1000, which the training never saw and which choose
nothing but the number of steps.
"""

import math
import tempfile
import time

import numpy as np
import torch

from helpers import checkpoints
from helpers.datasets import data_folder
from helpers.noise import SCMOS
from helpers.renderer import mle
from helpers.renderer.encoders import ConvEncoder
from helpers.renderer.mappers import Direct
from helpers.renderer.model import FitModel
from helpers.renderer.renderers import Gaussian2D
from helpers.renderer.simulate import gaussian_spots
from helpers.renderer.train import OverBound, Trainer

SIGMA, READ = math.sqrt(5), 100.0  # px, photo-electrons
LIGHT = 2 * math.pi * SIGMA**2  # photons of a spot for each unit of its peak
TASK = {
    "photons": (500 * LIGHT, 2000 * LIGHT),
    "background": (0.0, 100.0),
    "sigma": SIGMA,
    "scatter": 0.35 * 32,
    "read_variance": READ**2,
}
STEPS = 1400


def draw(n, rng):
    """Fresh images; their truth is thrown away."""
    return gaussian_spots(n, (32, 32), **TASK, seed=int(rng.integers(2**62))).images


def untrained():
    """The model before its training."""
    encoder = ConvEncoder((32, 32), generator=torch.Generator().manual_seed(0))
    return FitModel(encoder, Direct(), Gaussian2D((32, 32)), SCMOS(READ**2))


def main():
    """Train, measure, write."""
    torch.set_num_threads(1)
    model = untrained()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model, draw, n_steps=STEPS, seed=0, folder=folder, progress=True, device="cpu"
        ).fit()
    seconds = time.process_time() - start
    unseen = gaussian_spots(4000, (32, 32), **TASK, seed=1000)
    bound = mle.crlb(model.renderer, unseen.truth, model.noise)
    metric = OverBound(unseen.images, unseen.truth, bound)(model)
    half = {name: value.half() for name, value in model.state_dict().items()}
    checkpoints.save(
        data_folder() / "checkpoints" / "renderer_encoder.safetensors",
        {"model": half},
        {
            "data": "spots 32 x 32, peaks 500 to 2000, read noise 100, drawn anew for each step",
            "seed": 0,
            "steps": STEPS,
            "metric": {f"rmse_over_crlb_{name}": value for name, value in metric.items()},
            "measured": "4000 images of the seed 1000",
            "cpu_seconds": round(seconds, 1),
            "root_mean_square_crlb_px": float(np.sqrt(np.mean(bound["x"] ** 2))),
        },
    )
    print(metric, f"{seconds:.0f} s")


if __name__ == "__main__":
    main()
