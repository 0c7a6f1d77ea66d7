"""Scalar wave optics on a grid: angles, axial wavenumbers, propagation from plane to plane.

Lengths are in micrometres. Directions are in units of numerical aperture, ``q = n sin(theta)``, so
that a plane wave is ``exp(2 pi i q x / wavelength)``. Grids are in the order of the FFT.
"""

from __future__ import annotations

import torch

from .._arrays import Device


def directions(
    n_pixels: int | tuple[int, int],
    pixel_size: float,
    wavelength: float,
    *,
    device: Device = None,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions of the plane waves of an FFT, in units of numerical aperture.

    Parameters
    ----------
    n_pixels : int or (int, int)
        Size of the grid, (Y, X).
    pixel_size : float
        In micrometres, in the space in which the directions are wanted.
    wavelength : float
        In vacuum, in micrometres.
    device, dtype : optional
        Of the result; float64 unless told.

    Returns
    -------
    qy, qx : tensors of shape (Y, 1) and (1, X)
        They broadcast against each other.

    Examples
    --------
    >>> qy, qx = directions(4, 0.5, 1.0)
    >>> qx
    tensor([[ 0.0000,  0.5000, -1.0000, -0.5000]], dtype=torch.float64)
    """
    ny, nx = (n_pixels, n_pixels) if isinstance(n_pixels, int) else n_pixels
    dtype = torch.float64 if dtype is None else dtype
    qy = torch.fft.fftfreq(ny, pixel_size, dtype=dtype, device=device)[:, None] * wavelength
    qx = torch.fft.fftfreq(nx, pixel_size, dtype=dtype, device=device)[None, :] * wavelength
    return qy, qx


def axial(q_squared: torch.Tensor, index: float = 1.0) -> torch.Tensor:
    r"""Axial direction cosine times the index, :math:`\sqrt{n^2 - q^2}`; zero where evanescent.

    Examples
    --------
    >>> axial(torch.tensor([0.0, 0.36, 4.0]))
    tensor([1.0000, 0.8000, 0.0000])
    """
    return (index**2 - q_squared).clamp(min=0).sqrt()


def propagate(
    field: torch.Tensor,
    distance: float | torch.Tensor,
    pixel_size: float,
    wavelength: float,
    index: float = 1.0,
) -> torch.Tensor:
    r"""Carry a field to a parallel plane by the angular spectrum.

    Parameters
    ----------
    field : complex tensor (..., Y, X)
        Sampled finely enough for its steepest direction; it repeats at the border.
    distance : float or tensor
        In micrometres, downstream positive. A tensor of shape (...,) gives each field its own.
    pixel_size, wavelength : float
        In micrometres; the wavelength in vacuum.
    index : float
        Refractive index between the planes.

    Returns
    -------
    complex tensor (..., Y, X)

    Notes
    -----
    Each plane wave gains the phase :math:`2\pi z \sqrt{n^2 - q^2} / \lambda`. Evanescent waves are
    removed, so energy is kept for every field that propagates. Derived in
    :doc:`/book/inr/01_light_field`.

    Examples
    --------
    >>> wave = torch.ones(8, 8, dtype=torch.complex128)
    >>> there = propagate(wave, 3.2, 0.5, 0.5)
    >>> torch.allclose(propagate(there, -3.2, 0.5, 0.5), wave)
    True
    """
    ny, nx = field.shape[-2:]
    qy, qx = directions(
        (ny, nx), pixel_size, wavelength, device=field.device, dtype=field.real.dtype
    )
    q_squared = qy**2 + qx**2
    if isinstance(distance, torch.Tensor) and distance.ndim:
        distance = distance[..., None, None]
    phase = 2 * torch.pi / wavelength * distance * axial(q_squared, index)
    transfer = torch.exp(1j * phase) * (q_squared < index**2)
    return torch.fft.ifft2(torch.fft.fft2(field) * transfer)
