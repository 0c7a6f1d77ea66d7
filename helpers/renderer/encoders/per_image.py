"""Numbers that belong to one image each: an ordinary fit, in the place of an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...training.seeds import seed_of, seeded
from .._channels import Channel, raw_near


class PerImage(nn.Module):
    r"""Free numbers for each image: no network, an ordinary fit.

    Parameters
    ----------
    image_shape : tuple of int
        (Y, X) or (Z, Y, X).
    n_images : int
        How many images have numbers of their own.
    field : tuple of int, optional
        Shape of one large image or volume that the images are tiles of. The numbers are then maps
        of the whole field, and of the margin that its renderer wants around it; an image is chosen
        by the corner of its tile.
    start : dict, optional
        Physical values (n_images,) or (n_images, K) by name, such as the estimate of a network, to
        start from. Others begin at their `start`; several emitters are strewn over the image.
    generator : torch.Generator, optional
        Strews the emitters.

    Raises
    ------
    ValueError
        Shapes that do not go together; when called, images without a number of their own.

    Notes
    -----
    Numbers are looked up by the index of the image, so a step costs what its batch costs. With a
    renderer that convolves it is deconvolution, with tiles of a volume stochastic deconvolution.

    Examples
    --------
    >>> from helpers.renderer._channels import Channel
    >>> from helpers.renderer.params import Param, Real
    >>> encoder = PerImage((8, 8), 100)
    >>> encoder.connect("vectors", [Channel(Param("z", "µm", Real()), 0)], 1)
    >>> encoder(torch.tensor([3, 97])).shape
    torch.Size([2, 1])
    """

    gives = ("vectors", "maps")
    reads_images = False

    def __init__(
        self,
        image_shape: Sequence[int],
        n_images: int = 1,
        *,
        field: Sequence[int] | None = None,
        start: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(int(n) for n in image_shape)
        self.field = None if field is None else tuple(int(n) for n in field)
        self.n_images, self.start, self.seed = int(n_images), dict(start or {}), seed_of(generator)
        self.wanted: Any = None
        self.numbers: Any = None
        if self.n_images < 1:
            raise ValueError(f"n_images is {n_images}: give at least 1")
        if self.field and (
            len(self.field) != len(self.image_shape)
            or any(a < b for a, b in zip(self.field, self.image_shape, strict=True))
            or self.n_images != 1
        ):
            raise ValueError(
                f"tiles {self.image_shape} of a field {self.field} with n_images={n_images}: give "
                "one field, with as many axes, and no smaller than its tiles"
            )

    def connect(
        self,
        kind: str,
        channels: Sequence[Channel],
        in_channels: int,
        shape: Sequence[int] | None = None,
    ) -> None:
        """Make room for a number, or a map of a shape, for each of `channels`, and start it."""
        if kind == "vectors" and self.field:
            raise ValueError(
                f"PerImage has one field {self.field} for all tiles, but the mapper takes a few "
                "numbers for each image: use ImageMapper, or leave out field"
            )
        wanted = (kind, list(channels), shape)
        if wanted == self.wanted:
            return
        self.wanted, self.channels, self.map_shape = (
            wanted,
            list(channels),
            tuple(shape or self.image_shape),
        )
        named = {c.param.name for c in channels if c.param is not None}
        if kind == "maps" and self.start or self.start.keys() - named:
            raise ValueError(
                f"start holds {', '.join(self.start)}: it can hold numbers of an image called "
                f"{', '.join(sorted(named)) if kind == 'vectors' else '(none: these are maps)'}"
            )
        around = [a - b for a, b in zip(self.map_shape, self.image_shape, strict=True)]
        size = [n + more for n, more in zip(self.field or self.image_shape, around, strict=True)]
        size = size if kind == "maps" else []
        numbers = torch.zeros(self.n_images, len(channels), *size)
        with seeded(self.seed):
            strewn = torch.randn(numbers.shape) / 2
        several = any(c.emitter for c in channels)
        for n, (param, emitter) in enumerate(channels):
            if param is None or (several and emitter is not None and param.name not in self.start):
                numbers[:, n] = strewn[:, n]
            elif param.name in self.start:
                value = torch.as_tensor(self.start[param.name], dtype=torch.float32)
                value = value.reshape(self.n_images, -1)
                numbers[:, n] = raw_near(param, value)[:, min(emitter or 0, value.shape[1] - 1)]
        self.numbers = nn.Parameter(numbers)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        r"""Numbers of some images.

        Parameters
        ----------
        index : integer tensor (B,) or (B, 2) or (B, 3)
            Which images; with a field, the first pixels of the tiles.

        Returns
        -------
        tensor (B, channels) or (B, channels, \*image_shape)
        """
        last = torch.tensor([self.n_images] if self.field is None else self.field)
        last = last - (1 if self.field is None else torch.tensor(self.image_shape))
        asked = index.reshape(len(index), -1).cpu()
        if asked.shape[1] != len(last) or bool(((asked < 0) | (asked > last)).any()):
            raise ValueError(
                f"index {tuple(index.shape)} from {asked.min()} to {asked.max()}: give numbers of "
                f"images, or corners of tiles, from 0 to {last.tolist()}"
            )
        if self.field is None:
            return self.numbers[index]
        tiles = [
            self.numbers[(0, slice(None), *map(slice, corner, _end(corner, self.map_shape)))]
            for corner in asked.tolist()
        ]
        return torch.stack(tiles)


def _end(corner, shape):
    return [a + b for a, b in zip(corner, shape, strict=True)]
