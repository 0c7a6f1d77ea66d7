r"""Find the aberrations of a microscope in images of points: bead stacks, or blinking molecules.

The images are explained by a pupil that they share and a place for each emitter, fitted together
by maximum likelihood. What images cannot tell is fixed and reported; see
`helpers.renderer.pupil.ambiguities`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..._arrays import Array
from ..._deprecated import renamed
from ...noise._checks import NoiseModel
from ...noise.counting import Poisson
from ...optics.pupil import Pupil
from ..mle.estimate import fit
from ..mle.initial import find_start
from ..renderers.fourier import FourierOptics
from ._checks import (
    PLACE,
    checked_images,
    checked_modes,
    checked_planes,
    coefficients_of,
    places_of_beads,
    places_of_fit,
    tells_above_from_below,
    wide_tensor,
)
from .bundle_adjustment import Bundle, MeasuredBundle
from .result import PupilFit, by_mode, result_of

STACK_MODES = (3, *range(5, 21))
BLINK_MODES = (3, *range(5, 15))
N_STARTS, SCOUT_STEPS = 7, 5  # planes in which a blink is tried, and steps in each
MOST_ROUNDS = 6


@renamed(tolerance="tol")
def retrieve(
    stack: Array,
    z: Array,
    pupil: Pupil,
    *,
    modes: Sequence[int] = STACK_MODES,
    noise: NoiseModel | None = None,
    mask: Array | None = None,
    saturation: float | None = None,
    blur: float | None = 0.0,
    each_plane: bool = False,
    n_iter: int = 50,
    tol: float = 1e-2,
    callback: Callable[[int, np.ndarray], Any] | None = None,
    progress: bool = False,
    device: str | torch.device | None = None,
) -> PupilFit:
    r"""Zernike coefficients of a pupil from images of a bead in known planes.

    Parameters
    ----------
    stack : array or tensor (Z, Y, X), or (B, Z, Y, X)
        Photo-electrons, of one bead or of several that share the pupil. For camera counts,
        (ADU - offset) / gain.
    z : sequence of float (Z,)
        How far the bead was moved away from the focus, in µm; see the page for the sign. The
        origin is free: the z of the bead is fitted.
    pupil : Pupil
        The instrument. Its Zernikes among `modes` are the start, zero where it has none; others
        and its phase map are kept.
    modes : sequence of int
        OSA indices to fit. Piston, tilts and defocus (0, 1, 2, 4) are refused: x, y and z do the
        same.
    noise : object, optional
        A model of `helpers.noise`. Default: ``Poisson()``.
    mask : array of bool, optional
        True where a pixel counts; of the shape of `stack`, or of its last axes.
    saturation : float, optional
        Pixels at or above it are left out. Default: found in the data. Where four pixels or more
        share the largest value, and it is above 100, that value is the limit of the camera.
    blur : float, optional
        Standard deviation in px of a blur beyond the pupil: of the bead's size, of vibration, of
        the camera. None: one more unknown, for all beads together.
    each_plane : bool
        Photons and background of each plane for themselves, as where a bead bleaches, a lamp
        flickers, or a light sheet moves.
    n_iter : int
        Steps at most.
    tol : float
        Converged when the next step is shorter than this many standard deviations, over all
        parameters together.
    callback : callable, optional
        ``callback(iteration, coefficients)`` after every accepted step, with a dict by OSA index.
    progress : bool
        Show a progress bar.
    device : str or torch.device, optional
        Default: that of a tensor, and for an array the best one.

    Returns
    -------
    PupilFit
        Numbers for one stack; arrays (B,) of places for several.

    Raises
    ------
    ValueError
        Planes that do not match the stack, fewer than two different ones, or z that cannot be
        micrometres; NaN, or negative counts under a noise model without read noise; modes that
        positions imitate.

    Notes
    -----
    Minimises the deviance of the images :math:`N h(x, y, z_0 + z_k; c) + b` over c and all places
    by Levenberg-Marquardt with the Fisher information, whose Schur complement is the inverse of
    `PupilFit.covariance`. Derived in :doc:`/book/renderer/04_pupil`; the method is that of
    :cite:t:`hanser2004` with a likelihood in place of amplitudes.

    Examples
    --------
    >>> from helpers.optics import Pupil
    >>> from helpers.renderer.simulate import bead_stack
    >>> bead = bead_stack({5: 0.08, 7: -0.05}, planes=5, photons=2e4, shape=(17, 17))
    >>> found = retrieve(bead.images, bead.planes, Pupil(1.4, 0.67, 1.518, 0.1), modes=(5, 7))
    >>> {j: round(c, 2) for j, c in found.coefficients.items()}
    {5: 0.08, 7: -0.05}
    """
    model: NoiseModel = noise or Poisson()
    modes = checked_modes(modes, pupil)
    images = wide_tensor(stack, device)
    if images.ndim not in (3, 4):
        raise ValueError(
            f"stack is {tuple(images.shape)}: give (Z, Y, X), or (B, Z, Y, X) for several beads"
        )
    single = images.ndim == 3
    images = images[None] if single else images
    planes = checked_planes(z, images.shape[1])
    images, use, level = checked_images(images, mask, saturation, model)
    if blur is not None and not 0 <= blur <= 5:
        raise ValueError(f"blur is {blur}: give a standard deviation in px, or None to find it")
    bundle = _bundle(images, use, pupil, modes, planes, model)
    coefficients = coefficients_of(pupil, modes, images)
    places = places_of_beads(images, use)
    plain = blur == 0 and not each_plane
    with _Watch(callback, progress, n_iter, modes) as watch:
        if not plain:  # the wavefront first: a blur imitates part of it
            if n_iter > 10:
                coefficients, places, *_ = bundle.minimize(coefficients, places, 10, tol, watch)
            bundle, coefficients, places = _measured(bundle, coefficients, places, blur, each_plane)
        coefficients, places, deviance, history, converged = bundle.minimize(
            coefficients, places, n_iter, tol, watch
        )
    settings = {"noise": type(model).__name__, "n_iter": n_iter, "tol": tol}
    settings |= {"blur": blur, "each_plane": each_plane}
    return result_of(
        bundle, coefficients, places, deviance, history, converged, level, settings, single
    )


@renamed(tolerance="tol")
def retrieve_from_blinks(
    images: Array,
    pupil: Pupil,
    *,
    modes: Sequence[int] = BLINK_MODES,
    depth: float = 0.6,
    noise: NoiseModel | None = None,
    mask: Array | None = None,
    saturation: float | None = None,
    start: PupilFit | None = None,
    n_iter: int = 100,
    tol: float = 1e-2,
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
    device: str | torch.device | None = None,
) -> PupilFit:
    r"""Zernike coefficients of a pupil from single images of molecules at unknown places.

    Parameters
    ----------
    images : array or tensor (B, Y, X)
        Photo-electrons, one molecule near the middle of each.
    pupil : Pupil
        The instrument. Its Zernikes are the start and must tell above from below: a small
        astigmatism of the right sign, ``zernikes={5: 0.05}``, is enough.
    modes, noise, mask, saturation, tol, callback, progress, device
        As for `retrieve`.
    depth : float
        How far from the focus molecules are looked for, to both sides, in µm.
    start : PupilFit, optional
        What an earlier call on the same images returned: go on from there.
    n_iter : int
        Steps of the joint fit at most.

    Returns
    -------
    PupilFit
        With arrays (B,) of places.

    Raises
    ------
    ValueError
        NaN, negative counts under a noise model without read noise, fewer images than are needed,
        a start of other images.

    Warns
    -----
    UserWarning
        The pupil has no Zernike of even azimuthal order: chance will pick it or its twin.

    Notes
    -----
    Every molecule is tried in several planes with the pupil of the start, and then all places and
    the pupil are fitted together, as in `retrieve`. Now a better pupil is known, and each molecule
    may find that it lies in another plane; both are repeated until none does. The pupil of
    :math:`-W(-u)` explains the images as well, see `helpers.renderer.pupil.twin`. Derived in
    :doc:`/book/renderer/04_pupil`; the idea is that of :cite:t:`xu2020` and :cite:t:`liu2024`.

    Examples
    --------
    >>> from helpers.optics import Pupil
    >>> from helpers.renderer.simulate import blinks
    >>> seen = blinks({5: 0.09, 8: 0.05}, 30)
    >>> prior = Pupil(1.4, 0.67, 1.518, 0.1, samples=32, zernikes={5: 0.05})
    >>> found = retrieve_from_blinks(seen.images, prior, modes=(3, 5, 7, 8))
    >>> bool(abs(found.coefficients[5] - 0.09) < 0.01)
    True
    """
    model: NoiseModel = noise or Poisson()
    modes = checked_modes(modes, pupil)
    images = wide_tensor(images, device)
    if images.ndim != 3:
        raise ValueError(f"images are {tuple(images.shape)}: give (B, Y, X), one molecule in each")
    unknown = len(modes) + 5 * len(images)
    if len(images) < 2 or unknown > images.numel():
        raise ValueError(
            f"{len(images)} images of {tuple(images.shape[1:])} pixels for {unknown} unknowns: "
            "give more or larger ones"
        )
    if not depth > 0 or depth > 20:
        raise ValueError(f"depth is {depth}: give a positive length in µm, not nm")
    images, use, level = checked_images(images[:, None], mask, saturation, model)
    first = pupil if start is None else start.pupil
    if not tells_above_from_below(first):
        warnings.warn(
            "the pupil of the start looks the same from above and below, so chance picks the "
            "answer or its twin: start with a little astigmatism, such as zernikes={5: 0.05}",
            stacklevel=2,
        )
    bundle = _bundle(images, use, pupil, modes, [0.0], model, depth)
    coefficients = coefficients_of(first, modes, images)
    places: Any = None if start is None else places_of_fit(start, images)
    deviance: Any = None if start is None else bundle.equations(coefficients, places)[0]
    history: list[float] = []
    converged, steps = False, 0
    with _Watch(callback, progress, n_iter, modes) as watch:
        for _ in range(MOST_ROUNDS):
            places, moved = _sought(bundle, coefficients, places, deviance, depth)
            if converged and not moved:
                break
            coefficients, places, deviance, new, converged = bundle.minimize(
                coefficients, places, n_iter - steps, tol, watch
            )
            history += new[bool(history) :]
            steps += len(new) - 1
            if steps >= n_iter:
                break
    settings = {
        "noise": type(model).__name__, "n_iter": n_iter, "tol": tol, "depth": depth,
    }  # fmt: skip
    return result_of(
        bundle, coefficients, places, deviance, history, converged, level, settings, False
    )


def _sought(bundle, coefficients, places, deviance, depth):
    """Places (B, 5) found from several planes where that is better, and how many moved."""
    bundle.set(coefficients)
    images, mask, renderer = bundle.images[:, 0], bundle.mask[:, 0], bundle.renderer
    first = places is None
    if first:
        places = images.new_zeros(len(images), len(PLACE))
        deviance = torch.full_like(places[:, 0], torch.inf)
    moved = torch.zeros_like(deviance, dtype=torch.bool)
    for plane in np.linspace(-depth, depth, N_STARTS):
        start = find_start(images, mask, renderer, {"z": torch.full_like(deviance, plane)})
        found = fit(images, renderer, bundle.noise, start, mask=mask > 0, n_iter=SCOUT_STEPS)
        better = found.deviance < deviance - 1
        theta = torch.stack([found.params[name] for name in PLACE], 1)
        places = torch.where(better[:, None], theta, places)
        deviance = torch.where(better, found.deviance, deviance)
        moved |= better
    return places, int(moved.sum())


def _bundle(images, use, pupil, modes, planes, noise, depth=1.0):
    reach = 1.25 * depth
    renderer = FourierOptics(images.shape[2:], pupil, modes=modes, z_range=(-reach, reach))
    return Bundle(images, use, images.new_tensor(planes), renderer.to(images), noise)


def _measured(bundle, coefficients, places, blur, each_plane):
    """The bundle with what a measured bead needs, and a start for it."""
    parts = bundle.images, bundle.mask, bundle.planes, bundle.renderer, bundle.noise
    fits_blur = blur is None
    bundle = MeasuredBundle(*parts, blur or 0.0, fits_blur, each_plane)
    if fits_blur:
        coefficients = torch.cat([coefficients, coefficients.new_full((1,), 0.5)])
    if each_plane:
        n = len(bundle.planes)
        spread = [places[:, k, None].expand(-1, n) for k in (3, 4)]
        places = torch.cat([places[:, :3], *spread], 1)
    return bundle, coefficients, places


class _Watch:
    """Progress bar and callback of a run."""

    def __init__(self, callback, progress, n_iter, modes):
        self.callback, self.modes, self.n_steps = callback, modes, 0
        self.show, self.total = progress, n_iter

    def __enter__(self):
        self.bar = tqdm(desc="pupil", total=self.total, disable=not self.show)
        return self

    def __exit__(self, *error):
        self.bar.close()

    def __call__(self, coefficients, deviance):
        self.n_steps += 1
        self.bar.update()
        self.bar.set_postfix(deviance=f"{deviance:.6g}")
        if self.callback:
            self.callback(self.n_steps, by_mode(self.modes, coefficients))
