"""Files that other programs open: TIFF with its pixel size, HDF5 with its history, written whole.

Every writer goes through `atomic_path`: a reader sees the old file or the new one, never a half.
"""

from __future__ import annotations

import os
import platform
import secrets
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import __version__
from .._arrays import is_tensor, to_numpy

AXES = "TCZYX"  # the axis order of the whole book
METRES = {"pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
SPELLINGS = {"um": "µm", "\u03bcm": "µm", "micron": "µm", "A": "Å", "\u212b": "Å"}
IMAGEJ_TYPES = ("uint8", "uint16", "float32")
OME_TYPES = ("int8", "int16", "int32", "uint32", "float64")


@contextmanager
def atomic_path(path):
    """Give a temporary path in the folder of `path`; it replaces `path` when the block succeeds.

    If the block fails, the temporary file is removed and an older file stays as it was.

    Parameters
    ----------
    path : str or Path
        The file to write. Its folder must exist.

    Yields
    ------
    Path
        Where the block writes.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        The folder is missing, `path` is a folder, or the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(os.path.realpath(path))  # through a link, to the file that it names
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{path.parent} is not a folder: create it before saving {path.name}"
            )
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
        temporary.open("xb").close()
    except PermissionError as error:
        raise PermissionError(f"no permission to write in {path.parent}: choose another") from error
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())  # the data must be on disk before the name is
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Tif(NamedTuple):
    """An image from a TIFF file with its calibration."""

    image: np.ndarray
    pixel_size: float | None
    unit: str


def save_tif(path, image, *, pixel_size=None, unit="nm", axes=None):
    """Save an image or stack so that Fiji opens it with its pixel size.

    Parameters
    ----------
    path : str or Path
        File to write, at once or not at all.
    image : array or tensor
        2D to 5D; uint8, uint16 and float32 become ImageJ files, other types OME-TIFF.
    pixel_size : float, optional
        Size of the square pixels in `unit`.
    unit : str
        One of pm, Å, nm, µm, mm, cm, m.
    axes : str, optional
        A letter per axis, from "TCZYX" and in that order; the last ones if left out.

    Raises
    ------
    TypeError, ValueError
        A type that TIFF readers do not share, or axes, unit or size that make no sense.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "map.tif"
    >>> save_tif(path, np.eye(4, dtype="float32"), pixel_size=0.08, unit="nm")
    >>> load_tif(path)[1:]
    (0.08, 'nm')
    """
    import tifffile

    image = to_numpy(image)
    unit = SPELLINGS.get(unit, unit)
    _check_tif(image, pixel_size, unit)
    axes = AXES[-image.ndim :] if axes is None else axes
    if len(axes) != image.ndim or list(axes) != [a for a in AXES if a in axes] or axes[-2:] != "YX":
        raise ValueError(f"axes {axes!r} of a {image.ndim}D image: use letters of {AXES}, in order")
    imagej = image.dtype.name in IMAGEJ_TYPES
    options = {}
    if imagej:
        metadata, order = {"axes": "TZCYX"}, (0, 2, 1, 3, 4)  # ImageJ has the channels after z
        shape = [image.shape[axes.index(a)] if a in axes else 1 for a in AXES]
        image = image.reshape(shape).transpose(order)
    else:
        metadata = {"axes": axes}
    if pixel_size is not None:
        per_unit = 1 / pixel_size
        if imagej:
            options["resolution"] = (per_unit, per_unit)
            metadata["unit"] = unit.encode("unicode_escape").decode().replace("\\x", "\\u00")
        else:
            per_cm = per_unit * METRES["cm"] / METRES[unit]
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            metadata |= {f"PhysicalSize{a}": pixel_size for a in "XY"}
            metadata |= {f"PhysicalSize{a}Unit": unit for a in "XY"}
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary, image, imagej=imagej, ome=not imagej, metadata=metadata, **options
        )


def load_tif(path):
    """Load a TIFF file with its pixel size, where ImageJ or OME metadata give one.

    Parameters
    ----------
    path : str or Path
        File to read.

    Returns
    -------
    Tif
        Named tuple ``(image, pixel_size, unit)``; axes in the order of "TCZYX" without those of
        length one; without a calibration `pixel_size` is None and `unit` "px".

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        There is no such file, it is a folder, or it is not a whole TIFF.
    """
    import tifffile

    path = _existing_file(path)
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            image, axes = series.asarray(squeeze=True), series.get_axes(squeeze=True)
            pixel_size, unit = _calibration(file)
    except Exception as error:  # tifffile meets a broken file with many kinds of error
        raise ValueError(
            f"{path} is not a whole TIFF ({error}): it may be truncated, save it again"
        ) from error
    if set(axes) <= set(AXES):
        image = image.transpose([axes.index(a) for a in AXES if a in axes])
    return Tif(image, pixel_size, unit)


def save_h5(path, tree, attributes=None):
    """Save a nested dict to HDF5, with where, when and by what it was made.

    Parameters
    ----------
    path : str or Path
        File to write, at once or not at all.
    tree : dict
        Keys are strings; values are dicts, arrays, tensors, numbers, strings, None, or lists of
        numbers or of strings.
    attributes : dict, optional
        Numbers and strings for the file itself; `created` and the versions of `helpers`, `python`,
        `numpy` and `h5py` are added.

    Raises
    ------
    TypeError, ValueError
        A value or key that HDF5 cannot hold; its place is named, and nothing is written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.h5"
    >>> save_h5(path, {"maps": {"Sc": np.zeros((2, 2))}, "settings": {"gamma": 1.6}})
    >>> tree, attributes = load_h5(path)
    >>> tree["settings"], "created" in attributes
    ({'gamma': 1.6}, True)
    """
    import h5py

    leaves = dict(_leaves(tree, ""))
    notes = {name: _leaf(value, name) for name, value in (attributes or {}).items()}
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(_provenance() | notes)
        for name, value in leaves.items():
            if value is GROUP:
                file.require_group(name)
            elif isinstance(value, np.ndarray) and value.size > 1024 and value.dtype.kind != "O":
                file.create_dataset(name, data=value, compression="gzip", shuffle=True)
            else:
                file[name] = value


def load_h5(path):
    """Load an HDF5 file as a nested dict.

    Parameters
    ----------
    path : str or Path
        File to read.

    Returns
    -------
    tree : dict
        Arrays, numbers, strings, lists of strings, None, and dicts of them.
    attributes : dict
        The attributes of the file.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        There is no such file, it is a folder, or it is not a whole HDF5 file.
    """
    import h5py

    path = _existing_file(path)
    try:
        with h5py.File(path, "r") as file:
            return _read_group(file), {n: _plain(v) for n, v in file.attrs.items()}
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a whole HDF5 file ({error}): it may be truncated, save it again"
        ) from error


GROUP = object()  # marks an (even empty) dict among the leaves


def _existing_file(path):
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the name and the folder")
    return path


def _check_tif(image, pixel_size, unit):
    if image.dtype.name not in IMAGEJ_TYPES + OME_TYPES:
        known = ", ".join(IMAGEJ_TYPES + OME_TYPES)
        raise TypeError(f"image is {image.dtype}: convert it to one of {known}")
    if not 2 <= image.ndim <= 5 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}: give 2 to 5 axes, none of them empty")
    if unit not in METRES:
        raise ValueError(f"unit is {unit!r}: use one of {', '.join(METRES)}")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size is {pixel_size!r}: give a positive length, or leave it out")


def _calibration(file):
    """Pixel size and unit from the ImageJ or OME metadata of an open file."""
    import tifffile

    if file.is_ome:
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        pixels = (pixels[0] if isinstance(pixels, list) else pixels)["Pixels"]
        sizes = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")
        unit = pixels.get("PhysicalSizeXUnit", "µm")
    elif file.is_imagej and file.imagej_metadata.get("unit"):
        tags = file.pages[0].tags
        ratios = [tags[n].value for n in ("XResolution", "YResolution") if n in tags]
        sizes = [below / above for above, below in ratios if above]
        unit = file.imagej_metadata["unit"]
        unit = unit.encode("latin-1", "backslashreplace").decode("unicode_escape")
    else:
        sizes, unit = (), "px"
    if not sizes or None in sizes:
        return None, "px"
    across, down = float(sizes[0]), float(sizes[-1])
    if abs(across - down) > 1e-3 * across:
        warnings.warn(f"pixels are {across} x {down} {unit}: the x size is used", stacklevel=3)
    # TIFF keeps a ratio of integers; nine digits bring the decimal number back
    return float(f"{across:.9g}"), SPELLINGS.get(unit, unit)


def _provenance():
    import h5py

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "helpers_version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }


def _leaves(tree, where):
    """Flatten a nested dict to (path, storable value), checking everything on the way."""
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key or key == ".":
            raise ValueError(f"key {key!r} in {where or 'the tree'}: use strings without a slash")
        name = f"{where}/{key}"
        if isinstance(value, dict):
            yield name, GROUP
            yield from _leaves(value, name)
        else:
            yield name, _leaf(value, name)


def _leaf(value, name):
    import h5py

    if value is None:
        return h5py.Empty("f4")
    if isinstance(value, str | bool | int | float | complex | np.generic):
        return value
    if is_tensor(value):
        return to_numpy(value)
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return np.array(value, dtype=h5py.string_dtype())
    try:
        array = np.asarray(value)
    except ValueError:  # lists of uneven length
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biufc":
        raise TypeError(
            f"{name} is of type {type(value).__name__}: give an array, number, string or dict"
        )
    return array


def _read_group(group):
    import h5py

    return {
        name: _read_group(item) if isinstance(item, h5py.Group) else _plain(item[()])
        for name, item in group.items()
    }


def _plain(value):
    """Turn what h5py gives into plain Python where it is one number or text."""
    import h5py

    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value.item() if isinstance(value, np.generic) else value
