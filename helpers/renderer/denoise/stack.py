r"""Denoise a stack of images with nothing but the stack.

A `BlindSpot` network is trained on the images themselves, and then applied to them. The page
:doc:`/book/renderer/07_denoise` says why that does not bring the noise back.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import median_filter, rank_filter

from ..._arrays import Array, is_tensor, like, to_numpy, to_tensor
from ..._deprecated import renamed
from ...devices import pick_device
from ...io._calibration import keeps_labels
from ...noise._checks import NoiseModel
from ...noise.camera import warn_of_images
from ...noise.counting import SCMOS, Poisson
from ...noise.readout import EMCCD, PoissonGauss
from ...training.loop import Step
from ..train import Trainer, Training
from .blindspot import BlindSpot, noise_variance, with_the_pixel

AT_ONCE = 2**19  # pixels that go through the network together


@dataclass(frozen=True)
class Denoised:
    """Result of `denoise` and `apply`.

    Attributes
    ----------
    images : array or tensor (B, Y, X)
        The estimates, in the unit of the input.
    spread : array or tensor (B, Y, X)
        Their standard deviation, as the network believes it.
    blind : array or tensor (B, Y, X)
        Estimates from the neighbours alone, before the pixel itself was used.
    noise : (float, float) or None
        Intercept and slope of the camera's noise, ``variance = intercept + slope * mean``: with
        images in photo-electrons the read variance and 1.
    network : BlindSpot
        To `apply` to more images of the same kind.
    training : Training or None
        With `history`, the loss of every step.
    n_masked : int
        Pixels that did not count: masked, or hot. Their estimates come from the neighbours alone.
    """

    images: Array
    spread: Array = field(repr=False)
    blind: Array = field(repr=False)
    noise: tuple | None
    network: BlindSpot = field(repr=False)
    training: Training | None = field(repr=False, default=None)
    n_masked: int = 0


@keeps_labels("images", "spread", "blind")
@renamed(rate="learning_rate")
def denoise(
    images: Array,
    noise: NoiseModel | None = None,
    *,
    n_steps: int = 1000,
    batch: int = 1,
    patch: int = 66,
    learning_rate: float = 1e-2,
    width: int = 32,
    depth: int = 3,
    mask: Array | None = None,
    network: BlindSpot | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    name: str = "denoise",
    progress: bool = False,
    callback: Callable[[Step], Any] | None = None,
    device: str | torch.device | None = None,
) -> Denoised:
    r"""Denoise a stack by a network that is trained on the stack.

    Parameters
    ----------
    images : (B, Y, X) or (Y, X) array or tensor
        Noisy images of one kind; in photo-electrons, or in any unit if `noise` is None. The noise
        must be independent from pixel to pixel. With an `xarray.DataArray` the result has
        DataArrays with its coordinates.
    noise : Poisson, SCMOS, PoissonGauss or EMCCD, optional
        Of `helpers.noise`; the variance of the read noise may be a map (Y, X). Left out, intercept
        and slope of the noise are found by `noise_line`.
    mask : array of bool (Y, X) or (B, Y, X), optional
        True where a pixel counts. The others are predicted from their neighbours.
    n_steps, batch, patch : int
        Steps of the training, and how many squares of which side each of them sees.
    learning_rate : float
    width, depth : int
        See `BlindSpot`.
    network : BlindSpot, optional
        Start from this one, trained on similar images with the same noise, instead of random
        weights. It is trained in place.
    seed : int
        Fixes weights and squares.
    folder, name : str or Path, optional
        With a folder the run is recorded there under its name, for TensorBoard, and the same call
        goes on where it stopped; see `helpers.renderer.train.Trainer`. Without, nothing is kept.
    progress : bool
        Show a bar.
    callback : callable, optional
        ``callback(step)`` after every step, with a `helpers.training.Step`. True ends the training.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    Denoised

    Raises
    ------
    ValueError
        Images that are not a stack, hold NaN, are constant or smaller than 12 x 12 pixels, or a
        mask or a map of another shape.
    FloatingPointError
        The training diverged.

    Warns
    -----
    UserWarning
        Pixels that stand out from all their neighbours as no sampled image can are left out, as if
        masked: a few of them would decide the whole training. Rows or columns with a noise in
        common, which the network would take for signal; a gain that is not that of the model.

    Notes
    -----
    Squares are cut at random places and turned or mirrored. The estimate is the mean over the
    eight ways to turn and mirror an image. Training takes the noise as Gaussian with the variance
    of the model, see `BlindSpot.loss`: the exact mixture of `helpers.noise.PoissonGauss` has no
    closed form once the uncertainty of the neighbours is added. Derived in
    :doc:`/book/renderer/07_denoise`.

    Examples
    --------
    >>> from helpers.renderer.simulate import filament_images
    >>> clean = filament_images(2, (48, 48), seed=1)
    >>> noisy = Poisson().sample(clean, np.random.default_rng(0))
    >>> result = denoise(noisy, Poisson(), n_steps=60, width=8, device="cpu")
    >>> bool(np.std(result.images - clean) < 0.7 * np.std(noisy - clean))
    True
    """
    given = _stack(images)
    line, excess = _line(noise, given)
    use = _usable(given, mask, line, excess)
    stack = _filled(given, use)
    warn_of_images(to_numpy(stack), noise)
    stack = stack.to(pick_device(device))
    if network is None:
        network = BlindSpot(
            width,
            depth,
            centre=float(stack.mean()),
            scale=float(stack.std()),
            noise=line,
            generator=torch.Generator().manual_seed(seed),
        )
    elif network.noise != line:
        raise ValueError(
            f"the network was trained for a noise of {network.noise}, intercept and slope, but "
            f"these images have {line}: start from another network, or leave it out"
        )
    _check_squares(patch, batch)
    model: torch.nn.Module = network
    parts: tuple[torch.Tensor, ...] = (stack,)
    if excess.ndim or not bool(use.all()):
        pixels = torch.stack([use.to(stack), excess.expand(use.shape).to(stack)], 1)
        model, parts = _Weighted(network), (stack, pixels)
    training = _trained(
        model,
        parts,
        n_steps=n_steps,
        batch=batch,
        patch=patch,
        learning_rate=learning_rate,
        seed=seed,
        folder=folder,
        name=name,
        progress=progress,
        callback=callback,
        device=stack.device,
    )
    return _applied(network, images, stack, use, excess, None, training)


def train(
    network: BlindSpot,
    images: Array,
    targets: Array | None = None,
    *,
    batch: int = 1,
    patch: int = 66,
    folder: str | Path | None = None,
    **options: Any,
) -> Training:
    """Train a network to predict random squares of images.

    Parameters
    ----------
    network : BlindSpot
        Trained in place.
    images : (B, Y, X) array or tensor
    targets : (B, Y, X) array or tensor, optional
        What is to be predicted, such as clean images for a supervised control. The images
        themselves if left out.
    batch, patch : int
        How many squares of which side each step sees; smaller images are seen whole.
    folder, **options
        See `helpers.renderer.train.Trainer`. Without a folder nothing is kept.

    Returns
    -------
    Training

    Raises
    ------
    ValueError
        As for `denoise`, or targets of another shape than the images.

    Examples
    --------
    >>> images = np.random.default_rng(0).normal(5, 1, (2, 32, 32))
    >>> train(BlindSpot(4, 1, centre=5.0), images, n_steps=3, device="cpu").n_steps
    3
    """
    stack = _stack(images)
    answers = None if targets is None else _stack(targets)
    if answers is not None and answers.shape != stack.shape:
        raise ValueError(f"images are {tuple(stack.shape)}, targets {tuple(answers.shape)}")
    _check_squares(patch, batch)
    parts = (stack,) if answers is None else (stack, answers)
    return _trained(network, parts, batch=batch, patch=patch, folder=folder, **options)


def _check_squares(patch, batch):
    if patch < 12 or batch < 1:
        raise ValueError(f"patch is {patch} px and batch {batch}: give at least 12 px and 1")


def _trained(model, parts, *, batch, patch, folder, **options):
    """Train on random squares of all `parts`, images first."""

    def draw(n, rng):
        return _squares(parts, n, patch, rng)

    with contextlib.ExitStack() as stacked:
        kept = folder or stacked.enter_context(tempfile.TemporaryDirectory())
        return Trainer(model, draw, batch=batch, folder=kept, **options).fit()


class _Weighted(torch.nn.Module):
    """A network and its loss over the pixels that count, each with its own read noise."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def loss(self, images, pixels):
        """The second argument (B, 2, Y, X) holds 1 where a pixel counts, and excess variances."""
        use, excess = pixels.unbind(1)
        return self.network.loss(images, use=use, excess=excess)


