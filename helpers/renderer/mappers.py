r"""Mappers: the numbers of an encoder become named physical parameters.

A mapper knows from the renderer which parameters there are, and tells the encoder how many numbers
it wants. A number of 0 always means the `start` of its parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..training.seeds import seed_of, seeded
from ._channels import Channel, small
from .renderers.base import Renderer

__all__ = ["Centroid", "Direct", "ImageMapper", "Stacked"]


class Mapper(nn.Module):
    """Base class of the mappers: the parameters to find, and their order.

    Parameters
    ----------
    emitters : int
        Emitters in an image.
    fit : sequence of str, optional
        Parameters to find; all others stay at their `start`. Default: all.
    """

    takes = "vectors"

    def __init__(self, emitters: int = 1, fit: Sequence[str] | None = None) -> None:
        super().__init__()
        if emitters != int(emitters) or emitters < 1:
            raise ValueError(f"emitters is {emitters}: give a whole number, at least 1")
        self.emitters = int(emitters)
        self.fit = None if fit is None else tuple(fit)

    def connect(self, renderer: Renderer) -> list[Channel]:
        """Choose among the parameters of a renderer; gives the channels that are wanted."""
        name = type(renderer).__name__
        unknown = [] if self.fit is None else [n for n in self.fit if n not in renderer.params]
        if unknown:
            raise ValueError(
                f"fit names {', '.join(unknown)} but {name} has {', '.join(renderer.params)}"
            )
        names = renderer.params if self.fit is None else self.fit
        chosen = [renderer.params[n] for n in names]
        self.own = [param for param in chosen if param.per_emitter]
        self.maps = [param for param in chosen if param.per_pixel]
        self.shared = [p for p in chosen if not p.per_emitter and not p.per_pixel]
        self.image_shape = renderer.image_shape
        self.check(name)
        return self.channels()

    def check(self, name: str) -> None:
        """Refuse a renderer of this name whose parameters this mapper cannot give."""
        if self.maps:
            wanted = ", ".join(param.name for param in self.maps)
            raise ValueError(
                f"{type(self).__name__} gives a few numbers for each image, but {name} needs "
                f"{wanted} in every pixel: use ImageMapper"
            )
        if self.emitters > 1 and not self.own:
            raise ValueError(
                f"{type(self).__name__} has {self.emitters} emitters, but {name} has no "
                "parameter of single emitters: leave emitters at 1"
            )

    def channels(self) -> list[Channel]:
        """Outputs wanted of the encoder: emitters innermost, then numbers of the whole image."""
        own = [Channel(param, k) for param in self.own for k in range(self.emitters)]
        return own + [Channel(param) for param in self.shared]

    def _values(self, raw):
        """Parameters by name from numbers (B, channels) in the order of `channels`."""
        values, at = {}, 0
        for param in self.own:
            values[param.name] = param.value(raw[:, at : at + self.emitters])
            at += self.emitters
        for n, param in enumerate(self.shared, at):
            values[param.name] = param.value(raw[:, n])
        return values


class Direct(Mapper):
    """Each number is one parameter.

    Parameters
    ----------
    emitters : int
        Emitters in an image.
    fit : sequence of str, optional
        Parameters to find; all others stay at their `start`. Default: all.

    Notes
    -----
    Takes vectors, from a `ConvEncoder` or `PerImage`. See
    :doc:`/book/renderer/02_learn_without_labels`.

    Examples
    --------
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> mapper = Direct(emitters=2, fit=("x", "y"))
    >>> [(c.param.name, c.emitter) for c in mapper.connect(Gaussian2D((13, 13)))]
    [('x', 0), ('x', 1), ('y', 0), ('y', 1)]
    >>> {name: tuple(value.shape) for name, value in mapper(torch.zeros(5, 4)).items()}
    {'x': (5, 2), 'y': (5, 2)}
    """

    def forward(self, raw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters by name from numbers (B, channels)."""
        return self._values(raw)


class Stacked(Mapper):
    r"""Several numbers for each emitter, which one small network for all emitters makes use of.

    Parameters
    ----------
    emitters : int
        Emitters in an image.
    fit : sequence of str, optional
        Parameters to find; all others stay at their `start`. Default: all.
    features : int
        Further numbers for each emitter, beside its parameters.
    generator : torch.Generator, optional
        Draws the weights.

    Notes
    -----
    With the numbers of an emitter :math:`u_k`, first those that `Direct` would take, the network
    :math:`g` adds a correction, :math:`\theta_k = \theta(u_k + g(u_k))`. The weights are the same
    for every emitter: what a number means does not depend on the place of its emitter in the list.

    Examples
    --------
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> mapper = Stacked(emitters=3, features=8)
    >>> channels = mapper.connect(Gaussian2D((13, 13)))
    >>> mapper(torch.zeros(5, len(channels)))["photons"].shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        emitters: int = 1,
        fit: Sequence[str] | None = None,
        *,
        features: int = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(emitters, fit)
        if features != int(features) or features < 1:
            raise ValueError(f"features is {features}: give a whole number, at least 1")
        self.features, self.seed = int(features), seed_of(generator)
        self.mix: Any = None

    def check(self, name: str) -> None:
        """Refuse a renderer of this name without emitters."""
        super().check(name)
        if not self.own:
            raise ValueError(f"Stacked has nothing to stack, {name} has no emitters: use Direct")

    def channels(self) -> list[Channel]:
        """Numbers of the parameters, then of the whole image, then the features."""
        n = len(self.own)
        if self.mix is None or self.mix[-1].out_features != n:
            with seeded(self.seed):
                first, last = nn.Linear(n + self.features, 32), small(nn.Linear(32, n))
            self.mix = nn.Sequential(first, nn.GELU(), last)
        extra = [Channel(None, k) for _ in range(self.features) for k in range(self.emitters)]
        return super().channels() + extra

    def forward(self, raw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters by name from numbers (B, channels)."""
        n, k = len(self.own), self.emitters
        named, features = raw[:, : n * k], raw[:, n * k + len(self.shared) :]
        each = torch.cat([named, features], 1).reshape(len(raw), -1, k).transpose(1, 2)
        own = (each[..., :n] + self.mix(each)).transpose(1, 2).reshape(len(raw), n * k)
        return self._values(torch.cat([own, raw[:, n * k : n * k + len(self.shared)]], 1))


