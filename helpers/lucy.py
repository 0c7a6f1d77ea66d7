r"""Richardson-Lucy deconvolution through any linear operator: the baseline of every part.

An operator has ``op(x)``, ``op.adjoint(y)``, ``op.in_shape`` and ``op.out_shape``, and a kernel
that is not negative. The page :doc:`/book/inr/02_deconvolve` derives what is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import trange

from ._arrays import Array, Device, like, to_tensor
from ._deprecated import renamed
from .devices import pick_device
from .operators import Operator

__all__ = ["Deconvolution", "richardson_lucy"]


@dataclass(frozen=True)
class Deconvolution:
    """Result of a deconvolution.

    Attributes
    ----------
    volume : array or tensor
        Photo-electrons of each voxel in the field, of the kind of the counts.
    with_margin : array or tensor, ``op.in_shape``
        The same with what was estimated outside the field, where the operator has a margin; a
        start for another run.
    history : array
        Richardson-Lucy: mean Poisson deviance of the counts before each iteration and after the
        last; the noise alone gives about 1. MAP: objective of the best volume so far, at the start
        and at every look, above that of a model that meets every count. It never rises, unless
        Richardson-Lucy is accelerated.
    gap : float
        A bound on how far the objective is above its minimum; NaN where there is none.
    n_iter : int
        Iterations done.
    converged : bool
        MAP: the gap is at most the share `tol` of the objective. Richardson-Lucy: the last
        iteration changed the deviance by less than one part in 10,000, which says nothing about
        the volume; that may have become worse long before.
    n_masked : int
        Pixels that were not used: saturated ones, and those that `mask` excludes.
    snapshots : dict of int -> array or tensor
        The volume after the iterations that were asked for.
    settings : dict
        Arguments of the run.
    """

    volume: Array
    with_margin: Array
    history: np.ndarray
    gap: float
    n_iter: int
    converged: bool
    n_masked: int
    snapshots: dict[int, Array]
    settings: dict[str, Any]


@renamed(y="counts", valid="mask")
def richardson_lucy(
    op: Operator,
    counts: Array,
    n_iter: int = 30,
    background: float | Array = 0.0,
    callback: Callable[[int, torch.Tensor], Any] | None = None,
    *,
    read_noise: float = 0.0,
    accelerate: bool = False,
    mask: Array | None = None,
    saturation: float | None = None,
    start: Array | None = None,
    snapshots: Iterable[int] = (),
    progress: bool = False,
    device: Device = None,
) -> Deconvolution:
    r"""Find the volume that explains the counts, by expectation maximisation.

    Parameters
    ----------
    op : operator
        The object to its images without background, such as
        `helpers.inr.lightfield.LightField` or `helpers.renderer.deconvolve.Blur`.
    counts : array or tensor, ``op.out_shape``
        Photo-electrons in each pixel, background included.
    n_iter : int
        Iterations. More of them fit the counts better; after some point they fit the noise.
    background : float or array that broadcasts to the counts
        Photo-electrons that do not come from the object.
    callback : callable, optional
        Called as ``callback(k, x)`` after iteration k, with a tensor of ``op.in_shape``. A true
        return value stops the run.
    read_noise : float
        Standard deviation in electrons; its variance is added to the counts and to the model.
    accelerate : bool
        Start each iteration from where the last two point to. Far fewer iterations, the same
        path on the whole; single ones may fit worse than the one before.
    mask : bool array, ``op.out_shape``, optional
        True where a pixel counts.
    saturation : float, optional
        Counts at or above it are not used.
    start : array or tensor, ``op.in_shape``, optional
        Initial estimate. Default: a constant with the light of the counts.
    snapshots : iterable of int
        Iterations after which the volume is kept, 0 for the start.
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
        Counts that do not fit the operator, NaN or negative counts, a negative background or read
        noise, no usable pixel, a start that is not positive, snapshots beyond `n_iter`, an
        operator without light.
    FloatingPointError
        The operator returned NaN or infinity.

    Notes
    -----
    .. math:: f \leftarrow \frac{f}{A^\top w} \odot
        A^\top \Bigl(w\, \frac{y + \sigma^2}{A f + b + \sigma^2}\Bigr)

    with w zero where a pixel is not used :cite:p:`richardson1972,lucy1974`. The likelihood never
    falls :cite:p:`shepp1982`. Gaussian read noise of variance :math:`\sigma^2`, shifted by as much,
    has the mean and the variance of a Poisson variable :cite:p:`snyder1995`. Acceleration as in
    :cite:p:`biggs1997`. Derived in :doc:`/book/inr/02_deconvolve`; masked, accelerated and with a
    margin in :doc:`/book/renderer/06_deconvolve`.

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
    if n_iter < 1 or (kept and not 0 <= min(kept) <= max(kept) <= n_iter):
        raise ValueError(f"n_iter is {n_iter} and snapshots are {sorted(kept)}: 0 to n_iter each")
    data = Counts(op, counts, background, mask, saturation, device, read_noise)
    op = op.to(data.device) if hasattr(op, "to") else op
    crop = getattr(op, "crop", lambda x: x)
    sensitivity = op.adjoint(data.used)
    seen = sensitivity > 1e-4 * float(sensitivity.max())
    if not bool(seen.any()):
        raise ValueError("the operator sends no light into the images: check its kernel")
    scale = seen / sensitivity.where(seen, sensitivity.new_ones(()))
    x = before = data.start(op, sensitivity * seen, start) * seen
    move: torch.Tensor | None = None
    push = 0.0
    history, stored = [], ({0: like(crop(x).clone(), counts)} if 0 in kept else {})
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
            stored[k] = like(crop(x).clone(), counts)
        if callback is not None and callback(k, x):
            break
    history.append(2 * data.half_deviance(data.mean(op, x)) / data.total)
    settings = {
        "n_iter": n_iter,
        "background": background,
        "read_noise": read_noise,
        "accelerate": accelerate,
    }
    return Deconvolution(
        like(crop(x), counts), like(x, counts), np.array(history), math.nan, k,
        abs(history[-2] - history[-1]) < 1e-4 * history[-1], data.n_masked, stored, settings,
    )  # fmt: skip


