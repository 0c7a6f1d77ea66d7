"""Formats of scans: each opener gives the data sets of a file with their axes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

RSCIIO = {".bcf": "bruker", ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd"}
NEEDED = {".emd": "rosettasciio sparse"}
ENERGY_UNITS = {"ev": "eV", "kev": "keV"}
ENERGY_NAMES = ("energy", "energies", "energy loss", "eloss", "kev", "ev")


@dataclass(frozen=True)
class Axis:
    """One axis of a data set."""

    name: str
    size: int
    units: str = ""
    scale: float = 1.0
    offset: float = 0.0
    spectral: bool = False
    given: np.ndarray | None = None

    @property
    def energy_unit(self) -> str:
        """Write "eV" or "keV", or nothing for another unit."""
        return ENERGY_UNITS.get(self.units.strip().lower(), "")

    @property
    def is_energy(self) -> bool:
        """Tell whether energies lie along the axis."""
        return self.spectral or bool(self.energy_unit) or self.name.lower() in ENERGY_NAMES

    @property
    def is_space(self) -> bool:
        """Tell whether the axis is a direction in the specimen, by its name."""
        return self.name.lower() in ("x", "y", "width", "height", "row", "column")

    @property
    def values(self) -> np.ndarray:
        """Coordinates along the axis."""
        if self.given is not None:
            return np.asarray(self.given, float)
        return self.offset + self.scale * np.arange(self.size)


@dataclass(frozen=True)
class Item:
    """One data set of a file."""

    name: str
    data: Any
    axes: tuple[Axis, ...]
    signal: str = ""
    dwell: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Slab:
    """Data set of an HDF5 or Zarr file, opened each time it is sliced.

    Parameters
    ----------
    path : Path
    name : str
        Of the data set.
    opener : callable
        ``opener(path)`` is a context that gives the root group.
    order : tuple of int, optional
        Axes of the file in the order of this array.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        opener: Callable[[Path], Any],
        order: tuple[int, ...] | None = None,
    ) -> None:
        self._path, self._name, self._opener = path, name, opener
        with opener(path) as root:
            item = root[name]
            self._order = order or tuple(range(len(item.shape)))
            self.shape = tuple(int(item.shape[k]) for k in self._order)
            self.dtype = np.dtype(item.dtype)
        self.ndim = len(self.shape)

    def transpose(self, order: tuple[int, ...]) -> Slab:
        """Give the same data with its axes in another order."""
        order = tuple(self._order[k] for k in order)
        return Slab(self._path, self._name, self._opener, order)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a block: slices, whole numbers and an ellipsis, as of NumPy."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in index:
            k = index.index(Ellipsis)
            missing = self.ndim - len(index) + 1
            index = (*index[:k], *(slice(None),) * missing, *index[k + 1 :])
        index = (*index, *(slice(None),) * (self.ndim - len(index)))
        # Numbers become slices of length one, and their axes go at the end.
        slices = [i if isinstance(i, slice) else slice(i, i + 1 or None) for i in index]
        stored: list[Any] = [slice(None)] * self.ndim
        for axis, part in zip(self._order, slices, strict=True):
            stored[axis] = part
        with self._opener(self._path) as root:
            block = np.asarray(root[self._name][tuple(stored)]).transpose(self._order)
        return block[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read everything."""
        return np.asarray(self[...], dtype)

    def __repr__(self) -> str:
        return f"Slab {self._name!r} of {self._path.name}, {self.shape}, {self.dtype}"


def open_items(path: Path) -> list[Item]:
    """Open a file by its content and its ending.

    Raises
    ------
    ValueError
        A format that is not known, a package that is missing, a file that is not whole.
    """
    end = path.suffix.lower()
    openers = {
        ".hspy": _hspy,
        ".zspy": _zspy,
        ".npz": _npz,
        ".npy": _npy,
        ".tif": _tif,
        ".tiff": _tif,
        ".h5": _h5,
        ".hdf5": _h5,
        ".hdf": _h5,
        **dict.fromkeys(RSCIIO, _rsciio),
    }
    if end not in openers:
        raise ValueError(
            f"{path} is of no known format: read takes {', '.join(openers)}; save it as one of "
            "them in the program that wrote it"
        )
    try:
        return openers[end](path)
    except _Said:
        raise
    except Exception as error:  # the readers meet broken files with many kinds of error
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as {end} ({said[:200]}): it may be cut off or damaged, copy it "
            "again"
        ) from error


class _Said(ValueError):
    """An error that says already what to do."""


def _package(name: str, path: Path, install: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise _Said(f"{path} is read by {name}: pip install {install}") from error


def _rsciio(path: Path) -> list[Item]:
    end = path.suffix.lower()
    install = NEEDED.get(end, "rosettasciio")
    reader = _package(f"rsciio.{RSCIIO[end]}", path, install).file_reader
    if end == ".bcf":
        _check_bcf(path)
    try:
        # Bruker's spectra are unpacked all at once anyway.
        found = reader(str(path), lazy=end != ".bcf")
    except ImportError as error:
        raise _Said(f"{path} needs one more package ({error}): pip install {install}") from error
    return [_of_rsciio(n, item) for n, item in enumerate(found)]


def _check_bcf(path: Path) -> None:
    """Refuse a Bruker file that is shorter than its header says: the reader would make zeros.

    The header has the size of a chunk at 0x128 and their number at 0x148; data begin at 0x118.
    """
    with path.open("rb") as file:
        head = file.read(0x14C)
    if len(head) < 0x14C or head[:8] != b"AAMVHFSS":
        raise ValueError("it does not begin as a Bruker file")
    (size,), (number,) = (
        struct.unpack_from("<I", head, 0x128),
        struct.unpack_from("<I", head, 0x148),
    )
    wanted, found = 0x118 + size * number, path.stat().st_size
    if found < wanted:
        raise ValueError(f"it has {found} bytes of {wanted}")


def _of_rsciio(n: int, item: Mapping[str, Any]) -> Item:
    metadata = item.get("metadata") or {}
    stored = sorted(item["axes"], key=lambda a: a.get("index_in_array", 0))
    kind = str(_look(metadata, "Signal", "signal_type") or "")
    signals = [a for a in stored if not a.get("navigate", False)]
    alone = len(signals) == 1 and len(stored) > 1
    axes = tuple(_of_dict(a, alone and a is signals[0] and bool(kind)) for a in stored)
    name = str(_look(metadata, "General", "title") or "") or f"data set {n}"
    shape = [a.size for a in axes]
    return Item(
        name,
        item["data"],
        axes,
        _signal(kind),
        _dwell(metadata, item.get("original_metadata") or {}, shape),
        metadata,
    )


def _of_dict(a: Mapping[str, Any], spectral: bool) -> Axis:
    units = a.get("units")
    given = a.get("axis")
    return Axis(
        str(a.get("name") or ""),
        int(a["size"]) if given is None else len(given),
        str(units) if isinstance(units, str | bytes) else "",
        float(a.get("scale", 1.0)),
        float(a.get("offset", 0.0)),
        spectral,
        None if given is None else np.asarray(given, float),
    )


def _signal(kind: str) -> str:
    return next((s for s in ("EDS", "EELS") if kind.upper().startswith(s)), "")


def _look(tree: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _dwell(metadata: Any, original: Any, shape: list[int]) -> float | None:
    """Seconds a pixel, from where the readers put them."""
    detectors = _look(metadata, "Acquisition_instrument", "TEM", "Detector") or {}
    try:
        for detector in ("EDS", "EELS"):
            for name in ("dwell_time", "exposure"):
                if (found := _look(detectors, detector, name)) is not None:
                    return float(found)
        if (found := _look(original, "Scan", "DwellTime")) is not None:
            return float(found)
        if (found := _look(detectors, "EDS", "real_time")) is not None and len(shape) == 3:
            return float(found) / (shape[0] * shape[1])
    except (TypeError, ValueError):
        pass
    return None


def _npz(path: Path) -> list[Item]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return _of_arrays(dict(file), {})
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{error}") from error


def _npy(path: Path) -> list[Item]:
    return _of_arrays({path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}, {})


def _tif(path: Path) -> list[Item]:
    from ...io.files import load_tif

    found = load_tif(path)
    attributes = {"pixel_size": found.pixel_size, "unit": found.unit}
    return _of_arrays({path.stem: np.asarray(found.image)}, attributes)


def _h5(path: Path) -> list[Item]:
    with _opened_h5(path) as root:
        if "Experiments" in root:
            return _hspy(path)
        groups = [root, *(g for g in root.values() if hasattr(g, "values"))]
        inner = [item for g in groups for item in g.values()]
        if any("emd_group_type" in g.attrs for g in (*groups, *inner)) or {
            "Presentation",
            "Version",
        } <= set(root):
            emd = _package("rsciio.emd", path, NEEDED[".emd"])
            return [_of_rsciio(n, i) for n, i in enumerate(emd.file_reader(str(path), lazy=True))]
        arrays = dict(_arrays_of(root, path, _opened_h5))
        attributes = dict(root.attrs)
    return _of_arrays(arrays, attributes)


def _arrays_of(root: Any, path: Path, opener: Callable[[Path], Any]) -> Iterator[tuple[str, Any]]:
    """Numeric data sets of a file: three axes and more stay on disk."""
    names: list[str] = []
    root.visit(names.append)
    for name in names:
        item = root[name]
        if not hasattr(item, "shape"):
            continue
        if item.dtype.kind in "iufb" and len(item.shape) > 2:
            yield name, Slab(path, name, opener)
        elif item.dtype.kind in "iufbSUO":
            yield name, np.asarray(item[()])


def _of_arrays(arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[Item]:
    """Items of a file that holds arrays by name, and energies and sizes among them."""
    found = {str(k).rpartition("/")[2].lower(): v for k, v in arrays.items()}
    facts = {**{k.lower(): v for k, v in attributes.items()}, **found}
    energies, unit = None, _text(facts.get("energy_unit"))
    for name, value in found.items():
        stem, _, tail = name.rpartition("_")
        plain = name if name in ENERGY_NAMES else stem if tail in ENERGY_UNITS else ""
        if plain in ENERGY_NAMES and np.ndim(value) == 1 and np.size(value) > 1:
            energies = np.asarray(value, float)
            unit = unit or ENERGY_UNITS.get(tail or name, "")
            unit = unit or ("keV" if np.abs(energies).max() <= 100 else "eV")
    size = _number(facts.get("pixel_size"))
    space = _text(facts.get("unit")) if size else ""
    items = []
    for name, data in arrays.items():
        shape = np.shape(data) if isinstance(data, np.ndarray) else tuple(data.shape)
        if len(shape) < 2:
            continue
        at = -1
        if energies is not None and len(shape) > 2:
            fitting = [k for k, n in enumerate(shape) if n == energies.size]
            if len(fitting) > 1:
                raise _Said(
                    f"{name!r} is {' x '.join(map(str, shape))} with {energies.size} energies: "
                    f"{len(fitting)} axes fit, crop one of the others by a row"
                )
            at = fitting[0] if fitting else -1
        plane = [k for k in range(len(shape)) if k != at][-2:]
        axes = tuple(
            Axis("energy", n, unit, given=energies)
            if k == at
            else Axis("yx"[plane.index(k)], n, space, size or 1.0)
            if k in plane
            else Axis("frame", n)
            for k, n in enumerate(shape)
        )
        signal = _signal(_text(facts.get("signal")))
        items.append(Item(str(name), data, axes, signal, _number(facts.get("dwell"))))
    return items


def _text(value: Any) -> str:
    if value is None or np.size(value) != 1:
        return ""
    value = np.asarray(value).reshape(())[()]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float | None:
    try:
        found = float(_text(value))
    except ValueError:
        return None
    return found if np.isfinite(found) and found > 0 else None


def _opened_h5(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r")


class _OpenedZarr:
    """Zarr group as a context, as a file of h5py is one."""

    def __init__(self, path: Path) -> None:
        zarr = _package("zarr", path, "zarr")
        self.root = zarr.open_group(path, mode="r")

    def __enter__(self) -> Any:
        return self.root

    def __exit__(self, *_: object) -> None:
        pass


def _hspy(path: Path) -> list[Item]:
    return _experiments(path, _opened_h5)


def _zspy(path: Path) -> list[Item]:
    if not path.is_dir():
        raise _Said(f"{path} is a file: a .zspy is a folder, unpack it first")
    return _experiments(path, _OpenedZarr)


def _experiments(path: Path, opener: Callable[[Path], Any]) -> list[Item]:
    """Signals of a file that HyperSpy wrote."""
    with opener(path) as root:
        if "Experiments" not in root:
            raise _Said(f"{path} has no group 'Experiments': it was not written by HyperSpy")
        return [
            _experiment(path, opener, name, root["Experiments"][name])
            for name in root["Experiments"]
        ]


def _experiment(path: Path, opener: Callable[[Path], Any], name: str, group: Any) -> Item:
    metadata = _tree(group["metadata"]) if "metadata" in group else {}
    shape = tuple(group["data"].shape)
    kind = str(_look(metadata, "Signal", "signal_type") or "")
    stored = []
    for k in range(len(shape)):
        found = group[f"axis-{k}"]
        stored.append(dict(found.attrs) | ({"axis": found["axis"][()]} if "axis" in found else {}))
    signals = [a for a in stored if not bool(a.get("navigate", False))]
    alone = len(signals) == 1 and len(stored) > 1
    axes = tuple(_of_dict(a, alone and a is signals[0] and bool(kind)) for a in stored)
    title = str(_look(metadata, "General", "title") or "") or name
    data = Slab(path, f"Experiments/{name}/data", opener)
    dwell = _dwell(metadata, {}, list(shape))
    return Item(title, data, axes, _signal(kind), dwell, metadata)


def _tree(group: Any) -> dict[str, Any]:
    """Attributes of a group and of the groups in it, as a dict of dicts."""
    inside = {key: _tree(group[key]) for key in group if hasattr(group[key], "keys")}
    return {**{k: _plain(v) for k, v in dict(group.attrs).items()}, **inside}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
