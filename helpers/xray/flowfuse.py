"""FlowFuse: move two sharp key frames to where a coarse frame says that things are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .._arrays import in_float32
from ..training.seeds import seed_of, seeded
from .cameras import BOOK_CAMERA, SCALE, SIGMA, CoarseCamera, bicubic
from .stems import CENTRE, GREY, FusionNetwork, Residual, exactly

__all__ = ["FlowFuse", "FlowFuseConfig", "warp"]

N_MAPS = 8  # two flows of two components, three votes, one gate
DOUBT = 3.0  # how far the enlarged coarse frame starts behind the key frames in the vote


@dataclass(frozen=True)
class FlowFuseConfig:
    """Sizes of a `FlowFuse`.

    Attributes
    ----------
    width : int
        Channels on the grid of the coarse camera.
    deep : int
        Channels on a grid half as fine, where motion over many pixels is in reach.
    blocks : int
        Residual blocks on each of the two.
    detail : int
        Channels on half the sharp grid, where details are put right; an even number.
    detail_blocks : int
        Residual blocks there.
    align : bool
        Move the key frames. Without it they are only blended and corrected, as a control.
    both_ways : bool
        After training, give the mean of the estimates with time running forwards and backwards.
        It takes twice the time, and the two directions agree exactly.
    told : bool
        Have the blur and the photons of the coarse camera among the inputs, and :math:`y - A h_k`
        in units of the noise. Without it the network knows the camera of its training only.

    Examples
    --------
    >>> FlowFuseConfig().width
    48
    """

    width: int = 48
    deep: int = 64
    blocks: int = 2
    detail: int = 32
    detail_blocks: int = 3
    align: bool = True
    both_ways: bool = False
    told: bool = False

    def __post_init__(self) -> None:
        sizes = (self.width, self.deep, self.blocks, self.detail, self.detail_blocks)
        if any(n != int(n) or n < 1 for n in sizes) or self.detail % 2:
            raise ValueError(f"{self}: give whole numbers from 1 on, and an even detail")


class FlowFuse(FusionNetwork):
    r"""Warp, blend, correct: two key frames carried to the time of a coarse frame.

    Parameters
    ----------
    config : FlowFuseConfig, optional
    generator : torch.Generator, optional
        Of the weights at the start. Default: torch's own stream.

    Raises
    ------
    ValueError
        Frames whose shapes do not belong together.

    Notes
    -----
    With the key frames :math:`h_0, h_1`, the coarse frame :math:`y`, its camera :math:`A` and
    cubic interpolation :math:`U`, a network on the coarse grid gives two flows :math:`v_k`, shares
    :math:`w_k` that sum to one, and a gate :math:`g` from 0 to 1:

    .. math::

        m = w_0\, h_0(\mathbf r + v_0) + w_1\, h_1(\mathbf r + v_1) + w_2\, U y , \qquad
        b = m + g\, U (y - A m) ,

    and a second one on half the sharp grid adds details to :math:`b`. Before training the flows
    and details are zero and :math:`w` follows tau, so that it starts near
    :func:`helpers.xray.baselines.detail_injection` with half its correction. Among the inputs are
    :math:`y - A h_k`: they show where a key frame is outdated. Odd coarse sides are padded by
    repeating the border, and the result is cut back. Derived in :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> net = FlowFuse.preset("small")
    >>> lr, hr = torch.ones(1, 3, 1, 5, 8), torch.ones(1, 2, 1, 20, 32)
    >>> net(lr, hr, torch.tensor([0.5])).shape
    torch.Size([1, 1, 20, 32])
    """

    presets: ClassVar = {"small": FlowFuseConfig(blocks=1), "full": FlowFuseConfig()}
    multiple = 2

    def __init__(
        self, config: FlowFuseConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = c = config or FlowFuseConfig()
        n_seen = 3 + 2 * SCALE**2 + 2 + 1 + (4 if c.told else 0)
        with seeded(seed_of(generator)):
            self.stem = nn.Conv2d(n_seen, c.width, 3, padding=1)
            self.down = nn.Conv2d(c.width, c.deep, 3, stride=2, padding=1)
            self.far = nn.Sequential(*(Residual(c.deep) for _ in range(c.blocks)))
            self.up = nn.Conv2d(c.deep, 4 * c.width, 1)
            self.near = nn.Sequential(*(Residual(c.width) for _ in range(c.blocks)))
            self.maps = nn.Conv2d(c.width, 4 * N_MAPS, 3, padding=1)
            self.guide = nn.Conv2d(c.width, 2 * c.detail, 1)
            self.gather = nn.Conv2d(16 + c.detail // 2, c.detail, 3, padding=1)
            self.detail = nn.Sequential(*(Residual(c.detail) for _ in range(c.detail_blocks)))
            self.correct = nn.Conv2d(c.detail, 4, 3, padding=1)
        for parameter in (*self.maps.parameters(), *self.correct.parameters()):
            nn.init.zeros_(parameter)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the faster order for few channels on a CPU

    @property
    def trained_for(self) -> CoarseCamera | None:
        """See `FusionNetwork`."""
        return None if self.config.told else super().trained_for

    def forward(
        self,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera | None = None,
    ) -> torch.Tensor:
        """Like every `FusionNetwork`; with `both_ways`, the mean of both directions of time."""
        image = self.one_way(lr, hr, tau, camera)
        if self.config.both_ways and not self.training:
            image = (image + self.one_way(lr.flip(1), hr.flip(1), 1 - tau, camera)) / 2
        return image

    def one_way(
        self,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera | None = None,
    ) -> torch.Tensor:
        """Like a call, but with time in the given direction only, whatever the config says."""
        return super().forward(lr, hr, tau, camera)

    def estimate(
        self, lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: CoarseCamera
    ) -> torch.Tensor:
        """See `FusionNetwork`."""
        lr, hr = lr[:, :, 0], hr[:, :, 0]
        features = self.look(lr, hr, tau, camera)
        base, warped = self.fuse(features, lr, hr, tau, camera)
        enlarged = bicubic(lr[:, CENTRE, None])
        seen = torch.cat([base - GREY, warped - base, enlarged - base], dim=1)
        guide = F.pixel_shuffle(self.guide(features), 2)
        x = F.relu(self.gather(torch.cat([F.pixel_unshuffle(seen, 2), guide], dim=1)))
        return base + F.pixel_shuffle(exactly(self.correct, self.detail(x)), 2)

    def look(
        self,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera = BOOK_CAMERA,
    ) -> torch.Tensor:
        """Features (B, C, h, w) of everything that was recorded, on the coarse grid."""
        expected = camera(hr)
        outdated = lr[:, CENTRE, None] - expected
        when = (tau - 0.5).view(-1, 1, 1, 1).expand(-1, 1, *lr.shape[-2:])
        keys = F.pixel_unshuffle(hr - GREY, SCALE)
        parts = [lr - GREY, keys, 4 * outdated, when]
        if self.config.told:
            usual = float(BOOK_CAMERA.photons or 0)
            light = usual if camera.photons is None else camera.photons
            sigma, photons = (
                torch.as_tensor(value).to(lr).view(-1, 1, 1, 1) for value in (camera.sigma, light)
            )
            noise = (expected.clamp_min(0.05) / photons).sqrt()
            known = [(sigma - SIGMA) / 2, (usual / photons).log10()]
            parts += [number.expand_as(when) for number in known]
            parts.append(torch.tanh(outdated / (4 * noise)))
        x = F.relu(exactly(self.stem, torch.cat(parts, dim=1)))
        far = self.far(F.relu(self.down(x)))
        return F.relu(self.near(x + F.pixel_shuffle(self.up(far), 2)))

    @in_float32
    def fuse(
        self,
        features: torch.Tensor,
        lr: torch.Tensor,
        hr: torch.Tensor,
        tau: torch.Tensor,
        camera: CoarseCamera = BOOK_CAMERA,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The corrected blend (B, 1, Y, X) and the moved key frames (B, 2, Y, X)."""
        maps = F.pixel_shuffle(self.maps(features), 2)
        maps = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
        flows, votes, gate = maps.split([4, 3, 1], dim=1)
        warped = hr
        if self.config.align:
            flows = SCALE * flows.unflatten(1, (2, 2)).flatten(0, 1)
            warped = warp(hr.reshape(-1, 1, *hr.shape[-2:]), flows).view_as(hr)
        coarse = lr[:, CENTRE, None]
        later = tau.clamp(0.02, 0.98).view(-1, 1, 1, 1)
        prior = torch.cat([(1 - later).log(), later.log(), torch.full_like(later, -DOUBT)], dim=1)
        shares = (votes + prior).softmax(dim=1)
        blend = (shares * torch.cat([warped, bicubic(coarse)], dim=1)).sum(1, keepdim=True)
        return blend + gate.sigmoid() * bicubic(coarse - camera(blend)), warped


@in_float32
def warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    r"""Look an image up where a flow points: :math:`h(\mathbf r + v(\mathbf r))`.

    Parameters
    ----------
    image : (B, C, Y, X) tensor
        Beyond the border it goes on as its last row.
    flow : (B, 2, Y, X) tensor
        In pixels, x before y.

    Returns
    -------
    (B, C, Y, X) tensor
        Interpolated linearly :cite:p:`jaderberg2015`.

    Examples
    --------
    >>> image = torch.arange(4.0).view(1, 1, 1, 4)
    >>> flow = torch.zeros(1, 2, 1, 4)
    >>> flow[:, 0] = 0.5
    >>> warp(image, flow).flatten().tolist()
    [0.5, 1.5, 2.5, 3.0]
    """
    y, x = (torch.arange(n, device=flow.device, dtype=flow.dtype) for n in flow.shape[-2:])
    columns, rows = x + flow[:, 0], y[:, None] + flow[:, 1]
    # grid_sample counts from edge to edge of the image, -1 to 1
    grid = [(2 * at + 1) / len(n) - 1 for at, n in ((columns, x), (rows, y))]
    return F.grid_sample(
        image, torch.stack(grid, dim=-1), padding_mode="border", align_corners=False
    )
