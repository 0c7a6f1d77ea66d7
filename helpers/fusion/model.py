r"""The forward model of fused electron microscopy: from elemental maps to a HAADF image.

The page :doc:`/book/fusion/01_model` says every symbol, sign and weight of this file.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls

from .._arrays import Array, is_tensor, like, to_numpy, to_tensor
from ._checks import Maps, atomic_number, check_images, number, warn_of_saturation

SCHEMES = ("equal", "z_over_mean", "zg_over_mean", "z_over_sum", "zg_over_sum")


def element_weights(
    atomic_numbers: Sequence[int | str] | np.ndarray,
    gamma: float = 1.6,
    scheme: str | int = "z_over_mean",
) -> np.ndarray:
    r"""Weight of each element in the HAADF model.

    Parameters
    ----------
    atomic_numbers : sequence of E int or str
        Atomic numbers or chemical symbols, in the order of the maps.
    gamma : float
        Exponent of the HAADF model, used by the two ``zg`` schemes.
    scheme : str or int
        One of the five published schemes (the number is the guide's ``method``):

        ========  ================  =============================================
        number    name              weight
        ========  ================  =============================================
        0         "equal"           :math:`1`
        1         "z_over_mean"     :math:`Z_e / \overline{Z}`
        2         "zg_over_mean"    :math:`Z_e^\gamma / \overline{Z^\gamma}`
        3         "z_over_sum"      :math:`Z_e / \sum Z`
        4         "zg_over_sum"     :math:`Z_e^\gamma / \sum Z^\gamma`
        ========  ================  =============================================

    Returns
    -------
    (E,) float64 array
        The weights, without unit.

    Raises
    ------
    ValueError
        No element, an unknown element or an unknown scheme.

    Notes
    -----
    The schemes are those of the guide :cite:p:`manassa2024`; compared in
    :doc:`/book/fusion/01_model`.

    Examples
    --------
    >>> element_weights(["Sc", "Dy", "O"]).round(3)
    array([0.663, 2.084, 0.253])
    """
    z = np.array([atomic_number(e) for e in atomic_numbers], dtype=float)
    if z.size == 0:
        raise ValueError("atomic_numbers is empty: give one atomic number for each map")
    if not isinstance(scheme, (str, bool)) and scheme in range(len(SCHEMES)):
        scheme = SCHEMES[int(scheme)]
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}: use one of {', '.join(SCHEMES)}, or 0 to 4")
    if scheme == "equal":
        return np.ones_like(z)
    z = z**gamma if scheme.startswith("zg") else z
    return z / (z.mean() if scheme.endswith("mean") else z.sum())


def haadf_from_maps(maps: Maps, weights: Sequence[float] | Array, gamma: float = 1.6) -> Array:
    r"""HAADF image that the model expects from elemental maps.

    Parameters
    ----------
    maps : (..., E, H, W) array or tensor, or dict of (..., H, W)
        Elemental maps, not negative, in the unit the weights belong to.
    weights : (E,) array
        Weight of each element, from `element_weights` or `calibrate_weights`.
    gamma : float
        Exponent of the model.

    Returns
    -------
    (..., H, W) array or tensor
        :math:`\sum_e w_e x_e^\gamma`, in HAADF units.

    Notes
    -----
    Equation 1 of :doc:`/book/fusion/01_model`; the power law of Z contrast is that of
    :cite:t:`krivanek2010`, its use on maps that of :cite:t:`schwartz2022`.

    Examples
    --------
    >>> haadf_from_maps(np.ones((2, 1, 1)), [1.0, 3.0])
    array([[4.]])
    """
    example = next(iter(maps.values())) if isinstance(maps, Mapping) else maps
    if isinstance(maps, Mapping):
        x = torch.stack([to_tensor(m) for m in maps.values()], dim=-3)
    else:
        x = to_tensor(maps)
    w = to_tensor(weights).to(x)
    if x.ndim < 3 or w.shape != x.shape[-3:-2]:
        raise ValueError(
            f"maps have shape {tuple(x.shape)} and weights {tuple(w.shape)}: expected "
            "(..., E, H, W) and (E,)"
        )
    return like((w[:, None, None] * x**gamma).sum(dim=-3), example)


def normalize(haadf: Array, maps: Maps) -> tuple[Array, Maps]:
    """Bring every image to the range 0 to 1, by its own smallest and largest pixel.

    This is what the guide does :cite:p:`manassa2024`. It loses the scale between the elements; see
    :doc:`/book/fusion/03_dysco3` for what that costs. A constant image becomes zero.

    Parameters
    ----------
    haadf : (H, W) array or tensor
        HAADF image in any unit.
    maps : (E, H, W) array or tensor, or dict of (H, W)
        Elemental maps in any unit.

    Returns
    -------
    haadf, maps
        New arrays of the kinds given, float64 (a tensor keeps a floating type). Masked pixels stay
        masked.

    Raises
    ------
    ValueError
        NaN or infinite values that are not masked.

    Notes
    -----
    The arguments were the other way round before version 0.2; that order is recognised for one
    release, with a warning, and gives its results in that order.

    Examples
    --------
    >>> normalize(np.array([[0.0, 10.0]]), {"O": np.array([[2, 4]])})
    (array([[0., 1.]]), {'O': array([[0., 1.]])})
    """
    if isinstance(haadf, Mapping) or _ndim(haadf) > _ndim(maps):
        warnings.warn(
            "normalize takes haadf first, then maps, and gives them back in that order; the old "
            "order goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        image, scaled = normalize(cast(Array, maps), haadf)
        return cast(Array, scaled), image
    if isinstance(maps, Mapping):
        out: Any = {key: _unit_range(m, f"map {key}") for key, m in maps.items()}
    else:
        out = [_unit_range(m, f"map {e}") for e, m in enumerate(maps)]
        masked = any(np.ma.isMaskedArray(m) for m in out)
        out = torch.stack(out) if is_tensor(maps) else (np.ma if masked else np).stack(out)
    return _unit_range(haadf, "haadf"), out


def _ndim(images: Any) -> int:
    """Axes of an array, a tensor or a list of them; a dict of maps has one more than a map."""
    if isinstance(images, Mapping):
        return 1 + max((_ndim(m) for m in images.values()), default=2)
    return images.ndim if hasattr(images, "ndim") else np.ndim(images)


def _unit_range(image: Any, name: str) -> Any:
    image = to_tensor(image) if is_tensor(image) else np.asanyarray(image, dtype=float)
    low, high = image.min(), image.max()
    if not np.isfinite(float(high - low)):
        raise ValueError(f"{name} has NaN or infinite values: mask or fill them first")
    return (image - low) / (high - low) if high > low else image - low


class Calibration(NamedTuple):
    """Weights, constant background and root-mean-square misfit, all in HAADF units."""

    weights: np.ndarray
    offset: float
    misfit: float


def calibrate_weights(
    haadf: Array, maps: Maps, *, gamma: float = 1.6, smooth: float = 2.0
) -> Calibration:
    r"""Fit the weights and a constant background to the data, by non-negative least squares.

    Parameters
    ----------
    haadf : (H, W) array or tensor
        HAADF image, any unit.
    maps : (E, H, W) array or tensor, or dict of (H, W)
        Elemental maps, not negative. Masked pixels (`numpy.ma`), of these or of the HAADF, take
        no part.
    gamma : float
        Exponent of the model.
    smooth : float
        Standard deviation, in pixels, of a Gaussian applied to all images before the fit. Noise in
        the maps would otherwise pull every weight towards zero (regression dilution).

    Returns
    -------
    Calibration
        ``weights`` (E,), ``offset`` and ``misfit``. Subtract the offset from the HAADF before
        `fuse`.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN, or negative maps.

    Notes
    -----
    .. math:: \min_{w \ge 0,\,c \ge 0}\ \Big\| h - c - \sum_e w_e x_e^\gamma \Big\|^2

    by the active-set method of Lawson and Hanson :cite:p:`lawson1974`. The constant, a dark level
    or a film, is not negative either: maps that add up to the same value in every pixel could
    trade a negative one for larger weights without end. Derived in :doc:`/book/fusion/01_model`.

    Examples
    --------
    >>> x = np.random.default_rng(0).random((2, 32, 32))
    >>> h = haadf_from_maps(x, [2.0, 0.5]) + 1
    >>> calibrate_weights(h, x, smooth=0).weights.round(6)
    array([2. , 0.5])
    """
    images = check_images(haadf, maps)
    if images.maps.ndim != 3:
        raise ValueError(
            f"maps have shape {tuple(images.maps.shape)}: expected (E, H, W), not a batch"
        )
    warn_of_saturation(images)
    if not 0 <= number("smooth", smooth) < np.inf:
        raise ValueError(f"smooth is {smooth}: give a width in pixels, at least 0")
    seen, seen_maps = np.ones(images.haadf.shape), images.seen_maps
    if images.seen_haadf is not None:
        seen = to_numpy(images.seen_haadf).astype(float)
    if seen_maps is not None:
        seen = seen * to_numpy(seen_maps).min(axis=0)
    if not seen.any():
        raise ValueError("no pixel is seen in the HAADF and in all maps: nothing can be fitted")
    h, *x = (
        _smoothed(image, seen, smooth) for image in (to_numpy(images.haadf), *to_numpy(images.maps))
    )
    columns = [m**gamma for m in x]
    solution, misfit = nnls(np.stack([*columns, np.ones(h.size)], axis=1), h)
    return Calibration(solution[:-1], float(solution[-1]), float(misfit / np.sqrt(h.size)))


def _smoothed(image: np.ndarray, seen: np.ndarray, width: float) -> np.ndarray:
    """Pixels that are seen, each the Gaussian mean of those around it that are seen, too."""
    image = image.astype(float)
    if width > 0:
        image = gaussian_filter(image * seen, width)
        if not seen.all():
            image = image / np.maximum(gaussian_filter(seen, width), 1e-12)
    return image[seen > 0]
