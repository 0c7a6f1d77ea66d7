"""Parallel-beam projections, with the axis and the drift of a real instrument."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from ..._arrays import Array, ArrayT, Device, is_tensor, like, to_numpy, to_tensor
from .._checks import checked_lengths, chosen
from ._resample import interpolate, spread

Matrices: TypeAlias = Callable[[bool, torch.dtype, torch.device], torch.Tensor]
"""The matrix of the slice or its transpose, in a precision on a device."""


class ParallelBeam:
    r"""Projections of a volume that is tilted about an axis in the plane of the detector.

    Parameters
    ----------
    angles_deg : sequence of float
        Tilts in degrees. At 0 the rays run along Z.
    shape : (int, int, int)
        Voxels (Z, Y, X) of the volume.
    width : int, optional
        Detector pixels S across the tilt axis. Default: enough for the slice's diagonal, so that
        no light is lost at any tilt. With fewer, what leaves the detector is lost.
    height : int, optional
        Detector pixels along the tilt axis. Default: as many as voxels. With fewer, the volume
        goes on beyond the detector, as what drifts into view does.
    offset : float
        Place of the tilt axis on the detector, in px from its middle.
    axis_deg : float
        Turn of the tilt axis in the plane of the detector, within 45 degrees: positive takes the
        direction along the axis to that of smaller S.
    shifts : (N, 2) array, optional
        Drift of each image in px, (along, across) the axis: the content lies that much further on.
    voxel_size : (float, float, float), optional
        (z, y, x), any unit. Detector pixels are as large as voxels in y and x. Default: cubes.
    axis : "Y" or "X"
        Direction of the tilt axis.

    Attributes
    ----------
    in_shape, out_shape : tuple of int
        (Z, Y, X) and (N, Y, S); with the axis along X, (N, S, X).
    angles_deg : tuple of float
    sensitivity : tensor (Z, Y, X)
        ``adjoint(1)``: how many of the projections catch each voxel.

    Raises
    ------
    ValueError
        No angle, an angle that is not finite, a shape that is not three positive whole numbers, a
        width or height below 1, shifts of another shape, an axis turned by 45 degrees or more.
        Calls refuse arrays of another shape.

    Notes
    -----
    .. math:: p_\theta(y, s) = \int f(y,\; x = s\cos\theta - l\sin\theta,\;
        z = s\sin\theta + l\cos\theta)\, dl ,

    integrated over the width of each detector pixel. A voxel is a rectangle in the slice (Z, X);
    its shadow is a trapezoid of area 1, and the weights are the parts of it that fall on each
    pixel.
    They are the same for every y, so one sparse matrix for the slice serves the whole volume, and
    its transpose is the adjoint. What lies at (y, s) from the axis, seen with the axis at
    :math:`s_0`, turned by :math:`\alpha`, and shifted by (:math:`\delta_y, \delta_s`), falls on

    .. math:: (y\cos\alpha + s\sin\alpha + \delta_y,\; s\cos\alpha - y\sin\alpha + s_0 + \delta_s).

    Offset and drift across the axis move the trapezoids, so nothing is interpolated; the turn and
    the drift along the axis are cubic interpolations :cite:p:`keys1981`. Works in the precision
    and on the device of what it is called with, and autograd goes through it. Derived in
    :doc:`/book/inr/06_tomography`; axis and drift are found in :doc:`/book/inr/09_measured_tilts`.

    Examples
    --------
    >>> op = ParallelBeam([0, 45, 90], (8, 3, 6))
    >>> op.out_shape
    (3, 3, 10)
    >>> op(np.ones((8, 3, 6))).sum((1, 2)).round(6).tolist()
    [144.0, 144.0, 144.0]
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(ParallelBeam([0, 30], (8, 3, 6), 7, offset=0.7, axis_deg=2.0)) < 1e-14
    True
    """

    def __init__(
        self,
        angles_deg: ArrayLike,
        shape: Sequence[int],
        width: int | None = None,
        *,
        height: int | None = None,
        offset: float = 0.0,
        axis_deg: float = 0.0,
        shifts: Array | None = None,
        voxel_size: Sequence[float] | None = None,
        axis: Literal["Y", "X"] = "Y",
    ) -> None:
        self.angles_deg = checked_angles(angles_deg)
        self.in_shape = checked_shape(shape)
        if axis not in ("Y", "X"):
            raise ValueError(f"axis is {axis!r}: the tilt axis runs along 'Y' or 'X'")
        self.axis, self.voxel_size = axis, checked_lengths(voxel_size)
        if not (np.isfinite(offset) and abs(axis_deg) < 45):
            raise ValueError(
                f"offset is {offset} and axis_deg {axis_deg}: give pixels, and degrees within 45; "
                "an axis along the other direction is axis='X'"
            )
        n = len(self.angles_deg)
        shifts = np.zeros((n, 2)) if shifts is None else to_numpy(shifts).astype(float)
        if shifts.shape != (n, 2) or not np.isfinite(shifts).all():
            raise ValueError(
                f"shifts have shape {shifts.shape}: give finite pixels ({n}, 2), along and across "
                "the axis, one pair for each angle"
            )
        depth, length, breadth = self._turned(self.in_shape)
        self._depth_step = self._thickness()
        if width is None:
            width = math.ceil(math.hypot(depth * self._depth_step, breadth))
        height = length if height is None else height
        for name, value in (("width", width), ("height", height)):
            if value != int(value) or value < 1:
                raise ValueError(f"{name} is {value}: give a whole number of detector pixels")
        self.out_shape = (n, *self._turned((int(height), int(width))))
        self._set(float(offset), float(axis_deg), shifts)
        self._margin = math.ceil(abs(math.tan(math.radians(axis_deg))) * length / 2)
        self._margin += 3 * (axis_deg != 0)
        self._matrix = self._kept()
        self._interpolated = False

    def __call__(self, x: ArrayT) -> ArrayT:
        """Projections (..., N, Y, S) of the volume `x` (..., Z, Y, X)."""
        t = self._checked(x, self.in_shape, "volume", "Z, Y, X")
        images = self._slices(self._turned(t), transposed=False)
        across, along = self._places(images)
        if across is not None:
            images = interpolate(images, across)
        if along is not None:
            images = interpolate(images.mT, along).mT
        return like(self._turned(images), x)

    def adjoint(self, y: ArrayT) -> ArrayT:
        """Volume (..., Z, Y, X) into which the projections `y` (..., N, Y, S) are smeared back."""
        t = self._checked(y, self.out_shape, "projections", "N, Y, S")
        images = self._turned(t)
        across, along = self._places(images)
        if along is not None:
            images = spread(images.mT, along, self._turned(self.in_shape)[1]).mT
        if across is not None:
            images = spread(images, across, images.shape[-1] + 2 * self._margin)
        return like(self._turned(self._slices(images, transposed=True)), y)

    @property
    def sensitivity(self) -> torch.Tensor:
        """Number of projections that catch each voxel, a float32 tensor (Z, Y, X)."""
        return self.adjoint(torch.ones(self.out_shape))

    def to(self, device: Device = None, dtype: torch.dtype | None = None) -> ParallelBeam:
        """The operator itself: it works on the device and in the precision of what it is given."""
        return self

    def select(self, views: Sequence[int] | np.ndarray) -> ParallelBeam:
        """The operator of some of the projections: their numbers, or a mask."""
        picked = chosen(views, len(self.angles_deg), "projections")
        angles = [self.angles_deg[view] for view in picked]
        return self._made(angles_deg=angles, shifts=to_numpy(self.shifts)[picked])

    def block(self, size: Sequence[int], energy: float = 0.99) -> ParallelBeam:
        """The operator of a part of the detector, and of the voxels that it sees.

        Parameters
        ----------
        size : (int, int)
            Height and width of the part. Across the axis it is always the whole detector.
        energy : float
            Unused: a ray has no tails.

        Raises
        ------
        ValueError
            The axis is turned against the detector, so that no part of the volume stays in it.
        """
        if self.axis_deg:
            raise ValueError(
                "the axis is turned against the detector, so blocks of it see different volumes: "
                "leave out block"
            )
        rows, drift = self._turned(tuple(size))[0], float(np.abs(to_numpy(self.shifts)[:, 0]).max())
        depth, _, breadth = self._turned(self.in_shape)
        length = rows + 2 * math.ceil(drift + 2 * (drift > 0))
        return self._made(shape=self._turned((depth, length, breadth)), height=rows)

    def coarsened(self, factor: int) -> ParallelBeam:
        """The same specimen on voxels and pixels `factor` times as wide; depth is left as it is.

        The volume keeps its unit, and so do the projections: the mean replaces the sum.

        Raises
        ------
        ValueError
            Sizes that do not divide by `factor`.
        """
        sizes = (*self.in_shape[1:], *self.out_shape[1:])
        if any(n % factor for n in sizes):
            raise ValueError(f"sizes {sizes} do not divide by {factor}: crop, or leave this out")
        z, y, x = self.voxel_size or (1.0, 1.0, 1.0)
        depth, length, breadth = self.in_shape
        height, width = self._turned(self.out_shape[1:])
        return self._made(
            shape=(depth, length // factor, breadth // factor),
            height=height // factor,
            width=width // factor,
            offset=self.offset / factor,
            shifts=to_numpy(self.shifts) / factor,
            voxel_size=(z, factor * y, factor * x),
        )

    def parameters(self) -> dict[str, torch.Tensor]:
        """Numbers that a fit can find with the volume: "offset", "shifts" (px) and "axis_deg"."""
        values = {"offset": self.offset, "axis_deg": self.axis_deg, "shifts": self.shifts}
        return {name: torch.as_tensor(value).detach().float() for name, value in values.items()}

    def at(
        self, values: Mapping[str, Array | float], *, interpolated: bool = False
    ) -> ParallelBeam:
        """The operator with other values of its `parameters`.

        Parameters
        ----------
        values : dict
            By name. A tensor with a gradient keeps it.
        interpolated : bool
            Keep the matrix, and interpolate the difference on the detector, which is quick. So it
            is always where a value has a gradient.
        """
        known = {"offset": self.offset, "axis_deg": self.axis_deg, "shifts": self.shifts}
        if unknown := set(values) - set(known):
            raise ValueError(f"{sorted(unknown)} are none of {sorted(known)}")
        new = {**known, **values}
        if not (interpolated or any(_learnt(v) for v in values.values())):
            made = {name: to_numpy(value) for name, value in new.items()}
            return self._made(**{k: v if k == "shifts" else float(v) for k, v in made.items()})
        part = copy.copy(self._roomy)
        part._set(**new, base=self._base)
        part._interpolated = True
        return part

    def without_freedom(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A change of a parameter without what a shift of the whole object would do as well."""
        if name != "shifts":
            return value
        along, across = value.unbind(-1)
        angles = np.deg2rad(self.angles_deg)
        patterns = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], 1)
        basis = torch.as_tensor(np.linalg.svd(patterns, full_matrices=False)[0]).to(value)
        return torch.stack([along - along.mean(), across - basis @ (basis.T @ across)], -1)

    @functools.cached_property
    def _roomy(self) -> ParallelBeam:
        """The same with a wider sheet before the detector, for images that will move on it."""
        part = copy.copy(self)
        part._margin = self._margin + max(8, self._turned(self.out_shape[1:])[1] // 8)
        part._matrix = part._kept()
        return part

    def _set(self, offset: Any, axis_deg: Any, shifts: Any, base: Any = None) -> None:
        self.offset, self.axis_deg, self.shifts = offset, axis_deg, shifts
        self._base = offset + shifts[:, 1] if base is None else base

    def _kept(self) -> Matrices:
        # on the instance, so that the matrices go when the operator goes
        return functools.cache(self._make_matrix)

    def _made(self, **changes: Any) -> ParallelBeam:
        height, width = self._turned(self.out_shape[1:])
        settings: dict[str, Any] = {
            "angles_deg": self.angles_deg,
            "shape": self.in_shape,
            "width": width,
            "height": height,
            "offset": self.offset,
            "axis_deg": self.axis_deg,
            "shifts": self.shifts,
            "voxel_size": self.voxel_size,
            "axis": self.axis,
        }
        return ParallelBeam(**settings | changes)

    def _turned(self, x: Any) -> Any:
        """Axes (..., Y, X) in the order (..., along, across) the tilt axis, and back."""
        if self.axis == "Y":
            return x
        return x.mT if is_tensor(x) else (*x[:-2], x[-1], x[-2])

    def _thickness(self) -> float:
        """Height of a voxel in widths of a detector pixel."""
        z, y, x = self.voxel_size or (1.0, 1.0, 1.0)
        return z / (x if self.axis == "Y" else y)

    def _places(self, images: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Places on the sheet that each detector pixel sees, across and along; None: as is."""
        height, width = self._turned(self.out_shape[1:])
        length = self._turned(self.in_shape)[1]
        moves = self._interpolated
        offset, turn, shifts, base = (
            torch.as_tensor(v).to(images)
            for v in (self.offset, self.axis_deg, self.shifts, self._base)
        )
        turn = torch.deg2rad(turn)
        turned = _learnt(self.axis_deg) or self.axis_deg != 0
        along = across = None
        s = torch.arange(width).to(images) - (width - 1) / 2
        s = s - (offset + shifts[:, 1])[:, None, None]  # (N, 1, S), from the axis
        if turned or moves:
            y = torch.arange(length).to(images)[:, None] - (length - 1) / 2
            q = (s + y * torch.sin(turn)) / torch.cos(turn) if turned else s
            across = q + base[:, None, None] + (width - 1) / 2 + self._margin
        drift = _learnt(self.shifts) or bool((shifts[:, 0] != 0).any())
        if turned or drift or height != length:
            y = torch.arange(height).to(images)[:, None] - (height - 1) / 2
            y = y - shifts[:, 0, None, None]
            if turned:
                y = y * torch.cos(turn) - s * torch.sin(turn)
            along = (y + (length - 1) / 2).mT
        return across, along

    def _checked(self, x: Array, shape: Sequence[int], name: str, axes: str) -> torch.Tensor:
        t = to_tensor(x)
        if tuple(t.shape[-3:]) != tuple(shape):
            raise ValueError(
                f"the {name} have shape {tuple(t.shape)}, but this operator was made for "
                f"(..., {axes}) = (..., {', '.join(map(str, shape))})"
                + (": give it the `width` of the detector" if name == "projections" else "")
            )
        return t

    def _slices(self, t: torch.Tensor, *, transposed: bool) -> torch.Tensor:
        """Every slice across the axis through the matrix: (Z, L, B) to (N, L, sheet), or back."""
        depth, length, breadth = self._turned(self.in_shape)
        sheet = self._turned(self.out_shape[1:])[1] + 2 * self._margin
        ends = (len(self.angles_deg), sheet), (depth, breadth)
        # the tilt axis and the batch become the columns of one matrix
        batch = t.shape[:-3]
        columns = t.movedim(-2, 0).reshape(-1, t.shape[-3] * t.shape[-1]).T
        columns = _Product.apply(columns, self._matrix, transposed)
        result = columns.T.reshape(length, *batch, *ends[transposed])
        return result.movedim(0, -2)

    def _make_matrix(
        self, transposed: bool, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        depth, _, breadth = self._turned(self.in_shape)
        sheet = self._turned(self.out_shape[1:])[1] + 2 * self._margin
        base = to_numpy(self._base)
        matrix = _footprints(self.angles_deg, depth, breadth, sheet, base, self._depth_step)
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


def _footprints(
    angles_deg: Sequence[float],
    depth: int,
    breadth: int,
    width: int,
    offsets: np.ndarray,
    thickness: float,
) -> csr_matrix:
    """Sparse matrix (N S, Z X): the part of each voxel's shadow that falls on each pixel."""
    z = (np.arange(depth)[:, None] - (depth - 1) / 2) * thickness
    x = np.arange(breadth) - (breadth - 1) / 2
    rows, columns, weights = [], [], []
    for view, angle in enumerate(np.deg2rad(angles_deg)):
        centre = (x * np.cos(angle) + z * np.sin(angle)).ravel() + width / 2 + offsets[view]
        sides = np.array([abs(np.cos(angle)), thickness * abs(np.sin(angle))])
        first = np.floor(centre - sides.sum() / 2).astype(int)
        # pixels that a shadow can touch: three for a square, whose shadow is at most sqrt(2) wide
        edges = first + np.arange(math.ceil(sides.sum() - 1e-9) + 2)[:, None]
        shares = np.diff(_trapezoid(edges - centre, sides), axis=0)
        for pixel, share in zip(edges, shares, strict=False):
            hit = np.flatnonzero((share > 1e-9) & (pixel >= 0) & (pixel < width))
            rows.append(view * width + pixel[hit])
            columns.append(hit)
            weights.append(share[hit])
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    return csr_matrix(entries, (len(angles_deg) * width, depth * breadth))


def _trapezoid(u: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Area left of `u` under the shadow of a unit rectangle: the convolution of two boxes."""
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
        ctx: Any, columns: torch.Tensor, matrices: Matrices, transposed: bool
    ) -> torch.Tensor:
        ctx.matrices, ctx.transposed = matrices, transposed
        # Apple's MPS has no sparse products
        device = "cpu" if columns.device.type == "mps" else columns.device
        matrix = matrices(transposed, columns.dtype, torch.device(device))
        return (matrix @ columns.to(device)).to(columns.device)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Product.apply(gradient, ctx.matrices, not ctx.transposed), None, None


def _learnt(value: object) -> bool:
    return is_tensor(value) and value.requires_grad


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Three positive whole numbers, or a ValueError."""
    shape = tuple(shape)
    if len(shape) != 3 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"shape is {shape}: give three positive whole numbers (Z, Y, X)")
    return tuple(int(n) for n in shape)


def checked_angles(angles_deg: ArrayLike | None) -> tuple[float, ...]:
    """Finite angles, or a ValueError; a UserWarning where they look like radians."""
    angles = np.asarray(angles_deg, dtype=float)
    if angles.ndim != 1 or not angles.size or not np.isfinite(angles).all():
        raise ValueError(f"angles_deg is {angles_deg!r}: give a list of finite angles in degrees")
    if len(angles) > 2 and 0 < np.ptp(angles) <= 2 * np.pi and np.abs(angles).max() <= 2 * np.pi:
        warnings.warn(
            f"all tilts lie within {np.abs(angles).max():.2f} degrees: are these radians? Use "
            "np.rad2deg",
            stacklevel=4,
        )
    return tuple(angles.tolist())
