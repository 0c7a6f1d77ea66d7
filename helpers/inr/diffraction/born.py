r"""The first order of diffraction tomography: intensities that are linear in the index contrast."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..._arrays import Array, ArrayT, like, to_tensor
from .._checks import chosen
from ..diffraction.led_array import Microscope
from ._grids import check_factor, inner, merging
from .led_array import Illumination

MOST = 2**24  # complex numbers of the matrices that are solved at a time


class Born:
    r"""First-order change of the intensities: what `MultiSlice` becomes for a faint object.

    Parameters
    ----------
    optics : Microscope
        Wavelength, aperture, medium and voxels.
    leds : (L, 2) array
        (y, x) directions inside the objective's aperture.
    shape : (int, int, int)
        Voxels (Z, Y, X).
    absorption : bool
        The contrast is complex, the index and its imaginary part: the first axis of an object is
        then (2, ...), real part first.
    middle : float
        Depth of the middle of the volume from the focus in um, along the light.
    on_grid : bool
        Move the LEDs to the nearest frequencies of the grid, as `MultiSlice` does. The first order
        has no need of it, and a measured array is nowhere on the grid.

    Attributes
    ----------
    leds : (L, 2) tensor
        The directions, after the move.
    bright : (L,) bool tensor
        Always true; see `MultiSlice`.
    transfer : (L, Z or 2 Z, Y, X // 2 + 1) complex tensor
        Of each LED and slice, over the frequencies of a real FFT; those of the absorption last.
    depths : (Z,) tensor
        Of the slices, in um from the focus.
    in_shape, out_shape : tuple of int
        (Z, Y, X) or (2, Z, Y, X), and (L, Y, X).

    Raises
    ------
    ValueError
        An LED in the dark field, and what `MultiSlice` refuses.

    Warns
    -----
    UserWarning
        Pixels too large for the finest detail of the images, which is that of the aperture seen
        from the steepest LED.

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
    :math:`q = 0` they cancel: the mean of a slice is never seen. With `absorption` the contrast is
    :math:`\Delta n + i k`, and :math:`\hat k_j(q)` has the factor
    :math:`-\tfrac{2\pi \Delta z}{\lambda \cos\theta_m}` and the sum of the two terms: a mean
    absorption is seen, in all slices alike.

    LEDs turned by 180 degrees, with the volume mirrored in depth and :math:`\Delta n` of the other
    sign, give the same images. Derived in :doc:`/book/inr/07_diffraction`, for absorption in
    :doc:`/book/inr/11_measured_tomography`; see :cite:t:`ling2018`.

    Examples
    --------
    >>> from helpers.inr.diffraction.led_array import Microscope, spiral
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(Born(Microscope(), spiral(3, 0.6), (4, 16, 16))) < 1e-10
    True
    """

    def __init__(
        self,
        optics: Microscope,
        leds: ArrayLike,
        shape: Sequence[int],
        *,
        absorption: bool = False,
        middle: float = 0.0,
        on_grid: bool = True,
    ) -> None:
        light = Illumination(optics, leds, shape, middle, on_grid)
        self._factor = 1
        if not bool(light.bright.all()):
            steepest = float(light.leds.norm(dim=1).max())
            raise ValueError(
                f"an LED at {steepest:.3g} is outside the objective's aperture {optics.na}: a dark "
                "field has no first order, use MultiSlice for it"
            )
        finest = optics.na + float(light.leds.norm(dim=1).max())
        if max(optics.voxel_size[1:]) > 1.001 * optics.wavelength / (2 * finest):
            warnings.warn(
                f"pixels are {max(optics.voxel_size[1:])} um: with these LEDs the images have "
                f"details that need {optics.wavelength / (2 * finest):.3g} um. What is finer is "
                "folded into the rest and not modelled",
                stacklevel=2,
            )
        self.optics, self.leds, self.bright = optics, light.leds, light.bright
        self.depths = light.depths
        self.in_shape = (2, *light.shape) if absorption else light.shape
        self.out_shape = (len(light.leds), *light.shape[1:])
        self.transfer = torch.stack(
            [_transfer(light, n, absorption).to(torch.complex64) for n in range(len(light.leds))]
        )
        self._on: dict = {}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Steps (z, y, x) in um, as `Microscope` has them; wider where they are merged."""
        z, y, x = self.optics.voxel_size
        return z, self._factor * y, self._factor * x

    def select(self, leds: Sequence[int] | np.ndarray | slice) -> Born:
        """Give the operator of some LEDs: their numbers, a mask or a slice."""
        leds = chosen(leds, len(self.leds), "LEDs")
        part = copy.copy(self)
        part.leds, part.bright = self.leds[leds], self.bright[leds]
        part.transfer, part._on = self.transfer[leds], {}
        part.out_shape = (len(part.leds), *self.out_shape[1:])
        return part

    def coarsened(self, factor: int) -> Born:
        """The same fields of view on voxels and pixels `factor` times as wide; depth is left.

        A voxel holds the contrast in its middle, a pixel the mean of those that are merged: what
        this operator makes of an object without finer detail, seen by the same camera.

        Raises
        ------
        ValueError
            A factor that is no whole number, or sizes that do not divide by it; an operator that
            is a `block`.
        """
        if self.in_shape[-2:] != self.out_shape[1:]:
            raise ValueError("this is a block of an operator: coarsen the whole one")
        rows, columns = self.out_shape[1:]
        factor = check_factor(factor, (rows, columns))
        part = copy.copy(self)
        part._factor, part._on = self._factor * factor, {}
        y, x = (torch.fft.fftfreq(n // factor, factor / n).double() for n in (rows, columns))
        y, x = y.round(), x.round()[: columns // factor // 2 + 1].abs()
        shares = [merging(k, n, factor) for k, n in ((y, rows), (x, columns))]
        kept = self.transfer[..., y.long() % rows, :][..., x.long()]
        part.transfer = (kept * shares[0][:, None] * shares[1]).to(self.transfer.dtype)
        part.in_shape = (*self.in_shape[:-2], rows // factor, columns // factor)
        part.out_shape = (len(self.leds), rows // factor, columns // factor)
        return part

    def block(self, size: Sequence[int], energy: float = 0.99) -> Born:
        """The operator of a part of `size` pixels of the images, and of the voxels that it sees.

        Parameters
        ----------
        size : (int, int)
            Height and width of the part. The part of the volume is larger at each side by the
            reach of a point, and has the same centre. The LEDs stay where they are.
        energy : float
            Share of the scattered light that must come from within the reach, for each LED and
            slice. From voxels without correlation, an image lacks at most the rest of its
            variance, and gets at most as much again from the other border, where waves repeat.

        Raises
        ------
        ValueError
            A share that is not between 0 and 1; an operator that is coarse.
        """
        if self._factor > 1:
            raise ValueError("the operator is coarse: take the block first")
        middle, absorption = float(self.depths.mean()), len(self.in_shape) == 4
        where: Any = dict(middle=middle, on_grid=False)
        halo = Illumination(self.optics, self.leds, self.in_shape[-3:], **where).reach(energy)
        size = (int(size[0]), int(size[1]))
        shape = (self.in_shape[-3], size[0] + 2 * halo, size[1] + 2 * halo)
        with warnings.catch_warnings():  # they were given for the whole
            warnings.simplefilter("ignore", UserWarning)
            part = Born(self.optics, self.leds, shape, absorption=absorption, **where)
        part.out_shape = (len(self.leds), size[0], size[1])
        return part

    def __call__(self, contrast: ArrayT) -> ArrayT:
        """Change of the intensities (L, Y, X) by the contrast (Z, Y, X) or (2, Z, Y, X)."""
        t, transfer = self._prepared(contrast, self.in_shape, "contrast")
        spectrum = torch.einsum("lzyx,zyx->lyx", transfer, torch.fft.rfft2(t).flatten(0, -3))
        images = torch.fft.irfft2(spectrum, s=self.in_shape[-2:])
        return like(inner(images, self.out_shape[1:]), contrast)

    def adjoint(self, change: ArrayT) -> ArrayT:
        """Transposed operator, from (L, Y, X) to the shape of the contrast."""
        t, transfer = self._prepared(change, self.out_shape, "change")
        edge = (self.in_shape[-1] - self.out_shape[-1]) // 2
        t = torch.nn.functional.pad(t, (edge,) * 4)  # a block is seen without its margins
        spectrum = torch.einsum("lzyx,lyx->zyx", transfer.conj(), torch.fft.rfft2(t))
        contrast = torch.fft.irfft2(spectrum, s=self.in_shape[-2:])
        return like(contrast.reshape(self.in_shape), change)

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


def _transfer(light: Illumination, number: int, absorption: bool) -> torch.Tensor:
    """Transfer (Z, Y, X // 2 + 1) of one LED, or (2 Z, ...) with that of the absorption."""
    scattered = light.scattered(number)
    # the frequency -q of an FFT: everything reversed, but zero stays first
    opposite = scattered.flip(1, 2).roll((1, 1), (1, 2)).conj()
    both = 1j * light.delay[number] * (scattered - opposite)
    if absorption:
        both = torch.cat([both, -light.delay[number] * (scattered + opposite)])
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
    array or tensor of ``op.in_shape``
        Contrast. The mean index of each slice, which no image shows, is zero.

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
    if op.in_shape[-2:] != op.out_shape[1:]:
        raise ValueError("op is a block, which sees more than its images: give the whole operator")
    y, transfer = op._prepared(intensity, op.out_shape, "intensity")
    if not bool((y >= 0).all()) or not bool(torch.isfinite(y).all()):
        raise ValueError("intensity holds negative values, NaN or infinity: mask or clip them")
    # an empty pixel has no logarithm; no estimate needs less than a hundredth
    y = y.clamp(min=0.01).log() if logarithm else y - 1
    data = torch.fft.rfft2(y)
    # the trace of a Gram matrix is the sum of squares of the model at a frequency
    weight = regularisation * max(
        row.abs().square().sum((0, 1)).max() for row in transfer.unbind(2)
    )
    rows = max(1, MOST // (transfer.shape[3] * min(transfer.shape[:2]) ** 2))
    parts = [
        _solved(h, d, weight)
        for h, d in zip(transfer.split(rows, 2), data.split(rows, 1), strict=True)
    ]
    contrast = torch.fft.irfft2(torch.cat(parts, 1), s=op.out_shape[1:])
    return like(contrast.reshape(op.in_shape), intensity)


def _solved(transfer: torch.Tensor, data: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Spectra (Z, Y, X') of the slices at some rows of frequencies, from those of the images."""
    h, y = transfer.permute(2, 3, 0, 1), data.permute(1, 2, 0)[..., None]  # (Y, X', L, Z)
    fewer_leds = h.shape[2] <= h.shape[3]
    gram = h @ h.mH if fewer_leds else h.mH @ h
    gram = gram + weight * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # Hermitian and positive, since the weight is
    root = torch.linalg.cholesky(gram)
    solved = (
        h.mH @ torch.cholesky_solve(y, root) if fewer_leds else torch.cholesky_solve(h.mH @ y, root)
    )
    return solved[..., 0].permute(2, 0, 1)


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
