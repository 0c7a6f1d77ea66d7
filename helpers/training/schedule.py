"""Learning-rate schedule of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._deprecated import renamed, renamed_attribute


@renamed(rate="learning_rate")
@dataclass(frozen=True)
class Schedule:
    """Length, learning rate and batches of a training.

    Attributes
    ----------
    n_steps : int
    learning_rate : float
        Of Adam, after the warm-up.
    warmup : int
        Steps over which the rate rises.
    decay : float
        Share of the steps, the last ones, over which it falls along half a cosine.
    batch : int
        Samples of a step, over all processes.
    patch : int or None
        Side of the squares that are cut out, in sharp pixels; None for the whole field.
    clip : float
        Largest norm of the gradient.
    ema : float
        Memory of the running mean of the weights, which is what is kept.
    betas : (float, float)
        Memory of Adam.
    save_every : int
        Steps between two checkpoints.

    Raises
    ------
    ValueError
        A number out of its range.

    Examples
    --------
    >>> schedule = Schedule(100, learning_rate=1.0, warmup=10)
    >>> [round(schedule.rate_at(step), 3) for step in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """

    n_steps: int = 1500
    learning_rate: float = 1.5e-3
    warmup: int = 40
    decay: float = 1.0
    batch: int = 4
    patch: int | None = 64
    clip: float = 0.5
    ema: float = 0.995
    betas: tuple[float, float] = (0.9, 0.999)
    save_every: int = 200

    rate = renamed_attribute("learning_rate")

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch", "save_every"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise ValueError(f"{name} is {value}: give a whole number, at least 1")
        if not (
            0 < self.learning_rate and 0 <= self.decay <= 1 and 0 <= self.ema < 1 and 0 < self.clip
        ):
            raise ValueError(
                f"{self}: learning_rate and clip must be positive, decay and ema shares"
            )

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        start = self.n_steps * (1 - self.decay)
        start = max(start, min(self.warmup, self.n_steps - 1)) if self.decay else self.n_steps
        place = min(1.0, max(0.0, (step - start) / max(1, self.n_steps - start)))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * place))
