r"""Neural fields: an object as a function of position, with an encoding, a network and a head.

.. math:: f_\theta(\mathbf r) = \mathrm{head}\bigl(\mathrm{network}(\gamma(\mathbf r))\bigr)

Coordinates are (z, y, x), cell centred: voxel i of n lies at
``extent * ((2 i + 1) / n - 1)``. Derived in :doc:`/book/inr/03_neural_field`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .encodings import (
    AxisFeatures,
    PositionalEncoding,
    box,
    coordinates,
    extent_of,
)
from .grids import FeatureGrid, upsample

BLOCK = {"cpu": 2**13, "gpu": 2**18}  # points that a network takes at once without gradients


class MLP(nn.Module):
    r"""A multilayer perceptron, with the encoded input fed in again where asked.

    Parameters
    ----------
    in_features : int
        Features that the encoding gives.
    width, depth : int
        Units of a hidden layer, and number of hidden layers.
    skips : sequence of int
        After hidden layer k, counted from 0, the input is put beside the hidden units.
    activation : {"relu", "leaky_relu", "sine"}
        "sine" is SIREN :cite:p:`sitzmann2020`: sin(w0 x), with its own start.
    w0 : float
        Frequency of "sine": larger resolves finer detail and rings more.
    out_features : int
        Numbers for each point.
    generator : torch.Generator, optional
        Of the weights at the start.

    Notes
    -----
    Weights and biases start uniform within :math:`1/\sqrt{n}` for n inputs; for "sine" the weights
    of the first layer within :math:`1/n` and of the others within :math:`\sqrt{6/n}/\omega_0`.
    The last bias starts at zero, for the head to decide what an untrained field shows.

    Examples
    --------
    >>> sum(p.numel() for p in MLP(51, width=128, depth=4, skips=[2]).parameters())
    62849
    """

    def __init__(
        self,
        in_features: int,
        width: int = 64,
        depth: int = 4,
        *,
        skips: Sequence[int] = (),
        activation: str = "relu",
        w0: float = 30.0,
        out_features: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.width, self.depth = in_features, width, depth
        self.skips, self.activation, self.w0 = tuple(skips), activation, w0
        self.out_features = out_features
        if activation not in ("relu", "leaky_relu", "sine"):
            raise ValueError(f"activation is {activation!r}: use 'relu', 'leaky_relu' or 'sine'")
        if depth < 1 or any(not 0 <= k < depth - 1 for k in self.skips):
            raise ValueError(
                f"depth is {depth} and skips {self.skips}: at least one hidden layer, "
                "and skips before the last of them"
            )
        sizes = [in_features] + [width + in_features * (k in self.skips) for k in range(depth)]
        self.layers: Any = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, n, width if k < depth else out_features)
            for k, n in enumerate(sizes)
        )
        for number, layer in enumerate(self.layers):
            self._start(number, layer, generator)

    def _start(self, number: int, layer: Any, generator: torch.Generator | None) -> None:
        n = layer.in_features
        bound = 1 / math.sqrt(n)
        if self.activation == "sine":
            bound = 1 / n if number == 0 else math.sqrt(6 / n) / self.w0
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-1 / math.sqrt(n), 1 / math.sqrt(n), generator=generator)
            if number == self.depth:
                layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_features) tensor or `AxisFeatures` to (N, out_features)."""
        h = self._active(_linear(x, self.layers[0].weight, self.layers[0].bias))
        for number, layer in enumerate(self.layers[1:]):
            if number in self.skips:  # the layer acts on (x, h) side by side, never built
                w_x, w_h = layer.weight.split([self.in_features, self.width], dim=1)
                h = _linear(h, w_h, layer.bias) + _linear(x, w_x)
            else:
                h = _linear(h, layer.weight, layer.bias)
            if number < self.depth - 1:
                h = self._active(h)
        return h

    def _active(self, h: torch.Tensor) -> torch.Tensor:
        if self.activation == "sine":
            return torch.sin(self.w0 * h)
        return F.leaky_relu(h, 0.01) if self.activation == "leaky_relu" else F.relu(h)


