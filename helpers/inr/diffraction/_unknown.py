"""Unknowns of a transmission fit, in units that change the misfit alike, and the best so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .ptychography import Ptychography

STEPS = {"aberration": 0.1, "pupil": 0.1, "absorption": 0.1}  # radians: of unit curvature, about
FLOOR = 0.01  # share of the pixels of a dark field that may be darker than its background
LEAST = 0.05  # of the mean of such an image, to start from


class Unknown(nn.Module):
    r"""The spectrum of a transmission, and changes of the numbers in `learn`.

    The spectrum :math:`\hat t` is held times the root of how often LEDs show it, every other number
    in a unit that changes the sum of squared amplitudes about as much.

    Parameters
    ----------
    model : Ptychography
    intensity : (L, Y, X) tensor
    learn : sequence of str
    """

    weight: torch.Tensor

    def __init__(self, model: Ptychography, intensity: torch.Tensor, learn: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        known, units = model.parameters(), _units(model, intensity)
        self.start = {name: known[name].float() for name in learn}
        if "background" in learn:
            self.start["background"] = _floor(model, intensity, self.start["background"])
        self.unit = {name: units[name] for name in learn}
        shape, device = model.in_shape[1:], intensity.device
        self.spectrum = nn.Parameter(torch.zeros((*shape, 2), device=device))
        self.change = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros_like(value)) for name, value in self.start.items()}
        )
        self.register_buffer("weight", torch.zeros(shape, device=device))

    @torch.no_grad()
    def begin(self, defocus: float = 0.0) -> None:
        """An empty slide, and the instrument as it is known, but for some radians of defocus."""
        for parameter in self.parameters():
            parameter.zero_()
        if defocus:
            self.change["aberration"][0] = defocus / STEPS["aberration"]

    @torch.no_grad()
    def look_at(self, leds: np.ndarray) -> None:
        """Hold the spectrum in the unit of some LEDs; what none of them shows becomes zero."""
        seen = self.model.select(leds).seen().float()
        wanted = torch.where(seen > 0, seen.clamp(min=0.5).rsqrt(), 0) * seen.numel() ** 0.5
        ratio = torch.where(wanted > 0, self.weight / wanted.clamp(min=1e-12), 0)
        self.spectrum.mul_(ratio[..., None])
        self.weight.copy_(wanted)

    def forward(self, leds: np.ndarray) -> tuple[Ptychography, torch.Tensor]:
        """The instrument with some LEDs, and the transmission minus one (2, Y, X)."""
        t = torch.fft.ifft2(torch.view_as_complex(self.spectrum) * self.weight)
        part, values = self.model.select(leds), {}
        for name, change in self.change.items():
            step, known = self.unit[name] * change, self.start[name]
            if name in self.model.of_each_view:
                step, known = step[leds], known[leds]
            values[name] = known + part.without_freedom(name, step)
        return part.at(values), torch.stack([t.real, t.imag])


class Evaluation:
    """A loss and its slope, made once for a place: L-BFGS asks again where it has just been.

    Parameters
    ----------
    unknown : torch.nn.Module
    loss : callable
    """

    def __init__(self, unknown: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
        self.parameters, self.loss = list(unknown.parameters()), loss
        self.place: list[torch.Tensor] = []
        self.slope: list[torch.Tensor | None] = []
        self.value = torch.zeros(())

    def __call__(self) -> torch.Tensor:
        if self.place and all(map(torch.equal, self.place, self.parameters)):
            for parameter, slope in zip(self.parameters, self.slope, strict=True):
                parameter.grad = slope
            return self.value
        for parameter in self.parameters:
            parameter.grad = None
        value = self.loss()
        value.backward()
        self.place = [parameter.detach().clone() for parameter in self.parameters]
        self.slope = [parameter.grad for parameter in self.parameters]
        self.value = value.detach()
        return self.value


class Least:
    """State of a module where a number was smallest.

    Parameters
    ----------
    module : torch.nn.Module
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.numbers: list[float] = []
        self.kept: dict[str, torch.Tensor] = {}

    @property
    def at(self) -> int:
        """Place of the smallest number."""
        return int(np.argmin(self.numbers))

    def look(self, number: float) -> None:
        """Keep the state if the number is the smallest so far."""
        self.numbers.append(number)
        if self.at == len(self.numbers) - 1:
            self.kept = {k: v.detach().clone() for k, v in self.module.state_dict().items()}

    def restore(self) -> None:
        """Bring back the state that was kept."""
        self.module.load_state_dict(self.kept)

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": self.numbers, "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.numbers, self.kept = state["numbers"], state["kept"]


def _units(model: Ptychography, y: torch.Tensor) -> Mapping[str, float | torch.Tensor]:
    """Changes of each number that change the misfit about as much as one of the spectrum's."""
    same = 2 / model.finer**2
    bright = y.flatten(1).sum(1).clamp(min=1e-6)
    dark = y.clamp(min=1e-3).reciprocal().flatten(1).sum(1)
    return STEPS | {
        "leds": 0.1 * model._step.float(),
        "gains": (2 * same / bright).sqrt(),
        "background": (2 * same / dark).sqrt(),
    }


def _floor(model: Ptychography, y: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Backgrounds, those of dark fields that are unknown at the level of their darkest pixels.

    At zero the root in the misfit is infinitely steep, and a fit stays beside it.
    """
    pixels = y.flatten(1)
    darkest = pixels.kthvalue(max(1, int(FLOOR * pixels.shape[1])), dim=1).values
    darkest = torch.maximum(darkest, LEAST * pixels.mean(1))
    unknown = (known == 0) & ~model.bright.to(known.device)
    return torch.where(unknown, darkest, known)
