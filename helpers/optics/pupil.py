"""The pupil of a microscope, and the image of a point through it.

Lengths are in micrometres, aberrations in waves RMS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .._arrays import Array, Device, is_tensor, to_tensor
from ._zernike import disc, pupil_axis, zernike


@dataclass(frozen=True, eq=False)
class Pupil:
    r"""The exit pupil of a microscope, and the pixels behind it.

    Parameters
    ----------
    na : float
        Numerical aperture, below `index`.
    wavelength : float
        In vacuum, in micrometres.
    index : float
        Refractive index of the immersion.
    pixel_size : float
        Side of a camera pixel in the object, in micrometres.
    samples : int
        Cells M across the pupil. The image repeats after ``samples * wavelength / (2 na)``.
        Towards the edge of that period its faint wings are up to 60 % too dark; twice the field is
        ample.
    zernikes : dict, optional
        Coefficients in waves RMS by OSA index, such as ``{5: 0.08}``; numbers, or tensors of a
        common batch shape (...,), through which gradients flow.
    phase_map : array or tensor (..., samples, samples), optional
        Aberration in waves at each cell, v (y) along the rows; added to the Zernikes.
    aplanatic : bool
        Amplitude :math:`(1 - (\mathrm{NA}\rho/n)^2)^{-1/4}` of an isotropic emitter seen through
        a lens that obeys the sine condition, instead of a flat one.
    medium_index : float, optional
        Index around the emitter, where it differs from the immersion. Then z is the depth of the
        emitter beyond the cover slip.
    stage : float
        With `medium_index`: how far the focus was moved, in micrometres of immersion; usually
        negative, since the objective comes closer.
    oversampling : int, optional
        Points along each side of a pixel over which the intensity is averaged. 1 takes the
        centre. Left out: as few as keep all light, that is 1 for
        ``pixel_size <= wavelength / (4 na)``. A camera integrates: 3 is within about a percent
        of it.

    Raises
    ------
    ValueError
        A length that is not positive, an aperture above the index, a map of another size, or too
        few points for the pixel.

    Notes
    -----
    At the pupil coordinate :math:`u`, :math:`\rho = |u| \le 1`, the spatial frequency is
    :math:`\nu = u\,\mathrm{NA}/\lambda` and

    .. math:: P(u) = a(\rho)\, e^{i (2\pi W(u) + k_z z)}, \quad
        k_z = \frac{2\pi n}{\lambda}\sqrt{1 - (\mathrm{NA}\rho/n)^2} .

    With two indices :math:`k_z z` becomes :math:`k_z^\mathrm{medium} z + k_z\,\mathrm{stage}`, and
    what cannot propagate in the medium falls off with the depth. Cells on the rim count by the
    share of them that is inside. Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> pupil = Pupil(1.4, 0.67, 1.518, 0.1, samples=32, zernikes={5: 0.08})
    >>> pupil.wavefront().shape
    torch.Size([32, 32])
    >>> round(pupil.period, 2)
    7.66
    """

    na: float
    wavelength: float
    index: float
    pixel_size: float
    samples: int = 128
    zernikes: Mapping[int, float | Array] | None = None
    phase_map: Array | None = None
    aplanatic: bool = False
    medium_index: float | None = None
    stage: float = 0.0
    oversampling: int = None  # type: ignore[assignment]  # a number once it is made

    def __post_init__(self) -> None:
        for name in ("na", "wavelength", "index", "pixel_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a positive number")
        for name in ("wavelength", "pixel_size"):
            if getattr(self, name) > 20:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: it is counted in µm, in the object; divide "
                    "nm by 1000"
                )
        if self.na >= self.index:
            raise ValueError(
                f"na is {self.na} in an index of {self.index}: the aperture n sin(theta) must be "
                "below the index of the immersion"
            )
        if self.samples != int(self.samples) or self.samples < 2:
            raise ValueError(f"samples is {self.samples}: give a whole number, at least 2")
        for j in self.zernikes or ():
            zernike(j)
        size = (self.samples, self.samples)
        if self.phase_map is not None and tuple(np.shape(self.phase_map)[-2:]) != size:
            raise ValueError(
                f"phase_map is {tuple(np.shape(self.phase_map))}: give one value for each of the "
                f"{size} cells of the pupil"
            )
        finest = math.ceil(4 * self.na * self.pixel_size / self.wavelength - 1e-9)
        if self.oversampling is None:
            object.__setattr__(self, "oversampling", finest)
        elif self.oversampling != int(self.oversampling) or self.oversampling < finest:
            raise ValueError(
                f"oversampling is {self.oversampling}: pixels of {self.pixel_size} µm need "
                f"at least {finest} points a side, or light is lost between them"
            )

    @property
    def period(self) -> float:
        """Distance in micrometres after which the sampled image repeats."""
        return self.samples * self.wavelength / (2 * self.na)

    def wavefront(self, dtype: torch.dtype | None = None, device: Device = None) -> torch.Tensor:
        """Aberration in waves, a tensor (..., samples, samples); float64 unless told."""
        total = torch.zeros(self.samples, self.samples, dtype=dtype or torch.float64, device=device)
        if self.zernikes:
            each = [to_tensor(c, total.device, total.dtype) for c in self.zernikes.values()]
            values = torch.stack(torch.broadcast_tensors(*each), -1)
            basis = zernike_basis(
                tuple(map(int, self.zernikes)), self.samples, total.dtype, total.device
            )
            total = (values @ basis.flatten(1)).unflatten(-1, total.shape)
        if self.phase_map is not None:
            total = total + to_tensor(self.phase_map, total.device, total.dtype)
        return total

    def field(self, z: torch.Tensor, wavefront: torch.Tensor) -> torch.Tensor:
        r"""Complex field at the pupil for emitters at `z`.

        Parameters
        ----------
        z : tensor (...)
            In micrometres.
        wavefront : tensor (..., samples, samples)
            In waves, as from `wavefront`.

        Returns
        -------
        complex tensor (..., samples, samples)
            Scaled such that the squared modulus of its transform, see `transform`, is the share
            of the light that falls on each point.
        """
        z = z[..., None, None]
        amplitude, light, kz, decay, fixed = _constants(self, wavefront.dtype, wavefront.device)
        phase = 2 * torch.pi * wavefront + kz * z + fixed
        if self.medium_index is not None:
            # what the decay takes away is never detected: photons are those that are
            left = (light * torch.exp(-2 * decay * z)).sum((-2, -1), keepdim=True)
            amplitude = amplitude * torch.exp(-decay * z) / left.sqrt()
        return torch.complex(amplitude * phase.cos(), amplitude * phase.sin())

    def field_slope(
        self, z: torch.Tensor, dtype: torch.dtype | None = None, device: Device = None
    ) -> torch.Tensor:
        """Derivative of `field` by z, divided by it: complex (..., samples, samples) per µm."""
        z = z[..., None, None]
        _, light, kz, decay, _ = _constants(self, dtype or torch.float64, device)
        fading = light * torch.exp(-2 * decay * z)
        fading = (fading * decay).sum((-2, -1), keepdim=True) / fading.sum((-2, -1), keepdim=True)
        return torch.complex(*torch.broadcast_tensors(fading - decay, kz))

    def transform(
        self, n_pixels: int, dtype: torch.dtype | None = None, device: Device = None
    ) -> torch.Tensor:
        """Matrix of the Fourier transform along one axis, (n_pixels * oversampling, samples)."""
        return _transform(
            self.na * self.pixel_size / self.wavelength,
            self.samples,
            int(n_pixels),
            self.oversampling,
            dtype or torch.float64,
            torch.device(device or "cpu"),
        )

    def tilt(self, shift: torch.Tensor) -> torch.Tensor:
        """Phase factors (..., samples) that move the image by `shift` (...) pixels."""
        u = torch.as_tensor(pupil_axis(self.samples)).to(shift)
        phase = -2 * torch.pi * self.na * self.pixel_size / self.wavelength * u * shift[..., None]
        return torch.complex(phase.cos(), phase.sin())

    def bin(self, points: torch.Tensor) -> torch.Tensor:
        """Sum of the points of each pixel, (..., Y, X) from (..., Y s, X s)."""
        s = self.oversampling
        if s == 1:
            return points
        y, x = points.shape[-2] // s, points.shape[-1] // s
        return points.unflatten(-1, (x, s)).unflatten(-3, (y, s)).sum((-3, -1))

    def check_field(self, shape: Sequence[int]) -> None:
        """Raise a ValueError unless an image of `shape` (Y, X) is free of repetitions."""
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape is {tuple(shape)}: give (Y, X)")
        needed = max(shape) * self.pixel_size
        if needed > self.period:
            more = math.ceil(2 * self.na * needed / self.wavelength)
            raise ValueError(
                f"the field of {needed:.4g} µm is larger than the {self.period:.4g} µm after which "
                f"a pupil of {self.samples} samples repeats: give samples of {more} or more"
            )


def psf_from_pupil(
    pupil: Pupil,
    shape: tuple[int, int],
    x: float | Sequence[float] | Array = 0.0,
    y: float | Sequence[float] | Array = 0.0,
    z: float | Sequence[float] | Array = 0.0,
    *,
    wavefront: torch.Tensor | None = None,
) -> Array:
    r"""Images of point emitters, by the matrix Fourier transform.

    Parameters
    ----------
    pupil : Pupil
    shape : (int, int)
        Pixels (Y, X).
    x, y : number, array or tensor (...)
        Where the emitters are, in px from the image centre ``(n - 1) / 2``.
    z : number, array or tensor (...)
        In micrometres from the focus, or the depth for a pupil with two indices.
    wavefront : tensor (..., samples, samples), optional
        In waves, instead of the pupil's own.

    Returns
    -------
    array or tensor (..., Y, X)
        Share of the detected light in each pixel; over an infinite field it sums to 1. The batch
        shapes of x, y, z and the wavefront broadcast. In the precision of the first tensor given,
        else float64; a NumPy array if no tensor was given.

    Raises
    ------
    ValueError
        A field larger than the period of the pupil's samples.

    Notes
    -----
    With :math:`A_{xu} = e^{2\pi i\, \mathrm{NA}\, x u / \lambda}` the field in the image is
    :math:`A_y P A_x^\top`, two small matrix products for any pixel size and any field
    :cite:p:`soummer2007`; a shift is a tilt of :math:`P`. By Parseval the image is

    .. math:: |A_y P A_x^\top|^2\, \delta\nu^2\, p^2 \Big/ \sum_u |P|^2,
        \qquad \delta\nu = \frac{2\,\mathrm{NA}}{\lambda M} ,

    for pixels of side p, summed over the points of each. On the rim :math:`|P|^2` in the sum is
    the light of the part of the cell that is inside. Light outside the image is lost.
    Differentiable. Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> pupil = Pupil(1.4, 0.67, 1.518, 0.1)
    >>> image = psf_from_pupil(pupil, (101, 101), z=[0.0, 0.5])
    >>> image.shape, bool((image.sum((1, 2)) > 0.99).all())
    ((2, 101, 101), True)
    """
    pupil.check_field(shape)
    own = [*(pupil.zernikes or {}).values(), pupil.phase_map]
    tensors = [value for value in (x, y, z, wavefront, *own) if is_tensor(value)]
    first = tensors[0] if tensors else torch.zeros((), dtype=torch.float64)
    x, y, z = (to_tensor(value, first.device, first.dtype) for value in (x, y, z))
    if wavefront is None:
        wavefront = pupil.wavefront(first.dtype, first.device)
    rows, columns = (pupil.transform(n, first.dtype, first.device) for n in shape)
    field = pupil.field(z, wavefront.to(first))
    field = field * pupil.tilt(y)[..., :, None] * pupil.tilt(x)[..., None, :]
    image = pupil.bin(squared_modulus(rows @ (field @ columns.T)))
    return image if tensors else image.numpy()


def squared_modulus(field: torch.Tensor) -> torch.Tensor:
    """Intensity of a complex tensor, with a gradient also at zero."""
    return field.real.square() + field.imag.square()


@lru_cache(maxsize=64)
def zernike_basis(
    modes: tuple[int, ...], samples: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Zernike polynomials of the OSA indices `modes` on the cells, a tensor (J, M, M)."""
    with torch.inference_mode(False):
        grids = [torch.from_numpy(zernike(j).grid(samples)) for j in modes]
        return torch.stack(grids).to(device=device, dtype=dtype)


