"""Base, stems and heads of the networks: two cameras' frames in, one image out.

Each network of this part has five frames on the coarse grid: three of the fast camera, then the
key frame before and the key frame after. There are two ways in and out: the published one, and one
that never lets go of the key frames' detail.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import nn

from .._arrays import in_float32
from ..training.schedule import Schedule
from .baselines import check_inputs, detail_injection
from .cameras import BOOK_CAMERA, SCALE, CoarseCamera, pad_to, pad_up

__all__ = ["PooledStem", "SharpStem"]

N_FRAMES = 5
CENTRE = 1  # of them: the fast frame of the target's time
GREY = 0.7  # between metal and the open beam, so that what convolutions pad with is neither


class FusionNetwork(nn.Module):
    """A network from three coarse frames and two key frames to the image of the middle time.

    A subclass has an ``estimate(lr, hr, tau, camera)`` for frames whose coarse sides are multiples
    of `multiple`, the configurations `presets`, and a constructor ``(config, *, generator=None)``.
    `recipes` are schedules of their published trainings, as far as there is one.
    It works on coarse pixels of 4 x 4 sharp ones, on transmission; frames of another camera are
    brought there when the network is told which it is.
    """

    presets: ClassVar[dict[str, Any]] = {}
    recipes: ClassVar[dict[str, Schedule]] = {}
    multiple = 1

    @classmethod
    def preset(cls, name: str, *, generator: torch.Generator | None = None) -> Self:
        """Make the network of a name in `presets`, with fresh weights.

        Parameters
        ----------
        name : str
            Such as "full" or "small"; the notes of the class say which is which.
        generator : torch.Generator, optional
            Of the weights at the start. Default: torch's own stream.

        Raises
        ------
        ValueError
            Another name.
        """
        if name not in cls.presets:
            names = ", ".join(cls.presets)
            raise ValueError(f"no {cls.__name__} is called {name!r}: use one of {names}")
        return cls(cls.presets[name], generator=generator)

    @property
    def trained_for(self) -> CoarseCamera | None:
        """The one camera whose frames it has seen; None for a network that is told its camera."""
        return BOOK_CAMERA

    def forward(
        self,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera | None = None,
    ) -> torch.Tensor:
        """Transmission (B, 1, Y, X) of the target.

        Parameters
        ----------
        lr : (B, 3, 1, h, w) tensor
            Fast frames before, at and after the target.
        hr : (B, 2, 1, Y, X) tensor
            Key frames before and after the target; Y is the scale of the camera times h.
        tau : (B,) tensor
            Place of the target between the key frames, 0..1.
        camera : CoarseCamera, optional
            The camera of `lr`. Default: that of the book, with transmission as its readings.
        """
        check_inputs(lr, hr, tau, camera)
        height, width = hr.shape[-2:]
        if camera is None:
            camera = BOOK_CAMERA
        else:
            lr, camera = self._brought(lr, camera)
        hr = pad_to(hr, SCALE * self.multiple)
        lr = pad_up(lr, (hr.shape[-2] // SCALE, hr.shape[-1] // SCALE))
        return self.estimate(lr, hr, tau, camera)[..., :height, :width]

    def _brought(self, lr: torch.Tensor, camera: CoarseCamera) -> tuple[torch.Tensor, CoarseCamera]:
        """Frames as transmission on the grid of the network, and the camera that they are of."""
        lr = camera.transmission(lr)
        lr, camera = replace(camera, gain=1.0, offset=0.0).to_grid(lr)
        if self.trained_for is not None:
            lr, camera = camera.soften(lr, float(self.trained_for.sigma))
        return lr, camera

    def estimate(
        self, lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: CoarseCamera
    ) -> torch.Tensor:
        """Image (B, 1, 4h, 4w) of frames that are checked, brought to the grid and padded."""
        raise NotImplementedError


@in_float32
def exactly(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply the layer that makes the image: 8 bits of one would be seen in it."""
    out: torch.Tensor = layer(x)
    return out


def each_frame(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer for images (N, C, h, w) to every frame of (B, T, C, h, w)."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Residual(nn.Module):
    """Two convolutions beside the identity, a tenth of the usual size at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.constant_(conv.get_parameter("bias"), 0.0)
            with torch.no_grad():
                conv.weight.mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))


class PooledStem(nn.Module):
    """The published way in: key frames shrink to the coarse grid through two max-pools.

    `width` channels stand for the 16 fine pixels of a coarse one, and a maximum forgets where it
    was found: stripes and their negative give equal features, whatever the weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lr = nn.Conv2d(1, width, 3, padding=1)
        self.hr = nn.ModuleList(
            nn.Conv2d(inputs, width, 3, padding=1) for inputs in (1, width, width)
        )

    @in_float32
    def forward(
        self,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera = BOOK_CAMERA,
    ) -> torch.Tensor:
        """Features (B, 5, C, h, w); `tau` and `camera` are not used."""
        coarse = F.leaky_relu(each_frame(self.lr, lr), 0.1)
        fine = F.leaky_relu(each_frame(self.hr[0], hr), 0.1).flatten(0, 1)
        for conv in self.hr[1:]:
            fine = F.max_pool2d(F.leaky_relu(conv(fine), 0.1), 3, stride=2, padding=1)
        return torch.cat([coarse, fine.unflatten(0, hr.shape[:2])], dim=1)


class SharpStem(nn.Module):
    """Key frames enter without loss: the 16 fine pixels of a coarse one become 16 channels.

    Two more channels say where a key frame is outdated (the fast frame less what the fast camera
    would have seen of the key frame) and how far away in time it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lr = nn.Conv2d(1, width, 3, padding=1)
        self.hr = nn.Conv2d(SCALE**2 + 2, width, 3, padding=1)

    @in_float32
    def forward(
        self,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera = BOOK_CAMERA,
    ) -> torch.Tensor:
        """Features (B, 5, C, h, w)."""
        news = lr[:, CENTRE, None] - camera(hr)
        gap = torch.stack([tau, 1 - tau], dim=1)[..., None, None, None].expand_as(news)
        fine = torch.cat([F.pixel_unshuffle(hr - GREY, SCALE), 4 * news, gap - 0.5], dim=2)
        features = [each_frame(self.lr, lr - GREY), each_frame(self.hr, fine)]
        return F.leaky_relu(torch.cat(features, dim=1), 0.1)


class SharpHead(nn.Module):
    """The way out with the key frames in sight: a correction to the detail-injection estimate.

    The features are laid beside the key frames and the classical estimate, all on half the fine
    grid with the four pixels of a square as channels, so that nothing is lost. Two residual blocks
    make a correction of them, which is zero before any training.
    """

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(width, 4 * head_width, 1)
        self.mix = nn.Conv2d(head_width + 12, head_width, 3, padding=1)
        self.settle = nn.Sequential(*(Residual(head_width) for _ in range(2)))
        self.last = nn.Conv2d(head_width, 4, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        features: torch.Tensor,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera = BOOK_CAMERA,
    ) -> torch.Tensor:
        """Image (B, 1, 4h, 4w) from features (B, C, h, w) and the frames."""
        base = detail_injection(lr, hr, tau, camera)
        frames = torch.cat([base - GREY, hr[:, :, 0] - base], dim=1)
        features = F.pixel_shuffle(self.up(features), 2)
        seen = torch.cat([features, F.pixel_unshuffle(frames, 2)], dim=1)
        correction = exactly(self.last, self.settle(F.leaky_relu(self.mix(seen), 0.1)))
        return base + F.pixel_shuffle(correction, 2)
