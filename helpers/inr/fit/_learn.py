"""Numbers of an instrument that are found together with the volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._arrays import to_numpy
from .losses import Loss

STEP = 0.05  # of a number at full rate, in its unit: a twentieth of a pixel, or of a degree
MOST_ERRORS = 64  # numbers of one name; a map, such as a pupil, has no error of each point


class Learnt(nn.Module):
    """An operator whose numbers named in `learn` are parameters, and which is called like it.

    What a change of the whole object would do as well is taken out of every change.

    Parameters
    ----------
    operator : operator
        With ``parameters()``, ``at(values)`` and ``without_freedom(name, change)``.
    learn : sequence of str
        Among the names of ``operator.parameters()``.
    rate : float
        Learning rate that the optimiser begins with.
    device : torch.device

    Raises
    ------
    TypeError, ValueError
        An operator without such numbers, or a name that is none of them.
    """

    def __init__(
        self, operator: Any, learn: Sequence[str], rate: float, device: torch.device
    ) -> None:
        super().__init__()
        check_learn(operator, learn)
        self.operator = operator
        self.in_shape, self.out_shape = operator.in_shape, operator.out_shape
        self.voxel_size = getattr(operator, "voxel_size", None)
        known = operator.parameters()
        self.start = {name: known[name].to(device, torch.float32) for name in learn}
        own = getattr(operator, "learning_steps", {})
        self.step = {name: own.get(name, STEP) for name in learn}
        self.rate = rate
        self.change = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros_like(value)) for name, value in self.start.items()}
        )

    def values(self) -> dict[str, torch.Tensor]:
        """The numbers as they are now, by name."""
        return {
            name: value
            + self.operator.without_freedom(name, self.step[name] / self.rate * self.change[name])
            for name, value in self.start.items()
        }

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Prediction of a volume."""
        return self.operator.at(self.values())(volume)

    def found(self) -> Any:
        """The operator with the numbers found."""
        return self.operator.at({name: value.detach() for name, value in self.values().items()})

    def errors(
        self,
        volume: torch.Tensor,
        background: torch.Tensor,
        data: torch.Tensor,
        loss: Loss,
    ) -> dict[str, np.ndarray]:
        """Standard error of each number, with the volume and the other numbers held fixed."""
        values = {name: value.detach() for name, value in self.values().items()}

        def predict(changed: dict[str, torch.Tensor]) -> torch.Tensor:
            # a gradient is asked for so that every call interpolates alike
            asked = {name: value.requires_grad_() for name, value in changed.items()}
            return self.operator.at(asked)(volume).detach()

        here = predict({name: value.clone() for name, value in values.items()})
        curvature = curvature_of(loss, (here + background).clamp(min=1e-6), data)
        errors = {}
        known = getattr(self.operator, "of_each_view", None)
        for name, value in values.items():
            # every view depends on its own numbers alone: one call for all views
            of_view = value.ndim > 0 and data.ndim > 1 and len(value) == len(data)
            of_view = of_view if known is None else name in known
            columns = value[0].numel() if of_view else value.numel()
            if columns > MOST_ERRORS:
                continue
            size, found = self.step[name], []
            for k in range(columns):
                step = torch.zeros_like(value).reshape(-1, columns)
                step[:, k] = size
                ahead = predict(values | {name: value + step.reshape(value.shape)})
                told = curvature * ((ahead - here) / size) ** 2
                told = told.flatten(1).sum(1) if of_view else told.sum()
                found.append(told.clamp(min=1e-30).rsqrt())
            errors[name] = to_numpy(torch.stack(found, -1).reshape(value.shape))
        return errors


def check_learn(operator: Any, learn: Sequence[str]) -> None:
    """Raise where an operator has no such numbers, or `learn` is not a list of names."""
    if isinstance(learn, str):
        raise ValueError(f"learn is {learn!r}: give a list of names, such as learn=[{learn!r}]")
    if not hasattr(operator, "parameters") or not hasattr(operator, "at"):
        raise TypeError(
            f"{type(operator).__name__} has nothing that could be learned: leave out learn, or "
            "give an operator with parameters(), at() and without_freedom()"
        )
    known = operator.parameters()
    if unknown := [name for name in learn if name not in known]:
        raise ValueError(f"learn has {unknown}, but the operator has {sorted(known)}")


def curvature_of(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    prediction: torch.Tensor,
    data: torch.Tensor,
) -> torch.Tensor:
    """Second derivative of the loss at each pixel: one over the variance of its noise."""
    at = prediction.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(at, data), at, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), at)
    return curvature.clamp(min=0)
