r"""Levenberg-Marquardt by Fisher scoring, for a batch of images at once, in torch.

Every image has its own damping and leaves the batch when it has converged. Any renderer serves
through `Renderer.jacobian`, any noise through `score`, `information` and `deviance`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from ...noise._checks import NoiseModel
from .goodness import deviance_moments

DIM = 1e-6  # the least rate; a spline can dip below zero
DAMPING, LEAST, MOST = 1e-3, 1e-7, 1e7  # at the start, at least, at most
# Steps too short for the deviance to tell, squared: in double precision, and in single
RESOLUTION, ROUGH_RESOLUTION = 1e-10, 1e-4


@dataclass
class Problem:
    r"""A batch of least-deviance fits: images, mask, renderer, noise, free parameters.

    Attributes
    ----------
    images, use : tensor (B, \*image_shape)
        Photo-electrons, and 1 where a pixel counts, else 0.
    renderer : Renderer
    noise : object
        A model of `helpers.noise`.
    free : list of (str, int or None)
        Name of each free parameter and, where several emitters share an image, which of them.
    fixed : dict
        Tensors (B,) or (B, K) of the rest.
    low, high : tensor (P,)
        Limits.
    """

    images: Any
    use: Any
    renderer: Any
    noise: Any
    free: list
    fixed: dict
    low: Any
    high: Any

    def select(self, index: torch.Tensor) -> Problem:
        """The problem of some of the images."""
        fixed = {name: value[index] for name, value in self.fixed.items()}
        return replace(
            self,
            images=self.images[index],
            use=self.use[index],
            noise=noise_of(self.noise, index),
            fixed=fixed,
        )

    def params(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dict by name of the columns of `theta` (B, P) and of what is fixed."""
        return {**self.fixed, **by_name(theta, self.free)}

    def rate(self, theta: torch.Tensor) -> torch.Tensor:
        """Expected images."""
        return self.renderer.render(self.params(theta)).clamp(min=DIM)

    def evaluate(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Deviance (B,), gradient (B, P) and Fisher information (B, P, P) at `theta`."""
        names = list(dict.fromkeys(name for name, _ in self.free))
        rate, slopes = self.renderer.jacobian(self.params(theta), names)
        rate = rate.clamp(min=DIM)
        each = self.noise.deviance(
            rate.to(wide(rate)), self.images.to(wide(rate)), reduction="none"
        )
        deviance = (each * self.use).flatten(1).sum(1)
        score = (self.noise.score(rate, self.images) * self.use).flatten(1)
        information = (self.noise.information(rate) * self.use).flatten(1)
        slopes = slopes.flatten(2)
        gradient = (slopes @ score[..., None])[..., 0]
        return deviance, gradient, (slopes * information[:, None]) @ slopes.mT

    def moments(self, theta: torch.Tensor) -> torch.Tensor:
        """Mean and variance (2, B) that the deviance would have at `theta`."""
        each = deviance_moments(self.noise, self.rate(theta))
        return torch.stack([(part * self.use).flatten(1).sum(1) for part in each])


class Minimum(NamedTuple):
    """Result of a batch of fits: tensors (B, ...).

    Attributes
    ----------
    theta : tensor (B, P)
    deviance : tensor (B,)
    bound : tensor (B, P)
        Root of the Cramér-Rao bound there.
    moments : tensor (2, B)
        Mean and variance of the deviance by noise alone.
    converged : tensor (B,) of bool
    n_iter : tensor (B,) of int
        Steps tried.
    """

    theta: Any
    deviance: Any
    bound: Any
    moments: Any
    converged: Any
    n_iter: Any


def noise_of(noise: NoiseModel, index: Any) -> NoiseModel:
    """The noise model of some of the images, where its map has a value for each of them."""
    variance = getattr(noise, "variance", None)
    if getattr(variance, "ndim", 0) < 3:
        return noise
    part: Any = copy.copy(noise)
    part.variance = part.variance[index]
    return part


def by_name(theta: torch.Tensor, free: Sequence[tuple[str, int | None]]) -> dict[str, torch.Tensor]:
    """Dict by name of the columns of `theta` (B, P): (B,), or (B, K) for several emitters."""
    columns: dict[str, list[torch.Tensor]] = {}
    for p, (name, _) in enumerate(free):
        columns.setdefault(name, []).append(theta[:, p])
    return {k: v[0] if len(v) == 1 else torch.stack(v, 1) for k, v in columns.items()}


def wide(x: torch.Tensor) -> torch.dtype:
    """The widest type on the device of `x`."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def minimize(problem: Problem, theta: torch.Tensor, n_iter: int, tol: float) -> Minimum:
    r"""Fit from `theta` (B, P); gives a `Minimum`.

    Notes
    -----
    A step solves :math:`(F + \lambda\,\mathrm{diag} F)\,\delta = -g`. It counts only if the
    deviance falls; then the damping falls tenfold, else it rises tenfold. A fit has converged when
    the next step, measured in standard deviations of the estimate, is below `tol`. That last
    step is taken too, but what was evaluated before it is kept.
    """
    whole, n_images = problem, len(theta)
    theta = theta.clamp(problem.low, problem.high)
    deviance, gradient, information = problem.evaluate(theta)
    result = theta.clone(), deviance.clone(), information.clone()
    converged = torch.zeros(n_images, dtype=torch.bool, device=theta.device)
    steps = torch.zeros(n_images, dtype=torch.int64, device=theta.device)
    active = torch.arange(n_images, device=theta.device)
    damping = torch.full((n_images,), DAMPING, dtype=theta.dtype, device=theta.device)
    resolution = ROUGH_RESOLUTION if theta.dtype == torch.float32 else RESOLUTION
    least = max(LEAST, 8 * torch.finfo(theta.dtype).eps)  # less would be lost beside 1
    for k in range(n_iter + 1):
        step, wanted = _step(problem, theta, gradient, information, damping)
        done = wanted < tol**2
        trial = (theta + step).clamp(problem.low, problem.high)
        theta = torch.where(done[:, None], trial, theta)
        if k < n_iter and not bool(done.all()):
            new = problem.evaluate(trial)
            falls = (new[0] < deviance) & ~done
            theta = torch.where(falls[:, None], trial, theta)
            deviance = torch.where(falls, new[0], deviance)
            gradient = torch.where(falls[:, None], new[1], gradient)
            information = torch.where(falls[:, None, None], new[2], information)
            damping = torch.where(falls, damping / 10, damping * 10).clamp(least, MOST)
            steps[active] += ~done
            done = done | (~falls & (wanted < resolution))
        for every, part in zip(result, (theta, deviance, information), strict=True):
            every[active] = part
        converged[active] = done
        if bool(done.all()):
            break
        if bool(done.any()):
            keep = ~done
            active, damping = active[keep], damping[keep]
            theta, deviance = theta[keep], deviance[keep]
            gradient, information = gradient[keep], information[keep]
            problem = problem.select(keep)
    theta, deviance, information = result
    moments = whole.moments(theta)
    return Minimum(theta, deviance, standard_deviations(information), moments, converged, steps)


def _step(problem, theta, gradient, information, damping):
    """The damped step, and the square of the undamped one's length in standard deviations."""
    # a parameter that leans against its limit stays there
    stuck = ((theta <= problem.low) & (gradient > 0)) | ((theta >= problem.high) & (gradient < 0))
    gradient = gradient.masked_fill(stuck, 0)
    information = information.masked_fill(stuck[:, None] | stuck[:, :, None], 0)
    diagonal = information.diagonal(dim1=1, dim2=2)
    diagonal = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))
    # scaled to a unit diagonal, so that float32 can solve it whatever the units
    scale = diagonal.rsqrt()
    unit = information * scale[:, :, None] * scale[:, None, :]
    unit = unit + torch.diag_embed((damping[:, None] + 1) - unit.diagonal(dim1=1, dim2=2))
    solution, _ = torch.linalg.solve_ex(unit, (-gradient * scale)[..., None])
    step = solution[..., 0] * scale
    wanted = -(gradient * step).sum(1) * (1 + damping)
    # two emitters at one place make a singular system: no step, and more damping
    solved = step.isfinite().all(1) & wanted.isfinite()
    return torch.where(solved[:, None], step, 0), torch.where(solved, wanted, torch.inf)


def standard_deviations(information: torch.Tensor) -> torch.Tensor:
    """Root of the diagonal of the inverse Fisher information (B, P, P); infinite if singular."""
    scale = information.diagonal(dim1=1, dim2=2).clamp(min=0).rsqrt()
    unit = information * scale[:, :, None] * scale[:, None, :]
    identity = torch.eye(unit.shape[1], dtype=wide(unit), device=unit.device)
    finite = torch.isfinite(scale).all(1)
    unit = torch.where(finite[:, None, None], unit.to(identity.dtype), identity)
    factor, failed = torch.linalg.cholesky_ex(unit)
    # rounding leaves a little where nothing is known, and its inverse means nothing
    left = factor.diagonal(dim1=1, dim2=2).amin(1) ** 2
    regular = finite & (failed == 0) & (left > 50 * torch.finfo(information.dtype).eps)
    factor = torch.where(regular[:, None, None], factor, identity)
    variances = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2)
    return torch.where(regular[:, None], variances.sqrt().to(scale) * scale, torch.inf)
