"""Alignment by a pyramid with a cascade (PCD): deformable convolutions from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..deform import DeformableConv

LEVELS = 3


class Pyramid(nn.Module):
    """Features at the full, half and quarter grid: strided convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(conv(width, width, stride=2) for _ in range(LEVELS - 1))
        self.again = nn.ModuleList(conv(width, width) for _ in range(LEVELS - 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, C, h, w) to a list of three, the finest first."""
        levels = [x]
        for down, again in zip(self.down, self.again, strict=True):
            levels.append(active(again(active(down(levels[-1])))))
        return levels


class PyramidAlignment(nn.Module):
    """Align the features of a frame to those of a reference.

    At each level a guide is computed from the frame, the reference and, below the coarsest, the
    guide of the level above (enlarged by 2, values times 2, as offsets in pixels must be). It moves
    the taps of a `DeformableConv` over the frame. What was aligned above is mixed in; one more
    deformable convolution on the finest level, guided by the result itself, is the cascade
    :cite:p:`wang2019`. Derived in :doc:`/book/xray/03_edvr`.

    Examples
    --------
    >>> align = PyramidAlignment(8, groups=2)
    >>> frame, reference = torch.randn(2, 1, 8, 12, 16)
    >>> pyramid = Pyramid(8)
    >>> align(pyramid(frame), pyramid(reference)).shape
    torch.Size([1, 8, 12, 16])
    """

    def __init__(self, width: int, groups: int, gain: float = 1.0) -> None:
        super().__init__()
        self.compare = nn.ModuleList(conv(2 * width, width) for _ in range(LEVELS))
        # the coarsest level has no guide from above
        self.refine = nn.ModuleList(
            conv((1 if level == LEVELS - 1 else 2) * width, width) for level in range(LEVELS)
        )
        self.settle = nn.ModuleList(conv(width, width) for _ in range(LEVELS - 1))
        self.deform = nn.ModuleList(DeformableConv(width, groups, gain) for _ in range(LEVELS))
        self.merge = nn.ModuleList(conv(2 * width, width) for _ in range(LEVELS - 1))
        self.cascade_guide = nn.Sequential(
            conv(2 * width, width), nn.LeakyReLU(0.1), conv(width, width), nn.LeakyReLU(0.1)
        )
        self.cascade = DeformableConv(width, groups, gain)

    def forward(
        self, frame: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Lists of (N, C, h, w), finest first, as of `Pyramid`; aligned features (N, C, h, w)."""
        top = LEVELS - 1
        guide = self.guide(top, frame[top], reference[top], None)
        aligned = active(self.deform[top](frame[top], guide))
        for level in reversed(range(top)):
            guide = self.guide(level, frame[level], reference[level], guide)
            moved = self.deform[level](frame[level], guide)
            moved = self.merge[level](torch.cat([moved, enlarged(aligned)], dim=1))
            aligned = active(moved) if level > 0 else moved
        guide = self.cascade_guide(torch.cat([aligned, reference[0]], dim=1))
        return active(self.cascade(aligned, guide))

    def guide(
        self, level: int, frame: torch.Tensor, reference: torch.Tensor, above: torch.Tensor | None
    ) -> torch.Tensor:
        """Features from which the offsets of one pyramid level are predicted, (N, C, h, w)."""
        guide = active(self.compare[level](torch.cat([frame, reference], dim=1)))
        if above is None:
            return active(self.refine[level](guide))
        guide = active(self.refine[level](torch.cat([guide, 2 * enlarged(above)], dim=1)))
        return active(self.settle[level](guide))


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the sides, or halves them."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def active(x: torch.Tensor) -> torch.Tensor:
    """The leaky rectifier of the network."""
    return F.leaky_relu(x, 0.1)


def enlarged(x: torch.Tensor) -> torch.Tensor:
    """Twice the sides, bilinear, by the convention of pixel centres."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
