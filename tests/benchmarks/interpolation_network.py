r"""A video frame interpolation network of the EMA-VFI kind: a peer, not the package.

Written from the equations of G. Zhang, Y. Zhu, H. Wang, Y. Chen, G. Wu and L. Wang, "Extracting
motion and appearance via inter-frame attention for efficient video frame interpolation", CVPR 2023,
at a size that trains on a CPU. As there, it sees the two sharp frames around a moment and the
moment, and nothing of the coarse camera. The warp is the package's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers.training.seeds import seed_of, seeded
from helpers.xray.cameras import pad_to
from helpers.xray.flowfuse import warp
from helpers.xray.stems import GREY, Residual

N_KEYS = 2


@dataclass(frozen=True)
class InterpolationConfig:
    """Sizes of an `InterpolationNetwork`.

    `widths` are the channels of the pyramid, from all pixels to every eighth. The last `levels` of
    it have attention: `heads` of it each, from squares of `side` x `side` places to
    the same square with `reach` places more on each side.
    """

    widths: tuple[int, ...] = (16, 24, 48, 80)
    levels: int = 2
    heads: int = 4
    side: int = 4
    reach: int = 3
    estimate: int = 36
    detail: int = 24


class InterpolationNetwork(nn.Module):
    r"""Image of a moment between two key frames, from these alone.

    Level by level, with the motions :math:`M_{0 \to 1}, M_{1 \to 0}` and the appearances
    :math:`A_0, A_1` that `InterFrameAttention` gives, flows from the moment to both frames and the
    mask are

    .. math:: (F_{\tau \to 0}, F_{\tau \to 1}, m) = G\bigl( \tau M_{0 \to 1},\;
        (1 - \tau) M_{1 \to 0},\; A_0, A_1 \bigr) ,

    where motion is taken to be uniform between the frames. A finer level starts from the flows of
    the one below, and its appearances and motions are warped by them. With the warp W and a
    residual R from the warped frames and their finer features, the image is

    .. math:: \sigma(m) \, W(I_0, F_{\tau \to 0}) + (1 - \sigma(m)) \, W(I_1, F_{\tau \to 1}) + R .

    Before any training it is the mix of both frames by tau; after it, the mean of both directions
    of time, as FlowFuse has it.
    """

    def __init__(self, config=None, *, generator=None):
        super().__init__()
        self.config = c = config or InterpolationConfig()
        attended = c.widths[-c.levels :]
        with seeded(seed_of(generator)):
            self.pyramid = nn.ModuleList(
                _step(before, width, stride=1 if i == 0 else 2)
                for i, (before, width) in enumerate(zip((1, *c.widths[:-1]), c.widths, strict=True))
            )
            self.attention = nn.ModuleList(
                InterFrameAttention(n, c.heads, c.side, c.reach) for n in attended
            )
            self.estimate = nn.ModuleList(
                Estimate(N_KEYS * (n + 2 * c.heads) + 6, c.estimate) for n in attended
            )
            seen = 4 * (2 * N_KEYS + 1) + N_KEYS * c.widths[1]
            self.gather = nn.Conv2d(seen, c.detail, 3, padding=1)
            self.detail = nn.Sequential(*(Residual(c.detail) for _ in range(2)))
            self.correct = _zero(nn.Conv2d(c.detail, 4, 3, padding=1))

    def forward(self, lr, hr, tau):
        """Images (B, 1, Y, X) of the times `tau` (B,), 0 to 1.

        `hr` (B, 2, 1, Y, X) are the key frames. `lr` is what other networks are given too; here
        nothing is read of it.
        """
        height, width = hr.shape[-2:]
        keys = pad_to(hr[:, :, 0], self.config.side * 2 ** (len(self.config.widths) - 1))
        image = self.one_way(keys, tau)
        if not self.training:
            image = (image + self.one_way(keys.flip(1), 1 - tau)) / 2
        return image[..., :height, :width]

    def one_way(self, keys, tau):
        """Like a call with padded key frames (B, 2, Y, X), and time in the given direction only."""
        tau = tau.view(-1, 1, 1, 1).to(keys)
        pyramid, x = [], keys.flatten(0, 1)[:, None] - GREY
        for step in self.pyramid:
            x = step(x)
            pyramid.append(x)
        flows, mask = self.flows(pyramid, tau)

        warped = warp(keys.flatten(0, 1)[:, None], flows).unflatten(0, (-1, N_KEYS))[:, :, 0]
        share = mask.sigmoid()
        blend = share * warped[:, :1] + (1 - share) * warped[:, 1:]
        half = warp(pyramid[1], _resized(flows, 0.5)).unflatten(0, (-1, N_KEYS)).flatten(1, 2)
        frames = torch.cat([blend - GREY, warped - blend, keys - blend], dim=1)
        x = F.relu(self.gather(torch.cat([F.pixel_unshuffle(frames, 2), half], dim=1)))
        return blend + F.pixel_shuffle(self.correct(self.detail(x)), 2)

    def flows(self, pyramid, tau):
        """Flows (2B, 2, Y, X) to the two key frames in turn, and the mask's logit (B, 1, Y, X).

        `pyramid` has the features (2B, C, y, x) of the key frames, finest first.
        """
        levels = len(self.attention)
        coarsest = pyramid[-1]
        n_batch = len(coarsest) // N_KEYS
        flows = coarsest.new_zeros(len(coarsest), 2, *coarsest.shape[-2:])
        later = tau.clamp(0.02, 0.98)
        mask = ((1 - later) / later).log().expand(-1, 1, *coarsest.shape[-2:])
        so_far = torch.cat([tau, 1 - tau], dim=1).view(-1, 1, 1, 1)  # of the way to the other frame
        for level in reversed(range(levels)):
            features, motion = self.attention[level](pyramid[level - levels])
            seen = warp(torch.cat([features, so_far * motion], dim=1), flows)
            seen = seen.unflatten(0, (n_batch, N_KEYS)).flatten(1, 2)
            known = flows.unflatten(0, (n_batch, N_KEYS)).flatten(1, 2)
            change = self.estimate[level](torch.cat([seen, known, mask, tau.expand_as(mask)], 1))
            flows = flows + change[:, :4].unflatten(1, (N_KEYS, 2)).flatten(0, 1)
            mask = mask + change[:, 4:]
            finer = 2.0 if level else pyramid[0].shape[-1] / features.shape[-1]
            flows = _resized(flows, finer)
            mask = F.interpolate(mask, scale_factor=finer, mode="bilinear")
        return flows, mask


class InterFrameAttention(nn.Module):
    r"""Attention from each place of a frame to a window around it in the other frame.

    With features :math:`A_0` at r and :math:`A_1` at :math:`r + \delta` in the window,

    .. math:: s_\delta = \mathrm{softmax}_\delta \bigl( q(A_0)_r \cdot k(A_1)_{r + \delta}
        / \sqrt C + b \bigr), \quad
        A_0' = A_0 + p\Bigl( \sum_\delta s_\delta \, v(A_1)_{r + \delta} \Bigr), \quad
        M_{0 \to 1} = \sum_\delta s_\delta \, \delta ,

    and the same the other way round: one map of weights for appearance and for motion. The places
    of a square share a window. Two linear maps follow, as in every transformer.
    """

    def __init__(self, width, heads, side, reach):
        super().__init__()
        self.heads, self.side, self.reach = heads, side, reach
        window = side + 2 * reach
        self.norm = nn.GroupNorm(1, width)
        self.query = nn.Conv2d(width, width, 1)
        self.key_value = nn.Conv2d(width, 2 * width, 1)
        self.bias = nn.Parameter(torch.zeros(heads, side**2, window**2))
        self.project = nn.Conv2d(width, width, 1)
        self.settle = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )
        here = torch.cartesian_prod(*2 * [torch.arange(side)])
        there = torch.cartesian_prod(*2 * [torch.arange(-reach, side + reach)])
        apart = (there - here[:, None]).flip(-1).float()  # (place, place of the window, x and y)
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, features):
        """Appearance (2B, C, h, w) and motion (2B, 2 heads, h, w), x before y, of two frames.

        `features` (2B, C, h, w) has the two frames of a sample one after the other; their sides
        are multiples of that of a square.
        """
        sides = features.shape[-2:]
        weights, values = self.attended(features)
        motion = torch.einsum("nsmqk,qkd->nsmdq", weights, self.apart)
        found = self.joined((weights @ values).mT, sides)
        features = features + self.project(found)
        return features + self.settle(features), self.joined(motion, sides)

    def attended(self, features):
        """Weights (2B, squares, heads, places, window), and the values (..., window, C)."""
        normed = self.norm(features)
        other = normed.unflatten(0, (-1, N_KEYS)).flip(1).flatten(0, 1)
        query = self.squares(self.query(normed), 0).unflatten(2, (self.heads, -1))
        both = self.squares(self.key_value(other), self.reach)
        key, value = both.unflatten(2, (2, self.heads, -1)).unbind(2)
        match = query.mT @ key / query.shape[-2] ** 0.5 + self.bias
        outside = self.squares(torch.ones_like(features[:1, :1]), self.reach) == 0
        return match.masked_fill(outside[:, :, None], -torch.inf).softmax(-1), value.mT

    def squares(self, x, reach):
        """Squares and what lies around: (N, C, h, w) to (N, squares, C, places), zero outside."""
        size = self.side + 2 * reach
        cut = F.unfold(x, size, padding=reach, stride=self.side)
        return cut.unflatten(1, (x.shape[1], size**2)).movedim(-1, 1)

    def joined(self, x, sides):
        """Squares (N, squares, heads, C, places) side by side again: (N, heads C, h, w)."""
        return F.fold(x.flatten(2, 4).mT, sides, self.side, stride=self.side)


class Estimate(nn.Sequential):
    """Changes of two flows and of the mask, (B, 5, h, w); none before any training."""

    def __init__(self, seen, width):
        super().__init__(
            nn.Conv2d(seen, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            _zero(nn.Conv2d(width, 5, 3, padding=1)),
        )


def _step(before, width, stride):
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(0.1),
    )


def _zero(layer):
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _resized(flows, scale):
    """Flows on a grid of `scale` times the places, in its pixels."""
    return scale * F.interpolate(flows, scale_factor=scale, mode="bilinear")
