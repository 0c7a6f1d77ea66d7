r"""Gaussian spots, integrated over each pixel: round, elliptical, and astigmatic with depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..params import Bounded, Param, Positive
from .base import Renderer


class _Gaussians(Renderer):
    """Sum of Gaussian spots on a background; a subclass says how wide they are."""

    def widths(self, full: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Standard deviations along x and y, each (B, K), in px."""
        raise NotImplementedError(f"{type(self).__name__} has no method `widths`")

    def width_slopes(
        self, full: Mapping[str, torch.Tensor], name: str
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Derivatives of both widths by the parameter `name`; None where there is none."""
        raise NotImplementedError(f"{type(self).__name__} has no method `width_slopes`")

    def expected(self, full: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images of completed parameters."""
        sigma_x, sigma_y = self.widths(full)
        across = _shares(full["x"], sigma_x, self.image_shape[1])
        down = _shares(full["y"], sigma_y, self.image_shape[0])
        return _image(full, across, down)

    def jacobian(
        self, params: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Images and their derivatives in closed form; see `Renderer.jacobian`."""
        full = self.complete(params)
        sigma_x, sigma_y = self.widths(full)
        across, across_x, across_s = _shares_and_slopes(full["x"], sigma_x, self.image_shape[1])
        down, down_y, down_s = _shares_and_slopes(full["y"], sigma_y, self.image_shape[0])
        photons = full["photons"][..., None]
        image = _image(full, across, down)
        columns = []
        for name in names:
            if name == "background":
                columns.append(torch.ones_like(image)[:, None])
            elif name == "photons":
                columns.append(_outer(down, across))
            elif name == "x":
                columns.append(_outer(down, photons * across_x))
            elif name == "y":
                columns.append(_outer(photons * down_y, across))
            else:
                slope_x, slope_y = self.width_slopes(full, name)
                column: Any = 0
                if slope_x is not None:
                    column = _outer(down, photons * slope_x[..., None] * across_s)
                if slope_y is not None:
                    column = column + _outer(photons * slope_y[..., None] * down_s, across)
                columns.append(column)
        return image, torch.cat(columns, 1)


def _image(full, across, down):
    spots = torch.einsum("bky,bkx->byx", full["photons"][..., None] * down, across)
    return spots + full["background"][:, None, None]


def _outer(down, across):
    return down[..., :, None] * across[..., None, :]


def _edges(centre, sigma, n):
    """Edges of `n` pixels, in standard deviations from the centre (B, K, n + 1).

    In double precision: shares are differences of numbers near one, and a fit sees the lost digits.
    """
    wide = torch.float32 if centre.device.type == "mps" else torch.float64
    edges = torch.arange(n + 1, dtype=wide, device=centre.device) - n / 2
    return (edges - centre[..., None].to(wide)) / sigma[..., None].to(wide)


def _shares(centre, sigma, n):
    """Share of the light in each of `n` columns (B, K, n)."""
    shares = torch.erf(_edges(centre, sigma, n) * math.sqrt(0.5)).diff(dim=-1) / 2
    return shares.to(centre.dtype)


def _shares_and_slopes(centre, sigma, n):
    """Shares, and their derivatives by the centre and by the width."""
    t = _edges(centre, sigma, n)
    density = torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    shares = torch.erf(t * math.sqrt(0.5)).diff(dim=-1) / 2
    slopes = -density.diff(dim=-1), -(t * density).diff(dim=-1)
    sigma = sigma[..., None]
    return shares.to(sigma.dtype), *(slope.to(sigma.dtype) / sigma for slope in slopes)


def light_params(image_shape: Sequence[int]) -> list[Param]:
    """The parameters that every spot has."""
    if len(image_shape) != 2:
        raise ValueError(f"image_shape is {tuple(image_shape)}: a spot's image is (Y, X)")
    y, x = (n / 2 for n in image_shape)
    return [
        Param("x", "px", Bounded(-x, x)),
        Param("y", "px", Bounded(-y, y)),
        Param("photons", "photo-electrons", Positive(1000.0), start=1000.0),
        Param("background", "photo-electrons", Positive(10.0), start=10.0, per_emitter=False),
    ]


class Gaussian2D(_Gaussians):
    r"""Gaussian spots, integrated over each pixel.

    Parameters
    ----------
    image_shape : (int, int)
        (Y, X) in pixels.
    elliptical : bool
        Two widths, `sigma_x` and `sigma_y`, in place of one `sigma`.

    Notes
    -----
    With the standard deviation :math:`\sigma` in px and :math:`\Phi` the normal distribution,

    .. math:: \mu_{ij} = b + N\, E_i(y)\, E_j(x), \qquad
        E_j(x) = \Phi\!\left(\frac{j + 1/2 - x}{\sigma}\right)
               - \Phi\!\left(\frac{j - 1/2 - x}{\sigma}\right) ,

    where i, j count pixels from the image centre. All light counts: a spot at the edge keeps its
    `photons`, of which a part falls outside. A peak of height A above the background, sampled at
    points, has :math:`N = 2 \pi \sigma^2 A`. Several emitters share one background. Derived in
    :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> spots = Gaussian2D((13, 13))
    >>> image = spots.render({"x": [0.0, 2.0], "photons": 500.0, "background": 2.0, "sigma": 1.3})
    >>> image.shape, float(image[0].sum().round(2))
    ((2, 13, 13), 838.0)
    """

    def __init__(self, image_shape: Sequence[int], *, elliptical: bool = False) -> None:
        widest = float(max(image_shape))
        names = ("sigma_x", "sigma_y") if elliptical else ("sigma",)
        start = min(1.3, widest / 2)
        widths = [Param(name, "px", Bounded(0.0, widest), start=start) for name in names]
        super().__init__(image_shape, [*light_params(image_shape), *widths])
        self.elliptical = bool(elliptical)

    def widths(self, full: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Standard deviations along x and y, each (B, K), in px."""
        if self.elliptical:
            return full["sigma_x"], full["sigma_y"]
        return full["sigma"], full["sigma"]

    def width_slopes(
        self, full: Mapping[str, torch.Tensor], name: str
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Derivatives of both widths by `name`: one, or None where the width does not depend."""
        one = torch.ones_like(full["x"])
        return (None if name == "sigma_y" else one), (None if name == "sigma_x" else one)


class Gaussian3D(_Gaussians):
    r"""Spots whose two widths tell the depth: a cylindrical lens in front of the camera.

    Parameters
    ----------
    image_shape : (int, int)
        (Y, X) in pixels.
    sigma : float or (float, float)
        Width in focus, px; a pair is for x and y.
    focus : (float, float)
        Depth in µm at which the spot is narrowest along x, and along y.
    depth : float or (float, float)
        Distance from its focus, µm, at which a width has grown by :math:`\sqrt 2`.
    cubic, quartic : float or (float, float)
        The coefficients :math:`A_3` and :math:`A_4` below.
    z_range : (float, float)
        Depths that a fit may give, µm.

    Raises
    ------
    ValueError
        A width or depth that is not positive, or a curve that gives a width of zero in `z_range`.

    Notes
    -----
    .. math:: \sigma_x(z)^2 = \sigma_0^2 \left(1 + t^2 + A_3 t^3 + A_4 t^4\right), \qquad
        t = (z - c_x) / d ,

    and the same for y with its own constants :cite:p:`huang2008`. The constants are weights of the
    renderer, so that they can be learned from a bead stack. Derived in
    :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> import numpy as np
    >>> spots = Gaussian3D((13, 13))
    >>> image = spots.render({"z": [-0.25, 0.25], "photons": 1000.0, "background": 0.0})
    >>> wide_in_x, wide_in_y = (abs(np.fft.fft2(i)) for i in image)
    >>> bool(wide_in_x[0, 1] < wide_in_x[1, 0]), bool(wide_in_y[0, 1] > wide_in_y[1, 0])
    (True, True)
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        sigma: float | tuple[float, float] = 1.3,
        focus: tuple[float, float] = (0.25, -0.25),
        depth: float | tuple[float, float] = 0.4,
        cubic: float | tuple[float, float] = 0.0,
        quartic: float | tuple[float, float] = 0.0,
        z_range: tuple[float, float] = (-0.6, 0.6),
    ) -> None:
        z = Param("z", "µm", Bounded(*z_range), start=sum(z_range) / 2)
        super().__init__(image_shape, [*light_params(image_shape), z])
        given = {"sigma": sigma, "focus": focus, "depth": depth, "cubic": cubic, "quartic": quartic}
        for name, value in given.items():
            pair = torch.as_tensor(value, dtype=torch.float32).broadcast_to((2,)).clone()
            if name in ("sigma", "depth") and not bool((pair > 0).all()):
                raise ValueError(f"{name} is {value}: give a length above zero")
            setattr(self, name, torch.nn.Parameter(pair))
        with torch.no_grad():
            depths = torch.linspace(*z_range, 201)
            if not all(bool((self._squared(depths, axis)[0] > 0).all()) for axis in (0, 1)):
                raise ValueError(
                    f"cubic {cubic} and quartic {quartic} give a width of zero between "
                    f"{z_range[0]} and {z_range[1]} µm: check them or narrow z_range"
                )

    sigma: torch.nn.Parameter
    focus: torch.nn.Parameter
    depth: torch.nn.Parameter
    cubic: torch.nn.Parameter
    quartic: torch.nn.Parameter

    def calibration(self) -> torch.Tensor:
        """The constants of both axes, (5, 2): width, focus, depth, cubic, quartic."""
        return torch.stack([self.sigma, self.focus, self.depth, self.cubic, self.quartic]).detach()

    def _squared(self, z, axis):
        """Square of the width relative to focus, and its derivative by z."""
        focus, depth, cubic, quartic = (
            getattr(self, name)[axis].to(z) for name in ("focus", "depth", "cubic", "quartic")
        )
        t = (z - focus) / depth
        value = 1 + t**2 * (1 + t * (cubic + t * quartic))
        return value, t * (2 + t * (3 * cubic + t * 4 * quartic)) / depth

    def widths(self, full: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Standard deviations along x and y, each (B, K), in px."""
        z = full["z"]
        return tuple(self.sigma[axis].to(z) * self._squared(z, axis)[0].sqrt() for axis in (0, 1))

    def width_slopes(
        self, full: Mapping[str, torch.Tensor], name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Derivatives of both widths by z."""
        z = full["z"]
        slopes = []
        for axis in (0, 1):
            value, slope = self._squared(z, axis)
            slopes.append(self.sigma[axis].to(z) * slope / (2 * value.sqrt()))
        return tuple(slopes)
