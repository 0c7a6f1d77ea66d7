r"""Feedback: what the renderer has learned so far, shown to the encoder.

The state of a renderer is its picture of one emitter in the middle of the image, without
background, scaled to a peak of 1. A renderer that learns a template or a pupil changes it with
every step. Each kind of feedback adds one map beside the image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from .renderers.base import Renderer

__all__ = ["Concat", "Correlate", "Difference"]


class Feedback(nn.Module):
    """Base class: a feedback shows the encoder the state of the renderer."""

    def connect(self, renderer: Renderer) -> int:
        """Check that there is something to show; gives the number of maps that are added."""
        name = type(renderer).__name__
        if next(renderer.parameters(), None) is None:
            raise ValueError(
                f"{name} has no weights, so its state never changes: leave feedback out"
            )
        if any(param.per_pixel for param in renderer.params.values()):
            raise ValueError(f"{name} has no picture of one emitter: leave feedback out")
        return 1

    def state(self, renderer: Renderer) -> torch.Tensor:
        """Picture (Y, X) of one emitter by the renderer as it is now, from 0 to 1."""
        picture: torch.Tensor = renderer.expected(renderer.complete({}))[0]
        picture = picture - picture.amin()
        return picture / picture.amax().clamp(min=1e-12)

    map: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def forward(self, images: torch.Tensor, renderer: Renderer) -> torch.Tensor:
        """Images (B, 1 + maps, Y, X)."""
        return torch.stack([images, self.map(images, self.state(renderer))], 1)


class Concat(Feedback):
    """The state beside the image; no gradient flows back into the renderer through it.

    Examples
    --------
    >>> from helpers.renderer.renderers import Template
    >>> feedback, renderer = Concat(), Template((13, 13))
    >>> feedback.connect(renderer), feedback(torch.rand(4, 13, 13), renderer).shape
    (1, torch.Size([4, 2, 13, 13]))
    """

    def map(self, images: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The state for each image."""
        return state.detach().expand_as(images)


class Difference(Feedback):
    """The image, from 0 to 1, minus the state: what a centred emitter does not explain."""

    def map(self, images: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Residual of each image."""
        low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
        return (images - low) / (high - low).clamp(min=1e-12) - state.detach()


class Correlate(Feedback):
    r"""The image correlated with the middle of the state: a matched filter that is learned along.

    Parameters
    ----------
    size : int
        Side of the square that is cut from the middle of the state, odd.

    Notes
    -----
    With the picture :math:`h` of mean 0 and norm 1 and the image :math:`z` of mean 0 and variance
    1, the map is :math:`c_i = \sum_j h_j z_{i + j}`. Gradients flow into the renderer.
    """

    def __init__(self, size: int = 9) -> None:
        super().__init__()
        if size != int(size) or size < 3 or size % 2 == 0:
            raise ValueError(f"size is {size}: give an odd whole number, at least 3")
        self.size = int(size)

    def connect(self, renderer: Renderer) -> int:
        """Check that the square fits; gives 1."""
        if min(renderer.image_shape) < self.size:
            raise ValueError(
                f"size is {self.size} but images are {renderer.image_shape}: give a smaller one"
            )
        return super().connect(renderer)

    def map(self, images: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Correlation of each image with the picture, at each place."""
        top, left = ((n - self.size) // 2 for n in state.shape)
        picture = state[top : top + self.size, left : left + self.size]
        picture = picture - picture.mean()
        picture = picture / picture.norm().clamp(min=1e-12)
        variance, mean = torch.var_mean(images, (1, 2), correction=0, keepdim=True)
        z = (images - mean) / (variance + 1e-12).sqrt()
        return functional.conv2d(z[:, None], picture[None, None], padding=self.size // 2)[:, 0]
