r"""Denoise a stack of images with nothing but the stack.

A `BlindSpot` network is trained on the images themselves, and then applied to them. The page
:doc:`/book/renderer/07_denoise` says why that does not bring the noise back.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..._arrays import like, to_tensor
from ...devices import pick_device
from ...noise.counting import Poisson
from ...noise.readout import EMCCD, PoissonGauss
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
    """

    images: Any
    spread: Any = field(repr=False)
    blind: Any = field(repr=False)
    noise: tuple | None
    network: BlindSpot = field(repr=False)
    training: Training | None = field(repr=False, default=None)


def denoise(
    images,
    noise=None,
    *,
    n_steps=1000,
    batch=1,
    patch=66,
    rate=1e-2,
    width=32,
    depth=3,
    network=None,
    seed=0,
    folder=None,
    name="denoise",
    progress=False,
    callback=None,
    device=None,
):
    r"""Denoise a stack by a network that is trained on the stack.

    Parameters
    ----------
    images : (B, Y, X) or (Y, X) array or tensor
        Noisy images of one kind; in photo-electrons, or in any unit if `noise` is None. The noise
        must be independent from pixel to pixel.
    noise : Poisson, PoissonGauss or EMCCD, optional
        Of `helpers.noise`, the same for every pixel. Left out, intercept and slope of the noise
        are found by `noise_line`.
    n_steps, batch, patch : int
        Steps of the training, and how many squares of which side each of them sees.
    rate : float
        Learning rate.
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
        ``callback(step, loss)`` after every step, counted from 1. True ends the training.
    device : str or torch.device, optional
        Default: the best one.

    Returns
    -------
    Denoised

    Raises
    ------
    ValueError
        Images that are not a stack, hold NaN, are constant or smaller than 12 x 12 pixels, or a
        noise that is not the same everywhere.
    FloatingPointError
        The training diverged.

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
    stack = _stack(images).to(pick_device(device))
    line = None if noise is None else _line(noise)
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
    training = train(
        network,
        stack,
        n_steps=n_steps,
        batch=batch,
        patch=patch,
        rate=rate,
        seed=seed,
        folder=folder,
        name=name,
        progress=progress,
        callback=callback,
        device=stack.device,
    )
    return apply(network, images, training=training)


def train(network, images, targets=None, *, batch=1, patch=66, folder=None, **options):
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
    if patch < 12 or batch < 1:
        raise ValueError(f"patch is {patch} px and batch {batch}: give at least 12 px and 1")

    def draw(n, rng):
        return _squares(stack, answers, n, patch, rng)

    with contextlib.ExitStack() as stacked:
        kept = folder or stacked.enter_context(tempfile.TemporaryDirectory())
        return Trainer(network, draw, batch=batch, folder=kept, **options).fit()


def apply(network, images, *, noise=None, training=None):
    """Denoise images by a trained network.

    Parameters
    ----------
    network : BlindSpot
    images : (B, Y, X) or (Y, X) array or tensor
        Of the kind that the network has seen, of any size from 12 x 12 pixels.
    noise : (float, float), optional
        Intercept and slope of the noise. Left out, they are those that the network was trained
        with or, if it was trained without, those of `noise_line` on these images.
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
    device = next(network.parameters()).device
    stack = _stack(images)
    mean, spread = torch.empty_like(stack), torch.empty_like(stack)
    network.eval()
    with torch.no_grad():
        for k, image in enumerate(stack):
            mean[k], spread[k] = _all_turns(network, image[None].to(device))
    line = noise or network.noise
    estimate, blind = mean, mean
    if network.blind:
        if line is None:
            line = noise_line(mean, spread)
        added = noise_variance(mean, line)
        if network.noise is None:  # the network's spread is that of a new measurement
            spread = (spread.square() - added).clamp_min(0).sqrt()
        estimate, spread = with_the_pixel(mean, spread, stack, added)
    shape = np.shape(images)
    parts = [like(t.reshape(shape), images) for t in (estimate, spread, blind)]
    return Denoised(*parts, line, network, training)


def noise_line(mean, spread):
    r"""Intercept and slope of the noise, from what a network without a noise model has learned.

    Parameters
    ----------
    mean, spread : array or tensor
        Predicted mean of each pixel, and the standard deviation of the measurement around it.

    Returns
    -------
    intercept, slope : float
        ``variance = intercept + slope * mean``, in the unit of the images. In grey levels (ADU)
        the slope is the gain, and ``intercept / slope + offset`` the read variance in units of
        the gain.

    Notes
    -----
    The spread holds the noise and the doubt of the network. In smooth regions there is no doubt,
    so the noise is the lower edge of the cloud of variance over mean: in each of 12 ranges of
    brightness the 20 % pixels of smallest variance are averaged, and a line is fitted, weighted
    by the inverse of the variance. What doubt remains makes it a little too high.

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
    edges = np.linspace(*np.percentile(m, [0.5, 99.5]), 13)
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


def _line(noise):
    """Intercept and slope of a noise model in photo-electrons."""
    if not isinstance(noise, Poisson | PoissonGauss | EMCCD):
        raise ValueError(
            f"noise is {type(noise).__name__}: give Poisson, PoissonGauss or EMCCD, the same for "
            "every pixel, or None to have it found"
        )
    variance = np.asarray(getattr(noise, "variance", 0.0))
    if variance.ndim:
        raise ValueError(
            f"the read variance is a map of {variance.shape}: give one number for all pixels"
        )
    if isinstance(noise, EMCCD):
        return float(variance) / noise.gain**2, 2.0
    return float(variance), 1.0


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


def _squares(stack, answers, n, patch, rng):
    """Random squares, each turned or mirrored, and the same ones of the answers."""
    _, height, width = stack.shape
    tall, wide = min(patch, height), min(patch, width)
    chosen = []
    for _ in range(n):
        k = int(rng.integers(len(stack)))
        y, x = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        turn = int(rng.integers(8 if tall == wide else 4))
        chosen.append(
            [
                _turned(t[k, y : y + tall, x : x + wide], turn)
                for t in (stack, answers)
                if t is not None
            ]
        )
    squares = [torch.stack(t) for t in zip(*chosen, strict=True)]
    return squares[0] if answers is None else tuple(squares)


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
