"""Other seeds for the same sources: every generator that is given a seed is given another one."""

from __future__ import annotations

import numpy as np
import torch

STEP = 1_000_003  # between two runs: no source has seeds that far apart


def shift(run):
    """Shift the seeds of NumPy and torch by `run` steps; run 0 leaves them as published."""
    if not run:
        return
    offset = run * STEP
    default_rng, numpy_seed, torch_seed = np.random.default_rng, np.random.seed, torch.manual_seed

    class Generator(torch.Generator):
        __module__ = "torch"  # as the class that it stands for

        def manual_seed(self, seed):
            return super().manual_seed(int(seed) + offset)

    np.random.default_rng = lambda seed=None: default_rng(shifted(seed, offset))
    np.random.seed = lambda seed=None: numpy_seed(shifted(seed, offset))
    torch.manual_seed = lambda seed: torch_seed(int(seed) + offset)
    torch.Generator = Generator


def shifted(seed, offset):
    """Another seed of the same kind; generators and `None` are given back as they are."""
    if isinstance(seed, int | np.integer):
        return int(seed) + offset
    if isinstance(seed, list | tuple | np.ndarray):
        return [*map(int, np.ravel(seed)), offset]
    return seed
