"""Parallel-beam tomography: the projection operator, SIRT, and the wedge without data."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from tqdm.auto import tqdm

from .._arrays import Array, ArrayT, Device, like, to_tensor
from ..devices import pick_device
from ..operators import Operator

__all__ = ["ParallelBeam", "Sirt", "missing_wedge", "sirt"]


class ParallelBeam:
    r"""Projections of a volume that is tilted about its Y axis.

    Parameters
    ----------
    angles_deg : sequence of float
        Tilts in degrees. At 0 the rays run along Z and the detector along X.
    shape : (int, int, int)
        Voxels (Z, Y, X) of the volume, cubes of side 1.
    width : int, optional
        Detector pixels S across the tilt axis. Default: enough for the slice's diagonal, so that
        no light is lost at any tilt. With fewer, what leaves the detector is lost.

    Attributes
    ----------
    in_shape, out_shape : tuple of int
        (Z, Y, X) and (N, Y, S).
    angles_deg : tuple of float
    sensitivity : tensor (Z, Y, X)
        ``adjoint(1)``: how many of the projections catch each voxel.

    Raises
    ------
    ValueError
        No angle, an angle that is not finite, a shape that is not three positive whole numbers,
        or a width below 1. Calls refuse arrays of another shape.

    Notes
    -----
    .. math:: p_\theta(y, s) = \int f(y,\; x = s\cos\theta - l\sin\theta,\;
        z = s\sin\theta + l\cos\theta)\, dl ,

    integrated over the width of each detector pixel. A voxel is a square in the slice (Z, X); its
    shadow is a trapezoid of area 1, and the weights are the parts of it that fall on each pixel.
    They are the same for every y, so one sparse matrix for the slice serves the whole volume, and
    its transpose is the adjoint. Works in the precision and on the device of what it is called
    with, and autograd goes through it. Derived in :doc:`/book/inr/06_tomography`.

    Examples
    --------
    >>> op = ParallelBeam([0, 45, 90], (8, 3, 6))
    >>> op.out_shape
    (3, 3, 10)
    >>> op(np.ones((8, 3, 6))).sum((1, 2)).round(6).tolist()
    [144.0, 144.0, 144.0]
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(op) < 1e-14
    True
    """

    def __init__(
        self, angles_deg: ArrayLike, shape: Sequence[int], width: int | None = None
    ) -> None:
        self.angles_deg = _checked_angles(angles_deg)
        self.in_shape = _checked_shape(shape)
        depth, height, breadth = self.in_shape
        width = math.ceil(math.hypot(depth, breadth)) if width is None else width
        if width != int(width) or width < 1:
            raise ValueError(f"width is {width}: give a whole number of detector pixels")
        self.out_shape = (len(self.angles_deg), height, int(width))
        # on the instance, so that the matrices go when the operator goes
        self._matrix = functools.cache(self._make_matrix)

    def __call__(self, x: ArrayT) -> ArrayT:
        """Projections (..., N, Y, S) of the volume `x` (..., Z, Y, X)."""
        return self._apply(x, self.in_shape, self.out_shape, transposed=False)

    def adjoint(self, y: ArrayT) -> ArrayT:
        """Volume (..., Z, Y, X) into which the projections `y` (..., N, Y, S) are smeared back."""
        return self._apply(y, self.out_shape, self.in_shape, transposed=True)

    @property
    def sensitivity(self) -> torch.Tensor:
        """Number of projections that catch each voxel, a float32 tensor (Z, Y, X)."""
        return self.adjoint(torch.ones(self.out_shape))

    def select(self, views: Sequence[int]) -> ParallelBeam:
        """The operator of some of the projections, such as ``[0, 1, 3]``."""
        angles = [self.angles_deg[view] for view in views]
        return ParallelBeam(angles, self.in_shape, self.out_shape[2])

    def _apply(
        self,
        array: ArrayT,
        shape: tuple[int, ...],
        result_shape: tuple[int, ...],
        *,
        transposed: bool,
    ) -> ArrayT:
        t = to_tensor(array)
        if tuple(t.shape[-3:]) != shape:
            names = ("projections", "N, Y, S") if transposed else ("volume", "Z, Y, X")
            raise ValueError(
                f"the {names[0]} have shape {tuple(t.shape)}, but this operator was made for "
                f"(..., {names[1]}) = (..., {', '.join(map(str, shape))})"
            )
        # the tilt axis and the batch become the columns of one matrix
        batch = t.shape[:-3]
        columns = t.movedim(-2, 0).reshape(-1, shape[0] * shape[2]).T
        columns = _Product.apply(columns, self, transposed)
        result = columns.T.reshape(shape[1], *batch, result_shape[0], result_shape[2])
        return like(result.movedim(0, -2), array)

    def _make_matrix(
        self, transposed: bool, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        matrix = _footprints(self.angles_deg, self.in_shape[0], self.in_shape[2], self.out_shape[2])
        matrix = (matrix.T if transposed else matrix).tocsr()
        with warnings.catch_warnings():  # torch calls its sparse rows a beta, once
            warnings.simplefilter("ignore", UserWarning)
            return torch.sparse_csr_tensor(
                torch.from_numpy(matrix.indptr),
                torch.from_numpy(matrix.indices),
                torch.from_numpy(matrix.data).to(dtype),
                matrix.shape,
                device=device,
            )


def _footprints(angles_deg: Sequence[float], depth: int, breadth: int, width: int) -> csr_matrix:
    """Sparse matrix (N S, Z X): the part of each voxel's shadow that falls on each pixel."""
    z = np.arange(depth)[:, None] - (depth - 1) / 2
    x = np.arange(breadth) - (breadth - 1) / 2
    rows, columns, weights = [], [], []
    for view, angle in enumerate(np.deg2rad(angles_deg)):
        centre = (x * np.cos(angle) + z * np.sin(angle)).ravel() + width / 2
        sides = np.array([abs(np.cos(angle)), abs(np.sin(angle))])
        first = np.floor(centre - sides.sum() / 2).astype(int)
        # a shadow is at most sqrt(2) wide, and so touches three pixels at most
        edges = first + np.arange(4)[:, None]
        shares = np.diff(_trapezoid(edges - centre, sides), axis=0)
        for pixel, share in zip(edges, shares, strict=False):
            hit = np.flatnonzero((share > 1e-9) & (pixel >= 0) & (pixel < width))
            rows.append(view * width + pixel[hit])
            columns.append(hit)
            weights.append(share[hit])
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    return csr_matrix(entries, (len(angles_deg) * width, depth * breadth))


