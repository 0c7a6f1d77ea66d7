r"""Fit any renderer to many images by maximum likelihood, and say how well it can be done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..._arrays import Array, is_tensor, like, to_tensor
from ..._deprecated import renamed, renamed_attribute
from ...devices import pick_device
from ...noise._checks import NoiseModel
from .._checks import check_counts, checked_noise, checked_renderer
from ..renderers.base import Renderer
from . import initial as starts
from . import levenberg
from ._checks import checked_images, checked_mask, limits, named, to_device
from .cpu import dispatch as compiled
from .goodness import standardized_deviance

REST = "deviance", "converged", "n_iter", "goodness", "n_pixels"
CACHED, COMPILED = 200_000, 1_000_000  # pixels at once, where torch works and where numba does
SCOUT = 5, 0.1  # steps and tolerance of a start that is one of several


@dataclass(frozen=True)
class Fits:
    """Result of `fit`: estimates, their bounds, and how well they fit.

    Attributes
    ----------
    params : dict
        Estimates by name, fixed ones included: (B,), or (B, K) for K emitters an image. `x`, `y`
        in px from the image centre, `z` in µm, `photons` and `background` in photo-electrons.
    crlb_std : dict
        Standard deviations: the root of the Cramér-Rao bound at the estimate, by
        name, in the unit of the parameter. Only of what was fitted. Infinite where the image says
        nothing about a parameter.
    deviance : array (B,)
        Twice the log-likelihood lost against a model that explains every pixel.
    converged : array (B,) of bool
        The last step was shorter than `tol`, and no parameter of any emitter ended at a limit;
        the background may. False, too, where fewer pixels count than parameters are fitted, which
        come out as NaN.
    n_iter : array (B,) of int
        Steps tried.
    goodness : array (B,)
        How far the deviance is from what noise alone would give, in standard deviations: around 0
        for a good fit, above 4 or so for a spot that the model cannot explain. Where most pixels
        hold less than a photo-electron the spread is a little less than 1.
    n_pixels : array (B,) of int
        Pixels used: those not masked and not saturated.
    settings : dict
        What the fit ran with.
    """

    params: dict[str, Array]
    crlb_std: dict[str, Array]
    deviance: Array
    converged: Array
    n_iter: Array
    goodness: Array
    n_pixels: Array
    settings: dict[str, Any]

    crlb = renamed_attribute("crlb_std")


@renamed(tolerance="tol")
def fit(
    images: Array,
    renderer: Renderer,
    noise: NoiseModel,
    start: Mapping[str, Any] | None = None,
    *,
    fixed: Mapping[str, Any] | None = None,
    mask: Array | None = None,
    saturation: float | None = None,
    n_iter: int = 50,
    tol: float = 0.05,
    chunk: int | None = None,
    device: str | torch.device | None = None,
) -> Fits:
    r"""Maximum-likelihood parameters of each image, their bounds, and how well they fit.

    Parameters
    ----------
    images : array or tensor (B, Y, X)
        Photo-electrons; B may be 0. For camera counts, (ADU - offset) / gain.
    renderer : Renderer
        Such as ``Gaussian2D((13, 13))``. All its parameters are fitted unless `fixed`. It is not
        changed, and its weights are not fitted.
    noise : object
        A model of `helpers.noise`, such as ``Poisson()``.
    start : dict, optional
        First guesses by name, (B,), or (B, K) for K emitters an image; missing ones take their
        `start`. Default: found from the images, for one emitter each; a depth `z` is tried in
        several planes.
    fixed : dict, optional
        Values by name that are known: numbers or arrays (B,) or (B, K).
    mask : array or tensor of bool (Y, X) or (B, Y, X), optional
        True where a pixel counts.
    saturation : float, optional
        Pixels at or above it are left out; `Fits.n_pixels` reports how many are left.
    n_iter : int
        Steps at most.
    tol : float
        A fit has converged when a step is shorter than this many standard deviations of the
        estimate. That step is still taken, so what remains is shorter yet.
    chunk : int, optional
        Images at once. The result does not depend on it. Left out, as many as stay in the cache:
        a thousand of 13 x 13 pixels, or five thousand where the loop is compiled.
    device : str or torch.device, optional
        Default: that of a tensor, and for an array the best one.

    Returns
    -------
    Fits
        Arrays for an array, tensors for a tensor.

    Raises
    ------
    ValueError
        NaN or infinite pixels, shapes that do not go together, an unknown name, nothing left to
        fit, or a start outside the limits of its parameter.

    Notes
    -----
    With the rate :math:`\mu(\theta)` of the renderer, gradient and Fisher information of the
    likelihood are

    .. math:: g_p = \sum_i \frac{\partial \mu_i}{\partial \theta_p} \,
              \frac{\partial(-\log L_i)}{\partial \mu_i}, \qquad
              F_{pq} = \sum_i \frac{\partial \mu_i}{\partial \theta_p}
              \frac{\partial \mu_i}{\partial \theta_q}\, I(\mu_i) ,

    for Poisson counts d with :math:`1 - d/\mu` and :math:`I = 1/\mu`. A step solves
    :math:`(F + \lambda\,\mathrm{diag}F)\,\delta = -g` and counts only if the deviance falls
    :cite:p:`smith2010`. Derived in :doc:`/book/renderer/03_fit_to_the_limit`.

    Examples
    --------
    >>> from helpers.noise import Poisson
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> spots = Gaussian2D((13, 13))
    >>> expected = spots.render({"x": [0.3, -1.0], "photons": 900.0, "background": 5.0})
    >>> fits = fit(expected, spots, Poisson())
    >>> fits.params["x"].round(2).tolist(), fits.converged.tolist()
    ([0.3, -1.0], [True, True])
    """
    tensors = is_tensor(images)
    checked_renderer(renderer)
    checked_noise(noise, renderer.image_shape)
    y = checked_images(images, renderer.image_shape)
    target = y.device if device is None and tensors else pick_device(device)
    y = to_tensor(y, target)
    use = checked_mask(mask, saturation, y)
    renderer = to_device(renderer, y)
    fixed = named(fixed, renderer, y, "fixed")
    free = [name for name in renderer.params if name not in fixed]
    if not free:
        raise ValueError("every parameter is fixed: leave at least one out of `fixed`")
    for name in free:
        if renderer.params[name].per_pixel:
            raise ValueError(
                f"{name} has a value for each pixel: fix it, or fit it with "
                "helpers.renderer.model.FitModel"
            )
    given = None if start is None else named(start, renderer, y, "start")
    check_counts(noise, y)
    if not all(bool(torch.isfinite(value).all()) for value in (given or {}).values()):
        raise ValueError("a start is NaN or infinite: give finite numbers, or start=None")
    options = {"n_iter": int(n_iter), "tol": float(tol)}
    if chunk is None:
        pixels = COMPILED if compiled.knows(renderer, noise, target) else CACHED
        chunk = pixels // math.prod(y.shape[1:])
    chunk = max(1, int(chunk))
    parts = [] if len(y) else [_no_fits(renderer, free, y)]
    with torch.no_grad():
        for first in range(0, len(y), chunk):
            part = slice(first, first + chunk)
            parts.append(
                _fit_chunk(
                    y[part],
                    use[part],
                    renderer,
                    levenberg.noise_of(noise, part),
                    free,
                    _rows(fixed, part),
                    None if given is None else _rows(given, part),
                    options,
                )  # fmt: skip
            )
    params, crlb, rest = _joined(parts)
    settings = {
        "renderer": type(renderer).__name__, "noise": type(noise).__name__, **options,
        "device": str(target), "saturation": saturation, "fixed": sorted(fixed),
    }  # fmt: skip
    kind = images if tensors else np.zeros(0)
    return Fits(
        {name: like(params[name], kind) for name in renderer.params},
        {name: like(value, kind) for name, value in crlb.items()},
        **{name: like(value, kind) for name, value in zip(REST, rest, strict=True)},
        settings=settings,
    )


def crlb(
    renderer: Renderer, params: Mapping[str, Any], noise: NoiseModel, *, fixed: Sequence[str] = ()
) -> dict[str, Array]:
    r"""Cramér-Rao bound: the least standard deviation that an unbiased estimate can have.

    Parameters
    ----------
    renderer : Renderer
    params : dict
        The true values by name, as for `Renderer.render`.
    noise : object
        A model of `helpers.noise`.
    fixed : sequence of str
        Parameters that are known. All others count as unknown, which raises the bound of each.

    Returns
    -------
    dict
        By name, STANDARD DEVIATIONS (not variances) in the unit of the parameter: (B,), or (B, K)
        for K emitters. Arrays, or tensors if a parameter is one.

    Raises
    ------
    ValueError
        An unknown name, or nothing left to fit.

    Notes
    -----
    :math:`\sqrt{(F^{-1})_{pp}}` with the Fisher information of `fit`; infinite where F is
    singular. Derived in :doc:`/book/renderer/03_fit_to_the_limit`.

    Examples
    --------
    >>> from helpers.noise import Poisson
    >>> from helpers.renderer.renderers import Gaussian2D
    >>> truth = {"photons": 1000.0, "background": 10.0, "sigma": 1.3}
    >>> crlb(Gaussian2D((13, 13)), truth, Poisson())["x"].round(4).tolist()
    [0.0563]
    """
    if unknown := [name for name in fixed if name not in renderer.params]:
        raise ValueError(
            f"{', '.join(unknown)} cannot be fixed: {type(renderer).__name__} has "
            f"{', '.join(renderer.params)}"
        )
    names = [name for name in renderer.params if name not in fixed]
    names = [name for name in names if not renderer.params[name].per_pixel]
    if not names:
        raise ValueError("every parameter is fixed: leave at least one out of `fixed`")
    tensors = [value for value in params.values() if is_tensor(value)]
    with torch.no_grad():
        rate, slopes = renderer.jacobian(params, names)
        full = renderer.complete(params)
        information = noise.information(rate.clamp(min=1e-6)).flatten(1)
        slopes = slopes.flatten(2)
        fisher = (slopes * information[:, None]) @ slopes.mT
        bound = levenberg.standard_deviations(fisher)
    free = _columns(names, renderer, {name: full[name] for name in names})
    example = tensors[0] if tensors else np.zeros(0)
    return {name: like(value, example) for name, value in levenberg.by_name(bound, free).items()}


def _fit_chunk(images, use, renderer, noise, free, fixed, given, options):
    """Everything about some of the images, on their device."""
    columns = _columns(free, renderer, {**fixed, **(given or {})})
    box = [limits(renderer.params[name]) for name, _ in columns]
    low, high = torch.tensor(box, dtype=images.dtype, device=images.device).T
    problem = levenberg.Problem(images, use, renderer, noise, columns, fixed, low, high)
    minimize = levenberg.minimize
    if compiled.serves(problem):
        problem, minimize = compiled.widened(problem), compiled.minimize
    tried = _starts(problem) if given is None else [given]
    theta = _best_of([_stacked(guess, columns) for guess in tried], problem, minimize)
    found = minimize(problem, theta, **options)
    goodness = standardized_deviance(found.deviance, *found.moments, theta.shape[1])
    # an image without enough pixels says nothing, and a limit is no estimate
    n_pixels = use.sum(tuple(range(1, use.ndim))).long()
    told = n_pixels >= theta.shape[1]
    ended = torch.tensor([name != "background" for name, _ in columns], device=theta.device)
    at_limit = ((found.theta <= problem.low) | (found.theta >= problem.high)) & ended
    converged = found.converged & told & ~at_limit.any(1)
    estimate = found.theta.masked_fill(~told[:, None], torch.nan)
    params = problem.params(estimate)
    bounds = levenberg.by_name(found.bound.masked_fill(~told[:, None], torch.inf), columns)
    numbers = found.deviance.to(images), goodness.to(images)
    rest = numbers[0], converged, found.n_iter, numbers[1], n_pixels
    return _like(params, images), _like(bounds, images), rest


def _like(values, example):
    return {name: value.to(example) for name, value in values.items()}


def _no_fits(renderer, free, y):
    """Result of `_fit_chunk` for no images."""
    none = y.new_zeros(0)
    whole, flags = none.to(torch.int64), none.to(torch.bool)
    params, bounds = dict.fromkeys(renderer.params, none), dict.fromkeys(free, none)
    return params, bounds, (none, flags, whole, none, whole)


def _starts(problem):
    """One start, or one for each plane of an unknown depth."""
    renderer, fixed = problem.renderer, problem.fixed
    found = starts.find_start(problem.images, problem.use, renderer, fixed)
    if "z" not in renderer.params or "z" in fixed:
        return [found]
    return [
        {**found, "z": found["z"].new_full(found["z"].shape, plane)}
        for plane in starts.planes(renderer.params["z"])
    ]


def _best_of(starts, problem, minimize):
    """The best of several starts, each after a few steps."""
    if len(starts) == 1:
        return starts[0]
    scouts = [minimize(problem, theta, *SCOUT) for theta in starts]
    best = torch.stack([scout.deviance for scout in scouts]).argmin(0)
    thetas = torch.stack([scout.theta for scout in scouts])
    return thetas[best, torch.arange(len(best), device=best.device)]


def _columns(names, renderer, values):
    """(name, emitter) of every column of a jacobian; emitter None where there is only one."""
    columns = []
    for name in names:
        emitters = max(
            (
                v.shape[1]
                for n, v in values.items()
                if v.ndim == 2 and renderer.params[n].per_emitter
            ),
            default=1,
        )
        several = renderer.params[name].per_emitter and emitters > 1
        columns += [(name, k) for k in range(emitters)] if several else [(name, None)]
    return columns


def _stacked(values, columns):
    """Tensor (B, P) of the free parameters."""
    picked = []
    for name, k in columns:
        value = values[name]
        value = value[:, None] if value.ndim == 1 else value
        picked.append(value[:, 0 if k is None or value.shape[1] == 1 else k])
    return torch.stack(picked, 1)


def _rows(values, part):
    return {name: value[part] for name, value in values.items()}


def _joined(parts):
    params = {name: torch.cat([p[0][name] for p in parts]) for name in parts[0][0]}
    bound = {name: torch.cat([p[1][name] for p in parts]) for name in parts[0][1]}
    return params, bound, [torch.cat(each) for each in zip(*(p[2] for p in parts), strict=True)]
