"""The job `fuse`: fields of view in, fused elemental maps out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from ..fusion.model import atomic_number, normalize
from ..fusion.solver import fuse as solve
from ..io.files import load_h5, load_tif
from ._declare import WrongCall
from ._record import Record, arguments, folders

UNITS = Literal["pm", "Å", "nm", "µm"]


def fuse(
    files: list[Path],
    out: Path,
    *,
    elements: list[str] | None = None,
    haadf: str = "haadf",
    scale: bool = True,
    gamma: float = 1.6,
    lambda_haadf: float | None = None,
    lambda_chem: float = 0.08,
    lambda_tv: float | None = None,
    n_iter: int | None = None,
    pixel_size: float | None = None,
    unit: UNITS = "nm",
    resume: bool = True,
    device: str | None = None,
    progress: bool = False,
    report: Callable[[dict[str, Any]], None] = print,
) -> int:
    """Fuse elemental maps with the HAADF image of the same field.

    Parameters
    ----------
    files : list of Path
        Fields of view: each is an .h5 or .npz file, or a folder of TIFF files, with the HAADF
        image and one map for each element, named by its symbol.
    out : Path
        Folder of the results; each field gets a folder of its name in it.
    elements : list of str, optional
        Symbols of the elements to fuse; left out, all that the field has.
    haadf : str
        Name of the HAADF image.
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
    n_iter : int, optional
        Most iterations to make; left out, that of helpers.fusion.fuse.
    pixel_size : float, optional
        Edge of a pixel; left out, that of the TIFF files.
    unit : str
        Of pixel_size.
    resume : bool
        Leave out fields that are done.
    device : str, optional
        cpu, cuda or mps; left out, the best one.
    progress : bool
        Show a bar.
    report : callable
        Called with a dict for each field.

    Returns
    -------
    int
        Fields that failed.
    """
    settings = arguments(locals())
    for symbol in elements or []:
        try:
            atomic_number(symbol)
        except ValueError as error:
            raise WrongCall(str(error)) from error
    failed = 0
    pairs = list(zip(files, folders(files, out), strict=True))
    for path, folder in tqdm(pairs, desc="fields", disable=not progress):
        try:
            report({"input": str(path), **_field(path, folder, settings)})
        except (ValueError, OSError, ArithmeticError) as error:
            report({"input": str(path), "error": f"{type(error).__name__}: {error}"})
            failed += 1
    return failed


def _field(path: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    record = Record(fuse, settings, path, folder)
    if settings["resume"] and record.is_done():
        return {"output": str(folder), "new": False}
    image: Any
    maps: Any
    image, maps, pixel_size, unit = _read(path, settings["haadf"], settings["elements"])
    if settings["pixel_size"] is not None:
        pixel_size, unit = settings["pixel_size"], settings["unit"]
    raw = {settings["haadf"]: image, **maps}
    if settings["scale"]:
        image, maps = normalize(image, maps)
    names = ("gamma", "lambda_haadf", "lambda_chem", "lambda_tv", "n_iter", "device")
    numbers = {name: name for name in maps}
    result = solve(image, maps, numbers, **{name: settings[name] for name in names})
    result.save(folder, pixel_size=pixel_size, unit=unit, raw=raw)
    record.write([folder / "fusion.h5", *(folder / f"{name}.tif" for name in [*maps, "haadf"])])
    told = {"elements": list(maps), "n_iter": int(result.n_iter)}
    return {"output": str(folder), "new": True, **told, "cost": float(result.cost.total[-1])}


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
