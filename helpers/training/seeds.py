"""Seeds of the weights that a network starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(generator: torch.Generator | None) -> int | None:
    """Draw a seed: a number can be copied with a model, a generator cannot."""
    if generator is None:
        return None
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw weights from a seed and leave torch's own stream as it was; None draws from that."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
