r"""Expected counts of each element, judged by counts that no candidate saw.

The method is derived in :doc:`/book/fusion/06_counts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from scipy.ndimage import gaussian_filter

from ..._arrays import Array, to_numpy
from ...noise.counting import thin
from .._checks import (
    SYMBOLS,
    Elements,
    Maps,
    check_counts,
    check_elements,
    check_images,
    number,
    warn_of_saturation,
    whole,
)
from ..model import calibrate_weights
from ._candidates import candidates
from ._choose import Choice, choose
from ._result import CountFusion
from ._vacuum import vacuum

Background: TypeAlias = "float | Array | Mapping[str, float | Array] | None"
SMALLEST = 16  # pixels along an edge
ENOUGH = 36_000  # pixels that one split judges well


class Counted(Protocol):
    """Counts and what lies under them, as `helpers.fusion.scan.maps_from_spectra` gives them."""

    @property
    def maps(self) -> Mapping[str, Array]: ...

    @property
    def background(self) -> Mapping[str, Array]: ...


def fuse_counts(
    haadf: Array,
    counts: Maps | Counted,
    *,
    background: Background = None,
    atomic_numbers: Elements = None,
    fraction: float = 0.8,
    n_splits: int | None = None,
    seed: int = 0,
) -> CountFusion:
    r"""Find the expected counts of each element from its counts and a HAADF image.

    Some 80 candidates are made from four fifths of the counts: Gaussian filters, a probe basis,
    total variation, regressions on patches of the HAADF and of the maps. The other fifth, which
    no candidate has seen, decides for each element in which proportion they are mixed; the same
    candidates of all counts, in these proportions, are the result.

    Parameters
    ----------
    haadf : (H, W) array or tensor
        HAADF image of the same field, any unit. Masked pixels (`numpy.ma`), for example saturated
        ones, are filled in from around them.
    counts : dict of (H, W), (E, H, W) array or tensor, or result of `maps_from_spectra`
        Counts in the window of each element, background included: whole numbers, not scaled.
    background : float, (H, W) array, or dict of these by element, optional
        Expected counts a pixel that do not belong to the element, for example those of a window
        beside its line. Default: that of `maps_from_spectra`; else the mean over the vacuum, if
        the HAADF shows any; else 0. The settings of the result say which.
    atomic_numbers : sequence or dict, optional
        As in `fuse`. Only needed to name the maps of an array.
    fraction : float
        Share of the counts of which candidates are made to be judged by the rest.
    n_splits : int, optional
        Splits whose verdicts are averaged. Default: one where the field has 36,000 pixels, up to
        four where it is smaller.
    seed : int
        Of the splits.

    Returns
    -------
    CountFusion
        Maps, totals with their errors, weights of the candidates, and scores.

    Raises
    ------
    ValueError
        Shapes that do not fit, a field below 16 x 16 pixels, counts that are masked, not whole,
        all zero or multiples of a gain, or a background that is negative or above all counts.

    Warns
    -----
    UserWarning
        The HAADF is saturated.

    Notes
    -----
    Kept and unseen counts of a binomial split are independent :cite:p:`neufeld2024`. Weights are
    fitted to the unseen counts by non-negative least squares, a stack :cite:p:`breiman1996`. At
    last each element's map is scaled so that its total is that of its net counts.

    Examples
    --------
    >>> from helpers.fusion import simulate
    >>> data = simulate("core_shell", counts=2, seed=0, size=32)
    >>> result = fuse_counts(data.haadf, data.counts, background=0, seed=0)
    >>> {e: round(float(m.sum() / data.counts[e].sum()), 4) for e, m in result.maps.items()}
    {'Co': 1.0, 'Mn': 1.0, 'O': 1.0}
    """
    given: Any = counts
    origin = "given"
    if hasattr(given, "background"):
        if background is None:
            background, origin = given.background, "under the lines"
        given = given.maps
    images = check_images(haadf, given)
    y = to_numpy(images.maps).astype(np.float32)
    if y.ndim != 3:
        raise ValueError(f"counts have shape {y.shape}: expected (E, H, W); fuse fields one by one")
    if images.seen_maps is not None:
        raise ValueError("counts are masked: crop the field to pixels that were all counted")
    if min(y.shape[1:]) < SMALLEST:
        raise ValueError(f"the field is {y.shape[1]} x {y.shape[2]}: give at least 16 x 16 pixels")
    names = _names(images.keys, atomic_numbers, len(y))
    check_counts(y, names)
    if not y.any():
        raise ValueError("all counts are zero: there is nothing to fuse")
    fraction = number("fraction", fraction)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}: give the share to keep, between 0 and 1")
    if n_splits is None:
        n_splits = int(np.clip(round(ENOUGH / y[0].size), 1, 4))
    settings = {
        "elements": list(names),
        "fraction": fraction,
        "n_splits": whole("n_splits", n_splits),
        "seed": int(number("seed", seed)),
        "haadf": True,
    }
    warn_of_saturation(images)
    seen = None if images.seen_haadf is None else to_numpy(images.seen_haadf)
    image = _filled(to_numpy(images.haadf), seen)
    under, errors, settings["background"] = _background(background, origin, names, y, image)
    data = {name: to_numpy(images.maps[e]) for e, name in enumerate(names)}
    return solve(data, image, under, errors, settings)


def solve(
    counts: dict[str, np.ndarray],
    image: np.ndarray,
    background: dict[str, np.ndarray],
    background_error: dict[str, float],
    settings: dict[str, Any],
) -> CountFusion:
    """Choose, stack and scale, with checked input; without the HAADF where the settings say so."""
    y = np.stack(list(counts.values())).astype(np.float32)
    rng = np.random.default_rng(settings["seed"])
    used = scaled(image) if settings["haadf"] else None
    splits: list[dict[str, np.ndarray]] = []
    unseen = []
    ratio = np.float32((1 - settings["fraction"]) / settings["fraction"])
    for _ in range(settings["n_splits"]):
        kept, rest = thin(y.astype(np.int64), settings["fraction"], rng)
        made = candidates(kept.astype(np.float32), used)
        splits.append({name: estimate * ratio for name, estimate in made.items()})
        unseen.append(rest)
    choices: dict[str, Choice] = {}
    for e, name in enumerate(counts):
        predicted = np.stack([[c[e].ravel() for c in split.values()] for split in splits])
        judges = np.stack([rest[e].ravel() for rest in unseen])
        choices[name] = choose(list(splits[0]), predicted, judges, rng)
    weights = {name: choice.weights for name, choice in choices.items()}
    maps = stacked(y, used, weights, background)
    totals = {}
    for name, c in counts.items():
        spread = np.sqrt(c.sum() + background_error[name] ** 2)
        totals[name] = (float(c.sum() - background[name].sum()), float(spread))
    fit = calibrate_weights(image, maps, gamma=1, smooth=0)
    explained = fit.offset + sum(w * m for w, m in zip(fit.weights, maps.values(), strict=True))
    return CountFusion(
        maps, background, totals, weights, {name: c.score for name, c in choices.items()},
        np.asarray(explained), np.asarray(image - explained), settings, counts, image,
    )  # fmt: skip


def stacked(
    y: np.ndarray,
    image: np.ndarray | None,
    weights: dict[str, dict[str, float]],
    background: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Candidates of all counts in the proportions of `weights`, less the background."""
    made = candidates(y, image, {name for w in weights.values() for name in w})
    maps = {}
    for e, (element, w) in enumerate(weights.items()):
        expected = sum(value * made[name][e] for name, value in w.items())
        net = np.maximum(expected - background[element], 0)
        # Stacks and filters lose some counts, clipping adds some: the total is known far better.
        total = max(float(y[e].sum() - background[element].sum()), 0.0)
        maps[element] = (net * (total / max(float(net.sum()), 1e-12))).astype(np.float32)
    return maps


