r"""The coarse camera as an operator: blur, bin, and where its pixels lie on the sharp camera.

Images are transmission :math:`I / I_0`, axes (..., Y, X). Pixel i of the coarse camera covers the
pixels ``scale * i`` to ``scale * i + scale - 1`` of the sharp one (the pixel-centre convention:
``x + 0.5`` scales, not ``x``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch.nn import functional

from .._arrays import in_float32, is_tensor, like, to_numpy, to_tensor

__all__ = ["Transform", "coarsen"]

SCALE = 4  # fine pixels along one coarse pixel of the grid on which the networks work
SIGMA = 2.2  # blur of the coarse camera of the simulated experiments, in sharp pixels
Image = TypeVar("Image", np.ndarray, torch.Tensor)
Number: TypeAlias = float | torch.Tensor
WANTED = {
    "sigma": "of sharp pixels, 0 or more",
    "gain": "above 0",
    "photons": "above 0, or None",
    "offset": "that is finite",
}


class Calibrated(Protocol):
    """Two cameras that `register` knows: a `calibrate.SpatialCalibration`."""

    @property
    def transform(self) -> Transform: ...

    @property
    def hr_shape(self) -> tuple[int, int]: ...

    @property
    def lr_shape(self) -> tuple[int, int]: ...

    def seen(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Transform:
    r"""Map from pixels of the coarse camera to pixels of the sharp one.

    Attributes
    ----------
    theta : float
        Rotation in radians, from x towards y.
    sx, sy : float
        Pixels of the sharp camera for one of the coarse camera, along its own x and y.
    tx, ty : float
        Place of the centre of the coarse pixel (0, 0), in pixels of the sharp camera.

    Notes
    -----
    With coordinates of pixel centres, x before y,

    .. math::

        \begin{pmatrix} x \\ y \end{pmatrix}_\mathrm{HR} =
        \begin{pmatrix} \cos\theta & -\sin\theta \\ \sin\theta & \cos\theta \end{pmatrix}
        \begin{pmatrix} s_x & 0 \\ 0 & s_y \end{pmatrix}
        \begin{pmatrix} x \\ y \end{pmatrix}_\mathrm{LR} +
        \begin{pmatrix} t_x \\ t_y \end{pmatrix} .

    Estimated in :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> Transform()(np.array([[0.0, 0.0], [1.0, 2.0]])).tolist()
    [[1.5, 1.5], [5.5, 9.5]]
    """

    theta: float = 0.0
    sx: float = 4.0
    sy: float = 4.0
    tx: float = 1.5
    ty: float = 1.5

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) array for homogeneous (x, y, 1)."""
        c, s = math.cos(self.theta), math.sin(self.theta)
        return np.array(
            [
                [c * self.sx, -s * self.sy, self.tx],
                [s * self.sx, c * self.sy, self.ty],
                [0.0, 0.0, 1.0],
            ]
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Carry coarse pixel coordinates (..., 2), x before y, to the sharp camera."""
        matrix = self.matrix
        return np.asarray(points, float) @ matrix[:2, :2].T + matrix[:2, 2]

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Carry coordinates (..., 2) of the sharp camera, x before y, to the coarse one.

        Examples
        --------
        >>> Transform().inverse(np.array([5.5, 9.5])).tolist()
        [1.0, 2.0]
        """
        matrix = self.matrix
        points = np.asarray(points, float) - matrix[:2, 2]
        return points @ np.linalg.inv(matrix[:2, :2]).T


@dataclass(frozen=True)
class CoarseCamera:
    r"""The coarse camera as a linear operator: a Gaussian blur, the mean over each pixel, a gain.

    Attributes
    ----------
    sigma : float
        Width of the blur in sharp pixels; 0 leaves it out.
    scale : float
        Sharp pixels along one coarse pixel, from 1 to 16. It need not be whole.
    gain, offset : float
        Reading of the open beam less that of the dark, and reading of the dark.
    photons : float or None
        Photons that a pixel counts in the open beam, in one frame. None if unknown.
    errors : dict or None
        Standard errors of the numbers, where they were measured: see
        `helpers.xray.calibrate.camera`.

    Raises
    ------
    ValueError
        A number out of its range.

    Notes
    -----
    For a sharp image x, coarse pixel j, which covers the sharp pixels from :math:`s j` to
    :math:`s (j + 1)`, reads

    .. math:: y_j = g\, (A x)_j + o , \qquad
        (A x)_j = s^{-2} \int_{\text{pixel } j} (g_\sigma * x) , \qquad
        \operatorname{var} y_j = g^2 (A x)_j / N .

    A is one matrix along each axis, :math:`A x = M_y x M_x^{\mathsf T}`, blur with a repeated
    border and bins in one, and its adjoint is :math:`M_y^{\mathsf T} y M_x`. In a training each of
    `sigma`, `gain`, `offset` and `photons` may be a tensor (B,), one number for each image of a
    batch. Derived in :doc:`/book/xray/01_two_cameras`.

    Examples
    --------
    >>> camera = CoarseCamera(sigma=0, gain=2.0, offset=1.0)
    >>> camera(np.ones((8, 12)))
    array([[3., 3., 3.],
           [3., 3., 3.]])
    >>> from helpers.operators import check_adjoint
    >>> check_adjoint(CoarseCamera(1.7, scale=3).on((12, 18))) < 1e-14
    True
    """

    sigma: Number
    scale: float = SCALE
    gain: Number = 1.0
    offset: Number = 0.0
    photons: Number | None = None
    errors: Mapping[str, float] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, least, strict in (
            ("sigma", 0, False),
            ("gain", 0, True),
            ("photons", 0, True),
            ("offset", -math.inf, True),
        ):
            value = getattr(self, name)
            if value is None or is_tensor(value):
                continue
            if not math.isfinite(value) or value < least or (strict and value == least):
                raise ValueError(f"{name} is {value}: give a number {WANTED[name]}")
        if not 1 <= self.scale <= 16:
            raise ValueError(f"scale is {self.scale}: give 1 to 16 sharp pixels for a coarse one")

    def __call__(self, x: Image) -> Image:
        """Readings (..., y, x) of sharp transmission (..., Y, X), without noise."""
        image = _image(x)
        seen = self._between(image, lambda m, t: m @ t)
        return like(_for_each(self.gain, seen) * seen + _for_each(self.offset, seen), x)

    def adjoint(self, y: Image, shape: tuple[int, int] | None = None) -> Image:
        """Adjoint of the linear part, on (..., y, x); `shape` is (Y, X) if not scale times that."""
        seen = _image(y)
        sides = shape or tuple(round(n * self.scale) for n in seen.shape[-2:])
        back = self._between(seen, lambda m, t: m.mT @ t, sides)
        return like(_for_each(self.gain, back) * back, y)

    def on(self, shape: tuple[int, int]) -> _OnField:
        """The linear part, without the offset, as an operator for images of one shape (Y, X)."""
        return _OnField(self, (shape[0], shape[1]))

    def out_shape(self, shape: tuple[int, int], *, strict: bool = True) -> tuple[int, int]:
        """Shape (y, x) of what it sees of (Y, X); if not `strict`, a rest is left over."""
        if not strict:
            return int(shape[0] / self.scale + 1e-9), int(shape[1] / self.scale + 1e-9)
        return self._length(shape[0]), self._length(shape[1])

    def transmission(self, y: Image) -> Image:
        """Readings less the offset, divided by the gain."""
        seen = _image(y)
        return like((seen - _for_each(self.offset, seen)) / _for_each(self.gain, seen), y)

    @in_float32
    def to_grid(self, y: Image) -> tuple[Image, CoarseCamera]:
        r"""Resample readings to coarse pixels of 4 sharp ones, the grid of the networks.

        Parameters
        ----------
        y : (..., y, x) array or tensor

        Returns
        -------
        frames : (..., scale y / 4, scale x / 4) array or tensor
            Rounded up. The light on each new pixel: smaller pixels are averaged, larger ones
            interpolated.
        camera : CoarseCamera
            Of those frames: its blur has the variance that the way there has added, its photons
            the noise that is left.
        """
        if self.scale == SCALE:
            return y, self
        image = _image(y)
        out = tuple(math.ceil(n * self.scale / SCALE - 1e-9) for n in image.shape[-2:])
        ways = [
            _regrid(n, m, self.scale).to(image) for n, m in zip(image.shape[-2:], out, strict=True)
        ]
        spread, share = _regridded(self.scale)
        sigma: Any = self.sigma
        wider = (sigma**2 + spread) ** 0.5 if is_tensor(sigma) else math.sqrt(sigma**2 + spread)
        photons: Any = self.photons
        equal = replace(
            self, sigma=wider, scale=SCALE, photons=None if photons is None else photons / share
        )
        return like(ways[0] @ image @ ways[1].mT, y), equal

    @in_float32
    def soften(self, y: Image, sigma: float) -> tuple[Image, CoarseCamera]:
        """Blur readings, where the camera is sharper, to those of a camera with blur `sigma`.

        It is one that they could have come from, with less noise: what a network needs that was
        trained on one camera and is given frames of another.
        """
        image = _image(y)
        own = self.sigma
        if is_tensor(own) or own >= sigma:
            return y, self
        width = math.sqrt(sigma**2 - own**2) / self.scale
        ways = [
            _fixed_matrix(n, n, width, 1.0, image.dtype, str(image.device))
            for n in image.shape[-2:]
        ]
        return like(ways[0] @ image @ ways[1].mT, y), replace(self, sigma=sigma)

    def _length(self, n: int) -> int:
        if self.scale == int(self.scale) and n % self.scale:
            raise ValueError(f"a side has {n} pixels: pad the sides to multiples of {self.scale:g}")
        return int(n / self.scale + 1e-9)

    @in_float32
    def _between(self, image: Any, way: Callable[..., torch.Tensor], sides: Any = None) -> Any:
        """Both axes one after the other, images of a batch with the blur of their own."""
        sides = sides or tuple(image.shape[-2:])
        if self.scale == int(self.scale) and any(n % self.scale for n in sides):
            raise ValueError(
                f"image is {tuple(sides)}: pad its sides to multiples of {self.scale:g}"
            )
        tall, wide = (
            camera_matrix(n, self._length(n), self.sigma, self.scale, image) for n in sides
        )
        if tall.ndim == 3:  # a batch of cameras
            room = (len(tall),) + (1,) * (image.ndim - 3)
            tall, wide = (m.view(*room, *m.shape[-2:]) for m in (tall, wide))
        return way(wide, way(tall, image).mT).mT

    def __repr__(self) -> str:
        """The numbers, to the digits that their errors leave."""
        parts = []
        for name in ("sigma", "scale", "gain", "offset", "photons"):
            value = getattr(self, name)
            if value is None or is_tensor(value):
                continue
            error = (self.errors or {}).get(name)
            parts.append(f"{name}={value:.4g}" + (f" ± {error:.1g}" if error else ""))
        return f"CoarseCamera({', '.join(parts)})"


@dataclass(frozen=True)
class _OnField:
    """The linear part of a coarse camera, for images of one shape."""

    camera: CoarseCamera
    in_shape: tuple[int, int]

    @property
    def out_shape(self) -> tuple[int, int]:
        """Shape (y, x) of what it gives."""
        return self.camera.out_shape(self.in_shape)

    def __call__(self, x: Image) -> Image:
        """Gain times the blurred and binned image."""
        return replace(self.camera, offset=0.0)(x)

    def adjoint(self, y: Image) -> Image:
        """The adjoint."""
        return self.camera.adjoint(y, self.in_shape)


BOOK_CAMERA = CoarseCamera(SIGMA, photons=3000.0)  # that of `helpers.xray.simulate.Experiment()`


def coarsen(x: Image, sigma: float = SIGMA, scale: int = SCALE) -> Image:
    r"""See a sharp image through a coarse camera of gain 1: `CoarseCamera` in one call.

    Parameters
    ----------
    x : (..., Y, X) array or tensor
        Y and X must be multiples of `scale`. Beyond the border the image goes on as its last row.
    sigma : float
        Width of the blur in pixels of `x`; 0 leaves it out.
    scale : int
        Pixels of `x` along one coarse pixel.

    Returns
    -------
    (..., Y / scale, X / scale) array or tensor
        Differentiable for a tensor.

    Raises
    ------
    ValueError
        A size that is not a multiple of `scale`.

    Notes
    -----
    :math:`y_j = s^{-2} \sum_{i \in \text{block } j} (g_\sigma * x)_i`. Explained in
    :doc:`/book/xray/01_two_cameras`.

    Examples
    --------
    >>> coarsen(np.ones((8, 8))).shape
    (2, 2)
    >>> float(coarsen(np.arange(16.0).reshape(4, 4), sigma=0)[0, 0])
    7.5
    """
    return CoarseCamera(sigma, scale)(x)


def camera_matrix(
    n_sharp: int, n_coarse: int, sigma: Number, scale: float, like_this: torch.Tensor
) -> torch.Tensor:
    """Matrix (n_coarse, n_sharp) of blur and bins along one axis; (B, ...) for B blurs.

    Examples
    --------
    >>> camera_matrix(4, 2, 0.0, 2, torch.zeros(1)).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    kind, device = like_this.dtype, str(like_this.device)
    if not is_tensor(sigma):
        return _fixed_matrix(n_sharp, n_coarse, float(sigma), float(scale), kind, device)
    widths = sigma.to(like_this)
    bins = _bins(n_sharp, n_coarse, float(scale), kind, device)
    return bins @ _blur_matrix(n_sharp, widths, math.ceil(4 * float(widths.max())))


@lru_cache(maxsize=64)
def _fixed_matrix(
    n_sharp: int, n_coarse: int, sigma: float, scale: float, kind: torch.dtype, device: str
) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        bins = _bins(n_sharp, n_coarse, scale, torch.float64, "cpu")
        if sigma > 0:
            widths = torch.tensor([sigma], dtype=torch.float64)
            bins = bins @ _blur_matrix(n_sharp, widths, math.ceil(4 * sigma))[0]
        return bins.to(device, kind)


@lru_cache(maxsize=64)
def _bins(
    n_sharp: int, n_coarse: int, scale: float, kind: torch.dtype, device: str
) -> torch.Tensor:
    """Share of each sharp pixel in each coarse one; rows sum to 1."""
    with torch.inference_mode(False), torch.no_grad():
        low = scale * torch.arange(n_coarse, dtype=torch.float64)[:, None]
        sharp = torch.arange(n_sharp, dtype=torch.float64)
        cover = (torch.minimum(low + scale, sharp + 1) - torch.maximum(low, sharp)).clamp_min(0)
        return (cover / cover.sum(1, keepdim=True)).to(device, kind)


def _blur_matrix(n: int, sigma: torch.Tensor, reach: int) -> torch.Tensor:
    """Matrices (B, n, n) of Gaussian blurs that repeat the border, for widths (B,)."""
    reach = max(1, reach)
    place = torch.arange(-reach, reach + 1, device=sigma.device, dtype=sigma.dtype)
    # a width of almost nothing leaves the middle tap alone
    taps = torch.exp(-(place**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    taps = taps / taps.sum(1, keepdim=True)
    rows = torch.arange(n, device=sigma.device)[:, None]
    columns = (rows + place.long()).clamp(0, n - 1)
    blur = sigma.new_zeros(len(sigma), n, n)
    weights = taps[:, None, :].expand(-1, n, -1)
    return blur.scatter_add_(2, columns.expand(len(sigma), -1, -1), weights)


@lru_cache(maxsize=32)
def _regrid(n: int, m: int, scale: float) -> torch.Tensor:
    """Matrix (m, n) from pixels of `scale` sharp ones to pixels of 4.

    Larger pixels are interpolated with Keys' cubic at the new centres. Smaller ones are averaged:
    the light left of an edge is known at the old edges, and the cubic gives it at the new ones.
    """
    with torch.inference_mode(False), torch.no_grad():
        if scale > SCALE:
            centres = (torch.arange(m, dtype=torch.float64) + 0.5) * SCALE / scale - 0.5
            way = _cubic(centres, n, room=3) @ _padding(n, 3)
        else:
            edges = torch.arange(m + 1, dtype=torch.float64).mul(SCALE / scale).clamp(0, n + 1)
            left_of = functional.pad(_padding(n, 3).cumsum(0), (0, 0, 1, 0))
            way = (_cubic(edges, n + 1, room=3) @ left_of).diff(dim=0)
        return way / way.sum(1, keepdim=True)


def _cubic(at: torch.Tensor, n: int, room: int) -> torch.Tensor:
    """Matrix of Keys' cubic interpolation of n values, and `room` more on both sides, at places."""
    near = at.floor().long()[:, None] + torch.arange(-1, 3)
    d = (at[:, None] - near).abs()
    inner = (1.5 * d - 2.5) * d * d + 1
    outer = ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = torch.zeros(len(at), n + 2 * room, dtype=torch.float64)
    return weights.scatter_add_(1, near + room, torch.where(d <= 1, inner, outer))


def _padding(n: int, room: int) -> torch.Tensor:
    """Matrix that repeats the border of n values `room` times."""
    return torch.eye(n, dtype=torch.float64)[torch.arange(-room, n + room).clamp(0, n - 1)]


@lru_cache(maxsize=32)
def _regridded(scale: float) -> tuple[float, float]:
    """Variance that `_regrid` adds to the blur, and its factor on the variance of the noise."""
    n = 48
    m = int(n * scale / SCALE)
    way = _regrid(n, m, scale)
    rows = (way @ _bins(math.ceil(n * scale), n, scale, torch.float64, "cpu"))[m // 4 : -m // 4]
    x = torch.arange(rows.shape[1], dtype=torch.float64)
    centre = (rows * x).sum(1, keepdim=True)
    variance = float((rows * (x - centre) ** 2).sum(1).mean())
    noise = float((way[m // 4 : -m // 4] ** 2).sum(1).mean()) ** 2
    return variance - (SCALE**2 - 1) / 12, noise


def _for_each(value: Any, images: torch.Tensor) -> Any:
    """A number, or one for each image of a batch, ready to be multiplied."""
    if not is_tensor(value) or value.ndim == 0:
        return value
    return value.to(images).view(-1, *(1,) * (images.ndim - 1))


def bicubic(x: Image, scale: float = SCALE) -> Image:
    """Enlarge coarse images with cubic interpolation, pixel centres kept in place.

    Parameters
    ----------
    x : (..., y, x) array or tensor
    scale : float

    Returns
    -------
    (..., scale * y, scale * x) array or tensor
        Rounded down.

    Examples
    --------
    >>> bicubic(np.ones((2, 3))).shape
    (8, 12)
    """
    image = _image(x)
    planes = image.reshape(-1, 1, *image.shape[-2:])
    large = functional.interpolate(planes, scale_factor=scale, mode="bicubic", align_corners=False)
    return like(large.reshape(*image.shape[:-2], *large.shape[-2:]), x)


def pad_to(image: Image, multiple: int) -> Image:
    """Repeat the last row and column until the sides are multiples of a number.

    Parameters
    ----------
    image : (..., Y, X) array or tensor
    multiple : int

    Returns
    -------
    array or tensor

    Examples
    --------
    >>> pad_to(np.ones((2, 5, 8)), 4).shape
    (2, 8, 8)
    """
    height, width = image.shape[-2:]
    if height % multiple == width % multiple == 0:
        return image
    rows, columns = (np.minimum(np.arange(n + -n % multiple), n - 1) for n in (height, width))
    return image[..., rows[:, None], columns]


def pad_up(image: Image, shape: tuple[int, int]) -> Image:
    """Repeat the last row and column up to a shape (y, x), or cut what is beyond it.

    Examples
    --------
    >>> pad_up(np.ones((2, 5, 8)), (6, 7)).shape
    (2, 6, 7)
    """
    if tuple(image.shape[-2:]) == tuple(shape):
        return image
    rows, columns = (
        np.minimum(np.arange(want), n - 1) for n, want in zip(image.shape[-2:], shape, strict=True)
    )
    return image[..., rows[:, None], columns]


def _image(x: Any) -> torch.Tensor:
    shape = tuple(x.shape) if is_tensor(x) else np.shape(x)
    if len(shape) < 2:
        raise ValueError(f"image has shape {shape}: give (..., Y, X)")
    return to_tensor(x)


def register(frames: Image, calibration: Calibrated, *, fill: float | None = None) -> np.ndarray:
    r"""Bring coarse frames onto the grid of the sharp camera, with one resampling.

    Parameters
    ----------
    frames : (..., y, x) array or tensor
        As they came from the coarse camera.
    calibration : SpatialCalibration
    fill : float, optional
        Value of what the coarse camera has not seen. Default: its border is repeated.

    Returns
    -------
    (..., Y / 4, X / 4) array or tensor
        Pixel i covers the sharp pixels 4 i to 4 i + 3; sizes are rounded up.

    Raises
    ------
    ValueError
        Frames of another size than those of the calibration.

    Notes
    -----
    The centre of each new pixel is carried back to the coarse camera and looked up there with
    cubic B-splines. Where the coarse pixels are smaller than 4 sharp ones, the mean of several
    places in the new pixel is taken, so that no light is left out. Every resampling blurs, and
    correlates the noise, so there is only this one.

    Examples
    --------
    >>> from helpers.xray.calibrate import SpatialCalibration
    >>> aligned = SpatialCalibration(Transform(), np.eye(5), None, (16, 32), (4, 8), (1, 0))
    >>> frames = np.random.default_rng(0).random((2, 4, 8))
    >>> bool(np.allclose(register(frames, aligned), frames))
    True
    """
    stack: np.ndarray = to_numpy(frames)
    if stack.ndim < 2 or tuple(stack.shape[-2:]) != tuple(calibration.lr_shape):
        raise ValueError(
            f"frames have shape {stack.shape} but the calibration was made for "
            f"{calibration.lr_shape}: give whole frames of the same camera mode"
        )
    result = looked_up(stack, places_of(calibration))
    if fill is not None:
        centres = calibration.transform.inverse(_centres(calibration.hr_shape))
        result[..., ~inside(centres, calibration.lr_shape)] = fill
    out: Any = like(torch.from_numpy(result), frames)
    return out


def places_of(calibration: Calibrated) -> np.ndarray:
    """Places (2, n, h, w) in the coarse camera, y before x, whose mean is a pixel of `register`."""
    # coarse pixels in a new one, along a side
    n = math.ceil(SCALE / min(calibration.transform.sx, calibration.transform.sy) - 0.1)
    steps = SCALE * ((np.arange(n) + 0.5) / n - 0.5)
    around = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 1, 1, 2)
    places = calibration.transform.inverse(_centres(calibration.hr_shape) + around)
    return places[..., ::-1].transpose(3, 0, 1, 2)


def looked_up(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Frames (..., h, w) at the places of `places_of`, by cubic B-splines."""
    kind = frames.dtype if frames.dtype.kind == "f" else np.dtype(np.float32)
    result = np.empty((*frames.shape[:-2], *places.shape[2:]), kind)
    for index in np.ndindex(frames.shape[:-2]):
        image = frames[index].astype(float)
        result[index] = map_coordinates(image, places, order=3, mode="nearest").mean(0)
    return result


def _centres(shape: tuple[int, int]) -> np.ndarray:
    """Centres (h, w, 2) of the pixels of `register`, x before y, in sharp pixels."""
    height, width = (-(-n // SCALE) for n in shape)
    y, x = np.mgrid[:height, :width] * SCALE + (SCALE - 1) / 2
    return np.stack([x, y], axis=-1)


def inside(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """True where points (..., 2) lie in the pixels of an image."""
    limits = np.array([shape[1], shape[0]]) - 0.5
    return np.all((points >= -0.5) & (points <= limits), axis=-1)
