r"""Richardson-Lucy deconvolution of a handful of views: the baseline that every field must beat.

Works with any operator that has ``op(x)``, ``op.adjoint(y)``, ``in_shape`` and ``out_shape``, and
whose kernel is not negative. The page :doc:`/book/inr/02_deconvolve` derives what is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .._arrays import like, to_numpy, to_tensor
from ..devices import pick_device
from ..noise.counting import Poisson, thin
from ._checks import moved

__all__ = ["StoppingChoice", "choose_iterations", "line_psf", "view_enhanced"]


@dataclass(frozen=True)
class RichardsonLucy:
    """What `richardson_lucy` found.

    Attributes
    ----------
    volume : (Z, Y, X) array or tensor
        Photons, of the kind of the views.
    history : (n_iter + 1,) array
        Mean Poisson deviance of the views before each iteration, and after the last. It never
        rises; the noise alone gives about 1.
    n_iter : int
        Iterations done.
    converged : bool
        The last iteration lowered the deviance by less than one part in 10,000. It says nothing
        about the volume, which may have become worse long before.
    snapshots : dict of int -> (Z, Y, X) array or tensor
        The volume after the iterations that were asked for.
    settings : dict
        What the run was given.
    """

    volume: object
    history: np.ndarray
    n_iter: int
    converged: bool
    snapshots: dict
    settings: dict


def richardson_lucy(
    op,
    y,
    n_iter=30,
    background=0.0,
    callback=None,
    *,
    read_noise=0.0,
    start=None,
    snapshots=(),
    progress=False,
    device=None,
):
    r"""Find the volume that explains the views, by expectation maximisation.

    Parameters
    ----------
    op : operator
        The volume to its views without background, such as `LightField`.
    y : array or tensor, ``op.out_shape``
        Photons in each pixel, background included.
    n_iter : int
        Iterations. More of them fit the views better; after some point they fit the noise.
    background : float or array that broadcasts to the views
        Photons that do not come from the volume.
    callback : callable, optional
        Called as ``callback(k, volume, deviance)`` after iteration k, with a tensor on `device`
        and the deviance of the volume before. A true return value stops the run.
    read_noise : float
        Standard deviation in electrons; its variance is added to the views and to the model.
    start : array or tensor, ``op.in_shape``, optional
        Where to begin, above zero. Default: a constant with the light of the views.
    snapshots : sequence of int
        Iterations after which the volume is kept, 0 for the start.
    progress : bool
        Show a progress bar.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    RichardsonLucy

    Raises
    ------
    ValueError
        Views that do not fit the operator, NaN, negative counts, a negative background or read
        noise, a start that is not positive, snapshots beyond `n_iter`, an operator without light.
    FloatingPointError
        The operator returned NaN or infinity.

    Notes
    -----
    .. math:: f \leftarrow \frac{f}{A^\top 1} \odot A^\top \frac{y + \sigma^2}{A f + b + \sigma^2}

    :cite:p:`richardson1972,lucy1974`. The likelihood never falls :cite:p:`shepp1982`. Gaussian read
    noise of variance :math:`\sigma^2` shifted by as much has the mean and the variance of a Poisson
    variable :cite:p:`snyder1995`. Derived in :doc:`/book/inr/02_deconvolve`.

    Examples
    --------
    >>> from helpers.inr.lightfield import LightField, Optics, psf
    >>> op = LightField(psf(Optics(), [-1, 0, 1], 48), shape=(16, 16), view_shape=(32, 32))
    >>> bead = np.zeros((3, 16, 16), np.float32)
    >>> bead[1, 8, 8] = 1000
    >>> fit = richardson_lucy(op, op(bead), 50)
    >>> [int(i) for i in np.unravel_index(fit.volume.argmax(), bead.shape)]
    [1, 8, 8]
    """
    import torch
    from tqdm.auto import trange

    device = pick_device(device)
    background = check_views(op, y, background, read_noise)
    kept = {int(k) for k in snapshots}
    if n_iter < 1 or (kept and not 0 <= min(kept) <= max(kept) <= n_iter):
        raise ValueError(f"n_iter is {n_iter} and snapshots are {sorted(kept)}: 0 to n_iter each")
    op = moved(op, device)
    data = to_tensor(y, device)
    offset = to_tensor(background, device, data.dtype) + read_noise**2
    sensitivity = op.adjoint(torch.ones_like(data))
    seen = sensitivity > 1e-4 * sensitivity.max()
    if not bool(seen.any()):
        raise ValueError("the operator sends no light into the views: check its PSF")
    f = _start(start, op, data - (offset - read_noise**2), sensitivity, seen)
    data = data + read_noise**2
    floor = 1e-6 * float(data.mean()) + 1e-30

    def deviance(model):
        each = torch.xlogy(data, data) - torch.xlogy(data, model) - data + model
        value = 2 * float(each.mean(dtype=torch.float64))
        if not math.isfinite(value):
            raise FloatingPointError("the operator gave NaN or infinity: check its PSF")
        return value

    model = (op(f) + offset).clamp(min=floor)
    history, stored = [deviance(model)], ({0: like(f.clone(), y)} if 0 in kept else {})
    for k in trange(1, n_iter + 1, desc="Richardson-Lucy", disable=not progress):
        f = f * torch.where(seen, op.adjoint(data / model).clamp(min=0) / sensitivity, 0)
        if k in kept:
            stored[k] = like(f, y)
        stop = callback is not None and callback(k, f, history[-1])
        model = (op(f) + offset).clamp(min=floor)
        history.append(deviance(model))
        if stop:
            break
    change = history[-2] - history[-1]
    settings = {"n_iter": n_iter, "read_noise": read_noise, "background": like(background, y)}
    return RichardsonLucy(
        like(f, y), np.array(history), k, change < 1e-4 * history[-1], stored, settings
    )


def check_views(op, y, background=0.0, read_noise=0.0):
    """Raise a ValueError if `y` cannot be the views of `op`; give the background as a tensor."""
    import torch

    data = to_tensor(y)
    if tuple(data.shape) != tuple(op.out_shape):
        raise ValueError(
            f"the views have shape {tuple(data.shape)}, but the operator makes "
            f"{tuple(op.out_shape)}: check the number of views, and view_shape of the operator"
        )
    if not bool(torch.isfinite(data).all()):
        raise ValueError("the views hold NaN or infinity: mask or replace those pixels first")
    if bool((data < 0).any()):
        raise ValueError(
            f"the views hold negative counts, down to {float(data.min()):.3g}: give photons with "
            "the background in them, and the background apart"
        )
    b = to_tensor(background, dtype=torch.float32).to(data.device)
    if not bool((b >= 0).all()) or not bool(torch.isfinite(b).all()):
        raise ValueError("the background is negative or NaN: give photons, zero or more")
    if b.ndim and np.broadcast_shapes(tuple(b.shape), tuple(data.shape)) != tuple(data.shape):
        raise ValueError(f"the background is {tuple(b.shape)}, the views {tuple(data.shape)}")
    if not 0 <= read_noise < math.inf:
        raise ValueError(f"read_noise is {read_noise}: give electrons, zero or more")
    return b


def _start(start, op, light, sensitivity, seen):
    if start is None:
        total = max(float(light.sum()), 1e-3 * float(light.abs().sum()), 1e-6)
        return (total / float(sensitivity[seen].sum())) * seen.to(light.dtype)
    f = to_tensor(start, light.device, light.dtype)
    if tuple(f.shape) != tuple(op.in_shape):
        raise ValueError(f"start is {tuple(f.shape)}: the operator takes {tuple(op.in_shape)}")
    if not bool((f >= 0).all()) or not bool((f > 0).any()):
        raise ValueError("start has negative values, NaN, or nothing else than zeros")
    return f.clone()


@dataclass(frozen=True)
class StoppingChoice:
    """What `choose_iterations` found.

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


