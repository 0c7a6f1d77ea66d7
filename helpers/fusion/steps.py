r"""The two operations a fusion solver is made of: a proximal gradient step, and the cost.

`TorchSteps` runs wherever torch does. `WavefrontSteps` gives the same on a CPU, several times
faster, by `helpers.fusion.wavefront`. Both work on tensors (E, H, W) and have

``prox_gradient(z, step, n_sweeps, warm) -> x, square, along``
    the gradient step from `z` and `n_sweeps` sweeps of TV projection, from the last dual field when
    `warm`; with the sums of :math:`(x-z)^2` and of :math:`(x-z)\,\nabla f(z)`;
``evaluate(x, z) -> terms, along``
    the three terms of the cost at `x`, and the sum of :math:`(x-z)\,\nabla f(x)`.

The gradient and the cost are derived in :doc:`/book/fusion/01_model`.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..tv import Sweeps, tv


@dataclass
class Steps:
    """The data and the settings of one fusion."""

    maps: object  # (E, H, W) tensor
    haadf: object  # (H, W) tensor
    weights: object  # (E,) tensor
    gamma: float
    lambda_haadf: float
    lambda_chem: float
    lambda_tv: float
    background: float
    kind: str

    dual = None  # in the unit ball; kept from one warm step to the next

    def curvature_bound(self, x):
        """Bound on the positive curvature of the two data terms at `x`."""
        haadf = self.weights.square().sum() * x.max() ** (2 * self.gamma - 2)
        chem = (self.maps / (x + self.background).square_()).max()
        return float(self.lambda_haadf * self.gamma**2 * haadf + self.lambda_chem * chem)

    def terms(self, haadf, chem, roughness):
        """The three terms of the cost, from their sums without the lambdas."""
        return (
            self.lambda_haadf * float(haadf),
            self.lambda_chem * float(chem),
            self.lambda_tv * float(roughness),
        )


class TorchSteps(Steps):
    """Both operations in torch, on the device of the maps."""

    def prox_gradient(self, z, step, n_sweeps, warm):
        gradient = self._gradient(z)[0]
        y = z - step * gradient
        radius = y.new_tensor(step * self.lambda_tv)
        if warm and self.dual is not None:
            dual = self.dual.mul_(radius)
        else:
            dual = y.new_zeros(2, *y.shape)
        sweeps = Sweeps(y, radius, dual, self.kind, 0.0, None)
        sweeps.run(n_sweeps)
        x = sweeps.primal(sweeps.dual)
        if warm:
            self.dual = sweeps.dual.div_(radius) if radius > 0 else sweeps.dual
        moved = x - z
        return x, self._sum(moved.square()), self._sum(moved.mul_(gradient))

    def evaluate(self, x, z):
        gradient, residual = self._gradient(x)
        chem = x - self.maps * (x + self.background).log_()
        roughness = self._sum(tv(x, self.kind))
        terms = self.terms(self._sum(residual.square()) / 2, self._sum(chem), roughness)
        return terms, self._sum(gradient.mul_(x - z)) if x is not z else 0.0

    @cached_property
    def _column(self):
        return self.weights[:, None, None]

    def _gradient(self, x):
        """Gradient of the two data terms, and the HAADF residual."""
        # x^gamma = x x^(gamma-1), so one power does; exp2 and log2 are the fast ones on a CPU.
        power = x.clamp_min(1e-30).log2_().mul_(self.gamma - 1).exp2_()
        residual = (self._column * x).mul_(power).sum(dim=0).sub_(self.haadf)
        gradient = power.mul_(residual).mul_(self.lambda_haadf * self.gamma * self._column)
        chem = (x + self.background).reciprocal_().mul_(self.maps)
        return gradient.add_(self.lambda_chem).sub_(chem, alpha=self.lambda_chem), residual

    def _sum(self, values):
        """Sum in double precision where the device has it (Apple's does not)."""
        import torch

        dtype = torch.float32 if values.device.type == "mps" else torch.float64
        return float(values.sum(dtype=dtype))


class WavefrontSteps(Steps):
    """Both operations in one pass over the rows, float32 on the CPU, by bands of rows in threads."""

    def prox_gradient(self, z, step, n_sweeps, warm):
        import torch

        from .wavefront import prox_gradient

        if self.dual is None:
            shape = (z.shape[0], 2, *z.shape[1:]) if warm else (0, 0, 0, 0)
            self.dual, self._spare = torch.zeros(shape), torch.zeros(shape)
        x = torch.empty_like(z)
        f = np.float32
        sums = self._bands(
            n_sweeps,
            lambda first, last: prox_gradient(
                z.numpy(), *self._data, f(step), f(step * self.lambda_tv), momentum(n_sweeps),
                self.kind == "isotropic", warm, self.dual.numpy(), self._spare.numpy(), x.numpy(),
                first, last,
            ),
        )  # fmt: skip
        if warm:
            self.dual, self._spare = self._spare, self.dual
        return x, *sums

    def evaluate(self, x, z):
        from .wavefront import evaluate

        *sums, along = self._bands(
            0,
            lambda first, last: evaluate(
                x.numpy(), z.numpy(), *self._data, self.kind == "isotropic", first, last
            ),
        )
        return self.terms(*sums), along

    @cached_property
    def _data(self):
        f = np.float32
        return (
            self.maps.numpy(), self.haadf.numpy(), self.weights.numpy(), f(self.gamma),
            f(self.lambda_haadf), f(self.lambda_chem), f(self.background),
        )  # fmt: skip

    def _bands(self, n_sweeps, work):
        """Run `work` on bands of rows, one a thread, and add up what they return."""
        import torch

        rows = self.haadf.shape[0]
        # Rows beyond a band's edge are computed twice: no band should be mostly edge.
        n = max(1, min(torch.get_num_threads(), rows // (4 * (n_sweeps + 2))))
        edges = [rows * k // n for k in range(n + 1)]
        if n == 1:
            return work(0, rows)
        with ThreadPoolExecutor(n) as pool:
            results = list(pool.map(work, edges[:-1], edges[1:]))
        return tuple(map(sum, zip(*results, strict=True)))


def momentum(n_sweeps):
    """The FISTA factors of `n_sweeps` sweeps, float32."""
    t, factors = 1.0, []
    for _ in range(n_sweeps):
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        factors.append((t - 1) / following)
        t = following
    return np.array(factors, np.float32)
