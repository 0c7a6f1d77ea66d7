"""Light-field operator: a volume in, the views behind the microlenses out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len

from ..._arrays import Array, ArrayT, Device, is_tensor, like, to_tensor


class LightField:
    r"""Views of a volume: each depth convolved with its point spread function, and summed.

    Parameters
    ----------
    psf : array or tensor (V, Z, P, Q)
        As from `psf`. Its dtype and device are those of the operator.
    shape : (int, int), optional
        Height and width of the volume; default, those of the PSF.
    view_shape : (int, int), optional
        Height and width of each view; default, those of the volume. A view larger than the
        volume records the light that parallax moves out of the volume's own window. Volume,
        views and PSF share their centre pixel, ``n // 2``.
    voxel_size : (float, float, float), optional
        (z, y, x) in micrometres, for priors that need it. Default: unknown, taken as cubes.

    Attributes
    ----------
    in_shape, out_shape : tuple of int
        (Z, Y, X) and (V, Y', X').
    psf : tensor
    sensitivity : tensor (Z, Y, X)
        ``adjoint(1)``: the share of each voxel's light that the views catch.

    Raises
    ------
    ValueError
        A PSF that is not four-dimensional, has NaN, negative values or no energy; sizes below 1.

    Notes
    -----
    .. math:: y_v = \sum_z h_{v,z} * f_z, \qquad (A^\top r)_z = \sum_v \tilde h_{v,z} * r_v

    with :math:`\tilde h` the PSF turned by 180 degrees. The transforms of the PSF are kept, so a
    call costs one batched FFT of the volume and one of the views, on a grid just large enough
    that nothing wraps around. Derived in :doc:`/book/inr/02_deconvolve`.

    Examples
    --------
    >>> from helpers.inr.lightfield import Optics, psf
    >>> op = LightField(psf(Optics(), [-1.0, 0.0, 1.0], 32), shape=(20, 20))
    >>> op.in_shape, op.out_shape
    ((3, 20, 20), (7, 20, 20))
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(LightField(op.psf.double(), shape=(20, 20))) < 1e-10
    True
    """

    def __init__(
        self,
        psf: Array,
        shape: Sequence[int] | None = None,
        view_shape: Sequence[int] | None = None,
        voxel_size: Sequence[float] | None = None,
    ) -> None:
        h = to_tensor(psf)
        if h.ndim != 4:
            raise ValueError(f"the PSF has shape {tuple(h.shape)}: give (views, depths, Y, X)")
        if not bool((h >= 0).all()):
            raise ValueError("the PSF has NaN or negative values: an intensity has neither")
        if not bool((h.sum((1, 2, 3)) > 0).all()):
            raise ValueError("a view of the PSF has no energy: leave that view out")
        shape = tuple(h.shape[-2:]) if shape is None else _side_lengths(shape, "shape")
        view_shape = shape if view_shape is None else _side_lengths(view_shape, "view_shape")
        self.psf = h
        self.voxel_size = None if voxel_size is None else _checked_lengths(voxel_size)
        self.in_shape = (h.shape[1], *shape)
        self.out_shape = (h.shape[0], *view_shape)
        kernels, self._grid = h, []
        for axis, n, m in zip((-2, -1), shape, view_shape, strict=True):
            kernels, length = _wrap(kernels, axis, n, m)
            self._grid.append(length)
        self._otf = torch.fft.rfft2(kernels)

    @cached_property
    def sensitivity(self) -> torch.Tensor:
        """Share of each voxel's light that the views catch, a tensor (Z, Y, X)."""
        return self.adjoint(self.psf.new_ones(self.out_shape))

    def __call__(self, x: ArrayT) -> ArrayT:
        """Views (..., V, Y', X') of the volume `x` (..., Z, Y, X)."""
        t = self._checked(x, self.in_shape, "volume")
        spectra = self._fft(t)
        # one view at a time: the product of a view stays in the cache, that of all does not
        views = self._ifft(torch.stack([(spectra * otf).sum(-3) for otf in self._otf], -3))
        return like(views[..., : self.out_shape[1], : self.out_shape[2]], x)

    def adjoint(self, y: ArrayT) -> ArrayT:
        """Volume (..., Z, Y, X) into which the views `y` (..., V, Y', X') are smeared back."""
        t = self._checked(y, self.out_shape, "views")
        spectra = self._fft(t)
        pairs = zip(spectra.unbind(-3), self._otf.conj(), strict=True)
        volume = self._ifft(sum(view[..., None, :, :] * otf for view, otf in pairs))
        return like(volume[..., : self.in_shape[1], : self.in_shape[2]], y)

    def to(self, device: Device = None, dtype: torch.dtype | None = None) -> LightField:
        """The same operator with its PSF on another device, or in another precision."""
        psf = self.psf.to(device=device, dtype=dtype)
        if psf is self.psf:
            return self
        return LightField(psf, self.in_shape[1:], self.out_shape[1:], self.voxel_size)

    def select(self, views: Sequence[int]) -> LightField:
        """The operator of some of the views, such as ``[0, 1, 3]``."""
        part, views = copy.copy(self), list(views)
        part.psf, part._otf = self.psf[views], self._otf[views]
        part.out_shape = (len(part.psf), *self.out_shape[1:])
        part.__dict__.pop("sensitivity", None)
        return part

    def block(self, size: Sequence[int], energy: float = 0.99) -> LightField:
        """The operator of a part of `size` pixels of the views, and of the voxels that it sees.

        Parameters
        ----------
        size : (int, int)
            Height and width of the part. The part of the volume is larger by the reach of the PSF
            at each side, and has the same centre.
        energy : float
            Share of the light that must come from within the reach, for each view and depth.
        """
        halo = reach(self.psf, energy)
        return LightField(self.psf, [n + 2 * halo for n in size], size, self.voxel_size)

    def coarsened(self, factor: int) -> LightField:
        """The same fields of view on voxels and pixels `factor` times as wide.

        The volume keeps its unit, photons in a voxel of the original size, and so do the views:
        the mean replaces the sum.

        Raises
        ------
        ValueError
            Sizes that do not divide by ``2 * factor``, so that centres would not stay centres.
        """
        sizes = (*self.in_shape[1:], *self.out_shape[1:])
        if any(n % (2 * factor) for n in sizes):
            raise ValueError(
                f"sizes {sizes} do not divide by {2 * factor}: crop or pad the views, or leave "
                "out the coarse stage"
            )
        size = (
            None
            if self.voxel_size is None
            else (self.voxel_size[0], *(factor * step for step in self.voxel_size[1:]))
        )
        return LightField(
            _merged(self.psf, factor),
            [n // factor for n in self.in_shape[1:]],
            [n // factor for n in self.out_shape[1:]],
            size,
        )

    def _fft(self, t: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(t, s=self._grid)

    def _ifft(self, spectrum: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(spectrum, s=self._grid)

    def _checked(self, x: Array, shape: tuple[int, ...], name: str) -> torch.Tensor:
        t = to_tensor(x, self.psf.device, self.psf.dtype if not is_tensor(x) else None)
        if tuple(t.shape[-3:]) != shape:
            raise ValueError(f"{name} {tuple(t.shape)}: this operator expects (..., {shape})")
        return t


def _wrap(kernels: torch.Tensor, axis: int, n: int, m: int) -> tuple[torch.Tensor, int]:
    """Prepare one axis of the kernels for a circular convolution from n voxels to m pixels.

    Only displacements that lead from a voxel to a pixel are kept; the grid is just long enough that
    no other displacement is a wrapped copy of these; the voxel n // 2 falls on the pixel m // 2.
    """
    size = kernels.shape[axis]
    centre, shift = size // 2, m // 2 - n // 2
    back = min(centre, n - 1 + shift)
    on = min(size - 1 - centre, m - 1 - shift)
    length = next_fast_len(max(n, m, m - shift + back, n + shift + on), real=True)
    kernels = kernels.narrow(axis, centre - back, back + on + 1)
    missing = length - kernels.shape[axis]
    pad = (0, missing) if axis == -1 else (0, 0, 0, missing)
    return F.pad(kernels, pad).roll(shift - back, axis), length


def _side_lengths(shape: Sequence[int], name: str) -> tuple[int, int]:
    sides = tuple(np.ravel(shape).tolist())
    if len(sides) != 2 or any(n != int(n) or n < 1 for n in sides):
        raise ValueError(f"{name} is {shape}: give (height, width), whole numbers, at least 1")
    return int(sides[0]), int(sides[1])


def _checked_lengths(voxel_size: Sequence[float]) -> tuple[float, ...]:
    lengths = tuple(np.ravel(voxel_size).astype(float).tolist())
    if len(lengths) != 3 or not all(0 < length < np.inf for length in lengths):
        raise ValueError(f"voxel_size is {voxel_size}: give (z, y, x) in um, each above zero")
    return lengths


def _merged(h: torch.Tensor, factor: int) -> torch.Tensor:
    """The PSF (V, Z, Y, X) of voxels and pixels `factor` times as wide."""
    # a voxel spreads over `factor` small ones, a pixel averages as many: together a triangle
    triangle = torch.arange(1, 2 * factor, dtype=h.dtype, device=h.device)
    triangle = torch.minimum(triangle, 2 * factor - triangle) / factor
    kernel = (triangle[:, None] * triangle)[None, None]
    pads = []
    for n in (h.shape[-1], h.shape[-2]):
        centre = n // 2
        half = -(-max(centre, n - 1 - centre) // factor) * factor
        pads += [half - centre + factor - 1, half - (n - 1 - centre) + factor - 1]
    images = F.pad(h.reshape(-1, 1, *h.shape[-2:]), pads)
    small = F.conv2d(images, kernel, stride=factor)
    return small.reshape(*h.shape[:2], *small.shape[-2:])


def reach(psf: torch.Tensor, energy: float = 0.99) -> int:
    """Pixels from the centre of the PSF within which each view and depth has this share of it."""
    size = psf.shape[-2:]
    y, x = ((torch.arange(n, device=psf.device) - n // 2).abs() for n in size)
    distance = torch.maximum(y[:, None], x[None, :]).flatten()
    images = psf.reshape(-1, distance.numel())
    rings = images.new_zeros(len(images), int(distance.max()) + 1)
    rings.index_add_(1, distance, images)
    return int((rings.cumsum(1) < energy * rings.sum(1, keepdim=True)).sum(1).max())
