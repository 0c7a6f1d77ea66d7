"""The Fourier light-field microscope: optics, point spread functions, and the linear operator."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np

from ..arrays import is_tensor, like, to_tensor
from ..optics import axial, directions, propagate


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

    def __post_init__(self):
        if not 0 < self.numerical_aperture < self.index:
            raise ValueError(
                f"numerical aperture {self.numerical_aperture} with index {self.index}: "
                "it must lie between 0 and the index"
            )

    @property
    def objective_focal_mm(self):
        """Focal length of the objective."""
        return self.tube_focal_mm / self.magnification

    @property
    def pupil_magnification(self):
        """Size of the pupil at the microlenses over its size in the objective."""
        return self.relay_focal_mm / self.tube_focal_mm

    @property
    def lens_offset(self):
        """Pitch of the microlenses in the pupil, in units of numerical aperture."""
        return self.pitch_mm / (self.objective_focal_mm * self.pupil_magnification)

    @property
    def lens_radius(self):
        """Numerical aperture of one view."""
        return self.lens_offset / 2

    @property
    def total_magnification(self):
        """From the object to the camera."""
        return self.lens_focal_mm / (self.objective_focal_mm * self.pupil_magnification)

    @property
    def voxel_size(self):
        """A camera pixel in the object, in micrometres."""
        return 1000 * self.pitch_mm / self.lens_pixels / self.total_magnification


def lens_centres(views="hex7"):
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


def psf(optics, depths, n_pixels, views="hex7", path="sub_pupil"):
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
    import torch

    if path not in ("sub_pupil", "full"):
        raise ValueError(f"path is {path!r}: use 'sub_pupil' or 'full'")
    depths = torch.as_tensor(np.atleast_1d(np.asarray(depths, dtype=float)))
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
        return _through_array(optics, depths, n_pixels, lens_centres(views))
    qy, qx = directions(n_pixels, optics.voxel_size, optics.wavelength)
    inside = qy**2 + qx**2 < optics.lens_radius**2
    h = torch.empty((len(centres), len(depths), n_pixels, n_pixels))
    energy = 0.0
    for image, (cy, cx) in zip(h, centres, strict=True):
        pupil, phase = _pupil(optics, (qy + cy) ** 2 + (qx + cx) ** 2)
        amplitude = pupil * inside
        energy += float((amplitude**2).sum())
        field = amplitude * torch.exp(1j * phase * depths[:, None, None])
        field = torch.fft.fftshift(torch.fft.ifft2(field), (-2, -1))
        image[:] = field.abs() ** 2 * n_pixels**2
    return (h / energy).numpy()


def _pupil(optics, q_squared):
    """Amplitude of a point emitter in the pupil, and its phase for each micrometre of depth."""
    import torch

    cosine = axial(q_squared, optics.index)
    inside = q_squared < optics.numerical_aperture**2
    amplitude = inside.double()
    if optics.apodized:
        amplitude[inside] = (optics.index / cosine[inside]).sqrt()
    return amplitude, 2 * torch.pi / optics.wavelength * cosine


def _through_array(optics, depths, n_pixels, centres):
    """PSF by the whole field: pupil times microlenses, carried to the camera, cut into views."""
    import torch
    from scipy.fft import next_fast_len

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


def _window(image, centre, size, margin=16):
    """Cut a window whose pixel ``size // 2`` is at `centre`, between pixels if need be."""
    import torch

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


