"""The Fourier light-field microscope: optics, point spread functions, and the linear operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.fft import next_fast_len

from ...optics.waves import axial, directions, propagate


@dataclass(frozen=True)
class Optics:
    """A Fourier light-field microscope; the defaults are the published instrument.

    Attributes
    ----------
    numerical_aperture, index : float
        Of the objective and its immersion oil.
    magnification, tube_focal_mm : float
        The objective's focal length is their quotient.
    relay_focal_mm : float
        Fourier lens: it images the back pupil of the objective onto the microlenses.
    lens_focal_mm, pitch_mm : float
        Microlenses: focal length, and pitch, which is also the diameter of their aperture.
    wavelength : float
        Of the emission, in micrometres.
    lens_pixels : int
        Camera pixels across one microlens.
    apodized : bool
        An isotropic emitter seen by an aplanatic objective; False gives a pupil of even amplitude.

    Notes
    -----
    Directions are in units of numerical aperture, ``q = n sin(theta)``. Derived in
    :doc:`/book/inr/01_light_field`; the instrument is that of :cite:t:`guo2019`.

    Examples
    --------
    >>> optics = Optics()
    >>> round(optics.lens_offset, 4), round(optics.lens_radius, 4), round(optics.voxel_size, 4)
    (0.8125, 0.4062, 0.2171)
    """

    numerical_aperture: float = 1.4
    index: float = 1.518
    magnification: float = 100.0
    tube_focal_mm: float = 180.0
    relay_focal_mm: float = 400.0
    lens_focal_mm: float = 120.0
    pitch_mm: float = 3.25
    wavelength: float = 0.510
    lens_pixels: int = 499
    apodized: bool = True

    def __post_init__(self) -> None:
        lengths = "magnification wavelength tube_focal_mm relay_focal_mm lens_focal_mm pitch_mm"
        for name in (*lengths.split(), "lens_pixels"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above zero")
        if self.wavelength > 20:
            raise ValueError(f"wavelength is {self.wavelength} um: are these nanometres?")
        if not 0 < self.numerical_aperture < self.index:
            raise ValueError(
                f"numerical aperture {self.numerical_aperture} with index {self.index}: "
                "it must lie between 0 and the index"
            )

    @property
    def objective_focal_mm(self) -> float:
        """Focal length of the objective."""
        return self.tube_focal_mm / self.magnification

    @property
    def pupil_magnification(self) -> float:
        """Size of the pupil at the microlenses over its size in the objective."""
        return self.relay_focal_mm / self.tube_focal_mm

    @property
    def lens_offset(self) -> float:
        """Pitch of the microlenses in the pupil, in units of numerical aperture."""
        return self.pitch_mm / (self.objective_focal_mm * self.pupil_magnification)

    @property
    def lens_radius(self) -> float:
        """Numerical aperture of one view."""
        return self.lens_offset / 2

    @property
    def total_magnification(self) -> float:
        """From the object to the camera."""
        return self.lens_focal_mm / (self.objective_focal_mm * self.pupil_magnification)

    @property
    def voxel_size(self) -> float:
        """A camera pixel in the object, in micrometres."""
        return 1000 * self.pitch_mm / self.lens_pixels / self.total_magnification


def lens_centres(views: str | ArrayLike = "hex7") -> np.ndarray:
    """Centres of the microlenses in units of their pitch, (V, 2) as (y, x).

    Parameters
    ----------
    views : "hex7", "hex3", or array (V, 2)
        The centre and six around it; three of the outer ones; or coordinates of your own.

    Raises
    ------
    ValueError
        An unknown name, or coordinates that are not pairs.

    Examples
    --------
    >>> lens_centres("hex3").shape
    (3, 2)
    """
    if isinstance(views, str):
        angles = {"hex7": range(0, 360, 60), "hex3": range(0, 360, 120)}.get(views)
        if angles is None:
            raise ValueError(f"views is {views!r}: use 'hex7', 'hex3', or coordinates (V, 2)")
        outer = [(math.sin(math.radians(a)), math.cos(math.radians(a))) for a in angles]
        return np.array([(0.0, 0.0), *outer] if views == "hex7" else outer)
    centres = np.asarray(views, dtype=float)
    if centres.ndim != 2 or centres.shape[1] != 2 or not np.isfinite(centres).all():
        raise ValueError(f"views has shape {centres.shape}: give (V, 2) finite (y, x) in pitches")
    return centres


def psf(
    optics: Optics,
    depths: Sequence[float] | np.ndarray,
    n_pixels: int,
    views: str | ArrayLike = "hex7",
    path: str = "sub_pupil",
) -> np.ndarray:
    r"""Intensity of a point at each depth, in each view.

    Parameters
    ----------
    optics : Optics
    depths : sequence of float
        Distances from the focal plane, in micrometres.
    n_pixels : int
        Side of each image, in pixels of ``optics.voxel_size``; the point is at ``n_pixels // 2``.
    views : "hex7", "hex3", or array (V, 2)
        See `lens_centres`.
    path : "sub_pupil" or "full"
        The Fourier transform of each lens's share of the pupil, or the whole field through the
        microlens array and on to the camera. They agree; the first is fast.

    Returns
    -------
    array (V, Z, Y, X), float32
        Each depth sums to one over all views (before the tails leave the window), so outer views
        keep their true share of the light.

    Raises
    ------
    ValueError
        A lens outside the pupil, pixels too coarse for a view, or, by the full path, a window
        larger than the image of a microlens.

    Notes
    -----
    With q in units of numerical aperture and :math:`c_v` the centre of lens v,

    .. math:: h_v(x; z) = \left| \mathcal F^{-1}_q \left\{ A(q + c_v)\,
        e^{2 \pi i z \sqrt{n^2 - |q + c_v|^2} / \lambda}\, 1[|q| < a] \right\} \right|^2 .

    Derived in :doc:`/book/inr/01_light_field`.

    Examples
    --------
    >>> h = psf(Optics(), [0.0, 1.0], 64)
    >>> h.shape, [round(float(total), 6) for total in h.sum((0, 2, 3))]
    ((7, 2, 64, 64), [1.0, 1.0])
    """
    if path not in ("sub_pupil", "full"):
        raise ValueError(f"path is {path!r}: use 'sub_pupil' or 'full'")
    z = torch.as_tensor(np.atleast_1d(np.asarray(depths, dtype=float)))
    if not z.numel() or not bool(z.isfinite().all()):
        raise ValueError(f"depths are {depths}: give one distance in um or more, each finite")
    if n_pixels != int(n_pixels) or n_pixels < 1:
        raise ValueError(f"n_pixels is {n_pixels}: give a whole number, at least 1")
    centres = optics.lens_offset * lens_centres(views)
    reach = np.hypot(*centres.T).max() + optics.lens_radius
    if reach > optics.numerical_aperture:
        raise ValueError(
            f"a microlens reaches {reach:.3f}, but the pupil ends at "
            f"{optics.numerical_aperture} (units of numerical aperture): move it inwards"
        )
    if optics.lens_radius >= optics.wavelength / (2 * optics.voxel_size):
        raise ValueError(
            f"pixels of {optics.voxel_size:.3f} um are too coarse for views of numerical aperture "
            f"{optics.lens_radius:.3f}: use more lens_pixels"
        )
    if path == "full":
        return _through_array(optics, z, n_pixels, lens_centres(views))
    qy, qx = directions(n_pixels, optics.voxel_size, optics.wavelength)
    inside = qy**2 + qx**2 < optics.lens_radius**2
    h = torch.empty((len(centres), len(z), n_pixels, n_pixels))
    energy = 0.0
    for image, (cy, cx) in zip(h, centres, strict=True):
        pupil, phase = _pupil(optics, (qy + cy) ** 2 + (qx + cx) ** 2)
        amplitude = pupil * inside
        energy += float((amplitude**2).sum())
        field = amplitude * torch.exp(1j * phase * z[:, None, None])
        field = torch.fft.fftshift(torch.fft.ifft2(field), (-2, -1))
        image[:] = field.abs() ** 2 * n_pixels**2
    return (h / energy).numpy()


def _pupil(optics: Optics, q_squared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Amplitude of a point emitter in the pupil, and its phase for each micrometre of depth."""
    cosine = axial(q_squared, optics.index)
    inside = q_squared < optics.numerical_aperture**2
    amplitude = inside.double()
    if optics.apodized:
        amplitude[inside] = (optics.index / cosine[inside]).sqrt()
    return amplitude, 2 * torch.pi / optics.wavelength * cosine


