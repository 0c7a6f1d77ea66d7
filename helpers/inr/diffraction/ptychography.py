r"""Fourier ptychography: a thin object under an LED array, seen by a camera too coarse for it.

Each LED moves another part of the object's spectrum into the aperture of the objective. The images
together cover a part that no single one could carry.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..._arrays import Array, ArrayT, Device, is_tensor, like, to_numpy, to_tensor
from ...optics._zernike import noll_to_osa, zernike
from .._checks import chosen
from ._grids import check_factor, coarser, inner, merged, refined

ABERRATIONS = range(4, 16)  # Noll's numbers: all after piston and tilts, up to the fourth order
OF_EACH_LED = ("leds", "gains", "background")


class Ptychography:
    r"""Intensities of a thin object under an LED array, with a pupil that may be unknown.

    Parameters
    ----------
    leds : (L, 2) array
        (y, x) directions ``n sin(theta)`` of the light of each LED, as `led_directions` gives
        them. Those beyond `na` make dark-field images.
    shape : (int, int)
        Camera pixels (Y, X).
    wavelength : float
        In vacuum, in um.
    na : float
        Numerical aperture of the objective.
    pixel_size : float
        Of the camera, in um on the object; a little below ``wavelength / (2 na)`` or less.
    finer : int
        Object pixels along one camera pixel.
    margin : int
        Camera pixels of the object on each side that lie outside the image. The model's field
        repeats at its border, an object does not: a few pixels keep the two apart.

    edge : float
        Width of the aperture's rim over which the pupil falls from one to zero, as a share of
        `na`; at least one frequency of the field. A real rim vignettes.

    Attributes
    ----------
    in_shape, out_shape : tuple of int
        Real and imaginary part of the object with its margins, (2, `finer` (Y + 2 `margin`), ...),
        and (L, Y, X).
    leds : (L, 2) tensor
    bright : (L,) bool tensor
        Whether the direct light of each LED enters the objective.
    object_pixel : float
        Size of a pixel of the object, in um; wider where the model is coarse.
    aperture : (P, Q) array
        Share of each frequency of the pupil's grid that lies inside the aperture. The directions
        of the grid are ``frequencies``, two arrays.

    Raises
    ------
    ValueError
        Pixels too large for the aperture or an object grid too coarse for the steepest LED, both
        with what would do; NaN, or shapes that do not fit.

    Notes
    -----
    With the transmission :math:`t` and its spectrum :math:`\hat t`, the light of LED :math:`m`
    comes from the direction :math:`q_m` and

    .. math:: I_m(r) = g_m \left| \mathcal F^{-1} \left\{ P(q)\, \hat t(q - q_m) \right\}
        \right|^2 + b_m, \qquad P(q) = e^{i \phi(q)} \text{ for } |q| \le \mathrm{NA} .

    It is called with :math:`t - 1`, so zero is an empty slide. Only the part of the spectrum
    inside the aperture is transformed, on the camera's grid. LEDs stay where they are: the whole
    part of :math:`q_m` in frequencies of the field moves the spectrum, the rest moves the pupil,
    whose rim is one frequency wide.

    ``parameters()`` are "leds"; "aberration", radians RMS of the Zernike polynomials with Noll's
    numbers 4 to 15; "pupil" and "absorption", further phase in radians and minus the logarithm of
    the amplitude, on the grid of `aperture`; "gains" and
    "background" of each LED, in units of the bright field. What no image shows is left as it was:
    piston and tilt of the pupil move the object. A common shift of all LEDs tilts it; that of an
    object lit from the front is none, and so the direct light tells it. And
    the array turned by 180 degrees, :math:`q_m \to -q_m`, shows the conjugate of the object through
    the pupil's phase :math:`-\phi(-q)`.

    Derived in :doc:`/book/inr/10_measured_leds`; due to :cite:t:`zheng2013`, with the pupil
    :cite:t:`ou2014`.

    Examples
    --------
    >>> model = Ptychography(
    ...     [[0, 0], [0, 0.3]], (32, 32), wavelength=0.5, na=0.2, pixel_size=1.0, finer=3)
    >>> model(np.zeros(model.in_shape)).mean((1, 2)).round(6).tolist()
    [1.0, 0.0]
    """

    def __init__(
        self,
        leds: ArrayLike | torch.Tensor,
        shape: Sequence[int],
        *,
        wavelength: float,
        na: float,
        pixel_size: float,
        finer: int = 3,
        margin: int = 0,
        edge: float = 0.0,
    ) -> None:
        lengths = {"wavelength": wavelength, "na": na, "pixel_size": pixel_size}
        for name, value in lengths.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: give a number above zero, lengths in um")
        if finer != int(finer) or finer < 1:
            raise ValueError(
                f"finer is {finer}: give object pixels along a camera pixel, 1 or more"
            )
        camera = tuple(int(n) for n in shape)
        if len(camera) != 2 or min(camera) < 8:
            raise ValueError(f"shape is {shape}: give the camera pixels (Y, X), 8 or more")
        if margin != int(margin) or margin < 0:
            raise ValueError(f"margin is {margin}: give whole camera pixels, 0 or more")
        self.wavelength, self.na, self.pixel_size = float(wavelength), float(na), float(pixel_size)
        self.finer, self.object_pixel = int(finer), float(pixel_size) / int(finer)
        directions = _directions(leds)
        self._factor = 1
        self.margin, self._field = int(margin), tuple(n + 2 * int(margin) for n in camera)
        self.in_shape = (2, *(n * self.finer for n in self._field))
        self.out_shape = (len(directions), *camera)
        steps = [self.wavelength / (n * self.pixel_size) for n in self._field]
        self._step = torch.tensor(steps, dtype=torch.float64)
        if not 0 <= edge < 1:
            raise ValueError(f"edge is {edge}: give the width of the rim as a share of na, below 1")
        self.edge = max(float(edge) * self.na, float(self._step.max()))
        outer = self.na + self.edge / 2
        self._half = [math.ceil(outer / float(step)) + 1 for step in self._step]
        self._check_reach(directions)
        grid = [torch.arange(-half, half + 1).double() for half in self._half]
        self.frequencies = tuple(
            to_numpy(k * step) for k, step in zip(grid, self._step, strict=True)
        )
        size = tuple(len(k) for k in grid)
        self._zernikes = torch.stack(
            [self._zernike(noll) for noll in range(1, ABERRATIONS.stop)]
        ).reshape(-1, *size)
        self._values: dict[str, torch.Tensor] = {
            "leds": directions,
            "aberration": torch.zeros(len(ABERRATIONS), dtype=torch.float64),
            "pupil": torch.zeros(size, dtype=torch.float64),
            "absorption": torch.zeros(size, dtype=torch.float64),
            "gains": torch.ones(len(directions), dtype=torch.float64),
            "background": torch.zeros(len(directions), dtype=torch.float64),
        }
        rim = self._rim(torch.zeros(1, 2, dtype=torch.float64))[0]
        self.aperture, self._inside = to_numpy(rim), rim > 0
        # the same, orthonormal, for the points inside: what free phase leaves to other numbers
        self._taken = torch.linalg.qr(self._zernikes[:, self._inside].T).Q

    @property
    def leds(self) -> torch.Tensor:
        """(L, 2) directions."""
        return self._values["leds"]

    @property
    def bright(self) -> torch.Tensor:
        """(L,) bool: whether the direct light of each LED enters the objective."""
        return self.leds.detach().norm(dim=1) <= self.na

    @property
    def phase(self) -> np.ndarray:
        """(P, Q) phase of the pupil in radians, on the grid of `aperture`."""
        return to_numpy(self._phase(torch.float64).detach() * (to_tensor(self.aperture) > 0))

    @property
    def of_each_view(self) -> tuple[str, ...]:
        """Names of the numbers that each LED has of its own."""
        return OF_EACH_LED

    @property
    def learning_steps(self) -> dict[str, float]:
        """Change of each number in a step of a fit that learns it: its unit is its own."""
        return {
            "leds": 0.05 * float(self._step.min()),
            "aberration": 0.03,
            "pupil": 0.03,
            "absorption": 0.03,
            "gains": 0.01,
            "background": 0.002,
        }

    def parameters(self) -> dict[str, torch.Tensor]:
        """The numbers that can be learned or set, by name."""
        return dict(self._values)

    def at(self, values: Mapping[str, ArrayLike | torch.Tensor]) -> Ptychography:
        """The same instrument with other numbers, named as in ``parameters()``."""
        other = copy.copy(self)
        other._values = dict(self._values)
        for name, value in values.items():
            if name not in self._values:
                raise ValueError(f"{name!r} is none of {', '.join(self._values)}")
            here = self._values[name]
            t = to_tensor(value, here.device)
            if t.shape != here.shape or not bool(torch.isfinite(t.detach()).all()):
                raise ValueError(
                    f"{name} has shape {tuple(t.shape)}: give finite numbers {tuple(here.shape)}"
                )
            other._values[name] = t
        if "leds" in values:
            other._check_reach(other.leds.detach())
        return other

    def without_freedom(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A change without what a change of the object would do as well."""
        if name == "gains":
            return value - value.mean()
        if name == "pupil":  # nor what is in the aberration
            flat, taken = value[self._inside], self._taken.to(value)
            found = torch.zeros_like(value)
            found[self._inside] = flat - taken @ (taken.T @ flat)
            return found
        return value

    def select(self, leds: Sequence[int] | np.ndarray | slice) -> Ptychography:
        """The model of some LEDs: their numbers, a mask or a slice."""
        picked = chosen(leds, len(self.leds), "LEDs")
        part = copy.copy(self)
        part._values = {k: v[picked] if k in OF_EACH_LED else v for k, v in self._values.items()}
        part.out_shape = (len(picked), *self.out_shape[1:])
        return part

    def coarsened(self, factor: int) -> Ptychography:
        """The same instrument for an object and images on pixels `factor` times as wide.

        A pixel of the object holds the transmission in its middle, one of the images the mean of
        those that are merged: what this model makes of an object without finer detail, seen by the
        same camera. What an LED shows beyond such detail is dark.

        Raises
        ------
        ValueError
            A factor that is no whole number, or images, object or margin that do not divide by it.
        """
        rows, columns = self.out_shape[1:]
        edge = self.finer * self.margin // self._factor
        factor = check_factor(factor, (rows, columns, *self.in_shape[1:], edge))
        part = copy.copy(self)
        part._factor, part.object_pixel = self._factor * factor, self.object_pixel * factor
        part.in_shape = (2, *(n // factor for n in self.in_shape[1:]))
        part.out_shape = (len(self.leds), rows // factor, columns // factor)
        return part

    def block(self, size: Sequence[int], energy: float = 0.99) -> NoReturn:
        """Refuse: the pupil is known on frequencies of the whole field, and a part has others.

        Nor would a part have the same instrument: seen from there the LEDs lie elsewhere, and
        the lens has other aberrations. Parts are therefore found one by one.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            "Ptychography has no blocks, for every part of the field has a pupil and LEDs of its "
            "own: make a model for each crop, with a margin and its directions, and fit it alone; "
            "or leave out block"
        )

    def to(self, device: Device) -> Ptychography:
        """The same model on another device."""
        moved = copy.copy(self)
        wide = torch.float32 if "mps" in str(device) else torch.float64
        moved._values = {name: value.to(device, wide) for name, value in self._values.items()}
        moved._step, moved._zernikes = (t.to(device, wide) for t in (self._step, self._zernikes))
        moved._taken, moved._inside = self._taken.to(device, wide), self._inside.to(device)
        return moved

    def transmission(self, change: Array) -> np.ndarray:
        """Complex transmission (`finer` Y, `finer` X) of what it is called with, margins cut."""
        real, imaginary = to_numpy(change)
        edge = self.finer * self.margin // self._factor
        rows, columns = (slice(edge, edge + self.finer * n) for n in self.out_shape[1:])
        return (1 + real + 1j * imaginary)[rows, columns]

    def __call__(self, change: ArrayT) -> ArrayT:
        """Intensities (L, Y, X) of the transmission minus one, (2, Y, X); differentiable."""
        t = to_tensor(change)
        if tuple(t.shape) != self.in_shape:
            raise ValueError(
                f"the object is {tuple(t.shape)}, the model has {self.in_shape}: real and "
                "imaginary part of the transmission minus one"
            )
        light = self._at_camera(torch.complex(1 + t[0], t[1]))
        gains, background = (
            self._values[name].to(t)[:, None, None] for name in ("gains", "background")
        )
        intensity = light.real.square() + light.imag.square()
        intensity = inner(intensity, [n - 2 * self.margin for n in self._field])
        return like(merged(gains * intensity + background, self._factor), change)

    def _at_camera(self, transmission: torch.Tensor) -> torch.Tensor:
        """Fields (L, Y, X) of camera pixels with margins, up to a phase that no camera sees."""
        spectrum = refined(torch.fft.fft2(transmission) / self.finer**2, self._factor)
        rows, columns, rest = self._windows(transmission.device)
        part = spectrum[rows[:, :, None], columns[:, None, :]]
        real = transmission.real.dtype
        inner = torch.exp(-self._values["absorption"].to(rest.device, real))
        phase = self._phase(real)
        # parts of the complex pupil, which does not jump where its phase does
        parts = torch.stack([inner * phase.cos(), inner * phase.sin()])
        cosine, sine = _between(parts, rest.to(real))
        rim = self._rim(rest).to(real)
        return torch.fft.ifft2(part * torch.complex(rim * cosine, rim * sine), s=self._field)

    def _windows(self, device: Device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows (L, P) and columns (L, Q) of the spectrum in the aperture, and parts (L, 2)."""
        place = self.leds.to(device) / self._step.to(device)
        whole = place.detach().floor()
        rows, columns = (
            (torch.arange(-half, half + 1, device=device) - w[:, None]).long() % (self.finer * n)
            for half, w, n in zip(self._half, whole.T, self._field, strict=True)
        )
        return rows, columns, place - whole

    def seen(self) -> torch.Tensor:
        """Number of LEDs (Y, X) that show each frequency of the object, in the order of the FFT."""
        rows, columns, rest = self._windows(self.leds.device)
        rim = self._rim(rest).square()
        at = rows[:, :, None].expand(rim.shape), columns[:, None, :].expand(rim.shape)
        whole = rim.new_zeros([self.finer * n for n in self._field])
        return coarser(whole.index_put_(at, rim, accumulate=True), self._factor)

    def _phase(self, dtype: torch.dtype) -> torch.Tensor:
        """Phase (P, Q) of the pupil."""
        numbers, free = (self._values[name].to(dtype) for name in ("aberration", "pupil"))
        basis = self._zernikes[ABERRATIONS.start - 1 :].to(free)
        return torch.einsum("j,jyx->yx", numbers, basis) + free

    def _rim(self, moved: torch.Tensor) -> torch.Tensor:
        """Pupils (L, P, Q), one inside and zero outside, moved by parts (L, 2) of a frequency."""
        y, x = (
            (torch.arange(-half, half + 1, device=moved.device) + part[:, None]) * step
            for half, part, step in zip(self._half, moved.T, self._step.to(moved), strict=True)
        )
        radius = (y[:, :, None] ** 2 + x[:, None, :] ** 2 + 1e-12).sqrt()
        return (0.5 + (self.na - radius) / self.edge).clamp(0, 1)

    def _zernike(self, noll: int) -> torch.Tensor:
        y, x = (torch.from_numpy(k) / self.na for k in self.frequencies)
        flat = torch.ones(len(y), len(x), dtype=torch.float64)
        return zernike(noll_to_osa(noll))(x[None, :], y[:, None]) * flat

    def _check_reach(self, leds: torch.Tensor) -> None:
        """Refuse a camera that is too coarse for the aperture, an object too coarse for an LED."""
        for half, n in zip(self._half, self._field, strict=True):
            if 2 * half + 1 > n:
                largest = self.wavelength / (2 * self.na) * (1 - 4 / n)
                raise ValueError(
                    f"pixels are {self.pixel_size} um: {n} of them carry the field of an objective "
                    f"with na {self.na} up to {largest:.3g} um"
                )
        reach = leds.abs().amax(0).to(self._step) / self._step
        needed = [
            2 * (float(r) + half + 1) / n
            for r, half, n in zip(reach, self._half, self._field, strict=True)
        ]
        if max(needed) > self.finer:
            raise ValueError(
                f"finer is {self.finer}: light from {float(leds.abs().max()):.3g} needs an object "
                f"{math.ceil(max(needed))} times finer than the camera"
            )


def led_directions(positions: ArrayLike, distance: float, *, index: float = 1.0) -> np.ndarray:
    r"""Directions of the light of LEDs at known places.

    Parameters
    ----------
    positions : (L, 2) array
        (y, x) of each LED from the point of the array that is above the object.
    distance : float
        From the array to the object, in the same unit.
    index : float
        Of the medium between them. Flat glass between changes the distance, not the law.

    Returns
    -------
    (L, 2) array
        ``n sin(theta)``. Light from an LED on one side travels to the other, hence the sign,

        .. math:: q = -n\, p / \sqrt{p^2 + d^2} .

    Raises
    ------
    ValueError
        Positions that are not (L, 2), or a distance not above zero.

    Examples
    --------
    >>> led_directions([[0, 0], [3, 0]], 4).tolist()
    [[-0.0, -0.0], [-0.6, -0.0]]
    """
    p = to_numpy(_directions(positions))
    if not 0 < distance < math.inf:
        raise ValueError(f"distance is {distance}: give that from the array to the object")
    return -index * p / np.sqrt((p**2).sum(1, keepdims=True) + distance**2)


def _directions(leds: ArrayLike | torch.Tensor) -> torch.Tensor:
    t = to_tensor(leds if is_tensor(leds) else np.asarray(leds, float), "cpu", torch.float64)
    if t.ndim != 2 or t.shape[1] != 2 or not len(t) or not bool(torch.isfinite(t).all()):
        raise ValueError(f"leds have shape {tuple(t.shape)}: give finite (L, 2), (y, x) of each")
    return t


def _between(maps: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Values (K, L, P, Q) of maps between their pixels, moved by parts (L, 2) of a pixel."""
    padded = torch.nn.functional.pad(maps[None], (0, 1, 0, 1), mode="replicate")[0][:, None]
    y, x = moved[:, 0, None, None], moved[:, 1, None, None]
    above = (1 - x) * padded[..., :-1, :-1] + x * padded[..., :-1, 1:]
    below = (1 - x) * padded[..., 1:, :-1] + x * padded[..., 1:, 1:]
    return (1 - y) * above + y * below
