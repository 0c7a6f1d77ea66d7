r"""Fuse elemental maps with a HAADF image.

The cost and its gradient are derived in :doc:`/book/fusion/01_model`, the TV projection in
:doc:`/book/fusion/02_total_variation`; both solvers are compared in :doc:`/book/fusion/03_dysco3`.
"""

from __future__ import annotations

import importlib.util
import math

import numpy as np

from .._arrays import is_tensor, like, to_tensor
from ..devices import pick_device
from ..tv import _check_kind
from .backends.steps import TorchSteps, WavefrontSteps
from .model import atomic_number, check_images, element_weights, haadf_from_maps
from .result import Cost, Fusion

SOLVERS = ("accelerated", "tutorial")
BACKENDS = ("wavefront", "torch")


def fuse(
    haadf,
    maps,
    atomic_numbers,
    *,
    gamma=1.6,
    lambda_haadf=None,
    lambda_chem=0.08,
    lambda_tv=0.15,
    background=0.24,
    n_iter=30,
    n_iter_tv=3,
    kind="isotropic",
    solver="accelerated",
    weights=None,
    start=None,
    tol=None,
    dtype="float32",
    device=None,
    backend=None,
    callback=None,
    progress=False,
):
    r"""Find the elemental maps that explain both the spectra and the HAADF image.

    Parameters
    ----------
    haadf : (H, W) or (B, H, W) array or tensor
        HAADF image, any unit. Used as given; `normalize` does the guide's scaling.
    maps : (E, H, W) or (B, E, H, W) array or tensor, or dict of (H, W) or (B, H, W)
        Measured elemental maps, not negative. A dict fixes the order of the elements by its keys.
    atomic_numbers : sequence of E int or str, or dict
        Atomic numbers or chemical symbols: in the order of the maps, or by the keys of `maps`.
    gamma : float
        Exponent of the HAADF model, at least 1.
    lambda_haadf, lambda_chem, lambda_tv : float
        Weights of the three terms; `lambda_haadf` is 1/E if not given.
    background : float
        The :math:`\varepsilon` of the Poisson term, above 0, in the unit of the maps.
    n_iter : int
        Most iterations to make.
    n_iter_tv : int
        Sweeps of the TV projection in each iteration. The accelerated solver makes more of them,
        up to eight times as many, when the cost stops falling.
    kind : {"isotropic", "anisotropic"}
        Which total variation.
    solver : {"accelerated", "tutorial"}
        "tutorial" is the published iteration: step 1, projection started anew each time; its result
        depends on `n_iter_tv`. "accelerated" is monotone, with momentum and backtracking, and goes
        to a minimiser of the cost below.
    weights : (E,) array, optional
        Weights of the HAADF model. Default: ``element_weights(atomic_numbers, gamma)``.
    start : like `maps`, optional
        Where to start. Default: `maps`.
    tol : float, optional
        Stop when the total cost changes by less than this fraction over ten iterations.
    dtype : {"float32", "float64"}
        Precision of the work and of the result.
    device : str or torch.device, optional
        Where the work is done. Default: where a tensor is, else `helpers.devices.pick_device`.
    backend : {"wavefront", "torch"}, optional
        How a step is computed. Default: the compiled wavefront on a CPU in float32, else torch.
        Both give the same maps to rounding.
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
        Shapes that do not fit, NaN, negative maps, an unknown element, a missing key, or a setting
        out of range: all before any work.
    FloatingPointError
        The cost stopped being finite: the fixed step of the "tutorial" solver is too long.

    Notes
    -----
    Minimises over :math:`x \ge 0`

    .. math::

        \frac{\lambda_h}{2} \Big\| h - \sum_e w_e x_e^\gamma \Big\|^2
        + \lambda_c \sum_{e,ij} \big( x_e - b_e \log(x_e + \varepsilon) \big)
        + \lambda_{tv} \sum_e \mathrm{TV}(x_e)

    :cite:p:`schwartz2022,manassa2024`. "accelerated" is the monotone accelerated proximal gradient
    method :cite:p:`beck2009tv` with the backtracking test of :cite:t:`becker2011`, which needs no
    difference of nearly equal costs, and a restart whenever the cost would rise.

    Examples
    --------
    >>> from helpers.fusion import simulate
    >>> data = simulate("dysco3", counts=2, seed=0, size=32)
    >>> result = fuse(data.haadf, data.maps, data.atomic_numbers, n_iter=10)
    >>> list(result.maps), bool(result.cost.total[-1] < result.cost.total[0])
    (['Sc', 'Dy', 'O'], True)
    """
    b, h, keys = check_images(maps, haadf)
    numbers = _atomic_numbers(atomic_numbers, keys, b.shape[-3])
    _check_settings(gamma, background, n_iter, n_iter_tv, solver, backend, dtype)
    _check_kind(kind)
    n_elements = len(numbers)
    if lambda_haadf is None:
        lambda_haadf = 1 / n_elements
    lambdas = {"haadf": lambda_haadf, "chem": lambda_chem, "tv": lambda_tv}
    for name, value in lambdas.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"lambda_{name} is {value}: it must be finite and at least 0")
    if weights is None:
        weights = element_weights(numbers, gamma)
    w = to_tensor(weights)
    if tuple(w.shape) != (n_elements,) or not bool((w >= 0).all() and w.isfinite().all()):
        raise ValueError(f"weights are {weights}: give {n_elements} finite numbers, none negative")
    x0 = b if start is None else _start(start, keys, b)

    import torch

    device = b.device if device is None and is_tensor(_any(maps)) else pick_device(device)
    dtype = getattr(torch, dtype)
    if backend is None:
        backend = "wavefront" if _wavefront_serves(device, dtype) else "torch"
    elif backend == "wavefront" and not _wavefront_serves(device, dtype):
        raise ValueError("backend 'wavefront' needs numba, a CPU and float32: use 'torch'")
    steps_class = WavefrontSteps if backend == "wavefront" else TorchSteps

    def work(t):
        return t.detach().to(device=device, dtype=dtype).contiguous()

    runs = []
    batched = b.ndim == 4
    allowed = n_iter
    for i in range(len(b)) if batched else [...]:
        steps = steps_class(
            work(b[i]), work(h[i] if h.ndim == 3 else h), work(w), gamma, lambda_haadf,
            lambda_chem, lambda_tv, background, kind,
        )  # fmt: skip
        # The caller's array must not change, and `work` may have given it back as it is.
        iterations = {"accelerated": _accelerated, "tutorial": _tutorial}[solver](
            steps, work(x0[i]).clone(), n_iter_tv
        )
        runs.append(_run(iterations, allowed, tol, callback, progress))
        if runs[-1][3] < n_iter and not runs[-1][2]:
            allowed = 0  # interrupted: the other images of the batch stay as they started

    x = torch.stack([r[0] for r in runs]) if batched else runs[0][0]
    fused_haadf = haadf_from_maps(x, w.to(x), gamma)
    cost, converged, count = _together(runs) if batched else runs[0][1:]
    settings = {
        "elements": None if keys is None else [str(k) for k in keys],
        "atomic_numbers": numbers,
        "weights": [float(v) for v in w],
        "gamma": float(gamma),
        "lambda_haadf": float(lambda_haadf),
        "lambda_chem": float(lambda_chem),
        "lambda_tv": float(lambda_tv),
        "background": float(background),
        "n_iter": int(n_iter),
        "n_iter_tv": int(n_iter_tv),
        "kind": kind,
        "solver": solver,
        "start": "maps" if start is None else "given",
        "tol": None if tol is None else float(tol),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "backend": backend,
    }
    example = _any(maps)
    if keys is None:
        out = like(x, example)
    else:
        out = {key: like(x[..., e, :, :], example) for e, key in enumerate(keys)}
    return Fusion(out, like(fused_haadf, example), cost, converged, count, settings)