def apply(
    network: BlindSpot,
    images: Array,
    *,
    noise: tuple[float, float] | None = None,
    mask: Array | None = None,
    training: Training | None = None,
) -> Denoised:
    """Denoise images by a trained network.

    Parameters
    ----------
    network : BlindSpot
    images : (B, Y, X) or (Y, X) array or tensor
        Of the kind that the network has seen, of any size from 12 x 12 pixels.
    noise : (float, float), optional
        Intercept and slope of the noise. Left out, they are those that the network was trained
        with or, if it was trained without, those of `noise_line` on these images.
    mask : array of bool (Y, X) or (B, Y, X), optional
        True where a pixel counts. The others are predicted from their neighbours.
    training : Training, optional
        Kept in the result.

    Returns
    -------
    Denoised

    Raises
    ------
    ValueError
        Images that are not a stack, hold NaN, are constant or too small.

    Notes
    -----
    Large images go through the network in strips that overlap by what a pixel sees; the result is
    the same. A network that is not blind gives its prediction, since it has used the pixel.
    """
    given = _stack(images)
    excess = torch.zeros(())
    use = _usable(given, mask, noise or network.noise, excess)
    return _applied(network, images, _filled(given, use), use, excess, noise, training)


def _applied(network, images, stack, use, excess, noise, training):
    """Denoise a checked stack (B, Y, X) in which the pixels that do not count were filled."""
    device = next(network.parameters()).device
    home = images.device if is_tensor(images) else "cpu"
    stack, use, excess = stack.to(home), use.to(home), excess.to(home)
    mean, spread = torch.empty_like(stack), torch.empty_like(stack)
    network.eval()
    with torch.no_grad():
        for k, image in enumerate(stack):
            mean[k], spread[k] = _all_turns(network, image[None].to(device))
    line = noise or network.noise
    estimate, blind = mean, mean
    if network.blind:
        if line is None:
            line = noise_line(mean[use], spread[use])
        added = noise_variance(mean, line) + excess
        if network.noise is None:  # the network's spread is that of a new measurement
            spread = (spread.square() - added).clamp_min(0).sqrt()
        joined, sharper = with_the_pixel(mean, spread, stack, added)
        estimate, spread = torch.where(use, joined, mean), torch.where(use, sharper, spread)
    shape = np.shape(images)
    estimate, spread, blind = (like(t.reshape(shape), images) for t in (estimate, spread, blind))
    n_masked = int((~use).sum())
    return Denoised(estimate, spread, blind, line, network, training, n_masked)


