"""Blind deconvolution: the volume, the pupil and the background from one stack of counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import trange

from ..._arrays import Array, like, wide
from ..._deprecated import renamed
from ...lucy import Counts
from ...optics.pupil import Pupil
from ._map_tv import Splitting
from .blur import Blur, widefield_kernel

MODES = (3, 5, 6, 7, 8, 9, 12)  # astigmatism, trefoil, coma, spherical
FURTHER = 2.0  # times a Newton step: the volume of a wrong pupil hides half of what is wrong


@dataclass(frozen=True)
class Blind:
    """Result of `blind`: volume, wavefront and background.

    Attributes
    ----------
    volume : array or tensor (Z, Y, X)
        Photo-electrons that each voxel sends into the stack.
    with_margin : array or tensor
        The same with what was estimated outside the field.
    zernikes : dict of int -> float
        Waves RMS by OSA index; those that were given and those that were found.
    pupil : Pupil
        With these coefficients.
    background : float
        Photo-electrons per pixel.
    history : array
        Objective after each round; it may rise while the volume follows the pupil. What is
        returned is the round with the least.
    path : (n_iter + 1, modes) array
        Coefficients before the first round and after each.
    converged : bool
        The last round moved the wavefront by less than a milliwave.
    n_iter : int
        Rounds made.
    n_masked : int
        Pixels that were not used.
    settings : dict
        What the run was given.
    """

    volume: Array
    with_margin: Array
    zernikes: dict
    pupil: Pupil
    background: float
    history: np.ndarray
    path: np.ndarray
    converged: bool
    n_iter: int
    n_masked: int
    settings: dict


@renamed(valid="mask")
def blind(
    counts: Array,
    pupil: Pupil,
    weight: float,
    *,
    z_step: float,
    background: float,
    modes: Sequence[int] = MODES,
    margin: int | Sequence[int] = 0,
    n_rounds: int = 15,
    n_iter: int = 5,
    callback: Callable[[int, dict[int, float], Array], Any] | None = None,
    mask: Array | None = None,
    saturation: float | None = None,
    progress: bool = False,
    device: str | torch.device | None = None,
) -> Blind:
    r"""Estimate a volume together with the aberration that blurred it.

    Parameters
    ----------
    counts : array or tensor (Z, Y, X)
        Widefield stack in photo-electrons, background included.
    pupil : Pupil
        Aperture, wavelength, index and pixel size, which must be right, and the Zernikes to start
        from.
    weight : float
        Of the total variation, as for `map_tv`.
    z_step : float
        Between planes, in micrometres.
    background : float
        Photo-electrons per pixel to start from, above zero; it stays above zero.
    modes : sequence of int
        OSA indices to be found. Tip, tilt and defocus (1, 2, 4) only move the volume and are
        refused.
    margin : int or tuple of int
        As for `Blur`.
    n_rounds : int
        At most so many turns of volume and pupil.
    n_iter : int
        Iterations of the volume in each.
    callback : callable, optional
        Called as ``callback(round, zernikes, x)``. A true return value stops the run.
    mask, saturation, progress, device
        As for `richardson_lucy`.

    Returns
    -------
    Blind

    Raises
    ------
    ValueError
        As `map_tv`; a background that is not positive; modes that cannot be seen.

    Notes
    -----
    The kernel is :math:`h(c) = |\mathcal{F} P(c)|^2`, a few numbers instead of one for each voxel:
    positive, with a support and a fixed light. In turns the volume is improved by the iterations
    of `map_tv`, and :math:`(c, \log b)` by a step of Fisher scoring with

    .. math:: F_{pq} = \sum_i w_i \frac{\partial_p m_i\, \partial_q m_i}{m_i}, \qquad
        g_p = \sum_i w_i\, \partial_p m_i \Big(1 - \frac{y_i}{m_i}\Big), \qquad m = A(c) f + b ,

    damped until the likelihood does not fall, and taken twice as far, because the volume found
    with a wrong pupil hides part of what is wrong. The problem is not convex, and the answer is a
    local one; light far from focus and background can hardly be told apart. Derived in
    :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> from helpers.renderer.simulate.volumes import bars, widefield
    >>> stack = widefield(bars((12, 24, 24), seed=1), seed=2, aberration={5: 0.08})
    >>> pupil = Pupil(1.3, 0.6, 1.515, 0.08, samples=64)
    >>> found = blind(stack.counts, pupil, 3e-4, z_step=0.2, background=5.0, modes=[5], n_rounds=8)
    >>> bool(found.zernikes[5] > 0.04)
    True
    """
    modes = tuple(int(j) for j in modes)
    unseen = sorted({0, 1, 2, 4} & set(modes))
    if unseen or not modes:
        raise ValueError(
            f"modes are {modes}: piston changes nothing, and tip, tilt and defocus only move the "
            "volume; leave out 0, 1, 2 and 4"
        )
    if not 0 < background < math.inf:
        raise ValueError(f"background is {background}: give a first guess above zero")
    if n_rounds < 1 or n_iter < 1:
        raise ValueError(f"n_rounds is {n_rounds} and n_iter is {n_iter}: at least one of each")
    problem = _Pupils(np.shape(counts), pupil, z_step, modes, margin)
    data = Counts(problem.first, counts, background, mask, saturation, device)
    given = pupil.zernikes or {}
    c = data.y.new_tensor([float(given.get(j, 0.0)) for j in modes])
    solver = Splitting(problem.blur(c), data, weight)
    solver.run(3 * n_iter)
    path, history, damping = [c.cpu().numpy()], [], 1e-3
    best: Any = None
    for k in trange(1, n_rounds + 1, desc="blind", disable=not progress):
        c, damping = _score(problem, solver, c, damping)
        solver.run(n_iter)
        history.append(solver.objective(solver.x))
        path.append(c.cpu().numpy())
        found = dict(zip(modes, c.tolist(), strict=True))
        if history[-1] <= min(history):
            best = solver.x.clone(), found, float(data.background)
        converged = float(np.linalg.norm(path[-1] - path[-2])) < 1e-3
        if (callback is not None and callback(k, found, solver.x)) or converged:
            break
    x, found, level = best
    settings = {"weight": float(weight), "n_rounds": n_rounds, "n_iter": n_iter, "margin": margin}
    return Blind(
        like(solver.op.crop(x), counts), like(x, counts), {**given, **found},
        replace(pupil, zernikes={**given, **found}), level, np.array(history),
        np.array(path), converged, k, data.n_masked, settings,
    )  # fmt: skip


def _score(problem, solver, c, damping):
    """One damped step of Fisher scoring in the coefficients and the logarithm of the background."""
    data, x = solver.data, solver.x
    mean, columns = problem.derivatives(c, x, data)
    columns = (columns * data.used).flatten(1)
    weighted = columns / mean.flatten()
    fisher = wide(weighted @ columns.T)
    slope = wide(columns @ (1 - data.y / mean).flatten())
    before, old = data.half_deviance(mean), data.background
    for _ in range(8):
        damped = fisher + damping * torch.diag(fisher.diagonal())
        step = -torch.linalg.solve(damped, slope).to(c)
        new = c + FURTHER * step[:-1]
        op = problem.blur(new)
        data.background = old * step[-1].clamp(-0.7, 0.7).exp()
        if data.half_deviance(data.mean(op, x)) <= before:
            solver.set_op(op)
            return new, max(damping / 10, 1e-6)
        damping *= 10
    data.background = old
    return c, damping


class _Pupils:
    """The blur of a stack as a function of Zernike coefficients."""

    def __init__(self, shape, pupil, z_step, modes, margin):
        if len(shape) != 3:
            raise ValueError(f"the counts have shape {tuple(shape)}: give a stack (Z, Y, X)")
        self.pupil, self.z_step, self.modes = pupil, z_step, modes
        self.margin, self.shape = margin, tuple(shape)
        margins = (margin,) * 3 if np.ndim(margin) == 0 else margin
        self.kernel_shape = tuple(2 * (n + m) - 1 for n, m in zip(shape, margins, strict=True))
        self.first = Blur(np.ones((1, 1, 1), np.float32), shape, margin=margin)

    def kernel(self, c):
        fixed = {j: v for j, v in (self.pupil.zernikes or {}).items() if j not in self.modes}
        given = fixed | dict(zip(self.modes, c, strict=True))
        pupil = replace(self.pupil, zernikes=given)
        return widefield_kernel(pupil, self.kernel_shape, self.z_step, planes=self.shape[0])

    def blur(self, c):
        return Blur(self.kernel(c), self.shape, margin=self.margin)

    def derivatives(self, c, x, data):
        """Expected counts, and their derivatives by every coefficient and by log background."""
        columns = []
        for direction in torch.eye(len(c), dtype=c.dtype, device=c.device):
            kernel, slope = torch.func.jvp(self.kernel, (c,), (direction,))
            if not columns:
                op = Blur(kernel, self.shape, margin=self.margin)
                mean, spectrum = data.mean(op, x), op.forward(x)
            change = op.inverse(spectrum * op.transform(slope))
            columns.append(op.crop(change))
        columns.append(data.background.expand(self.shape))
        return mean, torch.stack(columns)
