"""Input checks of a fusion: images, masks and elements, made once, before any work."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from .._arrays import Array, is_tensor, to_numpy, to_tensor

SYMBOLS = tuple(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)

Maps: TypeAlias = "Array | Mapping[str, Array]"
Elements: TypeAlias = "Sequence[int | str] | np.ndarray | Mapping[str, int | str] | None"
PerElement: TypeAlias = "float | Sequence[float] | np.ndarray | Mapping[str, float]"


@dataclass(frozen=True)
class Images:
    """A HAADF image and its maps as tensors; `seen` is 0 where a pixel is masked, else 1."""

    haadf: torch.Tensor
    maps: torch.Tensor
    keys: tuple[str, ...] | None
    seen_haadf: torch.Tensor | None
    seen_maps: torch.Tensor | None


def check_images(haadf: Any, maps: Any) -> Images:
    """Check maps against their HAADF.

    Raises
    ------
    ValueError
        Arguments in the wrong order, shapes that do not fit, no pixels, no numbers, NaN or
        infinite values that are not masked, negative maps.
    """
    if isinstance(haadf, Mapping):
        raise ValueError("haadf is a dict: haadf and maps are swapped, give the HAADF first")
    keys = None
    if isinstance(maps, Mapping):
        keys = tuple(maps)
        if not keys:
            raise ValueError("maps is empty: give at least one elemental map")
        pairs = [_tensor(m, f"map {key}") for key, m in maps.items()]
        shapes = {key: tuple(m.shape) for key, (m, _) in zip(keys, pairs, strict=True)}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the maps differ in shape: {shapes}")
        if len(shapes[keys[0]]) < 2:
            raise ValueError(f"the maps have shape {shapes[keys[0]]}: expected (H, W) each")
        x = torch.stack([m for m, _ in pairs], dim=-3)
        hidden = any(seen is not None for _, seen in pairs)
        ones = [torch.ones_like(m) if seen is None else seen for m, seen in pairs]
        seen_maps = torch.stack(ones, dim=-3) if hidden else None
    else:
        x, seen_maps = _tensor(maps, "maps")
    h, seen_haadf = _tensor(haadf, "haadf")
    _check_shapes(h, x)
    if not h.isfinite().all():
        raise ValueError("haadf has NaN or infinite values: mask or fill them first")
    if h.max() <= 0 and h.min() < 0:
        raise ValueError("haadf is nowhere above 0: give intensities, bright where matter is")
    for e in range(x.shape[-3]):
        name = f"map {keys[e] if keys else e}"
        if not x[..., e, :, :].isfinite().all():
            raise ValueError(f"{name} has NaN or infinite values: mask or fill them first")
        if x[..., e, :, :].min() < 0:
            raise ValueError(f"{name} has negative values: counts are not negative; clip it at 0")
        if seen_maps is not None and not seen_maps[..., e, :, :].any():
            raise ValueError(f"{name} is masked everywhere: leave the element out")
    return Images(h, x, keys, seen_haadf, seen_maps)


def check_elements(given: Any, keys: tuple[str, ...] | None, n_elements: int) -> list[int]:
    """Atomic number of each map, from symbols or numbers, or from the maps' keys.

    Raises
    ------
    ValueError
        Not one for each map, an unknown element, or a number that is not its key's.
    """
    if given is None:
        if keys is None or not set(keys) <= set(SYMBOLS):
            raise ValueError(
                f"the elements of the maps are not known (keys: {keys}): give atomic_numbers, one "
                "symbol or number for each map, or a dict of maps with symbols as keys"
            )
        given = keys
    if isinstance(given, Mapping):
        if keys is None:
            raise ValueError("atomic_numbers is a dict but maps is not: give both by element")
        missing = [key for key in keys if key not in given]
        if missing:
            raise ValueError(f"atomic_numbers lacks {missing}: it has {list(given)}")
        given = [given[key] for key in keys]
    numbers = [atomic_number(z) for z in given]
    if len(numbers) != n_elements:
        raise ValueError(f"{len(numbers)} atomic numbers for {n_elements} maps: give one for each")
    for key, z in zip(keys or (), numbers, strict=False):
        if key in SYMBOLS and atomic_number(key) != z:
            raise ValueError(
                f"the map {key!r} got atomic number {z}: atomic_numbers go in the order of the "
                f"maps, {list(keys or ())}; leave them out where the keys are symbols"
            )
    return numbers


def atomic_number(element: int | float | str) -> int:
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


def check_counts(y: np.ndarray, names: Sequence[str]) -> None:
    """Refuse what is no number of counts: fractions, and multiples of a gain."""
    if (y != np.round(y)).any():
        raise ValueError("counts are not whole numbers: give the counts, and the scale apart")
    for name, counts in zip(names, y, strict=True):
        divisor = np.gcd.reduce(counts.astype(np.int64).ravel())
        if divisor > 1 and np.count_nonzero(counts) >= 10:  # fewer may be even by chance
            raise ValueError(
                f"every count of map {name} is a multiple of {divisor}: these are counts times a "
                f"gain; divide them by {divisor}"
            )


def per_element(name: str, value: Any, keys: tuple[str, ...] | None, n_elements: int) -> np.ndarray:
    """Give a setting as (E,) float64, from one number, one for each map, or a dict by key."""
    if isinstance(value, Mapping):
        if keys is None or set(value) != set(keys):
            known = "maps is no dict" if keys is None else f"the maps are {list(keys)}"
            raise ValueError(f"{name} has the keys {list(value)}, but {known}")
        value = [value[key] for key in keys]
    try:
        numbers = to_numpy(value)
        if numbers.dtype.kind not in "fiu" or numbers.shape not in ((), (n_elements,)):
            raise TypeError
        return np.broadcast_to(numbers.astype(float), (n_elements,)).copy()
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} are {value!r}: give one number, or {n_elements} finite numbers"
        ) from None


def number(name: str, value: Any) -> float:
    """Give a setting as a float, or say which one is no number."""
    if isinstance(value, (bool, str)) or np.ndim(value) != 0:
        raise ValueError(f"{name} is {value!r}: give one number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}: give one number") from None


def whole(name: str, value: Any) -> int:
    """Give a setting as an int of at least 1."""
    found = number(name, value)
    if not 1 <= found < math.inf or found != int(found):
        raise ValueError(f"{name} is {value}: it must be a whole number, at least 1")
    return int(found)


def warn_of_saturation(images: Images) -> None:
    """Say so where many pixels of a HAADF with many values have the largest one."""
    h = images.haadf
    for k in range(len(h) if h.ndim == 3 else 1):
        one = h[k] if h.ndim == 3 else h
        seen = images.seen_haadf
        seen = seen[k] if seen is not None and seen.ndim == 3 else seen
        values = one.reshape(-1) if seen is None else one[seen > 0]
        if values.numel() == 0:
            continue
        top = int((values == values.max()).sum())
        if top < max(8, values.numel() / 200) or values.unique().numel() < 50:
            continue
        warnings.warn(
            f"{100 * top / values.numel():.1f} % of the pixels of haadf have its largest value: "
            "the detector was saturated? Then mask them: "
            "np.ma.masked_greater_equal(haadf, haadf.max())",
            stacklevel=4,
        )


def _tensor(image: Any, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Give an image as a tensor, and where it is seen, if it is masked somewhere."""
    if not is_tensor(image) and not isinstance(image, np.ndarray):
        if isinstance(image, (list, tuple)) and any(np.ma.isMaskedArray(m) for m in image):
            image = np.ma.stack(image)
        else:
            try:
                image = np.asarray(image)
            except ValueError:  # parts of different shapes
                image = np.empty(0, object)
    if is_tensor(image):
        if image.is_complex():
            raise ValueError(f"{name} is complex: give real intensities")
        return to_tensor(image.detach()), None
    if image.dtype.kind not in "fiub":
        kind = "complex" if image.dtype.kind == "c" else f"of dtype {image.dtype}"
        raise ValueError(f"{name} is {kind}: give an array of real numbers")
    seen = None
    if np.ma.isMaskedArray(image):
        hidden = np.ma.getmaskarray(image)
        if hidden.any():
            seen = torch.from_numpy((~hidden).astype(np.float32))
        image = image.filled(0)
    return to_tensor(image), seen


