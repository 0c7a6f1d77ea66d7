"""Losses of a field fit: likelihoods of the data, and priors of a volume.

A likelihood is called as ``loss(prediction, data)`` and a prior as ``prior(volume)``; both give a
scalar tensor and are sums over pixels or voxels, not means, so that their weights do not depend on
the size of the scene, and a part of the scene gives its part of the sum. Bind settings with
`functools.partial`. Derived in :doc:`/book/inr/03_neural_field`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import TypeAlias

import torch
import torch.nn.functional as F

from ...metrics import ssim_map
from .. import _hessian_cpu

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of prediction and data."""

Prior: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Of a volume."""

__all__ = [
    "amplitude",
    "gaussian",
    "hessian",
    "hessian_energy",
    "hessian_separate",
    "l1",
    "mse_ssim",
    "poisson",
    "total_variation",
]


def poisson(
    prediction: torch.Tensor, data: torch.Tensor, *, read_noise: float = 0.0
) -> torch.Tensor:
    r"""Negative log-likelihood of counts with shot noise and read noise.

    Parameters
    ----------
    prediction : tensor
        Expected counts, background included.
    data : tensor
        Counts, the same shape.
    read_noise : float
        Standard deviation in electrons.

    Returns
    -------
    scalar tensor
        Zero for a perfect prediction.

    Notes
    -----
    Counts with Gaussian read noise of variance :math:`\sigma^2` are close to Poisson once
    :math:`\sigma^2` is added to both sides, because mean and variance then agree
    :cite:p:`snyder1995`:

    .. math:: \sum (p - y) + (y + \sigma^2) \log \frac{y + \sigma^2}{p + \sigma^2} .

    What read noise pushes below :math:`-\sigma^2` counts as dark. Below zero, where a head with a
    slope can take a prediction, the loss rises again instead of falling without end.

    Examples
    --------
    >>> import torch
    >>> float(poisson(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 3.0])))
    0.0
    """
    p, y = prediction + read_noise**2, (data + read_noise**2).clamp(min=0)
    return (p.abs() - y + torch.xlogy(y, y.clamp(min=1e-12) / p.clamp(min=1e-12))).sum()


def gaussian(prediction: torch.Tensor, data: torch.Tensor, *, sigma: float = 1.0) -> torch.Tensor:
    r"""Negative log-likelihood under Gaussian noise: :math:`\sum (p - y)^2 / 2 \sigma^2`.

    `sigma` is a number, or a tensor that broadcasts against the data.
    """
    return 0.5 * (((prediction - data) / sigma) ** 2).sum()


def amplitude(prediction: torch.Tensor, data: torch.Tensor, *, sigma: float = 0.5) -> torch.Tensor:
    r"""Misfit of amplitudes, :math:`\sum (\sqrt p - \sqrt y)^2 / 2 \sigma^2`.

    The root of Poisson counts has nearly the same noise everywhere, 1/2, hence the default.
    """
    p, y = prediction.clamp(min=1e-12).sqrt(), data.clamp(min=0).sqrt()
    return 0.5 * (((p - y) / sigma) ** 2).sum()


def mse_ssim(
    prediction: torch.Tensor,
    data: torch.Tensor,
    *,
    ssim_weight: float = 0.1,
    window: int = 7,
    peak: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error and structural dissimilarity, the published loss :cite:p:`yi2023`.

    It is multiplied by the number of pixels, to be a sum like the other losses.

    Parameters
    ----------
    prediction, data : tensor (V, Y, X)
        Both are divided by `peak`.
    ssim_weight : float
        Weight of ``1 - SSIM``.
    window : int
        Side of the square over which SSIM is taken, in pixels.
    peak : float, optional
        Default: the largest value of `data`, as published. Give that of all data where a step
        looks at blocks.

    Raises
    ------
    ValueError
        Images smaller than the window, or without a positive value.
    """
    if min(data.shape[-2:]) < window:
        raise ValueError(f"images are {tuple(data.shape[-2:])}: at least {window} px for SSIM")
    peak = data.max() if peak is None else peak
    if not peak > 0:
        raise ValueError(f"peak is {float(peak)}: SSIM needs data with a positive value")
    p, y = prediction / peak, data / peak

    ssim = ssim_map(p, y, lambda a: F.avg_pool2d(a[None], window, stride=1)[0])
    return data.numel() * (((p - y) ** 2).mean() + ssim_weight * (1 - ssim.mean()))


def l1(volume: torch.Tensor) -> torch.Tensor:
    """Sum of magnitudes: a belief in a dark background."""
    return volume.abs().sum()


def step_weights(voxel_size: Sequence[float]) -> tuple[float, ...]:
    """Weights of differences along (z, y, x) for a prior in units of length.

    Parameters
    ----------
    voxel_size : (float, float, float)
        Along (z, y, x), any unit.

    Returns
    -------
    tuple of 3 float
        One over the length of each step, times the shortest: the finest step counts one.

    Examples
    --------
    >>> step_weights((0.4, 0.2, 0.2))
    (0.5, 1.0, 1.0)
    """
    return tuple(min(voxel_size) / length for length in voxel_size)


