r"""Encoders: images in, numbers without unit out; a mapper gives the numbers their meaning.

`ConvEncoder` gives a few numbers for each image, `UNet` maps of the size of the image, `PerImage`
free numbers that look at no image: with it a model is an ordinary fit.

`helpers.renderer.model.FitModel` connects an encoder to a mapper: it says how many channels are
wanted, and of what. An encoder that is connected again keeps its last layer if the channels are
the same, and gets a fresh one if not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ...training.seeds import seed_of, seeded
from .._channels import Channel, raw_near, small


def block(n_in: int, n_out: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with a leaky rectifier, which has a gradient everywhere."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
    )


class UNet(nn.Module):
    r"""Image to maps of the same size, at several scales.

    Parameters
    ----------
    image_shape : (int, int), optional
        (Y, X) that is checked; without it every image has its own size.
    width : int
        Channels at full size; they double at each of the `depth` levels below.
    depth : int
        How often the image is halved. An image whose sides are not multiples of ``2**depth`` is
        padded by its border pixels, and the maps are cropped back.
    in_channels, out_channels : int
        Images in and maps out; `helpers.renderer.model.FitModel` sets both.
    typical : float
        Brightness in photo-electrons that is about 1 for the network: images are divided by it,
        maps of a feedback are not.
        The same for all images, so that the network can know the noise of a brightness.
    generator : torch.Generator, optional
        Draws the weights.

    Raises
    ------
    ValueError
        A number out of range; when called, an image of another shape.

    Notes
    -----
    The network of :cite:t:`ronneberger2015`, with padded convolutions. One pixel of the output
    depends on about :math:`11 \cdot 2^d` pixels across at depth d. Used in
    :doc:`/book/renderer/02_learn_without_labels` and :doc:`/book/renderer/07_denoise`.

    Examples
    --------
    >>> UNet(out_channels=2)(torch.rand(3, 21, 30)).shape
    torch.Size([3, 2, 21, 30])
    """

    gives = ("maps",)
    reads_images = True

    def __init__(
        self,
        image_shape: Sequence[int] | None = None,
        *,
        width: int = 16,
        depth: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        typical: float = 100.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = _checked_shape(image_shape)
        numbers = {"width": width, "depth": depth, "in": in_channels, "out": out_channels}
        for name, value in numbers.items():
            if value != int(value) or value < 1:
                raise ValueError(f"{name} is {value}: give a whole number, at least 1")
        if not typical > 0:
            raise ValueError(f"typical is {typical}: give a positive number of photo-electrons")
        self.depth, self.typical = depth, float(typical)
        self.channels: list[Channel] | None = None
        self.in_channels = self.images = in_channels
        self.seed = seed_of(generator)
        sizes = [width * 2**level for level in range(depth + 1)]
        with seeded(self.seed):
            self.down = nn.ModuleList(
                block(a, b) for a, b in zip([in_channels, *sizes], sizes, strict=False)
            )
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(below, here, 2, stride=2)
                for here, below in zip(sizes, sizes[1:], strict=False)
            )
            self.join = nn.ModuleList(block(2 * here, here) for here in sizes[:-1])
            self.head = nn.Conv2d(width, out_channels, 1)

    def connect(
        self,
        kind: str,
        channels: Sequence[Channel],
        in_channels: int,
        shape: Sequence[int] | None = None,
    ) -> None:
        """Take `in_channels` maps and give as many as there are `channels`, of the same shape."""
        block: Any = self.down[0]
        first, head = block[0], self.head
        with seeded(self.seed):
            if first.in_channels != in_channels:
                block[0] = nn.Conv2d(in_channels, first.out_channels, 3, padding=1)
                self.in_channels = in_channels
            if list(channels) != self.channels:
                self.channels = list(channels)
                self.head = small(nn.Conv2d(head.in_channels, len(channels), 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, out_channels, Y, X) of images (B, Y, X) or (B, in_channels, Y, X)."""
        x = _with_channels(images, self.in_channels, self.image_shape)
        x = torch.cat([x[:, : self.images] / self.typical, x[:, self.images :]], 1)
        height, width = x.shape[-2:]
        step = 2**self.depth
        x = functional.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        passed = []
        for level, convolve in enumerate(self.down):
            x = convolve(x if level == 0 else functional.max_pool2d(x, 2))
            passed.append(x)
        x = passed.pop()
        for level in reversed(range(self.depth)):
            x = self.join[level](torch.cat([passed[level], self.up[level](x)], 1))
        return self.head(x)[..., :height, :width]


