r"""Runs again of a fusion of counts: on other counts, and without the HAADF.

Both are derived in :doc:`/book/fusion/07_uncertainty`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from tqdm.auto import tqdm

from .._checks import number, whole
from ._candidates import candidates
from ._fuse import scaled, solve, stacked
from ._result import CountFusion


@dataclass(frozen=True)
class Intervals:
    """Result of `helpers.fusion.bootstrap`.

    Attributes
    ----------
    low, high : dict of (H, W) float32 array
        Ends of the interval of the expected counts in each pixel.
    std : dict of (H, W) float32 array
        Half the width that the interval would have at one standard deviation.
    level : float
        Probability that an interval is meant to hold.
    n : int
        Replicates.
    """

    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    level: float
    n: int


def bootstrap(
    fusion: CountFusion, n: int = 32, *, level: float = 0.9, seed: int = 0, progress: bool = False
) -> Intervals:
    r"""Intervals of the expected counts in each pixel, by a parametric bootstrap.

    Parameters
    ----------
    fusion : CountFusion
        Result of `fuse_counts`.
    n : int
        Replicates, at least 2.
    level : float
        Probability of the intervals.
    seed : int
        Of the replicates.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Intervals
        Their centre is the map; none reaches below zero.

    Raises
    ------
    ValueError
        A number of replicates or a level out of range.

    Notes
    -----
    A parametric bootstrap :cite:p:`efron1993`: the fused maps are taken for the truth, counts are
    drawn from them, and the candidates that were mixed are made again with the same weights. That
    shows the scatter :math:`s` and, as the mean shift of the replicates, some of the bias
    :math:`b`. Filters hide more bias than they show on maps that they have made smooth already;
    the disagreement :math:`d` of the mixed candidates stands for it. The interval is
    :math:`\pm z \sqrt{s^2 + b^2 + d^2}`. It covers on average over a field, not in every pixel.
    The weights are not chosen anew, and the HAADF is taken as it is.
    """
    n = whole("n", n)
    if n < 2:
        raise ValueError("n is 1: give at least 2 replicates")
    if not 0 < number("level", level) < 1:
        raise ValueError(f"level is {level}: give a probability between 0 and 1")
    rng = np.random.default_rng(seed)
    centre = np.stack(list(fusion.maps.values())).astype(float)
    under = np.stack(list(fusion.background.values()))
    image = scaled(fusion.image) if fusion.settings["haadf"] else None
    square = np.zeros_like(centre)

    def again(y: np.ndarray) -> np.ndarray:
        return np.stack(list(stacked(y, image, fusion.weights, fusion.background).values()))

    # As many at a time as torch has threads: draws stay in order, and few are held in memory.
    workers = min(n, torch.get_num_threads())
    bar = tqdm(total=n, desc="bootstrap", disable=not progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        for start in range(0, n, workers):
            drawn = [rng.poisson(centre + under).astype(np.float32)
                     for _ in range(min(workers, n - start))]  # fmt: skip
            for found in pool.map(again, drawn):
                square += (found - centre) ** 2
                bar.update()
    # Mean square about the map, which holds scatter and shift.
    variance = square / n + _disagreement(fusion, image)
    width = np.sqrt(variance) * norm.ppf(0.5 + level / 2)

    def by_name(stack: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(fusion.maps, stack.astype(np.float32), strict=True))

    low, high = np.maximum(centre - width, 0), centre + width
    return Intervals(by_name(low), by_name(high), by_name(np.sqrt(variance)), float(level), n)


def _disagreement(fusion: CountFusion, image: np.ndarray | None) -> np.ndarray:
    """Weighted variance of the candidates that were mixed."""
    y = np.stack(list(fusion.counts.values())).astype(np.float32)
    made = candidates(y, image, {name for w in fusion.weights.values() for name in w})
    found = []
    for e, weights in enumerate(fusion.weights.values()):
        w = np.array(list(weights.values()))[:, None, None]
        each = np.stack([made[name][e] for name in weights])
        mean = (w * each).sum(0) / w.sum()
        found.append((w * (each - mean) ** 2).sum(0) / w.sum())
    return np.stack(found)


def without_haadf(fusion: CountFusion) -> CountFusion:
    """Fuse the same counts again, with no candidate that looks at the HAADF.

    Where the two maps differ by more than their intervals, the structure comes from the HAADF.

    Parameters
    ----------
    fusion : CountFusion
        Result of `fuse_counts`.

    Returns
    -------
    CountFusion
        With ``settings["haadf"]`` False; its splits are the same.
    """
    errors = {
        name: float(np.sqrt(max(error**2 - fusion.counts[name].sum(), 0)))
        for name, (_, error) in fusion.totals.items()
    }
    settings = {**fusion.settings, "haadf": False}
    return solve(fusion.counts, fusion.image, fusion.background, errors, settings)
