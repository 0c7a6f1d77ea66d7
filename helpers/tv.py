r"""Total variation and its proximal map, by gradient projection on the dual.

The page :doc:`/book/fusion/02_total_variation` derives every step of this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal

import torch

from ._arrays import Array, ArrayT, is_tensor, like, to_tensor
from .operators import Gradient, _head, _tail

__all__ = ["ProxTV", "prox_tv", "tv"]

Kind = Literal["isotropic", "anisotropic"]
Method = Literal["fgp", "gp"]


def tv(x: ArrayT, kind: Kind = "isotropic", *, spatial_dims: int = 2) -> ArrayT | float:
    r"""Total variation of an image or a volume.

    Parameters
    ----------
    x : (..., H, W) or (..., D, H, W) array or tensor
        Any unit; leading axes are a batch.
    kind : {"isotropic", "anisotropic"}
        Length of the gradient vector, or the sum of its absolute components.
    spatial_dims : int
        How many of the last axes are space.

    Returns
    -------
    float, or array or tensor of the batch's shape
        In the unit of `x`.

    Raises
    ------
    ValueError
        `kind` is unknown, or `x` has fewer axes than `spatial_dims`.

    Notes
    -----
    .. math:: \mathrm{TV}(x) = \sum_{ij} |(Dx)_{ij}|_2 \quad\text{or}\quad \sum_{ij} |(Dx)_{ij}|_1

    with :math:`D` of `helpers.operators.Gradient` :cite:p:`rudin1992`.
    Derived in :doc:`/book/fusion/02_total_variation`.

    Examples
    --------
    >>> import numpy as np
    >>> ramp = np.tile(np.arange(8.0), (8, 1))
    >>> tv(ramp)
    56.0
    """
    _check_kind(kind)
    t = _image(x, spatial_dims)
    value = _tv_of_gradient(Gradient(t.shape, spatial_dims)(t), kind, spatial_dims)
    return _scalar_or_like(value, x)


@dataclass(frozen=True)
class ProxTV(Generic[ArrayT]):
    """Result of `prox_tv`.

    Attributes
    ----------
    x : array or tensor
        The estimate, of the shape and kind of the input.
    dual : array or tensor, ``(spatial_dims, *x.shape)``
        Dual field, in the unit ball; give it back as ``warm_start``.
    gap : float, or array of the batch's shape
        Duality gap: a bound on how far the objective is above its minimum, and on the squared
        distance to the exact proximal point.
    n_iter : int
        Sweeps made.
    converged : bool
        Every gap in the batch is at most ``tol`` times its objective (1e-4 if no `tol` was given).
    """

    x: ArrayT
    dual: ArrayT
    gap: ArrayT | float
    n_iter: int
    converged: bool


def prox_tv(
    y: ArrayT,
    weight: float | Array,
    *,
    n_iter: int = 100,
    tol: float | None = None,
    kind: Kind = "isotropic",
    method: Method = "fgp",
    lower: float | None = 0.0,
    upper: float | None = None,
    spatial_dims: int = 2,
    warm_start: ProxTV | Array | None = None,
) -> ProxTV[ArrayT]:
    r"""Proximal map of total variation on a box, by (fast) gradient projection.

    Parameters
    ----------
    y : (..., H, W) or (..., D, H, W) array or tensor
        Noisy image, any unit; leading axes are a batch. Floating types keep their precision,
        integers become float32; the work happens where `y` is.
    weight : float, or array of the batch's shape
        Weight of the total variation, in the unit of `y`, at least 0.
    n_iter : int
        Most sweeps to make.
    tol : float, optional
        Stop when the duality gap is at most `tol` times the objective (looked at every 10 sweeps).
        Without it, all `n_iter` sweeps are made.
    kind : {"isotropic", "anisotropic"}
        Which total variation.
    method : {"fgp", "gp"}
        Fast gradient projection, with momentum, or plain gradient projection.
    lower, upper : float or None
        The box; None leaves that side open. The box takes part in every sweep, so the result
        solves the problem with the box, not the free one clipped afterwards.
    spatial_dims : int
        2 for images, 3 for volumes.
    warm_start : ProxTV or array, optional
        Result, or dual field, of an earlier call of the same shape.

    Returns
    -------
    ProxTV
        Estimate, dual field, duality gap, sweeps and whether it converged.

    Raises
    ------
    ValueError
        NaN or infinite values, no pixels, a negative weight, an empty box, an unknown name, or a
        warm start of another shape.

    Notes
    -----
    Solves, with :math:`\lambda` the weight,

    .. math:: \min_{l \le x \le u}\ \tfrac12\|x-y\|^2 + \lambda\,\mathrm{TV}(x)

    through its dual: :math:`x(p) = P_{[l,u]}(y - \lambda D^* p)` with :math:`|p_{ij}|\le 1`, one
    sweep being :math:`p \leftarrow P(r + \tfrac{1}{4d\lambda} D x(r))` :cite:p:`beck2009tv`.
    The gap at :math:`(x(p), p)` is :math:`\lambda(\mathrm{TV}(x) - \langle Dx, p\rangle)`.
    Derived in :doc:`/book/fusion/02_total_variation`.

    Examples
    --------
    >>> import numpy as np
    >>> step = np.repeat([[0.0, 1.0]], 4, axis=0).repeat(4, axis=1)
    >>> bool(np.allclose(prox_tv(step, 0.4, n_iter=500).x[0, :4], 0.1))
    True
    """
    _check_kind(kind)
    if method not in ("fgp", "gp"):
        raise ValueError(f"method is {method!r}: use 'fgp' or 'gp'")
    if n_iter != int(n_iter) or n_iter < 0:
        raise ValueError(f"n_iter is {n_iter}: it must be a whole number, at least 0")
    low = -math.inf if lower is None else lower
    if not low <= (math.inf if upper is None else upper):  # also NaN
        raise ValueError(f"the box is empty: lower is {lower} and upper is {upper}")
    t = _image(y, spatial_dims).detach()
    if not t.isfinite().all():
        raise ValueError("y has NaN or infinite values: mask or fill them first")
    batch = t.shape[: t.ndim - spatial_dims]
    balance = _weight(weight, t, batch)
    column = balance.reshape(*balance.shape, *[1] * spatial_dims)

    goal = 1e-4 if tol is None else tol
    start = _start(warm_start, t, spatial_dims) * column
    sweeps = Sweeps(t, column, start, kind, lower, upper, momentum=method == "fgp")
    block = n_iter if tol is None else 10
    done = 0
    while True:
        n = min(block, n_iter - done)
        sweeps.run(n)
        done += n
        x = sweeps.primal(sweeps.dual)
        gap, objective = _gap(x, t, sweeps.dual, balance, kind, spatial_dims)
        converged = bool((gap <= goal * objective).all())
        if done >= n_iter or (tol is not None and converged):
            break
    unit = sweeps.dual / column.where(column > 0, column.new_ones(()))
    return ProxTV(like(x, y), like(unit, y), _scalar_or_like(gap, y), done, converged)


class Sweeps:
    """The inner loop of `prox_tv`, kept apart for solvers that call it thousands of times.

    Works on the dual scaled by the weight, ``q = weight * p``: then the weight is only the radius
    of a ball, and appears nowhere else. `dual` is ``q``, of shape
    ``(spatial_dims, *y.shape)``, feasible after every `run`; the momentum goes on from one `run`
    to the next.
    """

    def __init__(
        self,
        y: torch.Tensor,
        weight: torch.Tensor,
        dual: torch.Tensor,
        kind: Kind,
        lower: float | None,
        upper: float | None,
        *,
        momentum: bool = True,
    ) -> None:
        self.y, self.radius, self.dual = y, weight, dual
        self.kind, self.lower, self.upper = kind, lower, upper
        self.moved = torch.empty_like(dual) if momentum else dual  # moved on by the momentum
        self.x, self.buffer = torch.empty_like(y), torch.empty_like(y)
        self.restart()

    def restart(self) -> None:
        """Forget the momentum; `y`, `radius` and `dual` may have been changed in place."""
        if self.moved is not self.dual:
            self.moved.copy_(self.dual)
        self.t = 1.0
        self.factor: float | None = None

    def primal(self, q: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """``P(y - D* q)``: the image that belongs to the scaled dual `q`."""
        x = self.y.clone() if out is None else out.copy_(self.y)
        dims = q.shape[0]
        for d in range(dims):
            axis = d - dims
            _head(x, axis).add_(_head(q[d], axis))
            _tail(x, axis).sub_(_head(q[d], axis))
        return x.clamp_(self.lower, self.upper) if self.boxed else x

    @property
    def boxed(self) -> bool:
        """True if either side of the box is closed."""
        return self.lower is not None or self.upper is not None

    def run(self, n_iter: int) -> None:
        """Make `n_iter` sweeps."""
        for _ in range(n_iter):
            if self.factor is not None:
                torch.lerp(self.moved, self.dual, self.factor, out=self.moved)
            self.primal(self.moved, out=self.x)
            self._ascend(self.moved)
            self._project(self.moved)
            if self.moved is not self.dual:
                t = (1 + math.sqrt(1 + 4 * self.t**2)) / 2
                # `moved` is now the dual before this one, until the next sweep moves it on: two
                # fields are enough for momentum.
                self.factor, self.t = 1 + (self.t - 1) / t, t
                self.dual, self.moved = self.moved, self.dual

    def _ascend(self, q: torch.Tensor) -> None:
        dims = q.shape[0]
        for d in range(dims):
            axis = d - dims
            difference = _head(self.buffer, axis)
            torch.sub(_tail(self.x, axis), _head(self.x, axis), out=difference)
            _head(q[d], axis).add_(difference, alpha=1 / (4 * dims))

    def _project(self, q: torch.Tensor) -> None:
        """Project every dual vector onto the ball of the radius, in place."""
        if self.kind == "anisotropic":
            q.clamp_(-self.radius, self.radius)
            return
        torch.mul(q[0], q[0], out=self.buffer)
        for component in q[1:]:
            self.buffer.addcmul_(component, component)
        floor = self.radius.square() + torch.finfo(q.dtype).tiny
        torch.maximum(self.buffer, floor, out=self.buffer)
        q.mul_(self.buffer.rsqrt_().mul_(self.radius))


def _tv_of_gradient(g: torch.Tensor, kind: Kind, spatial_dims: int) -> torch.Tensor:
    # torch.linalg.vector_norm gives the same, and takes a hundred times longer on a CPU.
    if kind == "anisotropic":
        length = g.abs().sum(dim=0)
    else:
        # The floor, taken away again, gives a flat place the slope zero, where a root has none.
        floor = torch.finfo(g.dtype).tiny
        square = g[0].square()
        for component in g[1:]:
            square.addcmul_(component, component)
        length = square.clamp_min_(floor).sqrt_() - math.sqrt(floor)
    return length.sum(dim=tuple(range(-spatial_dims, 0)))


def _gap(
    x: torch.Tensor,
    y: torch.Tensor,
    q: torch.Tensor,
    weight: torch.Tensor,
    kind: Kind,
    spatial_dims: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Duality gap at ``(x(q), q)`` and the primal objective, per image of the batch."""
    space = tuple(range(-spatial_dims, 0))
    g = Gradient(x.shape, spatial_dims)(x)
    # Per pixel |g| weight - <g, q> is not negative: summed so, rounding cannot make the gap so.
    roughness = weight * _tv_of_gradient(g, kind, spatial_dims)
    gap = (roughness - (g * q).sum(dim=0).sum(dim=space)).clamp_min(0)
    return gap, roughness + 0.5 * (x - y).square().sum(dim=space)


