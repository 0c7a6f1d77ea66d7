r"""Goodness of fit: mean and variance of the deviance by noise alone.

For many counts it has mean 1 and variance 2. For few it has not: a rate of 0.1 gives a mean near
0.5. A fit that is judged by the textbook value would look too good in a dark background.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.special import xlogy
from scipy.stats import poisson

from ..._arrays import to_tensor
from ...noise._checks import NoiseModel
from ...noise.counting import SCMOS, Poisson
from ...noise.readout import PoissonGauss

FIRST, LAST, STEPS = -10, 10, 8  # powers of two between which rates are tabulated; nodes in each


@cache
def moment_table() -> np.ndarray:
    r"""Mean and variance of the deviance of one Poisson pixel, (2, N), for rates 2^-10 to 2^10.

    Notes
    -----
    Sums over counts d of :math:`P(d; \mu)` times powers of
    :math:`2\,(d \log(d / \mu) - d + \mu)`.
    """
    rate = 2.0 ** np.linspace(FIRST, LAST, (LAST - FIRST) * STEPS + 1)[:, None]
    counts = np.arange(2**LAST + 12 * 2 ** (LAST // 2))
    chance = poisson.pmf(counts, rate)
    deviance = 2 * (xlogy(counts, counts / rate) - counts + rate)
    mean = (chance * deviance).sum(1)
    return np.stack([mean, (chance * deviance**2).sum(1) - mean**2])


def deviance_moments(noise: NoiseModel, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the deviance of every pixel, of expected photo-electrons `rate`.

    Poisson and SCMOS are tabulated, and SCMOS stands for `PoissonGauss`; others get the limit for
    many counts, 1 and 2.

    Examples
    --------
    >>> import torch
    >>> from helpers.noise import Poisson
    >>> mean, variance = deviance_moments(Poisson(), torch.tensor([0.1, 1.0, 100.0]))
    >>> [round(float(m), 2) for m in mean]
    [0.47, 1.15, 1.0]
    """
    if not isinstance(noise, Poisson | SCMOS | PoissonGauss):
        return torch.ones_like(rate), torch.full_like(rate, 2.0)
    if not isinstance(noise, Poisson):
        rate = rate + to_tensor(noise.variance, rate.device, rate.dtype)
    table = torch.as_tensor(moment_table()).to(rate)
    place = (rate.clamp(min=2.0**FIRST).log2() - FIRST) * STEPS
    place = place.clamp(max=table.shape[1] - 1.001)
    node = place.long()
    part = place - node
    mean, variance = table[:, node] * (1 - part) + table[:, node + 1] * part
    return mean, variance


def standardized_deviance(
    deviance: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, n_free: float
) -> torch.Tensor:
    """Deviance against its expectation, in standard deviations; each free parameter takes one."""
    return (deviance - mean + n_free) / (variance - 2 * n_free).clamp(min=1).sqrt()
