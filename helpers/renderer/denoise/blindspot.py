r"""A network that predicts every pixel from its neighbours alone, and what to do with the pixel.

Noise that is independent from pixel to pixel cannot be predicted from neighbours. So a network
that does not see a pixel, and is trained to guess it, learns the image and not the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ... import checkpoints
from ...datasets import data_folder
from ...devices import pick_device
from ...training.seeds import seed_of, seeded

KERNEL = 5  # side of the window that has the hole


class BlindSpot(nn.Module):
    r"""Mean and spread of what each pixel should be, from all pixels around but not from itself.

    Parameters
    ----------
    width : int
        Channels of every layer.
    depth : int
        Convolutions after the first one; each lets a pixel see 3 px farther.
    centre, scale : float
        Images are shifted and divided by these before they enter: about their mean and their
        standard deviation, the same for all of them.
    noise : (float, float) or None
        Intercept and slope of the camera's noise, ``variance = intercept + slope * mean``: read
        variance and 1 in photo-electrons. With None the network says how large all fluctuations
        are together.
    blind : bool
        False fills the hole: a control, which learns to copy its input, noise and all.
    generator : torch.Generator, optional
        Draws the weights.

    Notes
    -----
    The first convolution has a hole in the middle of its 5 x 5 window. All later ones look 3 px
    apart: they join offsets that are multiples of 3, and no offset of the window, the hole left
    out, is one. So no path leads from a pixel to its own prediction, whatever the weights. The
    idea is that of :cite:t:`laine2019` and of the dilated network of :cite:t:`wu2020`; every pixel
    is a training example in every step, where masking :cite:p:`krull2019` has a few in a hundred.
    Convolutions 3 px apart are ordinary ones on nine small images, one for each place in a block
    of 3 x 3 pixels. Derived in :doc:`/book/renderer/07_denoise`.

    Examples
    --------
    >>> net = BlindSpot(generator=torch.Generator().manual_seed(0))
    >>> images = torch.rand(1, 20, 20, requires_grad=True)
    >>> mean, spread = net(images)
    >>> slope, = torch.autograd.grad(mean[0, 7, 11], images)
    >>> float(slope[0, 7, 11]), bool(slope[0, 7, 12] != 0)
    (0.0, True)
    """

    STEP = 3
    window: torch.Tensor
    centre: torch.Tensor
    scale: torch.Tensor
    card: dict[str, Any]

    def __init__(
        self,
        width: int = 32,
        depth: int = 3,
        *,
        centre: float = 0.0,
        scale: float = 1.0,
        noise: tuple[float, float] | None = None,
        blind: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not scale > 0 or width < 1 or depth < 1:
            raise ValueError(f"scale {scale}, width {width}, depth {depth}: all must be positive")
        self.settings = {
            "width": width,
            "depth": depth,
            "centre": float(centre),
            "scale": float(scale),
            "noise": noise,
            "blind": blind,
        }
        self.noise = None if noise is None else (float(noise[0]), float(noise[1]))
        self.blind = blind
        self.reach = KERNEL // 2 + self.STEP * depth  # how far a pixel sees
        with seeded(seed_of(generator)):
            self.first = nn.Conv2d(2, width, KERNEL)
            self.further = nn.ModuleList(nn.Conv2d(width, width, 3) for _ in range(depth))
            self.head = nn.Sequential(
                nn.Conv2d(2 * width, width, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, 2, 1)
            )
        window = torch.ones(KERNEL, KERNEL)
        window[KERNEL // 2, KERNEL // 2] = 0.0 if blind else 1.0
        self.register_buffer("window", window)
        self.register_buffer("centre", torch.tensor(float(centre)))
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread, both (B, Y, X) in the unit of the images (B, Y, X)."""
        height, width = images.shape[-2:]
        x = (images[:, None] - self.centre) / self.scale
        # zeros beyond the border say nothing; the second channel tells where they are
        x = torch.cat([x, torch.ones_like(x)], 1)
        margin, step = KERNEL // 2, self.STEP
        x = functional.pad(x, (margin, margin + -width % step, margin, margin + -height % step))
        x = functional.conv2d(x, self.first.weight * self.window, self.first.bias)
        near = x = functional.leaky_relu(x, 0.1)
        x = _apart(x, step)
        for convolution in self.further:
            x = x + functional.leaky_relu(
                convolution(functional.pad(x, (1, 1, 1, 1), mode="replicate")), 0.1
            )
        x = self.head(torch.cat([near, _together(x, step)], 1))[..., :height, :width]
        mean = self.centre + self.scale * x[:, 0]
        return mean, self.scale * functional.softplus(x[:, 1] - 1)

    def loss(
        self,
        images: torch.Tensor,
        target: torch.Tensor | None = None,
        *,
        use: torch.Tensor | None = None,
        excess: torch.Tensor | float = 0.0,
    ) -> torch.Tensor:
        r"""Negative log-likelihood of each pixel given its neighbours; the mean over pixels.

        Parameters
        ----------
        images : tensor (B, Y, X)
        target : tensor (B, Y, X), optional
            Clean images, for a control. The loss is then the mean squared error over the square
            of the scale, and the spread learns nothing.
        use : tensor (B, Y, X), optional
            1 where a pixel counts, else 0.
        excess : tensor (B, Y, X), optional
            Read variance of each pixel beyond that of `noise`.

        Notes
        -----
        The neighbours leave a pixel uncertain by the spread s, the camera adds its noise, and both
        are taken as Gaussian:

        .. math:: \ell = \frac{(y - m)^2}{2 \sigma^2} + \frac12 \log \sigma^2 , \qquad
            \sigma^2 = s^2 + m + v ,

        in photo-electrons with the read variance v. Where the noise is not known,
        :math:`\sigma = s`.
        """
        mean, spread = self(images)
        if target is not None:
            return ((target - mean) / self.scale).square().mean()
        variance = spread.square() + 1e-4 * self.scale.square()
        if self.noise is not None:
            added = noise_variance(mean, self.noise) + excess
            variance = variance + added.clamp_min(0)
        each = 0.5 * ((images - mean).square() / variance + variance.log())
        return each.mean() if use is None else (each * use).sum() / use.sum().clamp_min(1)


