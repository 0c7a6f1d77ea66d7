"""From intensities to an index contrast: a field behind `MultiSlice`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from ..._arrays import Array, Device, to_tensor
from ..diffraction.multislice import MultiSlice
from ..fields.encodings import extent_of
from ..fields.field import Field, Softplus
from ..fields.grids import FeatureGrid, pyramid
from ..fit.loop import FieldFit, fit, uninterrupted
from ..fit.losses import amplitude, gaussian, l1, step_weights, total_variation
from ..fit.sampling import Stage
from .born import Born, grounded, linear_inverse

SCHEDULE = Stage(120, 0.3, views=10)
TYPICAL = 0.01  # contrast of cells in water: the scale of the head and of the start


def fit_contrast(
    model: MultiSlice | Born,
    intensity: Array,
    *,
    photons: float,
    field: nn.Module | None = None,
    background: float = 0.0,
    tv_weight: float = 400.0,
    sparsity: float = 100.0,
    schedule: Stage | Sequence[Stage] = SCHEDULE,
    seed: int = 0,
    device: Device = None,
    progress: bool = False,
) -> FieldFit:
    r"""Fit the index contrast of an object that is denser than its medium.

    Parameters
    ----------
    model : MultiSlice or Born
        The physics.
    intensity : (L, Y, X) array or tensor
        Measured, in units of the bright field; zero or more.
    photons : float
        Expected counts in a pixel of the bright field: how much the data are worth.
    field : torch.nn.Module, optional
        With ``volume(shape)`` and a positive head, such as `Voxels`. Default: `contrast_field`.
    background : float
        Intensity that the model leaves out: 1 for `Born`.
    tv_weight : float
        Weight of the total variation, isotropic in micrometres.
    sparsity : float
        Weight of the sum of the contrast. It decides what no image shows, the mean of a slice.
    schedule : Stage or sequence of Stage
        Of the fit through the physics.
    seed : int
        Of the field and of the order of the LEDs.
    device, progress
        As for `helpers.inr.fit.fit`.

    Returns
    -------
    FieldFit
        ``volume`` is the contrast (Z, Y, X).

    Raises
    ------
    ValueError
        A model that absorbs, a shape that does not fit, NaN or negative intensities, photons not
        above zero, no LED in the bright field, a bright field that is not near 1, a field of the
        index in place of the contrast.

    Notes
    -----
    .. math:: \min_{\Delta n \ge 0} \; 2 N \sum \bigl( \sqrt{I(\Delta n)} - \sqrt{I} \bigr)^2
        + \alpha \, \mathrm{TV}(\Delta n) + \beta \sum \Delta n

    with :math:`N` photons; the root makes shot noise the same everywhere. There are other minima,
    so the field is first fitted to `linear_inverse` of the logarithm, and only then through the
    physics. The defaults were chosen by illuminations held out, on worms that
    :doc:`/book/inr/07_diffraction` does not use.

    Examples
    --------
    >>> from helpers.inr.diffraction import MultiSlice, ring
    >>> from helpers.inr.phantoms.diffraction import simulate
    >>> scan = simulate(ring(6, 0.6), shape=(8, 24, 24))
    >>> model = MultiSlice(scan.optics, scan.leds, scan.truth.shape)
    >>> found = fit_contrast(model, scan.intensity, photons=1000, schedule=Stage(5, 0.4))
    >>> found.volume.shape
    (8, 24, 24)
    """
    if not photons > 0:
        raise ValueError(f"photons is {photons}: give the counts of the bright field, above zero")
    if len(model.in_shape) != 3:
        raise ValueError(
            "the model absorbs, and this fit finds a contrast that only delays light: make the "
            "model without absorption, or use linear_inverse, or fit a field with the head Contrast"
        )
    start = linear_start(model, intensity)
    _check_units(model, intensity)
    if schedule is SCHEDULE:
        schedule = replace(SCHEDULE, views=min(10, len(intensity)))
    if field is None:
        field = contrast_field(model.in_shape, model.voxel_size, seed)
    elif (level := _level(field, model.in_shape)) > 0.5:
        raise ValueError(
            f"the field starts at {level:.3g}, which is an index: the model wants the contrast to "
            "the medium, so give its head no background, or leave `field` out"
        )
    shared: dict[str, Any] = dict(device=device, progress=progress)
    near = fit(
        field, _Identity(model.in_shape), start, loss=partial(gaussian, sigma=TYPICAL),
        schedule=Stage(60, 0.1), **shared,
    )  # fmt: skip
    uninterrupted(near)
    steps = step_weights(model.voxel_size)

    def prior(volume: torch.Tensor) -> torch.Tensor:
        rough = total_variation(volume, weights=steps, smooth=TYPICAL / 100)
        return tv_weight * rough + sparsity * l1(volume)

    return fit(
        near.field, model, intensity, loss=partial(amplitude, sigma=0.5 / photons**0.5),
        prior=prior, schedule=schedule, background=background,
        generator=torch.Generator().manual_seed(seed), **shared,
    )  # fmt: skip


def _level(field: nn.Module | FieldFit, shape: Sequence[int]) -> float:
    """Mean magnitude of a field, or of that of a fit."""
    with torch.no_grad():
        return float(cast(Any, getattr(field, "field", field)).volume(shape).abs().mean())


def _check_units(model: MultiSlice | Born, intensity: Array) -> None:
    """Raise ValueError where the bright field is not near one."""
    bright = model.bright.nonzero()[:, 0].tolist()
    level = float(to_tensor(intensity)[bright].median())
    if not 0.3 < level < 3:
        raise ValueError(
            f"the bright-field images have a median of {level:.3g}: divide all images by one "
            "without a sample, so that it is near 1"
        )


def linear_start(model: MultiSlice | Born, intensity: Array, regularisation: float = 1e-3) -> Array:
    """Give the linear inverse of the bright-field images, with zero around the object."""
    if len(intensity) != len(model.leds):
        raise ValueError(f"{len(intensity)} images for {len(model.leds)} LEDs: give one for each")
    bright = model.bright.nonzero()[:, 0].tolist()
    if not bright:
        raise ValueError("no LED is in the bright field: without one there is nothing to begin at")
    middle = float(model.depths.mean())
    depth, *lateral = model.in_shape
    factor = round(model.voxel_size[1] / model.optics.voxel_size[1])  # pixels that are merged
    shape = (depth, *(factor * n for n in lateral))
    op = Born(model.optics, model.leds[bright], shape, middle=middle).coarsened(factor)
    return grounded(linear_inverse(op, intensity[bright], regularisation, logarithm=True))


def contrast_field(
    shape: Sequence[int], voxel_size: Sequence[float], seed: int = 0, n_levels: int = 4
) -> Field:
    """Build a field of learned features on `n_levels` grids, added up: coarse parts move at once.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X) of the finest grid.
    voxel_size : (float, float, float)
        In um, (z, y, x).
    seed : int
        Of the features at the start.
    n_levels : int
        Grids; each halves the lateral sides of the next.

    Returns
    -------
    Field
        Positive, about the contrast of a cell.

    Examples
    --------
    >>> contrast_field((8, 24, 24), (0.6, 0.2, 0.2)).volume((8, 24, 24)).shape
    torch.Size([8, 24, 24])
    """
    generator = torch.Generator().manual_seed(seed)
    encoding = FeatureGrid(pyramid(shape, n_levels), 1, generator=generator)
    network = torch.nn.Linear(n_levels, 1)
    with torch.no_grad():
        network.weight.fill_(1.0)
        network.bias.zero_()
    head = Softplus(mean=TYPICAL / 10, scale=TYPICAL)
    return Field(encoding, network, head, extent_of(shape, voxel_size))


class _Identity:
    """The operator that shows the volume itself."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.in_shape = self.out_shape = tuple(shape)

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        return volume
