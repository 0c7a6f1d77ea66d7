"""Whole images as parameters: an object seen through a blur, and an image shown as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..._arrays import Array
from ..deconvolve.blur import Blur
from ..params import Param, Positive
from .base import Renderer
from .template import picture, raw_picture


class Convolution(Renderer):
    r"""An image or volume, blurred by a kernel.

    Parameters
    ----------
    image_shape : tuple of int
        (Y, X) or (Z, Y, X) of the images.
    kernel : array or tensor
        Point-spread function with as many axes, non-negative; it is scaled to sum 1. Its centre is
        the voxel ``n // 2``, the middle one for odd sizes. It may be larger than the image.
    margin : int or tuple of int
        Voxels at each side from which light reaches the image: the parameter `object` is larger
        than the image by twice as much. Without it the world outside is dark.
    learn_kernel : bool
        Make the kernel a weight that can be learned; it stays non-negative and of sum 1.
    level : float
        Typical photo-electrons of a voxel of the object, where it starts.

    Raises
    ------
    ValueError
        A kernel that is negative, not finite or without light, or of other axes than the image.

    Notes
    -----
    .. math:: \mu_i = b + \sum_j h_{i - j} f_j, \qquad h \ge 0, \quad \sum h = 1 ,

    for the pixels i of the image, j running over image and margin. Nothing wraps around, and a
    single bright voxel as kernel gives the object back, for odd sizes and even ones. `blur` is the
    operator, with its adjoint. Derived in :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> import numpy as np
    >>> blurred = Convolution((16, 16), np.ones((3, 3)))
    >>> point = np.zeros((1, 16, 16)); point[0, 8, 8] = 9.0
    >>> image = blurred.render({"object": point, "background": 0.0})
    >>> image[0, 6:11, 8].round(3).tolist()
    [0.0, 1.0, 1.0, 1.0, 0.0]
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        kernel: Array,
        *,
        margin: int | Sequence[int] = 0,
        learn_kernel: bool = False,
        level: float = 10.0,
    ) -> None:
        level = float(level)
        super().__init__(
            image_shape,
            [
                Param(
                    "object",
                    "photo-electrons",
                    Positive(level),
                    start=level,
                    per_emitter=False,
                    per_pixel=True,
                ),
                Param("background", "photo-electrons", Positive(10.0), 10.0, per_emitter=False),
            ],
        )
        raw = raw_picture(kernel, "kernel", len(self.image_shape))
        self.raw = torch.nn.Parameter(raw) if learn_kernel else None
        fixed = torch.as_tensor(kernel).float()
        self._blur = Blur(fixed / fixed.sum(), self.image_shape, margin=margin)
        self.pixel_shape = self._blur.in_shape

    @property
    def blur(self) -> Blur:
        """The operator of the present kernel."""
        return self._blur if self.raw is None else self._blur.with_kernel(picture(self.raw))

    def expected(self, full: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images of completed parameters."""
        background = full["background"].view(-1, *[1] * len(self.image_shape))
        # the transforms round; light is never negative
        image: Any = self.blur(full["object"])
        return image.clamp_min(0) + background


class Passthrough(Renderer):
    """The image itself: what a denoiser estimates.

    Parameters
    ----------
    image_shape : tuple of int
        (Y, X) or (Z, Y, X).
    level : float
        Typical photo-electrons of a pixel, where the image starts.

    Notes
    -----
    The background is part of the image. Introduced in :doc:`/book/renderer/07_denoise`.

    Examples
    --------
    >>> import numpy as np
    >>> Passthrough((2, 2)).render({"image": np.ones((1, 2, 2))}).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """

    def __init__(self, image_shape: Sequence[int], *, level: float = 10.0) -> None:
        level = float(level)
        image = Param(
            "image",
            "photo-electrons",
            Positive(level),
            start=level,
            per_emitter=False,
            per_pixel=True,
        )
        super().__init__(image_shape, [image])

    def expected(self, full: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images of completed parameters."""
        return full["image"]