def save(network: BlindSpot, path: str | Path, card: Mapping[str, Any]) -> None:
    """Save a network with the card that says how it was made; see `helpers.checkpoints.save`.

    Parameters
    ----------
    network : BlindSpot
    path : str or Path
    card : dict
        With `data`, `seed`, `steps` and `metric`.
    """
    half = {name: tensor.half() for name, tensor in network.state_dict().items()}
    checkpoints.save(path, {"settings": network.settings, "network": half}, dict(card))


def load(path: str | Path | None = None, device: str | torch.device | None = None) -> BlindSpot:
    """Load a network.

    Parameters
    ----------
    path : str or Path, optional
        A file that `save` wrote; the network that ships with the book if left out. That one knows
        images of filaments with a peak of 40 photo-electrons, a background of 2 and a read
        variance of 4.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    BlindSpot
        With its `card`.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or it is damaged or holds something else.

    Examples
    --------
    >>> network = load(device="cpu")
    >>> network.noise, network.card["seed"]
    ((4.0, 1.0), 0)
    """
    path = data_folder() / "checkpoints" / "renderer_denoiser.safetensors" if path is None else path
    state, card = checkpoints.load(path)
    if "settings" not in state or "network" not in state:
        raise ValueError(f"{path} holds no blind-spot network: give a file that `save` wrote")
    network = BlindSpot(**state["settings"])
    checkpoints.load(path, expect={"network": network.state_dict()})
    network.load_state_dict(state["network"])  # half precision in the file, single at work
    network.card = card
    return network.to(pick_device(device)).eval()


def noise_variance(mean: torch.Tensor, noise: tuple[float, float]) -> torch.Tensor:
    """Variance that a camera adds at a mean, by intercept and slope; it never gets negative."""
    intercept, slope = noise
    return (intercept + slope * mean).clamp_min(max(intercept, 0.0))


def with_the_pixel(
    mean: torch.Tensor, spread: torch.Tensor, pixel: torch.Tensor, noise_variance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Best guess from neighbours and the pixel itself.

    Parameters
    ----------
    mean, spread : tensor
        What neighbours say: Gaussian with this mean and standard deviation.
    pixel : tensor
        What was measured.
    noise_variance : tensor
        Of the measurement.

    Returns
    -------
    mean, spread : tensor
        Of the posterior.

    Notes
    -----
    .. math:: \hat x = \frac{m / s^2 + y / n}{1 / s^2 + 1 / n} , \qquad
        \operatorname{var} = \frac{1}{1 / s^2 + 1 / n} .

    Derived in :doc:`/book/renderer/07_denoise`.

    Examples
    --------
    >>> four, two = torch.tensor([4.0]), torch.tensor([2.0])
    >>> [float(v) for v in with_the_pixel(four, two, 2 * four, four)]
    [6.0, 1.4142135381698608]
    """
    prior = spread.square()
    share = prior / (prior + noise_variance)
    return mean + share * (pixel - mean), (share * noise_variance).sqrt()


def _apart(x, step):
    """(B, C, Y, X) as (B step step, C, Y / step, X / step): every step-th pixel together."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // step, step, width // step, step)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch * step * step, channels, height // step, width // step)


def _together(x, step):
    """Undo `_apart`."""
    n, channels, height, width = x.shape
    x = x.view(n // step**2, step, step, channels, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n // step**2, channels, height * step, width * step)
