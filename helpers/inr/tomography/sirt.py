"""SIRT: simultaneous iterative reconstruction of a volume from its projections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..._arrays import Array, Device, like, to_tensor
from ...devices import pick_device
from ...operators import Operator


@dataclass(frozen=True)
class Sirt:
    """Estimate of `sirt`, with its history.

    Attributes
    ----------
    volume : array or tensor (..., Z, Y, X)
        The estimate, in the kind of the data.
    history : (n_iter + 1,) array
        Weighted misfit over that of an empty volume, before every iteration and at the end.
        It never rises.
    n_iter : int
        Iterations made.
    converged : bool
        The last iteration lowered the misfit by less than a thousandth of itself. It says nothing
        about the volume, which may have become worse long before.
    settings : dict
        The settings of the run.
    """

    volume: Array
    history: np.ndarray
    n_iter: int
    converged: bool
    settings: dict


def sirt(
    op: Operator,
    y: Array,
    n_iter: int,
    *,
    nonnegative: bool = True,
    relaxation: float = 1.0,
    start: Array | None = None,
    callback: Callable[[int, torch.Tensor], Any] | None = None,
    progress: bool = False,
    device: Device = None,
) -> Sirt:
    r"""Simultaneous iterative reconstruction of a volume from its projections.

    Parameters
    ----------
    op : operator
        With non-negative weights, such as `ParallelBeam`.
    y : (..., N, Y, S) array or tensor
        Projections, background subtracted, any unit.
    n_iter : int
        Iterations. The noise grows with them, so their number is the regulariser.
    nonnegative : bool
        Set negative voxels to zero after each iteration.
    relaxation : float
        Step length, between 0 and 2.
    start : (..., Z, Y, X) array or tensor, optional
        Volume to go on from. Default: an empty one.
    callback : callable, optional
        ``callback(iteration, volume)`` after every iteration, from 1; the volume is a tensor.
    progress : bool
        Show a progress bar.
    device : str or torch.device, optional
        Where to work; see `helpers.devices.pick_device`.

    Returns
    -------
    Sirt
        The volume, in the unit of `y` per voxel, and how the misfit fell.

    Raises
    ------
    ValueError
        Projections of another shape than ``op.out_shape``, NaN or infinite values, `n_iter` below
        1, or a relaxation outside 0 to 2.

    Notes
    -----
    With C and R the diagonal matrices of one over the column sums and the row sums of A (a ray
    that crosses less than one voxel counts as crossing one: the noise at the rim would weigh most),

    .. math:: f \leftarrow \big( f + \lambda\, C A^\top R\,(y - A f) \big)_+ .

    It is a projected gradient step on :math:`\|y - Af\|_R^2 = \sum R\,(y - Af)^2` in the metric
    :math:`C^{-1}`, in which no step up to :math:`\lambda = 2` can raise it
    :cite:p:`gregor2008`. Derived in :doc:`/book/inr/06_tomography`.

    Examples
    --------
    >>> from helpers.inr.tomography import ParallelBeam
    >>> op = ParallelBeam([0, 30, 60, 90, 120, 150], (6, 2, 6))
    >>> truth = np.zeros((6, 2, 6)); truth[2:5, :, 2:4] = 1
    >>> result = sirt(op, op(truth), 200, device="cpu")
    >>> bool(abs(result.volume - truth).max() < 0.1)
    True
    """
    if n_iter != int(n_iter) or n_iter < 1:
        raise ValueError(f"n_iter is {n_iter}: give a whole number, at least 1")
    if not 0 < relaxation < 2:
        raise ValueError(f"relaxation is {relaxation}: it must lie between 0 and 2")
    data = to_tensor(y, pick_device(device))
    check_projections(op, data)
    shape = (*data.shape[:-3], *op.in_shape)
    begun = None if start is None else to_tensor(start).to(data)
    if begun is not None and begun.shape != shape:
        raise ValueError(f"start has shape {tuple(begun.shape)}, but the volume has {shape}")

    rows = 1 / op(data.new_ones(op.in_shape)).clamp_min(1)
    seen = op.adjoint(data.new_ones(op.out_shape))
    # and so does a voxel that half a projection or less has seen
    columns = torch.where(seen > 1e-6, 1 / seen.clamp_min(0.5), 0)

    def misfit(error: torch.Tensor) -> float:
        return float((rows * error**2).sum().sqrt())

    volume, error, empty = data.new_zeros(shape), data, misfit(data) or 1.0
    if begun is not None:
        volume = begun
        error = data - op(volume)
    history = [misfit(error) / empty]
    for iteration in tqdm(range(1, int(n_iter) + 1), desc="SIRT", disable=not progress):
        volume = volume + relaxation * columns * op.adjoint(rows * error)
        if nonnegative:
            volume = volume.clamp_min(0)
        error = data - op(volume)
        history.append(misfit(error) / empty)
        if callback:
            callback(iteration, volume)
    settings = {"nonnegative": nonnegative, "relaxation": relaxation, "device": str(data.device)}
    converged = history[-2] - history[-1] <= 1e-3 * history[-1]
    return Sirt(like(volume, y), np.array(history), int(n_iter), bool(converged), settings)


def check_projections(op: Any, y: Array) -> None:
    """Raise a ValueError unless the tensor `y` can be data of the operator `op`."""
    if y.ndim < 3 or tuple(y.shape[-3:]) != tuple(op.out_shape):
        views = y.shape[-3] if y.ndim >= 3 else "no"
        raise ValueError(
            f"the projections have shape {tuple(y.shape)}, with {views} views, but the operator "
            f"makes {tuple(op.out_shape)}, with {op.out_shape[0]}: give one angle for each view "
            "and crop both to the same field"
        )
    if not bool(to_tensor(y).isfinite().all()):
        raise ValueError("the projections hold NaN or infinite values: mask or replace them first")
