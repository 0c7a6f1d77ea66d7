"""Linear operators and the test that every one of them must pass.

An operator is any object with ``op(x)``, ``op.adjoint(y)``, ``op.in_shape`` and ``op.out_shape``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from ._arrays import ArrayT, Device, like, to_tensor

__all__ = ["Gradient", "check_adjoint", "operator_norm"]


class Operator(Protocol):
    """A linear operator and its adjoint; both also take NumPy arrays where pages call them."""

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of what it takes."""

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of what it gives."""

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """Apply the operator."""

    def adjoint(self, y: torch.Tensor, /) -> torch.Tensor:
        """Apply the adjoint."""


def check_adjoint(
    op: Operator, *, dtype: str = "float64", device: Device = None, seed: int = 0
) -> float:
    r"""Relative error of an operator's adjoint, on random vectors.

    Parameters
    ----------
    op : operator
        Has ``op(x)``, ``op.adjoint(y)``, ``in_shape`` and ``out_shape``.
    dtype : str
        Name of the torch type to test in, such as "float32" or "complex128".
    device : str or torch.device, optional
        Where the vectors live. Default: the CPU.
    seed : int
        Seed of the two random vectors.

    Returns
    -------
    float
        About 1e-7 in float32 and 1e-16 in float64 when ``op.adjoint`` is right. A wrong one gives
        about one over the square root of the number of values, not one.

    Notes
    -----
    .. math:: \frac{|\langle Ax, y\rangle - \langle x, A^* y\rangle|}{\|Ax\|\,\|y\|}

    Derived in :doc:`/book/start/story`.

    Examples
    --------
    >>> check_adjoint(Gradient((5, 4))) < 1e-14
    True
    """
    kind: torch.dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(op.in_shape, dtype=kind, generator=generator).to(device)
    y = torch.randn(op.out_shape, dtype=kind, generator=generator).to(device)
    ax = op(x)
    if tuple(ax.shape) != tuple(op.out_shape):
        raise ValueError(f"op(x) has shape {tuple(ax.shape)}, but out_shape is {op.out_shape}")
    left = torch.vdot(y.flatten(), ax.flatten())
    right = torch.vdot(op.adjoint(y).flatten(), x.flatten())
    return float((left - right).abs() / (ax.norm() * y.norm()))


class Gradient:
    r"""Forward differences along the last axes, with nothing beyond the last row and column.

    Parameters
    ----------
    in_shape : tuple of int
        Shape of the image or volume; leading axes are a batch.
    spatial_dims : int
        How many of the last axes are differentiated.

    Notes
    -----
    ``op(x)`` has shape ``(spatial_dims, *in_shape)``:

    .. math:: (Dx)_{0,ij} = x_{i+1,j} - x_{ij}, \qquad (Dx)_{1,ij} = x_{i,j+1} - x_{ij},

    and zero where :math:`i+1` or :math:`j+1` leaves the image (Neumann boundary). The adjoint is
    minus the divergence. :math:`\|D\|^2 < 4d` for :math:`d` spatial axes
    :cite:p:`chambolle2004`. Derived in :doc:`/book/fusion/02_total_variation`.

    Examples
    --------
    >>> import numpy as np
    >>> Gradient((2, 2))(np.array([[0.0, 1.0], [2.0, 5.0]]))
    array([[[2., 4.],
            [0., 0.]],
    <BLANKLINE>
           [[1., 0.],
            [3., 0.]]])
    """

    def __init__(self, in_shape: Sequence[int], spatial_dims: int = 2) -> None:
        self.in_shape: tuple[int, ...] = tuple(in_shape)
        if not 1 <= spatial_dims <= len(self.in_shape):
            raise ValueError(f"spatial_dims is {spatial_dims}, but the shape is {self.in_shape}")
        self.spatial_dims = spatial_dims
        self.out_shape: tuple[int, ...] = (spatial_dims, *self.in_shape)
        self.norm_squared_bound = 4.0 * spatial_dims

    def __call__(self, x: ArrayT) -> ArrayT:
        """Forward differences of `x`."""
        t = to_tensor(x)
        out = t.new_zeros(self.out_shape)
        for d in range(self.spatial_dims):
            axis = d - self.spatial_dims
            _head(out[d], axis).copy_(_tail(t, axis)).sub_(_head(t, axis))
        return like(out, x)

    def adjoint(self, y: ArrayT) -> ArrayT:
        """Minus the divergence of `y`."""
        t = to_tensor(y)
        out = t.new_zeros(self.in_shape)
        for d in range(self.spatial_dims):
            axis = d - self.spatial_dims
            _head(out, axis).sub_(_head(t[d], axis))
            _tail(out, axis).add_(_head(t[d], axis))
        return like(out, y)


def _head(x: torch.Tensor, axis: int) -> torch.Tensor:
    """All but the last entry along `axis`, as a view."""
    return x.narrow(axis, 0, x.shape[axis] - 1)


def _tail(x: torch.Tensor, axis: int) -> torch.Tensor:
    """All but the first entry along `axis`, as a view."""
    return x.narrow(axis, 1, x.shape[axis] - 1)


def operator_norm(op: Operator, *, n_iter: int = 50, seed: int = 0) -> float:
    """Largest singular value of `op`, by power iteration on ``op.adjoint(op(x))``.

    Examples
    --------
    >>> bool(operator_norm(Gradient((32, 32)), n_iter=200) ** 2 < 8)
    True
    """
    x = torch.randn(op.in_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    value = 0.0
    for _ in range(n_iter):
        x = op.adjoint(op(x / x.norm()))
        value = float(x.norm())
    return math.sqrt(value)