def _check_kind(kind: str) -> None:
    if kind not in ("isotropic", "anisotropic"):
        raise ValueError(f"kind is {kind!r}: use 'isotropic' or 'anisotropic'")


def _image(x: Array, spatial_dims: int) -> torch.Tensor:
    t = to_tensor(x)
    if t.ndim < spatial_dims:
        raise ValueError(f"x has shape {tuple(t.shape)}, but spatial_dims is {spatial_dims}")
    if t.numel() == 0:
        raise ValueError(f"x has shape {tuple(t.shape)}: there are no pixels in it")
    return t


def _weight(given: float | Array, t: torch.Tensor, batch: Sequence[int]) -> torch.Tensor:
    weight = to_tensor(given).to(device=t.device, dtype=t.dtype)
    if not bool((weight >= 0).all()) or not bool(weight.isfinite().all()):
        raise ValueError(f"weight is {weight.tolist()}: it must be finite and at least 0")
    if tuple(weight.shape) not in ((), tuple(batch)):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}: give one number, or one for each image "
            f"of the batch, shape {tuple(batch)}"
        )
    return weight


def _start(warm_start: ProxTV | Array | None, t: torch.Tensor, spatial_dims: int) -> torch.Tensor:
    shape = (spatial_dims, *t.shape)
    if warm_start is None:
        return t.new_zeros(shape)
    given = warm_start.dual if isinstance(warm_start, ProxTV) else warm_start
    dual = to_tensor(given).to(device=t.device, dtype=t.dtype)
    if tuple(dual.shape) != shape:
        raise ValueError(f"warm_start has shape {tuple(dual.shape)}, expected {shape}")
    if not dual.isfinite().all():
        raise ValueError("warm_start has NaN or infinite values: leave it out to start at zero")
    dual = dual.clone()
    # A dual value beyond the last row or column belongs to no difference and must stay zero.
    for d in range(spatial_dims):
        dual[d].narrow(d - spatial_dims, t.shape[d - spatial_dims] - 1, 1).zero_()
    return dual


def _scalar_or_like(value: torch.Tensor, example: ArrayT) -> ArrayT | float:
    if value.ndim == 0 and not is_tensor(example):
        return float(value)
    return like(value, example)
