"""Light-field operator: a volume in, the views behind the microlenses out."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len

from ..._arrays import Array, ArrayT, Device, is_tensor, like, to_tensor
from .._checks import checked_lengths, chosen


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
    shifts : (V, 2) array, optional
        Displacement of each view in px, (y, x): its content lies that much further on.
    gains : (V,) array, optional
        Brightness of each view. Default: one.

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
    that nothing wraps around. A shift is a phase in front of a view's transform. Derived in
    :doc:`/book/inr/02_deconvolve`; shifts and gains are found in
    :doc:`/book/inr/08_find_the_instrument`.

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
        *,
        shifts: Array | None = None,
        gains: Array | None = None,
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
        self.voxel_size = checked_lengths(voxel_size)
        self.in_shape = (h.shape[1], *shape)
        self.out_shape = (h.shape[0], *view_shape)
        self.shifts = _for_views(shifts, (len(h), 2), "shifts", h, 0.0)
        self.gains = _for_views(gains, (len(h),), "gains", h, 1.0)
        if not bool((self.gains > 0).all()):
            raise ValueError("a view without gain shows nothing: leave it out with `select`")
        most = float(self.shifts.abs().max())
        self._prepare(math.ceil(most) + 2 if most else 0)

    def _prepare(self, room: int) -> None:
        """Transforms for views that are wider by `room` at each side, so that they can be moved."""
        kernels, self._grid, self._room = self.psf, [], room
        for axis, n, m in zip((-2, -1), self.in_shape[1:], self.out_shape[1:], strict=True):
            kernels, length = _wrap(kernels, axis, n, m + 2 * room)
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
        views = torch.stack([(spectra * otf).sum(-3) for otf in self._otf], -3)
        if self._changed:
            views = views * self._filters()
        views = self._ifft(views)
        rows, columns = (slice(self._room, self._room + n) for n in self.out_shape[1:])
        return like(views[..., rows, columns], x)

    def adjoint(self, y: ArrayT) -> ArrayT:
        """Volume (..., Z, Y, X) into which the views `y` (..., V, Y', X') are smeared back."""
        t = self._checked(y, self.out_shape, "views")
        spectra = self._fft(F.pad(t, (self._room,) * 4) if self._room else t)
        if self._changed:
            spectra = spectra * self._filters().conj()
        pairs = zip(spectra.unbind(-3), self._otf.conj(), strict=True)
        volume = self._ifft(sum(view[..., None, :, :] * otf for view, otf in pairs))
        return like(volume[..., : self.in_shape[1], : self.in_shape[2]], y)

    def to(self, device: Device = None, dtype: torch.dtype | None = None) -> LightField:
        """The same operator with its PSF on another device, or in another precision."""
        psf = self.psf.to(device=device, dtype=dtype)
        if psf is self.psf:
            return self
        return self._made(psf)

    def _made(
        self,
        psf: torch.Tensor,
        shape: Sequence[int] | None = None,
        view_shape: Sequence[int] | None = None,
        voxel_size: Sequence[float] | None = None,
        factor: int = 1,
    ) -> LightField:
        return LightField(
            psf,
            shape or self.in_shape[1:],
            view_shape or self.out_shape[1:],
            voxel_size or self.voxel_size,
            shifts=self.shifts.detach() / factor,
            gains=self.gains.detach(),
        )

    def select(self, views: Sequence[int] | np.ndarray) -> LightField:
        """The operator of some of the views: their numbers, or a mask."""
        part, views = copy.copy(self), chosen(views, len(self.psf))
        part.psf, part._otf = self.psf[views], self._otf[views]
        part.shifts, part.gains = self.shifts[views], self.gains[views]
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
        halo = reach(self.psf, energy) + math.ceil(float(self.shifts.detach().abs().max()))
        return self._made(self.psf, [n + 2 * halo for n in size], size)

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
        return self._made(
            _merged(self.psf, factor),
            [n // factor for n in self.in_shape[1:]],
            [n // factor for n in self.out_shape[1:]],
            size,
            factor,
        )

    def parameters(self) -> dict[str, torch.Tensor]:
        """Numbers that a fit can find with the volume: "shifts" (px) and "gains" of the views."""
        return {"shifts": self.shifts.detach(), "gains": self.gains.detach()}

    def at(self, values: Mapping[str, Array]) -> LightField:
        """The operator with other values of its `parameters`; a tensor with a gradient keeps it."""
        if unknown := set(values) - {"shifts", "gains"}:
            raise ValueError(f"{sorted(unknown)} are none of ['gains', 'shifts']")
        learnt = any(_learnt(value) for value in values.values())
        part = copy.copy(self._roomy if learnt else self)
        for name, value in values.items():
            setattr(part, name, to_tensor(value).to(self.psf))
        for kept in ("sensitivity", "_roomy"):
            part.__dict__.pop(kept, None)
        most = math.ceil(float(part.shifts.detach().abs().max()))
        if most + 1 > part._room and (most or part._room):
            part._prepare(most + 2)
        return part

    @cached_property
    def _roomy(self) -> LightField:
        """The same with room for views that will move, made once for all steps of a fit."""
        part = copy.copy(self)
        part._prepare(self._room + 8)
        return part

    def without_freedom(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A change of a parameter without what a change of the whole object would do as well.

        Of the shifts: the mean, which moves the object sideways, and the views' parallax, which
        moves it in depth. Of the gains: the mean, which is the object's brightness.
        """
        if name == "gains":
            return value - value.mean()
        value = value - value.mean(0)
        parallax = self._parallax
        energy = (parallax**2).sum()
        return value if energy < 1e-6 else value - parallax * (parallax * value).sum() / energy

    @cached_property
    def _parallax(self) -> torch.Tensor:
        """Step of a view's image when a point moves by one plane, (V, 2), mean taken out."""
        y, x = (torch.arange(n).to(self.psf) - n // 2 for n in self.psf.shape[-2:])
        light = self.psf.sum((-2, -1))
        centres = torch.stack([self.psf.sum(-1) @ y, self.psf.sum(-2) @ x], -1)
        centres = centres / light[..., None].clamp_min(1e-30)  # (V, Z, 2)
        z = torch.arange(len(light[0])).to(self.psf)
        z = z - z.mean()
        slope = (z[:, None] * centres).sum(1) / (z**2).sum().clamp_min(1e-30)
        return slope - slope.mean(0)

    @property
    def _changed(self) -> bool:
        return self._room > 0 or _learnt(self.gains) or bool((self.gains != 1).any())

    def _filters(self) -> torch.Tensor:
        """Factors (V, ky, kx) that move and scale the views."""
        ky = torch.fft.fftfreq(self._grid[0]).to(self.psf)[:, None]
        kx = torch.fft.rfftfreq(self._grid[1]).to(self.psf)
        dy, dx = (self.shifts[:, k, None, None] for k in (0, 1))
        turns = -2 * math.pi * (ky * dy + kx * dx)
        # the highest frequency of an even grid has no sign, and stays
        real = ((2 * ky.abs() == 1) | (2 * kx == 1)).expand_as(turns)
        gains = self.gains[:, None, None]
        return torch.complex(gains * turns.cos(), torch.where(real, 0.0, gains * turns.sin()))

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


def _for_views(
    values: Array | None, shape: tuple[int, ...], name: str, h: torch.Tensor, default: float
) -> torch.Tensor:
    if values is None:
        return h.new_full(shape, default)
    t = to_tensor(values).to(h)
    if tuple(t.shape) != shape or not bool(t.detach().isfinite().all()):
        raise ValueError(f"{name} have shape {tuple(t.shape)}: give finite numbers, {shape}")
    return t


def _learnt(t: object) -> bool:
    return is_tensor(t) and t.requires_grad


def _side_lengths(shape: Sequence[int], name: str) -> tuple[int, int]:
    sides = tuple(np.ravel(shape).tolist())
    if len(sides) != 2 or any(n != int(n) or n < 1 for n in sides):
        raise ValueError(f"{name} is {shape}: give (height, width), whole numbers, at least 1")
    return int(sides[0]), int(sides[1])


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
