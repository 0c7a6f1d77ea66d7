r"""The operations a fusion solver is made of: a proximal gradient step, the cost, the momentum.

`TorchSteps` runs wherever torch does. `WavefrontSteps` gives the same on a CPU, several times
faster, by `helpers.fusion.backends.wavefront`. Both work on tensors (E, H, W) and have

``prox_gradient(z, step, n_sweeps, warm) -> x, square, along``
    the gradient step from `z` and `n_sweeps` sweeps of TV projection, from the last dual field
    when `warm`; with the sums of :math:`(x-z)^2` and of :math:`(x-z)\,\nabla f(z)`;
``evaluate(x, z) -> terms, along``
    the three terms of the cost at `x`, and the sum of :math:`(x-z)\,\nabla f(x)`;
``extrapolate(x, new, factor) -> z``
    the point `factor` times the way from `x` to `new`, cut off at zero.

The gradient and the cost are derived in :doc:`/book/fusion/01_model`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...tv import Kind, Sweeps, tv


@dataclass
class Steps(ABC):
    """The data and the settings of one fusion."""

    maps: torch.Tensor  # (E, H, W), zero where masked
    haadf: torch.Tensor  # (H, W), zero where masked
    weights: torch.Tensor  # (E,)
    gamma: float
    lambda_haadf: float
    lambda_chem: float
    lambda_tv: torch.Tensor  # (E,)
    background: torch.Tensor  # (E,)
    kind: Kind
    seen_haadf: torch.Tensor | None = None  # (H, W), 0 where a pixel takes no part, else 1
    seen_maps: torch.Tensor | None = None  # (E, H, W)

    @abstractmethod
    def prox_gradient(
        self, z: torch.Tensor, step: float, n_sweeps: int, warm: bool
    ) -> tuple[torch.Tensor, float, float]:
        """One proximal gradient step from `z`."""

    @abstractmethod
    def evaluate(
        self, x: torch.Tensor, z: torch.Tensor
    ) -> tuple[tuple[float, float, float], float]:
        """Cost of `x`, and its slope from `z`."""

    @abstractmethod
    def extrapolate(self, x: torch.Tensor, new: torch.Tensor, factor: float) -> torch.Tensor:
        """Go on from `new`, away from `x`."""

    def curvature_bound(self, x: torch.Tensor) -> float:
        """Bound on the positive curvature of the two data terms at `x`."""
        haadf = self.weights.square().sum() * x.max() ** (2 * self.gamma - 2)
        chem = (self.maps / (x + _column(self.background)).square_()).max()
        return float(self.lambda_haadf * self.gamma**2 * haadf + self.lambda_chem * chem)

    def terms(self, haadf: float, chem: float, roughness: float) -> tuple[float, float, float]:
        """The three terms of the cost, from their sums (the last has its lambdas already)."""
        return self.lambda_haadf * haadf, self.lambda_chem * chem, roughness


class TorchSteps(Steps):
    """The operations in torch, on the device of the maps, in images that are made once."""

    # The last maps whose gradient was asked for, and what it was.
    _at: Any = None
    _there: Any = None

    def prox_gradient(
        self, z: torch.Tensor, step: float, n_sweeps: int, warm: bool
    ) -> tuple[torch.Tensor, float, float]:
        """One proximal gradient step from `z`."""
        gradient = self._gradient(z)[0]
        sweeps = self._sweeps
        torch.sub(z, gradient, alpha=step, out=sweeps.y)
        radius = torch.mul(_column(self.lambda_tv), step, out=sweeps.radius)
        sweeps.dual = sweeps.dual.mul_(radius) if warm else sweeps.dual.zero_()
        sweeps.restart()
        sweeps.run(n_sweeps)
        x = sweeps.primal(sweeps.dual)
        sweeps.dual.div_(radius.where(radius > 0, radius.new_ones(())))
        moved = torch.sub(x, z, out=sweeps.x)
        square = self._sum(torch.mul(moved, moved, out=sweeps.buffer))
        return x, square, self._sum(moved.mul_(gradient))

    def evaluate(
        self, x: torch.Tensor, z: torch.Tensor
    ) -> tuple[tuple[float, float, float], float]:
        """Cost of `x`, and its slope from `z`."""
        gradient, residual = self._gradient(x)
        scratch = self._sweeps.buffer
        logarithm = torch.add(x, _column(self.background), out=scratch).log_()
        chem = -self._sum(logarithm.mul_(self.maps))
        chem += self._sum(x if self.seen_maps is None else self.seen_maps * x)
        roughness = float((tv(x, self.kind) * self.lambda_tv).sum())
        terms = self.terms(self._sum(residual.square()) / 2, chem, roughness)
        along = self._sum(torch.sub(x, z, out=scratch).mul_(gradient)) if x is not z else 0.0
        return terms, along

    def extrapolate(self, x: torch.Tensor, new: torch.Tensor, factor: float) -> torch.Tensor:
        """Go on from `new`, away from `x`."""
        return torch.lerp(x, new, factor).clamp_min_(0)

    @cached_property
    def _sweeps(self) -> Sweeps:
        """The projection. From one step to the next, its dual field is in the unit ball."""
        dual = self.maps.new_zeros(2, *self.maps.shape)
        radius = self.maps.new_zeros(len(self.maps), 1, 1)
        return Sweeps(self.maps.clone(), radius, dual, self.kind, 0.0, None)

    def _gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of the two data terms, and the HAADF residual.

        Kept, because a step without momentum starts where the cost was taken last.
        """
        if x is not self._at:
            image, scratch = self._there[0] if self._there else x.clone(), self._sweeps.x
            # x^gamma = x x^(gamma-1), so one power does; exp2 and log2 are the fast ones on a CPU.
            power = torch.clamp_min(x, 1e-30, out=image).log2_().mul_(self.gamma - 1).exp2_()
            weights = _column(self.weights)
            model = torch.mul(weights, x, out=scratch).mul_(power).sum(dim=0)
            residual = model.sub_(self.haadf)
            if self.seen_haadf is not None:
                residual.mul_(self.seen_haadf)
            gradient = power.mul_(residual).mul_(self.lambda_haadf * self.gamma * weights)
            chem = torch.add(x, _column(self.background), out=scratch).reciprocal_()
            gradient.sub_(chem.mul_(self.maps), alpha=self.lambda_chem)
            # A masked pixel of a map has no counts and no cost of its own.
            gradient.add_(self.lambda_chem if self.seen_maps is None else self._charge)
            self._at, self._there = x, (gradient, residual)
        return self._there

    @cached_property
    def _charge(self) -> torch.Tensor:
        assert self.seen_maps is not None
        return self.seen_maps * self.lambda_chem

    def _sum(self, values: torch.Tensor) -> float:
        """Sum of the rows' sums, in double precision where the device has it (Apple's has not)."""
        dtype = torch.float32 if values.device.type == "mps" else torch.float64
        return float(values.sum(dim=-1).sum(dtype=dtype))