def choose_iterations(
    op,
    y,
    *,
    background=0.0,
    read_noise=0.0,
    n_max=200,
    n_folds=4,
    seed=0,
    progress=False,
    device=None,
):
    r"""Choose when Richardson-Lucy should stop, from the views alone.

    Parameters
    ----------
    op, y, background, read_noise
        As for `richardson_lucy`.
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
    import torch

    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}: one part must be held out, and one be left")
    background = to_numpy(check_views(op, y, background, read_noise))
    device = pick_device(device)
    op = moved(op, device)
    rng = np.random.default_rng(seed)
    # The variance of rounding is 1/12: with it, mean and variance are those of Poisson counts.
    shift = read_noise**2 + 1 / 12 if read_noise else 0.0
    counts = np.rint(to_numpy(y) + shift).astype(np.int64)
    share = 1 / n_folds
    offset = torch.as_tensor(background + shift, dtype=torch.float32, device=device)
    noise, rest, score = Poisson(), counts, np.zeros(n_max + 1)
    for fold in range(n_folds):
        held, rest = thin(rest, 1 / (n_folds - fold), rng) if fold < n_folds - 1 else (rest, None)
        judge_by = torch.as_tensor(held, dtype=torch.float32, device=device)
        row = []

        def judge(_, volume, *__, judge_by=judge_by, row=row):
            model = (op(volume) / (1 - share) + offset).clamp(min=1e-6) * share
            row.append(float(noise.deviance(model, judge_by, reduction="mean")))

        kept = (counts - held).astype(np.float32)
        fit = richardson_lucy(
            op, kept, n_max, (1 - share) * to_numpy(offset), judge, snapshots=(0,),
            progress=progress, device=device,
        )  # fmt: skip
        judge(0, torch.as_tensor(fit.snapshots[0], device=device))
        score += np.array([row[-1], *row[:-1]]) / n_folds
    best = int(score.argmin())
    return StoppingChoice(best, score, best == n_max)


def view_enhanced(
    op,
    y,
    n_iter=30,
    background=0.0,
    callback=None,
    *,
    n_iter_views=8,
    read_noise=0.0,
    snapshots=(),
    progress=False,
    device=None,
):
    r"""Deblur each view by itself, then fuse the views along the lines that parallax draws.

    Parameters
    ----------
    op : LightField
        Its PSF gives the blur of each view and the slope of its parallax.
    y, background, read_noise, progress, device
        As for `richardson_lucy`.
    callback, snapshots
        Likewise, of the fusion.
    n_iter : int
        Iterations of the fusion.
    n_iter_views : int
        Iterations of the deblurring.

    Returns
    -------
    RichardsonLucy
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
    background = check_views(op, y, background, read_noise)
    h = to_numpy(op.psf)
    sharpest = int((h**2).sum((0, 2, 3)).argmax())
    views = op.out_shape[1:]
    deblurred = []
    for v in range(len(h)):
        blur = type(op)(h[v : v + 1, sharpest : sharpest + 1] / h[v, sharpest].sum(), views)
        b = background[v : v + 1] if background.ndim == 3 and len(background) > 1 else background
        fit = richardson_lucy(
            blur, to_tensor(y)[v : v + 1], n_iter_views, b, read_noise=read_noise,
            progress=progress, device=device,
        )  # fmt: skip
        deblurred.append(fit.volume)
    import torch

    enhanced = like(torch.cat(deblurred), y)
    lines = type(op)(line_psf(h), op.in_shape[1:], views)
    # What the deblurring leaves of the noise is not counts: a floor keeps it from ruling the ratio.
    floor = 0.005 * float(to_tensor(enhanced).max())
    return richardson_lucy(
        lines, enhanced + floor, n_iter, floor, callback, snapshots=snapshots,
        progress=progress, device=device,
    )  # fmt: skip


def line_psf(psf, n_planes=16):
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


def _peak(image):
    """Place of the brightest pixel, refined by the centroid of its neighbours."""
    i, j = np.unravel_index(image.argmax(), image.shape)
    rows, columns = (slice(max(n - 1, 0), n + 2) for n in (i, j))
    part = image[rows, columns].astype(float)
    y, x = np.mgrid[rows, columns][:, : part.shape[0], : part.shape[1]]
    return (part * y).sum() / part.sum(), (part * x).sum() / part.sum()


def _line(near, peaks, z):
    if len(near) < 2:
        return np.repeat(peaks, len(z), axis=0)
    return np.stack([np.polyval(np.polyfit(near, p, 1), z) for p in peaks.T], axis=1)