def scaled(image: np.ndarray) -> np.ndarray:
    """HAADF from 0 to about 1, smoothed by less than a pixel, as the candidates take it."""
    smooth = gaussian_filter(image.astype(np.float32), 0.7)
    return cast(np.ndarray, smooth / max(float(smooth.max()), 1e-30))


def _names(keys: tuple[str, ...] | None, numbers: Elements, n: int) -> tuple[str, ...]:
    if numbers is not None:
        found = check_elements(numbers, keys, n)
        return keys or tuple(SYMBOLS[z - 1] for z in found)
    return keys or tuple(f"map_{e}" for e in range(n))


def _filled(image: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    """Masked pixels of the HAADF, each the mean of the seen ones around it."""
    image = image.astype(float)
    if seen is None:
        return image
    if not seen.any():
        raise ValueError("haadf is masked everywhere: give an image, or filter the counts alone")
    around = gaussian_filter(image * seen, 3) + 1e-6 * image[seen > 0].mean()
    return np.where(seen > 0, image, around / (gaussian_filter(seen.astype(float), 3) + 1e-6))


def _background(
    given: Background, origin: str, names: tuple[str, ...], y: np.ndarray, image: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float], str]:
    """Background of each element in every pixel, the error of its total, and where it is from."""
    field = y.shape[1:]
    if given is None:
        empty = vacuum(image)
        n = int(empty.sum())
        if n == 0:
            return dict.fromkeys(names, np.zeros(field)), dict.fromkeys(names, 0.0), "none: 0"
        level = y[:, empty].astype(float).mean(1)
        found = {name: np.full(field, b) for name, b in zip(names, level, strict=True)}
        errors = {name: float(np.sqrt(max(b, 1 / n) / n) * image.size)
                  for name, b in zip(names, level, strict=True)}  # fmt: skip
        return found, errors, f"mean of {n} pixels of vacuum"
    by_name = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    if set(by_name) != set(names):
        raise ValueError(f"background has the keys {list(by_name)}, but the maps are {list(names)}")
    found = {}
    for e, name in enumerate(names):
        b = to_numpy(by_name[name]).astype(float)
        if b.shape not in ((), field):
            raise ValueError(
                f"background of {name} is {b.shape}: give a number or an image {field}"
            )
        if not (np.isfinite(b) & (b >= 0)).all():
            raise ValueError(f"background of {name} is negative or not finite: give counts a pixel")
        found[name] = np.broadcast_to(b, field)
        if found[name].sum() > y[e].sum() + 5 * np.sqrt(y[e].sum() + 1):
            raise ValueError(
                f"background of {name} is {found[name].sum():.0f} counts in all, its map has "
                f"{y[e].sum():.0f}: it is expected counts a pixel, of the same window"
            )
    return found, dict.fromkeys(names, 0.0), origin
