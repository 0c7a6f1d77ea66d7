r"""Diffraction tomography: what a camera records behind an index contrast under tilted light.

A transparent object delays light, a coloured one absorbs it too. Each LED of an array sends one
plane wave through it, and a camera records how much light arrives, not its phase. `MultiSlice`
computes the intensities of any object in transmission; `Born` is its linear part, for faint ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.checkpoint import checkpoint

from ..._arrays import ArrayT, like, to_tensor
from .._checks import chosen
from ..diffraction.led_array import Microscope
from ._grids import check_factor, inner, merged, refined
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
        self._delay, self._numbers = self._light.delay, torch.arange(len(self.leds))
        self._factor, self._on_grid = 1, True
        self._transfers: dict = {}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Steps (z, y, x) in um, as `Microscope` has them; wider where they are merged."""
        z, y, x = self.optics.voxel_size
        return z, self._factor * y, self._factor * x

    def select(self, leds: Sequence[int] | np.ndarray | slice) -> MultiSlice:
        """Give the model of some LEDs: their numbers, a mask or a slice."""
        leds = chosen(leds, len(self.leds), "LEDs")
        part = copy.copy(self)
        part.leds, part.bright = self.leds[leds], self.bright[leds]
        part._numbers, part._delay = self._numbers[leds], self._delay[leds]
        part.out_shape = (len(part.leds), *self.out_shape[1:])
        return part

    def coarsened(self, factor: int) -> MultiSlice:
        """The same fields of view on voxels and pixels `factor` times as wide; depth is left.

        A voxel holds the contrast in its middle, a pixel the mean of those that are merged. What
        this model makes of an object without finer detail is seen by the same camera, so the
        images are right also where merged pixels alone would not carry the light: each wave is
        followed as its difference from the direct light.

        Raises
        ------
        ValueError
            A factor that is no whole number, or sizes that do not divide by it; a model that is a
            `block`.
        """
        if self.in_shape[-2:] != self.out_shape[1:]:
            raise ValueError("this is a block of a model: coarsen the whole one")
        rows, columns = self.in_shape[-2:]
        factor = check_factor(factor, (rows, columns))
        return self._on((rows // factor, columns // factor), self._factor * factor)

    def block(self, size: Sequence[int], energy: float = 0.99) -> MultiSlice:
        """The model of a part of `size` pixels of the images, and of the voxels that it sees.

        Parameters
        ----------
        size : (int, int)
            Height and width of the part. The part of the volume is larger at each side by the
            reach of a point, and has the same centre. The LEDs stay where they are.
        energy : float
            Share of the scattered light that must come from within the reach, for each LED and
            slice; see `Born.block`.

        Notes
        -----
        A fit by blocks takes the medium to lie beyond the volume, where the whole model repeats:
        the field must start near zero, or its own border scatters.

        Raises
        ------
        ValueError
            A share that is not between 0 and 1; a model that is coarse.
        """
        if self._factor > 1:
            raise ValueError("the model is coarse: take the block first")
        size = (int(size[0]), int(size[1]))
        halo = self._on(self.in_shape[-2:], 1)._light.reach(energy)
        part = self._on((size[0] + 2 * halo, size[1] + 2 * halo), 1)
        part.out_shape = (len(self.leds), *size)
        return part

    def _on(self, lateral: tuple[int, int], factor: int) -> MultiSlice:
        """The model on another lateral grid, its LEDs where they are and not where it has waves."""
        part, depths = copy.copy(self), self.depths
        part._light = Illumination(
            self.optics, self.leds, (len(depths), *lateral), float(depths.mean()), False, factor
        )
        part._factor, part._on_grid, part._transfers = factor, False, {}
        part._numbers = torch.arange(len(self.leds))
        part.in_shape = (*self.in_shape[:-2], *lateral)
        part.out_shape = (len(self.leds), *lateral)
        return part

    def __call__(self, contrast: ArrayT) -> ArrayT:
        """Intensities (L, Y, X) of the contrast (Z, Y, X) or (2, Z, Y, X); differentiable."""
        t: torch.Tensor = to_tensor(contrast)
        self._check(t)
        each = [self._waves(t), self._delay.to(t)[:, None, None], *self._propagators(t)]
        through = partial(_through, factor=self._factor)
        if self.chunk is None:
            images = through(t, *each)
        else:
            parts = [x.expand(len(self.leds), -1, -1).split(self.chunk) for x in each]
            images = torch.cat(
                [checkpoint(through, t, *p, use_reentrant=False) for p in zip(*parts, strict=True)]
            )
        return like(inner(images, self.out_shape[1:]), contrast)

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
        """Transfer functions (1 or L, Y, X) from slice to slice, and from the last to the camera.

        Off the grid they are those of each LED, at the frequencies from its own.
        """
        key = t.dtype, t.device
        if key not in self._transfers:
            light, dz = self._light, self.optics.voxel_size[0]
            seen = [(light.axial, light.pupil)]
            if not self._on_grid:
                seen = [light.seen_from(number) for number in range(len(light.leds))]
            self._transfers[key] = [
                torch.stack([_complex(make(*each), t) for each in seen])
                for make in (
                    lambda up, pupil: light.carry(dz, up),
                    lambda up, pupil: light.carry(-float(light.depths[-1]), up) * pupil,
                )
            ]
        if self._on_grid:
            return self._transfers[key]
        return [transfer[self._numbers] for transfer in self._transfers[key]]

    def _waves(self, t: torch.Tensor) -> torch.Tensor:
        """The plane waves (L, Y, X) as they would be at the first slice without its phase.

        Off the grid they are one: what follows is the difference from them.
        """
        if not self._on_grid:
            return _complex(torch.ones(len(self.leds), 1, 1), t)
        waves = torch.ones((), dtype=torch.complex128)
        for axis, n in enumerate(self.in_shape[-2:]):
            bins = self._light.bins[self._numbers, axis, None]
            turns = bins * torch.arange(n, dtype=torch.float64) / n
            along = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
            waves = waves * along.unsqueeze(2 - axis)
        return _complex(waves, t)


def _through(
    contrast: torch.Tensor,
    wave: torch.Tensor,
    delay: torch.Tensor,
    step: torch.Tensor,
    imaging: torch.Tensor,
    factor: int,
) -> torch.Tensor:
    """Carry waves (L, Y, X) through all slices to the camera, whose pixels are then merged."""
    index, *absorption = contrast if contrast.ndim == 4 else contrast[None]
    for number, layer in enumerate(index):
        phase = layer * delay
        screen = torch.complex(phase.cos(), phase.sin())
        if absorption:
            screen = screen * torch.exp(-absorption[0][number] * delay)
        spectrum = torch.fft.fft2(wave * screen)
        last = number == len(index) - 1
        spectrum = refined(spectrum * imaging, factor) if last else spectrum * step
        wave = torch.fft.ifft2(spectrum)
    return merged(wave.real.square() + wave.imag.square(), factor)


def _complex(wave: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Give `wave` in the precision and on the device of the real `t`."""
    return wave.to(t.device, t.dtype.to_complex())
