"""Modulated deformable convolution: a convolution whose taps move, pixel by pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .._arrays import in_float32

__all__ = ["DeformableConv", "deform_conv2d"]


def deform_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    groups: int = 1,
) -> torch.Tensor:
    r"""Convolve with taps whose displacements and weights differ from pixel to pixel.

    Parameters
    ----------
    x : (B, C, H, W) tensor
    weight : (O, C, k, k) tensor
        One ordinary kernel with an odd side k, here called K = k * k taps. It is never split:
        every output channel sees every input channel.
    offset : (B, 2 * K * groups, H, W) tensor
        Displacements of the taps in pixels, 18 numbers for a 3 x 3 kernel. Channel
        ``2 * (g * K + t)`` is down (dy) and the next is to the right (dx), for offset group g and
        tap t, taps counted row by row from the upper left.
    mask : (B, K * groups, H, W) tensor or None
        Factor of each tap; channel ``g * K + t``. None for all ones.
    bias : (O,) tensor, optional
    groups : int
        Offset groups. Channels ``g * C / groups`` up to the next multiple move together, by the
        offsets of group g.

    Returns
    -------
    (B, O, H, W) tensor
        Stride 1; the image continues with zeros beyond its border, as in ``padding=k // 2``.

    Raises
    ------
    ValueError
        Shapes that do not belong together, an even kernel, or channels that `groups` does not
        divide.

    Notes
    -----
    .. math:: y_o(\mathbf p) = b_o + \sum_{c, t} w_{o c t}\; m_{g(c)\, t}(\mathbf p)\;
        x_c\bigl(\mathbf p + \mathbf r_t + \Delta_{g(c)\, t}(\mathbf p)\bigr) ,

    with the image between its pixels interpolated bilinearly :cite:p:`dai2017,zhu2019`. The layout
    of the channels and the rule at the border are those of ``torchvision.ops.deform_conv2d``. It
    keeps one buffer of B * C * K * H * W numbers, and runs and differentiates wherever torch does.
    Derived in :doc:`/book/xray/03_edvr`.

    Examples
    --------
    >>> x, weight = torch.randn(1, 4, 8, 8), torch.randn(2, 4, 3, 3)
    >>> offset, mask = torch.zeros(1, 2 * 9 * 2, 8, 8), torch.ones(1, 9 * 2, 8, 8)
    >>> y = deform_conv2d(x, weight, offset, mask, groups=2)
    >>> torch.allclose(y, F.conv2d(x, weight, padding=1), atol=1e-5)
    True
    """
    _check(x, weight, offset, mask, bias, groups)
    sampled = _sampled(x, offset, mask, weight.shape[-1], groups)
    y = (weight.flatten(1) @ sampled).unflatten(2, x.shape[2:])
    return y if bias is None else y + bias[:, None, None]


@in_float32
def _sampled(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor | None, side: int, groups: int
) -> torch.Tensor:
    """Samples (B, C K, H W) at the places of all taps, times their masks."""
    batch, channels, height, width = x.shape
    taps = side * side
    dy, dx = offset.reshape(batch * groups, taps, 2, height, width).unbind(2)
    reach = torch.arange(side, dtype=x.dtype, device=x.device) - side // 2
    rows = torch.arange(height, dtype=x.dtype, device=x.device)[:, None]
    columns = torch.arange(width, dtype=x.dtype, device=x.device)
    y_of = rows + reach.repeat_interleave(side)[:, None, None] + dy
    x_of = columns + reach.repeat(side)[:, None, None] + dx
    # the centre of pixel i of n lies at (2 i + 1) / n - 1
    grid = torch.stack([(2 * x_of + 1) / width - 1, (2 * y_of + 1) / height - 1], dim=-1)
    sampled = F.grid_sample(
        x.reshape(batch * groups, channels // groups, height, width),
        grid.flatten(1, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    ).reshape(batch, groups, channels // groups, taps, height, width)
    if mask is not None:
        sampled = sampled * mask.reshape(batch, groups, 1, taps, height, width)
    return sampled.reshape(batch, channels * taps, height * width)


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor | None,
    bias: torch.Tensor | None,
    groups: int,
) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x is {tuple(x.shape)} and weight {tuple(weight.shape)}: give (B, C, H, W) and "
            "(O, C, k, k) with the same C"
        )
    batch, channels, height, width = x.shape
    outputs, _, side, other = weight.shape
    if side != other or side % 2 == 0:
        raise ValueError(f"the kernel is {side} x {other}: give a square one with an odd side")
    if groups != int(groups) or groups < 1 or channels % groups:
        raise ValueError(
            f"groups is {groups}: give a whole number that divides {channels} channels"
        )
    taps = side * side * groups
    for name, tensor, depth in (("offset", offset, 2 * taps), ("mask", mask, taps)):
        expected = (batch, depth, height, width)
        if tensor is not None and tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, but {groups} offset groups of {side} x {side} "
                f"taps on this image need {expected}"
            )
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(f"bias is {tuple(bias.shape)}: give one number for {outputs} outputs")


class DeformableConv(nn.Module):
    r"""A 3 x 3 deformable convolution that reads its offsets and masks off a second image.

    Parameters
    ----------
    width : int
        Channels C of the image, of the guide and of the result.
    groups : int
        Offset groups G.
    gain : float
        Pixels of displacement for each unit that the guide's convolution gives. Below 1 offsets
        learn more slowly than weights, and do not run away.

    Notes
    -----
    One more convolution turns the guide into 27 G channels: 18 G offsets in the order of
    `deform_conv2d`, and 9 G masks before their sigmoid. It starts at zero, so the layer starts as
    half of the ordinary convolution ``self.conv``: no displacement, and every mask 1/2.

    Examples
    --------
    >>> layer = DeformableConv(8, groups=2)
    >>> x, guide = torch.randn(2, 1, 8, 6, 5)
    >>> still = layer.conv(x) - layer.conv.bias[:, None, None]
    >>> torch.allclose(layer(x, guide) - layer.conv.bias[:, None, None], still / 2, atol=1e-6)
    True
    """

    def __init__(self, width: int, groups: int, gain: float = 1.0) -> None:
        super().__init__()
        self.groups, self.gain = groups, gain
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.guide = nn.Conv2d(width, 27 * groups, 3, padding=1)
        for parameter in self.guide.parameters():
            nn.init.zeros_(parameter)

    @in_float32
    def displacements(self, guide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Offsets (B, 18 G, H, W) in pixels and masks (B, 9 G, H, W) that the guide asks for."""
        offset, logit = self.guide(guide).split([18 * self.groups, 9 * self.groups], dim=1)
        return self.gain * offset, logit.sigmoid()

    def forward(self, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        """Sample `x` (B, C, H, W) where `guide` (B, C, H, W) says."""
        offset, mask = self.displacements(guide)
        return deform_conv2d(x, self.conv.weight, offset, mask, self.conv.bias, self.groups)
