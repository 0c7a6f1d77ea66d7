"""Alignment of the views of a light-field camera: how far each is displaced on the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..._arrays import Array, to_numpy
from .._checks import check_data
from ..deconvolve import richardson_lucy
from ..lightfield.operator import LightField
from ._match import matched, merged

COARSE = (4, 2, 1)  # px in a step of the search: wide ones find displacements that are large
ROUNDS = 10  # of volume and displacements, in turn, at each width
N_ITER = 20  # of Richardson-Lucy
ENOUGH = 0.02  # of a pixel: the next width, once no view moves by more


@dataclass(frozen=True)
class ViewAlignment:
    """Displacements of the views, as `helpers.inr.lightfield.LightField` takes them.

    Attributes
    ----------
    shifts, errors : (V, 2) array
        In px, (y, x): the content of the view lies that much further on; and standard errors,
        lower bounds, since they take the volume as it is. What a move of the object does as well
        is taken out: the mean, and the views' parallax.
    misfit, misfit_before : float
        Share of the views' variance that the volume does not explain, with the displacements and
        without them.
    """

    shifts: np.ndarray
    errors: np.ndarray
    misfit: float
    misfit_before: float


def views(
    images: Array,
    operator: LightField,
    *,
    background: float = 0.0,
    read_noise: float = 0.0,
) -> ViewAlignment:
    r"""Find how far each view of a light-field recording is displaced.

    A start for ``reconstruct(operator, images, learn=["shifts"])``, which goes on from
    ``operator.at({"shifts": found.shifts})`` to the last hundredth.

    Parameters
    ----------
    images : (V, Y, X) array
        Photons, background left in.
    operator : helpers.inr.lightfield.LightField
        Of the instrument as it was built; its shifts are where the search begins.
    background : float
        Photons in each pixel.
    read_noise : float
        Standard deviation in photons.

    Returns
    -------
    ViewAlignment

    Raises
    ------
    ValueError
        Fewer than four views, images of another shape, or without contrast.

    Notes
    -----
    Views see the object from different sides, so they cannot be correlated with each other. Each
    is compared with what the volume of all views predicts for it, by least squares of shift,
    brightness and background; the volume follows, and so in turn. On pixels that are merged by
    four and by two a displacement is small against what it displaces, so large ones are found
    there first. Of the 2V numbers three are free, :eq:`eq-fi-gauge` of
    :doc:`/book/inr/08_find_the_instrument`.

    Examples
    --------
    >>> from helpers.inr import phantoms
    >>> scene = phantoms.simulate("microtubules", shape=(12, 32, 32), n_tubes=7, seed=0)
    >>> counts, seen = scene.views, dict(background=scene.background, read_noise=scene.read_noise)
    >>> counts[1] = np.roll(counts[1], 3, -1)
    >>> found = views(counts, scene.op, **seen)
    >>> found.misfit < 0.8 * found.misfit_before
    True
    """
    y = np.asarray(to_numpy(images), float)
    check_data(operator, torch.as_tensor(y))
    if len(y) < 4:
        raise ValueError(f"there are {len(y)} views: of fewer than 4 nothing is left to find")
    if not (y.std((1, 2)) > 0).all():
        raise ValueError("a view is the same in every pixel: leave it out with `select`")
    start = to_numpy(operator.parameters()["shifts"]).astype(float)
    shifts = start
    for width in (w for w in COARSE if w == 1 or _divides(operator, w)):
        sheet = operator.coarsened(width) if width > 1 else operator
        seen = merged(y, width)
        for _ in range(ROUNDS):
            model, misfit = _model(sheet, seen, shifts / width, background, read_noise / width)
            step, errors = matched(seen, model)
            step = to_numpy(operator.without_freedom("shifts", torch.as_tensor(step * width)))
            shifts = shifts + step
            if np.abs(step).max() < ENOUGH * width:
                break
    before = _model(operator, y, start, background, read_noise)[1]
    return ViewAlignment(shifts, errors, misfit, before)


def _model(
    operator: LightField, seen: np.ndarray, shifts: np.ndarray, background: float, noise: float
) -> tuple[np.ndarray, float]:
    """Views that the volume of all predicts, and the share of their variance that is left."""
    here = operator.at({"shifts": shifts})
    found = richardson_lucy(here, seen.clip(0), N_ITER, background, read_noise=noise)
    model = here(to_numpy(found.volume)) + background
    left, whole = (((seen - x) ** 2).sum() for x in (model, seen.mean((1, 2), keepdims=True)))
    return model, float(left / whole)


def _divides(operator: LightField, width: int) -> bool:
    """True where fields of view keep their centres on pixels `width` times as wide."""
    return not any(n % (2 * width) for n in (*operator.in_shape[1:], *operator.out_shape[1:]))
