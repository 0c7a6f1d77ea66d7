"""The job `fuse`: fields of view in, fused elemental maps out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from ..fusion.counts import fuse_counts
from ..fusion.model import atomic_number, normalize
from ..fusion.scan import Counts, maps_from_spectra, read
from ..fusion.solver import fuse as solve
from ..fusion.solver import judge_defaults
from ..io.files import load_h5, load_tif
from ._declare import AtLeast, Count, NotNegative, Positive
from ._run import Outcome, Task


def known(symbols: list[str]) -> None:
    """Raise a ValueError unless all are symbols of elements, or lines of them such as Pd_La."""
    for symbol in symbols:
        atomic_number(symbol.partition("_")[0])


MICROSCOPES = (".emd", ".dm3", ".dm4", ".bcf", ".hspy", ".zspy")
UNITS = Literal["pm", "Å", "nm", "µm"]


def fuse(
    task: Task,
    *,
    elements: Annotated[list[str], known] | None = None,
    others: Annotated[list[str], known] | None = None,
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
        one map for each element, named by its symbol. Or a microscope's file (.emd, .dm4, .bcf
        ...; also .h5 and .npz) with the HAADF image and spectra, of which the maps are counted.
    elements : list of str, optional
        Symbols of the elements to fuse; left out, all maps that the field has. Spectra need
        them; there they may also be lines, such as Pd_La.
    others : list of str, optional
        Of spectra: further elements in the specimen, fitted but not mapped.
    haadf : str
        Name of the HAADF image. In a microscope's file also the one image that has HAADF in its
        name.
    counts : bool
        The maps are counts: fuse them by helpers.fusion.fuse_counts, which takes no weights. With
        spectra it also takes the background under each line.
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
        Unit of pixel_size.

    Returns
    -------
    Outcome
        A folder with a TIFF for each map and ``fusion.h5``.
    """
    field = _read(task.path, haadf, elements, others or [])
    image: Any = field.haadf
    maps: Any = field.maps
    size, length = (field.pixel_size, field.unit) if pixel_size is None else (pixel_size, unit)
    told: dict[str, Any] = {"elements": list(maps)}
    if field.counted is not None:
        told["counted"] = {name: round(net, 1) for name, (net, _) in field.counted.totals.items()}
        if field.counted.unexplained:
            told["unexplained_peaks"] = list(field.counted.unexplained)
    if counts:
        found = fuse_counts(image, field.counted or maps)
        found.save(task.folder, pixel_size=size, unit=length)
        files = [task.folder / f"{name}.tif" for name in [*maps, "haadf"]]
        files.insert(0, task.folder / "fusion.h5")
        told["net_counts"] = {name: round(net, 1) for name, (net, _) in found.totals.items()}
        return Outcome(task.folder, files, told)
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
        judge=False,  # by the first field of the call, see below
        progress=task.progress,
    )
    result.save(task.folder, pixel_size=size, unit=length, raw=raw)
    files = [task.folder / f"{name}.tif" for name in [*maps, "haadf"]]
    told |= {"n_iter": int(result.n_iter), "cost": float(result.cost.total[-1])}
    return Outcome(task.folder, [task.folder / "fusion.h5", *files], told)


def judge_fuse(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Judgement of the default weights by hidden pixels of one field; empty where others are given.

    Parameters
    ----------
    path : Path
    settings : mapping
        Of the job.
    """
    named = settings["n_iter"] is not None or settings["lambda_tv"] is not None
    if settings["counts"] or named:
        return {}
    options = ("haadf", "elements", "others")
    haadf, elements, others = (settings[name] for name in options)
    field = _read(path, haadf, elements, others or [])
    image: Any = field.haadf
    maps: Any = field.maps
    if settings["scale"]:
        image, maps = normalize(image, maps)
    numbers = {name: name for name in maps}
    weights = ("gamma", "lambda_haadf", "lambda_chem", "background")
    better = judge_defaults(image, maps, numbers, **{name: settings[name] for name in weights})
    return {"field": str(path), "found": better}


class _Field(NamedTuple):
    """One field of view: its images, how large a pixel is, and the counts if it had spectra."""

    haadf: np.ndarray
    maps: dict[str, np.ndarray]
    pixel_size: float | None
    unit: str
    counted: Counts | None = None


def _read(path: Path, haadf: str, elements: list[str] | None, others: list[str]) -> _Field:
    """HAADF, maps by symbol, pixel size and unit of a field."""
    pixel_size, unit = None, "nm"
    if path.suffix.lower() in MICROSCOPES:
        return _counted(path, haadf, elements, others)
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
        raise ValueError(
            f"{path} is no field: give .h5, .npz, a folder of TIFF files, or a microscope's file "
            f"({', '.join(MICROSCOPES)})"
        )
    cubes = [name for name, image in images.items() if image.ndim == 3]
    images = {name: image for name, image in images.items() if image.ndim == 2}
    found = [name for name in images if name != haadf and _is_element(name)]
    if cubes and not found:
        return _counted(path, haadf, elements, others)
    if haadf not in images:
        raise ValueError(f"{path} has no image {haadf!r}: it has {', '.join(images) or 'none'}")
    wanted = elements or found
    missing = [name for name in wanted if name not in images]
    if missing or not wanted:
        lacks = ", ".join(missing) or "any element's map"
        raise ValueError(f"{path} has no {lacks}: it has {', '.join(images)}")
    maps = {name: np.asarray(images[name], np.float32) for name in wanted}
    return _Field(np.asarray(images[haadf], np.float32), maps, pixel_size, unit)


def _counted(path: Path, haadf: str, elements: list[str] | None, others: list[str]) -> _Field:
    """A field of a microscope's file, its maps counted in the spectra."""
    if not elements:
        raise ValueError(f"{path} has spectra: name the elements to map by --elements")
    scan = read(path)
    image = scan.images[haadf] if haadf in scan.images else scan.haadf
    counted = maps_from_spectra(scan, elements, others=others)
    shape = next(iter(counted.maps.values())).shape
    if image.shape != shape:
        raise ValueError(
            f"{path} has a HAADF image of {image.shape} and spectra of {shape}: bring both onto "
            "one field (see helpers.fusion.resample), and give a folder of TIFF files"
        )
    unit = "nm" if scan.pixel_size is None else scan.unit
    return _Field(np.asarray(image), counted.maps, scan.pixel_size, unit, counted)


def _arrays(tree: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Images and spectra of a tree by the last part of their names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _arrays(value)
        elif isinstance(value, np.ndarray) and value.ndim in (2, 3):
            yield name, value


def _is_element(name: str) -> bool:
    try:
        atomic_number(name)
    except ValueError:
        return False
    return True
