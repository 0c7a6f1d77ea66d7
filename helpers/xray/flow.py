r"""FlowNet: where each place of the sharp camera lies on the coarse one, by recurrent matching.

It has the parts of RAFT: features of both images, the correlation of all places with all places
at several resolutions, and a recurrent unit that looks the correlation up where the present flow
points and corrects it. The two cameras have an encoder each, and the images one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .._arrays import in_float32
from .cameras import SCALE, coarsen, pad_to

__all__ = ["FlowConfig", "FlowNet"]


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of `FlowNet`.

    Attributes
    ----------
    features : int
        Channels that are correlated.
    hidden, context : int
        Channels of the memory of the recurrent unit, and of what it is told of the sharp image.
    levels : int
        Resolutions of the correlation, each half of the one before.
    radius : int
        Places around the present match that are looked up, at each level.
    stride : int
        Coarse pixels from place to place; 2 is 8 sharp pixels, as in RAFT.
    n_iter : int
        Corrections of the flow.
    affine : bool
        Flows are turns, stretches and shifts of the whole field: the corrections of all places
        are joined by weighted least squares. Else each place has its own flow.
    """

    features: int = 256
    hidden: int = 128
    context: int = 128
    levels: int = 4
    radius: int = 4
    stride: int = 2
    n_iter: int = 12
    affine: bool = False

    def __post_init__(self) -> None:
        sizes = [value for name, value in vars(self).items() if name != "affine"]
        if any(n != int(n) or n < 1 for n in sizes):
            raise ValueError(f"{self}: give whole numbers from 1 on")


PRESETS = {"small": FlowConfig(32, 32, 16, 2, 3, 1, 4, affine=True), "full": FlowConfig()}


