"""Baselines of the neural field: when Richardson-Lucy should stop, and view-enhanced fusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from .._arrays import Array, Device, like, to_numpy, to_tensor
from .._deprecated import renamed
from ..devices import pick_device
from ..lucy import Counts, Deconvolution, richardson_lucy
from ..noise import Poisson, thin
from ..operators import Operator
from ._checks import to_device

__all__ = ["StoppingChoice", "choose_iterations", "line_psf", "view_enhanced"]


@dataclass(frozen=True)
class StoppingChoice:
    """Number of iterations that predicts held-out counts best, and the score of each.

    Attributes
    ----------
    n_iter : int
        The iteration at which the held-out counts are predicted best.
    score : (n_max + 1,) array
        Mean deviance of the held-out counts after each iteration, averaged over the folds.
    at_edge : bool
        The best one is the last: raise `n_max`.
    """

    n_iter: int
    score: np.ndarray
    at_edge: bool


@renamed(y="counts")
def choose_iterations(
    op: Operator,
    counts: Array,
    *,
    background: float | Array = 0.0,
    read_noise: float = 0.0,
    n_max: int = 200,
    n_folds: int = 4,
    seed: int = 0,
    progress: bool = False,
    device: Device = None,
) -> StoppingChoice:
    r"""Choose when Richardson-Lucy should stop, from the views alone.

    Parameters
    ----------
    op, counts, background, read_noise
        As for `helpers.lucy.richardson_lucy`.
    n_max : int
        Iterations to try.
    n_folds : int
        The photons are dealt into so many parts; each is predicted once, from all the others.
        With two, what is deconvolved is so dark that the choice comes too early.
    seed : int
        Of the dealing.
    progress, device
        As for `richardson_lucy`.

    Returns
    -------
    StoppingChoice

    Raises
    ------
    ValueError
        As `richardson_lucy`; and fewer than two folds.

    Notes
    -----
    Every photon is dealt into one of the parts at random :cite:p:`neufeld2024`. Views with read
    noise are first shifted by its variance and rounded: the parts are then uncorrelated, which is
    what the comparison needs. Derived in :doc:`/book/inr/02_deconvolve`.

    Examples
    --------
    >>> from helpers.inr.phantoms import simulate
    >>> sim = simulate(seed=1, shape=(8, 24, 24), n_tubes=2)
    >>> choice = choose_iterations(sim.op, sim.views, background=4, read_noise=1.5, n_max=100)
    >>> 1 < choice.n_iter < 100
    True
    """
    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}: one part must be held out, and one be left")
    Counts(op, counts, background, read_noise=read_noise)
    device = pick_device(device)
    op, background = to_device(op, device), to_numpy(background)
    rng = np.random.default_rng(seed)
    # The variance of rounding is 1/12: with it, mean and variance are those of Poisson counts.
    shift = read_noise**2 + 1 / 12 if read_noise else 0.0
    photons = np.rint(to_numpy(counts) + shift).clip(min=0).astype(np.int64)
    share = 1 / n_folds
    offset = torch.as_tensor(background + shift, dtype=torch.float32, device=device)
    noise, rest, score = Poisson(), photons, np.zeros(n_max + 1)
    for fold in range(n_folds):
        held = rest
        if fold < n_folds - 1:
            held, rest = thin(rest, 1 / (n_folds - fold), rng)
        judge_by = torch.as_tensor(held, dtype=torch.float32, device=device)
        row: list[float] = []

        def judge(
            _: int, volume: torch.Tensor, judge_by: torch.Tensor = judge_by, row: list[float] = row
        ) -> None:
            model = (op(volume) / (1 - share) + offset).clamp(min=1e-6) * share
            row.append(float(noise.deviance(model, judge_by, reduction="mean")))

        kept = (photons - held).astype(np.float32)
        fit = richardson_lucy(
            op, kept, n_max, (1 - share) * to_numpy(offset), judge, snapshots=(0,),
            progress=progress, device=device,
        )  # fmt: skip
        judge(0, torch.as_tensor(fit.snapshots[0], device=device))
        score += np.array([row[-1], *row[:-1]]) / n_folds
    best = int(score.argmin())
    return StoppingChoice(best, score, best == n_max)


@renamed(y="counts")
def view_enhanced(
    op: Operator,
    counts: Array,
    n_iter: int = 30,
    background: float | Array = 0.0,
    callback: Callable[[int, torch.Tensor], Any] | None = None,
    *,
    n_iter_views: int = 8,
    read_noise: float = 0.0,
    snapshots: Iterable[int] = (),
    progress: bool = False,
    device: Device = None,
) -> Deconvolution:
    r"""Deblur each view by itself, then fuse the views along the lines that parallax draws.

    Parameters
    ----------
    op : LightField
        Its PSF gives the blur of each view and the slope of its parallax.
    counts, background, read_noise, progress, device
        As for `helpers.lucy.richardson_lucy`.
    callback, snapshots
        Likewise, of the fusion.
    n_iter : int
        Iterations of the fusion.
    n_iter_views : int
        Iterations of the deblurring.

    Returns
    -------
    Deconvolution
        Of the fusion; ``history`` is measured on the deblurred views.

    Raises
    ------
    ValueError
        As `richardson_lucy`, and an operator without a PSF.

    Notes
    -----
    The deblurring takes the sharpest plane of each view's PSF; the fusion takes a point in each
    plane, at the straight line through the brightest pixels of the PSF near the focus. Depth then
    comes from parallax alone. Compared in :doc:`/book/inr/02_deconvolve`.

    Examples
    --------
    >>> from helpers.inr.phantoms import simulate
    >>> sim = simulate(seed=1, shape=(8, 24, 24), n_tubes=2)
    >>> view_enhanced(sim.op, sim.views, background=4).volume.shape
    (8, 24, 24)
    """
    if not hasattr(op, "psf"):
        raise ValueError(f"{type(op).__name__} has no psf: give a LightField")
    Counts(op, counts, background, read_noise=read_noise)
    background = to_tensor(background, dtype=torch.float32)
    h, make = to_numpy(op.psf), cast(Any, type(op))
    sharpest = int((h**2).sum((0, 2, 3)).argmax())
    views = op.out_shape[1:]
    deblurred = []
    for v in range(len(h)):
        blur = make(h[v : v + 1, sharpest : sharpest + 1] / h[v, sharpest].sum(), views)
        b = background[v : v + 1] if background.ndim == 3 and len(background) > 1 else background
        fit = richardson_lucy(
            blur, to_tensor(counts)[v : v + 1], n_iter_views, b, read_noise=read_noise,
            progress=progress, device=device,
        )  # fmt: skip
        deblurred.append(fit.volume)
    enhanced = like(torch.cat([to_tensor(v) for v in deblurred]), counts)
    lines = make(line_psf(h), op.in_shape[1:], views)
    # What the deblurring leaves of the noise is not counts: a floor keeps it from ruling the ratio.
    floor = 0.005 * float(to_tensor(enhanced).max())
    return richardson_lucy(
        lines, enhanced + floor, n_iter, floor, callback, snapshots=snapshots,
        progress=progress, device=device,
    )  # fmt: skip


def line_psf(psf: np.ndarray, n_planes: int = 16) -> np.ndarray:
    """A point in each plane of each view, at the line through the brightest pixels of `psf`.

    Parameters
    ----------
    psf : (V, Z, Y, X) array
    n_planes : int
        The sharpest planes that the line is fitted to.

    Returns
    -------
    (V, Z, Y, X) float32 array
        Between pixels the point is shared by its four neighbours; each plane of each view keeps
        its light.

    Examples
    --------
    >>> from helpers.inr.lightfield import Optics, psf
    >>> lines = line_psf(psf(Optics(), [-1, 0, 1], 32))
    >>> int(lines[0, 1].argmax()) == 16 * 32 + 16
    True
    """
    n_views, n_z, n_y, n_x = psf.shape
    lines = np.zeros(psf.shape, np.float32)
    z = np.arange(n_z)
    for v in range(n_views):
        near = np.sort((psf[v] ** 2).sum((1, 2)).argsort()[-n_planes:])
        peaks = [_peak(psf[v, k]) for k in near]
        for k, places in enumerate(_line(near, np.array(peaks), z)):
            (row, y), (column, x) = ((int(np.floor(p)), p - np.floor(p)) for p in places)
            for i, j, share in (
                (row, column, (1 - y) * (1 - x)), (row, column + 1, (1 - y) * x),
                (row + 1, column, y * (1 - x)), (row + 1, column + 1, y * x),
            ):  # fmt: skip
                if 0 <= i < n_y and 0 <= j < n_x:
                    lines[v, k, i, j] += share * psf[v, k].sum()
    return lines


def _peak(image: np.ndarray) -> tuple[float, float]:
    """Place of the brightest pixel, refined by the centroid of its neighbours."""
    i, j = np.unravel_index(image.argmax(), image.shape)
    rows, columns = (slice(max(n - 1, 0), n + 2) for n in (i, j))
    part = image[rows, columns].astype(float)
    y, x = np.mgrid[rows, columns][:, : part.shape[0], : part.shape[1]]
    return (part * y).sum() / part.sum(), (part * x).sum() / part.sum()


def _line(near: np.ndarray, peaks: np.ndarray, z: np.ndarray) -> np.ndarray:
    if len(near) < 2:
        return np.repeat(peaks, len(z), axis=0)
    return np.stack([np.polyval(np.polyfit(near, p, 1), z) for p in peaks.T], axis=1)
