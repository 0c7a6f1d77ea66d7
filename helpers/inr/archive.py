r"""A film as the weights of its fields: one file, any frame, any box of it.

The first frame is kept in half precision, every other as its difference from the first, in half
precision or in steps of 1/127 of its largest value. Each frame is decoded alone, so a late one is
as quick to reach as an early one. Derived in :doc:`/book/inr/05_dynamics`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import checkpoints
from . import fields
from .fields.encodings import box
from .fields.field import Index
from .fields.grids import PlaneGrid

__all__ = ["SequenceArchive", "load", "save"]

REBUILT = (
    fields.Field, fields.Voxels, fields.MLP, fields.PositionalEncoding, fields.RadialEncoding,
    fields.FeatureGrid, PlaneGrid, fields.HashGrid, fields.Softplus, fields.ReLU, Index,
    fields.Identity, fields.Sum, fields.Contrast, fields.Transmission,
)  # fmt: skip
AT_THE_START = ("generator", "std")  # arguments that decide the first weights and nothing else
LARGEST_HALF = 65504.0


class Brightened(nn.Module):
    """A head whose values are multiplied: the photometric scale of a frame."""

    def __init__(self, head: nn.Module, scale: float | torch.Tensor) -> None:
        super().__init__()
        self.head, self.scale = head, float(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Values of the head, scaled."""
        return self.scale * self.head(x)