@lru_cache(maxsize=64)
def _transform(
    step: float,
    samples: int,
    n_pixels: int,
    oversampling: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    n = n_pixels * oversampling
    points = (np.arange(n) - (n - 1) / 2) / oversampling
    matrix = np.exp(2j * np.pi * step * points[:, None] * pupil_axis(samples))
    with torch.inference_mode(False):
        return torch.from_numpy(matrix).to(device=device, dtype=dtype.to_complex())


def _constants(pupil: Pupil, dtype: torch.dtype, device: Device) -> tuple[torch.Tensor, ...]:
    cell = 2 * pupil.na / (pupil.wavelength * pupil.samples)
    share = cell * pupil.pixel_size / pupil.oversampling
    keys = pupil.na, pupil.wavelength, pupil.index, pupil.medium_index, pupil.stage
    return _sampled(*keys, pupil.samples, pupil.aplanatic, share, dtype, device)


@lru_cache(maxsize=64)
def _sampled(
    na: float,
    wavelength: float,
    index: float,
    medium: float | None,
    stage: float,
    samples: int,
    aplanatic: bool,
    share: float,
    dtype: torch.dtype,
    device: Device,
) -> tuple[torch.Tensor, ...]:
    """Amplitude, light of each cell, axial wavenumber, decay, and the phase that z leaves alone."""
    u = pupil_axis(samples)
    squared = na**2 * (u[:, None] ** 2 + u**2).clip(max=1)  # cells on the rim: at the rim
    inside = disc(samples)
    apodised = (1 - squared / index**2) ** -0.25 if aplanatic else np.ones_like(squared)
    # a cell that is half inside sends half the light, so the energy is the area, not its square
    light = inside * apodised**2 / (inside * apodised**2).sum()
    amplitude = inside * apodised / np.sqrt((inside * apodised**2).sum()) * share
    wavenumber = 2 * np.pi / wavelength
    immersion = wavenumber * np.sqrt(index**2 - squared)
    # a phase common to all cells is invisible: without it float32 keeps more digits
    immersion -= (immersion * inside).sum() / inside.sum()
    if medium is None:
        parts = amplitude, light, immersion, 0 * inside, 0 * inside
    else:
        beyond = medium**2 - squared
        kz = wavenumber * np.sqrt(beyond.clip(min=0))
        decay = wavenumber * np.sqrt((-beyond).clip(min=0))
        parts = amplitude, light, kz, decay, immersion * stage
    with torch.inference_mode(False):
        return tuple(torch.from_numpy(p).to(device=device, dtype=dtype) for p in parts)