class FlowNet(nn.Module):
    r"""Match a coarse frame to a sharp one of the same moment.

    Parameters
    ----------
    config : FlowConfig, optional
        Default: the sizes of RAFT. ``FlowNet.preset("small")`` trains on a CPU in minutes.

    Notes
    -----
    Called with a coarse frame (B, 1, h, w) as it came from its camera and a sharp one
    (B, 1, 4h, 4w). At place r of the sharp camera's grid, in coarse pixels, the answer v(r) says
    where the coarse frame shows the same point: :math:`y(\mathbf r + v(\mathbf r))`. With the
    features :math:`f, g` of the two images,

    .. math:: c(\mathbf r, \mathbf s) = f(\mathbf r) \cdot g(\mathbf s) / \sqrt C , \qquad
        (m, \Delta v) = \mathrm{GRU}(m,\; c(\mathbf r, \mathbf r + v + \delta)) , \qquad
        v \leftarrow v + \Delta v ,

    for all :math:`|\delta|_\infty` up to the radius, at every level :cite:p:`teed2020`. To the
    correction the mean :math:`\delta` is added, weighted by the softmax of c: a network without
    training walks uphill already. Places are
    some coarse pixels apart; the flow between them is a mean of the nine around,
    with weights that the network gives. Gradients do not pass from one correction to the place of
    the one before. Used in :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> net = FlowNet.preset("small")
    >>> flows = net(torch.rand(1, 1, 16, 20), torch.rand(1, 1, 64, 80))
    >>> len(flows), flows[-1].shape
    (4, torch.Size([1, 2, 16, 20]))
    """

    def __init__(self, config: FlowConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or FlowConfig()
        self.sharp = Encoder(1, c.features, c.stride)
        self.coarse = Encoder(1, c.features, c.stride)
        # equal at first, so that equal places match before anything is learned
        self.coarse.load_state_dict(self.sharp.state_dict())
        self.context = Encoder(SCALE**2, c.hidden + c.context, c.stride)
        seen = c.levels * (2 * c.radius + 1) ** 2
        self.look = nn.Sequential(
            nn.Conv2d(seen, c.features, 1),
            nn.ReLU(),
            nn.Conv2d(c.features, c.hidden, 3, padding=1),
            nn.ReLU(),
        )
        self.feel = nn.Sequential(nn.Conv2d(2, c.hidden // 2, 5, padding=2), nn.ReLU())
        self.memory = ConvGRU(c.hidden, c.hidden + c.hidden // 2 + 2 + c.context)
        self.correct = nn.Sequential(
            nn.Conv2d(c.hidden, c.hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c.hidden, 3 if c.affine else 2, 3, padding=1),
        )
        for parameter in self.correct[-1].parameters():
            nn.init.zeros_(parameter)
        self.heat = nn.Parameter(torch.tensor(1.0))
        self.mix: nn.Sequential | None = None
        if not c.affine:
            self.mix = nn.Sequential(
                nn.Conv2d(c.hidden, c.hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(c.hidden, 9 * c.stride**2, 1),
            )

    @classmethod
    def preset(cls, name: str) -> FlowNet:
        """Give the network "small" or "full", with fresh weights."""
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}: use one of {', '.join(PRESETS)}")
        return cls(PRESETS[name])

    def forward(
        self, lr: torch.Tensor, hr: torch.Tensor, n_iter: int | None = None
    ) -> list[torch.Tensor]:
        """Match.

        Parameters
        ----------
        lr : (B, 1, h, w) tensor
        hr : (B, 1, 4h, 4w) tensor
        n_iter : int, optional
            Other than in the config.

        Returns
        -------
        list of (B, 2, h, w) tensor
            The flow after each correction, x before y, in coarse pixels; the last is the answer.

        Raises
        ------
        ValueError
            Sizes that do not belong together.
        """
        _check(lr, hr)
        height, width = lr.shape[-2:]
        # to whole places, by repeating the border
        stride = self.config.stride
        lr, seen, hr = (
            pad_to(image, stride) for image in (lr, coarsen(hr), F.pixel_unshuffle(hr, SCALE))
        )
        pyramid = correlations(self.sharp(seen), self.coarse(lr), self.config.levels)
        memory, told = self.context(hr).split([self.config.hidden, self.config.context], 1)
        memory, told = torch.tanh(memory), F.relu(told)
        flow = lr.new_zeros(len(lr), 2, *memory.shape[-2:])
        whole, flows = 0 * lr, []
        for _ in range(n_iter or self.config.n_iter):
            flow = flow.detach()
            match = correlation_lookup(pyramid, flow, self.config.radius)
            guess = soft_argmax(match[:, : (2 * self.config.radius + 1) ** 2], self.heat.exp())
            news = [self.look(match), self.feel(guess), guess, told]
            memory = self.memory(memory, torch.cat(news, 1))
            correction = self.correct(memory)
            correction = torch.cat([guess + correction[:, :2], correction[:, 2:]], 1)
            if self.mix is None:
                step, fine = affine(correction[:, :2], correction[:, 2:].exp(), stride)
                whole = whole.detach() + stride * fine
                flow = flow + step
            else:
                flow = flow + correction
                whole = convex_upsampling(flow, self.mix(memory), stride)
            flows.append(whole[..., :height, :width])
        return flows


class Encoder(nn.Module):
    """Features (B, C, h / stride, w / stride) of an image (B, n, h, w), of any gain and offset.

    The border is repeated. Zeros beside it would be the strongest feature of both images, and
    match where nothing has moved.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        width = max(16, n_out // 2)
        self.layers = nn.Sequential(
            nn.InstanceNorm2d(n_in),
            nn.Conv2d(n_in, width, 5, padding=2, padding_mode="replicate"),
            nn.ReLU(),
            Block(width),
            nn.Conv2d(width, n_out, 3, stride=stride, padding=1, padding_mode="replicate"),
            nn.InstanceNorm2d(n_out),
            nn.ReLU(),
            Block(n_out),
            nn.Conv2d(n_out, n_out, 1),
            nn.InstanceNorm2d(n_out),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode."""
        return self.layers(image)


class Block(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) in, the same shape out."""
        return F.relu(x + self.layers(x))


class ConvGRU(nn.Module):
    """A gated recurrent unit whose products are convolutions."""

    def __init__(self, hidden: int, n_in: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(hidden + n_in, 2 * hidden, 3, padding=1)
        self.new = nn.Conv2d(hidden + n_in, hidden, 3, padding=1)

    def forward(self, memory: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Hidden state after the input `x`."""
        update, reset = torch.sigmoid(self.gates(torch.cat([memory, x], 1))).chunk(2, 1)
        new = torch.tanh(self.new(torch.cat([reset * memory, x], 1)))
        return memory + update * (new - memory)


def correlations(f: torch.Tensor, g: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Products of all places of `f` with all places of `g`, (B, C, h, w), at resolutions of `g`.

    An image (1, h / 2**l, w / 2**l) for each place of `f`. The list ends early where an image would
    have no pixel left; then the last one is given again.

    Examples
    --------
    >>> maps = correlations(torch.ones(1, 4, 8, 8), torch.ones(1, 4, 8, 8), 2)
    >>> [tuple(m.shape) for m in maps], float(maps[1].max())
    ([(64, 1, 8, 8), (64, 1, 4, 4)], 2.0)
    """
    b, c, h, w = f.shape
    product = torch.einsum("bcn,bchw->bnhw", f.flatten(2), g) / c**0.5
    maps = [product.reshape(b * h * w, 1, *g.shape[-2:])]
    for _ in range(levels - 1):
        last = maps[-1]
        maps.append(F.avg_pool2d(last, 2) if min(last.shape[-2:]) > 1 else last)
    return maps


def correlation_lookup(
    pyramid: Sequence[torch.Tensor], flow: torch.Tensor, radius: int
) -> torch.Tensor:
    """Correlation (B, levels * (2 * radius + 1)**2, h, w) around the places where a flow points.

    The flow (B, 2, h, w) is in places of the finest level; beyond the border all is zero.
    """
    b, _, h, w = flow.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    centre = flow + torch.stack([x, y]).to(flow)
    centre = centre.permute(0, 2, 3, 1).reshape(b * h * w, 1, 1, 2)
    steps = torch.arange(-radius, radius + 1).to(flow)
    window = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    found = []
    for image in pyramid:
        size = torch.tensor([image.shape[-1], image.shape[-2]]).to(flow)
        shrink = size / torch.tensor([w, h]).to(flow)
        places = (centre + 0.5) * shrink + window  # pixel edges are what scales
        grid = 2 * places / size - 1
        values = F.grid_sample(image, grid, align_corners=False)
        found.append(values.reshape(b, h, w, -1))
    return torch.cat(found, -1).permute(0, 3, 1, 2)


@in_float32
def soft_argmax(match: torch.Tensor, inverse_temperature: torch.Tensor) -> torch.Tensor:
    """Place of the largest correlation, as a smooth function of it: steps x, y from the middle.

    `match` (B, n**2, h, w) is one level of `correlation_lookup`, averaged over 5 x 5 places first.
    The larger `inverse_temperature`, the closer to the maximum.

    Examples
    --------
    >>> match = torch.zeros(1, 9, 2, 2)
    >>> match[:, 5] = 50  # one to the right
    >>> soft_argmax(match, torch.tensor(1.0))[0, :, 0, 0].round(decimals=3).abs().tolist()
    [1.0, 0.0]
    """
    n = round(match.shape[1] ** 0.5)
    smooth = F.avg_pool2d(match, 5, 1, 2, count_include_pad=False)
    share = (inverse_temperature * smooth).softmax(1)
    steps = torch.arange(n).to(match) - n // 2
    across, down = steps.repeat(n), steps.repeat_interleave(n)
    return torch.stack([(share * s[:, None, None]).sum(1) for s in (across, down)], 1)


@in_float32
def affine(
    flow: torch.Tensor, weight: torch.Tensor, finer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit ``a + B r`` to a flow by weighted least squares: its values there, and `finer` ones.

    The normal equations have three unknowns for each direction. They can be differentiated, so that
    the network learns which places to trust.

    Examples
    --------
    >>> flow = torch.arange(4.0).expand(1, 2, 4, 4)
    >>> same, fine = affine(flow, torch.rand(1, 1, 4, 4) + 1, 2)
    >>> bool((same - flow).abs().max() < 1e-3), fine[0, 0, 0, :4].round(decimals=2).tolist()
    (True, [-0.25, 0.25, 0.75, 1.25])
    """
    h, w = flow.shape[-2:]
    design = _design(h, w, 1).to(flow)
    share = weight.flatten(1) / weight.flatten(1).sum(1, keepdim=True)
    weighted = share[:, :, None] * design
    # a little friction: fields with one bright place must not spin
    normal = weighted.transpose(1, 2) @ design + 1e-4 * torch.eye(3).to(flow)
    right = weighted.transpose(1, 2) @ flow.flatten(2).transpose(1, 2)
    numbers = torch.linalg.solve(normal, right)
    fine = _design(h, w, finer).to(flow)
    fits = ((points @ numbers).transpose(1, 2) for points in (design, fine))
    here, finer_fit = fits
    return here.reshape(flow.shape), finer_fit.reshape(len(flow), 2, finer * h, finer * w)


def _design(h: int, w: int, finer: int) -> torch.Tensor:
    """Rows (1, x, y) of all places; the field reaches from -1 to 1."""
    y, x = (2 * (torch.arange(finer * n) + 0.5) / (finer * n) - 1 for n in (h, w))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y], -1).reshape(-1, 3)


@in_float32
def convex_upsampling(flow: torch.Tensor, mask_logits: torch.Tensor, finer: int) -> torch.Tensor:
    """Refine the resolution of a flow: each new place takes a mean of the nine around it.

    `mask_logits` (B, 9 * finer**2, h, w) are the logarithms of the shares; the result is in the
    finer unit.

    Examples
    --------
    >>> convex_upsampling(torch.ones(1, 2, 3, 3), torch.zeros(1, 36, 3, 3), 2).unique()
    tensor([2.])
    """
    b, _, h, w = flow.shape
    share = mask_logits.reshape(b, 1, 9, finer, finer, h, w).softmax(2)
    # the border is repeated: zeros beside it would be false flows
    around = F.unfold(F.pad(finer * flow, (1, 1, 1, 1), mode="replicate"), 3)
    fine = (share * around.reshape(b, 2, 9, 1, 1, h, w)).sum(2)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(b, 2, finer * h, finer * w)


def _check(lr: torch.Tensor, hr: torch.Tensor) -> None:
    fits = lr.ndim == hr.ndim == 4 and lr.shape[1] == hr.shape[1] == 1 and len(lr) == len(hr)
    if not fits or tuple(hr.shape[-2:]) != tuple(SCALE * n for n in lr.shape[-2:]):
        raise ValueError(
            f"lr is {tuple(lr.shape)} and hr {tuple(hr.shape)}: give (B, 1, h, w) and "
            f"(B, 1, {SCALE}h, {SCALE}w), padded to whole coarse pixels"
        )
