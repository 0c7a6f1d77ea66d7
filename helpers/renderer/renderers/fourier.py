"""Spots through a pupil: scalar Fourier optics whose aberrations can be learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...optics._zernike import pupil_axis
from ...optics.pupil import Pupil, squared_modulus, zernike_basis
from ..params import Bounded, Param
from .base import Renderer
from .gaussian import light_params


class FourierOptics(Renderer):
    r"""Images of point emitters through a pupil.

    Parameters
    ----------
    image_shape : (int, int)
        (Y, X) in pixels.
    pupil : Pupil
        The microscope. Its samples decide the cost: take as many as the field needs, see
        `Pupil.period`.
    modes : sequence of int
        OSA indices of the Zernikes that can be learned; they start at the pupil's coefficients,
        else at zero. They become the weights `coefficients`, in waves RMS.
    learn_map : bool
        Learn a phase at every cell, in waves: the weights `phase_map`.
    z_range : (float, float)
        Depths that a fit may give, µm.

    Attributes
    ----------
    pupil : Pupil
        With the aberrations learned so far, as numbers.

    Raises
    ------
    ValueError
        A field larger than the period of the pupil's samples, or a pupil that holds a batch.

    Notes
    -----
    .. math:: \mu = b + \sum_k N_k\, h(x_k, y_k, z_k), \qquad \sum h = 1

    over an infinite field, at any depth: photons mean the same in and out of focus, and no image
    is scaled by its peak. Light that misses the image is lost. See `helpers.optics.psf_from_pupil`
    for h. `jacobian` has a closed form and takes the name ``"coefficients"``, too. Derived in
    :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> from helpers.optics import Pupil
    >>> pupil = Pupil(1.4, 0.67, 1.518, 0.1, samples=48, zernikes={5: 0.08})
    >>> spots = FourierOptics((25, 25), pupil, modes=[5, 7])
    >>> spots.coefficients.tolist()
    [0.07999999821186066, 0.0]
    >>> image = spots.render({"z": [-0.3, 0.3], "photons": 1000.0, "background": 2.0})
    >>> image.shape
    (2, 25, 25)
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        pupil: Pupil,
        *,
        modes: Sequence[int] = (),
        learn_map: bool = False,
        z_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        z = Param("z", "µm", Bounded(*z_range), start=sum(z_range) / 2)
        super().__init__(image_shape, [*light_params(image_shape), z])
        pupil.check_field(self.image_shape)
        if pupil.wavefront().ndim > 2:
            raise ValueError("the pupil holds a batch of aberrations: give one for the instrument")
        self.modes = tuple(int(j) for j in modes)
        if len(set(self.modes)) < len(self.modes):
            raise ValueError(f"modes are {self.modes}: give each once")
        known = {j: float(c) for j, c in (pupil.zernikes or {}).items()}
        start = torch.tensor([known.pop(j, 0.0) for j in self.modes])
        self.coefficients: Any = torch.nn.Parameter(start) if self.modes else None
        fixed = replace(pupil, zernikes=known, phase_map=None if learn_map else pupil.phase_map)
        self._optics = fixed
        self._fixed = fixed.wavefront()
        self.phase_map = None
        if learn_map:
            free = replace(pupil, zernikes=None).wavefront().float()
            self.phase_map = torch.nn.Parameter(free)

    @property
    def pupil(self) -> Pupil:
        """The pupil with the aberrations learned so far."""
        found = dict(self._optics.zernikes or {})
        if self.modes:
            found |= dict(zip(self.modes, self.coefficients.tolist(), strict=True))
        free = self._optics.phase_map if self.phase_map is None else self.phase_map.detach().clone()
        return replace(self._optics, zernikes=found, phase_map=free)

    def wavefront(self, like: torch.Tensor) -> torch.Tensor:
        """Present aberration in waves (samples, samples), in the precision of the tensor `like`."""
        total = self._fixed.to(like)
        if self.modes:
            total = total + torch.einsum("j,jvu->vu", self.coefficients.to(like), self._basis(like))
        return total if self.phase_map is None else total + self.phase_map.to(like)

    def _basis(self, like):
        return zernike_basis(self.modes, self._optics.samples, like.dtype, like.device)

    def _field(self, full):
        """Field at the pupil (B, K, M, M), and the two halves of the transform to the image."""
        x, y, z = (full[name] for name in "xyz")
        field = self._optics.field(z, self.wavefront(x))
        field = field * self._optics.tilt(y)[..., :, None] * self._optics.tilt(x)[..., None, :]
        kind = {"dtype": x.dtype, "device": x.device}
        rows, columns = (self._optics.transform(n, **kind) for n in self.image_shape)
        return field, rows, columns.T

    def expected(self, full: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images of completed parameters."""
        field, rows, columns = self._field(full)
        spots = self._optics.bin(squared_modulus(rows @ (field @ columns)))
        image = torch.einsum("bk,bkyx->byx", full["photons"], spots)
        return image + full["background"][:, None, None]

    def jacobian(
        self, params: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Images and their derivatives in closed form; see `Renderer.jacobian`.

        Besides parameters, `names` may hold ``"coefficients"``: one column for each of `modes`.
        """
        full = self.complete(params)
        photons = full["photons"][..., None, None]
        field, rows, columns = self._field(full)
        half = field @ columns  # transformed along x only
        image = rows @ half
        spots = self._optics.bin(squared_modulus(image))

        def slope(change):
            """Of the spots, where the field in the image changes by `change`."""
            product = image.real * change.real + image.imag * change.imag
            return photons * self._optics.bin(2 * product)

        result = []
        for name in names:
            if name == "background":
                result.append(torch.ones_like(spots[:, :1]))
            elif name == "photons":
                result.append(spots)
            elif name == "x":
                result.append(slope(rows @ (field @ (self._turn(field)[:, None] * columns))))
            elif name == "y":
                result.append(slope((rows * self._turn(field)) @ half))
            elif name == "z":
                z = full["z"]
                turned = field * self._optics.field_slope(z, z.dtype, z.device)
                result.append(slope(rows @ (turned @ columns)))
            elif name == "coefficients" and self.modes:
                for mode in self._basis(spots):
                    turned = 2j * math.pi * mode * field
                    result.append(slope(rows @ (turned @ columns)).sum(1, keepdim=True))
            else:
                raise ValueError(f"no derivative by {name}: give {', '.join(self.params)}")
        total = (photons * spots).sum(1) + full["background"][:, None, None]
        return total, torch.cat(result, 1)

    def _turn(self, field):
        """Phase factor of a shift by one pixel, for each sample along an axis: imaginary (M,)."""
        optics = self._optics
        step = -2 * math.pi * optics.na * optics.pixel_size / optics.wavelength
        return 1j * torch.as_tensor(step * pupil_axis(optics.samples)).to(field.real)
