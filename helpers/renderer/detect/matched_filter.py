r"""The matched filter: how much every place of a residual looks like one more molecule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from scipy.optimize import brentq

from ..renderers.base import Renderer
from ._search_cpu import correlate


class MatchedFilter:
    r"""Correlate residuals with a point spread.

    Parameters
    ----------
    renderer : Renderer
        With the parameters `x`, `y`, `photons` and `background`.
    fixed : dict
        Numbers by name for other parameters; the rest takes its `start`.
    device : torch.device, optional
        Where to work.

    Attributes
    ----------
    roughness : float
        :math:`\sqrt{\det\Lambda}` in 1/px², with the second moments
        :math:`\Lambda_{pq} = \sum \partial_p h\, \partial_q h / \sum h^2` of the spectrum of
        filtered noise.
    width : float
        Standard deviation in px of the Gaussian of the same roughness,
        :math:`1 / 2\sigma^2`.
    reach : int
        The filter's pixels to each side, three widths.

    Notes
    -----
    A point spread is a sum of few products of a column and a row, by its singular values; a
    Gaussian is one. So the filter is a handful of correlations along one axis each; on a graphics
    processor, of products with banded matrices. Derived in
    :doc:`/book/renderer/05_many_molecules`.

    Examples
    --------
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> matched = MatchedFilter(Gaussian2D((13, 13)), {"sigma": 1.3})
    >>> round(matched.width, 1), matched.reach, len(matched.products)
    (1.3, 4, 1)
    """

    def __init__(
        self, renderer: Renderer, fixed: Mapping[str, float], device: torch.device | None = None
    ) -> None:
        # on the middle of a pixel, also where the image centre is a corner
        centre = {a: (1 - n % 2) / 2 for a, n in zip("yx", renderer.image_shape, strict=True)}
        point = {**fixed, **centre, "photons": 1.0, "background": 0.0}
        with torch.no_grad():
            image, slopes = renderer.jacobian(point, ["x", "y"])
        image, slopes = image[0].cpu().double(), slopes[0].cpu().double().flatten(1)
        moments = slopes @ slopes.T / image.square().sum()
        self.roughness = float(torch.linalg.det(moments)) ** 0.5
        self.width = (2 * self.roughness) ** -0.5
        self.reach = math.ceil(3 * self.width)
        kernel = self._cut_out(image)
        self.products = self._products(kernel, device)
        self.squares = self._products(kernel**2, device)

    def __call__(
        self, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Significance of one more molecule at each pixel, in standard deviations.

        Parameters
        ----------
        residual : tensor (B, Y, X)
            Counts minus model.
        weight : tensor (B, Y, X)
            Information of each pixel; 0 where it does not count.

        Returns
        -------
        significance, photons : tensor (B, Y, X)
            A standard normal variable where nothing is, and the light of the molecule that fits
            there best.
        """
        light = self._apply(self.products, residual * weight)
        norm = self._apply(self.squares, weight).clamp(min=1e-12)
        return light * norm.rsqrt(), light / norm

    def _cut_out(self, image):
        """The image within reach of its centre, zero beyond its rim."""
        height, width = image.shape
        offsets = torch.arange(-self.reach, self.reach + 1)
        rows, columns = offsets + height // 2, offsets + width // 2
        inside = ((rows >= 0) & (rows < height))[:, None] & (columns >= 0) & (columns < width)
        return image[rows.clamp(0, height - 1)][:, columns.clamp(0, width - 1)] * inside

    def _products(self, kernel, device):
        u, s, v = torch.linalg.svd(kernel)
        some = range(int((s > 1e-3 * s[0]).sum()))
        return [((u[:, k] * s[k]).float().to(device), v[k].float().to(device)) for k in some]

    def _apply(self, products, images):
        height, width = images.shape[1:]
        if images.device.type == "cpu":
            found, given = torch.zeros_like(images), images.contiguous().numpy()
            for column, row in products:
                correlate(given, column.to(images).numpy(), row.to(images).numpy(), found.numpy())
            return found
        return sum(
            _banded(column.to(images), height) @ images @ _banded(row.to(images), width).mT
            for column, row in products
        )


def _banded(kernel, n):
    """Matrix (n, n) that correlates n samples with a kernel of odd length; zero beyond them."""
    offset = torch.arange(n, device=kernel.device) - torch.arange(n, device=kernel.device)[:, None]
    place = offset + len(kernel) // 2
    inside = (place >= 0) & (place < len(kernel))
    return torch.where(inside, kernel[place.clamp(0, len(kernel) - 1)], 0)


def threshold(area: float, false_alarms: float) -> float:
    r"""Level in standard deviations that a frame's filtered noise exceeds in `false_alarms` places.

    `area` is the number of pixels times `MatchedFilter.roughness`. The expected number of peaks
    above t of a smooth Gaussian random field is :math:`A \sqrt{\det\Lambda}\, (2\pi)^{-3/2}\, t\,
    e^{-t^2/2}` :cite:p:`worsley1992`, for high t.

    Examples
    --------
    >>> round(threshold(32 * 32 / (2 * 5), 0.01), 2)
    3.96
    """

    def excess(t):
        return math.log(area / false_alarms * t) - 1.5 * math.log(2 * math.pi) - t**2 / 2

    return brentq(excess, 1.0, 40.0) if excess(1.0) > 0 else 1.0
