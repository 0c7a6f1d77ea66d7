"""Spots of any shape: a learnable, finely sampled picture that the FFT moves into place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..._arrays import Array, to_tensor
from ...interpolate import fft_shift
from .base import Renderer
from .gaussian import light_params


class Template(Renderer):
    r"""Images of a point source whose picture is learned pixel by pixel.

    Parameters
    ----------
    image_shape : (int, int)
        (Y, X) in pixels.
    template : array or tensor (P, Q), optional
        Picture to start from, sampled `oversampling` times a pixel, centred, non-negative. Left
        out: a Gaussian of 1.3 px, as large as the image.
    oversampling : int
        Samples along each side of a pixel.

    Raises
    ------
    ValueError
        A template that is negative, not finite or without light, or an oversampling below 1.

    Notes
    -----
    The weights `raw` give the template through a softplus, divided by its sum: it is never negative
    and always sums to one. It is put in the middle of a field as large as
    template and image together, so that no light comes back at the other side, moved by
    :math:`(x, y)` with a phase ramp, and summed over the samples of each pixel,

    .. math:: \mu = b + \sum_k N_k\, \mathrm{bin}\,\mathcal{F}^{-1}
        \big[ \mathcal{F}[t]\, e^{-2\pi i (\nu_x x_k + \nu_y y_k)} \big] .

    Sharp edges of a template ring when moved, as every band-limited interpolation does. The centre
    of the template is its middle, wherever its mass is: template and positions share a shift that
    the data cannot tell. A template larger than the image is cut by the image. What ringing would
    take below zero is set to zero. Derived in
    :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> spots = Template((15, 15))
    >>> image = spots.render({"x": [0.0, 2.5], "photons": 500.0, "background": 2.0})
    >>> image.sum((1, 2)).round(0).tolist()
    [950.0, 950.0]
    """

    def __init__(
        self, image_shape: Sequence[int], template: Array | None = None, *, oversampling: int = 2
    ) -> None:
        super().__init__(image_shape, light_params(image_shape))
        if oversampling != int(oversampling) or oversampling < 1:
            raise ValueError(f"oversampling is {oversampling}: give a whole number, at least 1")
        self.oversampling = int(oversampling)
        if template is None:
            template = _gaussian([n * self.oversampling for n in image_shape], 1.3 * oversampling)
        self.raw = torch.nn.Parameter(raw_picture(template, "template", 2))

    @property
    def template(self) -> torch.Tensor:
        """The picture (P, Q), of sum 1."""
        return picture(self.raw)

    def expected(self, full: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images of completed parameters."""
        s, (ny, nx) = self.oversampling, self.image_shape
        field = self.template.to(full["x"])
        for axis, n in ((-2, ny), (-1, nx)):
            field = _padded(field, axis, s * n)
        # the middle of the template is on a sample or between two, wherever the image has its own
        off = [(n * s - size) % 2 / 2 for n, size in zip((ny, nx), self.raw.shape, strict=True)]
        moved = fft_shift(field, [s * full["y"] + off[0], s * full["x"] + off[1]])
        y0, x0 = ((have - s * n) // 2 for have, n in zip(field.shape, (ny, nx), strict=True))
        moved = moved[..., y0 : y0 + s * ny, x0 : x0 + s * nx]
        spots = moved.unflatten(-1, (nx, s)).unflatten(-3, (ny, s)).sum((-3, -1))
        image = torch.einsum("bk,bkyx->byx", full["photons"], spots.clamp_min(0))
        return image + full["background"][:, None, None]


def raw_picture(values: Array, name: str, dims: int) -> torch.Tensor:
    """Weights whose `picture` has the shape of `values`; a ValueError names what is wrong."""
    picked: torch.Tensor = to_tensor(values).float()
    if picked.ndim != dims or not bool((picked >= 0).all() and picked.isfinite().all()):
        raise ValueError(
            f"the {name} is {tuple(picked.shape)}, from {float(picked.min()):.3g}: give {dims} "
            "axes of finite values, zero or more"
        )
    if not picked.sum() > 0:
        raise ValueError(f"the {name} holds no light: give one that does")
    # softplus never reaches zero: what is dark starts at a millionth of the peak
    relative = (picked / picked.max()).clamp_min(1e-6)
    return relative + (-(-relative).expm1()).log()


def picture(raw: torch.Tensor) -> torch.Tensor:
    """Non-negative values of sum 1 from free weights."""
    light = torch.nn.functional.softplus(raw)
    return light / light.sum()


def _padded(field, axis, image):
    """Zeros around a template: as many as the image is long, half of them at each side."""
    size = field.shape[axis]
    total = image + size % 2  # so that the image can be cut from the middle
    shape = list(field.shape)
    shape[axis] = total // 2
    before = field.new_zeros(shape)
    shape[axis] = total - total // 2
    return torch.cat([before, field, field.new_zeros(shape)], axis)


def _gaussian(shape, sigma):
    y, x = (torch.arange(n) - (n - 1) / 2 for n in shape)
    return torch.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2))
