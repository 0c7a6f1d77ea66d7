"""EDVR-STF: fusion in space and time by deformable alignment and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...training.schedule import Schedule
from ...training.seeds import seed_of, seeded
from ..cameras import BOOK_CAMERA, CoarseCamera
from ..stems import (
    CENTRE,
    N_FRAMES,
    FusionNetwork,
    PooledStem,
    Residual,
    SharpHead,
    SharpStem,
    exactly,
)
from .alignment import Pyramid, PyramidAlignment, conv
from .attention import AttentionFusion


@dataclass(frozen=True)
class EDVRConfig:
    """Sizes of an `EDVR`.

    Attributes
    ----------
    width : int
        Channels C of the features on the coarse grid.
    groups : int
        Offset groups of the deformable convolutions; divides `width`.
    n_extract, n_reconstruct : int
        Residual blocks before the alignment and after the fusion.
    head_width : int
        Channels on the fine grid.
    offset_gain : float
        See `DeformableConv`.
    sharp : bool
        Keep the key frames' detail: `SharpStem` and `SharpHead` instead of the published way in
        through max-pooling and out without a key frame, and a way for the features round the
        alignment.

    Raises
    ------
    ValueError
        Sizes below 1, or groups that do not divide the width.

    Examples
    --------
    >>> EDVRConfig().width
    128
    """

    width: int = 128
    groups: int = 8
    n_extract: int = 5
    n_reconstruct: int = 40
    head_width: int = 64
    offset_gain: float = 1.0
    sharp: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.groups, self.head_width) < 1 or self.width % self.groups:
            raise ValueError(
                f"{self.groups} groups do not divide a width of {self.width}: choose another"
            )


class EDVR(FusionNetwork):
    r"""Deformable alignment and attention over three coarse and two sharp frames.

    Parameters
    ----------
    config : EDVRConfig
    generator : torch.Generator, optional
        Of the weights at the start. Default: torch's own stream.

    Raises
    ------
    ValueError
        Frames whose shapes do not belong together.

    Notes
    -----
    Every frame becomes features on the coarse grid, is aligned to the centre by `PyramidAlignment`
    and weighed by `AttentionFusion`; residual blocks and two pixel-shuffles follow. The published
    network (``preset("full")``, 20 926 817 parameters :cite:p:`tang2025edvr`) adds the result to
    the bilinearly enlarged centre frame and does not look at tau. ``preset("small")`` keeps the key
    frames at hand up to its last layer, adds the result to `detail_injection`, knows tau, and lets
    features pass the alignment by.

    Coarse sides that are not multiples of 4 are padded by repeating the border, and the result is
    cut back. Explained in :doc:`/book/xray/03_edvr`.

    Examples
    --------
    >>> import torch
    >>> net = EDVR.preset("small")
    >>> lr, hr = torch.ones(1, 3, 1, 10, 12), torch.ones(1, 2, 1, 40, 48)
    >>> net(lr, hr, torch.tensor([0.5])).shape
    torch.Size([1, 1, 40, 48])
    """

    presets: ClassVar = {
        "full": EDVRConfig(),
        "small": EDVRConfig(16, 4, 2, 5, 16, offset_gain=0.1, sharp=True),
    }
    recipes: ClassVar = {
        "full": Schedule(
            600_000, learning_rate=1e-4, batch=8, patch=256, betas=(0.9, 0.99), save_every=1000
        )
    }
    multiple = 4  # two levels of the pyramid, each of half the size

    def __init__(self, config: EDVRConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.width
        with seeded(seed_of(generator)):
            self.stem = SharpStem(width) if config.sharp else PooledStem(width)
            self.extract = nn.Sequential(*(Residual(width) for _ in range(config.n_extract)))
            self.pyramid = Pyramid(width)
            self.align = PyramidAlignment(width, config.groups, config.offset_gain)
            self.fuse = AttentionFusion(width, N_FRAMES)
            self.around = conv(N_FRAMES * width, width) if config.sharp else None
            self.reconstruct = nn.Sequential(
                *(Residual(width) for _ in range(config.n_reconstruct))
            )
            head = SharpHead if config.sharp else PlainHead
            self.head = head(width, config.head_width)

    def aligned(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, 5, C, h, w) of the stem, aligned to the centre; sides multiples of 4."""
        batch = features.shape[:2]
        levels = self.pyramid(self.extract(features.flatten(0, 1)))
        reference = [level.unflatten(0, batch)[:, CENTRE] for level in levels]
        reference = [r.repeat_interleave(N_FRAMES, dim=0) for r in reference]
        return self.align(levels, reference).unflatten(0, batch)

    def estimate(
        self, lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: CoarseCamera
    ) -> torch.Tensor:
        """See `FusionNetwork`."""
        features = self.stem(lr, hr, tau, camera)
        fused = self.fuse(self.aligned(features))
        if self.around is not None:
            fused = fused + self.around(features.flatten(1, 2))
        # the sums of forty blocks are kept in the digits of the stem
        fused = self.reconstruct(fused.to(features.dtype))
        return self.head(fused, lr, hr, tau, camera)


class PlainHead(nn.Module):
    """The published way out: two pixel-shuffles, and the bilinearly enlarged centre frame."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.up1 = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.up2 = nn.Conv2d(width, 4 * head_width, 3, padding=1)
        self.mix = nn.Conv2d(head_width, head_width, 3, padding=1)
        self.last = nn.Conv2d(head_width, 1, 3, padding=1)

    def forward(
        self,
        features: torch.Tensor,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera = BOOK_CAMERA,
    ) -> torch.Tensor:
        """Image (B, 1, 4h, 4w) from features (B, C, h, w); only `lr` is used beside them."""
        for up in (self.up1, self.up2):
            features = F.leaky_relu(F.pixel_shuffle(up(features), 2), 0.1)
        detail = exactly(self.last, F.leaky_relu(self.mix(features), 0.1))
        centre = lr[:, CENTRE]
        return detail + F.interpolate(centre, scale_factor=4, mode="bilinear", align_corners=False)