def _extrapolation(move: torch.Tensor, last: torch.Tensor) -> float:
    """Length of the extrapolation, 0 to 1, by the agreement of two moves."""
    return min(max(float((move * last).sum() / (last * last).sum().clamp(min=1e-30)), 0.0), 1.0)


class Counts:
    """Counts that were checked, on a device, with their background and the pixels that are used.

    Counts and background hold the variance of the read noise, if there is any.
    """

    def __init__(
        self,
        op: Operator,
        counts: Array,
        background: float | Array = 0.0,
        mask: Array | None = None,
        saturation: float | None = None,
        device: Device = None,
        read_noise: float = 0.0,
    ) -> None:
        data = to_tensor(counts)
        if tuple(data.shape) != tuple(op.out_shape):
            raise ValueError(
                f"the counts have shape {tuple(data.shape)}, but the operator makes "
                f"{tuple(op.out_shape)}: build it for the shape of the counts"
            )
        if mask is None:
            used = torch.ones_like(data, dtype=torch.bool)
        else:
            used = to_tensor(mask if torch.is_tensor(mask) else np.asarray(mask)) > 0
            used = used.to(data.device)
            if used.shape != data.shape:
                raise ValueError(
                    f"mask has shape {tuple(used.shape)} and the counts {tuple(data.shape)}"
                )
        if saturation is not None:
            used = used & ~(data >= saturation)
        if not bool(used.any()):
            raise ValueError("no pixel is left: all are saturated or excluded by `mask`")
        _check_counts(data[used], read_noise)
        level = to_tensor(background, dtype=data.dtype).to(data.device)
        _check_background(background, level, data)
        if not 0 <= read_noise < math.inf:
            raise ValueError(f"read_noise is {read_noise}: give electrons, zero or more")
        self.device = pick_device(device)
        self.n_masked = int((~used).sum())
        y = torch.where(used, data, data.new_zeros(()))
        y = (y + used * read_noise**2).clamp(min=0)  # what noise pushes below counts as dark
        if self.device.type == "mps":  # which has no float64
            y, level = y.float(), level.float()
        self.y = y.to(self.device)
        self.used = used.to(self.device, y.dtype)
        self.background = level.to(self.device) + read_noise**2
        self.total = float(used.sum())
        # no count can be explained by no light at all
        self.floor = 1e-6 * float(self.y.mean()) + 1e-30

    def mean(self, op: Operator, x: torch.Tensor) -> torch.Tensor:
        """Expected counts of the object `x`."""
        return (op(x) + self.background).clamp(min=self.floor)

    def half_deviance(self, mean: torch.Tensor) -> float:
        """Negative log-likelihood above its least value, a float."""
        y, m = self.y, mean
        if self.device.type != "mps":
            y, m = y.double(), m.double()
        each = torch.xlogy(y, y / m) - y + m
        # the last sum on the host, in float64 on every device
        value = float((each * self.used).sum(-1).cpu().sum(dtype=torch.float64))
        if not math.isfinite(value):
            raise FloatingPointError("the operator gave NaN or infinity: check its kernel")
        return value

    def start(self, op: Operator, sensitivity: torch.Tensor, start: Array | None) -> torch.Tensor:
        """Initial estimate: `start` with its margin, or a constant with the light of the counts."""
        if start is None:
            light = float(((self.y - self.background) * self.used).sum())
            light = max(light, 1e-3 * float(self.y.sum()), 1e-6)
            level = light / float(sensitivity.sum())
            return torch.full(op.in_shape, level, dtype=self.y.dtype, device=self.device)
        x = to_tensor(start, self.device, self.y.dtype)
        if tuple(x.shape) != tuple(op.in_shape):
            raise ValueError(
                f"start has shape {tuple(x.shape)}, but with its margin the object is {op.in_shape}"
            )
        if not bool((x >= 0).all()) or not bool((x > 0).any()):
            raise ValueError("start has negative values, NaN, or nothing else than zeros")
        return x.clone()


def _check_counts(used: torch.Tensor, read_noise: float) -> None:
    if not bool(used.isfinite().all()):
        raise ValueError("the counts hold NaN or infinity: exclude them, mask=np.isfinite(counts)")
    # what a Fourier transform leaves of zero is not a negative count; read noise makes real ones
    least = -max(1e-6 * float(used.abs().max()), 10 * read_noise if read_noise > 0 else 0.0)
    if bool((used < least).any()):
        raise ValueError(
            f"the counts hold negative values, down to {float(used.min()):.3g}: give "
            "photo-electrons with the background in them, and the background apart"
            + (f"; read noise of {read_noise:g} does not reach so far" if read_noise > 0 else "")
        )


def _check_background(background: float | Array, level: torch.Tensor, data: torch.Tensor) -> None:
    if not bool((level >= 0).all()) or not bool(level.isfinite().all()):
        raise ValueError(
            f"the background is {background}: give photo-electrons per pixel, zero or more"
        )
    try:
        fits = torch.broadcast_shapes(level.shape, data.shape) == data.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"the background is {tuple(level.shape)}: give a number or an image that broadcasts "
            f"to the counts' {tuple(data.shape)}"
        )