class ConvEncoder(nn.Module):
    r"""Image to a few numbers: look where the light is, then closer.

    Parameters
    ----------
    image_shape : (int, int)
        (Y, X) in pixels, any size.
    spot : float
        Standard deviation of a typical spot in px, at which the matched filter starts. It is
        learned, like everything else.
    width : int
        Maps of the convolutions.
    hidden : int
        Numbers in a layer of the small network that looks closer.
    generator : torch.Generator, optional
        Draws the weights.

    Raises
    ------
    ValueError
        A number out of range; when called, an image of another shape.

    Notes
    -----
    A matched filter :math:`m`, a Gaussian at first, and maps :math:`f` on a grid of every second
    pixel vote for the place of the emitter,

    .. math:: a = \mathrm{softmax}(\beta m + w \cdot f), \qquad
        \bar{\mathbf r} = \sum_i a_i \mathbf r_i .

    A network then sees :math:`m` on 5 x 5 pixels around :math:`\bar{\mathbf r}`, by linear
    interpolation, and :math:`f` there; it corrects the place, and scales the light that the filter
    has found. An image is shifted to mean 0 and scaled to variance 1 first, so a brighter image
    gives the same place and more photons. With several emitters only the votes near the
    best one count, and for the next emitter they are taken away: emitters come by falling
    prominence. Parameters called x, y, photons and background
    start from what the image says, all others from their `start`.

    Built up in :doc:`/book/renderer/02_learn_without_labels`.

    Examples
    --------
    >>> from helpers.renderer._channels import Channel
    >>> from helpers.renderer.params import Param, Real
    >>> encoder = ConvEncoder((24, 40))
    >>> encoder.connect("vectors", [Channel(Param("z", "µm", Real()), 0)], 1)
    >>> encoder(torch.rand(5, 24, 40)).shape
    torch.Size([5, 1])
    """

    gives = ("vectors",)
    reads_images = True

    def __init__(
        self,
        image_shape: Sequence[int] | None,
        *,
        spot: float = 2.0,
        width: int = 24,
        hidden: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = _checked_shape(image_shape)
        if not spot > 0 or width < 1 or hidden < 1:
            raise ValueError(f"spot is {spot}, width {width}, hidden {hidden}: give positive ones")
        self.spot, self.emitters = float(spot), 1
        self.channels: list[Channel] = []
        self.seed = seed_of(generator)
        reach = 2 * math.ceil(spot)
        profile = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * spot**2))
        profile = profile / profile.sum()
        with seeded(self.seed):
            self.trunk = nn.Sequential(
                nn.Conv2d(1, 16, 5, stride=2, padding=2),
                nn.LeakyReLU(0.1),
                nn.Conv2d(16, width, 3, padding=1),
                nn.LeakyReLU(0.1),
            )
            self.residual = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.1))
            self.vote = small(nn.Conv2d(width, 1, 1, bias=False))
            self.closer = nn.Sequential(
                nn.Linear(25 + width + 5, hidden),
                nn.LeakyReLU(0.1),
                nn.Linear(hidden, hidden),
                nn.LeakyReLU(0.1),
            )
            self.filter = nn.Conv2d(1, 1, 2 * reach + 1, padding=reach, bias=False)
        self.filter.weight.data[0, 0] = profile[:, None] * profile
        self.beta = nn.Parameter(torch.tensor(4.0))
        height, across = self.image_shape
        down = 2 * torch.arange((height + 1) // 2) + 0.5 - (height - 1) / 2
        right = 2 * torch.arange((across + 1) // 2) + 0.5 - (across - 1) / 2
        places = torch.cartesian_prod(down, right).reshape(-1, 2).flip(-1)
        self.register_buffer("places", places, persistent=False)  # (n, 2) of x, y in px
        near = torch.arange(-2.0, 3.0)
        window = torch.stack(torch.meshgrid(near, near, indexing="xy"), -1)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("extent", torch.tensor([across, height]) / 2, persistent=False)

    def connect(
        self,
        kind: str,
        channels: Sequence[Channel],
        in_channels: int,
        shape: Sequence[int] | None = None,
    ) -> None:
        """Take `in_channels` maps and give one number for each of `channels`."""
        with seeded(self.seed):
            if self.trunk[0].in_channels != in_channels:
                self.trunk[0] = nn.Conv2d(in_channels, 16, 5, stride=2, padding=2)
            if list(channels) != self.channels:
                self._make_heads(list(channels))

    def _make_heads(self, channels):
        self.channels = channels
        self.emitters = 1 + max((c.emitter for c in channels if c.emitter is not None), default=0)
        self.own = [c.param for c in channels if c.emitter == 0]  # the same for every emitter
        self.shared = [c.param for c in channels if c.emitter is None]
        hidden, width = self.closer[-2].out_features, self.vote.in_channels
        self.own_head = small(nn.Linear(hidden, len(self.own))) if self.own else None
        pooled = hidden + 2 * width
        self.shared_head = small(nn.Linear(pooled, len(self.shared))) if self.shared else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Numbers (B, channels) of images (B, Y, X) or (B, in_channels, Y, X)."""
        x = _with_channels(images, self.trunk[0].in_channels, self.image_shape)
        mean = x[:, 0].mean((1, 2))
        spread = (x[:, 0].var((1, 2), correction=0) + 1e-12).sqrt()  # also of an empty image
        light = (x[:, :1] - mean.view(-1, 1, 1, 1)) / spread.view(-1, 1, 1, 1)
        maps = self.trunk(torch.cat([light, x[:, 1:]], 1))
        maps = maps + self.residual(maps)
        filtered = self.filter(light)
        coarse = functional.avg_pool2d(filtered, 2, ceil_mode=True)
        votes = (self.vote(maps) + self.beta * coarse).flatten(1)
        numbers, total, seen = [], 0.0, []
        for _ in range(self.emitters):
            share = self._shares(votes)
            place = share @ self.places
            local = torch.einsum("bn,bcn->bc", share, maps.flatten(2))
            hidden, height = self._look(filtered, place, local, mean, spread)
            flux = height * spread * 4 * math.pi * self.spot**2
            outputs = [] if self.own_head is None else self.own_head(hidden).unbind(1)
            values = [
                self._own(param, output, place, flux)
                for param, output in zip(self.own, outputs, strict=True)
            ]
            numbers.append(values)
            photons = [n for n, p in enumerate(self.own) if p is not None and p.name == "photons"]
            total = total + (flux * outputs[photons[0]].exp() if photons else flux)
            seen.append(hidden)
            apart = (self.places - place.detach()[:, None]).square().sum(-1)
            votes = votes - 50 * torch.exp(-apart / (2 * (1.5 * self.spot) ** 2))
        result = [value for values in zip(*numbers, strict=True) for value in values]
        if self.shared:
            pooled = [sum(seen) / len(seen), maps.mean((2, 3)), maps.amax((2, 3))]
            outputs = self.shared_head(torch.cat(pooled, 1)).unbind(1)
            empty = mean - total / light[0].numel()
            for param, output in zip(self.shared, outputs, strict=True):
                from_image = param.name == "background"
                result.append(raw_near(param, empty + spread * output) if from_image else output)
        return torch.stack(result, 1)

    def _shares(self, votes):
        """Votes to shares; with several emitters only near the best, or they would be averaged."""
        if self.emitters > 1:
            best = self.places[votes.argmax(1)]
            apart = (self.places - best[:, None]).square().sum(-1)
            votes = votes.masked_fill(apart > (3 * self.spot) ** 2, float("-inf"))
        # far below the best vote nothing changes but the speed: denormal numbers are slow
        return (votes - votes.amax(1, keepdim=True)).clamp(min=-30).softmax(1)

    def _look(self, filtered, place, local, mean, spread):
        """Features of the surroundings of a place, and the peak there."""
        at = (place[:, None, None] + self.window) / self.extent
        near = functional.grid_sample(filtered, at, align_corners=False).flatten(1)
        height = near.amax(1).clamp(min=1e-3)
        level = [spread.log() / 8, height.log(), (mean / spread / 8).clamp(-4, 4)]
        parts = [near / height[:, None], local, place / self.extent, torch.stack(level, 1)]
        return self.closer(torch.cat(parts, 1)), height

    def _own(self, param, output, place, flux):
        name = None if param is None else param.name
        if name == "x" or name == "y":
            return raw_near(param, place[:, "xy".index(name)] + output)
        return raw_near(param, flux * output.exp()) if name == "photons" else output


def _checked_shape(shape):
    if shape is None:
        return None
    shape = tuple(int(n) for n in shape)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"image_shape is {shape}: a network takes images (Y, X)")
    return shape


def _with_channels(images, channels, shape):
    x = images[:, None] if images.ndim == 3 else images
    if x.ndim != 4 or x.shape[1] != channels or (shape and tuple(x.shape[2:]) != shape):
        wanted = shape or ("Y", "X")
        raise ValueError(
            f"images are {tuple(images.shape)}: give (B, {', '.join(map(str, wanted))})"
            + (f", with {channels} channels after B" if channels > 1 else "")
        )
    return x
