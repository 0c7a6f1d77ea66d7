r"""Choose the weight of total variation without looking at the truth.

Four rules over one path of fusions. The page :doc:`/book/fusion/05_tune` derives them and shows
where each of them fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from tqdm.auto import tqdm

from .._arrays import Array, to_numpy
from ..metrics import affine_fit
from ..noise.counting import Poisson, thin
from ..tv import tv
from ._checks import (
    Elements,
    Maps,
    PerElement,
    check_counts,
    check_elements,
    check_images,
    per_element,
    whole,
)
from .result import Fusion
from .solver import fuse

Path: TypeAlias = "Callable[[np.ndarray], list[Fusion]]"  # of counts, one for each lambda
Expected: TypeAlias = "Callable[[list[Fusion]], list[np.ndarray]]"

RULES = ("thinning", "pure", "discrepancy", "l_curve")


@dataclass(frozen=True)
class LambdaChoice:
    """Result of `choose_lambda`.

    Attributes
    ----------
    lambda_tv : float
        The chosen weight.
    lambdas : (L,) array
        The weights that were tried, rising.
    score : (L,) array
        What the rule minimises at each of them: for "thinning" and "pure" the estimated squared
        error in units of the shot noise, for "discrepancy" the distance of the deviance from its
        expectation, for "l_curve" minus the curvature.
    at_edge : bool
        The choice is the first or the last of `lambdas`: widen them.
    rule : str
        The rule.
    dispersion : (E,) array
        Variance over mean of each element's counts, in places where its map is flat: 1 for
        Poisson counts, the gain for counts times a gain, below 1 for averages. NaN where there
        are too few counts to tell.
    """

    lambda_tv: float
    lambdas: np.ndarray
    score: np.ndarray
    at_edge: bool
    rule: str
    dispersion: np.ndarray


def choose_lambda(
    haadf: Array,
    counts: Maps,
    atomic_numbers: Elements = None,
    *,
    rule: str = "thinning",
    lambdas: Sequence[float] | np.ndarray | None = None,
    scale: PerElement = 1.0,
    fraction: float = 0.8,
    n_repeats: int = 2,
    seed: int = 0,
    lambda_chem: float = 0.08,
    n_iter: int = 30,
    progress: bool = False,
    **settings: Any,
) -> LambdaChoice:
    r"""Choose `lambda_tv` from the data alone.

    Parameters
    ----------
    haadf : (H, W) array or tensor
        HAADF image, as given to `fuse`.
    counts : (E, H, W) array or tensor, or dict of (H, W)
        Counts of each element: whole numbers with Poisson noise, not scaled maps. Masked pixels
        (`numpy.ma`), of these or of the HAADF, are not fused; those of the counts not predicted.
    atomic_numbers : sequence or dict
        As in `fuse`.
    rule : {"thinning", "pure", "discrepancy", "l_curve"}
        "thinning" splits the counts into two independent parts, fuses one and predicts the other.
        "pure" is Poisson's unbiased risk estimate. "discrepancy" asks that the fit be as far from
        the counts as noise is. "l_curve" takes the corner of misfit against total variation.
    lambdas : sequence of float, optional
        Weights to try. Default: ten from 0.03 to 10 times `lambda_chem`.
    scale : float, or one for each element
        The maps that are fused are ``counts / scale``. Use the same with `fuse` afterwards.
    fraction : float
        Share of the counts that "thinning" fuses; the rest is predicted.
    n_repeats : int
        Independent splits ("thinning") or probes ("pure") that are averaged.
    seed : int
        Of the splits and probes.
    lambda_chem, n_iter : float, int
        As in `fuse`.
    progress : bool
        Show a progress bar.
    **settings
        Other settings of `fuse`, such as ``weights``, ``gamma`` and ``background``.

    Returns
    -------
    LambdaChoice
        The choice, and the curve it was taken from.

    Raises
    ------
    ValueError
        An unknown rule, counts that are not whole numbers or have a common divisor, a fraction
        outside 0 to 1, fewer than three lambdas.

    Warns
    -----
    UserWarning
        The counts of an element scatter much more, or much less, than Poisson counts would.

    Notes
    -----
    Thinning :cite:p:`neufeld2024`: for :math:`y \sim \mathrm{Poisson}(\mu)` the parts
    :math:`y_1 \sim \mathrm{Binomial}(y, f)` and :math:`y - y_1` are independent Poisson variables.
    PURE :cite:p:`luisier2011`, to first order with a Monte-Carlo derivative:
    :math:`\|\hat\mu - y\|^2 - \sum y + 2\, y^\top \partial\hat\mu`.
    L-curve: :cite:t:`hansen1992`. Derived in :doc:`/book/fusion/05_tune`.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}: use one of {', '.join(RULES)}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}: it must lie between 0 and 1")
    images = check_images(haadf, counts)
    if images.maps.ndim != 3:
        raise ValueError(f"counts have shape {tuple(images.maps.shape)}: expected (E, H, W)")
    y, h, seen = to_numpy(images.maps).astype(float), to_numpy(images.haadf), None
    if images.seen_haadf is not None:
        h = np.ma.masked_array(h, to_numpy(images.seen_haadf) == 0)
    if images.seen_maps is not None:
        if rule != "thinning":
            raise ValueError(f"rule {rule!r} takes no masked counts: use 'thinning'")
        seen = to_numpy(images.seen_maps) > 0
    names = images.keys or tuple(map(str, range(len(y))))
    numbers = check_elements(atomic_numbers, images.keys, len(y))
    check_counts(y, names)
    tried = np.sort(np.geomspace(0.03, 10, 10) * lambda_chem if lambdas is None else lambdas)
    if tried.size < 3:
        raise ValueError(f"{tried.size} lambdas: give at least three to choose from")
    unit = per_element("scale", scale, images.keys, len(y))[:, None, None]
    if not ((unit > 0) & (unit < np.inf)).all():
        raise ValueError(f"scale is {scale}: it must be finite and above 0")
    n_repeats = whole("n_repeats", n_repeats)
    dispersion = _dispersion(y, seen)
    _warn_of_dispersion(dispersion, names)
    for name in ("weights", "background"):  # by element, but the fusions below have no keys
        if isinstance(settings.get(name), dict):
            settings[name] = per_element(name, settings[name], images.keys, len(y))
    rng = np.random.default_rng(seed)
    n_paths = {"thinning": n_repeats, "pure": 1 + n_repeats}.get(rule, 1)
    bar = tqdm(total=n_paths * tried.size, desc=rule, disable=not progress)

    def path(counts: np.ndarray) -> list[Fusion]:
        """Expected counts for every lambda, each fusion started from the smoother one before."""
        start, fits = None, []
        maps = counts / unit if seen is None else np.ma.masked_array(counts / unit, ~seen)
        for value in tried[::-1]:
            result = fuse(
                h, maps, numbers, lambda_tv=value, lambda_chem=lambda_chem,
                n_iter=n_iter, start=start, **settings,
            )  # fmt: skip
            start = result.maps
            fits.append(result)
            bar.update()
        return fits[::-1]

    def expected(fits: list[Fusion]) -> list[np.ndarray]:
        # The Poisson term is that of counts with mean x + background.
        under = [np.reshape(fit.settings["background"], (-1, 1, 1)) for fit in fits]
        return [
            (np.asarray(fit.maps, float) + b) * unit for fit, b in zip(fits, under, strict=True)
        ]

    with bar:
        if rule == "thinning":
            scores = [_thinning(y, seen, fraction, path, expected, rng) for _ in range(n_repeats)]
            score = np.mean(scores, axis=0)
        elif rule == "pure":
            score = _pure(y, path, expected, n_repeats, rng)
        elif rule == "discrepancy":
            score = _discrepancy(y, expected(path(y)), rng)
        else:
            score = _l_curve(y, path(y), expected)
    best = int(np.argmin(score))
    edge = best in (0, tried.size - 1)
    return LambdaChoice(float(tried[best]), tried, score, edge, rule, dispersion)


