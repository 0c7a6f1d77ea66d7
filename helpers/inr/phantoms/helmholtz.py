r"""The whole scalar wave equation behind an index contrast, to make data with.

`MultiSlice` lets waves run forwards only and takes one angle for the path through a slice. Data
made here know nothing of that: a reconstruction from them is no inverse crime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike

from ..._arrays import ArrayT, like, to_tensor
from ..diffraction.led_array import Illumination, Microscope

GRAZING = 0.2  # waves this close to the plane of the slices (sine of the angle) are left out


class Helmholtz:
    r"""Intensities of an index contrast under tilted plane waves, from the full wave equation.

    Called as `MultiSlice` is, but without a gradient, on slices of less than half a wavelength.

    Parameters
    ----------
    optics : Microscope
        Wavelength, aperture, medium, and the fine voxels of the simulation.
    leds : (L, 2) array
        (y, x) directions ``n sin(theta)``, moved to the nearest frequencies of the grid.
    shape : (int, int, int)
        Fine voxels (Z, Y, X); the focus is in the middle of Z.
    pixels : (int, int), optional
        Pixels (Y, X) of the images, which cover the same field; default as many as voxels.
    tol : float
        Largest last change of the scattered light at the camera, relative to itself. What is left
        after it is smaller by the share of light that turns back, which is a few percent.
    max_iter : int
        Rounds after which a series that goes on is an error.

    Raises
    ------
    ValueError
        Slices of half a wavelength or more, pixels too few for the intensity or more than the
        voxels, and what `MultiSlice` refuses.
    RuntimeError
        The series did not converge.

    Notes
    -----
    The equation of Lippmann and Schwinger :cite:p:`born1999`,

    .. math:: u(\mathbf r) = u_{in}(\mathbf r) + \int G(\mathbf r - \mathbf r')\, k_0^2
        \left[ (n_0 + \Delta n)^2 - n_0^2 \right] u(\mathbf r')\, d\mathbf r',

    is solved in rounds. Each goes up through the slices with what the last one sent back. From
    slice to slice the Green function is exact: the wave of lateral frequency :math:`q` leaves its
    slice upwards and downwards as :math:`i e^{i k_z |z|} / 2 k_z`, evanescent ones included. Used
    in :doc:`/book/inr/07_diffraction`.

    Examples
    --------
    >>> import numpy as np
    >>> from helpers.inr.diffraction.led_array import Microscope, spiral
    >>> fine = Microscope(voxel_size=(0.125, 0.2, 0.2))
    >>> images = Helmholtz(fine, spiral(2, 0.6), (8, 16, 16))(np.zeros((8, 16, 16)))
    >>> bool(np.allclose(images, 1))
    True
    """

    def __init__(
        self,
        optics: Microscope,
        leds: ArrayLike,
        shape: Sequence[int],
        *,
        pixels: Sequence[int] | None = None,
        tol: float = 0.02,
        max_iter: int = 40,
    ) -> None:
        self._light = Illumination(optics, leds, shape)
        self.in_shape = self._light.shape
        half = optics.wavelength / (2 * optics.index)
        if optics.voxel_size[0] >= half:
            raise ValueError(
                f"slices are {optics.voxel_size[0]} um: the wave equation needs less than half a "
                f"wavelength, {half:.3g} um"
            )
        pixels = self.in_shape[1:] if pixels is None else tuple(int(n) for n in pixels)
        sides = [n * d for n, d in zip(self.in_shape[1:], optics.voxel_size[1:], strict=True)]
        fewest = [math.ceil(4 * side * optics.na / optics.wavelength - 1e-9) for side in sides]
        limits = zip(fewest, pixels, self.in_shape[1:], strict=True)
        if len(pixels) != 2 or not all(low <= n <= high for low, n, high in limits):
            raise ValueError(f"pixels are {pixels}: give {fewest} to {self.in_shape[1:]}, (Y, X)")
        self.optics, self.leds = optics, self._light.leds
        self.out_shape = (len(self.leds), *pixels)
        self.tol, self.max_iter = tol, max_iter

    def __call__(self, contrast: ArrayT) -> ArrayT:
        """Intensities (L, Y, X) of the contrast (Z, Y, X)."""
        if tuple(contrast.shape) != self.in_shape:
            raise ValueError(
                f"contrast is {tuple(contrast.shape)}, the model has voxels {self.in_shape}"
            )
        t = to_tensor(contrast)
        if not bool(torch.isfinite(t).all()):
            raise ValueError("contrast holds NaN or infinity: give finite numbers")
        o, waves = self.optics, t.dtype.to_complex()
        potential = (2 * math.pi / o.wavelength) ** 2 * ((o.index + t) ** 2 - o.index**2)
        green = [transfer.to(t.device, waves) for transfer in self._green()]
        imaging = self._light.carry(-float(self._light.depths[-1])) * self._light.pupil
        imaging = imaging.to(t.device, waves)
        images = []
        with torch.no_grad():
            for number in range(len(self.leds)):
                incident = self._incident(number).to(t.device, waves)
                spectrum = self._scattered(potential, incident, green, imaging)
                if self._light.bright[number]:
                    spectrum[tuple(self._light.bins[number])] += spectrum.numel()
                images.append(_sampled(spectrum, self.out_shape[1:]))
        return like(torch.stack(images), contrast)

    def _scattered(
        self,
        potential: torch.Tensor,
        incident: torch.Tensor,
        green: Sequence[torch.Tensor],
        imaging: torch.Tensor,
    ) -> torch.Tensor:
        """Scattered light (Y, X) at the camera, by frequency, of an incident wave (Z, Y, X)."""
        carry, strength, back, own = green
        source = torch.zeros_like(incident)
        before = torch.zeros_like(source[0])
        for _ in range(self.max_iter):
            # Upwards slice by slice, each with the light of those before it: only light that turns
            # back needs more than one round.
            downwards = _sweep((back * source).flip(0), carry).flip(0)
            rest = incident + torch.fft.ifft2(downwards + own * source)
            upwards = torch.zeros_like(before)
            for layer in range(len(source)):
                upwards = upwards * carry
                wave = rest[layer] + torch.fft.ifft2(upwards)
                source[layer] = torch.fft.fft2(potential[layer] * wave) * strength
                upwards = upwards + source[layer]
            scattered = upwards * imaging
            change, size = float((scattered - before).norm()), float(scattered.norm())
            if change <= self.tol * size < math.inf:
                return scattered
            before = scattered
        raise RuntimeError(
            f"no convergence in {self.max_iter} rounds: raise max_iter, or use a weaker contrast "
            "or thinner slices"
        )

    def _green(self) -> tuple[torch.Tensor, ...]:
        """Slice to slice; source to wave; share of it that turns back; and on the slice itself."""
        light, o = self._light, self.optics
        dz, wavenumber = o.voxel_size[0], 2 * math.pi / o.wavelength
        squared = (o.index**2 - light.q_squared).to(torch.complex128)
        kz = wavenumber * squared.sqrt()
        kept = kz.abs() > GRAZING * wavenumber * o.index
        kz = torch.where(kept, kz, wavenumber)
        carry = (1j * kz * dz).exp()
        # An upward wave excites a slice in step with what it sends up, but against the phase of
        # what it sends down: that is averaged over the slice, and on the slice itself over half.
        back = torch.special.sinc((kz * dz / math.pi).real)
        own = 0.5 + (carry - 1) / (2j * kz * dz)
        return carry, 0.5j * dz / kz * kept, back, own

    def _incident(self, number: int) -> torch.Tensor:
        """The plane wave (Z, Y, X) of one LED, with phase zero at the focus."""
        light = self._light
        turns = [light.led_axial[number] * light.depths / self.optics.wavelength]
        for cycles, n in zip(light.bins[number].tolist(), self.in_shape[1:], strict=True):
            turns.append(cycles / n * torch.arange(n, dtype=torch.float64))
        z, y, x = (torch.exp(2j * math.pi * turn) for turn in turns)
        return z[:, None, None] * y[:, None] * x


def _sweep(source: torch.Tensor, carry: torch.Tensor) -> torch.Tensor:
    """Waves that arrive at each slice from the sources in all slices before it."""
    wave = torch.zeros_like(source[0])
    arriving = [wave]
    for layer in source[:-1]:
        wave = (wave + layer) * carry
        arriving.append(wave)
    return torch.stack(arriving)


def _sampled(spectrum: torch.Tensor, pixels: Sequence[int]) -> torch.Tensor:
    """Intensity (Y, X) at the pixel centres of a field that is given by its frequencies."""
    for axis, (n, p) in enumerate(zip(spectrum.shape, pixels, strict=True)):
        frequency = torch.fft.fftfreq(p, 1 / p, dtype=torch.float64)
        # voxels and pixels share the corner of the field, so their centres do not coincide
        turn = torch.exp(1j * math.pi * frequency * (1 / p - 1 / n)) * p / n
        spectrum = spectrum.index_select(axis, (frequency.long() % n).to(spectrum.device))
        spectrum = spectrum * turn.unsqueeze(1 - axis).to(spectrum)
    return torch.fft.ifft2(spectrum).abs().square()
