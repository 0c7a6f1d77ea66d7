"""Fusion of aligned frames by attention over time and over space (TSA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..stems import CENTRE, each_frame
from .alignment import active, conv, enlarged


class AttentionFusion(nn.Module):
    r"""Weigh aligned frames pixel by pixel, merge them, and weigh the result in space.

    Frame i counts at each pixel with

    .. math:: w_i = \sigma\bigl( \langle \theta(F_i),\; \varphi(F_\mathrm{centre}) \rangle \bigr) ,

    two embeddings and a sigmoid: the weights of different frames do not compete :cite:p:`wang2019`.
    Shown in :doc:`/book/xray/03_edvr`.

    Examples
    --------
    >>> fuse = AttentionFusion(8, 5)
    >>> frames = torch.randn(2, 5, 8, 12, 16)
    >>> fuse(frames).shape, fuse.weights(frames).shape
    (torch.Size([2, 8, 12, 16]), torch.Size([2, 5, 12, 16]))
    """

    def __init__(self, width: int, n_frames: int) -> None:
        super().__init__()
        self.embed_centre = conv(width, width)
        self.embed = conv(width, width)
        self.merge = nn.Conv2d(n_frames * width, width, 1)
        self.squeeze = nn.Conv2d(n_frames * width, width, 1)
        self.pool1 = nn.Conv2d(2 * width, width, 1)
        self.level = nn.Conv2d(width, width, 1)
        self.pool2 = conv(2 * width, width)
        self.level2 = conv(width, width)
        self.level1 = conv(width, width)
        self.settle = nn.Conv2d(width, width, 1)
        self.factor = conv(width, width)
        self.term = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, width, 1)
        )

    def weights(self, frames: torch.Tensor) -> torch.Tensor:
        """Weight (B, T, h, w) between 0 and 1 of every frame at every pixel."""
        centre = self.embed_centre(frames[:, CENTRE])[:, None]
        return (each_frame(self.embed, frames) * centre).sum(2).sigmoid()

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Aligned frames (B, T, C, h, w) to features (B, C, h, w)."""
        weighted = (frames * self.weights(frames)[:, :, None]).flatten(1, 2)
        features = active(self.merge(weighted))
        fine = active(self.pool1(pooled(active(self.squeeze(weighted)))))
        coarse = active(self.pool2(pooled(active(self.level(fine)))))
        coarse = enlarged(active(self.level2(coarse)))
        attention = active(self.settle(active(self.level1(fine)) + coarse))
        attention = self.factor(enlarged(attention))
        return 2 * features * attention.sigmoid() + self.term(attention)


def pooled(x: torch.Tensor) -> torch.Tensor:
    """The largest and the mean value around every second pixel, (N, 2 C, h / 2, w / 2)."""
    largest = F.max_pool2d(x, 3, stride=2, padding=1)
    return torch.cat([largest, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
