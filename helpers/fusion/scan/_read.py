"""Images and spectra from the files that microscopes and programs write."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...io._calibration import METRES, SPELLINGS
from ._formats import Axis, Item, open_items

NM = METRES["nm"]
BLOCK = 128 * 2**20  # bytes of spectra that are in memory at a time, as 8-byte numbers


class Spectra(Protocol):
    """Spectra (H, W, K): an array of NumPy, or anything that gives one when it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, columns and channels."""

    @property
    def dtype(self) -> np.dtype:
        """Kind of the numbers."""

    def __getitem__(self, index: Any, /) -> Any:
        """Read a block."""


@dataclass(frozen=True)
class Scan:
    """Images and spectra that were taken on one field; made by `helpers.fusion.read`.

    Attributes
    ----------
    images : dict of (H, W) array
        By the detector's name; two of one name are told apart by a number.
    spectra : (H, W, K) array, or None
        Counts, energies last. An array of NumPy, or something that is read when it is sliced.
    energies : (K,) float array, or None
        Centres of the channels as the file has them, in `energy_unit`.
    pixel_size : float or None
        Edge of a pixel of the spectra (of the first image where there are none), in `unit`.
    unit : str
        "nm", or "px" where the size is not known.
    dwell : float or None
        Seconds a pixel.
    metadata : dict
        What else the file says: ``"signal"`` ("EDS" or "EELS"), ``"pixel_sizes"`` of the images,
        ``"file"``, and the reader's own entries under ``"original"``.
    energy_unit : str
        "keV" for x-rays, "eV" for energy losses.
    """

    images: dict[str, np.ndarray] = field(repr=False)
    spectra: Spectra | None = field(repr=False)
    energies: np.ndarray | None = field(repr=False)
    pixel_size: float | None
    unit: str
    dwell: float | None
    metadata: dict[str, Any] = field(repr=False)
    energy_unit: str = "keV"

    @property
    def haadf(self) -> np.ndarray:
        """The HAADF image; an error that lists the images where it is not clear which one it is."""
        named = [name for name in self.images if "haadf" in name.lower()]
        if len(named) > 1 and self.spectra is not None:
            same = [n for n in named if self.images[n].shape == tuple(self.spectra.shape[:2])]
            named = same or named
        chosen = named if named else list(self.images)
        if len(chosen) == 1:
            return self.images[chosen[0]]
        listed = ", ".join(f"{name!r} ({_size(image)})" for name, image in self.images.items())
        if not listed:
            raise ValueError("the scan has no images: read the HAADF from its own file")
        raise ValueError(
            f"it is not clear which image is the HAADF: take one by its name, "
            f"scan.images[name], from {listed}"
        )

    def __repr__(self) -> str:
        images = ", ".join(f"{name!r} {_size(image)}" for name, image in self.images.items())
        spectra = "none"
        if self.spectra is not None and self.energies is not None:
            spectra = (
                f"{_size(self.spectra)}, {self.energies[0]:.4g} to {self.energies[-1]:.4g} "
                f"{self.energy_unit}"
            )
        pixel = "not known" if self.pixel_size is None else f"{self.pixel_size:.4g} {self.unit}"
        return f"Scan: images {images or 'none'}; spectra {spectra}; pixel {pixel}"


def read(
    path: str | Path,
    *,
    spectra: str | int | None = None,
    energies: Sequence[float] | np.ndarray | None = None,
    energy_axis: int | None = None,
) -> Scan:
    """Images and spectra of a microscope's file, with energies, pixel size and units.

    Parameters
    ----------
    path : path
        ``.emd`` (Velox, NCEM), ``.dm3``, ``.dm4``, ``.bcf`` (these need RosettaSciIO: ``pip
        install rosettasciio sparse``), ``.hspy``, ``.zspy`` (needs zarr), ``.h5``, ``.npz``,
        ``.npy``, ``.tif``.
    spectra : str or int, optional
        Name or number of the spectrum image, where the file has more than one.
    energies : (K,) array, optional
        Of the channels, in keV up to 100, else in eV; for files that do not have them.
    energy_axis : int, optional
        Axis of the energies, where the file does not say which one it is.

    Returns
    -------
    Scan
        Energies are the last axis of ``spectra``, whatever the file has. Spectra of HDF5, Zarr,
        DigitalMicrograph and Velox files are read when they are sliced. Frames of one image are
        averaged, frames and detectors of spectra added up.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A format that is not known, a package that is missing, a file that is not whole, more than
        one spectrum image, or an axis of energies that is not clear. All in one line.

    Notes
    -----
    Used in :doc:`/book/fusion/08_your_file`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     energies = np.linspace(0.0, 4.0, 100)
    ...     cube = np.ones((100, 3, 4), np.uint16)  # energies first
    ...     np.savez(f"{folder}/a.npz", HAADF=np.ones((3, 4)), EDX=cube, energies=energies)
    ...     read(f"{folder}/a.npz")
    Scan: images 'HAADF' 3 x 4; spectra 3 x 4 x 100, 0 to 4 keV; pixel not known
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the name and the folder")
    items = open_items(path)
    axes = [(item, _energy_axis(item, energies, energy_axis)) for item in items]
    cubes = [(item, axis) for item, axis in axes if axis is not None]
    images, sizes = _images([i for i in items if all(i is not cube for cube, _ in cubes)])
    if not cubes:
        if not images:
            told = ", ".join(f"{i.name!r} ({_size(i)})" for i in items) or "nothing"
            raise ValueError(
                f"{path} has neither images nor spectra, but {told}: if one of them is a spectrum "
                "image, give its energies= and energy_axis="
            )
        size, unit = next(iter(sizes.values()))
        return Scan(images, None, None, size, unit, None, _metadata(path, items[0], sizes, None))
    item, axis = _chosen(path, cubes, spectra)
    data, spatial = _energy_last(path, item, axis)
    values, energy_unit, signal = _energies(item, axis, energies)
    size, unit = _pixel(spatial)
    return Scan(
        images,
        data,
        values,
        size,
        unit,
        item.dwell if item.dwell is None or item.dwell > 0 else None,
        _metadata(path, item, sizes, signal),
        energy_unit,
    )