def _linear(x: Any, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if isinstance(x, AxisFeatures):
        return x.linear(weight, bias)
    # Units first in memory: sums over points, in the gradient of the bias, are contiguous.
    return (weight @ x.T if bias is None else torch.addmm(bias[:, None], weight, x.T)).T


class Sum(nn.Module):
    """Add the features up: the network of a field that is nothing but a pyramid of grids.

    Examples
    --------
    >>> Sum()(torch.tensor([[1.0, 2.0]]))
    tensor([[3.]])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, C) to (N, 1)."""
        return x.sum(dim=-1, keepdim=True)


class Softplus(nn.Module):
    r"""Keep the object positive, and start it at the mean that the data ask for.

    Parameters
    ----------
    mean : float
        Value of the untrained field, such as the back-projected mean in photons. A start far above
        the mean of a sparse scene lets the field collapse to a constant.
    scale : float, optional
        Value of something bright; 1 at the network's output is about this much. Default: 30 means,
        as in a sparse scene.

    Notes
    -----
    .. math:: f = s \log\bigl(1 + e^{x + b}\bigr), \qquad s \log(1 + e^b) = \mathrm{mean}

    Examples
    --------
    >>> round(float(Softplus(mean=0.25)(torch.tensor(0.0))), 6)
    0.25
    """

    def __init__(self, mean: float = 1.0, scale: float | None = None) -> None:
        super().__init__()
        self.mean, self.scale = float(mean), float(30 * mean if scale is None else scale)
        if not (self.mean > 0 and self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"mean is {mean} and scale {scale}: both must be above zero")
        ratio = self.mean / self.scale
        self.bias = ratio + math.log(-math.expm1(-ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Positive values for any `x`."""
        return self.scale * F.softplus(x + self.bias)


class ReLU(nn.Module):
    """Keep the object positive by cutting, as published: with a small slope while it is trained.

    Parameters
    ----------
    slope : float
        Of negative values. The published training has 0.01 and cuts at export only, so that what
        was fitted and what is shown differ.
    """

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = float(slope)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Cut `x` at zero, or flatten what lies below."""
        return F.leaky_relu(x, self.slope)


class Index(nn.Module):
    """Refractive index, or its contrast, within bounds.

    Parameters
    ----------
    limit : float
        The largest difference from `background`.
    background : float
        Index of the medium; 0 for a contrast.

    Examples
    --------
    >>> float(Index(0.1, 1.33)(torch.tensor(0.0)))
    1.3300000429153442
    """

    def __init__(self, limit: float = 0.1, background: float = 0.0) -> None:
        super().__init__()
        self.limit, self.background = float(limit), float(background)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Squeeze `x` between the bounds."""
        return self.background + self.limit * torch.tanh(x)


class Contrast(nn.Module):
    """Complex contrast of a thick object: its index, and how much it absorbs.

    What `helpers.inr.diffraction.MultiSlice` and `Born` with absorption are called with. It takes
    two numbers for each point.

    Parameters
    ----------
    index : float
        The largest difference from the medium, of either sign.
    absorption : float
        Imaginary part of the index of something dark; never below zero. It starts at a twentieth.

    Examples
    --------
    >>> index, absorption = Contrast(0.05, 0.01)(torch.zeros(2)).tolist()
    >>> index, round(absorption, 6)
    (0.0, 0.0005)
    """

    channels = 2

    def __init__(self, index: float = 0.05, absorption: float = 0.01) -> None:
        super().__init__()
        if not (0 < index < math.inf and 0 < absorption < math.inf):
            raise ValueError(
                f"index is {index} and absorption {absorption}: give sizes above zero; for an "
                "object that only delays light use a model and a head without absorption"
            )
        self.index, self.absorption = float(index), float(absorption)
        self._bounded, self._positive = Index(index), Softplus(absorption / 20, absorption)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Index and absorption (..., 2) of any `x` (..., 2)."""
        return torch.stack([self._bounded(x[..., 0]), self._positive(x[..., 1])], -1)


class Transmission(nn.Module):
    r"""Complex transmission of a thin object, from the delay and the loss of its light.

    Its two numbers are the real and the imaginary part of :math:`t - 1`, what
    `helpers.inr.diffraction.Ptychography` is called with, for

    .. math:: t = e^{i \varphi - a}, \qquad a \ge 0 .

    Parameters
    ----------
    absorption : float
        Minus the logarithm of the amplitude behind something dark. It starts at a twentieth.

    Examples
    --------
    >>> real, imaginary = Transmission()(torch.zeros(2)).tolist()
    >>> round(real, 3), imaginary
    (-0.049, 0.0)
    """

    channels = 2

    def __init__(self, absorption: float = 1.0) -> None:
        super().__init__()
        self.absorption = float(absorption)
        self._positive = Softplus(absorption / 20, absorption)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Parts (..., 2) of the transmission minus one, of any phase and loss `x` (..., 2)."""
        phase, amplitude = x[..., 0], torch.exp(-self._positive(x[..., 1]))
        return torch.stack([amplitude * phase.cos() - 1, amplitude * phase.sin()], -1)


class Field(nn.Module):
    """An object as a function of position.

    Parameters
    ----------
    encoding : nn.Module
        Points (..., 3) to features (..., out_features), such as `FeatureGrid`. Where it has a
        ``grid`` method, regular grids take that faster way.
    network : nn.Module
        Features (N, C) to (N, 1), such as `MLP`; to (N, 2) for a head with two channels.
    head : nn.Module
        What the number means, such as `Softplus`, or the two numbers, such as `Contrast`.
    extent : 3 floats
        Half the size along (z, y, x), see `extent_of`.

    Examples
    --------
    >>> field = Field(PositionalEncoding(4), MLP(27, width=8, depth=2), Softplus(mean=0.5))
    >>> field.volume((4, 6, 6)).shape
    torch.Size([4, 6, 6])
    """

    def __init__(
        self,
        encoding: nn.Module,
        network: nn.Module,
        head: nn.Module,
        extent: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.encoding: Any = encoding  # it may have `grid`, which a module has not
        self.network, self.head = network, head
        self.channels = int(getattr(head, "channels", 1))
        if self.channels > 1 and getattr(network, "out_features", None) != self.channels:
            raise ValueError(
                f"{type(head).__name__} takes {self.channels} numbers for each point: give a "
                f"network with out_features={self.channels}"
            )
        self.extent = tuple(float(half) for half in extent)
        if len(self.extent) != 3 or not min(self.extent) > 0:
            raise ValueError(f"extent is {extent}: expected three numbers above zero, (z, y, x)")

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Values (...) or (..., 2) at (..., 3) points (z, y, x), in the units of `extent`."""
        values = self._decode(self.encoding(points.reshape(-1, 3), self.extent))
        return values.reshape((*points.shape[:-1], *values.shape[1:]))

    def volume(self, shape: Sequence[int], roi: Sequence[int] | None = None) -> torch.Tensor:
        """Values at the voxel centres of a volume that fills the extent, or of a box in it.

        Parameters
        ----------
        shape : (Z, Y, X)
            Voxels along each axis; any number, the field is continuous. With a head of two
            channels (2, Z, Y, X), or (2, Y, X) for a thin object.
        roi : (z, y, x, depth, height, width), optional
            First voxel, counted from 0, and size of a box: only that is computed.

        Returns
        -------
        tensor of that shape
            With gradients as torch has them switched. For volumes that fill the memory see
            `helpers.inr.render.render`.
        """
        grid = _grid(shape, self.channels)
        box(grid, roi)
        if hasattr(self.encoding, "grid"):
            features = self.encoding.grid(grid, self.extent, roi, self.device)
        else:
            points = coordinates(grid, self.extent, roi, self.device)
            features = self.encoding(points.reshape(-1, 3), self.extent)
        size = tuple(grid if roi is None else roi[3:])
        if self.channels == 1:
            return self._decode(features).reshape(size)
        return self._decode(features).T.reshape(self.channels, *size[-len(shape) + 1 :])

    def _decode(self, features: Any) -> torch.Tensor:
        """Values (N,) or (N, 2) of (N, C) features; without gradients in blocks of one size.

        Matrix products and vector instructions round the end of an array in another way than its
        middle. In blocks of one size, the value at a point does not depend, not even in its last
        bit, on which other points are asked for.
        """
        if torch.is_grad_enabled():
            return self._values(features)
        n, block = len(features), BLOCK["cpu" if self.device.type == "cpu" else "gpu"]
        size = (n,) if self.channels == 1 else (n, self.channels)
        out = torch.empty(size, device=self.device)
        for start in range(0, n, block):
            rows = torch.arange(start, start + block, device=self.device).clamp(max=n - 1)
            part = out[start : start + block]
            part.copy_(self._values(features[rows])[: len(part)])
        return out

    def _values(self, features: Any) -> torch.Tensor:
        values = self.network(features)
        return self.head(values[:, 0] if self.channels == 1 else values)


def _grid(shape: Sequence[int], channels: int) -> tuple[int, ...]:
    """Voxels (Z, Y, X) of a volume with as many numbers in each voxel as there are channels."""
    if channels == 1:
        return tuple(shape)
    if len(shape) not in (3, 4) or shape[0] != channels:
        raise ValueError(
            f"shape is {tuple(shape)}, but each point has {channels} numbers: expected "
            f"({channels}, Z, Y, X), or ({channels}, Y, X) for a thin object"
        )
    return (1,) * (4 - len(shape)) + tuple(shape[1:])


class Voxels(nn.Module):
    """The plain alternative to a neural field: a free number in every voxel, behind a head.

    Parameters
    ----------
    shape : (Z, Y, X)
        Voxels along each axis, behind an axis for the two numbers of a complex contrast:
        (2, Z, Y, X), or (2, Y, X) for a thin object.
    head : nn.Module
        As for `Field`; all numbers start at zero.

    Examples
    --------
    >>> round(Voxels((2, 2, 2), Softplus(mean=3)).volume().mean().item(), 5)
    3.0
    """

    def __init__(self, shape: Sequence[int], head: nn.Module) -> None:
        super().__init__()
        self.shape, self.head = tuple(shape), head
        self.channels = int(getattr(head, "channels", 1))
        box(_grid(self.shape, self.channels)[-3:])
        self.values = nn.Parameter(torch.zeros(self.shape))

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self.values.device

    def volume(
        self, shape: Sequence[int] | None = None, roi: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Values of the voxels, interpolated linearly where another shape is asked for."""
        shape = self.shape if shape is None else tuple(shape)
        if self.channels == 1 and len(shape) == len(self.shape) == 3:
            return self.head(upsample(self.values[None], shape, roi))[0]
        if len(shape) != len(self.shape) or shape[0] != self.shape[0]:
            raise ValueError(f"shape is {shape}, but these are voxels {self.shape}")
        grid = _grid(shape, self.shape[0])
        values = upsample(
            self.values.reshape(len(self.values), *_grid(self.shape, shape[0])), grid, roi
        )
        if self.channels > 1:
            values = self.head(values.movedim(0, -1)).movedim(-1, 0)
        else:
            values = self.head(values)
        return values if len(shape) == 4 else values[:, 0]


# encoding, network, published size (Z, Y, X)
PAPER: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    "mito": (dict(octaves=8), dict(width=128, depth=4, skips=(2,)), (51, 499, 499)),
    "tubulin": (dict(octaves=8), dict(width=128, depth=8, skips=(4,)), (41, 499, 499)),
    "opt": (dict(octaves=8, octaves_z=6), dict(width=128, depth=6), (175, 175, 175)),
    "cryo": (dict(octaves=6), dict(width=64, depth=6), (95, 95, 95)),
}


def paper_field(
    name: str,
    *,
    sequence: bool = False,
    head: nn.Module | None = None,
    shape: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Field:
    """Build a field with the sizes that were published :cite:p:`yi2023`.

    Parameters
    ----------
    name : {"mito", "tubulin", "opt", "cryo", "fpm"}
        The published example.
    sequence : bool
        The network of the 4D "mito" example, which has no skip.
    head : nn.Module, optional
        In place of the published one: `Contrast` behind `helpers.inr.diffraction.MultiSlice`,
        `Transmission` behind `helpers.inr.diffraction.Ptychography`.
    shape : (Z, Y, X), optional
        Voxels of the object, in place of the published ones. The table of "fpm" has half of them
        along the axis and 0.6 across, as published.
    generator : torch.Generator, optional
        Of the weights at the start.

    Returns
    -------
    Field
        Its `extent` has cubic index steps, as published: depth counts in voxels, not micrometres.

    Raises
    ------
    ValueError
        An unknown name.

    Notes
    -----
    Frequencies are without pi, the activation is ReLU, the head a leaky ReLU. "fpm" is a learned
    table of 60 x 204 x 204 nodes with three features and a network of 12 units; it gives the
    refractive index itself, and with the head `Contrast` what a model of diffraction wants. The
    published coordinates put the first and the last voxel centre at -1 and 1; here the faces of
    the volume lie there.

    Examples
    --------
    >>> [sum(p.numel() for p in paper_field(name).parameters()) for name in ("mito", "tubulin")]
    [62849, 128897]
    """
    outputs = int(getattr(head, "channels", 1))
    if name == "fpm":
        depth, *lateral = shape = (120, 340, 340) if shape is None else tuple(shape)
        nodes = (math.ceil(0.5 * depth), *(math.ceil(0.6 * n) for n in lateral))
        encoding = FeatureGrid([nodes], 3, generator=generator)
        with torch.no_grad():
            encoding.tables[0].uniform_(0, 2e-4, generator=generator)
        network = MLP(
            3, 12, 4, skips=[2], activation="leaky_relu", out_features=outputs, generator=generator
        )
        return Field(encoding, network, head or Index(1.0, 1.33), extent_of(shape, 1))
    if name not in PAPER:
        raise ValueError(f"name is {name!r}: use one of {', '.join([*PAPER, 'fpm'])}")
    waves, layers, published = PAPER[name]
    if sequence and name != "mito":
        raise ValueError(f"{name!r} was not published as a sequence: only 'mito' was")
    waved = PositionalEncoding(**waves, pi=False)
    layers = layers | {"skips": ()} if sequence else layers
    network = MLP(waved.out_features, **layers, out_features=outputs, generator=generator)
    return Field(waved, network, head or ReLU(0.01), extent_of(shape or published, 1))