def total_variation(
    volume: torch.Tensor, *, weights: Sequence[float] = (1.0, 1.0, 1.0), smooth: float = 1e-3
) -> torch.Tensor:
    r"""Sum over voxels of the length of the gradient, from forward differences.

    Parameters
    ----------
    volume : tensor (..., Z, Y, X)
    weights, smooth
        As for `hessian`; values are rounded off in the unit of the differences.

    Notes
    -----
    .. math:: R(f) = \sum_{r} \sqrt{f_z^2 + f_y^2 + f_x^2}

    An edge costs its height times its area, however sharp it is :cite:p:`rudin1992`. Beyond the
    border the volume repeats its outermost voxels.

    Examples
    --------
    >>> import torch
    >>> step = torch.zeros(4, 4, 4)
    >>> step[2:] = 3.0
    >>> float(total_variation(step, smooth=0))
    48.0
    """
    squares = []
    for axis, weight in enumerate(weights):
        after = [0] * 6
        after[2 * (2 - axis) + 1] = 1  # pad counts from the last axis
        squares.append((weight * F.pad(volume.diff(dim=axis - 3), after)) ** 2)
    squared = reduce(torch.add, squares)
    return (squared + smooth**2).sqrt().sum() - smooth * volume.numel()


def hessian(
    volume: torch.Tensor, *, weights: Sequence[float] = (1.0, 1.0, 1.0), smooth: float = 1e-3
) -> torch.Tensor:
    r"""Sum over voxels of the Frobenius norm of the matrix of second differences.

    Parameters
    ----------
    volume : tensor (..., Z, Y, X)
    weights : 3 floats
        For a step along (z, y, x): 1 over its length, in any unit, for a prior in that unit; the
        default takes voxels as they are.
    smooth : float
        Values of this size and smaller are rounded off, so that the norm has a gradient at zero;
        in the unit of the volume.

    Notes
    -----
    .. math:: R(f) = \sum_{r} \sqrt{f_{zz}^2 + f_{yy}^2 + f_{xx}^2
        + 2 (f_{zy}^2 + f_{zx}^2 + f_{yx}^2)}

    A ramp costs nothing, so unlike total variation it does not make stairs; an edge and a ridge
    cost their height times their length :cite:p:`lefkimmiatis2012`. Beyond the border the volume
    repeats its outermost voxels.

    Examples
    --------
    >>> import torch
    >>> ramp = torch.arange(6.0).expand(6, 6, 6)
    >>> float(hessian(ramp[:, :, 1:5], smooth=0)) > 0, float(hessian(torch.ones(4, 4, 4), smooth=0))
    (True, 0.0)
    """
    if _hessian_cpu.serves(volume):
        total = _hessian_cpu.SumOfNorms.apply(_padded(volume), weights, smooth)
    else:
        total = (hessian_energy(volume, weights) + smooth**2).sqrt().sum()
    return total - smooth * volume.numel()


def hessian_separate(
    volume: torch.Tensor, *, weights: Sequence[float] = (1.0, 1.0, 1.0)
) -> torch.Tensor:
    """Sum of the magnitudes of all second differences, the published prior :cite:p:`yi2023`.

    Parameters as for `hessian`. It depends on the direction of a structure, `hessian` hardly does.
    """
    parts = _second_differences(volume, weights)
    return reduce(torch.add, (part.abs().sum() * times for part, times in parts))


def hessian_energy(
    volume: torch.Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0)
) -> torch.Tensor:
    """Squared Frobenius norm of the matrix of second differences at every voxel."""
    parts = _second_differences(volume, weights)
    return reduce(torch.add, (times * part**2 for part, times in parts))


def _padded(volume: torch.Tensor) -> torch.Tensor:
    """Volumes (B, Z + 2, Y + 2, X + 2) with their outermost voxels repeated."""
    return F.pad(volume.reshape(1, -1, *volume.shape[-3:]), (1,) * 6, mode="replicate")[0]


def _second_differences(
    volume: torch.Tensor, weights: Sequence[float]
) -> Iterator[tuple[torch.Tensor, int]]:
    """Second differences at every voxel, and how often each stands in the matrix."""
    padded = _padded(volume).reshape(*volume.shape[:-3], *(n + 2 for n in volume.shape[-3:]))

    def at(dz: int, dy: int, dx: int) -> torch.Tensor:
        shifts = zip((dz, dy, dx), volume.shape[-3:], strict=True)
        z, y, x = (slice(1 + d, 1 + d + n) for d, n in shifts)
        return padded[..., z, y, x]

    axes = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    for first, (a, wa) in enumerate(zip(axes, weights, strict=True)):
        back = tuple(-d for d in a)
        yield (at(*a) - 2 * volume + at(*back)) * wa**2, 1
        for b, wb in list(zip(axes, weights, strict=True))[first + 1 :]:
            plus = tuple(p + q for p, q in zip(a, b, strict=True))
            minus = tuple(p - q for p, q in zip(a, b, strict=True))
            corners = at(*plus) - at(*minus) - at(*(-d for d in minus)) + at(*(-d for d in plus))
            yield corners * (wa * wb / 4), 2
