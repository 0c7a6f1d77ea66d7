"""Files that other programs open: TIFF with its pixel size, HDF5 with its history, written whole.

Every writer goes through `atomic_path`: a reader sees the old file or the new one, never a half.
"""

from __future__ import annotations

import os
import platform
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import __version__
from .._arrays import Array, is_tensor, to_numpy
from ._calibration import (
    AXES,
    METRES,
    SPELLINGS,
    Calibration,
    calibration_of_tiff,
    is_labelled,
    labelled,
    with_given,
)
from ._formats import TIFF, foreign
from .stacks import Stack

if TYPE_CHECKING:
    import dask.array
    import xarray

IMAGEJ_TYPES = ("uint8", "uint16", "float32")
OME_TYPES = ("int8", "int16", "int32", "uint32", "float64")


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; it replaces `path` when the block succeeds.

    If the block fails, the temporary file is removed and an older file stays as it was.

    Parameters
    ----------
    path : str or Path
        The file to write. Its folder must exist.
    sync : bool
        Wait until the data are on the disk, so that a machine that loses its power has one of
        both files. Without, a process may be killed all the same; it takes milliseconds less.

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
        if sync:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())  # the data must be on disk before the name is
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Tif(NamedTuple):
    image: np.ndarray
    pixel_size: float | None
    unit: str


class Tif(_Tif):
    """An image from a TIFF file with its calibration: ``image, pixel_size, unit``, and more.

    Attributes
    ----------
    image : array
    pixel_size : float or None
        Along x, in `unit`.
    unit : str
        "px" without a calibration.
    axes : str
        A letter of "TCZYX" for each axis of the image; "" where the file names others.
    calibration : Calibration
        Also `pixel_size_y`, `z_step`, `time_step` in seconds, and `channel_names`.
    """

    axes: str
    calibration: Calibration

    def __new__(cls, image: np.ndarray, calibration: Calibration, axes: str = "") -> Tif:
        """Make the three values of the tuple from image and calibration."""
        self = super().__new__(cls, image, calibration.pixel_size, calibration.unit)
        self.axes, self.calibration = axes, calibration
        return self

    def __getattr__(self, name: str) -> Any:
        if name in Calibration.__dataclass_fields__:
            return getattr(self.__dict__["calibration"], name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.image, self.calibration, self.axes)


