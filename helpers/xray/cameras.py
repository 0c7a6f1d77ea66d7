r"""The coarse camera as an operator: blur, bin, and where its pixels lie on the sharp camera.

Images are transmission :math:`I / I_0`, axes (..., Y, X). Pixel i of the coarse camera covers the
pixels ``scale * i`` to ``scale * i + scale - 1`` of the sharp one (the pixel-centre convention:
``x + 0.5`` scales, not ``x``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch.nn import functional

from .._arrays import is_tensor, like, to_numpy, to_tensor

__all__ = ["Transform", "coarsen"]

SCALE = 4  # fine pixels along one coarse pixel
Image = TypeVar("Image", np.ndarray, torch.Tensor)


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


def coarsen(x: Image, sigma: float = 2.2, scale: int = 4) -> Image:
    r"""See a sharp image through the coarse camera: a Gaussian blur, then the mean of each block.

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
    :math:`y_j = s^{-2} \sum_{i \in \text{block } j} (g_\sigma * x)_i`: linear, so that the adjoint
    comes from automatic differentiation. Explained in :doc:`/book/xray/01_two_cameras`.

    Examples
    --------
    >>> coarsen(np.ones((8, 8))).shape
    (2, 2)
    >>> float(coarsen(np.arange(16.0).reshape(4, 4), sigma=0)[0, 0])
    7.5
    """
    image = _image(x)
    if image.shape[-2] % scale or image.shape[-1] % scale:
        raise ValueError(
            f"image is {tuple(image.shape[-2:])}: pad its sides to multiples of {scale}"
        )
    planes = image.reshape(-1, 1, *image.shape[-2:])
    small = functional.avg_pool2d(_blur(planes, sigma), scale)
    return like(small.reshape(*image.shape[:-2], *small.shape[-2:]), x)


def bicubic(x: Image, scale: int = 4) -> Image:
    """Enlarge coarse images with cubic interpolation, pixel centres kept in place.

    Parameters
    ----------
    x : (..., y, x) array or tensor
    scale : int

    Returns
    -------
    (..., scale * y, scale * x) array or tensor

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


def gaussian_taps(
    sigma: float, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Samples of a Gaussian out to four widths, with sum 1.

    Examples
    --------
    >>> gaussian_taps(0.5).shape
    torch.Size([5])
    """
    reach = max(1, math.ceil(4 * sigma))
    place = torch.arange(-reach, reach + 1, device=device, dtype=dtype)
    taps = torch.exp(-(place**2) / (2 * sigma**2))
    return taps / taps.sum()


def _blur(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (N, 1, Y, X) along both axes."""
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}: give a width of 0 or more pixels")
    if sigma == 0:
        return planes
    taps = gaussian_taps(sigma, device=planes.device, dtype=planes.dtype)
    reach = len(taps) // 2
    padded = functional.pad(planes, (reach,) * 4, mode="replicate")
    tall = functional.conv2d(padded, taps.view(1, 1, -1, 1))
    return functional.conv2d(tall, taps.view(1, 1, 1, -1))


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
    cubic B-splines. Every resampling blurs, and correlates the noise, so there is only this one.

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
    height, width = (-(-n // SCALE) for n in calibration.hr_shape)
    y, x = np.mgrid[:height, :width] * SCALE + (SCALE - 1) / 2
    points = calibration.transform.inverse(np.stack([x, y], axis=-1))
    places = points[..., ::-1].transpose(2, 0, 1)
    kind = stack.dtype if stack.dtype.kind == "f" else np.dtype(np.float32)
    result = np.empty((*stack.shape[:-2], height, width), kind)
    for index in np.ndindex(stack.shape[:-2]):
        image = stack[index].astype(float)
        result[index] = map_coordinates(image, places, order=3, mode="nearest")
    if fill is not None:
        result[..., ~inside(points, calibration.lr_shape)] = fill
    out: Any = like(torch.from_numpy(result), frames)
    return out


def inside(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """True where points (..., 2) lie in the pixels of an image."""
    limits = np.array([shape[1], shape[0]]) - 0.5
    return np.all((points >= -0.5) & (points <= limits), axis=-1)
