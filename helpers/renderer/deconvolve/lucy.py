"""Richardson-Lucy deconvolution, plain and accelerated: the baseline."""

from __future__ import annotations

import numpy as np
from tqdm.auto import trange

from ..._arrays import like
from ._counts import Counts, Deconvolution


def richardson_lucy(
    op,
    counts,
    n_iter=50,
    background=0.0,
    callback=None,
    *,
    accelerate=False,
    valid=None,
    saturation=None,
    start=None,
    snapshots=(),
    progress=False,
    device=None,
):
    r"""Find the volume that explains the counts, by expectation maximisation.

    Parameters
    ----------
    op : Blur
        The object to its images, without background.
    counts : array or tensor, ``op.out_shape``
        Photo-electrons in each pixel, background included.
    n_iter : int
        Iterations. More of them fit the counts better; after some point they fit the noise.
    background : float or array, ``op.out_shape``
        Photo-electrons per pixel that do not come from the object.
    callback : callable, optional
        Called as ``callback(k, x)`` after iteration k, with a tensor that has the margin. A true
        return value stops the run.
    accelerate : bool
        Start each iteration from where the last two point to. Far fewer iterations, the same
        path on the whole; single ones may fit worse than the one before.
    valid : bool array, ``op.out_shape``, optional
        False where a pixel is not to be used.
    saturation : float, optional
        Counts at or above it are not used.
    start : array or tensor, ``op.in_shape``, optional
        Where to begin. Default: a constant with the light of the counts.
    snapshots : sequence of int
        Iterations after which the volume is kept.
    progress : bool
        Show a progress bar.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    Deconvolution

    Raises
    ------
    ValueError
        Counts of another shape, NaN or negative counts, a negative background, no usable pixel.

    Notes
    -----
    .. math:: f \leftarrow \frac{f}{A^\top w} \odot A^\top \Big(w\, \frac{y}{A f + b}\Big)

    with w zero where a pixel is not used :cite:p:`richardson1972,lucy1974`. Acceleration as in
    :cite:p:`biggs1997`. Derived in :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> from helpers.renderer.deconvolve import Blur
    >>> op = Blur(np.ones((3, 3)) / 9, (9, 9))
    >>> bead = np.zeros((9, 9))
    >>> bead[4, 5] = 100.0
    >>> fit = richardson_lucy(op, op(bead), 100)
    >>> int(fit.volume.argmax()) == 4 * 9 + 5
    True
    """
    kept = {int(k) for k in snapshots}
    if n_iter < 1 or (kept and not 1 <= min(kept) <= max(kept) <= n_iter):
        raise ValueError(f"n_iter is {n_iter} and snapshots are {sorted(kept)}: 1 to n_iter each")
    data = Counts(op, counts, background, valid, saturation, device)
    op = op.to(data.device)
    sensitivity = op.adjoint(data.used)
    seen = sensitivity > 1e-4 * float(sensitivity.max())
    scale = seen / sensitivity.where(seen, sensitivity.new_ones(()))
    x = data.start(op, sensitivity, start) * seen
    before, move, push = x, None, 0.0
    history, stored = [], {}
    for k in trange(1, n_iter + 1, desc="Richardson-Lucy", disable=not progress):
        here = (x + push * (x - before)).clamp(min=0) if push else x
        mean = data.mean(op, here)
        history.append(2 * data.half_deviance(mean) / data.total)
        after = here * scale * op.adjoint(data.used * data.y / mean).clamp(min=0)
        if accelerate:
            last, move = move, after - here
            push = 0.0 if last is None else _extrapolation(move, last)
        before, x = x, after
        if k in kept:
            stored[k] = like(op.crop(x).clone(), counts)
        if callback is not None and callback(k, x):
            break
    history.append(2 * data.half_deviance(data.mean(op, x)) / data.total)
    settings = {"n_iter": n_iter, "accelerate": accelerate, "background": background}
    return Deconvolution(
        like(op.crop(x), counts), like(x, counts), np.array(history), float("nan"), k,
        abs(history[-2] - history[-1]) < 1e-4 * history[-1], data.n_masked, stored, settings,
    )  # fmt: skip


def _extrapolation(move, last):
    """Length of the extrapolation: 0 to 1, by how well two moves agree."""
    return min(max(float((move * last).sum() / (last * last).sum().clamp(min=1e-30)), 0.0), 1.0)