def save_tif(
    path: str | Path,
    image: Array | Tif | xarray.DataArray | dask.array.Array,
    *,
    pixel_size: float | tuple[float, ...] | None = None,
    unit: str | None = None,
    axes: str | None = None,
    z_step: float | None = None,
    time_step: float | None = None,
    channel_names: Sequence[str] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Save an image or stack so that Fiji opens it with its pixel size.

    Parameters
    ----------
    path : str or Path
        File to write, at once or not at all.
    image : array, tensor, xarray.DataArray, Stack or Tif
        2D to 5D; uint8, uint16 and float32 become ImageJ files, other types OME-TIFF, and so
        does a single channel with a name. Of a DataArray the axes, sizes, time step and channel
        names are taken from its dimensions, coordinates and their attribute `units`; what TIFF
        has no place for is named in a warning. What `load_tif` gave is saved with its
        calibration. A Dask array is computed whole; a 3D `Stack` is read image by image.
    pixel_size : float or tuple of float, optional
        Size of the pixels in `unit`: one number, (y, x) or (z, y, x).
    unit : str, optional
        One of pm, Å, nm, µm, mm, cm, m; nm if left out.
    axes : str, optional
        A letter per axis, from "TCZYX" and in that order; the last ones if left out.
    z_step : float, optional
        Distance of two slices, in `unit`.
    time_step : float, optional
        Seconds from one time to the next.
    channel_names : sequence of str, optional
        One for each channel.
    attributes : dict, optional
        Numbers and strings, a line of text for each: Fiji has them in *Image > Show Info*.

    Raises
    ------
    TypeError, ValueError
        A type that TIFF readers do not share, or axes, unit, sizes or names that make no sense.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "map.tif"
    >>> save_tif(path, np.zeros((3, 4, 4), "float32"), pixel_size=(0.3, 0.08, 0.08), unit="µm")
    >>> tif = load_tif(path)
    >>> tif.pixel_size, tif.unit, tif.z_step
    (0.08, 'µm', 0.3)
    """
    import tifffile

    known = Calibration()
    dropped: list[str] = []
    if isinstance(image, Tif):
        axes, known, image = axes or image.axes or None, image.calibration, image.image
    elif is_labelled(image):
        image, own, known, dropped = labelled(image)
        axes = axes or own
    pixels: Any = image
    if not is_lazy(image) or pixels.ndim != 3:
        pixels = to_numpy(pixels)
    known = with_given(known, pixel_size, unit, z_step, time_step, channel_names)
    _check_tif(pixels, known, unit)
    axes = AXES[-pixels.ndim :] if axes is None else axes
    if (
        len(axes) != pixels.ndim
        or list(axes) != [a for a in AXES if a in axes]
        or axes[-2:] != "YX"
    ):
        raise ValueError(
            f"axes {axes!r} of a {pixels.ndim}D image: use letters of {AXES}, in order"
        )
    _check_names(known.channel_names, pixels.shape[axes.index("C")] if "C" in axes else 1)
    if dropped:
        warnings.warn(
            f"TIFF has no place for {', '.join(dropped)}: dropped (save_h5 has room)", stacklevel=2
        )
    # ImageJ has no name for a single channel
    imagej = pixels.dtype.name in IMAGEJ_TYPES and ("C" in axes or known.channel_names is None)
    write = _as_imagej if imagej else _as_ome
    pixels, options = write(pixels, axes, known)
    if attributes:
        lines = [f"{name} = {value}" for name, value in attributes.items()]
        options["metadata"]["Info" if imagej else "Description"] = "\n".join(lines)
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, pixels, **options)


def load_tif(path: str | Path) -> Tif:
    """Load a TIFF file with its calibration, where ImageJ or OME metadata give one.

    Parameters
    ----------
    path : str or Path
        File to read.

    Returns
    -------
    Tif
        Named tuple ``(image, pixel_size, unit)``, with `axes`, `pixel_size_y`, `z_step`,
        `time_step` and `channel_names` as attributes; axes in the order of "TCZYX" without those
        of length one; without a calibration `pixel_size` is None and `unit` "px".

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        There is no such file, it is a folder, or it is not a whole TIFF; of another format it is
        said what reads it.
    """
    import tifffile

    path = _existing_file(path)
    if line := foreign(path):
        raise ValueError(line)
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            image, axes = series.asarray(squeeze=True), series.get_axes(squeeze=True)
            calibration = calibration_of_tiff(file)
    except Exception as error:  # tifffile meets a broken file with many kinds of error
        if path.suffix.lower() not in TIFF:
            raise ValueError(f"{path} is no TIFF: helpers.io.Stack opens other formats") from error
        raise ValueError(
            f"{path} is not a whole TIFF ({error}): it may be truncated, save it again"
        ) from error
    if set(axes) <= set(AXES):
        image = image.transpose([axes.index(a) for a in AXES if a in axes])
        axes = "".join(sorted(axes, key=AXES.index))
    else:
        axes = ""
    calibration.warn_if_not_square(stacklevel=2)
    return Tif(image, calibration, axes)


def _as_imagej(image: Any, axes: str, known: Calibration) -> tuple[Any, dict[str, Any]]:
    """Image and options of `tifffile.imwrite` for a file of ImageJ."""
    shape = [image.shape[axes.index(a)] if a in axes else 1 for a in AXES]
    metadata: dict[str, Any] = {"axes": "TZCYX"}
    options: dict[str, Any] = {"imagej": True}
    if is_lazy(image):
        t, c, z, height, width = shape
        options |= {"shape": (t, z, c, height, width), "dtype": image.dtype}
        image = _one_by_one(image)
    else:
        image = image.reshape(shape).transpose(0, 2, 1, 3, 4)  # ImageJ has the channels after z
    if known.pixel_size is not None and known.pixel_size_y is not None:
        options["resolution"] = (1 / known.pixel_size, 1 / known.pixel_size_y)
    if known.unit != "px":
        metadata["unit"] = known.unit.encode("unicode_escape").decode().replace("\\x", "\\u00")
    if known.z_step is not None:
        metadata["spacing"] = known.z_step
    if known.time_step is not None:
        metadata |= {"finterval": known.time_step, "tunit": "s"}
    if known.channel_names is not None:
        metadata["Labels"] = list(known.channel_names) * (shape[0] * shape[2])
    return image, {**options, "metadata": metadata}


def _as_ome(image: Any, axes: str, known: Calibration) -> tuple[Any, dict[str, Any]]:
    """Image and options of `tifffile.imwrite` for an OME-TIFF."""
    metadata: dict[str, Any] = {"axes": axes}
    options: dict[str, Any] = {"ome": True}
    if is_lazy(image):
        options |= {"shape": image.shape, "dtype": image.dtype}
        image = _one_by_one(image)
    if known.pixel_size is not None and known.pixel_size_y is not None:
        scale = METRES["cm"] / METRES[known.unit]
        sizes = {"X": known.pixel_size, "Y": known.pixel_size_y}
        options |= {"resolution": tuple(scale / s for s in sizes.values())}
        options["resolutionunit"] = "CENTIMETER"
        metadata |= {f"PhysicalSize{a}": size for a, size in sizes.items()}
        metadata |= {f"PhysicalSize{a}Unit": known.unit for a in sizes}
    if known.z_step is not None:
        metadata |= {"PhysicalSizeZ": known.z_step, "PhysicalSizeZUnit": known.unit}
    if known.time_step is not None:
        metadata |= {"TimeIncrement": known.time_step, "TimeIncrementUnit": "s"}
    if known.channel_names is not None:
        metadata["Channel"] = {"Name": list(known.channel_names)}
    return image, {**options, "metadata": metadata}


def save_h5(
    path: str | Path, tree: Mapping[str, Any], attributes: Mapping[str, Any] | None = None
) -> None:
    """Save a nested dict to HDF5, with where, when and by what it was made.

    Parameters
    ----------
    path : str or Path
        File to write, at once or not at all.
    tree : dict
        Keys are strings; values are dicts, arrays, tensors, numbers, strings, None, or lists of
        numbers or of strings. A `Stack`, or an array of Zarr, is read image by image.
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
            elif is_lazy(value):
                one = (1, *value.shape[1:])
                data = file.create_dataset(
                    name, value.shape, value.dtype, chunks=one, compression="gzip", shuffle=True
                )
                for k, image in enumerate(_one_by_one(value)):
                    data[k] = image
            elif isinstance(value, np.ndarray) and value.size > 1024 and value.dtype.kind != "O":
                file.create_dataset(name, data=value, compression="gzip", shuffle=True)
            else:
                file[name] = value


def load_h5(path: str | Path, *, lazy: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load an HDF5 file as a nested dict.

    Parameters
    ----------
    path : str or Path
        File to read.
    lazy : bool
        Leave stacks of images in the file: each is a `Stack`, which reads what is asked for.

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
            tree = _read_group(file, path if lazy else None)
            return tree, {n: _plain(v) for n, v in file.attrs.items()}
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a whole HDF5 file ({error}): it may be truncated, save it again"
        ) from error


def is_lazy(value: Any) -> bool:
    """True for an array that is read where it is indexed: a `Stack`, an array of Zarr or HDF5."""
    known = isinstance(value, np.ndarray | np.generic) or is_tensor(value) or is_labelled(value)
    dask = hasattr(value, "__dask_graph__")
    return not known and not dask and all(hasattr(value, a) for a in ("shape", "dtype", "ndim"))


def _one_by_one(images: Any) -> Iterator[np.ndarray]:
    for k in range(images.shape[0]):
        yield np.asarray(images[k])


GROUP = object()  # marks an (even empty) dict among the leaves


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir() and path.suffix.lower() == ".zarr":
        raise IsADirectoryError(f"{path} is a Zarr image: open it by helpers.io.Stack")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the name and the folder")
    return path


def _check_tif(image: np.ndarray, known: Calibration, unit: str | None) -> None:
    if image.dtype.name not in IMAGEJ_TYPES + OME_TYPES:
        types = ", ".join(IMAGEJ_TYPES + OME_TYPES)
        raise TypeError(f"image is {image.dtype}: convert it to one of {types}")
    if not 2 <= image.ndim <= 5 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}: give 2 to 5 axes, none of them empty")
    if unit is not None and SPELLINGS.get(unit, unit) not in METRES:
        raise ValueError(f"unit is {unit!r}: use one of {', '.join(METRES)}")
    for name in ("pixel_size", "pixel_size_y", "z_step", "time_step"):
        value = getattr(known, name)
        if value is not None and not (np.isfinite(value) and value > 0):
            what = "length" if name != "time_step" else "number of seconds"
            raise ValueError(f"{name} is {value!r}: give a positive {what}, or leave it out")


def _check_names(names: Sequence[str] | None, n_channels: int) -> None:
    if names is not None and len(names) != n_channels:
        raise ValueError(f"channel_names {names}: the image has {n_channels} channels, name each")


def _provenance() -> dict[str, str]:
    import h5py

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "helpers_version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }


def _leaves(tree: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
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


def _leaf(value: Any, name: str) -> Any:
    import h5py

    if value is None:
        return h5py.Empty("f4")
    if isinstance(value, str | bool | int | float | complex | np.generic):
        return value
    if is_tensor(value):
        return to_numpy(value)
    if is_lazy(value) and value.ndim > 0 and value.dtype.kind in "biufc":
        return value
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


def _read_group(group: Any, stays_in: Path | None = None) -> dict[str, Any]:
    import h5py

    tree: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            tree[name] = _read_group(item, stays_in)
        elif stays_in is not None and item.ndim > 2 and item.dtype.kind in "iuf":
            tree[name] = Stack(stays_in, dataset=item.name)
        else:
            tree[name] = _plain(item[()])
    return tree


def _plain(value: Any) -> Any:
    """Turn what h5py gives into plain Python where it is one number or text."""
    import h5py

    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value.item() if isinstance(value, np.generic) else value
