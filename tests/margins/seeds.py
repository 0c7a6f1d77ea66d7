"""Other seeds for the same sources: every generator that is given a seed is given another one."""

from __future__ import annotations

import os
from contextlib import contextmanager

import numpy as np
import torch

STEP = 1_000_003  # between two runs: no source has seeds that far apart
RUN = "MARGINS_RUN"
OFFSET = 0  # of all seeds in this process


def shift(run, asked=lambda: None):
    """Shift the seeds of NumPy and torch by `run` steps; run 0 leaves them as published.

    `asked` is called whenever a seed is given.
    """
    os.environ[RUN] = str(run)
    if not run:
        return
    global OFFSET
    OFFSET = run * STEP
    default_rng, numpy_seed, torch_seed = np.random.default_rng, np.random.seed, torch.manual_seed

    class Generator(torch.Generator):
        __module__ = "torch"  # as the class that it stands for

        def manual_seed(self, seed):
            asked()
            return super().manual_seed(int(seed) + OFFSET)

    def other(make):
        def made(seed=None):
            asked()
            return make(shifted(seed, OFFSET))

        return made

    np.random.default_rng, np.random.seed = other(default_rng), other(numpy_seed)
    torch.manual_seed = other(torch_seed)
    torch.Generator = Generator


@contextmanager
def published():
    """Within it seeds are the published ones: for the data of which a card states a number."""
    global OFFSET
    kept, OFFSET = OFFSET, 0
    try:
        yield
    finally:
        OFFSET = kept


def follow():
    """Shift the seeds as the process that started this one did: for tests that compare the two."""
    shift(int(os.environ.get(RUN, 0)))


def shifted(seed, offset):
    """Another seed of the same kind; generators and `None` are given back as they are."""
    if not offset:
        return seed
    if isinstance(seed, int | np.integer):
        return int(seed) + offset
    if isinstance(seed, list | tuple | np.ndarray):
        return [*map(int, np.ravel(seed)), offset]
    return seed


def within(values, low, high):
    """Whether drawn values keep the limits they are drawn in, which some of them may touch."""
    return bool(np.all((np.asarray(values) >= low) & (np.asarray(values) <= high)))
