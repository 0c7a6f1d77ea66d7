r"""Find the molecules in camera frames, one by one, and fit neighbours together."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..._arrays import Array, is_tensor, to_numpy, to_tensor
from ...devices import pick_device
from ...noise._checks import NoiseModel
from ...noise.camera import warn_of_camera
from ...noise.counting import Poisson
from .._checks import check_counts, checked_noise, checked_renderer
from ..renderers.base import Renderer
from ..renderers.gaussian import Gaussian2D
from .finder import Finder

MOST_FRAMES, MOST_PIXELS = 200, 2**24  # at a time


def localize(
    frames: Array | Sequence[np.ndarray],
    psf: float | Renderer,
    noise: NoiseModel | None = None,
    *,
    false_alarms: float = 0.01,
    fixed: Mapping[str, Any] | None = None,
    mask: Array | None = None,
    saturation: float | None = None,
    batch: int | None = None,
    progress: bool = False,
    device: str | torch.device | None = None,
) -> np.recarray:
    r"""Find and fit the molecules of every frame.

    Parameters
    ----------
    frames : array or tensor (N, Y, X), or a sequence of (Y, X) frames
        Photo-electrons. Of a sequence, such as a `helpers.io.Stack` or a simulated movie, only
        `batch` frames are held at a time. For camera counts, (ADU - offset) / gain.
    psf : float or Renderer
        The standard deviation in px of a Gaussian spot, or a renderer with the parameters `x`,
        `y`, `photons` and `background`. Its image shape is then the size of the regions that are
        fitted: several widths of a spot, or that of the frames. Other parameters are fitted for
        each molecule, from their `start`, unless `fixed`; a depth `z` from that of five planes
        whose spots fit best.
    noise : object, optional
        A model of `helpers.noise`; default ``Poisson()``.
    false_alarms : float
        Molecules that noise alone may feign, on average, in a frame. It sets the threshold.
    fixed : dict, optional
        Known parameters of the renderer by name, such as ``{"sigma": 1.3}``.
    mask : array of bool (Y, X), optional
        True where a pixel counts.
    saturation : float, optional
        Pixels at or above it are left out; the column `masked` counts them.
    batch : int, optional
        Frames at a time. The result does not depend on it. Left out, 200 of small frames, and of
        large ones as many as sixteen million pixels hold: a movie of any length and size takes some
        hundred megabytes.
    progress : bool
        Show a progress bar.
    device : str or torch.device, optional
        Where to work; see `helpers.devices.pick_device`.

    Returns
    -------
    structured array
        One row for each molecule, sorted by frame; none for frames without. Columns: `frame`;
        `x`, `y` in px from the centre of the frame, `photons`, `background`, and other fitted
        parameters; the standard deviation of each by the Cramer-Rao bound, `x_std` and so on;
        `chi2`, the mean squared residual within two widths in units of the noise, about 1 for a
        good fit; `masked`, the pixels left out there; `converged`, true if the joint fit of the
        molecule and its neighbours came to an end and none of its own parameters at a limit.

    Raises
    ------
    ValueError
        Frames that are not two-dimensional, not of one shape, empty, or hold NaN; a point spread
        larger than the frames; a rate of false alarms that is not positive.

    Warns
    -----
    UserWarning
        Gain, offset or maps that the frames contradict; see `helpers.noise.check_camera`.

    Notes
    -----
    Let the model :math:`\mu` of a frame be what has been found so far, and I the information of
    the noise. One more molecule with the point spread h at p would show in the residual as

    .. math:: S(p) = \sum_i h_i(p)\, I_i\, (d_i - \mu_i) \Big/ \sqrt{\textstyle\sum_i h_i^2 I_i} ,

    a standard normal variable if there is none. The highest peak is tried: all molecules and the
    background are fitted together, and it stays if the deviance falls by more than :math:`t^2`.
    In a frame of the area A noise exceeds t about

    .. math:: A \sqrt{\det \Lambda}\; (2\pi)^{-3/2}\; t\, e^{-t^2 / 2}

    times :cite:p:`worsley1992`, with :math:`\Lambda` the roughness of the filtered noise,
    :math:`\sqrt{\det\Lambda} = 1 / 2\sigma^2` for a Gaussian. That equals `false_alarms`. At last
    molecules without which the deviance rises by less than :math:`t^2` are removed. Frames much
    larger than a region are cut into regions about their peaks; a molecule belongs to the region
    whose peak is nearest. Derived in :doc:`/book/renderer/05_many_molecules`.

    Examples
    --------
    >>> from helpers.renderer.detect import match
    >>> from helpers.renderer.simulate import crowded_frames
    >>> frames, truth = crowded_frames(20, (24, 24), emitters=2, photons=(900, 1100), sigma=1.3,
    ...                                background=(5, 5), read_noise=0, seed=3)
    >>> found = localize(frames, 1.3, device="cpu")
    >>> bool(abs(len(found) - len(truth)) <= 1), match(found, truth, 1.0).jaccard > 0.9
    (True, True)
    """
    if not 0 < false_alarms < 10:
        raise ValueError(f"false_alarms is {false_alarms}: give a rate per frame, such as 0.01")
    if batch is not None and (batch != int(batch) or batch < 1):
        raise ValueError(f"batch is {batch}: give a whole number of frames, at least 1")
    n_frames, shape = _size(frames)
    batch = _batch(shape) if batch is None else int(batch)
    here: Any = pick_device(device)
    if isinstance(frames, torch.Tensor) and device is None:
        here = frames.device
    noise = checked_noise(Poisson() if noise is None else noise, shape)
    renderer, fixed = _renderer(psf, fixed, shape)
    finder = Finder(renderer.to(here), noise, fixed, shape, false_alarms, here)
    allowed = _allowed(mask, shape, here)
    if isinstance(frames, np.ndarray | Sequence):
        warn_of_camera(frames, noise, mask)
    tables = []
    starts = range(0, n_frames, batch)
    with torch.no_grad():
        for first in tqdm(starts, desc="frames", unit_scale=batch, disable=not progress):
            counts = _read(frames, first, min(first + batch, n_frames), shape, here)
            check_counts(noise, counts)
            use = allowed.expand_as(counts)
            use = use if saturation is None else use & (counts < saturation)
            tables.append(finder(counts, use, first))
    names = ["frame", "x", "y", "photons"]
    names += [name for name in tables[0] if name not in names]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in names}
    table = list(columns.values())
    return np.rec.fromarrays(table, names=names)  # type: ignore[call-overload]


def _size(frames):
    """Number of frames, and (Y, X) of the first."""
    if np.ndim(frames[0] if len(frames) else 0) != 2:
        raise ValueError(
            f"frames have shape {np.shape(frames)}: give a stack (N, Y, X) with at least one "
            "frame, or a sequence of (Y, X) frames"
        )
    return len(frames), tuple(int(n) for n in np.shape(frames[0]))


def _batch(shape):
    """The largest divisor of MOST_FRAMES of which all pixels are at most MOST_PIXELS.

    A divisor, so that a movie in pieces of 200 frames gives the same bits as the whole.
    """
    fits = [n for n in range(1, MOST_FRAMES + 1) if n * math.prod(shape) <= MOST_PIXELS]
    return max([n for n in fits if MOST_FRAMES % n == 0], default=1)


def _read(frames, first, last, shape, device):
    """Frames `first` to `last` as one tensor of float32."""
    if isinstance(frames, np.ndarray) or is_tensor(frames):
        stack = frames[first:last]
    else:
        stack = [to_numpy(frames[k]) for k in range(first, last)]
        if any(frame.shape != shape for frame in stack):
            raise ValueError(f"not all frames have the shape {shape} of the first: crop them")
        stack = np.stack(stack)
    counts = to_tensor(stack, device, torch.float32)
    if not bool(counts.sum().isfinite()) and not bool(counts.isfinite().all()):
        raise ValueError(
            f"frames {first} to {last - 1} hold NaN or infinity: put a number there and leave "
            "these pixels out by `mask`"
        )
    return counts


def _renderer(psf, fixed, shape):
    """A renderer of regions, or of frames that are hardly larger than a region."""
    fixed = dict(fixed or {})
    if isinstance(psf, Real):
        if not 0 < psf < math.inf:
            raise ValueError(f"psf is {psf}: give a width in px, or a renderer")
        if 2 * psf > min(shape):
            raise ValueError(
                f"psf is {psf} px in frames of {shape}: give the standard deviation of a spot in "
                "px (nm over the size of a pixel)"
            )
        side = 2 * math.ceil(4.5 * psf) + 1
        size = tuple(n if n < 1.5 * side else side for n in shape)
        return Gaussian2D(size), {"sigma": float(psf)}
    checked_renderer(psf)
    if missing := {"x", "y", "photons", "background"} - set(psf.params):
        raise ValueError(f"{type(psf).__name__} has no {', '.join(sorted(missing))}: no molecules")
    if any(n > m for n, m in zip(psf.image_shape, shape, strict=True)):
        raise ValueError(
            f"the renderer makes {psf.image_shape} but the frames are {shape}: make it smaller"
        )
    if unknown := set(fixed) - set(psf.params):
        raise ValueError(f"{', '.join(unknown)} cannot be fixed: {', '.join(psf.params)} can")
    return copy.deepcopy(psf), fixed


def _allowed(mask, shape, device):
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if np.shape(mask) != shape:
        raise ValueError(f"mask is {np.shape(mask)} but frames are {shape}: give one for all")
    return torch.as_tensor(to_numpy(mask), dtype=torch.bool, device=device)
