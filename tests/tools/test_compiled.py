"""A loop that is compiled in this process gives the bits of one that is read from the cache.

numba compiles a function that is called twice, by itself and with its caller. If both can run,
the first process runs one and every later process the other, and their last bits may differ.
"""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import hashlib
import numpy as np
import torch
from helpers.inr.fit.losses import hessian
from helpers.noise import EMCCD, Poisson, PoissonGauss
from helpers.renderer import detect, mle
from helpers.renderer.renderers import Gaussian2D
from helpers.renderer.simulate import crowded_frames, gaussian_spots


def tell(name, *arrays):
    bits = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    print(name, hashlib.sha256(bits).hexdigest())


volume = torch.rand(6, 10, 21, generator=torch.Generator().manual_seed(0)).requires_grad_()
hessian(volume).backward()
tell("hessian", volume.grad.numpy())
spot = Gaussian2D((9, 9))
mean = spot.render(gaussian_spots(50, (9, 9), photons=1000, background=10, seed=1).truth)
for noise in (Poisson(), PoissonGauss(1.0), PoissonGauss(400.0), EMCCD(300.0)):
    found = mle.fit(noise.sample(mean, np.random.default_rng(0)), spot, noise, device="cpu")
    numbers = *found.params.values(), *found.crlb_std.values(), found.goodness
    tell(f"fit, {type(noise).__name__}", *numbers)
light = {"emitters": 4, "photons": (900, 1100), "sigma": 1.3, "background": (5, 5)}
frames, _ = crowded_frames(4, (40, 44), read_noise=0, present=1.0, seed=3, **light)
tell("localize", detect.localize(frames, spot, Poisson(), device="cpu"))
"""


def test_the_first_process_and_the_next_give_the_same_bits(tmp_path, root):
    variables = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(root)}
    told = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", CODE], env=variables, cwd=root, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        told.append(run.stdout.splitlines())
    assert list(tmp_path.rglob("*.nbi")), "the first process has kept what it compiled"
    assert told[0] == told[1] and len(told[0]) == 6
