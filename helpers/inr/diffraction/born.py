r"""The first order of diffraction tomography: intensities that are linear in the index contrast."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..._arrays import Array, ArrayT, like, to_tensor
from .._checks import chosen
from ..diffraction.led_array import Microscope
from .led_array import Illumination


class Born:
    r"""First-order change of the intensities: what `MultiSlice` becomes for a faint object.

    Parameters
    ----------
    optics : Microscope
        Wavelength, aperture, medium and voxels.
    leds : (L, 2) array
        (y, x) directions inside the objective's aperture, moved to the nearest frequencies of the
        grid.
    shape : (int, int, int)
        Voxels (Z, Y, X).

    Attributes
    ----------
    leds : (L, 2) tensor
        The directions after the move.
    bright : (L,) bool tensor
        Always true; see `MultiSlice`.
    transfer : (L, Z, Y, X // 2 + 1) complex tensor
        Of each LED and slice, over the frequencies of a real FFT.
    in_shape, out_shape : tuple of int
        (Z, Y, X) and (L, Y, X).

    Raises
    ------
    ValueError
        An LED in the dark field, and what `MultiSlice` refuses.

    Notes
    -----
    ``op(contrast)`` is the intensity without the 1 of the bright field. At the frequency :math:`q`
    of the image of LED :math:`m`, whose direction is :math:`q_m`,

    .. math:: \hat y_m(q) = \frac{2\pi i \Delta z}{\lambda \cos\theta_m} \sum_j \left[
        P(q_m + q)\, e^{i \phi_j(q)} - P(q_m - q)\, e^{-i \phi_j(-q)} \right]
        \widehat{\Delta n}_j(q), \qquad
        \phi_j(q) = \frac{2 \pi z_j}{\lambda} \left( w(q_m) - w(q_m + q) \right),

    with the pupil :math:`P` and :math:`w(q) = \sqrt{n_0^2 - q^2}`. The two terms are the waves
    scattered by :math:`+q` and by :math:`-q`, each beating with the direct light. At
    :math:`q = 0` they cancel: the mean of a slice is never seen. Derived in
    :doc:`/book/inr/07_diffraction`; see :cite:t:`ling2018`.

    Examples
    --------
    >>> from helpers.inr.diffraction.led_array import Microscope, spiral
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(Born(Microscope(), spiral(3, 0.6), (4, 16, 16))) < 1e-10
    True
    """

    def __init__(self, optics: Microscope, leds: ArrayLike, shape: Sequence[int]) -> None:
        light = Illumination(optics, leds, shape)
        if not bool(light.bright.all()):
            steepest = float(light.leds.norm(dim=1).max())
            raise ValueError(
                f"an LED at {steepest:.3g} is outside the objective's aperture {optics.na}: a dark "
                "field has no first order, use MultiSlice for it"
            )
        self.optics, self.leds, self.bright = optics, light.leds, light.bright
        self.in_shape, self.out_shape = light.shape, (len(light.leds), *light.shape[1:])
        self.transfer = torch.stack(
            [_transfer(light, number).to(torch.complex64) for number in range(len(light.leds))]
        )
        self._on: dict = {}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Steps (z, y, x) in um, as `Microscope` has them."""
        return self.optics.voxel_size

    def select(self, leds: Sequence[int] | np.ndarray | slice) -> Born:
        """Give the operator of some LEDs: their numbers, a mask or a slice."""
        leds = chosen(leds, len(self.leds), "LEDs")
        part = copy.copy(self)
        part.leds, part.bright = self.leds[leds], self.bright[leds]
        part.transfer, part._on = self.transfer[leds], {}
        part.out_shape = (len(part.leds), *self.in_shape[1:])
        return part

    def __call__(self, contrast: ArrayT) -> ArrayT:
        """Change of the intensities (L, Y, X) by the contrast (Z, Y, X)."""
        t, transfer = self._prepared(contrast, self.in_shape, "contrast")
        spectrum = (transfer * torch.fft.rfft2(t)).sum(1)
        return like(torch.fft.irfft2(spectrum, s=self.in_shape[1:]), contrast)

    def adjoint(self, change: ArrayT) -> ArrayT:
        """Transposed operator, from (L, Y, X) to (Z, Y, X)."""
        t, transfer = self._prepared(change, self.out_shape, "change")
        spectrum = (transfer.conj() * torch.fft.rfft2(t)[:, None]).sum(0)
        return like(torch.fft.irfft2(spectrum, s=self.in_shape[1:]), change)

    def _prepared(
        self, x: Array, shape: tuple[int, ...], name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`x` as a tensor, and the transfer in its precision on its device."""
        if tuple(x.shape) != shape:
            raise ValueError(f"{name} is {tuple(x.shape)}, the operator needs {shape}")
        t = to_tensor(x)
        key = t.dtype, t.device
        if key not in self._on:
            self._on[key] = self.transfer.to(t.device, t.dtype.to_complex())
        return t, self._on[key]


def _transfer(light: Illumination, number: int) -> torch.Tensor:
    """Transfer (Z, Y, X // 2 + 1) of one LED."""
    row, column = (-light.bins[number]).tolist()
    shifted = light.axial.roll((row, column), (0, 1))  # w(q_m + q)
    pupil = light.pupil.roll((row, column), (0, 1))
    beat = 2 * math.pi / light.optics.wavelength * (light.led_axial[number] - shifted)
    scattered = torch.exp(1j * light.depths[:, None, None] * beat) * pupil
    # the frequency -q of an FFT: everything reversed, but zero stays first
    opposite = scattered.flip(1, 2).roll((1, 1), (1, 2)).conj()
    both = 1j * light.delay[number] * (scattered - opposite)
    return both[..., : light.shape[2] // 2 + 1]


def linear_inverse(
    op: Born, intensity: Array, regularisation: float, *, logarithm: bool = False
) -> Array:
    r"""Contrast by Tikhonov's regularised inverse of the first-order model.

    Parameters
    ----------
    op : Born
        The model.
    intensity : (L, Y, X) array or tensor
        Measured, in units of the bright field; zero or more.
    regularisation : float
        Weight of the squared contrast, relative to the largest sum of squares of the model at one
        frequency; above 0.
    logarithm : bool
        Invert the logarithm of the intensity and not the intensity minus 1: phases then add up
        inside the object instead of waves (Rytov's approximation).

    Returns
    -------
    (Z, Y, X) array or tensor
        Contrast. The mean of each slice, which no image shows, is zero.

    Raises
    ------
    ValueError
        A shape that does not fit, NaN or negative intensities, a regularisation not above 0.

    Notes
    -----
    The model is an L x Z matrix :math:`H` for each lateral frequency, so the minimum of
    :math:`\|Hx - y\|^2 + \alpha \|H\|_F^2 \|x\|^2` is an exact solve of L or Z equations,

    .. math:: \hat x = H^* (H H^* + \alpha \|H\|_F^2)^{-1} \hat y
        = (H^* H + \alpha \|H\|_F^2)^{-1} H^* \hat y.

    Derived in :doc:`/book/inr/07_diffraction`.

    Examples
    --------
    >>> import numpy as np
    >>> from helpers.inr.diffraction.led_array import Microscope, spiral
    >>> op = Born(Microscope(), spiral(6, 0.6), (4, 16, 16))
    >>> x = np.zeros((4, 16, 16))
    >>> x[2, 8, 8] = 1e-3
    >>> found = linear_inverse(op, 1 + op(x), 1e-4)
    >>> [int(i) for i in np.unravel_index(found.argmax(), found.shape)]
    [2, 8, 8]
    """
    if not regularisation > 0:
        raise ValueError(f"regularisation is {regularisation}: give a number above 0")
    y, transfer = op._prepared(intensity, op.out_shape, "intensity")
    if not bool((y >= 0).all()) or not bool(torch.isfinite(y).all()):
        raise ValueError("intensity holds negative values, NaN or infinity: mask or clip them")
    # an empty pixel has no logarithm; no estimate needs less than a hundredth
    y = y.clamp(min=0.01).log() if logarithm else y - 1
    h = transfer.permute(2, 3, 0, 1)  # (Y, X', L, Z)
    data = torch.fft.rfft2(y).permute(1, 2, 0)[..., None]
    fewer_leds = h.shape[2] <= h.shape[3]
    gram = h @ h.mH if fewer_leds else h.mH @ h
    trace = torch.diagonal(gram, dim1=-2, dim2=-1).real.sum(-1).max()
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    gram = gram + regularisation * trace * eye
    if fewer_leds:
        solved = h.mH @ torch.linalg.solve(gram, data)
    else:
        solved = torch.linalg.solve(gram, h.mH @ data)
    spectrum = solved[..., 0].permute(2, 0, 1)
    return like(torch.fft.irfft2(spectrum, s=op.in_shape[1:]), intensity)


def grounded(contrast: Array, border: int = 3) -> Array:
    """Give each slice the mean that makes its border zero on average, and cut what is negative.

    The linear inverse knows no mean. Around an object that is denser than its medium there is the
    medium, whose contrast is zero.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.full((1, 16, 16), -0.5)
    >>> volume[0, 8, 8] = 2.0
    >>> grounded(volume)[0, 8, 7:10].tolist()
    [0.0, 2.5, 0.0]
    """
    t = to_tensor(contrast)
    rim = torch.ones(t.shape[-2:], dtype=torch.bool, device=t.device)
    rim[border:-border, border:-border] = False
    medium = t[:, rim].mean(1)
    return like((t - medium[:, None, None]).clamp(min=0), contrast)
