r"""A learned denoiser as the prior of free voxels: a rival in the league, not the package.

Regularisation by denoising, after Y. Romano, M. Elad and P. Milanfar, SIAM J. Imaging Sci. 10, 1804
(2017): the prior of a volume v has the slope :math:`\lambda (v - D(v))`. The denoiser D has no
biases, so D(a v) = a D(v), and it serves noise of levels that it was not trained on (S. Mohan,
Z. Kadkhodaie, E. P. Simoncelli and C. Fernandez-Granda, ICLR 2020).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from scipy.special import expit
from torch import nn

from helpers.inr import phantoms
from helpers.training.seeds import seeded

SHAPE, VOXEL = (12, 48, 48), (0.34, 0.2171, 0.2171)


def sponge(seed):
    """A smooth random field cut at a random height: bodies of one random size."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.2, 0.6) / np.array(VOXEL)
    field = gaussian_filter(rng.standard_normal(SHAPE), size, mode="wrap")
    height = expit((field / field.std() - rng.uniform(0.5, 2)) / 0.15)
    return height.astype(np.float32)


KINDS = {
    "mitochondria": lambda seed: phantoms.mitochondria(
        SHAPE, VOXEL, seed=seed, cytoplasm=0.15 * (seed % 2)
    ),
    "microtubules": lambda seed: phantoms.microtubules(SHAPE, VOXEL, seed=seed),
    "beads": lambda seed: phantoms.beads(SHAPE, VOXEL, seed=seed),
    "cells": lambda seed: phantoms.cells(SHAPE, (3.1, 2.0, 2.0), seed=seed),
    "sponges": sponge,
}
NOISE = 0.1, 0.5  # standard deviation, from and to, in units of the root mean square of a volume
VOLUMES, BATCH, SIDE = 48, 4, 24  # of each kind; of a step; pixels of the square that it sees
STEPS, RATE = 900, 4e-3


class Denoiser(nn.Module):
    """Convolutions without biases whose result is taken away from the noisy volume.

    They see four lateral neighbours as one place with four features: wider, for the same work.
    """

    def __init__(self, width=32, depth=5):
        super().__init__()
        widths = [4, *[width] * (depth - 1), 4]
        self.layers = nn.ModuleList(
            nn.Conv3d(*pair, 3, padding=1, padding_mode="replicate", bias=False)
            for pair in zip(widths[:-1], widths[1:], strict=True)
        )
        for layer in self.layers[:-1]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        with torch.no_grad():  # so it begins by changing nothing, and blind to what is constant
            self.layers[0].weight -= self.layers[0].weight.mean((1, 2, 3, 4), keepdim=True)
            self.layers[-1].weight.zero_()

    def forward(self, noisy):
        """Volumes (B, Z, Y, X) of the same size, Y and X even."""
        *hidden, last = self.layers
        h = F.pixel_unshuffle(noisy[:, None].transpose(1, 2), 2).transpose(1, 2)
        for layer in hidden:
            h = F.leaky_relu(layer(h), 0.1)  # without biases, a ReLU that is off stays off
        return noisy - F.pixel_shuffle(last(h).transpose(1, 2), 2)[:, :, 0]


def trained(*, without, n_steps=STEPS, seed=0):
    """Denoiser of white noise for all kinds of phantoms but one."""
    kinds = [draw for name, draw in KINDS.items() if name != without]
    clean = [torch.as_tensor(draw(1000 * (seed + 1) + k)) for draw in kinds for k in range(VOLUMES)]
    clean = torch.stack([volume / volume.mean() for volume in clean])
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        net = Denoiser()
    adam = torch.optim.Adam(net.parameters(), betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.OneCycleLR(
        adam, RATE, total_steps=n_steps, pct_start=0.1, cycle_momentum=False
    )
    for _ in range(n_steps):
        some = hazy(clean[torch.randint(len(clean), (BATCH,), generator=generator)], generator)
        low, high = NOISE
        level = low * (high / low) ** torch.rand(BATCH, 1, 1, 1, generator=generator)
        sigma = level * some.square().mean((1, 2, 3), keepdim=True).sqrt()
        some = turned(cut(some, generator), generator)
        noisy = some + sigma * noise(some.shape, generator)
        loss = (((net(noisy) - some) / sigma) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        rate.step()
    return net.eval().requires_grad_(False)


def noise(shape, generator):
    """Noise (B, Z, Y, X) of unit variance, white, smooth like that of fits, or between."""
    white = torch.randn(shape, generator=generator)
    smooth = F.avg_pool3d(white[:, None], 3, stride=1, padding=1)[:, 0]
    share = torch.rand(shape[0], 1, 1, 1, generator=generator)
    mixed = (1 - share) * white + share * smooth / smooth.std()
    return mixed / mixed.square().mean((1, 2, 3), keepdim=True).sqrt()


def hazy(volumes, generator):
    """Volumes (B, Z, Y, X), half of them in a smooth haze of random brightness."""
    coarse = torch.rand(len(volumes), 1, 3, 5, 5, generator=generator)
    haze = F.interpolate(coarse, volumes.shape[1:], mode="trilinear", align_corners=True)[:, 0]
    much = (2 * torch.rand(len(volumes), 1, 1, 1, generator=generator) - 1).clamp(min=0)
    return volumes + much * volumes.square().mean((1, 2, 3), keepdim=True).sqrt() * haze


def cut(volumes, generator):
    """A square of `SIDE` pixels of volumes (..., Z, Y, X), all planes of it."""
    room = [n - SIDE + 1 for n in volumes.shape[-2:]]
    y, x = (int(torch.randint(n, (), generator=generator)) for n in room)
    return volumes[..., y : y + SIDE, x : x + SIDE]


def turned(volumes, generator):
    """Volumes (..., Z, Y, X), each axis mirrored or not, x and y exchanged or not."""
    coins = (torch.rand(4, generator=generator) < 0.5).tolist()
    volumes = volumes.flip([axis - 3 for axis in range(3) if coins[axis]])
    return volumes.mT if coins[3] else volumes


class Denoising:
    """The prior, a number with the slope ``(v - D(v)) / mean`` by each voxel.

    D(v) is held for `hold` calls, as in the fixed-point iteration of the authors.
    """

    def __init__(self, net, mean, hold=6):
        self.net, self.mean, self.hold = net, mean, hold
        self.calls = 0

    def __call__(self, volume):
        """Of a volume (Z, Y, X)."""
        v = volume.detach() / self.mean
        if self.calls % self.hold == 0:
            with torch.no_grad():
                self.denoised = self.net(v[None])[0]
        self.calls += 1
        return (volume * (v - self.denoised)).sum()