def blocks(spectra: Spectra) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of spectra, as many at a time as fit into `BLOCK`, as arrays of NumPy."""
    height, width, channels = spectra.shape
    rows = max(1, BLOCK // max(1, 8 * width * channels))
    borders = list(range(0, height, rows))
    chunks = getattr(spectra, "chunks", None)
    if chunks and not isinstance(chunks[0], int):  # dask: its own blocks, unless they are large
        starts = np.concatenate([[0], np.cumsum(chunks[0])])[:-1].astype(int).tolist()
        if max(chunks[0]) <= 8 * rows:
            borders = starts
    for first, last in zip(borders, [*borders[1:], height], strict=True):
        part = slice(first, last)
        yield part, dense(spectra[part])


def dense(part: Any) -> np.ndarray:
    """Give a piece of any kind of array as one of NumPy."""
    if hasattr(part, "compute"):
        part = part.compute()
    return part.todense() if hasattr(part, "todense") else np.asarray(part)


def total(spectra: Spectra) -> np.ndarray:
    """Sum (K,) of all spectra, in float64; one pass.

    Raises
    ------
    ValueError
        Counts that are negative or not finite.
    """
    summed = np.zeros(spectra.shape[-1])
    for part, block in blocks(spectra):
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            raise ValueError(
                f"the spectra have NaN or infinite values in rows {part.start} to "
                f"{part.stop - 1}: crop them away or fill them with 0"
            )
        if block.dtype.kind != "u" and block.size and block.min() < 0:
            raise ValueError(
                "the spectra have negative values: counts are not negative; give them before any "
                "subtraction of a background or of a dark reference"
            )
        summed += block.reshape(-1, block.shape[-1]).sum(axis=0, dtype=np.float64)
    return summed


def _metadata(
    path: Path, item: Item, sizes: dict[str, tuple[float | None, str]], signal: str | None
) -> dict[str, Any]:
    found = {"file": path.name, "pixel_sizes": sizes, "original": item.metadata}
    return found if signal is None else {**found, "signal": signal}


def _energy_axis(item: Item, energies: Any, axis: int | None) -> int | None:
    """Number of the axis of energies of an item; None where it is no spectrum image."""
    n = len(item.axes)
    if n < 3:
        return None
    if axis is not None:
        if not -n <= axis < n:
            raise ValueError(f"energy_axis is {axis}, but {item.name!r} is {_size(item)}")
        return axis % n
    told = [k for k, a in enumerate(item.axes) if a.is_energy]
    if len(told) == 1:
        return told[0]
    length = np.size(energies) if energies is not None else None
    if length is None:
        return None
    fitting = [k for k, a in enumerate(item.axes) if a.size == length]
    if len(fitting) > 1:
        raise ValueError(
            f"{item.name!r} is {_size(item)}: {len(fitting)} of its axes have {length} channels, "
            "say energy_axis=-1 where energies are last, 0 where they are first"
        )
    return fitting[0] if fitting else None


def _chosen(
    path: Path, cubes: Sequence[tuple[Item, int]], wanted: str | int | None
) -> tuple[Item, int]:
    names = [item.name for item, _ in cubes]
    if wanted is None and len(cubes) == 1:
        return cubes[0]
    if isinstance(wanted, int) and 0 <= wanted < len(cubes):
        return cubes[wanted]
    if isinstance(wanted, str) and names.count(wanted) == 1:
        return cubes[names.index(wanted)]
    listed = ", ".join(f"{k}: {item.name!r} ({_size(item)})" for k, (item, _) in enumerate(cubes))
    asked = "" if wanted is None else f", but not {wanted!r}"
    raise ValueError(f"{path} has {len(cubes)} spectrum images{asked}: spectra= is one of {listed}")


def _energy_last(path: Path, item: Item, axis: int) -> tuple[Any, list[Axis]]:
    """Spectra (H, W, K), and the two spatial axes."""
    spatial = [k for k in range(len(item.axes)) if k != axis]
    kept = [k for k in spatial if item.axes[k].is_space] or spatial
    if len(kept) < 2:
        kept = [k for k in spatial if item.axes[k].size > 1] or spatial
    kept = kept[-2:]
    if len(kept) < 2:
        raise ValueError(
            f"{path}: {item.name!r} is {_size(item)}, spectra along a line or of a point: maps "
            "need a spectrum image (H, W, energies)"
        )
    data = item.data
    extra = tuple(k for k in spatial if k not in kept)
    if extra:  # frames and detectors: counts add up
        kind = np.uint32 if np.dtype(data.dtype).kind in "iub" else None
        data = (
            data.sum(axis=extra, dtype=kind)
            if hasattr(data, "sum")
            else dense(data[...]).sum(axis=extra, dtype=kind)
        )
    rest = [k for k in range(len(item.axes)) if k not in extra]
    order = tuple(rest.index(k) for k in (*kept, axis))
    if order != (0, 1, 2):
        data = data.transpose(order)
    return data, [item.axes[k] for k in kept]


def _energies(item: Item, axis: int, given: Any) -> tuple[np.ndarray, str, str]:
    """Energies of the channels, their unit, and the kind of signal."""
    a = item.axes[axis]
    values, unit = a.values, a.energy_unit
    if given is not None:
        values, unit = np.asarray(given, float).ravel(), ""
        if values.size != a.size:
            raise ValueError(
                f"{values.size} energies for {a.size} channels of {item.name!r} ({_size(item)}): "
                "give one energy a channel"
            )
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise ValueError(
            f"the energies of {item.name!r} must be finite and rise: give energies= by hand"
        )
    unit = unit or ("keV" if np.abs(values).max() <= 100 else "eV")
    signal = item.signal or ("EDS" if unit == "keV" else "EELS")
    if signal == "EDS" and unit == "eV":
        values, unit = values / 1000, "keV"
    if signal == "EELS" and unit == "keV":
        values, unit = values * 1000, "eV"
    return values, unit, signal


def _images(
    items: Sequence[Item],
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float | None, str]]]:
    """Images by unique names, frames averaged, and the size of their pixels."""
    images: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[float | None, str]] = {}
    for item in items:
        last = item.axes[-2:]
        if len(last) < 2 or min(a.size for a in last) < 2 or item.data.dtype.kind not in "iufb":
            continue
        image = dense(item.data[...])
        if image.ndim > 2:
            image = image.reshape(-1, *image.shape[-2:]).mean(axis=0, dtype=np.float64)
        name, n = item.name, 1
        while name in images:
            n += 1
            name = f"{item.name} {n}"
        images[name] = image
        sizes[name] = _pixel(last)
    return images, sizes


def _pixel(axes: Sequence[Axis]) -> tuple[float | None, str]:
    """Edge of a pixel in nm, or None and "px"."""
    found = []
    for a in axes:
        unit = SPELLINGS.get(a.units, a.units)
        scale = abs(a.scale) * METRES[unit] / NM if unit in METRES and a.scale else None
        found.append(scale)
    y, x = found
    if x is None or y is None or not np.isfinite(x * y):
        return None, "px"
    if abs(x - y) > 0.01 * max(x, y):
        warnings.warn(
            f"pixels are {y:.4g} nm high and {x:.4g} nm wide: pixel_size is their width",
            stacklevel=3,
        )
    return float(x), "nm"


def _size(data: Item | Spectra) -> str:
    shape = [a.size for a in data.axes] if isinstance(data, Item) else data.shape
    return " x ".join(map(str, shape))
