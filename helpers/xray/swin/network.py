"""SWIN-XVR: fusion in space and time by attention in shifted windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    SharpHead,
    SharpStem,
    each_frame,
    exactly,
)
from .windows import WindowAttention, window_shift


@dataclass(frozen=True)
class SwinConfig:
    """Sizes of a `SwinXVR`.

    Attributes
    ----------
    width : int
        Numbers E in a token; one token stands for one coarse pixel of one frame.
    depths : tuple of int
        Blocks in each group.
    heads : int
        Attention heads; divides `width`.
    window : (int, int, int)
        Window in frames and coarse pixels. With 5 frames it spans the whole time axis.
    head_width : int
        Channels on the fine grid.
    drop_path : float
        Chance that the last block is left out in a training step; from 0 at the first, linearly.
    sharp : bool
        Keep the key frames' detail: `SharpStem` and `SharpHead` instead of the published way in
        through max-pooling and out without any image, and a way for the features of all frames
        round the attention.

    Raises
    ------
    ValueError
        Heads that do not divide the width, or a window that does not divide the five frames.

    Examples
    --------
    >>> sum(SwinConfig().depths)
    24
    """

    width: int = 192
    depths: tuple = (2, 2, 18, 2)
    heads: int = 3
    window: tuple = (5, 8, 8)
    head_width: int = 64
    drop_path: float = 0.2
    sharp: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide a width of {self.width}: choose another"
            )
        if len(self.window) != 3 or min(self.window) < 1 or N_FRAMES % self.window[0]:
            raise ValueError(
                f"window is {self.window}: give three sides (T, h, w), T of 5 or 1, so that it "
                "divides the five frames"
            )


class SwinXVR(FusionNetwork):
    r"""Window attention over three coarse and two sharp frames.

    Parameters
    ----------
    config : SwinConfig
    generator : torch.Generator, optional
        Of the weights at the start. Default: torch's own stream.

    Raises
    ------
    ValueError
        Frames whose shapes do not belong together.

    Notes
    -----
    All frames' features on the coarse grid form one volume of tokens. Groups of `Block` with
    windows in place and shifted by half are followed by a convolution of each frame; the centre
    frame is enlarged by two pixel-shuffles. The published networks (``preset("full")``,
    10 009 033 parameters, and ``preset("actual")``, 38 294 545 :cite:p:`tang2025swin`) add nothing
    to the result, so they must learn the grey level itself, and do not look at tau.
    ``preset("small")`` keeps the key frames at hand up to its last layer, adds the result to
    `detail_injection`, knows tau, and lets features pass the attention by.

    Coarse sides that are not multiples of the window are padded by repeating the border, and the
    result is cut back. Explained in :doc:`/book/xray/04_swin`.

    Examples
    --------
    >>> net = SwinXVR.preset("small")
    >>> lr, hr = torch.ones(1, 3, 1, 10, 12), torch.ones(1, 2, 1, 40, 48)
    >>> net(lr, hr, torch.tensor([0.5])).shape
    torch.Size([1, 1, 40, 48])
    """

    presets: ClassVar = {
        "full": SwinConfig(),
        "actual": SwinConfig(width=384, heads=6, window=(5, 4, 4)),
        "small": SwinConfig(32, (2, 2), 2, (5, 4, 4), 16, drop_path=0.0, sharp=True),
    }
    recipes: ClassVar = dict.fromkeys(
        ("full", "actual"),
        Schedule(
            30_000,
            learning_rate=2e-4,
            batch=4,
            patch=96,
            ema=0.999,
            betas=(0.9, 0.99),
            save_every=500,
        ),
    )

    def __init__(self, config: SwinConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.multiple = math.lcm(*config.window[1:])
        width, count = config.width, sum(config.depths)
        drops = iter(config.drop_path * k / max(count - 1, 1) for k in range(count))
        with seeded(seed_of(generator)):
            self.stem = SharpStem(width) if config.sharp else PooledStem(width)
            self.groups = nn.ModuleList(
                Group(width, depth, config.heads, config.window, drops) for depth in config.depths
            )
            self.norm = nn.LayerNorm(width)
            self.after = nn.Conv2d(width, width, 3, padding=1)
            wide = N_FRAMES * width
            self.around = nn.Conv2d(wide, width, 3, padding=1) if config.sharp else None
            head = SharpHead if config.sharp else BareHead
            self.head = head(width, config.head_width)

    def estimate(
        self, lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: CoarseCamera
    ) -> torch.Tensor:
        """See `FusionNetwork`."""
        features = self.stem(lr, hr, tau, camera)
        x = features.movedim(2, -1)
        for group in self.groups:
            x = group(x)
        # only the centre frame is enlarged, and a convolution of each frame mixes no frames
        fused = self.after(self.norm(x[:, CENTRE]).movedim(-1, 1)) + features[:, CENTRE]
        if self.around is not None:
            fused = fused + self.around(features.flatten(1, 2))
        return self.head(fused, lr, hr, tau, camera)


class Group(nn.Module):
    """Blocks with windows in place and shifted in turn, then a convolution, beside the identity."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        window: tuple[int, int, int],
        drops: Iterator[float],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, window, shifted=number % 2 == 1, drop=next(drops))
            for number in range(depth)
        )
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, h, w, E) to the same shape."""
        y = x
        for block in self.blocks:
            y = block(y)
        return x + each_frame(self.conv, y.movedim(-1, 2)).movedim(2, -1)


class Block(nn.Module):
    """Attention in windows, then two dense layers at each token; both beside the identity.

    Parameters
    ----------
    width, heads, window
        As in `SwinConfig`.
    shifted : bool
        Shift the windows by half, along the axes that hold more than one.
    drop : float
        Chance to leave a branch out for a sample in training (stochastic depth).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: tuple[int, int, int],
        *,
        shifted: bool,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.shifted, self.drop = shifted, drop
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, window, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, h, w, E) to the same shape."""
        sizes = tuple(x.shape[1:4])
        shift = window_shift(sizes, self.attention.window) if self.shifted else (0, 0, 0)
        x = x + self._kept(self.attention(self.norm1(x), shift))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, branch: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.drop):
            return branch
        chance = 1 - self.drop
        kept = torch.rand(len(branch), 1, 1, 1, 1, device=branch.device) < chance
        return branch * kept / chance


class BareHead(nn.Module):
    """The published way out: two pixel-shuffles and no image underneath."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, head_width, 3, padding=1)
        self.up = nn.ModuleList(
            nn.Conv2d(head_width, 4 * head_width, 3, padding=1) for _ in range(2)
        )
        self.last = nn.Conv2d(head_width, 1, 3, padding=1)

    def forward(
        self,
        features: torch.Tensor,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera = BOOK_CAMERA,
    ) -> torch.Tensor:
        """Image (B, 1, 4h, 4w) from features (B, C, h, w); nothing else is used."""
        features = F.leaky_relu(self.first(features), 0.01)
        for conv in self.up:
            features = F.pixel_shuffle(conv(features), 2)
        return exactly(self.last, features)