def noise_line(mean: Array, spread: Array) -> tuple[float, float]:
    """Intercept and slope of the noise, from what a network without a noise model has learned.

    ``variance = intercept + slope * mean``, in the unit of the images. In grey levels (ADU) the
    slope is the gain, and ``intercept / slope + offset`` the read variance in units of the gain.

    The spread holds the noise and the doubt of the network. In smooth regions there is no doubt, so
    the noise is the lower edge of the cloud of variance over mean: in each of 12 ranges of
    brightness the 20 % pixels of smallest variance are averaged, and a line is fitted, weighted by
    the inverse of the variance. What doubt remains makes it a little too high.

    Examples
    --------
    >>> mean = np.linspace(1.0, 50.0, 4000)
    >>> doubt = np.random.default_rng(0).random(4000)
    >>> intercept, slope = noise_line(mean, np.sqrt(4 + mean + doubt))
    >>> round(intercept, 1), round(slope, 2)
    (4.1, 1.0)
    """
    m, variance = (to_tensor(t).detach().double().cpu().numpy().ravel() for t in (mean, spread))
    variance = variance**2
    darkest, brightest = np.percentile(m, [0.5, 99.5])
    edges = np.linspace(darkest, brightest, 13)
    ranges = [(m >= low) & (m <= high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    ranges = [np.flatnonzero(inside) for inside in ranges if inside.sum() >= 50]
    if len(ranges) < 2 or edges[0] == edges[-1]:
        raise ValueError(
            f"the images have brightness from {edges[0]:g} to {edges[-1]:g}, too few to tell how "
            "the noise depends on it: give the noise of the camera"
        )
    line = np.ones_like(m)
    for _ in range(4):  # what lies lowest is judged against the line of the round before
        excess = variance / line
        least = [r[excess[r] <= np.quantile(excess[r], 0.2)] for r in ranges]
        x, y = np.array([(m[k].mean(), variance[k].mean()) for k in least]).T
        slope, intercept = np.polyfit(x, y, 1, w=1 / y)
        line = np.maximum(intercept + slope * m, y.min() / 10)
    return float(intercept), float(slope)


def _line(noise, stack):
    """Intercept and slope of a noise model in photo-electrons, and what each pixel has beyond."""
    if noise is None:
        return None, torch.zeros(())
    if not isinstance(noise, Poisson | SCMOS | PoissonGauss | EMCCD):
        raise ValueError(
            f"noise is {type(noise).__name__}: give Poisson(), SCMOS, PoissonGauss or EMCCD of "
            "helpers.noise, or None to have it found"
        )
    variance = to_tensor(getattr(noise, "variance", 0.0)).cpu().float()
    if variance.ndim and tuple(variance.shape) not in (stack.shape[1:], stack.shape):
        raise ValueError(
            f"the variance of {type(noise).__name__} is a map of {tuple(variance.shape)} but "
            f"images are {tuple(stack.shape[1:])}: crop both alike"
        )
    if isinstance(noise, EMCCD):
        return (float(variance) / noise.gain**2, 2.0), torch.zeros(())
    typical = float(variance.median())
    return (typical, 1.0), variance - typical


def _usable(stack, mask, line, excess):
    """True where a pixel counts: by the mask, and not hot; bool tensor (B, Y, X)."""
    use = torch.ones(stack.shape, dtype=torch.bool)
    if mask is not None:
        given = to_tensor(mask, "cpu", torch.bool)
        if tuple(given.shape) not in (tuple(stack.shape), tuple(stack.shape[1:])):
            raise ValueError(
                f"mask is {tuple(given.shape)} but images are {tuple(stack.shape)}: give one for "
                "all images, or for each"
            )
        use = use & given
    hot = use & _hot(_filled(stack, use), line, excess)
    if n_hot := int(hot.sum()):
        warnings.warn(
            f"pixels that stand out from all their neighbours are left out, {n_hot} in all: hot "
            "pixels of the camera, or an image that is sampled too coarsely for this method",
            stacklevel=3,
        )
    return use & ~hot


def _hot(stack, line, excess):
    """True where a pixel is far above its neighbours, as no sampled image makes it.

    The middle of a spot with a standard deviation of 0.7 px is 2.8 times as bright as its four
    neighbours. The third brightest of eight is asked, so that two hot pixels do not hide each
    other.
    """
    images = to_numpy(stack)
    around = np.ones((1, 3, 3), bool)
    around[0, 1, 1] = False
    level = median_filter(images, (1, 5, 5), mode="nearest")
    third = rank_filter(images, 5, footprint=around, mode="nearest") - level
    if line is None:
        spread = 1.4826 * np.median(np.abs(images - level), axis=(1, 2), keepdims=True)
    else:
        added = noise_variance(torch.from_numpy(level), line) + excess.cpu()
        spread = added.clamp(min=0.25).sqrt().numpy()
    return torch.from_numpy(images - level > 4 * np.maximum(third, 0) + 6 * spread)


def _filled(stack, use):
    """The stack with the median of what is around in place of pixels that do not count."""
    if bool(use.all()):
        return stack
    images, bad = to_numpy(stack).copy(), ~to_numpy(use)
    images[bad] = np.nan
    reach = 2
    wide = np.pad(images, ((0, 0), (reach, reach), (reach, reach)), constant_values=np.nan)
    k, y, x = np.nonzero(bad)
    offsets = np.arange(2 * reach + 1)
    near = wide[k[:, None, None], y[:, None, None] + offsets[:, None], x[:, None, None] + offsets]
    near = near.reshape(len(k), -1)
    known = np.isfinite(near).any(1)
    images[bad] = np.where(
        known, np.nanmedian(np.where(known[:, None], near, 0), 1), np.nanmedian(images)
    )
    return torch.from_numpy(images).to(stack)


def _stack(images):
    """Images as a float32 tensor (B, Y, X), checked."""
    stack = to_tensor(images).to(torch.float32)
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim != 3 or min(stack.shape[1:], default=0) < 12 or len(stack) == 0:
        raise ValueError(
            f"images are {tuple(np.shape(images))}: give a stack (B, Y, X) of 12 x 12 px or more"
        )
    if not bool(stack.isfinite().all()):
        raise ValueError("images hold NaN or infinity: fill those pixels first")
    if bool(stack.max() == stack.min()):
        raise ValueError(f"all pixels are {float(stack.max()):g}: there is nothing to learn")
    return stack


def _squares(parts, n, patch, rng):
    """Random squares, each turned or mirrored, the same ones of all parts (B, ..., Y, X)."""
    height, width = parts[0].shape[1:]
    tall, wide = min(patch, height), min(patch, width)
    chosen = []
    for _ in range(n):
        k = int(rng.integers(len(parts[0])))
        y, x = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        turn = int(rng.integers(8 if tall == wide else 4))
        chosen.append([_turned(t[k, ..., y : y + tall, x : x + wide], turn) for t in parts])
    squares = [torch.stack(t) for t in zip(*chosen, strict=True)]
    return tuple(squares) if len(squares) > 1 else squares[0]


def _all_turns(network, image):
    """Mean and spread of one image (1, Y, X), averaged over all turns."""
    results = []
    for turn in range(8):
        parts = _in_strips(network, _turned(image, turn).contiguous())
        results.append([_turned_back(part, turn)[0] for part in parts])
    return [torch.stack(parts).mean(0) for parts in zip(*results, strict=True)]


def _in_strips(network, image):
    step = network.STEP
    halo = -(-network.reach // step) * step
    rows = max(1, AT_ONCE // image.shape[-1] // step) * step
    strips = []
    for top in range(0, image.shape[-2], rows):
        above = min(top, halo)
        strip = network(image[:, top - above : top + rows + halo])
        strips.append([part[:, above : above + rows] for part in strip])
    return [torch.cat(parts, 1) for parts in zip(*strips, strict=True)]


def _turned(image, turn):
    """One of the eight ways to turn and mirror; the first four keep the shape."""
    image = image.transpose(-1, -2) if turn & 4 else image
    image = image.flip(-2) if turn & 2 else image
    return image.flip(-1) if turn & 1 else image


def _turned_back(image, turn):
    image = image.flip(-1) if turn & 1 else image
    image = image.flip(-2) if turn & 2 else image
    return image.transpose(-1, -2) if turn & 4 else image