def _trapezoid(u: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Area left of `u` under the shadow of a unit square: the convolution of two boxes."""
    wide, narrow = max(sides), min(sides)
    if narrow < 1e-6:  # a box
        return np.clip(u / wide + 0.5, 0, 1)
    far, near = (wide + narrow) / 2, (wide - narrow) / 2
    corners = (u + far, 1), (u + near, -1), (u - near, -1), (u - far, 1)
    return sum(sign * np.maximum(v, 0) ** 2 for v, sign in corners) / (2 * wide * narrow)


class _Product(torch.autograd.Function):
    """The sparse product, and its transpose as derivative."""

    @staticmethod
    def forward(
        ctx: Any, columns: torch.Tensor, op: ParallelBeam, transposed: bool
    ) -> torch.Tensor:
        ctx.op, ctx.transposed = op, transposed
        # Apple's MPS has no sparse products
        device = "cpu" if columns.device.type == "mps" else columns.device
        matrix = op._matrix(transposed, columns.dtype, torch.device(device))
        return (matrix @ columns.to(device)).to(columns.device)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Product.apply(gradient, ctx.op, not ctx.transposed), None, None


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

    rows = 1 / op(data.new_ones(op.in_shape)).clamp_min(1)
    seen = op.adjoint(data.new_ones(op.out_shape))
    columns = torch.where(seen > 1e-6, 1 / seen.clamp_min(1e-6), 0)

    def misfit(error: torch.Tensor) -> float:
        return float((rows * error**2).sum().sqrt())

    volume = data.new_zeros((*data.shape[:-3], *op.in_shape))
    error, empty = data, misfit(data) or 1.0
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


def missing_wedge(
    shape: Sequence[int], angles_deg: ArrayLike | None = None, *, max_tilt: float | None = None
) -> np.ndarray:
    r"""Mark the frequencies that a tilt series has not measured.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X).
    angles_deg : sequence of float, optional
        The tilts. Then gaps between neighbouring tilts count as missing, too.
    max_tilt : float, optional
        Instead of `angles_deg`: the largest tilt to both sides, in degrees, of a series without
        gaps.

    Returns
    -------
    (Z, Y, X) bool array
        True where there are no data, in the order of `numpy.fft.fftn` (zero frequency first).

    Raises
    ------
    ValueError
        Both or neither of `angles_deg` and `max_tilt`, or a `max_tilt` outside 0 to 90.

    Notes
    -----
    The transform of the projection at :math:`\theta` is the volume's on the plane
    :math:`(k_z, k_x) = k_s (\sin\theta, \cos\theta)`. An object of diameter D ties together
    frequencies less than 1/D apart, so a plane tells of a slab of that thickness; D is here the
    longer side of the slice (Z, X) :cite:p:`crowther1970`. Derived in
    :doc:`/book/inr/06_tomography`.

    Examples
    --------
    >>> missing_wedge((32, 4, 32), max_tilt=60).mean().round(2).item()
    0.26
    """
    shape = _checked_shape(shape)
    if (angles_deg is None) == (max_tilt is None):
        raise ValueError("give either angles_deg or max_tilt")
    kz = np.fft.fftfreq(shape[0])[:, None, None]
    kx = np.fft.fftfreq(shape[2])[None, None, :]
    half = 0.5 / max(shape[0], shape[2])
    if max_tilt is not None:
        if not 0 < max_tilt <= 90:
            raise ValueError(f"max_tilt is {max_tilt}: give degrees between 0 and 90")
        edge = math.radians(max_tilt)
        outside = np.abs(kz) * math.cos(edge) - np.abs(kx) * math.sin(edge) > half
    else:
        angles = np.deg2rad(_checked_angles(angles_deg))[:, None, None, None]
        outside = (np.abs(kz * np.cos(angles) - kx * np.sin(angles)) > half).all(0)
    return np.broadcast_to(outside, shape).copy()


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) != 3 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"shape is {shape}: give three positive whole numbers (Z, Y, X)")
    return tuple(int(n) for n in shape)


def _checked_angles(angles_deg: ArrayLike | None) -> tuple[float, ...]:
    angles = np.asarray(angles_deg, dtype=float)
    if angles.ndim != 1 or not angles.size or not np.isfinite(angles).all():
        raise ValueError(f"angles_deg is {angles_deg!r}: give a list of finite angles in degrees")
    return tuple(angles.tolist())
