"""Dispatch to the compiled loop: the fits that it serves, and their arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...._arrays import to_tensor
from ....noise._checks import NoiseModel
from ....noise.counting import SCMOS, Poisson
from ....noise.readout import EMCCD, PoissonGauss
from ...renderers.base import Renderer
from ...renderers.gaussian import Gaussian2D, Gaussian3D
from ...renderers.spline import Spline2D, Spline3D
from .._checks import each_or_shared
from ..goodness import FIRST, STEPS, moment_table
from ..levenberg import Minimum, Problem
from . import levenberg as levenberg_cpu
from . import likelihood

CODES = ("x", "y", "photons", "background", "sigma", "sigma_x", "sigma_y", "z")


def knows(renderer: Renderer, noise: NoiseModel, device: torch.device) -> bool:
    """True for a spot, a camera of `helpers.noise`, and the CPU."""
    return (
        type(renderer) in (Gaussian2D, Gaussian3D, Spline2D, Spline3D)
        and type(noise) in (Poisson, SCMOS, PoissonGauss, EMCCD)
        and device.type == "cpu"
    )


def serves(problem: Problem) -> bool:
    """True if the compiled loop knows renderer and noise, and there is one spot an image."""
    return (
        knows(problem.renderer, problem.noise, problem.images.device)
        and all(emitter is None for _, emitter in problem.free)
        and all(value.ndim == 1 for value in problem.fixed.values())
    )


def widened(problem: Problem) -> Problem:
    """The problem in double precision, converted once for the starts and for the loop."""
    return replace(
        problem,
        images=problem.images.double(),
        use=each_or_shared(problem.use).double().expand_as(problem.images),
        fixed={name: value.double() for name, value in problem.fixed.items()},
    )


def minimize(problem: Problem, theta: torch.Tensor, n_iter: int, tol: float) -> Minimum:
    """The same as `helpers.renderer.mle.levenberg.minimize`, compiled."""
    n_images, n_free = theta.shape
    names = [name for name, _ in problem.free]
    codes = np.array([CODES.index(name) for name in names])
    # every array in one piece: for another layout numba would compile the loop once more
    low, high = (t.double().contiguous().numpy() for t in (problem.low, problem.high))
    start = np.zeros((n_images, len(CODES)))
    for name, value in problem.fixed.items():
        start[:, CODES.index(name)] = value.numpy()
    start[:, codes] = np.clip(theta.double().numpy(), low, high)
    if "sigma" in problem.renderer.params:  # one width for both axes
        start[:, [CODES.index("sigma_x"), CODES.index("sigma_y")]] = start[
            :, [CODES.index("sigma")]
        ]
    astigmatism = np.zeros((0, 2))
    if isinstance(problem.renderer, Gaussian3D):
        astigmatism = problem.renderer.calibration().double().contiguous().numpy()
    coefficients, z_step = np.zeros((0, 0, 0)), 1.0
    if isinstance(problem.renderer, Spline2D | Spline3D):
        coefficients = problem.renderer.coefficients.detach().double().contiguous().numpy()
        z_step = getattr(problem.renderer, "z_step", 1.0)
    variance = torch.zeros(1, *problem.images.shape[1:])
    if isinstance(problem.noise, SCMOS | PoissonGauss):
        given = to_tensor(problem.noise.variance)
        variance = given.expand_as(problem.images if given.ndim > 2 else variance)
    use = each_or_shared(problem.use)
    deviance, moments = np.empty(n_images), np.empty((2, n_images))
    bound = np.empty((n_images, n_free))
    converged, steps = np.empty(n_images, bool), np.empty(n_images, np.int64)
    arrays = (t.double().contiguous().numpy() for t in (problem.images, use, variance))
    levenberg_cpu.minimize(
        *arrays, camera_of(problem.noise), start, codes, low, high, astigmatism, coefficients,
        z_step, n_iter, tol, moment_table(), FIRST, STEPS, deviance, moments, bound, converged,
        steps,
    )  # fmt: skip
    found = (start[:, codes], deviance, bound, moments)
    return Minimum(*map(torch.from_numpy, (*found, converged, steps)))


def camera_of(noise: NoiseModel) -> likelihood.Camera:
    """Constants and tables of a noise model for the compiled loop."""
    if isinstance(noise, EMCCD):
        return likelihood.multiplied_camera(noise.gain, noise.variance)
    if isinstance(noise, PoissonGauss):
        return likelihood.mixture_camera(noise)
    return likelihood.SHOT_NOISE