def _dispersion(y: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    """Variance over mean of neighbouring counts, where the smoothed map is flattest."""
    found = []
    for k, counts in enumerate(y):
        # The mixed difference of four neighbours: slopes of the signal cancel.
        mixed = np.diff(np.diff(counts, axis=0), axis=1)
        here = counts[:-1, :-1]
        mean = gaussian_filter(counts, 3)[:-1, :-1]
        slope = gaussian_gradient_magnitude(counts, 3)[:-1, :-1]
        usable = mean > 0
        if seen is not None:
            s = seen[k]
            usable &= s[:-1, :-1] & s[:-1, 1:] & s[1:, :-1] & s[1:, 1:]
        if not usable.any():
            found.append(np.nan)
            continue
        # Slope over noise: how much of the difference of two neighbours is signal.
        ratio = slope / np.sqrt(np.maximum(mean, 1e-12))
        flat = usable & (ratio <= np.quantile(ratio[usable], 0.5))
        total = float(here[flat].sum())
        found.append((mixed[flat] ** 2).sum() / 4 / total if total >= 300 else np.nan)
    return np.array(found)


def _warn_of_dispersion(dispersion: np.ndarray, names: Sequence[str]) -> None:
    for name, value in zip(names, dispersion, strict=True):
        if value > 1.5 or value < 0.6:
            warnings.warn(
                f"the counts of map {name} have {value:.2f} times the variance of Poisson counts "
                "where the map is flat: a gain, an average or a filter? The choice assumes 1",
                stacklevel=3,
            )


def _thinning(
    y: np.ndarray, seen: np.ndarray | None, fraction: float, path: Path, expected: Expected,
    rng: np.random.Generator,
) -> list[float]:  # fmt: skip
    kept, rest = thin(y.astype(int), fraction, rng)
    seen = np.ones(y.shape, bool) if seen is None else seen

    def inside(stack: np.ndarray) -> list[np.ndarray]:
        return [image[s] for image, s in zip(stack, seen, strict=True)]

    return [_prediction_error(inside(mu), inside(rest)) for mu in expected(path(kept))]


def _prediction_error(mu: Sequence[np.ndarray], rest: Sequence[np.ndarray]) -> float:
    """Squared error of predicting `rest`, in units of its shot noise, averaged over the elements.

    Each element's prediction gets its best scale and offset first: total variation takes contrast
    away along with the noise, and contrast is easily given back.
    """
    errors = []
    for m, r in zip(mu, rest, strict=True):
        if r.any():
            scale, offset = affine_fit(m, r)
            errors.append(np.square(scale * m + offset - r).mean() / r.mean())
    return float(np.mean(errors)) if errors else 0.0


def _pure(
    y: np.ndarray, path: Path, expected: Expected, n_repeats: int, rng: np.random.Generator
) -> np.ndarray:
    at = expected(path(y))
    mean = np.maximum(y.mean(axis=(1, 2)), 1 / y[0].size)
    slope = np.zeros((len(at), y.shape[0]))
    for _ in range(n_repeats):
        # In proportion to the root of the counts: their mean square is what weighs the slope, and
        # zero counts stay zero.
        probe = rng.choice([-1.0, 1.0], y.shape) * 0.05 * np.sqrt(y)
        moved = expected(path(np.maximum(y + probe, 0)))
        for k, (a, b) in enumerate(zip(at, moved, strict=True)):
            slope[k] += (probe * (b - a)).sum(axis=(1, 2)) / 0.05**2
    slope /= n_repeats * y[0].size
    misfit = np.array([np.square(mu - y).mean(axis=(1, 2)) for mu in at])
    return ((misfit - y.mean(axis=(1, 2)) + 2 * slope) / mean).mean(axis=1)


def _discrepancy(y: np.ndarray, fits: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    noise = Poisson()
    score = []
    for mu in fits:
        mu = np.maximum(mu, 1e-6)
        simulated = rng.poisson(mu)
        score.append(abs(np.log(noise.deviance(mu, y) / noise.deviance(mu, simulated))))
    return np.array(score)


def _l_curve(y: np.ndarray, fits: list[Fusion], expected: Expected) -> np.ndarray:
    """Minus the curvature of log misfit against log total variation (none at the ends)."""
    noise = Poisson()
    mus = expected(fits)
    misfit = np.log([float(noise.deviance(np.maximum(mu, 1e-6), y)) for mu in mus])
    rough = np.log([max(float(np.sum(tv(mu))), 1e-12) for mu in mus])
    dm, dr = np.gradient(misfit), np.gradient(rough)
    ddm, ddr = np.gradient(dm), np.gradient(dr)
    curvature = (dm * ddr - dr * ddm) / np.maximum((dm**2 + dr**2) ** 1.5, 1e-12)
    curvature[[0, -1]] = -np.inf
    return -curvature