class Centroid(Mapper):
    r"""A map for each emitter: where its mass is centred, and how much there is.

    Parameters
    ----------
    emitters : int
        Emitters in an image.
    fit : sequence of str, optional
        Parameters to find, x and y among them; all others stay at their `start`. Default: all.

    Notes
    -----
    From a map :math:`u` come the shares :math:`a_i = e^{u_i} / \sum_j e^{u_j}` of the pixels, and

    .. math:: x = \sum_i a_i x_i , \qquad y = \sum_i a_i y_i , \qquad
        N = N_0 \Big\langle e^{u_i} \Big\rangle ,

    with the start :math:`N_0` of `photons`. Further parameters of an emitter are maps that are read
    where it is, :math:`\sum_i a_i v_i`; those of the whole image are means of maps. The place is
    inside the image by construction. Takes maps, from a `UNet` or `PerImage`.

    Examples
    --------
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> mapper = Centroid(fit=("x", "y"))
    >>> channels = mapper.connect(Gaussian2D((5, 7)))
    >>> u = torch.zeros(1, len(channels), 5, 7)
    >>> u[0, 0, 1, 6] = 20.0
    >>> {name: round(float(value), 3) for name, value in mapper(u).items()}
    {'x': 3.0, 'y': -1.0}
    """

    takes = "maps"

    def check(self, name: str) -> None:
        """Refuse a renderer of this name without places."""
        super().check(name)
        missing = [n for n in ("x", "y") if n not in [param.name for param in self.own]]
        if missing:
            raise ValueError(
                f"Centroid finds places, but {' and '.join(missing)} is not among what is fitted "
                f"of {name}: use another mapper"
            )

    def channels(self) -> list[Channel]:
        """One map for each emitter, and one for each parameter that is not read from it."""
        self.by_mass = [param for param in self.own if param.name in ("x", "y", "photons")]
        self.read = [param for param in self.own if param not in self.by_mass]
        mass = [Channel(None, k) for k in range(self.emitters)]
        own = [Channel(param, k) for param in self.read for k in range(self.emitters)]
        return mass + own + [Channel(param) for param in self.shared]

    def forward(self, raw: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters by name from maps (B, channels, Y, X)."""
        height, width = raw.shape[2:]
        mass, rest = raw[:, : self.emitters].flatten(2), raw[:, self.emitters :].flatten(2)
        share = (mass - mass.amax(2, keepdim=True)).clamp(min=-30).softmax(2)
        across = torch.arange(width, dtype=raw.dtype, device=raw.device) - (width - 1) / 2
        down = torch.arange(height, dtype=raw.dtype, device=raw.device) - (height - 1) / 2
        values = {"x": share @ across.repeat(height), "y": share @ down.repeat_interleave(width)}
        for param in self.by_mass:
            if param.name == "photons":
                log_mean = mass.logsumexp(2) - math.log(height * width)
                values["photons"] = param.start * log_mean.exp()
        for param in self.read:
            here, rest = rest[:, : self.emitters], rest[:, self.emitters :]
            values[param.name] = param.value((share * here).sum(2))
        for n, param in enumerate(self.shared):
            values[param.name] = param.value(rest[:, n].mean(1))
        return values


class ImageMapper(Mapper):
    """Every pixel has its own value, for deconvolution and denoising.

    Parameters
    ----------
    fit : sequence of str, optional
        Parameters to find; all others stay at their `start`. Default: all.

    Notes
    -----
    Takes maps, from a `UNet` or `PerImage`. A parameter of the whole image is the mean of its map.

    Examples
    --------
    >>> from helpers.renderer.renderers import Passthrough
    >>> mapper = ImageMapper()
    >>> channels = mapper.connect(Passthrough((8, 8)))
    >>> [value.shape for value in mapper(torch.zeros(2, len(channels), 8, 8)).values()]
    [torch.Size([2, 8, 8])]
    """

    takes = "maps"

    def __init__(self, fit: Sequence[str] | None = None) -> None:
        super().__init__(1, fit)

    def check(self, name: str) -> None:
        """Refuse a renderer of this name without parameters in every pixel."""
        if self.own or not self.maps:
            has = ", ".join(param.name for param in self.own) or "no map"
            raise ValueError(
                f"ImageMapper gives a value in every pixel, but {name} takes {has}: use Direct "
                "or Centroid"
            )

    def channels(self) -> list[Channel]:
        """One map for each parameter."""
        return [Channel(param) for param in self.maps + self.shared]

    def forward(self, raw: torch.Tensor) -> dict[str, torch.Tensor]:
        r"""Parameters by name from maps (B, channels, \*image_shape)."""
        values = {param.name: param.value(raw[:, n]) for n, param in enumerate(self.maps)}
        for n, param in enumerate(self.shared, len(self.maps)):
            values[param.name] = param.value(raw[:, n].flatten(1).mean(1))
        return values
