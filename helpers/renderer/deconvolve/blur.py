"""Blur as an operator: by FFT, without wrap-around, with the light from outside the field."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len

from ..._arrays import Array, ArrayT, like, to_tensor
from ...optics.pupil import Pupil, psf_from_pupil
from .._checks import warn_of_flaws


class Blur:
    r"""Blur as a linear operator, of an object that reaches beyond the field of the camera.

    Parameters
    ----------
    kernel : (Y, X) or (Z, Y, X) array or tensor
        Point-spread function; its centre is the voxel ``n // 2`` along each axis, the middle one
        for odd sizes. It may be larger than the field: what cannot reach the field is left out.
    shape : tuple of int
        Of the images, as many axes as the kernel.
    margin : int or tuple of int
        Voxels at each side that are estimated along with the field, one number for each axis.
    periodic : bool
        The field repeats; then there is no margin, and no light is lost.

    Attributes
    ----------
    in_shape, out_shape : tuple of int
        Of the object with its margin, and of the images.
    grid : tuple of int
        Size of the Fourier transforms.

    Raises
    ------
    ValueError
        A kernel with NaN, negative values or no light, shapes that do not go together, a negative
        margin, or a periodic field with a margin or smaller than its kernel.

    Warns
    -----
    UserWarning
        The kernel does not sum to about 1, holds a background, lies off its middle, or its axes
        look exchanged: a measured kernel as it comes.

    Notes
    -----
    .. math:: (Af)_i = \sum_j h_{i - j} f_j

    for the pixels i of the field, j running over the field and its margin. The transforms are just
    large enough that no kernel reaches around: :math:`n + m + r` for a field of n, a margin of m
    and a kernel of radius r. Autograd goes through it, also to the kernel. Derived in
    :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> op = Blur(np.ones((3, 3)) / 9, (5, 6), margin=1)
    >>> op.in_shape
    (7, 8)
    >>> float(op(np.ones(op.in_shape)).round(6).min())
    1.0
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(op) < 1e-14
    True
    """

    def __init__(
        self,
        kernel: Array,
        shape: Sequence[int],
        *,
        margin: int | Sequence[int] = 0,
        periodic: bool = False,
    ) -> None:
        kernel = to_tensor(kernel)
        self.out_shape = tuple(int(n) for n in shape)
        dims = kernel.ndim
        if dims not in (2, 3) or dims != len(self.out_shape) or min(self.out_shape) < 1:
            raise ValueError(
                f"the kernel has shape {tuple(kernel.shape)} and the images {self.out_shape}: "
                "give both as (Y, X) or both as (Z, Y, X)"
            )
        each = (margin,) * dims if isinstance(margin, int) else margin
        self.margin = tuple(int(m) for m in each)
        if len(self.margin) != dims or min(self.margin) < 0:
            raise ValueError(f"margin is {margin}: give {dims} whole numbers, zero or more")
        self.periodic = bool(periodic)
        if periodic and (
            any(self.margin)
            or any(k > n for k, n in zip(kernel.shape, self.out_shape, strict=True))
        ):
            raise ValueError(
                f"a periodic field of {self.out_shape} takes no margin and no kernel larger than "
                f"itself; the kernel is {tuple(kernel.shape)}: crop it, or leave periodic out"
            )
        self.in_shape = tuple(n + 2 * m for n, m in zip(self.out_shape, self.margin, strict=True))
        self._take(kernel)
        warn_of_flaws(kernel, off_centre=0.75, normalised=True)

    def _take(self, kernel: torch.Tensor) -> None:
        self.kernel = _within_reach(_checked(kernel), self.out_shape, self.margin)
        axes = range(kernel.ndim)
        self.grid = self.out_shape if self.periodic else tuple(map(self._grid_size, axes))
        self._transfers: dict[Any, torch.Tensor] = {}

    def _grid_size(self, axis: int) -> int:
        size, m = self.kernel.shape[axis], self.margin[axis]
        reach = max(size // 2, (size - 1) // 2)
        return next_fast_len(max(self.in_shape[axis], self.out_shape[axis] + m + reach), real=True)

    def __call__(self, x: ArrayT) -> ArrayT:
        r"""Images (..., \*out_shape) of the object `x` (..., \*in_shape)."""
        t = self._checked_input(x, self.in_shape, "object")
        return like(self.crop(self.inverse(self.forward(t) * self.transfer(t))), x)

    def adjoint(self, y: ArrayT) -> ArrayT:
        r"""The images `y` (..., \*out_shape) smeared back over (..., \*in_shape)."""
        t = self._checked_input(y, self.out_shape, "images")
        before = torch.nn.functional.pad(t, self._pads())
        back = self.inverse(self.forward(before) * self.transfer(t).conj())
        return like(self.inside(back), y)

    def with_kernel(self, kernel: Array) -> Blur:
        """The same field and margin with another kernel."""
        other = copy.copy(self)
        other._take(to_tensor(kernel))
        return other

    def to(self, device: str | torch.device | None) -> Blur:
        """The same operator on another device."""
        return self.with_kernel(to_tensor(self.kernel, device))

    def crop(self, x: ArrayT) -> ArrayT:
        r"""The part of an object (..., \*in_shape) that lies in the field."""
        sides: Any = zip(self.margin, self.out_shape, strict=True)
        inside: Any = (..., *(slice(m, m + n) for m, n in sides))
        return x[inside]

    # The parts of a blur, for solvers that stay on the grid of its transforms.

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Real transform of a tensor, filled with zeros up to the grid."""
        return torch.fft.rfftn(t, self.grid, dim=tuple(range(-len(self.grid), 0)))

    def inverse(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Inverse of `forward`, on the whole grid."""
        return torch.fft.irfftn(spectrum, self.grid, dim=tuple(range(-len(self.grid), 0)))

    def inside(self, t: torch.Tensor) -> torch.Tensor:
        """The object with its margin, of a tensor on the grid."""
        inside: Any = (..., *(slice(n) for n in self.in_shape))
        return t[inside]

    def transfer(self, t: torch.Tensor) -> torch.Tensor:
        """Transfer function of the kernel, in the precision and on the device of `t`."""
        key = t.dtype, t.device
        if key not in self._transfers:
            self._transfers[key] = self.transform(self.kernel.to(dtype=t.dtype, device=t.device))
        return self._transfers[key]

    def transform(self, kernel: torch.Tensor) -> torch.Tensor:
        """Transfer function of a kernel of the shape of `kernel`."""
        pads = [n for g, k in zip(self.grid, kernel.shape, strict=True) for n in (g - k, 0)]
        rolled = torch.nn.functional.pad(kernel, pads[::-1])
        shifts = [-(k // 2) for k in kernel.shape]
        return self.forward(rolled.roll(shifts, tuple(range(kernel.ndim))))

    def _pads(self) -> list[int]:
        return [n for m in self.margin[::-1] for n in (m, 0)]

    def _checked_input(self, x: Array, shape: tuple[int, ...], name: str) -> torch.Tensor:
        t = to_tensor(x)
        if tuple(t.shape[t.ndim - len(shape) :]) != shape:
            raise ValueError(
                f"the {name} have shape {tuple(t.shape)}, but this operator was made for "
                f"(..., {', '.join(map(str, shape))})"
            )
        return t


def _checked(kernel: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(kernel).all()) or bool((kernel < 0).any()):
        raise ValueError("the kernel has NaN, infinite or negative values: it must be light")
    if not bool((kernel > 0).any()):
        raise ValueError("the kernel is empty: it has no light")
    return kernel


def _within_reach(
    kernel: torch.Tensor, shape: Sequence[int], margin: Sequence[int]
) -> torch.Tensor:
    """The part of the kernel that can carry light from the object to the camera."""
    for axis, (n, m) in enumerate(zip(shape, margin, strict=True)):
        size = kernel.shape[axis]
        reach = n + m - 1
        first = max(0, size // 2 - reach)
        last = min(size, size // 2 + reach + 1)
        kernel = kernel.narrow(axis, first, last - first)
    return kernel  # its centre is still the voxel n // 2


def widefield_kernel(pupil: Pupil, shape: Sequence[int], z_step: float, *, planes: int) -> Array:
    r"""Point spread function of a widefield stack, from a pupil: the kernel of its blur.

    Parameters
    ----------
    pupil : helpers.optics.Pupil
        With pixels of at most a quarter of the wavelength over the aperture.
    shape : (int, int, int)
        Of the kernel (Z, Y, X), odd numbers; ``2 n - 1`` for a field of n loses nothing.
    z_step : float
        Between planes, in micrometres.
    planes : int
        Of the stack. They share the light of a voxel, so the whole stack has one unit of it.

    Returns
    -------
    array or tensor (Z, Y, X)
        A tensor if the pupil holds tensors, and then differentiable.

    Notes
    -----
    Between its neighbours a voxel fills its place, and a pixel gathers over its own: two boxes
    across, one along z. Each box has the second moment 1/12, which the three taps
    :math:`(a, 1 - 2a, a)` have for :math:`a = 1/24`, and two boxes for :math:`a = 1/12`.
    Derived in :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> from helpers.optics import Pupil
    >>> pupil = Pupil(1.2, 0.6, 1.33, 0.1, samples=64)
    >>> kernel = widefield_kernel(pupil, (7, 31, 31), 0.3, planes=4)
    >>> [int(i) for i in np.unravel_index(kernel.argmax(), kernel.shape)]
    [3, 15, 15]
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or any(n < 1 or n % 2 == 0 for n in shape):
        raise ValueError(f"shape is {shape}: give three odd numbers, so that there is a middle")
    if pupil.oversampling != 1:
        raise ValueError(
            f"pixels of {pupil.pixel_size} µm are too large for a kernel of one sample each: give "
            f"at most {pupil.wavelength / (4 * pupil.na):.3g} µm"
        )
    padded = [n + 2 for n in shape]
    z = (np.arange(padded[0]) - padded[0] // 2) * z_step
    kernel = to_tensor(psf_from_pupil(pupil, (padded[1], padded[2]), z=z))
    for axis, a in enumerate((1 / 24, 1 / 12, 1 / 12)):
        n = shape[axis]
        parts = [kernel.narrow(axis, start, n) for start in range(3)]
        kernel = a * (parts[0] + parts[2]) + (1 - 2 * a) * parts[1]
    kernel = kernel / planes
    own = [*(pupil.zernikes or {}).values(), pupil.phase_map]
    return kernel if any(torch.is_tensor(value) for value in own) else kernel.numpy()