@dataclass(frozen=True)
class SequenceArchive:
    r"""Fields of the frames of a film, coded; ``archive[t]`` is the field of frame t.

    Attributes
    ----------
    shape : (Z, Y, X)
        Voxels that were reconstructed; a field can be rendered at any other size.
    scales : tuple of float
        By which the values of each frame are multiplied, such as the largest count of a frame
        that was fitted after division by it. Brightness over time lives here and in the weights;
        it is never normalised away.
    base : dict of float16 tensors
        Weights of frame 0.
    deltas : dict of float16 or int8 tensors (T - 1, ...)
        What the weights of the other frames differ by; only those that do.
    steps : dict of float32 tensors (T - 1,)
        One unit of each int8 delta; empty for float16.
    card : dict
        Where the film comes from, see `helpers.checkpoints`.
    architecture : dict
        How a field is built before it gets its weights.

    Notes
    -----
    :math:`\theta_t = \theta_0 + s_t\, q_t` with :math:`q_t` in half precision and
    :math:`s_t = 1`, or whole numbers within :math:`\pm 127` and
    :math:`s_t = \max |\theta_t - \theta_0| / 127` for each tensor.

    Examples
    --------
    >>> frames = [fields.paper_field("cryo", generator=torch.Generator().manual_seed(s))
    ...           for s in range(4)]
    >>> archive = SequenceArchive.from_fields(frames, (95, 95, 95), precision="int8")
    >>> len(archive), archive.n_bytes < 0.4 * 4 * 4 * 23425
    (4, True)
    >>> archive[2].volume((4, 4, 4)).shape
    torch.Size([4, 4, 4])
    """

    shape: tuple
    scales: tuple
    base: dict = dataclass_field(repr=False)
    deltas: dict = dataclass_field(repr=False)
    steps: dict = dataclass_field(repr=False)
    card: dict = dataclass_field(repr=False)
    architecture: dict = dataclass_field(repr=False)

    @classmethod
    def from_fields(
        cls,
        frames: Iterable[Any],
        shape: Sequence[int],
        *,
        scales: Sequence[float] | None = None,
        precision: str = "float16",
        card: dict[str, Any] | None = None,
    ) -> SequenceArchive:
        """Code the fields of a film.

        Parameters
        ----------
        frames : sequence of Field, Voxels or FieldFit
            One for each frame, all built alike; in a chain of fits they are.
        shape : (Z, Y, X)
            Voxels that were reconstructed.
        scales : sequence of float, optional
            Photometric scale of each frame. Default: 1.
        precision : {"float16", "int8"}
            Of the differences from frame 0.
        card : dict, optional
            At least `data`, `seed`, `steps` and `metric`; needed for `save`.

        Raises
        ------
        TypeError
            A field of a kind that a file cannot describe.
        ValueError
            No frame, frames that are built differently, weights that are not finite or too large
            for half precision, scales that do not fit.
        """
        frames = [getattr(frame, "field", frame) for frame in frames]
        if not frames:
            raise ValueError("there is no frame: give at least one field")
        if precision not in ("float16", "int8"):
            raise ValueError(f"precision is {precision!r}: use 'float16' or 'int8'")
        box(shape)
        scales = tuple(float(s) for s in ([1.0] * len(frames) if scales is None else scales))
        if len(scales) != len(frames) or not all(0 < s < math.inf for s in scales):
            raise ValueError(
                f"{len(scales)} scales for {len(frames)} frames: give one above zero for each"
            )
        architecture = _describe(frames[0])
        for t, frame in enumerate(frames):
            if _describe(frame) != architecture:
                raise ValueError(
                    f"frame {t} is built differently from frame 0: use one encoding, network and "
                    "head for all, and scales for their brightness"
                )
            _check(frame, t)
        weights = {
            name: torch.stack([frame.get_parameter(name).detach().cpu() for frame in frames])
            for name, _ in frames[0].named_parameters()
        }
        base = {name: w[0].half() for name, w in weights.items()}
        deltas, steps = {}, {}
        for name, w in weights.items():
            delta = w[1:] - base[name].float()
            if not (w[1:] != w[:1]).any():
                continue
            if precision == "float16":
                deltas[name] = delta.half()
            else:
                step = delta.flatten(1).abs().amax(1).clamp(min=1e-30) / 127
                deltas[name] = (delta / step.view(-1, *[1] * (w.ndim - 1))).round().to(torch.int8)
                steps[name] = step
        shape = tuple(int(n) for n in shape)
        return cls(shape, scales, base, deltas, steps, card or {}, architecture)

    def __len__(self) -> int:
        return len(self.scales)

    def __getitem__(self, t: int) -> nn.Module:
        """Give the field of frame `t`, counted from 0, or from -1 at the end."""
        if not -len(self) <= t < len(self):
            raise IndexError(f"frame {t}: the archive has {len(self)} frames")
        t = t % len(self)
        frame = _build(self.architecture)
        with torch.no_grad():
            for name, parameter in frame.named_parameters():
                parameter.copy_(self.base[name])
                if t > 0 and name in self.deltas:
                    step = self.steps[name][t - 1] if self.steps else 1.0
                    parameter.add_(self.deltas[name][t - 1].float() * step)
        if self.scales[t] != 1:
            frame.head = Brightened(frame.head, self.scales[t])
        return frame

    def __iter__(self) -> Iterator[nn.Module]:
        return (self[t] for t in range(len(self)))

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights; the file has about 2 kB more, for its card and its index."""
        tensors = [*self.base.values(), *self.deltas.values(), *self.steps.values()]
        return sum(t.numel() * t.element_size() for t in tensors) + 8 * len(self)


def save(path: str | Path, archive: SequenceArchive) -> None:
    """Write an archive to one safetensors file, at once or not at all.

    Raises
    ------
    ValueError
        The card lacks `data`, `seed`, `steps` or `metric`.
    """
    state = {
        "shape": archive.shape, "scales": archive.scales, "base": archive.base,
        "deltas": archive.deltas, "steps": archive.steps, "architecture": archive.architecture,
    }  # fmt: skip
    checkpoints.save(path, {"film": state}, archive.card)


def load(path: str | Path) -> SequenceArchive:
    """Read an archive; nothing in the file is executed.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated or corrupt, or holds something else.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> card = {"data": "none", "seed": 0, "steps": 0, "metric": {}}
    >>> film = SequenceArchive.from_fields([fields.paper_field("mito")], (51, 499, 499), card=card)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "film.safetensors"
    >>> save(path, film)
    >>> len(load(path)), load(path).shape
    (1, (51, 499, 499))
    """
    state, card = checkpoints.load(path)
    film = state.get("film")
    names = {part.name for part in dataclasses.fields(SequenceArchive)} - {"card"}
    if not isinstance(film, dict) or set(film) != names:
        raise ValueError(f"{path} holds no film: it was not written by helpers.inr.archive.save")
    return SequenceArchive(**film, card=card)


def _describe(module: nn.Module) -> dict[str, Any]:
    """Class and arguments of a module, and of the modules among them, for JSON."""
    if type(module) not in REBUILT:
        raise TypeError(
            f"{type(module).__name__} cannot be rebuilt from a file: use the encodings, networks "
            "and heads of helpers.inr.fields"
        )
    arguments = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name not in AT_THE_START and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            value = getattr(module, name)
            arguments[name] = _describe(value) if isinstance(value, nn.Module) else value
    return {"class": type(module).__name__, "arguments": arguments}


def _build(description: dict[str, Any]) -> Any:
    known = {kind.__name__: kind for kind in REBUILT}
    arguments = {
        name: _build(value) if isinstance(value, dict) else value
        for name, value in description["arguments"].items()
    }
    if "generator" in inspect.signature(known[description["class"]]).parameters:
        arguments["generator"] = torch.Generator().manual_seed(0)  # overwritten, but not drawn
    return known[description["class"]](**arguments)


def _check(frame: nn.Module, t: int) -> None:
    for name, parameter in frame.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"frame {t}: {name} is not finite, its fit has failed")
        if parameter.abs().max() > LARGEST_HALF / 2:
            raise ValueError(
                f"frame {t}: {name} reaches {float(parameter.detach().abs().max()):.3g}, too large "
                "for half precision: fit to data divided by their scale, and give the scales here"
            )
