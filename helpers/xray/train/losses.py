r"""Losses of the fusion networks, and photon noise for the coarse frames of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


def charbonnier(estimate: torch.Tensor, target: torch.Tensor, eps: float = 1e-3) -> torch.Tensor:
    r"""Mean of :math:`\sqrt{d^2 + \epsilon^2}`: an L1 norm that is smooth at zero.

    A mean, so that the learning rate does not depend on the patch. :cite:p:`charbonnier1994`; used
    in :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> import torch
    >>> round(float(charbonnier(torch.tensor([3e-3]), torch.tensor([-1e-3]))), 6)
    0.004123
    """
    return ((estimate - target) ** 2 + eps**2).sqrt().mean()


def negative_psnr(
    estimate: torch.Tensor, target: torch.Tensor, floor: float = 1e-6
) -> torch.Tensor:
    r"""Mean of :math:`10 \log_{10} (\mathrm{MSE} + \epsilon)` over the samples of a batch, in dB.

    Errors below `floor`, the noise of the key frames, need not become smaller. Large errors, which
    are where things move, count more than in `charbonnier`, and each sample as much as any other.
    For the last part of a training: it does no good at the start. Used for the network of
    :doc:`/book/xray/05_fuse` that is shipped.

    Examples
    --------
    >>> import torch
    >>> round(float(negative_psnr(torch.full((2, 4), 0.1), torch.zeros(2, 4))), 2)
    -20.0
    """
    error = ((estimate - target) ** 2).flatten(1).mean(dim=1)
    return 10 * (error + floor).log10().mean()


@dataclass(frozen=True)
class PoissonLR:
    r"""Photon noise on the coarse frames, of an exposure that is drawn for each sample.

    Attributes
    ----------
    low, high : float
        Photons of the open beam in a coarse pixel; their logarithm is drawn uniformly.

    Raises
    ------
    ValueError
        Bounds that are not ``0 < low <= high``.

    Notes
    -----
    :math:`y' \sim \mathrm{Poisson}(b_0 y) / b_0`, on top of the noise that is there.

    Examples
    --------
    >>> noise = PoissonLR(100, 100)
    >>> noisy = noise(np.full((3, 1, 64, 64), 0.5), np.random.default_rng(0))
    >>> round(float(noisy.std()), 2)
    0.07
    """

    low: float = 1e3
    high: float = 1e5

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < np.inf:
            raise ValueError(f"{self}: give photons with 0 < low <= high")

    def __call__(self, lr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add the noise to coarse frames; `rng` is a numpy Generator."""
        photons = np.exp(rng.uniform(np.log(self.low), np.log(self.high)))
        return (rng.poisson(np.maximum(lr, 0) * photons) / photons).astype(np.float32)
