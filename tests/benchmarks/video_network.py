r"""A recurrent video network of the BasicVSR++ kind, for two cameras: a peer, not the package.

Written from the equations of K. C. K. Chan, S. Zhou, X. Xu and C. C. Loy, "BasicVSR++: improving
video super-resolution with enhanced propagation and alignment", CVPR 2022, at a size that trains on
a CPU. The flow between coarse frames, the warp and the deformable convolution are the package's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers.training.seeds import seed_of, seeded
from helpers.xray.cameras import BOOK_CAMERA, SCALE, bicubic
from helpers.xray.deform import deform_conv2d
from helpers.xray.flow import Encoder, correlation_lookup, correlations, soft_argmax
from helpers.xray.flowfuse import DOUBT, warp
from helpers.xray.stems import GREY, Residual, each_frame

TAPS = 9
REACH = 4.0  # coarse pixels that an offset may differ from the flow


@dataclass(frozen=True)
class VideoConfig:
    """Sizes of a `VideoNetwork`: channels on the coarse grid, on half the sharp one, and blocks."""

    width: int = 24
    detail: int = 16
    groups: int = 2
    branches: int = 4  # backwards, forwards, backwards, forwards
    blocks: int = 1  # residual blocks of a step; those of stem and head are twice as many


class VideoNetwork(nn.Module):
    r"""All frames between two key frames at once, by second-order propagation through a grid.

    Branch j runs through the times i of a clip, every other branch backwards. With the features
    :math:`f^{j-1}_i` of the branch before it (at first the features :math:`g_i` of what was
    recorded), and i - 1, i - 2 the times that it has just been at,

    .. math::

        \hat f_i = D\bigl( [f^j_{i-1}, f^j_{i-2}];\; s_{i \to i-1} + o_1,\; s_{i \to i-2} + o_2
        \bigr), \qquad f^j_i = \hat f_i + R\bigl( [f^{j-1}_i, \hat f_i] \bigr) ,

    where D is a modulated deformable convolution whose offsets o and masks come from :math:`g_i`
    and from both features moved by their flows s, and
    :math:`s_{i \to i-2}(r) = s_{i \to i-1}(r) + s_{i-1 \to i-2}(r + s_{i \to i-1}(r))`.

    At each time it is given what FlowFuse is given of that time: the coarse frame, both key
    frames, where they are outdated, and tau. Its image is a correction to what an untrained
    FlowFuse gives, and after training it is the mean of both directions of time, as there.
    """

    def __init__(self, config=None, *, generator=None):
        super().__init__()
        self.config = c = config or VideoConfig()
        with seeded(seed_of(generator)):
            self.match = Matching()
            self.stem = nn.Conv2d(6 + 2 * SCALE**2, c.width, 3, padding=1)
            self.extract = nn.Sequential(*(Residual(c.width) for _ in range(2 * c.blocks)))
            self.branches = nn.ModuleList(
                Branch(c.width, c.groups, c.blocks) for _ in range(c.branches)
            )
            self.up = nn.Conv2d((1 + c.branches) * c.width, 4 * c.detail, 1)
            self.gather = nn.Conv2d(c.detail + 16, c.detail, 3, padding=1)
            self.detail = nn.Sequential(*(Residual(c.detail) for _ in range(2 * c.blocks)))
            self.correct = nn.Conv2d(c.detail, 4, 3, padding=1)
        for parameter in self.correct.parameters():
            nn.init.zeros_(parameter)

    def forward(self, lr, hr, tau):
        """Images (B, n, Y, X) of the times `tau` (B, n) or (B,) of a clip.

        Parameters
        ----------
        lr : (B, T, 1, h, w) tensor
            Coarse frames; the first and the last are of the times of the key frames.
        hr : (B, 2, 1, 4h, 4w) tensor
        tau : (B, n) or (B,) tensor
            0 to 1, at times of coarse frames.
        """
        tau = tau if tau.ndim == 2 else tau[:, None]
        image = self.one_way(lr, hr, tau)
        if not self.training:
            image = (image + self.one_way(lr.flip(1), hr.flip(1), 1 - tau)) / 2
        return image

    def one_way(self, lr, hr, tau):
        """Like a call, with time in the given direction only."""
        features = self.propagated(lr, hr)
        n_batch, n_times = lr.shape[:2]
        places = (tau * (n_times - 1)).round().long()
        rows = torch.arange(n_batch)[:, None]
        # one image for each time that is asked for
        wanted, coarse = features[rows, places].flatten(0, 1), lr[rows, places].flatten(0, 1)
        keys = hr[:, None, :, 0].expand(-1, tau.shape[1], -1, -1, -1).flatten(0, 1)
        base = before_training(coarse, keys, tau.flatten())
        seen = torch.cat([base - GREY, keys - base, bicubic(coarse) - base], dim=1)
        fine = F.pixel_shuffle(self.up(wanted), 2)
        x = F.relu(self.gather(torch.cat([F.pixel_unshuffle(seen, 2), fine], dim=1)))
        image = base + F.pixel_shuffle(self.correct(self.detail(x)), 2)
        return image[:, 0].unflatten(0, tau.shape)

    def propagated(self, lr, hr):
        """Features (B, T, (1 + branches) C, h, w) of all times and branches."""
        first = list(self.seen(lr, hr).unbind(1))
        back, ahead = self.match(lr)
        found = [first]
        for number, branch in enumerate(self.branches):
            if number % 2:  # flows to the time before
                found.append(branch(first, found[-1], back))
            else:
                turned = branch(first[::-1], found[-1][::-1], ahead[::-1])
                found.append(turned[::-1])
        return torch.stack([torch.cat(parts, dim=1) for parts in zip(*found, strict=True)], dim=1)

    def seen(self, lr, hr):
        """Features (B, T, C, h, w) of what was recorded, time by time."""
        n_times = lr.shape[1]
        expected = BOOK_CAMERA(hr[:, :, 0])[:, None]
        outdated = lr - expected
        noise = (expected.clamp_min(0.05) / BOOK_CAMERA.photons).sqrt()
        keys = F.pixel_unshuffle(hr[:, :, 0] - GREY, SCALE)[:, None].expand(-1, n_times, -1, -1, -1)
        when = torch.linspace(-0.5, 0.5, n_times).view(1, -1, 1, 1, 1).expand_as(lr)
        told = torch.tanh(outdated / (4 * noise))
        parts = torch.cat([lr - GREY, 4 * outdated, told, when, keys], dim=2)
        return each_frame(self.extract, F.relu(each_frame(self.stem, parts)))


class Branch(nn.Module):
    """One way through the times of a clip."""

    def __init__(self, width, groups, blocks):
        super().__init__()
        self.groups = groups
        self.guide = nn.Sequential(
            nn.Conv2d(3 * width + 4, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
        )
        self.steer = nn.Conv2d(width, 2 * 3 * TAPS * groups, 3, padding=1)
        for parameter in self.steer.parameters():
            nn.init.zeros_(parameter)
        self.align = nn.Conv2d(2 * width, width, 3, padding=1)  # the weights of D
        self.mix = nn.Conv2d(2 * width, width, 3, padding=1)
        self.settle = nn.Sequential(*(Residual(width) for _ in range(blocks)))

    def forward(self, first, below, flows):
        """Features of all times, a list like those of the stem and of the branch below.

        `flows[i]` (B, 2, h, w) leads from time i + 1 of the lists to time i.
        """
        zero = torch.zeros_like(first[0])
        still = zero[:, :2]
        found, last, before_last, flow = [], zero, zero, still
        for i, (seen, under) in enumerate(zip(first, below, strict=True)):
            aligned = zero
            if i > 0:
                one, two = flows[i - 1], still
                if i > 1:
                    two = one + warp(flow, one)
                aligned = self.aligned(seen, last, before_last, one, two)
                flow = one
            new = F.leaky_relu(self.mix(torch.cat([under, aligned], dim=1)), 0.1)
            last, before_last = aligned + self.settle(new), last
            found.append(last)
        return found

    def aligned(self, seen, last, before_last, one, two):
        """Both features where the flows and learnt offsets point, (B, C, h, w)."""
        moved = [warp(last, one), warp(before_last, two)]
        guide = self.guide(torch.cat([seen, *moved, one, two], dim=1))
        n = TAPS * self.groups
        rest, logit = self.steer(guide).split([4 * n, 2 * n], dim=1)
        # the deformable convolution counts down before right
        along = torch.cat([flow.flip(1).repeat(1, n, 1, 1) for flow in (one, two)], dim=1)
        offset = along + REACH * torch.tanh(rest / REACH)
        both = torch.cat([last, before_last], dim=1)
        weight, bias = self.align.weight, self.align.bias
        return deform_conv2d(both, weight, offset, logit.sigmoid(), bias, 2 * self.groups)


class Matching(nn.Module):
    """Flow from each coarse frame to its neighbours: the matching of `helpers.xray.flow`, once."""

    def __init__(self, features=16, radius=3):
        super().__init__()
        self.radius = radius
        self.encode = Encoder(1, features, 1)
        self.heat = nn.Parameter(torch.tensor(1.0))

    def forward(self, lr):
        """Flows to the frame before, from the second frame on, and to the frame after, two lists.

        Where the flow v is (B, 2, h, w), x before y, frame i at r shows the point that the other
        one shows at r + v(r).
        """
        features = each_frame(self.encode, lr)
        past, future = features[:, :-1].flatten(0, 1), features[:, 1:].flatten(0, 1)
        there_and_back = (future, past), (past, future)
        flows = (self.between(*pair) for pair in there_and_back)
        return tuple(flow.unflatten(0, (len(lr), -1)).unbind(1) for flow in flows)

    def between(self, here, there):
        """Flow (N, 2, h, w) of features (N, C, h, w)."""
        still = here.new_zeros(len(here), 2, *here.shape[-2:])
        match = correlation_lookup(correlations(here, there, 1), still, self.radius)
        return soft_argmax(match, self.heat.exp())


def before_training(coarse, keys, tau):
    """What a FlowFuse gives before any training: key frames mixed by tau, and half a correction.

    `coarse` is (N, 1, h, w), `keys` (N, 2, 4h, 4w) and `tau` (N,).
    """
    later = tau.clamp(0.02, 0.98).view(-1, 1, 1, 1)
    prior = torch.cat([(1 - later).log(), later.log(), torch.full_like(later, -DOUBT)], dim=1)
    blend = torch.cat([keys, bicubic(coarse)], dim=1)
    blend = (prior.softmax(1) * blend).sum(1, keepdim=True)
    return blend + bicubic(coarse - BOOK_CAMERA(blend)) / 2
