"""A transmission microscope with an LED array for a condenser: its numbers, its light, its grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..._arrays import to_tensor
from ...optics.waves import axial, directions
from ._grids import reach


@dataclass(frozen=True)
class Microscope:
    """Wavelength, objective, medium and voxels.

    Parameters
    ----------
    wavelength : float
        In vacuum, in um.
    na : float
        Numerical aperture of the objective.
    index : float
        Refractive index of the medium around the object.
    voxel_size : (float, float, float)
        (z, y, x) in um. Laterally at most ``wavelength / (2 na)``, for the field; an intensity has
        details twice as fine, see `Born`.

    Raises
    ------
    ValueError
        A length that is not positive, an aperture that the medium does not let through, or pixels
        too large.

    Examples
    --------
    >>> round(Microscope().focal_depth, 2)
    3.14
    """

    wavelength: float = 0.532
    na: float = 0.65
    index: float = 1.33
    voxel_size: tuple[float, float, float] = (0.5, 0.2, 0.2)

    def __post_init__(self) -> None:
        if len(self.voxel_size) != 3:
            raise ValueError(f"voxel_size is {self.voxel_size}: give (z, y, x) in um")
        if not all(math.isfinite(v) and v > 0 for v in (self.wavelength, *self.voxel_size)):
            raise ValueError(
                f"wavelength is {self.wavelength} and voxel_size {self.voxel_size}: "
                "give positive lengths in um"
            )
        if not 0 < self.na < self.index:
            raise ValueError(
                f"na is {self.na} in a medium of index {self.index}: it must lie between 0 and that"
            )
        largest = self.wavelength / (2 * self.na)
        if max(self.voxel_size[1:]) > largest:
            raise ValueError(
                f"pixels are {max(self.voxel_size[1:])} um: the field of an objective with na "
                f"{self.na} needs {largest:.3g} um or less, see Ptychography for a coarser camera"
            )

    @property
    def focal_depth(self) -> float:
        """Smallest period along the axis that vertical light alone could show, in um."""
        return self.wavelength / (self.index - math.sqrt(self.index**2 - self.na**2))


def spiral(n_leds: int, na: float) -> np.ndarray:
    """Directions that fill the disc of radius `na` evenly, from the centre to the rim.

    Parameters
    ----------
    n_leds : int
        Their number.
    na : float
        Radius of the disc. A little below the aperture of the objective it keeps the direct light
        of every LED.

    Returns
    -------
    (n_leds, 2) array
        (y, x) directions ``n sin(theta)``.

    Examples
    --------
    >>> spiral(20, 0.6).shape
    (20, 2)
    """
    _check_layout(n_leds, na)
    i = np.arange(n_leds)
    radius = na * np.sqrt((i + 0.5) / n_leds)
    angle = i * math.pi * (3 - math.sqrt(5))  # the golden angle: no two turns line up
    return radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def ring(n_leds: int, na: float) -> np.ndarray:
    """Directions on the circle of radius `na`, evenly spaced.

    Parameters and result are those of `spiral`. A ring just inside the objective's aperture shows
    coarse phase best :cite:p:`li2019`.

    Examples
    --------
    >>> ring(8, 0.5)[1].round(3).tolist()
    [0.354, 0.354]
    """
    _check_layout(n_leds, na)
    angle = 2 * math.pi * np.arange(n_leds) / n_leds
    return na * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def rings(n_leds: int, na: float, share: float = 0.7) -> np.ndarray:
    """Directions on two circles: a `share` on that of radius `na`, the others at 0.55 of it.

    Parameters and result are otherwise those of `spiral`. The outer circle shows coarse phase, the
    inner one what lies along the axis.

    Examples
    --------
    >>> import numpy as np
    >>> np.unique(np.hypot(*rings(20, 0.6).T).round(2), return_counts=True)
    (array([0.33, 0.6 ]), array([ 6, 14]))
    """
    _check_layout(n_leds, na)
    outer = max(1, round(share * n_leds))
    if outer == n_leds:
        return ring(n_leds, na)
    return np.concatenate([ring(outer, na), ring(n_leds - outer, 0.55 * na)])


def square_spiral(n_leds: int) -> np.ndarray:
    """Numbers of the LEDs of a square array that are lit one after the other from its middle.

    Parameters
    ----------
    n_leds : int

    Returns
    -------
    (n_leds, 2) array of int
        (row, column) of each LED, counted from the first: one step along +x, one along +y, two
        back, and so on. Times the pitch they are places for `led_directions`. Used in
        :doc:`/book/inr/10_measured_leds`.

    Raises
    ------
    ValueError
        No LED.

    Examples
    --------
    >>> square_spiral(5).tolist()
    [[0, 0], [0, 1], [1, 1], [1, 0], [1, -1]]
    """
    if n_leds < 1:
        raise ValueError(f"n_leds is {n_leds}: give one LED or more")
    steps: list[tuple[int, int]] = [(0, 0)]
    run, (row, column) = 1, (0, 1)
    while len(steps) < n_leds:
        for _ in range(2):
            steps += run * [(row, column)]
            row, column = column, -row
        run += 1
    return np.cumsum(steps[:n_leds], axis=0)


class Illumination:
    """Plane waves of LEDs on the frequencies of a grid, with what the models need of that grid.

    Parameters
    ----------
    optics : Microscope
        Wavelength, aperture, medium and voxels.
    leds : (L, 2) array
        (y, x) directions ``n sin(theta)``. They are moved to the nearest frequencies of the grid,
        so that the waves repeat at its border as everything else does; those inside the aperture
        stay inside.
    shape : (int, int, int)
        Voxels (Z, Y, X).
    middle : float
        Depth of the middle of the volume from the focus, in um along the light.
    on_grid : bool
        False: leave the LEDs where they are. Their waves then do not repeat at the border.
    factor : int
        Pixels of `optics` along one of `shape`.

    Attributes
    ----------
    bins : (L, 2) tensor of int
        Frequency of each LED in cycles per field.
    leds : (L, 2) tensor
        The directions after the move.
    depths : (Z,) tensor
        Of the slices, in um from the focus.
    q_squared, axial : (Y, X) tensor
        Of each frequency, and ``sqrt(n^2 - q^2)``, zero where it is evanescent.
    pupil : (Y, X) tensor
        One inside the objective's aperture.
    delay : (L,) tensor
        Radians for each unit of contrast in one slice; a tilted path is longer.

    Raises
    ------
    ValueError
        Directions that the medium or the grid does not carry, a shape that is not (Z, Y, X).
    """

    def __init__(
        self,
        optics: Any,
        leds: ArrayLike,
        shape: Sequence[int],
        middle: float = 0.0,
        on_grid: bool = True,
        factor: int = 1,
    ) -> None:
        leds = to_tensor(leds, device="cpu", dtype=torch.float64)
        shape = tuple(int(n) for n in shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape is {shape}: give the voxels (Z, Y, X)")
        if leds.ndim != 2 or leds.shape[1] != 2 or len(leds) == 0:
            raise ValueError(f"leds have shape {tuple(leds.shape)}: give (L, 2), (y, x) directions")
        if not bool(torch.isfinite(leds).all()):
            raise ValueError("leds hold NaN or infinity: give directions n sin(theta)")
        self.optics, self.shape = optics, shape
        wavelength, (dz, *pixel) = optics.wavelength, optics.voxel_size
        limit = wavelength / (2 * max(pixel))
        pixel = [factor * step for step in pixel]
        each = [wavelength / (n * d) for n, d in zip(shape[1:], pixel, strict=True)]
        steps = torch.tensor(each, dtype=torch.float64)
        # to the nearest frequency; but what is inside the aperture must not leave it
        bins = torch.round(leds / steps)
        leaves = (leds.norm(dim=1) <= optics.na) & ((bins * steps).norm(dim=1) > optics.na)
        self.bins = torch.where(leaves[:, None], torch.trunc(leds / steps), bins).long()
        self.leds = self.bins * steps if on_grid else leds
        steepest = float(self.leds.norm(dim=1).max())
        if steepest >= optics.index or float(self.leds.abs().max()) >= limit:
            raise ValueError(
                f"an LED lies at {steepest:.3g}: the medium carries directions below "
                f"{optics.index}, the pixels below {limit:.3g} along an axis"
            )
        self.depths = (torch.arange(shape[0], dtype=torch.float64) - (shape[0] - 1) / 2) * dz
        self.depths = self.depths + float(middle)
        qy, _ = directions(shape[1:], pixel[0], wavelength)
        _, qx = directions(shape[1:], pixel[1], wavelength)
        self._q, self.q_squared = (qy, qx), qy**2 + qx**2
        self.axial = axial(self.q_squared, optics.index)
        self.pupil = self._inside(self.q_squared)
        self.delay = 2 * math.pi / wavelength * dz * optics.index / self.led_axial

    @property
    def led_axial(self) -> torch.Tensor:
        """(L,) ``sqrt(n^2 - q^2)`` of each LED."""
        return axial(self.leds.square().sum(1), self.optics.index)

    @property
    def bright(self) -> torch.Tensor:
        """(L,) bool: whether the direct light of each LED enters the objective."""
        return self._inside(self.leds.square().sum(1)) > 0

    def seen_from(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`axial` and `pupil` (Y, X) at the frequencies moved by the direction of an LED."""
        (y, x), (qy, qx) = self.leds[number].tolist(), self._q
        squared = (qy + y) ** 2 + (qx + x) ** 2
        return axial(squared, self.optics.index), self._inside(squared)

    def scattered(self, number: int) -> torch.Tensor:
        """Light of a point in each slice behind the pupil, (Z, Y, X) frequencies from an LED's."""
        shifted, pupil = self.seen_from(number)  # w(q_m + q), P(q_m + q)
        beat = 2 * math.pi / self.optics.wavelength * (self.led_axial[number] - shifted)
        return torch.exp(1j * self.depths[:, None, None] * beat) * pupil

    def reach(self, energy: float) -> int:
        """Pixels around a point that hold a share of the energy of what each LED scatters there."""
        if not 0 < energy < 1:
            raise ValueError(f"energy is {energy}: give a share between 0 and 1, such as 0.99")
        return max(reach(self.scattered(number), energy) for number in range(len(self.leds)))

    def _inside(self, q_squared: torch.Tensor) -> torch.Tensor:
        """One inside the objective's aperture."""
        return (q_squared <= self.optics.na**2 * (1 + 1e-9)).double()

    def carry(self, distance: float, up: torch.Tensor | None = None) -> torch.Tensor:
        """Transfer function (Y, X) of free propagation over `distance` um; `up` is `axial`."""
        up = self.axial if up is None else up
        return torch.polar((up > 0).double(), 2 * math.pi / self.optics.wavelength * distance * up)


def _check_layout(n_leds: int, na: float) -> None:
    if n_leds < 1 or not na >= 0:
        raise ValueError(f"n_leds is {n_leds} and na {na}: give one LED or more, na from 0 on")
