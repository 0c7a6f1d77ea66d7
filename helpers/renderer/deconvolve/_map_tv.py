r"""Poisson likelihood and total variation, minimised by splitting; and the choice of the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..._arrays import Array, like, to_numpy, wide
from ..._deprecated import renamed
from ...lucy import Counts, Deconvolution
from ...noise.counting import thin
from ...operators import Gradient
from ...tv import Sweeps, tv
from .blur import Blur

LOOK = 10  # iterations between two looks at the objective
SWEEPS = 5  # sweeps of the proximal map in each iteration; it starts from the last one


@renamed(valid="mask")
def map_tv(
    op: Blur,
    counts: Array,
    weight: float,
    background: float | Array = 0.0,
    callback: Callable[[int, Array], Any] | None = None,
    *,
    n_iter: int = 200,
    tol: float = 0.02,
    mask: Array | None = None,
    saturation: float | None = None,
    start: Array | None = None,
    progress: bool = False,
    device: str | torch.device | None = None,
) -> Deconvolution:
    r"""Find the most probable volume under Poisson noise and total variation.

    Parameters
    ----------
    op : Blur
        The object to its images, without background.
    counts : array or tensor, ``op.out_shape``
        Photo-electrons in each pixel, background included.
    weight : float
        Of the total variation, per photo-electron; `choose_weight` finds one.
    background : float or array, ``op.out_shape``
        Photo-electrons per pixel that do not come from the object.
    callback : callable, optional
        Called as ``callback(k, x)`` every ten iterations, with a tensor that has the margin. A
        true return value stops the run.
    n_iter : int
        At most so many iterations.
    tol : float
        Stop when the duality gap is at most this share of the objective, looked at every ten
        iterations. The picture has settled before: 40 iterations are enough for a first look.
    mask, saturation, start, progress, device
        As for `richardson_lucy`.

    Returns
    -------
    Deconvolution
        The best volume seen, with a duality gap.

    Raises
    ------
    ValueError
        As `richardson_lucy`; a weight that is not positive.

    Notes
    -----
    .. math:: \min_{f \ge 0} \sum_i w_i \big[(Af + b)_i - y_i \log (Af + b)_i\big]
        + \lambda\, \mathrm{TV}(f)

    by the alternating direction method of multipliers with two copies, :math:`u = Hf` and
    :math:`v = f`, H being the blur on the whole grid of the transforms
    :cite:p:`figueiredo2010`. The step in f is a division of spectra, that in u a quadratic
    equation in each pixel, that in v the proximal map of :doc:`/book/fusion/02_total_variation`.
    Derived in :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> from helpers.renderer.deconvolve import Blur
    >>> op = Blur(np.ones((3, 3)) / 9, (12, 12))
    >>> square = np.zeros((12, 12))
    >>> square[3:9, 3:9] = 100.0
    >>> fit = map_tv(op, op(square) + 1, 0.01, background=1.0)
    >>> bool(abs(fit.volume - square).max() < 10)
    True
    """
    if n_iter < 1:
        raise ValueError(f"n_iter is {n_iter}: give at least one")
    data = Counts(op, counts, background, mask, saturation, device)
    solver = Splitting(op.to(data.device), data, weight, start)
    converged = False
    with tqdm(total=n_iter, desc="MAP-TV", disable=not progress) as bar:
        while solver.n_iter < n_iter and not converged:
            block = min(LOOK, n_iter - solver.n_iter)
            solver.run(block)
            solver.look()
            converged = solver.gap <= tol * solver.history[-1]
            bar.update(block)
            if callback is not None and callback(solver.n_iter, solver.best):
                break
    settings = {"weight": float(weight), "n_iter": n_iter, "tol": tol, "background": background}
    return Deconvolution(
        like(solver.op.crop(solver.best), counts), like(solver.best, counts),
        np.array(solver.history), solver.gap, solver.n_iter, converged, data.n_masked, {}, settings,
    )  # fmt: skip


class Splitting:
    """State of the alternating direction method; `run` goes on, also with another kernel."""

    def __init__(self, op: Blur, data: Counts, weight: float, start: Array | None = None) -> None:
        if not 0 < weight < math.inf:
            raise ValueError(f"weight is {weight}: give a positive number")
        self.data, self.weight = data, float(weight)
        sensitivity = op.adjoint(data.used)
        x = data.start(op, sensitivity, start)
        # Penalties in the units of the curvatures: 1 / counts, and a weak blur's share of it.
        typical = float((data.y * data.used).sum()) / data.total + 1e-6
        self.tight = 0.2 / typical
        self.loose = 1e-3 * float(op.kernel.sum()) ** 2 / typical
        self.bound, self.n_iter = -math.inf, 0
        self.v = self._on_grid(x, op)
        self.set_op(op)
        self.u = op.inverse(op.forward(x) * self.transfer)
        self.sweeps = Sweeps(
            x.clone(),
            torch.tensor(self.weight / self.loose, dtype=x.dtype, device=x.device),
            x.new_zeros((x.ndim, *x.shape)),
            "isotropic",
            0.0,
            None,
        )
        self.best, self.history = x, [self.objective(x)]
        self.u_dual, self.v_dual = x.new_zeros(op.grid), x.new_zeros(op.grid)

    def set_op(self, op: Blur) -> None:
        """Go on with another kernel of the same field."""
        self.op = op
        self.transfer = op.transfer(self.data.y)
        self.sensitivity = op.adjoint(self.data.used)
        self.divisor = self.tight * self.transfer.abs().square() + self.loose

    def run(self, n_iter: int) -> None:
        """Make `n_iter` iterations."""
        op, data, tight = self.op, self.data, self.tight
        for _ in range(n_iter):
            spectrum = tight * self.transfer.conj() * op.forward(self.u - self.u_dual)
            spectrum = (spectrum + self.loose * op.forward(self.v - self.v_dual)) / self.divisor
            # over-relaxed: 1.6 times the way
            moved_u = (op.inverse(spectrum * self.transfer) * 1.6).sub_(self.u, alpha=0.6)
            moved_v = (op.inverse(spectrum) * 1.6).sub_(self.v, alpha=0.6)

            target = moved_u.add_(self.u_dual)
            self.u = target.clone()
            pixels = op.crop(self.u)
            a = tight * (pixels + data.background) - 1
            root = ((a * a + 4 * tight * data.y).sqrt() + a) / (2 * tight) - data.background
            pixels.copy_(root.where(data.used > 0, pixels))
            self.u_dual = target - self.u

            target = moved_v.add_(self.v_dual)
            self.sweeps.y.copy_(op.inside(target))
            self.sweeps.restart()
            self.sweeps.run(SWEEPS)
            self.v = self._on_grid(self.sweeps.primal(self.sweeps.dual), op)
            self.v_dual = target - self.v
        self.n_iter += n_iter

    @property
    def x(self) -> torch.Tensor:
        """The copy that is not negative and has a total variation."""
        return self.op.inside(self.v)

    def objective(self, x: torch.Tensor) -> float:
        """Value of the problem for the object `x`, above that of a perfect model of the counts."""
        roughness = float(tv(wide(x), spatial_dims=x.ndim))
        return self.data.half_deviance(self.data.mean(self.op, x)) + self.weight * roughness

    def look(self) -> Any:
        """Compare with the best volume so far, and with the best bound."""
        value = self.objective(self.x)
        before = self.history[-1]
        if value < before:
            self.best = self.x.clone()
        self.history.append(min(value, before))
        self.bound = max(self.bound, self._dual_value())

    @property
    def gap(self) -> float:
        """Bound on the distance of the best objective from the least one."""
        return self.history[-1] - self.bound

    def _dual_value(self):
        """Value of the dual problem at the multipliers, moved until they are feasible."""
        data, op = self.data, self.op
        q = (self.tight * op.crop(self.u_dual) * data.used).clamp(max=1 - 1e-6)
        p = self.loose * self.sweeps.dual
        slope = op.adjoint(q) + Gradient(p.shape[1:], p.shape[0]).adjoint(p)
        # (1 - t) slope + t sensitivity must not be negative anywhere
        worst = float((-slope / self.sensitivity.clamp(min=1e-12)).max().clamp(min=0))
        t = worst / (1 + worst)
        q, y, used = wide(q), wide(data.y), wide(data.used)
        moved = (1 - t) * q + t * used
        each = wide(data.background) * moved + torch.xlogy(y, (1 - t) * (1 - q))
        return float((each * used).sum())

    @staticmethod
    def _on_grid(x, op):
        full = x.new_zeros(op.grid)
        op.inside(full).copy_(x)
        return full


@dataclass(frozen=True)
class WeightChoice:
    """Result of `choose_weight`: weights and their held-out scores.

    Attributes
    ----------
    weight : float
        The one whose volume predicts the held-out counts best.
    weights : (n,) array
        Those that were tried, rising.
    score : (n,) array
        Mean deviance of the held-out counts; lower is better.
    at_edge : bool
        The best one is the first or the last: try more.
    """

    weight: float
    weights: np.ndarray
    score: np.ndarray
    at_edge: bool


@renamed(valid="mask")
def choose_weight(
    op: Blur,
    counts: Array,
    background: float | Array = 0.0,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    fraction: float = 0.8,
    n_iter: int = 20,
    seed: int = 0,
    mask: Array | None = None,
    saturation: float | None = None,
    progress: bool = False,
    device: str | torch.device | None = None,
) -> WeightChoice:
    r"""Choose the weight of `map_tv` from the counts alone.

    Parameters
    ----------
    op, counts, background, mask, saturation, progress, device
        As for `map_tv`; the counts must be whole numbers.
    weights : sequence of float, optional
        To be tried. Default: seven, a factor of two apart, around the noise of the likelihood's
        slope.
    fraction : float
        Chance that a count is fitted; the others judge.
    n_iter : int
        For each weight, all from the same start. More of them change the scores, hardly the choice.
    seed : int
        Of the coins.

    Returns
    -------
    WeightChoice

    Raises
    ------
    ValueError
        As `map_tv`; counts that are not whole.

    Notes
    -----
    `helpers.noise.thin` makes two independent Poisson data sets of the counts. The noise of the
    slope falls with the root of the fraction :math:`\phi` that is fitted, so the fit of a part
    uses :math:`\sqrt{\phi}\,\lambda`. Without prior the slope at voxel j has the standard
    deviation :math:`(\sum_i h_{ij}^2 / \bar y)^{1/2}`. Derived in
    :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> from helpers.renderer.deconvolve import Blur
    >>> op = Blur(np.ones((3, 3)) / 9, (24, 24))
    >>> square = np.zeros((24, 24))
    >>> square[6:18, 6:18] = 100.0
    >>> counts = np.random.default_rng(0).poisson(op(square) + 1.0).astype(float)
    >>> choice = choose_weight(op, counts, 1.0)
    >>> bool(0.001 < choice.weight < 1)
    True
    """
    data = Counts(op, counts, background, mask, saturation, device)
    if weights is None:
        typical = float(data.y.sum()) / data.total
        noise = math.sqrt(float(op.kernel.square().sum()) / max(typical, 1e-6))
        weights = noise * 0.02 * 2.0 ** np.arange(7)
    weights = np.sort(np.asarray(weights, dtype=float))
    whole = np.rint(to_numpy(data.y))
    if not np.array_equal(whole, to_numpy(data.y)):
        raise ValueError(
            "the counts are not whole numbers: convert them to photo-electrons and round, or "
            "give map_tv a weight"
        )
    kept, held = thin(whole, fraction, np.random.default_rng(seed))
    held = torch.as_tensor(held, dtype=data.y.dtype, device=data.device)
    kept = torch.as_tensor(kept, dtype=data.y.dtype, device=data.device)
    part = op.with_kernel(fraction * op.kernel).to(data.device)
    fitted = Counts(part, kept, fraction * data.background, data.used, None, data.device)
    scores = []
    for weight in tqdm(weights, desc="weight", disable=not progress):
        solver = Splitting(part, fitted, math.sqrt(fraction) * weight)
        solver.run(n_iter)
        mean = (1 - fraction) / fraction * fitted.mean(part, solver.x)
        each = torch.xlogy(held, held / mean) - held + mean
        scores.append(2 * float(wide(each * data.used).sum()) / data.total)
    score = np.array(scores)
    best = int(score.argmin())
    return WeightChoice(float(weights[best]), weights, score, best in (0, len(weights) - 1))
