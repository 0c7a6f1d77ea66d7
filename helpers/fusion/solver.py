r"""Fuse elemental maps with a HAADF image.

The cost and its gradient are derived in :doc:`/book/fusion/01_model`, the TV projection in
:doc:`/book/fusion/02_total_variation`; both solvers are compared in :doc:`/book/fusion/03_dysco3`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from .._arrays import Array, is_tensor, like, to_numpy
from ..devices import pick_device
from ..io._calibration import keeps_labels
from ..metrics import affine_fit
from ..tv import Kind
from ._checks import (
    Elements,
    Images,
    Maps,
    PerElement,
    check_elements,
    check_images,
    number,
    per_element,
    warn_of_saturation,
    whole,
)
from .backends.steps import Steps, TorchSteps, WavefrontSteps
from .model import element_weights, haadf_from_maps
from .result import Cost, Fusion

SOLVERS = ("accelerated", "tutorial")
BACKENDS = ("wavefront", "torch")
GUIDE_TV = 0.15
MOST = 500  # iterations, where the caller gives no number
FILTERS = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6)  # px, of Gaussian filters that the defaults should beat
JUDGED = 192  # px, largest edge of the field in which pixels are hidden from the defaults


@keeps_labels("maps", "haadf")
def fuse(
    haadf: Array,
    maps: Maps,
    atomic_numbers: Elements = None,
    *,
    gamma: float = 1.6,
    lambda_haadf: float | None = None,
    lambda_chem: float = 0.08,
    lambda_tv: PerElement | None = None,
    background: PerElement = 0.24,
    n_iter: int | None = None,
    n_iter_tv: int = 3,
    kind: Kind = "isotropic",
    solver: str = "accelerated",
    weights: PerElement | None = None,
    start: Maps | None = None,
    tol: float | None = None,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    backend: str | None = None,
    judge: bool = True,
    callback: Callable[[int, torch.Tensor, Cost], Any] | None = None,
    progress: bool = False,
) -> Fusion:
    r"""Find the elemental maps that explain both the spectra and the HAADF image.

    Parameters
    ----------
    haadf : (H, W) or (B, H, W) array or tensor
        HAADF image, any unit. Used as given; `normalize` does the guide's scaling. With an
        `xarray.DataArray` the result has DataArrays with its coordinates.
    maps : (E, H, W) or (B, E, H, W) array or tensor, or dict of (H, W) or (B, H, W)
        Measured elemental maps, not negative. A dict fixes the order of the elements by its keys.
        Masked pixels (`numpy.ma`) of a map or of the HAADF take no part in their data term; the
        maps are filled in there from the rest.
    atomic_numbers : sequence of E int or str, or dict
        Atomic numbers or chemical symbols: in the order of the maps, or by the keys of `maps`.
        Not needed where those keys are symbols.
    gamma : float
        Exponent of the HAADF model, at least 1.
    lambda_haadf, lambda_chem : float
        Weights of the two data terms; `lambda_haadf` is 1/E if not given.
    lambda_tv : float, or one for each element
        Weight of the total variation. Default: 0.15, the guide's, for "tutorial"; a tenth of it
        for "accelerated", which smooths far more with the same number.
    background : float, or one for each element
        The :math:`\varepsilon` of the Poisson term, above 0, in the unit of the maps.
    n_iter : int, optional
        Most iterations to make. Default: 30 for "tutorial"; for "accelerated" as many as it needs
        to converge, with a warning after 500.
    n_iter_tv : int
        Sweeps of the TV projection in each iteration. The accelerated solver makes more of them,
        up to eight times as many, when the cost stops falling.
    kind : {"isotropic", "anisotropic"}
        Which total variation.
    solver : {"accelerated", "tutorial"}
        "tutorial" is the published iteration: step 1, projection started anew each time; its result
        depends on `n_iter_tv`. "accelerated" is monotone, with momentum and backtracking, and goes
        to a minimiser of the cost below.
    weights : (E,) array or dict, optional
        Weights of the HAADF model. Default: ``element_weights(atomic_numbers, gamma)``.
    start : like `maps`, optional
        Where to start. Default: `maps`.
    tol : float, optional
        Stop when the total cost changes by less than this fraction over ten iterations. Default:
        1e-4 where `n_iter` is left out, else all `n_iter` iterations are made.
    dtype : {"float32", "float64"}
        Precision of the work and of the result.
    device : str or torch.device, optional
        Where the work is done. Default: where a tensor is, else `helpers.devices.pick_device`.
    backend : {"wavefront", "torch"}, optional
        How a step is computed. Default: the compiled wavefront on a CPU in float32 without masks,
        else torch. Both give the same maps to rounding. The wavefront is compiled by the first
        call on a machine, which takes some seconds.
    judge : bool
        Judge the defaults by hidden pixels, see Notes; of many like fields, once is enough.
    callback : callable, optional
        Called as ``callback(iteration, maps, cost)`` with a copy of the maps, a tensor (E, H, W),
        and the cost so far.
    progress : bool
        Show a progress bar. Interrupting the kernel ends the run and returns what it has.

    Returns
    -------
    Fusion
        Maps of the kind that was given, the model's HAADF, cost, and settings.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN, negative maps, an unknown element, keys that contradict the
        atomic numbers, or a setting out of range: all before any work.
    FloatingPointError
        The cost stopped being finite: the fixed step of the "tutorial" solver is too long.

    Warns
    -----
    UserWarning
        The HAADF is saturated, or its unit does not fit that of the maps; the default number of
        iterations was not enough; or a Gaussian filter or the "tutorial" solver knows hidden
        pixels better than the default weights do (see Notes).

    Notes
    -----
    Minimises over :math:`x \ge 0`

    .. math::

        \frac{\lambda_h}{2} \Big\| h - \sum_e w_e x_e^\gamma \Big\|^2
        + \lambda_c \sum_{e,ij} \big( x_e - b_e \log(x_e + \varepsilon_e) \big)
        + \sum_e \lambda_{tv,e} \mathrm{TV}(x_e)

    :cite:p:`schwartz2022,manassa2024`. "accelerated" is the monotone accelerated proximal gradient
    method :cite:p:`beck2009tv` with the backtracking test of :cite:t:`becker2011`, which needs no
    difference of nearly equal costs, and a restart whenever the cost would rise.

    No weight suits all maps. Where `lambda_tv` and `n_iter` are left out, the defaults are judged:
    a tenth of the pixels of the maps is hidden, in a field of 192 x 192 pixels at most, the rest is
    fused again, by the "tutorial" solver too, and filtered. A warning names what has the smaller
    squared error at the hidden pixels, each map to scale and offset, by more than two standard
    errors. :doc:`/book/fusion/index` shows it.

    Examples
    --------
    >>> from helpers.fusion import simulate
    >>> data = simulate("dysco3", counts=2, seed=0, size=32)
    >>> result = fuse(data.haadf / data.haadf.max(), data.maps, n_iter=10)
    >>> list(result.maps), bool(result.cost.total[-1] < result.cost.total[0])
    (['Sc', 'Dy', 'O'], True)
    """
    images = check_images(haadf, maps)
    n_elements = images.maps.shape[-3]
    numbers = check_elements(atomic_numbers, images.keys, n_elements)
    run = _check_settings(
        gamma, lambda_haadf, lambda_chem, lambda_tv, background, n_iter, n_iter_tv, kind, solver,
        tol, images.keys, n_elements,
    )  # fmt: skip
    if weights is None:
        weights = element_weights(numbers, run.gamma)
    w = per_element("weights", weights, images.keys, n_elements)
    if not ((w >= 0) & (w < math.inf)).all():
        raise ValueError(f"weights are {weights}: give {n_elements} finite numbers, none negative")
    x0 = _start(start, images)
    example = next(iter(maps.values())) if isinstance(maps, Mapping) else maps
    device = images.maps.device if device is None and is_tensor(example) else pick_device(device)
    precision, backend = _machine(dtype, device, backend, images)
    warn_of_saturation(images)
    _warn_of_units(images, w, run.gamma)

    def ready(t: torch.Tensor | None) -> Any:
        return None if t is None else t.detach().to(device, precision).contiguous()

    steps_class = WavefrontSteps if backend == "wavefront" else TorchSteps
    solved: list[_Solved] = []
    stopped = False
    batched = images.maps.ndim == 4
    for i in range(len(images.maps)) if batched else [...]:
        h = images.haadf[i] if images.haadf.ndim == 3 else images.haadf
        seen_h, seen = images.seen_haadf, images.seen_maps
        seen_h = seen_h[i] if seen_h is not None and seen_h.ndim == 3 else seen_h
        steps = steps_class(
            ready(images.maps[i]), ready(h), ready(torch.from_numpy(w)), run.gamma,
            run.lambda_haadf, run.lambda_chem, ready(torch.from_numpy(run.lambda_tv)),
            ready(torch.from_numpy(run.background)), kind, ready(seen_h),
            ready(None if seen is None else seen[i]),
        )  # fmt: skip
        # The caller's array must not change, and `ready` may have given it back as it is.
        iterations = {"accelerated": _accelerated, "tutorial": _tutorial}[solver](
            steps, ready(x0[i]).clone(), run.n_iter_tv
        )
        # After an interrupt the other images of a batch stay as they started.
        allowed = 0 if stopped else run.n_iter
        solved.append(_run(iterations, allowed, run.tol, callback, progress))
        stopped = stopped or solved[-1].interrupted

    x = torch.stack([one.x for one in solved]) if batched else solved[0].x
    one = solved[0]
    cost, converged, count = _together(solved) if batched else (one.cost, one.converged, one.n_iter)
    if n_iter is None and solver == "accelerated" and not np.all(converged) and not stopped:
        warnings.warn(
            f"not converged after {run.n_iter} iterations: give a larger n_iter, and look at "
            "plot_convergence",
            stacklevel=3,
        )
    by_default = lambda_tv is None and n_iter is None and solver == "accelerated"
    if judge and by_default and not stopped:
        better = judge_defaults(
            haadf, maps, numbers, gamma=gamma, lambda_haadf=run.lambda_haadf,
            lambda_chem=lambda_chem, weights=w, background=run.background, n_iter_tv=run.n_iter_tv,
            kind=kind, tol=run.tol,
        )  # fmt: skip
        if better is not None:
            warnings.warn(better, stacklevel=3)
    settings = {
        "elements": None if images.keys is None else list(images.keys),
        "atomic_numbers": numbers,
        "weights": w.tolist(),
        "gamma": run.gamma,
        "lambda_haadf": run.lambda_haadf,
        "lambda_chem": run.lambda_chem,
        "lambda_tv": _short(run.lambda_tv),
        "background": _short(run.background),
        "n_iter": run.n_iter,
        "n_iter_tv": run.n_iter_tv,
        "kind": kind,
        "solver": solver,
        "start": "maps" if start is None else "given",
        "tol": run.tol,
        "masked": images.seen_haadf is not None or images.seen_maps is not None,
        "dtype": dtype,
        "device": str(device),
        "backend": backend,
    }
    fused_haadf: Any = haadf_from_maps(x, torch.as_tensor(w), run.gamma)
    out: Any = like(x, example)
    if images.keys is not None:
        out = {key: like(x[..., e, :, :], example) for e, key in enumerate(images.keys)}
    return Fusion(out, like(fused_haadf, example), cost, converged, count, settings)


@dataclass(frozen=True)
class _Settings:
    """The numbers of a run, checked; what is one for each element is (E,)."""

    gamma: float
    lambda_haadf: float
    lambda_chem: float
    lambda_tv: np.ndarray
    background: np.ndarray
    n_iter: int
    n_iter_tv: int
    tol: float | None


@dataclass(frozen=True)
class _Solved:
    x: torch.Tensor
    cost: Cost
    converged: bool
    n_iter: int
    interrupted: bool


Iterates: TypeAlias = "Iterator[tuple[torch.Tensor, tuple[float, float, float]]]"


def _run(
    iterations: Iterates, n_iter: int, tol: float | None, callback: Any, progress: bool
) -> _Solved:
    """Draw iterations from a solver until one of the reasons to stop holds."""
    goal = 1e-4 if tol is None else tol
    x, terms = next(iterations)
    history = [terms]
    converged = interrupted = False
    bar = tqdm(range(1, n_iter + 1), desc="fuse", disable=not progress)
    try:
        for k in bar:
            x, terms = next(iterations)
            total = sum(terms)
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"the cost became {total} at iteration {k}: use solver='accelerated', or "
                    "smaller lambdas"
                )
            history.append(terms)
            bar.set_postfix(cost=f"{total:.6g}", refresh=False)
            if callback is not None:
                callback(k, x.clone(), _cost(history))
            before = sum(history[max(0, k - 10)])
            converged = k >= 10 and abs(before - total) <= goal * abs(before)
            if tol is not None and converged:
                break
    except KeyboardInterrupt:  # a reader's "stop": the estimate so far is worth having
        converged, interrupted = False, True
    return _Solved(x, _cost(history), converged, len(history) - 1, interrupted)


def _tutorial(steps: Steps, x: torch.Tensor, n_sweeps: int) -> Iterates:
    """The published iteration: a unit step, and a TV projection that starts anew each time."""
    yield x, steps.evaluate(x, x)[0]
    while True:
        x, _, _ = steps.prox_gradient(x, 1.0, n_sweeps, warm=False)
        yield x, steps.evaluate(x, x)[0]


def _accelerated(steps: Steps, x: torch.Tensor, n_sweeps: int) -> Iterates:
    """Monotone accelerated proximal gradient with backtracking, restart and a warm projection."""
    terms = steps.evaluate(x, x)[0]
    total = sum(terms)
    yield x, terms
    # Begin with short steps: a long one sets pixels to zero, where the HAADF term has no slope to
    # bring them back, and the run ends in a worse minimum.
    z, t, curvature = x, 1.0, max(steps.curvature_bound(x), 1e-12)
    most_sweeps = 8 * n_sweeps
    while True:
        for _ in range(50):
            new, square, along_z = steps.prox_gradient(z, 1 / curvature, n_sweeps, warm=True)
            new_terms, along_new = steps.evaluate(new, z)
            # Curvature met on the way from z: compares gradients, not nearly equal costs.
            met = (along_new - along_z) / square if square > 0 else 0.0
            if met <= curvature or not math.isfinite(met):
                break
            curvature = max(min(1.1 * met, 2 * curvature), 1.2 * curvature)
        new_total = sum(new_terms)
        if new_total <= total:
            following = (1 + math.sqrt(1 + 4 * t * t)) / 2
            z = steps.extrapolate(x, new, 1 + (t - 1) / following)
            x, terms, total, t = new, new_terms, new_total, following
        elif not math.isfinite(new_total):
            x, terms = new, new_terms
        else:
            # The cost would rise: because of the momentum, or because the projection is too rough.
            z, t = x, 1.0
            n_sweeps = min(math.ceil(1.5 * n_sweeps), most_sweeps)
        curvature *= 0.95
        yield x, terms


def _cost(history: list[tuple[float, float, float]]) -> Cost:
    return Cost(*np.array(history, dtype=float).T)


def _together(runs: list[_Solved]) -> tuple[Cost, np.ndarray, np.ndarray]:
    """Costs, flags and counts of a batch, shorter runs continued by their last value."""
    length = max(run.n_iter for run in runs) + 1

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, length - len(values)), mode="edge")

    names = ("haadf", "chem", "tv")
    cost = Cost(*(np.stack([padded(run.cost[name]) for run in runs]) for name in names))
    return cost, np.array([r.converged for r in runs]), np.array([r.n_iter for r in runs])


def _start(start: Any, images: Images) -> torch.Tensor:
    b, keys, seen = images.maps, images.keys, images.seen_maps
    if start is None:
        if seen is None:
            return b
        # Zero is where the HAADF term has no slope: a masked pixel starts at its map's mean.
        mean = b.sum(dim=(-2, -1), keepdim=True) / seen.sum(dim=(-2, -1), keepdim=True)
        return b + (1 - seen).to(b) * mean
    if keys is not None:
        if not isinstance(start, Mapping) or set(start) != set(keys):
            raise ValueError(f"start must be a dict with the keys of maps: {list(keys)}")
        start = {key: start[key] for key in keys}
    x0 = check_images(torch.ones_like(b[..., 0, :, :]), start).maps
    if x0.shape != b.shape:
        raise ValueError(f"start has shape {tuple(x0.shape)}, but maps have {tuple(b.shape)}")
    return x0


def _check_settings(
    gamma: Any, lambda_haadf: Any, lambda_chem: Any, lambda_tv: Any, background: Any, n_iter: Any,
    n_iter_tv: Any, kind: str, solver: str, tol: Any, keys: Any, n_elements: int,
) -> _Settings:  # fmt: skip
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}: use 'accelerated' or 'tutorial'")
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}: use 'isotropic' or 'anisotropic'")
    if not 1 <= number("gamma", gamma) < math.inf:
        raise ValueError(f"gamma is {gamma}: below 1 the gradient is infinite at 0")
    if lambda_haadf is None:
        lambda_haadf = 1 / n_elements
    for name, value in {"lambda_haadf": lambda_haadf, "lambda_chem": lambda_chem}.items():
        if not 0 <= number(name, value) < math.inf:
            raise ValueError(f"{name} is {value}: it must be finite and at least 0")
    if lambda_tv is None:
        lambda_tv = GUIDE_TV if solver == "tutorial" else GUIDE_TV / 10
    smooth = per_element("lambda_tv", lambda_tv, keys, n_elements)
    if not ((smooth >= 0) & (smooth < math.inf)).all():
        raise ValueError(f"lambda_tv is {lambda_tv}: it must be finite and at least 0")
    under = per_element("background", background, keys, n_elements)
    if not ((under > 0) & (under < math.inf)).all():
        raise ValueError(f"background is {background}: it must be above 0, inside a logarithm")
    if tol is not None and not 0 <= number("tol", tol) < 1:
        raise ValueError(f"tol is {tol}: it must be at least 0, and below 1")
    if n_iter is None:
        n_iter = 30 if solver == "tutorial" else MOST
        tol = 1e-4 if tol is None and solver == "accelerated" else tol
    return _Settings(
        float(gamma), float(lambda_haadf), float(lambda_chem), smooth, under,
        whole("n_iter", n_iter), whole("n_iter_tv", n_iter_tv), None if tol is None else float(tol),
    )  # fmt: skip


def _machine(
    dtype: str, device: torch.device, backend: str | None, images: Images
) -> tuple[torch.dtype, str]:
    """Precision and backend, from what was asked and what there is."""
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend is {backend!r}: use 'wavefront', 'torch' or leave it out")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}: use 'float32' or 'float64'")
    installed = importlib.util.find_spec("numba") is not None
    masked = images.seen_haadf is not None or images.seen_maps is not None
    serves = installed and device.type == "cpu" and dtype == "float32" and not masked
    if backend == "wavefront" and not serves:
        raise ValueError(
            "backend 'wavefront' needs numba, a CPU and float32, and takes no masks: use 'torch'"
        )
    return getattr(torch, dtype), backend or ("wavefront" if serves else "torch")


def _warn_of_units(images: Images, weights: np.ndarray, gamma: float) -> None:
    """Say so where the model of the maps and the HAADF differ by orders of magnitude."""
    brightest = images.maps.amax(dim=(-2, -1)).double().cpu() ** gamma
    model = float((torch.from_numpy(weights) * brightest).sum(dim=-1).max())
    measured = float(images.haadf.max())
    if model > 0 and measured > 0 and not 0.01 <= model / measured <= 100:
        warnings.warn(
            f"the brightest pixels of the maps predict a HAADF of {model:.3g}, and it has "
            f"{measured:.3g}: scale both (normalize), or fit the weights (calibrate_weights)",
            stacklevel=4,
        )


def judge_defaults(
    haadf: Array, maps: Maps, atomic_numbers: Elements = None, **settings: Any
) -> str | None:
    """Sentence on what knows hidden pixels clearly better than the default weights, or None.

    Parameters
    ----------
    haadf, maps, atomic_numbers
        As `fuse` takes them; of a batch, the first field is judged.
    **settings : Any
        Of `fuse`, those beside `lambda_tv`, `n_iter` and `solver`.
    """
    images = check_images(haadf, maps)
    numbers = check_elements(atomic_numbers, images.keys, images.maps.shape[-3])

    def fused(h: Any, b: Any, solver: str) -> Any:
        ends = {"tol": None} if solver == "tutorial" else {}
        options = {**settings, **ends, "solver": solver, "device": "cpu", "judge": False}
        return fuse(h, b, numbers, **options).maps

    cut = [(max(n - JUDGED, 0) // 2, min(n, JUDGED)) for n in images.maps.shape[-2:]]
    field: Any = (..., *(slice(first, first + n) for first, n in cut))

    def part(image: torch.Tensor, ndim: int) -> np.ndarray:
        return to_numpy(image[0] if image.ndim > ndim else image)[field]  # of a batch, the first

    h, b = part(images.haadf, 2), part(images.maps, 3)
    seen = np.ones(b.shape, bool) if images.seen_maps is None else part(images.seen_maps, 3) > 0
    hidden = seen & (np.random.default_rng(0).random(b.shape) < 0.1)
    kept = seen & ~hidden
    if images.seen_haadf is not None:
        h = np.ma.masked_array(h, part(images.seen_haadf, 2) == 0)
    told = [e for e in range(len(b)) if hidden[e].any() and np.ptp(b[e][hidden[e]]) > 0]
    if not told or not kept.any((1, 2)).all():
        return None  # hardly a pixel is there
    left = np.ma.masked_array(b, ~kept)

    def filtered(width: float) -> np.ndarray:
        wide = (0, width, width)
        held = gaussian_filter(kept.astype(float), wide)
        return gaussian_filter(b * kept.astype(float), wide) / np.maximum(held, 1e-6)

    guesses = {f"a Gaussian filter of {width:g} px": filtered(width) for width in FILTERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said of the whole field already
        with contextlib.suppress(FloatingPointError):
            guesses["solver='tutorial'"] = fused(h, left, "tutorial")
        ours = fused(h, left, "accelerated")

    def errors(guess: np.ndarray) -> tuple[np.ndarray, float]:
        """Squared error at each hidden pixel in units of its map's variance; mean correlation."""
        each, alike = [], []
        for e in told:
            p, r = guess[e][hidden[e]].astype(float), b[e][hidden[e]].astype(float)
            scale, offset = affine_fit(p, r)
            each.append(np.square(scale * p + offset - r) / r.var())
            alike.append(np.sign(scale) * np.sqrt(max(1 - each[-1].mean(), 0)))
        return np.concatenate(each), float(np.mean(alike))

    error, agreement = errors(ours)
    judged = sorted(
        ((name, *errors(guess)) for name, guess in guesses.items()), key=lambda j: j[1].mean()
    )
    ahead: dict[str, str] = {}
    for name, other, alike in judged:
        gain = error - other
        if gain.mean() > 2 * gain.std() / np.sqrt(gain.size):
            kind = name.split(" of ")[0]  # the best filter stands for all
            ahead.setdefault(kind, f"{name} by {alike:.2f}")
    if not ahead:
        return None
    return (
        f"with hidden pixels of the maps this fusion correlates by {agreement:.2f}, "
        f"{', '.join(ahead.values())}: the default weights do not suit these maps. Use "
        "fuse_counts if they are counts; else what is ahead here, or calibrate_weights and "
        "a lambda_tv of your choice"
    )


def _short(per_element: np.ndarray) -> float | list[float]:
    """One number where all elements have the same."""
    values = per_element.tolist()
    return values[0] if len(set(values)) == 1 else values
