"""Base class of the renderers: parameters, checks, and derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..._arrays import Array, is_tensor, to_numpy
from ..params import Param


class Renderer(torch.nn.Module):
    """Turn named physical parameters into the expected image.

    Parameters
    ----------
    image_shape : tuple of int
        (Y, X), or (Z, Y, X) for a volume.
    params : sequence of Param
        What the renderer needs. One that is not given to `render` takes its `start`.

    Notes
    -----
    Coordinates count pixels from the image centre, ``(n - 1) / 2``: x along the last axis, y along
    the one before. A subclass implements `expected`; weights of a renderer are properties of the
    instrument (a template, a pupil) and can be learned.
    """

    def __init__(self, image_shape: Sequence[int], params: Sequence[Param]) -> None:
        super().__init__()
        shape = tuple(int(n) for n in image_shape)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"image_shape is {image_shape}: give (Y, X) or (Z, Y, X)")
        self.image_shape = shape
        self.pixel_shape = shape  # of per-pixel parameters; an object may reach beyond the image
        self.params = {param.name: param for param in params}

    def render(self, params: Mapping[str, Any]) -> Array:
        r"""Expected images, background counted once.

        Parameters
        ----------
        params : dict
            By name: a number, or an array or tensor of shape (B,), or (B, K) for K emitters an
            image; per-pixel parameters (B, \*pixel_shape). Missing ones take their `start`.

        Returns
        -------
        array or tensor (B, \*image_shape)
            Expected photo-electrons: a tensor if a parameter is one, else a NumPy array.

        Raises
        ------
        ValueError
            An unknown name, or shapes that do not go together.
        """
        tensors = any(is_tensor(value) for value in params.values())
        if tensors:
            return self.expected(self.complete(params))
        with torch.no_grad():
            return to_numpy(self.expected(self.complete(params)))

    def forward(self, params: Mapping[str, Any]) -> Array:
        """The same as `render`."""
        return self.render(params)

    def complete(self, params: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Every parameter as a tensor: (B, K) per emitter, (B,) per image; missing ones filled."""
        unknown = [name for name in params if name not in self.params]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no parameter {', '.join(unknown)}: "
                f"it takes {', '.join(self.params)}"
            )
        like = next((value for value in params.values() if is_tensor(value)), None)
        if like is None:
            weight = next(self.parameters(), None)
            device = None if weight is None else weight.device
            like = torch.zeros((), dtype=torch.float64 if weight is None else weight.dtype)
            like = like.to(device)
        full = {}
        for name, param in self.params.items():
            value = params.get(name, param.start)
            value = value if is_tensor(value) else torch.as_tensor(np.asarray(value))
            full[name] = value.to(like)
        batch, emitters = self._batch_and_emitters(full)
        for name, param in self.params.items():
            value = full[name]
            if param.per_pixel:
                shape = (batch, *self.pixel_shape)
                value = value if value.ndim else value.expand(shape)
            elif param.per_emitter:
                value = value[:, None] if value.ndim == 1 else value
                shape = (batch, emitters)
            else:
                value = value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value
                shape = (batch,)
            try:
                full[name] = value.expand(shape)
            except RuntimeError as error:
                raise ValueError(
                    f"{name} is {tuple(value.shape)} but the other parameters ask for {shape}: "
                    "give every parameter the same number of images and emitters"
                ) from error
        return full

    def _batch_and_emitters(self, full):
        batch = max((value.shape[0] for value in full.values() if value.ndim), default=1)
        per_emitter = [full[name] for name, param in self.params.items() if param.per_emitter]
        return batch, max((v.shape[1] for v in per_emitter if v.ndim > 1), default=1)

    def expected(self, full: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Images of completed parameters; what a subclass writes."""
        raise NotImplementedError(f"{type(self).__name__} has no method `expected`")

    def jacobian(
        self, params: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Images and their derivatives.

        Parameters
        ----------
        params : dict
            As for `render`.
        names : sequence of str
            What to differentiate by; a per-emitter parameter counts once for each emitter.

        Returns
        -------
        images : tensor (B, \*image_shape)
        derivatives : tensor (B, P, \*image_shape)
            Per unit of the parameter, in the order of `names`, emitters innermost.

        Notes
        -----
        An image depends on its own parameters only, so one forward-mode product gives one
        column for the whole batch. Renderers with a closed form override this.
        """
        full = self.complete(params)
        images, columns = torch.empty(0), []
        for name in names:
            n_columns = full[name].shape[1] if self.params[name].per_emitter else 1
            for k in range(n_columns):
                point = full[name].contiguous()
                tangent = torch.zeros_like(point)
                (tangent[:, k] if self.params[name].per_emitter else tangent).fill_(1)
                images, column, *_ = torch.func.jvp(
                    lambda value, name=name: self.expected({**full, name: value}),
                    (point,),
                    (tangent,),
                )
                columns.append(column)
        return images, torch.stack(columns, 1)
