r"""The forward model of fused electron microscopy: from elemental maps to a HAADF image.

The page :doc:`/book/fusion/01_model` says every symbol, sign and weight of this file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._arrays import is_tensor, like, to_numpy, to_tensor

SYMBOLS = tuple(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)
SCHEMES = ("equal", "z_over_mean", "zg_over_mean", "z_over_sum", "zg_over_sum")


def atomic_number(element):
    """Atomic number of a chemical symbol; a number is checked and given back.

    Examples
    --------
    >>> atomic_number("Dy"), atomic_number(8)
    (66, 8)
    """
    if isinstance(element, str):
        if element not in SYMBOLS:
            raise ValueError(f"unknown element {element!r}: use a chemical symbol such as 'Dy'")
        return SYMBOLS.index(element) + 1
    number = float(element)
    if not number.is_integer() or not 1 <= number <= len(SYMBOLS):
        raise ValueError(f"atomic number {element!r}: use a whole number from 1 to {len(SYMBOLS)}")
    return int(number)


def element_weights(atomic_numbers, gamma=1.6, scheme="z_over_mean"):
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
    if scheme in range(len(SCHEMES)):
        scheme = SCHEMES[scheme]
    if scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}: use one of {', '.join(SCHEMES)}, or 0 to 4")
    if scheme == "equal":
        return np.ones_like(z)
    z = z**gamma if scheme.startswith("zg") else z
    return z / (z.mean() if scheme.endswith("mean") else z.sum())


def haadf_from_maps(maps, weights, gamma=1.6):
    r"""HAADF image that the model expects from elemental maps.

    Parameters
    ----------
    maps : (..., E, H, W) array or tensor
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
    x = to_tensor(maps)
    w = to_tensor(weights).to(x)
    if x.ndim < 3 or w.shape != x.shape[-3:-2]:
        raise ValueError(
            f"maps have shape {tuple(x.shape)} and weights {tuple(w.shape)}: expected "
            "(..., E, H, W) and (E,)"
        )
    return like((w[:, None, None] * x**gamma).sum(dim=-3), maps)


def normalize(maps, haadf):
    """Bring every image to the range 0 to 1, by its own smallest and largest pixel.

    This is what the guide does :cite:p:`manassa2024`. It loses the scale between the elements; see
    :doc:`/book/fusion/03_dysco3` for what that costs. A constant image becomes zero.

    Parameters
    ----------
    maps : (E, H, W) array or tensor, or dict of (H, W)
        Elemental maps in any unit.
    haadf : (H, W) array or tensor
        HAADF image in any unit.

    Returns
    -------
    maps, haadf
        New arrays of the kinds given, float64 (a tensor keeps a floating type).

    Raises
    ------
    ValueError
        NaN or infinite values.

    Examples
    --------
    >>> normalize({"O": np.array([[2, 4]])}, np.array([[0.0, 10.0]]))
    ({'O': array([[0., 1.]])}, array([[0., 1.]]))
    """
    if isinstance(maps, dict):
        return {key: _unit_range(m, f"map {key}") for key, m in maps.items()}, _unit_range(
            haadf, "haadf"
        )
    kind = maps if is_tensor(maps) else np.asarray(maps)
    stack = [_unit_range(m, f"map {e}") for e, m in enumerate(kind)]
    if is_tensor(maps):
        import torch

        return torch.stack(stack), _unit_range(haadf, "haadf")
    return np.stack(stack), _unit_range(haadf, "haadf")


def _unit_range(image, name):
    image = to_tensor(image) if is_tensor(image) else np.asarray(image, dtype=float)
    low, high = image.min(), image.max()
    if not np.isfinite(float(high - low)):
        raise ValueError(f"{name} has NaN or infinite values: mask or fill them first")
    return (image - low) / (high - low) if high > low else image - low


class Calibration(NamedTuple):
    """Weights, constant background and root-mean-square misfit, all in HAADF units."""

    weights: np.ndarray
    offset: float
    misfit: float


def calibrate_weights(haadf, maps, *, gamma=1.6, smooth=2.0):
    r"""Fit the weights and a constant background to the data, by non-negative least squares.

    Parameters
    ----------
    haadf : (H, W) array or tensor
        HAADF image, any unit.
    maps : (E, H, W) array or tensor, or dict of (H, W)
        Elemental maps, not negative.
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
    from scipy.ndimage import gaussian_filter
    from scipy.optimize import nnls

    x, h, _ = check_images(maps, haadf)
    if x.ndim != 3:
        raise ValueError(f"maps have shape {tuple(x.shape)}: expected (E, H, W), not a batch")
    x, h = to_numpy(x).astype(float), to_numpy(h).astype(float)
    if smooth > 0:
        x = np.stack([gaussian_filter(m, smooth) for m in x])
        h = gaussian_filter(h, smooth)
    columns = [m.ravel() ** gamma for m in x]
    solution, misfit = nnls(np.stack([*columns, np.ones(h.size)], axis=1), h.ravel())
    return Calibration(solution[:-1], float(solution[-1]), float(misfit / np.sqrt(h.size)))


def check_images(maps, haadf):
    """Check a set of maps against its HAADF; give both as tensors, and the keys of a dict or None.

    Raises
    ------
    ValueError
        Shapes that do not fit, no pixels, NaN or infinite values, negative maps.
    """
    import torch

    keys = None
    if isinstance(maps, dict):
        keys = tuple(maps)
        if not keys:
            raise ValueError("maps is empty: give at least one elemental map")
        shapes = {key: tuple(np.shape(m)) for key, m in maps.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the maps differ in shape: {shapes}")
        x = torch.stack([to_tensor(m) for m in maps.values()], dim=-3)
    else:
        x = to_tensor(maps)
    h = to_tensor(haadf)
    if x.ndim not in (3, 4):
        raise ValueError(f"maps have shape {tuple(x.shape)}: expected (E, H, W) or (B, E, H, W)")
    if h.ndim not in (2, x.ndim - 1) or h.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            f"haadf is {_size(h)} but maps are {_size(x)}: crop both to the same field of view"
        )
    if h.ndim == 3 and h.shape[0] != x.shape[0]:
        raise ValueError(f"{h.shape[0]} HAADF images for {x.shape[0]} map sets: give one or all")
    if x.numel() == 0:
        raise ValueError(f"maps are {_size(x)}: there are no pixels in them")
    if not h.isfinite().all():
        raise ValueError("haadf has NaN or infinite values: mask or fill them first")
    for e in range(x.shape[-3]):
        name = f"map {keys[e] if keys else e}"
        if not x[..., e, :, :].isfinite().all():
            raise ValueError(f"{name} has NaN or infinite values: mask or fill them first")
        if x[..., e, :, :].min() < 0:
            raise ValueError(f"{name} has negative values: counts are not negative; clip it at 0")
    return x, h, keys


def _size(x):
    return " x ".join(map(str, x.shape))
