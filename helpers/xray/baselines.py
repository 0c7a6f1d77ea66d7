"""Fusion without learning: what a network must beat.

Each baseline is called as the networks are, ``f(lr, hr, tau)``, on tensors of transmission.
"""

from __future__ import annotations

import torch

from .cameras import bicubic as enlarge
from .cameras import coarsen

__all__ = ["bicubic", "detail_injection", "linear", "nearest_key"]


def bicubic(lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """The coarse frame of the same time, enlarged; the sharp camera is not used.

    Parameters
    ----------
    lr : (B, 3, 1, h, w) tensor
        Coarse frames before, at and after the wanted time.
    hr : (B, 2, 1, 4h, 4w) tensor
        Sharp key frames before and after it.
    tau : (B,) tensor
        Place of the wanted time between the key frames, 0 to 1.

    Returns
    -------
    (B, 1, 4h, 4w) tensor

    Raises
    ------
    ValueError
        Shapes that do not fit together.

    Examples
    --------
    >>> import torch
    >>> lr, hr = torch.ones(1, 3, 1, 4, 4), torch.ones(1, 2, 1, 16, 16)
    >>> bicubic(lr, hr, torch.tensor([0.5])).shape
    torch.Size([1, 1, 16, 16])
    """
    check_inputs(lr, hr, tau)
    return enlarge(lr[:, 1])


def nearest_key(lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """The key frame that is nearer in time; the earlier one when both are as near.

    Parameters and result as for `bicubic`.
    """
    check_inputs(lr, hr, tau)
    later = (tau > 0.5).to(hr).view(-1, 1, 1, 1)
    return (1 - later) * hr[:, 0] + later * hr[:, 1]


def linear(lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """The key frames mixed linearly in time.

    Parameters and result as for `bicubic`.

    Examples
    --------
    >>> import torch
    >>> hr = torch.stack([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)], dim=1)
    >>> float(linear(torch.zeros(1, 3, 1, 1, 1), hr, torch.tensor([0.25])).mean())
    0.25
    """
    check_inputs(lr, hr, tau)
    later = tau.to(hr).view(-1, 1, 1, 1)
    return (1 - later) * hr[:, 0] + later * hr[:, 1]


def detail_injection(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, sigma: float = 2.2
) -> torch.Tensor:
    r"""The key frames mixed in time, corrected so that the coarse camera sees what it saw.

    Parameters and result as for `bicubic`; `sigma` is the blur of the coarse camera in sharp
    pixels.

    Notes
    -----
    With the mix :math:`m = (1 - \tau) h_0 + \tau h_1`, the coarse camera :math:`A` and cubic
    interpolation :math:`U`, the result is :math:`m + U (y_t - A m)`: coarse content from the
    coarse frame, detail from the key frames. Derived in :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> import torch
    >>> hr = torch.rand(1, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> tau = torch.tensor([0.5])
    >>> mix = linear(torch.zeros(1, 3, 1, 4, 4), hr, tau)
    >>> seen = coarsen(mix)[:, None].expand(1, 3, 1, 4, 4)
    >>> torch.equal(detail_injection(seen, hr, tau), mix)
    True
    """
    mixed = linear(lr, hr, tau)
    return mixed + enlarge(lr[:, 1] - coarsen(mixed, sigma))


def check_inputs(lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, scale: int = 4) -> None:
    """Raise a ValueError unless lr, hr and tau are one batch of the shapes that `bicubic` names."""
    if lr.ndim != 5 or lr.shape[1:3] != (3, 1):
        raise ValueError(f"lr is {tuple(lr.shape)}: give (B, 3, 1, h, w)")
    batch, (h, w) = lr.shape[0], lr.shape[-2:]
    if tuple(hr.shape) != (batch, 2, 1, scale * h, scale * w):
        raise ValueError(
            f"hr is {tuple(hr.shape)} for lr {tuple(lr.shape)}: "
            f"give {(batch, 2, 1, scale * h, scale * w)}"
        )
    if tuple(tau.shape) != (batch,):
        raise ValueError(f"tau is {tuple(tau.shape)}: give one number for each of {batch}")