def _check_shapes(h: torch.Tensor, x: torch.Tensor) -> None:
    sizes = f"haadf is {_size(h)} but maps are {_size(x)}"
    if h.ndim == x.ndim + 1 and h.shape[-2:] == x.shape[-2:]:
        raise ValueError(f"{sizes}: haadf and maps are swapped, give the HAADF first")
    if x.ndim not in (3, 4):
        raise ValueError(f"maps have shape {tuple(x.shape)}: expected (E, H, W) or (B, E, H, W)")
    field = x.shape[-2:]
    if h.shape[-2:] != field:
        cure = "crop both to the same field of view"
        if h.ndim == 2 and x.shape[-3:-1] == h.shape:
            cure = "elements are last, move that axis to the front: np.moveaxis(maps, -1, -3)"
        elif h.ndim == 3 and h.shape[:2] == field and h.shape[2] in (1, 3, 4):
            cure = "a picture with colours: give the values of the detector, one number a pixel"
        raise ValueError(f"{sizes}: {cure}")
    if h.ndim == 3 and x.ndim == 3:
        raise ValueError(f"{sizes}: drop the first axis of haadf, or give a batch of maps")
    if h.ndim not in (2, x.ndim - 1):
        raise ValueError(f"{sizes}: crop both to the same field of view")
    if h.ndim == 3 and h.shape[0] != x.shape[0]:
        raise ValueError(f"{h.shape[0]} HAADF images for {x.shape[0]} map sets: give one or all")
    if x.numel() == 0:
        raise ValueError(f"maps are {_size(x)}: there are no pixels in them")


def _size(x: torch.Tensor) -> str:
    return " x ".join(map(str, x.shape))
