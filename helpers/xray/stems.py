"""Stems and heads: the way of two cameras' frames into a network, and of an image out of it.

Each network of this part has five frames on the coarse grid: three of the fast camera, then the
key frame before and the key frame after. There are two ways in and out: the published one, and one
that never lets go of the key frames' detail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from .baselines import detail_injection
from .cameras import SCALE, coarsen, pad_to

__all__ = ["PooledStem", "SharpStem"]

N_FRAMES = 5
CENTRE = 1  # of them: the fast frame of the target's time
GREY = 0.7  # between metal and the open beam, so that what convolutions pad with is neither


def padded(lr: torch.Tensor, hr: torch.Tensor, multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat the last row and column until the coarse sides are multiples of `multiple`."""
    return pad_to(lr, multiple), pad_to(hr, SCALE * multiple)


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Draw what is drawn inside from `generator`, and leave torch's own stream as it was."""
    if generator is None:
        yield
        return
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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

    def forward(self, lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Features (B, 5, C, h, w); `tau` is not used."""
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

    def forward(self, lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Features (B, 5, C, h, w)."""
        news = lr[:, CENTRE, None] - coarsen(hr)
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
        self, features: torch.Tensor, lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor
    ) -> torch.Tensor:
        """Image (B, 1, 4h, 4w) from features (B, C, h, w) and the frames."""
        base = detail_injection(lr, hr, tau)
        frames = torch.cat([base - GREY, hr[:, :, 0] - base], dim=1)
        features = F.pixel_shuffle(self.up(features), 2)
        seen = torch.cat([features, F.pixel_unshuffle(frames, 2)], dim=1)
        correction = self.last(self.settle(F.leaky_relu(self.mix(seen), 0.1)))
        return base + F.pixel_shuffle(correction, 2)