class WavefrontSteps(Steps):
    """The operations in one pass over the rows, float32 on the CPU, threads taking bands."""

    dual: Any = None  # in the unit ball; kept from one warm step to the next

    def prox_gradient(
        self, z: torch.Tensor, step: float, n_sweeps: int, warm: bool
    ) -> tuple[torch.Tensor, float, float]:
        """One proximal gradient step from `z`."""
        from .wavefront import prox_gradient

        if self.dual is None:
            shape = (z.shape[0], 2, *z.shape[1:]) if warm else (0, 0, 0, 0)
            self.dual, self._spare = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        x = self._image()
        f = np.float32
        sums = self._bands(
            n_sweeps,
            lambda first, last: prox_gradient(
                z.numpy(), *self._data, f(step), f(step) * self._lambda_tv, momentum(n_sweeps),
                self.kind == "isotropic", warm, self.dual, self._spare, x, first, last,
            ),
        )  # fmt: skip
        if warm:
            self.dual, self._spare = self._spare, self.dual
        return torch.from_numpy(x), *sums

    def evaluate(
        self, x: torch.Tensor, z: torch.Tensor
    ) -> tuple[tuple[float, float, float], float]:
        """Cost of `x`, and its slope from `z`."""
        from .wavefront import evaluate

        *sums, along = self._bands(
            0,
            lambda first, last: evaluate(
                x.numpy(),
                z.numpy(),
                *self._data,
                self._lambda_tv,
                self.kind == "isotropic",
                first,
                last,
            ),
        )
        return self.terms(*sums), along

    def extrapolate(self, x: torch.Tensor, new: torch.Tensor, factor: float) -> torch.Tensor:
        """Go on from `new`, away from `x`.

        Not by torch: its threads stay awake for milliseconds after such a call, on our cores.
        """
        from .wavefront import extrapolate

        z = self._image()
        images = x.numpy(), new.numpy(), np.float32(factor), z
        self._bands(0, lambda first, last: extrapolate(*images, first, last))
        return torch.from_numpy(z)

    @cached_property
    def _data(self) -> tuple:
        f = np.float32
        return (
            self.maps.numpy(), self.haadf.numpy(), self.weights.numpy(), f(self.gamma),
            f(self.lambda_haadf), f(self.lambda_chem), self.background.numpy(),
        )  # fmt: skip

    @cached_property
    def _lambda_tv(self) -> np.ndarray:
        return self.lambda_tv.numpy()

    def _image(self) -> np.ndarray:
        """Room for maps. NumPy asks for it in large pages, torch waits for thousands of small."""
        return np.empty(self.maps.shape, np.float32)

    def _bands(self, n_sweeps: int, work: Callable[[int, int], tuple]) -> tuple:
        """Run `work` on bands of rows, one a thread, and add up what they return."""
        rows = self.haadf.shape[0]
        # Rows beyond a band's edge are computed twice: no band should be mostly edge. And a band
        # of less than half a millisecond's work is not worth waking a thread for.
        most = min(rows // (4 * (n_sweeps + 2)), self.maps.numel() // 2**16)
        n = max(1, min(torch.get_num_threads(), most))
        edges = [rows * k // n for k in range(n + 1)]
        if n == 1:
            return work(0, rows)
        results = list(self._pool.map(work, edges[:-1], edges[1:]))
        return tuple(map(sum, zip(*results, strict=True)))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(torch.get_num_threads())


def _column(per_element: torch.Tensor) -> torch.Tensor:
    return per_element[:, None, None]


def momentum(n_sweeps: int) -> np.ndarray:
    """The FISTA factors of `n_sweeps` sweeps, float32."""
    t, factors = 1.0, []
    for _ in range(n_sweeps):
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        factors.append((t - 1) / following)
        t = following
    return np.array(factors, np.float32)