def _run(iterations, n_iter, tol, callback, progress):
    """Draw iterations from a solver until one of the reasons to stop holds."""
    from tqdm.auto import tqdm

    goal = 1e-4 if tol is None else tol
    x, terms = next(iterations)
    history = [terms]
    converged = False
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
        converged = False
    return x, _cost(history), converged, len(history) - 1


def _tutorial(steps, x, n_sweeps):
    """The published iteration: a unit step, and a TV projection that starts anew each time."""
    yield x, steps.evaluate(x, x)[0]
    while True:
        x, _, _ = steps.prox_gradient(x, 1.0, n_sweeps, warm=False)
        yield x, steps.evaluate(x, x)[0]


def _accelerated(steps, x, n_sweeps):
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


def _cost(history):
    return Cost(*np.array(history, dtype=float).T)


def _together(runs):
    """Costs, flags and counts of a batch, shorter runs continued by their last value."""
    length = max(run[3] for run in runs) + 1

    def padded(values):
        return np.pad(values, (0, length - len(values)), mode="edge")

    names = ("haadf", "chem", "tv")
    cost = Cost(*(np.stack([padded(run[1][name]) for run in runs]) for name in names))
    return cost, np.array([run[2] for run in runs]), np.array([run[3] for run in runs])


def _atomic_numbers(atomic_numbers, keys, n_elements):
    if isinstance(atomic_numbers, dict):
        if keys is None:
            raise ValueError("atomic_numbers is a dict but maps is not: give both by element")
        missing = [key for key in keys if key not in atomic_numbers]
        if missing:
            raise ValueError(f"atomic_numbers lacks {missing}: it has {list(atomic_numbers)}")
        atomic_numbers = [atomic_numbers[key] for key in keys]
    numbers = [atomic_number(z) for z in atomic_numbers]
    if len(numbers) != n_elements:
        raise ValueError(f"{len(numbers)} atomic numbers for {n_elements} maps: give one for each")
    return numbers


def _start(start, keys, b):
    if keys is not None:
        if not isinstance(start, dict) or set(start) != set(keys):
            raise ValueError(f"start must be a dict with the keys of maps: {list(keys)}")
        start = {key: start[key] for key in keys}
    x0 = check_images(start, b[..., 0, :, :])[0]
    if x0.shape != b.shape:
        raise ValueError(f"start has shape {tuple(x0.shape)}, but maps have {tuple(b.shape)}")
    return x0


def _check_settings(gamma, background, n_iter, n_iter_tv, solver, backend, dtype):
    if not 1 <= gamma < math.inf:
        raise ValueError(f"gamma is {gamma}: below 1 the gradient is infinite at 0")
    if not 0 < background < math.inf:
        raise ValueError(f"background is {background}: it must be above 0, inside a logarithm")
    for name, value in {"n_iter": n_iter, "n_iter_tv": n_iter_tv}.items():
        if not 1 <= value < math.inf or value != int(value):
            raise ValueError(f"{name} is {value}: it must be a whole number, at least 1")
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}: use 'accelerated' or 'tutorial'")
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend is {backend!r}: use 'wavefront', 'torch' or leave it out")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}: use 'float32' or 'float64'")


def _wavefront_serves(device, dtype):
    import torch

    installed = importlib.util.find_spec("numba") is not None
    return installed and device.type == "cpu" and dtype == torch.float32


def _any(maps):
    return next(iter(maps.values())) if isinstance(maps, dict) else maps
