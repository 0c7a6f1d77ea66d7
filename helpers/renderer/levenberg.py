r"""Levenberg-Marquardt by Fisher scoring, for a batch of images at once, in torch.

Every image has its own damping and leaves the batch when it has converged. Any renderer serves
through `Renderer.jacobian`, any noise through `score`, `information` and `deviance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

DAMPING, LEAST, MOST = 1e-3, 1e-7, 1e7


@dataclass
class Problem:
    """What is fitted to what.

    Attributes
    ----------
    images, mask : tensor (B, *image_shape)
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
    mask: Any
    renderer: Any
    noise: Any
    free: list
    fixed: dict
    low: Any
    high: Any

    def select(self, index):
        """The problem of some of the images."""
        fixed = {name: value[index] for name, value in self.fixed.items()}
        return Problem(
            self.images[index], self.mask[index], self.renderer, noise_of(self.noise, index),
            self.free, fixed, self.low, self.high,
        )  # fmt: skip

    def params(self, theta):
        """Dict by name of the columns of `theta` (B, P) and of what is fixed."""
        columns = {}
        for p, (name, _) in enumerate(self.free):
            columns.setdefault(name, []).append(theta[:, p])
        whole = {k: v[0] if len(v) == 1 else torch.stack(v, 1) for k, v in columns.items()}
        return {**self.fixed, **whole}

    def evaluate(self, theta):
        """Deviance (B,), gradient (B, P) and Fisher information (B, P, P) at `theta`."""
        names = list(dict.fromkeys(name for name, _ in self.free))
        rate, slopes = self.renderer.jacobian(self.params(theta), names)
        rate = rate.clamp(min=1e-6)
        wide = torch.float32 if rate.device.type == "mps" else torch.float64
        each = self.noise.deviance(rate.to(wide), self.images.to(wide), reduction="none")
        deviance = (each * self.mask).flatten(1).sum(1)
        score = (self.noise.score(rate, self.images) * self.mask).flatten(1)
        information = (self.noise.information(rate) * self.mask).flatten(1)
        slopes = slopes.flatten(2)
        gradient = (slopes @ score[..., None])[..., 0]
        return deviance, gradient, (slopes * information[:, None]) @ slopes.mT


def noise_of(noise, index):
    """The noise model of some of the images: maps of a value for each image are cut down."""
    select = getattr(noise, "select", None)
    return noise if select is None else select(index)


def minimize(problem, theta, n_iter, tolerance):
    r"""Fit from `theta` (B, P).

    Returns
    -------
    theta : tensor (B, P)
    deviance : tensor (B,)
    information : tensor (B, P, P)
    converged : tensor (B,) of bool
    n_iter : tensor (B,) of int

    Notes
    -----
    A step solves :math:`(F + \lambda\,\mathrm{diag} F)\,\delta = -g`. It counts only if the
    deviance falls; then the damping falls tenfold, else it rises tenfold. A fit has converged when
    the step it wants, measured in standard deviations of the estimate, is below `tolerance`.
    """
    n_images, n_free = theta.shape
    theta = theta.clamp(problem.low, problem.high)
    deviance, gradient, information = problem.evaluate(theta)
    result = [theta.clone(), deviance.clone(), information.clone()]
    converged = torch.zeros(n_images, dtype=torch.bool, device=theta.device)
    steps = torch.zeros(n_images, dtype=torch.int64, device=theta.device)
    active = torch.arange(n_images, device=theta.device)
    damping = torch.full((n_images,), DAMPING, dtype=theta.dtype, device=theta.device)
    # a step too short for the deviance to tell, in the precision of the rates
    resolution = 1e-4 if theta.dtype == torch.float32 else 1e-10
    for _ in range(n_iter):
        if not len(active):
            break
        step, wanted = _step(problem, theta, gradient, information, damping)
        trial = (theta + step).clamp(problem.low, problem.high)
        steps[active] += 1
        new = problem.evaluate(trial)
        falls = new[0] < deviance  # false for NaN
        theta = torch.where(falls[:, None], trial, theta)
        deviance = torch.where(falls, new[0], deviance)
        gradient = torch.where(falls[:, None], new[1], gradient)
        information = torch.where(falls[:, None, None], new[2], information)
        damping = torch.where(falls, damping / 10, damping * 10).clamp(LEAST, MOST)
        done = (wanted < tolerance**2) | (~falls & (wanted < resolution))
        for whole, part in zip(result, (theta, deviance, information), strict=True):
            whole[active] = part
        converged[active] = done
        if bool(done.any()):
            keep = ~done
            active, damping = active[keep], damping[keep]
            theta, deviance = theta[keep], deviance[keep]
            gradient, information = gradient[keep], information[keep]
            problem = problem.select(keep)
    return (*result, converged, steps)


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
    return step, -(gradient * step).sum(1) * (1 + damping)


def standard_deviations(information):
    """Root of the diagonal of the inverse Fisher information (B, P, P); infinite if singular."""
    scale = information.diagonal(dim1=1, dim2=2).clamp(min=0).rsqrt()
    finite = torch.isfinite(scale).all(1)
    unit = information * scale[:, :, None] * scale[:, None, :]
    identity = torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
    unit = torch.where(finite[:, None, None], unit, identity)
    inverse, failed = torch.linalg.inv_ex(unit.to(_wide(unit)))
    variances = inverse.diagonal(dim1=1, dim2=2).to(unit.dtype)
    known = finite[:, None] & (failed == 0)[:, None] & (variances > 0)
    return torch.where(known, variances.clamp(min=0).sqrt() * scale, torch.inf)


def _wide(x):
    return torch.float32 if x.device.type == "mps" else torch.float64
