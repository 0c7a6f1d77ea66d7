r"""A measured or computed point image, continued between its samples by a cubic spline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..._arrays import Array, to_tensor
from ...interpolate import bspline, spline_prefilter
from .._checks import warn_of_flaws
from ..params import Bounded, Param
from .base import Renderer
from .gaussian import light_params

FADE = 4  # pixels of darkness around the samples, in which their spline rings out


class _Spline(Renderer):
    """Sum of shifted point images on a background."""

    z_step: float

    def __init__(
        self, image_shape: Sequence[int], psf: torch.Tensor, params: Sequence[Param]
    ) -> None:
        params = [*light_params(image_shape), *params]
        super().__init__(image_shape, params)
        dark = torch.nn.functional.pad(psf, (FADE,) * 4)
        self.coefficients = torch.nn.Parameter(spline_prefilter(dark).float())

    def expected(self, full: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images of completed parameters."""
        planes, (down, across) = self._planes(full, slopes=False)
        spots = _filtered(planes[0], down[0], across[0])
        return _image(full, spots)

    def jacobian(
        self, params: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Images and their derivatives in closed form; see `Renderer.jacobian`."""
        full = self.complete(params)
        planes, (down, across) = self._planes(full, slopes="z" in names)
        spots = _filtered(planes[0], down[0], across[0])
        image = _image(full, spots)
        photons = full["photons"][..., None, None]
        columns = []
        for name in names:
            if name == "background":
                columns.append(torch.ones_like(image)[:, None])
            elif name == "photons":
                columns.append(spots)
            elif name == "x":
                columns.append(-photons * _filtered(planes[0], down[0], across[1]))
            elif name == "y":
                columns.append(-photons * _filtered(planes[0], down[1], across[0]))
            else:
                columns.append(photons / self.z_step * _filtered(planes[1], down[0], across[0]))
        return image, torch.cat(columns, 1)

    def _planes(self, full, slopes):
        """Coefficients around each emitter, and the weights with which they are summed.

        The former, at its depth and their slopes by depth, are (B, K, Y + 3, X + 3) each; the
        latter are for four neighbours down and across, each with slopes.
        """
        c = self.coefficients
        height, width = self.image_shape
        # so dark a margin that a window which is moved back into it shows nothing
        c = torch.nn.functional.pad(c, (width + 3, width + 3, height + 3, height + 3))
        row, down = _window(full["y"], height, c.shape[1])
        column, across = _window(full["x"], width, c.shape[2])
        rows = row[..., None, None] + torch.arange(height + 3, device=c.device)[:, None]
        columns = column[..., None, None] + torch.arange(width + 3, device=c.device)
        if len(c) == 1:
            return (c[0, rows, columns], None), (down, across)
        place = full["z"] / self.z_step + (len(c) - 1) / 2
        first = place.detach().floor().clamp(0, len(c) - 2)
        weights, turned = bspline(place - first)
        values, changes = 0, 0
        for k in range(4):
            plane = first.long() + k - 1
            plane = _mirrored(plane, len(c))[..., None, None]
            taken = c[plane, rows, columns]
            values = values + weights[k][..., None, None] * taken
            if slopes:
                changes = changes + turned[k][..., None, None] * taken
        return (values, changes), (down, across)


def _window(centre, n, size):
    """First of the ``n + 3`` coefficients that an axis needs, and weights (values, slopes)."""
    place = (size - n) / 2 - centre  # of the first pixel
    first = place.detach().floor().clamp(1, size - n - 2)
    return first.long() - 1, bspline((place - first).clamp(0, 1))


def _mirrored(index, n):
    index = index.abs()
    return (n - 1) - ((n - 1) - index).abs()


def _filtered(planes, down, across):
    """Sum of four neighbours down and four across: (B, K, Y + 3, X + 3) to (B, K, Y, X)."""
    height, width = (n - 3 for n in planes.shape[-2:])
    rows = sum(w[..., None, None] * planes[..., k : k + height, :] for k, w in enumerate(down))
    return sum(w[..., None, None] * rows[..., k : k + width] for k, w in enumerate(across))


def _image(full, spots):
    light = (full["photons"][..., None, None] * spots).sum(1)
    return light + full["background"][:, None, None]


def _checked_psf(psf, n_axes):
    """The samples as shares of the light, float64."""
    t = to_tensor(psf).double()
    axes = ("(Y, X)", "(Z, Y, X)")[n_axes - 2]
    if t.ndim != n_axes or min(t.shape) < 2:
        raise ValueError(f"the point image is {tuple(t.shape)}: give {axes}, two samples or more")
    if not bool(torch.isfinite(t).all()):
        raise ValueError("the point image holds NaN or infinite values: replace them first")
    light = t.sum((-2, -1)).max().item()
    if not light > 0:
        raise ValueError(f"the point image sums to {light}: it needs light above its background")
    warn_of_flaws(t, off_centre=0.25, normalised=False)
    return t / max(light, 1.0)


class Spline2D(_Spline):
    r"""Copies of one point image, placed anywhere between the pixels.

    Parameters
    ----------
    image_shape : (int, int)
        (Y, X) in pixels.
    psf : array or tensor (Y', X')
        Point image, background removed, centred in its array, sampled in camera pixels; larger or
        smaller than the images. Its values are the shares of the light in each pixel; if they sum
        to more than 1 they are photo-electrons and are divided by their sum.

    Attributes
    ----------
    coefficients : torch.nn.Parameter (1, Y' + 8, X' + 8)
        Of the spline, float32; can be learned.

    Raises
    ------
    ValueError
        A point image of another number of axes, with NaN, or without light.

    Warns
    -----
    UserWarning
        As for `Spline3D`.

    Notes
    -----
    .. math:: \mu_{ij} = b + N \sum_{kl} c_{kl}\, \beta^3(i - y - k)\, \beta^3(j - x - l)

    passes through every sample where x and y are whole pixels. Outside of its samples the point
    image is dark. Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> import numpy as np
    >>> psf = np.zeros((9, 9)); psf[4, 4] = 1.0
    >>> image = Spline2D((5, 5), psf).render({"x": 1.0, "photons": 100.0, "background": 2.0})
    >>> abs(image[0, 2].round(3)).tolist()
    [2.0, 2.0, 2.0, 102.0, 2.0]
    """

    def __init__(self, image_shape: Sequence[int], psf: Array) -> None:
        super().__init__(image_shape, _checked_psf(psf, 2)[None], [])


class Spline3D(_Spline):
    r"""A stack of point images, continued between its pixels and its planes.

    Parameters
    ----------
    image_shape : (int, int)
        (Y, X) in pixels.
    psf : array or tensor (Z, Y', X')
        Point images of evenly spaced depths, as for `Spline2D`; all are divided by the sum of the
        brightest plane if that is above 1.
    z_step : float
        Distance of the planes, µm. The depth 0 is the middle of the stack.

    Attributes
    ----------
    coefficients : torch.nn.Parameter (Z, Y' + 8, X' + 8)
        Of the spline, float32; can be learned.

    Raises
    ------
    ValueError
        A stack of another number of axes, with NaN, without light, or a `z_step` of zero or less,
        or in nm.

    Warns
    -----
    UserWarning
        The samples still have their background, or lie off their middle: a bead as it comes. A
        spline takes them as they are, so positions, photons and bounds would be wrong.

    Notes
    -----
    As `Spline2D` with a third factor :math:`\beta^3(z / \Delta z - m)` :cite:p:`li2018`. Depths
    end with the stack. Derived in :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> import numpy as np
    >>> z, y, x = np.mgrid[-3:4, -6:7, -6:7]
    >>> width = 1.2 + 0.1 * (z + 3)
    >>> psf = np.exp(-(x**2 + y**2) / (2 * width**2)) / (2 * np.pi * width**2)
    >>> spots = Spline3D((13, 13), psf, 0.1)
    >>> image = spots.render({"z": [-0.3, 0.0], "photons": 1000.0, "background": 0.0})
    >>> bool(np.allclose(image[1], 1000 * psf[3], atol=0.01))
    True
    """

    def __init__(self, image_shape: Sequence[int], psf: Array, z_step: float) -> None:
        if not z_step > 0:
            raise ValueError(f"z_step is {z_step}: give the distance of the planes in µm")
        checked = _checked_psf(psf, 3)
        reach = (len(checked) - 1) / 2 * z_step
        if reach > 20:
            raise ValueError(
                f"z_step is {z_step:g}, so the stack spans {2 * reach:g} µm: divide nm by 1000"
            )
        super().__init__(image_shape, checked, [Param("z", "µm", Bounded(-reach, reach))])
        self.z_step = float(z_step)
