r"""Diffraction tomography: what a camera records behind an index contrast under tilted light.

A transparent object delays light, a coloured one absorbs it too. Each LED of an array sends one
plane wave through it, and a camera records how much light arrives, not its phase. `MultiSlice`
computes the intensities of any object in transmission; `Born` is its linear part, for faint ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.checkpoint import checkpoint

from ..._arrays import ArrayT, like, to_tensor
from .._checks import chosen
from ..diffraction.led_array import Microscope
from .led_array import Illumination

LARGEST_CONTRAST = 0.5  # solids in water stay below; an absolute index, given by mistake, does not


class MultiSlice:
    r"""Intensities of an index contrast under tilted plane waves, multiple scattering included.

    Parameters
    ----------
    optics : Microscope
        Wavelength, aperture, medium and voxels.
    leds : (L, 2) array
        (y, x) directions ``n sin(theta)``, moved to the nearest frequencies of the grid so that
        the waves are periodic. Beyond the objective's aperture they make dark-field images.
    shape : (int, int, int)
        Voxels (Z, Y, X).
    absorption : bool
        The contrast is complex, the index and its imaginary part: the first axis of an object is
        then (2, ...), real part first, as for `Born`.
    middle : float
        Depth of the middle of the volume from the focus in um, along the light.
    chunk : int, optional
        LEDs computed at a time. Their fields inside the object are then not kept for the gradient
        but computed again: less memory, half as much time again.

    Attributes
    ----------
    leds : (L, 2) tensor
        The directions after the move.
    bright : (L,) bool tensor
        Whether the direct light of each LED enters the objective.
    depths : (Z,) tensor
        Of the slices, in um from the focus.
    in_shape, out_shape : tuple of int
        (Z, Y, X) or (2, Z, Y, X), and (L, Y, X).

    Raises
    ------
    ValueError
        Directions that the medium or the grid does not carry, a shape that is not (Z, Y, X).

    Notes
    -----
    With the contrast :math:`\Delta n` to the medium of index :math:`n_0`, slices
    :math:`\Delta z` thick and light tilted by :math:`\theta`, each slice does

    .. math:: u \leftarrow \mathcal F^{-1} \left\{ e^{2\pi i \Delta z \sqrt{n_0^2 - q^2} / \lambda}
        \; \mathcal F \left\{ u \, e^{2 \pi i \Delta n \Delta z / (\lambda \cos\theta)} \right\}
        \right\},

    then the field goes back to the focus, through the pupil, and the camera takes its square.
    With `absorption` the contrast is :math:`\Delta n + i k`. The tilted path
    :math:`\Delta z / \cos\theta` makes the phase behind a wide slab right to first order, and the
    absorption that of Beer and Lambert. Waves that run backwards are left out. Unit intensity is
    the bright field without an object. It works in the precision and on the device of what it is
    called with. Derived in :doc:`/book/inr/07_diffraction`; as a model for tomography it is due to
    :cite:t:`tian2015` and :cite:t:`kamilov2015`.

    Examples
    --------
    >>> import numpy as np
    >>> from helpers.inr.diffraction import Microscope, spiral
    >>> model = MultiSlice(Microscope(), spiral(3, 0.6), (4, 16, 16))
    >>> bool(np.allclose(model(np.zeros((4, 16, 16))), 1))
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
        chunk: int | None = None,
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk is {chunk}: give the number of LEDs at a time, or None")
        self._light = Illumination(optics, leds, shape, middle)
        self.optics, self.chunk, self.leds = optics, chunk, self._light.leds
        self.in_shape = (2, *self._light.shape) if absorption else self._light.shape
        self.out_shape = (len(self.leds), *self.in_shape[-2:])
        self.bright, self.depths = self._light.bright, self._light.depths
        self._bins, self._delay = self._light.bins, self._light.delay
        self._transfers: dict = {}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Steps (z, y, x) in um, as `Microscope` has them."""
        return self.optics.voxel_size

    def select(self, leds: Sequence[int] | np.ndarray | slice) -> MultiSlice:
        """Give the model of some LEDs: their numbers, a mask or a slice."""
        leds = chosen(leds, len(self.leds), "LEDs")
        part = copy.copy(self)
        part.leds, part.bright = self.leds[leds], self.bright[leds]
        part._bins, part._delay = self._bins[leds], self._delay[leds]
        part.out_shape = (len(part.leds), *self.in_shape[-2:])
        return part

    def __call__(self, contrast: ArrayT) -> ArrayT:
        """Intensities (L, Y, X) of the contrast (Z, Y, X) or (2, Z, Y, X); differentiable."""
        t = to_tensor(contrast)
        self._check(t)
        step, imaging = self._propagators(t)
        waves, delay = self._waves(t), self._delay.to(t)[:, None, None]
        if self.chunk is None:
            return like(_through(t, waves, delay, step, imaging), contrast)
        parts = [
            checkpoint(_through, t, *part, step, imaging, use_reentrant=False)
            for part in zip(waves.split(self.chunk), delay.split(self.chunk), strict=True)
        ]
        return like(torch.cat(parts), contrast)

    def _check(self, contrast: torch.Tensor) -> None:
        if tuple(contrast.shape) != self.in_shape:
            raise ValueError(
                f"contrast is {tuple(contrast.shape)}, the model has voxels {self.in_shape}"
            )
        largest = float(contrast.detach().abs().max())
        if not largest < LARGEST_CONTRAST:
            what = "NaN" if largest != largest else f"values up to {largest:.3g}"
            raise ValueError(
                f"contrast holds {what}: give the index minus that of the medium, "
                f"{self.optics.index}, as finite numbers below {LARGEST_CONTRAST}"
            )

    def _propagators(self, t: torch.Tensor) -> list[torch.Tensor]:
        """Transfer functions from slice to slice, and from the last one to the camera."""
        key = t.dtype, t.device
        if key not in self._transfers:
            light = self._light
            step = light.carry(self.optics.voxel_size[0])
            imaging = light.carry(-float(light.depths[-1])) * light.pupil
            self._transfers[key] = [_complex(transfer, t) for transfer in (step, imaging)]
        return self._transfers[key]

    def _waves(self, t: torch.Tensor) -> torch.Tensor:
        """The plane waves (L, Y, X) as they would be at the first slice without its phase."""
        waves = torch.ones((), dtype=torch.complex128)
        for axis, n in enumerate(self.in_shape[-2:]):
            turns = self._bins[:, axis, None] * torch.arange(n, dtype=torch.float64) / n
            along = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
            waves = waves * along.unsqueeze(2 - axis)
        return _complex(waves, t)


def _through(
    contrast: torch.Tensor,
    wave: torch.Tensor,
    delay: torch.Tensor,
    step: torch.Tensor,
    imaging: torch.Tensor,
) -> torch.Tensor:
    """Carry waves (L, Y, X) through all slices to the camera."""
    index, *absorption = contrast if contrast.ndim == 4 else contrast[None]
    for number, layer in enumerate(index):
        phase = layer * delay
        screen = torch.complex(phase.cos(), phase.sin())
        if absorption:
            screen = screen * torch.exp(-absorption[0][number] * delay)
        wave = torch.fft.fft2(wave * screen)
        wave = torch.fft.ifft2(wave * (imaging if number == len(index) - 1 else step))
    return wave.real.square() + wave.imag.square()


def _complex(wave: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Give `wave` in the precision and on the device of the real `t`."""
    return wave.to(t.device, t.dtype.to_complex())