class LightField:
    r"""Views of a volume: each depth convolved with its point spread function, and summed.

    Parameters
    ----------
    psf : array or tensor (V, Z, P, Q)
        As from `psf`. Its dtype and device are those of the operator.
    shape : (int, int), optional
        Height and width of the volume; default, those of the PSF.
    view_shape : (int, int), optional
        Height and width of each view; default, those of the volume. A view larger than the
        volume records the light that parallax moves out of the volume's own window. Volume,
        views and PSF share their centre pixel, ``n // 2``.
    voxel_size : (float, float, float), optional
        (z, y, x) in micrometres, for priors that need it. Default: unknown, taken as cubes.

    Attributes
    ----------
    in_shape, out_shape : tuple of int
        (Z, Y, X) and (V, Y', X').
    psf : tensor
    sensitivity : tensor (Z, Y, X)
        ``adjoint(1)``: the share of each voxel's light that the views catch.

    Raises
    ------
    ValueError
        A PSF that is not four-dimensional, has NaN, negative values or no energy; sizes below 1.

    Notes
    -----
    .. math:: y_v = \sum_z h_{v,z} * f_z, \qquad (A^\top r)_z = \sum_v \tilde h_{v,z} * r_v

    with :math:`\tilde h` the PSF turned by 180 degrees. The transforms of the PSF are kept, so a
    call costs one batched FFT of the volume and one of the views, on a grid just large enough
    that nothing wraps around. Derived in :doc:`/book/inr/02_deconvolve`.

    Examples
    --------
    >>> op = LightField(psf(Optics(), [-1.0, 0.0, 1.0], 32), shape=(20, 20))
    >>> op.in_shape, op.out_shape
    ((3, 20, 20), (7, 20, 20))
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(LightField(op.psf.double(), shape=(20, 20))) < 1e-10
    True
    """

    def __init__(self, psf, shape=None, view_shape=None, voxel_size=None):
        import torch

        h = to_tensor(psf)
        if h.ndim != 4:
            raise ValueError(f"the PSF has shape {tuple(h.shape)}: give (views, depths, Y, X)")
        if not bool((h >= 0).all()):
            raise ValueError("the PSF has NaN or negative values: an intensity has neither")
        if not bool((h.sum((1, 2, 3)) > 0).all()):
            raise ValueError("a view of the PSF has no energy: leave that view out")
        shape = tuple(h.shape[-2:]) if shape is None else tuple(int(n) for n in shape)
        view_shape = shape if view_shape is None else tuple(int(n) for n in view_shape)
        if len(shape) != 2 or len(view_shape) != 2 or min(*shape, *view_shape) < 1:
            raise ValueError(f"shape {shape}, view_shape {view_shape}: give (height, width) each")
        self.psf = h
        self.voxel_size = None if voxel_size is None else tuple(map(float, voxel_size))
        self.in_shape = (h.shape[1], *shape)
        self.out_shape = (h.shape[0], *view_shape)
        kernels, self._grid = h, []
        for axis, n, m in zip((-2, -1), shape, view_shape, strict=True):
            kernels, length = _wrap(kernels, axis, n, m)
            self._grid.append(length)
        self._otf = torch.fft.rfft2(kernels)
        self._sensitivity = None

    @property
    def sensitivity(self):
        """Share of each voxel's light that the views catch, a tensor (Z, Y, X)."""
        if self._sensitivity is None:
            self._sensitivity = self.adjoint(self.psf.new_ones(self.out_shape))
        return self._sensitivity

    def __call__(self, x):
        """Views (..., V, Y', X') of the volume `x` (..., Z, Y, X)."""
        import torch

        t = self._checked(x, self.in_shape, "volume")
        spectra = self._fft(t)
        # one view at a time: the product of a view stays in the cache, that of all does not
        views = self._ifft(torch.stack([(spectra * otf).sum(-3) for otf in self._otf], -3))
        return like(views[..., : self.out_shape[1], : self.out_shape[2]], x)

    def adjoint(self, y):
        """Volume (..., Z, Y, X) into which the views `y` (..., V, Y', X') are smeared back."""
        t = self._checked(y, self.out_shape, "views")
        spectra = self._fft(t)
        pairs = zip(spectra.unbind(-3), self._otf.conj(), strict=True)
        volume = self._ifft(sum(view[..., None, :, :] * otf for view, otf in pairs))
        return like(volume[..., : self.in_shape[1], : self.in_shape[2]], y)

    def to(self, device=None, dtype=None):
        """The same operator with its PSF on another device, or in another precision."""
        psf = self.psf.to(device=device, dtype=dtype)
        if psf is self.psf:
            return self
        return LightField(psf, self.in_shape[1:], self.out_shape[1:], self.voxel_size)

    def select(self, views):
        """The operator of some of the views, such as ``[0, 1, 3]``."""
        part, views = copy.copy(self), list(views)
        part.psf, part._otf = self.psf[views], self._otf[views]
        part.out_shape = (len(part.psf), *self.out_shape[1:])
        part._sensitivity = None
        return part

    def _fft(self, t):
        import torch

        return torch.fft.rfft2(t, s=self._grid)

    def _ifft(self, spectrum):
        import torch

        return torch.fft.irfft2(spectrum, s=self._grid)

    def _checked(self, x, shape, name):
        t = to_tensor(x, self.psf.device, self.psf.dtype if not is_tensor(x) else None)
        if tuple(t.shape[-3:]) != shape:
            raise ValueError(f"{name} {tuple(t.shape)}: this operator expects (..., {shape})")
        return t


def _wrap(kernels, axis, n, m):
    """Prepare one axis of the kernels for a circular convolution from n voxels to m pixels.

    Only displacements that lead from a voxel to a pixel are kept; the grid is just long enough that
    no other displacement is a wrapped copy of these; the voxel n // 2 falls on the pixel m // 2.
    """
    import torch
    from scipy.fft import next_fast_len

    size = kernels.shape[axis]
    centre, shift = size // 2, m // 2 - n // 2
    back = min(centre, n - 1 + shift)
    on = min(size - 1 - centre, m - 1 - shift)
    length = next_fast_len(max(n, m, m - shift + back, n + shift + on), real=True)
    kernels = kernels.narrow(axis, centre - back, back + on + 1)
    missing = length - kernels.shape[axis]
    pad = (0, missing) if axis == -1 else (0, 0, 0, missing)
    return torch.nn.functional.pad(kernels, pad).roll(shift - back, axis), length


# At the end: these modules import nothing from here, and users look for the solvers here.
from .deconvolve import richardson_lucy, view_enhanced  # noqa: E402, F401
