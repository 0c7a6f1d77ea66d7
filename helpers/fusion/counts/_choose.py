"""Judge of the candidates: counts that none of them has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from scipy.optimize import nnls

N_BEST = 16  # candidates that may enter the stack of an element
N_FOLDS = 4


class Score(NamedTuple):
    """Log-likelihood of the unseen counts above that of another prediction, in nats."""

    gain: float
    error: float


@dataclass(frozen=True)
class Choice:
    """Weights of the candidates of one element, and how well they predict unseen counts."""

    weights: dict[str, float]
    score: dict[str, Score]


def choose(
    names: Sequence[str], predicted: np.ndarray, unseen: np.ndarray, rng: np.random.Generator
) -> Choice:
    """Stack the candidates of one element by non-negative least squares.

    Parameters
    ----------
    names : sequence of C str
        Candidates; "flat" and those that begin with "Gaussian" are the ones to beat.
    predicted : (S, C, N) array
        What each predicts for the unseen counts of S splits.
    unseen : (S, N) array
        Counts.
    rng : numpy.random.Generator
        For the folds.

    Returns
    -------
    Choice
        The score is that of weights fitted to the counts of other pixels. A stack whose gain over
        the best Gaussian is below its standard error is mixed with the Gaussians, in proportion.
    """
    n_splits, n_candidates, n_pixels = predicted.shape
    if not unseen.any():
        return Choice({"flat": 1.0}, {"flat": Score(0.0, 0.0), "Gaussian": Score(0.0, 0.0)})
    a = np.swapaxes(predicted, 0, 1).reshape(n_candidates, -1).astype(float)
    b = unseen.ravel().astype(float)
    fold = np.tile(rng.integers(0, N_FOLDS, n_pixels), n_splits)

    def gain(p: np.ndarray, over: np.ndarray) -> Score:
        # Splits share their counts, so their pixels are averaged before the spread is taken.
        each = (_nats(p, b) - _nats(over, b)).reshape(n_splits, -1).mean(0)
        return Score(float(each.sum()), float(each.std() * np.sqrt(n_pixels)))

    loss = np.square(a - b).mean(1)
    filters = [k for k, name in enumerate(names) if name == "flat" or name.startswith("Gaussian")]
    nats = np.array([float(_nats(a[k], b).sum()) for k in filters]) / n_splits
    gaussian = filters[int(nats.argmax())]
    best = np.argsort(loss)[:N_BEST]
    a_best = a[best]
    grams = [a_best[:, fold == k] @ a_best[:, fold == k].T for k in range(N_FOLDS)]
    rights = [a_best[:, fold == k] @ b[fold == k] for k in range(N_FOLDS)]
    gram, right = sum(grams), sum(rights)
    crossed = np.empty_like(b)
    for k in range(N_FOLDS):
        w = _nnls(gram - grams[k], right - rights[k])
        crossed[fold == k] = w @ a_best[:, fold == k]
    over = gain(crossed, a[gaussian])
    share = float(np.clip(over.gain / over.error, 0, 1)) if over.error > 0 else 0.0
    # Filters that few counts cannot tell apart are averaged, each as likely as it makes the unseen
    # counts; or the best one stands for all where the average is clearly behind it.
    likely = np.exp(nats - nats.max())
    for fallback in (likely / likely.sum(), np.eye(len(nats))[nats.argmax()]):
        mixed = share * crossed + (1 - share) * (fallback @ a[filters])
        over = gain(mixed, a[gaussian])
        if over.gain >= -over.error:
            break
    weights = {names[k]: (1 - share) * float(w) for k, w in zip(filters, fallback, strict=True)}
    for k, w in zip(best, share * _nnls(gram, right), strict=True):
        weights[names[k]] = weights.get(names[k], 0.0) + float(w)
    score = {"flat": gain(mixed, a[names.index("flat")]), "Gaussian": over}
    total = sum(weights.values())
    return Choice({name: w for name, w in weights.items() if w > 1e-3 * total}, score)


def _nats(p: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Poisson log-likelihood of each count, without the part that no prediction changes."""
    p = np.maximum(p, 0.01 * b.mean())  # a regression may be negative somewhere
    return cast(np.ndarray, b * np.log(p) - p)


def _nnls(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Non-negative least squares from the normal equations."""
    # A little on the diagonal: some candidates are nearly the same.
    root = np.linalg.cholesky(gram + 1e-8 * np.trace(gram) * np.eye(len(gram)))
    return cast(np.ndarray, nnls(root.T, np.linalg.solve(root, right))[0])
