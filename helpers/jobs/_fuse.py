"""The job `fuse`: fields of view in, fused elemental maps out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ..fusion.counts import fuse_counts
from ..fusion.model import atomic_number, normalize
from ..fusion.solver import fuse as solve
from ..io.files import load_h5, load_tif
from ._declare import AtLeast, Count, NotNegative, Positive
from ._run import Outcome, Task


def known(symbols: list[str]) -> None:
    """Raise a ValueError unless all are symbols of elements."""
    for symbol in symbols:
        atomic_number(symbol)


UNITS = Literal["pm", "Å", "nm", "µm"]


def fuse(
    task: Task,
    *,
    elements: Annotated[list[str], known] | None = None,
    haadf: str = "haadf",
    counts: bool = False,
    scale: bool = True,
    gamma: Annotated[float, AtLeast(1)] = 1.6,
    lambda_haadf: NotNegative | None = None,
    lambda_chem: NotNegative = 0.08,
    lambda_tv: NotNegative | None = None,
    background: Positive = 0.24,
    n_iter: Count | None = None,
    pixel_size: Positive | None = None,
    unit: UNITS = "nm",
) -> Outcome:
    """Fuse elemental maps with the HAADF image of the same field.

    Parameters
    ----------
    task : Task
        A field of view: an .h5 or .npz file, or a folder of TIFF files, with the HAADF image and
        one map for each element, named by its symbol.
    elements : list of str, optional
        Symbols of the elements to fuse; left out, all that the field has.
    haadf : str
        Name of the HAADF image.
    counts : bool
        The maps are counts: fuse them by helpers.fusion.fuse_counts, which takes no weights.
    scale : bool
        Scale HAADF and maps to the range that the default weights are meant for.
    gamma : float
        Exponent of the HAADF model, at least 1.
    lambda_haadf : float, optional
        Weight of the HAADF term; left out, one over the number of elements.
    lambda_chem : float
        Weight of the Poisson term.
    lambda_tv : float, optional
        Weight of the total variation; left out, that of helpers.fusion.fuse.
    background : float
        Counts of a pixel that are not of the element, in the unit of the maps as they are fused.
    n_iter : int, optional
        Most iterations to make; left out, that of helpers.fusion.fuse.
    pixel_size : float, optional
        Edge of a pixel; left out, that of the TIFF files.
    unit : str
        Of pixel_size.

    Returns
    -------
    Outcome
        A folder with a TIFF for each map and ``fusion.h5``.
    """
    image: Any
    maps: Any
    image, maps, known_size, known_unit = _read(task.path, haadf, elements)
    size, length = (known_size, known_unit) if pixel_size is None else (pixel_size, unit)
    if counts:
        found = fuse_counts(image, maps)
        found.save(task.folder, pixel_size=size, unit=length)
        files = [task.folder / f"{name}.tif" for name in [*maps, "haadf"]]
        amounts = {name: round(net, 1) for name, (net, _) in found.totals.items()}
        files.insert(0, task.folder / "fusion.h5")
        return Outcome(task.folder, files, {"elements": list(maps), "net_counts": amounts})
    raw = {haadf: image, **maps}
    if scale:
        image, maps = normalize(image, maps)
    result = solve(
        image,
        maps,
        {name: name for name in maps},
        gamma=gamma,
        lambda_haadf=lambda_haadf,
        lambda_chem=lambda_chem,
        lambda_tv=lambda_tv,
        background=background,
        n_iter=n_iter,
        device=task.device,
        progress=task.progress,
    )
    result.save(task.folder, pixel_size=size, unit=length, raw=raw)
    files = [task.folder / f"{name}.tif" for name in [*maps, "haadf"]]
    told = {"elements": list(maps), "n_iter": int(result.n_iter)}
    told["cost"] = float(result.cost.total[-1])
    return Outcome(task.folder, [task.folder / "fusion.h5", *files], told)


def _read(
    path: Path, haadf: str, elements: list[str] | None
) -> tuple[np.ndarray, dict[str, np.ndarray], float | None, str]:
    """HAADF, maps by symbol, pixel size and unit of a field."""
    pixel_size, unit = None, "nm"
    if path.is_dir():
        tifs = {p.stem: load_tif(p) for p in sorted(path.glob("*.tif*"))}
        images = {name: tif.image for name, tif in tifs.items()}
        known = next((tif for tif in tifs.values() if tif.pixel_size is not None), None)
        if known is not None:
            pixel_size, unit = known.pixel_size, known.unit
    elif path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as file:
            images = dict(file)
    elif path.suffix.lower() in (".h5", ".hdf5"):
        images = dict(_arrays(load_h5(path)[0]))
    else:
        raise ValueError(f"{path} is no field: give .h5, .npz, or a folder of TIFF files")
    if haadf not in images:
        raise ValueError(f"{path} has no image {haadf!r}: it has {', '.join(images) or 'none'}")
    wanted = elements or [name for name in images if name != haadf and _is_element(name)]
    missing = [name for name in wanted if name not in images]
    if missing or not wanted:
        lacks = ", ".join(missing) or "any element's map"
        raise ValueError(f"{path} has no {lacks}: it has {', '.join(images)}")
    maps = {name: np.asarray(images[name], np.float32) for name in wanted}
    return np.asarray(images[haadf], np.float32), maps, pixel_size, unit


def _arrays(tree: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Images of a tree by the last part of their names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _arrays(value)
        elif isinstance(value, np.ndarray) and value.ndim == 2:
            yield name, value


def _is_element(name: str) -> bool:
    try:
        atomic_number(name)
    except ValueError:
        return False
    return True
