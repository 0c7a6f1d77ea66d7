r"""Choose the weight of total variation without looking at the truth.

Four rules over one path of fusions. The page :doc:`/book/fusion/05_tune` derives them and shows
where each of them fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._arrays import to_numpy
from ..metrics import affine_fit
from ..noise.counting import Poisson, thin
from .model import check_images
from .solver import _atomic_numbers, fuse

RULES = ("thinning", "pure", "discrepancy", "l_curve")


@dataclass(frozen=True)
class LambdaChoice:
    """What `choose_lambda` found.

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
    """

    lambda_tv: float
    lambdas: np.ndarray
    score: np.ndarray
    at_edge: bool
    rule: str


def choose_lambda(
    haadf,
    counts,
    atomic_numbers,
    *,
    rule="thinning",
    lambdas=None,
    scale=1.0,
    fraction=0.8,
    n_repeats=2,
    seed=0,
    lambda_chem=0.08,
    n_iter=30,
    progress=False,
    **settings,
):
    r"""Choose `lambda_tv` from the data alone.

    Parameters
    ----------
    haadf : (H, W) array or tensor
        HAADF image, as given to `fuse`.
    counts : (E, H, W) array or tensor, or dict of (H, W)
        Counts of each element: whole numbers with Poisson noise, not scaled maps.
    atomic_numbers : sequence or dict
        As in `fuse`.
    rule : {"thinning", "pure", "discrepancy", "l_curve"}
        "thinning" splits the counts into two independent parts, fuses one and predicts the other.
        "pure" is Poisson's unbiased risk estimate. "discrepancy" asks that the fit be as far from
        the counts as noise is. "l_curve" takes the corner of misfit against total variation.
    lambdas : sequence of float, optional
        Weights to try. Default: ten from 0.03 to 10 times `lambda_chem`.
    scale : float or (E,) array
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
        An unknown rule, counts that are not whole numbers, a fraction outside 0 to 1, fewer than
        three lambdas.

    Notes
    -----
    Thinning :cite:p:`neufeld2024`: for :math:`y \sim \mathrm{Poisson}(\mu)` the parts
    :math:`y_1 \sim \mathrm{Binomial}(y, f)` and :math:`y - y_1` are independent Poisson variables.
    PURE :cite:p:`luisier2011`, to first order with a Monte-Carlo derivative:
    :math:`\|\hat\mu - y\|^2 - \sum y + 2\, y^\top \partial\hat\mu`.
    L-curve: :cite:t:`hansen1992`. Derived in :doc:`/book/fusion/05_tune`.
    """
    from tqdm.auto import tqdm

    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}: use one of {', '.join(RULES)}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}: it must lie between 0 and 1")
    y, h, keys = check_images(counts, haadf)
    if y.ndim != 3:
        raise ValueError(f"counts have shape {tuple(y.shape)}: expected (E, H, W)")
    y, h = to_numpy(y).astype(float), to_numpy(h)
    if (y != np.round(y)).any():
        raise ValueError("counts are not whole numbers: give the counts, and the scale apart")
    atomic_numbers = _atomic_numbers(atomic_numbers, keys, len(y))
    lambdas = np.sort(np.geomspace(0.03, 10, 10) * lambda_chem if lambdas is None else lambdas)
    if lambdas.size < 3:
        raise ValueError(f"{lambdas.size} lambdas: give at least three to choose from")
    scale = np.broadcast_to(np.asarray(scale, float), y.shape[:1])[:, None, None]
    rng = np.random.default_rng(seed)
    n_paths = {"thinning": n_repeats, "pure": 1 + n_repeats}.get(rule, 1)
    bar = tqdm(total=n_paths * lambdas.size, desc=rule, disable=not progress)

    def path(counts):
        """Expected counts for every lambda, each fusion started from the smoother one before."""
        start, fits = None, []
        for value in lambdas[::-1]:
            result = fuse(
                h, counts / scale, atomic_numbers, lambda_tv=value, lambda_chem=lambda_chem,
                n_iter=n_iter, start=start, **settings,
            )  # fmt: skip
            start = result.maps
            fits.append(result)
            bar.update()
        return fits[::-1]

    def expected(fits):
        # The Poisson term is that of counts with mean x + background.
        return [(fit.maps.astype(float) + fit.settings["background"]) * scale for fit in fits]

    with bar:
        if rule == "thinning":
            scores = [_thinning(y, fraction, path, expected, rng) for _ in range(n_repeats)]
            score = np.mean(scores, axis=0)
        elif rule == "pure":
            score = _pure(y, path, expected, n_repeats, rng)
        elif rule == "discrepancy":
            score = _discrepancy(y, expected(path(y)), rng)
        else:
            score = _l_curve(y, path(y), expected)
    best = int(np.argmin(score))
    return LambdaChoice(float(lambdas[best]), lambdas, score, best in (0, lambdas.size - 1), rule)


def _thinning(y, fraction, path, expected, rng):
    kept, rest = thin(y.astype(int), fraction, rng)
    return [_prediction_error(mu, rest) for mu in expected(path(kept))]


def _prediction_error(mu, rest):
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


def _pure(y, path, expected, n_repeats, rng):
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


def _discrepancy(y, fits, rng):
    noise = Poisson()
    score = []
    for mu in fits:
        mu = np.maximum(mu, 1e-6)
        simulated = rng.poisson(mu)
        score.append(abs(np.log(noise.deviance(mu, y) / noise.deviance(mu, simulated))))
    return np.array(score)


def _l_curve(y, fits, expected):
    """Minus the curvature of log misfit against log total variation (none at the ends)."""
    from ..tv import tv

    noise = Poisson()
    mus = expected(fits)
    misfit = np.log([noise.deviance(np.maximum(mu, 1e-6), y) for mu in mus])
    rough = np.log([max(float(np.sum(tv(mu))), 1e-12) for mu in mus])
    dm, dr = np.gradient(misfit), np.gradient(rough)
    ddm, ddr = np.gradient(dm), np.gradient(dr)
    curvature = (dm * ddr - dr * ddm) / np.maximum((dm**2 + dr**2) ** 1.5, 1e-12)
    curvature[[0, -1]] = -np.inf
    return -curvature
