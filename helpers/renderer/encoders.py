r"""Encoders: images in, numbers without unit out; a mapper gives the numbers their meaning.

`UNet` gives maps of the size of the image, `ConvEncoder` a few numbers for each image, `PerImage`
free numbers that look at no image: with it a model is an ordinary fit.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn import functional


@contextlib.contextmanager
def seeded(generator):
    """Draw what is drawn inside from `generator`, and leave torch's own stream as it was."""
    if generator is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


def block(n_in, n_out):
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
        Maps in and out; `helpers.renderer.model.FitModel` sets both.
    typical : float
        Brightness in photo-electrons that is about 1 for the network: images are divided by it.
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

    def __init__(
        self,
        image_shape=None,
        *,
        width=16,
        depth=2,
        in_channels=1,
        out_channels=1,
        typical=100.0,
        generator=None,
    ):
        super().__init__()
        self.image_shape = _checked_shape(image_shape)
        numbers = {"width": width, "depth": depth, "in": in_channels, "out": out_channels}
        for name, value in numbers.items():
            if value != int(value) or value < 1:
                raise ValueError(f"{name} is {value}: give a whole number, at least 1")
        if not typical > 0:
            raise ValueError(f"typical is {typical}: give a positive number of photo-electrons")
        self.depth, self.typical, self.in_channels = depth, float(typical), in_channels
        sizes = [width * 2**level for level in range(depth + 1)]
        with seeded(generator):
            self.down = nn.ModuleList(
                block(a, b) for a, b in zip([in_channels, *sizes], sizes, strict=False)
            )
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(below, here, 2, stride=2)
                for here, below in zip(sizes, sizes[1:], strict=False)
            )
            self.join = nn.ModuleList(block(2 * here, here) for here in sizes[:-1])
            self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, images):
        """Maps (B, out_channels, Y, X) of images (B, Y, X) or (B, in_channels, Y, X)."""
        x = _with_channels(images, self.in_channels, self.image_shape) / self.typical
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