def _through_array(
    optics: Optics, depths: torch.Tensor, n_pixels: int, centres: np.ndarray
) -> np.ndarray:
    """PSF by the whole field: pupil times microlenses, carried to the camera, cut into views."""
    if n_pixels > optics.lens_pixels:
        raise ValueError(
            f"n_pixels is {n_pixels}, but the image of a microlens has {optics.lens_pixels}: on "
            "the camera a larger window shows the next view"
        )
    pitch, focal = 1000 * optics.pitch_mm, 1000 * optics.lens_focal_mm  # in um, as from here on
    pixel = pitch / optics.lens_pixels
    # Room for every view, and enough for the transfer function to be sampled well.
    side = max(2 * np.abs(centres).max() * pitch + 2 * pitch, optics.wavelength * focal / pixel)
    n = 2 * next_fast_len(math.ceil(side / pixel / 2))
    at = (torch.arange(n, dtype=torch.float64) - n // 2) * pixel
    to_na = 1e-3 / (optics.objective_focal_mm * optics.pupil_magnification)
    amplitude, phase = _pupil(optics, (to_na * at[:, None]) ** 2 + (to_na * at) ** 2)
    lenses = torch.zeros((n, n), dtype=torch.complex128)
    for cy, cx in centres * pitch:
        r_squared = (at[:, None] - cy) ** 2 + (at - cx) ** 2
        curved = torch.exp(-1j * torch.pi / (optics.wavelength * focal) * r_squared)
        lenses += curved * (r_squared < (pitch / 2) ** 2)
    h = torch.empty((len(centres), len(depths), n_pixels, n_pixels))
    energy = float(((amplitude * lenses.abs()) ** 2).sum())
    for k, z in enumerate(depths):
        field = amplitude * lenses * torch.exp(1j * phase * z)
        intensity = propagate(field, focal, pixel, optics.wavelength).abs() ** 2
        for v, centre in enumerate(centres * optics.lens_pixels + n // 2):
            # A lens turns its image upside down.
            h[v, k] = _window(intensity, centre, n_pixels + 1).flip(-2, -1)[:n_pixels, :n_pixels]
    return (h.clamp(min=0) / energy).numpy()


def _window(
    image: torch.Tensor, centre: Sequence[float], size: int, margin: int = 16
) -> torch.Tensor:
    """Cut a window whose pixel ``size // 2`` is at `centre`, between pixels if need be."""
    whole = [round(float(c)) for c in centre]
    half = size // 2 + margin
    rows, columns = (slice(c - half, c + half + 1) for c in whole)
    part = image[rows, columns]
    for axis, (c, w) in enumerate(zip(centre, whole, strict=True)):
        # The image has no detail finer than its pixels, so shifting its Fourier phases is exact.
        k = torch.fft.rfftfreq(part.shape[axis], dtype=torch.float64)
        turn = torch.exp(2j * torch.pi * k * float(c - w))
        turn = turn[:, None] if axis == 0 else turn
        part = torch.fft.irfft(torch.fft.rfft(part, dim=axis) * turn, part.shape[axis], dim=axis)
    return part[margin : margin + size, margin : margin + size]
