"""Formats beside TIFF: NumPy, MATLAB, HDF5, MRC, raw movies of Picasso, Zarr, slices, vendors'."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from ._calibration import AXES, Calibration, seconds
from ._lazy import Lazy, Opened, Planes, Reordered, Source

SLICES = (".tif", ".tiff", ".png")
TIFF = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".stk")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MRC = (".mrc", ".mrcs", ".st", ".ali", ".rec", ".map")
HDF5 = (".h5", ".hdf5", ".hdf", ".nxs")
# who reads a vendor's file: a plugin of bioio, or another package with its call
PLUGINS = {
    ".nd2": "bioio-nd2",
    ".czi": "bioio-czi",
    ".lif": "bioio-lif",
    ".dv": "bioio-dv",
    ".sldy": "bioio-sldy",
}
BIOFORMATS = (".oib", ".oif", ".vsi", ".ims", ".lof", ".zvi", ".ets")
PLUGINS |= dict.fromkeys(BIOFORMATS, "bioio-bioformats")
RSCIIO = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",
    ".ser": "tia",
    ".emi": "tia",
    ".bcf": "bruker",
    ".blo": "blockfile",
    ".mib": "quantumdetector",
}
PIMS = (".seq", ".cine", ".avi", ".mp4", ".mov")


def foreign(path: Path) -> str | None:
    """A line that says which package reads a vendor's file; None for a format that is read here."""
    end = path.suffix.lower()
    if end in PLUGINS:
        install = f"bioio {PLUGINS[end]}"
        call = f"bioio.BioImage({path.name!r}).dask_data"
    elif end in RSCIIO:
        install = "rosettasciio"
        call = f"rsciio.{RSCIIO[end]}.file_reader({path.name!r})[0]['data']"
    elif end in PIMS:
        install, call = "pims", f"pims.open({path.name!r})"
    else:
        return None
    return f"{path} is a {end[1:]} file: pip install {install}, and read it by {call}"


def open_vendor(path: Path) -> Opened:
    """Open a vendor's file through bioio or pims, or say which package reads it; see `Opened`."""
    end = path.suffix.lower()
    if end in PLUGINS:
        try:
            return _open_bioio(path)
        except ImportError:
            pass
        except Exception as error:  # bioio and its plugins have errors of their own
            raise ValueError(f"{foreign(path)} (bioio says: {error})") from error
    if end in PIMS:
        try:
            return _open_pims(path)
        except ImportError:
            pass
        except Exception as error:  # the readers behind pims have many kinds of error
            raise ValueError(f"{foreign(path)} (pims says: {error})") from error
    if line := foreign(path):
        raise ValueError(line)
    raise ValueError(
        f"{path} is of no known format: TIFF, {', '.join((*HDF5, *MRC))}, .npy, .npz, .mat, "
        ".zarr, and .raw beside a .yaml are; bioio.BioImage and pims.open know more"
    )


def _open_bioio(path: Path) -> Opened:
    from bioio import BioImage

    image = BioImage(path)
    sizes = image.physical_pixel_sizes
    sizes = {axis: getattr(sizes, axis, None) for axis in "XYZ"}
    step: Any = getattr(image, "time_interval", None)
    step = step.total_seconds() if hasattr(step, "total_seconds") else step
    calibration = Calibration.from_sizes(
        sizes,
        dict.fromkeys("XYZ", "µm"),
        time_step=step,
        channel_names=tuple(map(str, image.channel_names or ())) or None,
    )
    return Lazy(image.dask_data), image.dims.order, calibration, _nothing


def _open_pims(path: Path) -> Opened:
    import pims

    frames = pims.open(str(path))
    shape = (len(frames), *frames.frame_shape[:2])
    first = np.asarray(frames[0])
    if first.ndim != 2:
        raise ValueError(f"its frames are {first.shape}, not grey")
    source = Planes(lambda n: np.asarray(frames[n]), shape, first.dtype)
    return source, "TYX", Calibration(), frames.close


def open_npy(path: Path) -> Opened:
    """Open an NPY file as a memory map; returns as `open_tiff`."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole NPY file ({error}): save it again") from error
    if mapped.ndim < 2:
        raise ValueError(f"{path} holds an array {mapped.shape}: give images (..., Y, X)")
    return Lazy(mapped), AXES[-mapped.ndim :], Calibration(), _nothing


def open_npz(path: Path, dataset: str | None = None) -> Opened:
    """Load one array of an NPZ file, by name where it has several of images; see `Opened`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            some = file.files if dataset is None or dataset not in file.files else [dataset]
            arrays = {name: file[name] for name in some}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole NPZ file ({error}): save it again") from error
    images = [n for n, a in arrays.items() if a.ndim >= 2 and a.dtype.kind in "iuf"]
    array = arrays[_named(path, images, dataset)]
    return Lazy(array), AXES[-array.ndim :], Calibration(), _nothing


def open_mat(path: Path, dataset: str | None = None) -> Opened:
    """Open one array (Y, X, ..., N) of a MATLAB file as (N, ..., Y, X); see `Opened`."""
    with path.open("rb") as file:
        hdf5 = file.read(19) == b"MATLAB 7.3 MAT-file"
    if hdf5:  # whose axes are MATLAB's from the last to the first
        source, axes, _, close = open_h5(path, dataset)
        n = len(source.shape)
        return Reordered(source, (*range(n - 2), n - 1, n - 2)), axes, Calibration(), close
    try:
        found = {n: v for n, v in loadmat(path).items() if n[0] != "_"}
    except Exception as error:  # SciPy's reader has many kinds of error
        raise ValueError(f"{path} is not a whole MATLAB file ({error}): save it again") from error
    images = [n for n, v in found.items() if v.dtype.kind in "iuf" and min(v.shape[:2]) > 1]
    array = found[_named(path, images, dataset)]
    array = array.transpose(*reversed(range(2, array.ndim)), 0, 1)
    return Lazy(array), AXES[-array.ndim :], Calibration(), _nothing


def _named(path: Path, names: list[str], dataset: str | None) -> str:
    """The name of the images that are asked for, or the only one."""
    if dataset is None and len(names) == 1:
        return names[0]
    if dataset is None or dataset.strip("/") not in names:
        told = "has no images" if not names else f"has {', '.join(names)}"
        asked = "" if dataset is None else f"has no images {dataset!r}: it "
        raise ValueError(f"{path} {asked}{told}: name one by dataset=")
    return dataset.strip("/")


def open_h5(path: Path, dataset: str | None = None) -> Opened:
    """Open one data set of an HDF5 file, by name where it has several of images; see `Opened`."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path} is not a whole HDF5 file ({error}): it may be truncated, save it again"
        ) from error
    try:
        names = []

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "iuf":
                names.append(name)

        file.visititems(note)
        item = file[_named(path, names, dataset)]
        return Lazy(item), AXES[-item.ndim :], _of_element_size(item), file.close
    except BaseException:
        file.close()
        raise


def _of_element_size(item: Any) -> Calibration:
    """Calibration from `element_size_um` (z, y, x), which ImageJ's and ilastik's HDF5 have."""
    sizes = np.atleast_1d(item.attrs.get("element_size_um", ()))
    if len(sizes) != 3:
        return Calibration()
    return Calibration.from_sizes(dict(zip("ZYX", sizes, strict=True)), dict.fromkeys("XYZ", "µm"))


def open_mrc(path: Path) -> Opened:
    """Open an MRC file as a memory map; returns as `open_tiff`."""
    mrcfile = _package("mrcfile", path)
    old = _before_2000(path)
    try:
        with warnings.catch_warnings():
            if old:  # every point that is missing in its header is warned of
                warnings.simplefilter("ignore", RuntimeWarning)
            file = mrcfile.mmap(path, mode="r", permissive=old)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a whole MRC file ({error})") from error
    sizes = {axis.upper(): float(file.voxel_size[axis]) for axis in "xyz"}
    calibration = Calibration.from_sizes(sizes, dict.fromkeys("XYZ", "Å"))
    data = file.data
    if data.ndim == 2:
        data = data[None]
    if data.ndim == 4:
        return Lazy(data), "TZYX", calibration, file.close
    return Lazy(data), "ZYX", calibration, file.close


def _before_2000(path: Path) -> bool:
    """True for a whole MRC file without the word MAP, as some microscopes still write."""
    with open(path, "rb") as file:
        header = file.read(1024)
    if len(header) < 1024 or header[208:212] == b"MAP ":
        return False
    x, y, z, mode = np.frombuffer(header, "<i4", 4).tolist()
    extended = int(np.frombuffer(header, "<i4", 1, 92)[0])
    size = {0: 1, 1: 2, 2: 4, 6: 2}.get(mode, 0) * x * y * z
    return size > 0 and path.stat().st_size == 1024 + extended + size


def open_raw(path: Path) -> Opened:
    """Open a raw movie of Picasso, which has its shape in a YAML file; returns as `open_tiff`."""
    info = read_yaml(path.with_suffix(".yaml"), f"{path} is a raw movie")[0]
    try:
        shape = tuple(int(info[name]) for name in ("Frames", "Height", "Width"))
        dtype = np.dtype(info["Data Type"]).newbyteorder(info.get("Byte Order", "<"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.with_suffix('.yaml')} does not say {error}: Picasso's movies have Frames, "
            "Height, Width, Data Type and Byte Order there"
        ) from error
    wanted, found = int(np.prod(shape)) * dtype.itemsize, path.stat().st_size
    if found < wanted:
        raise ValueError(
            f"{path} stops in the middle: {found} bytes of {wanted} for {shape}: copy it again"
        )
    size = info.get("Pixelsize")
    calibration = Calibration.from_sizes({"X": size, "Y": size}, dict.fromkeys("XYZ", "nm"))
    return Lazy(np.memmap(path, dtype, "r", 0, shape)), "TYX", calibration, _nothing


def read_yaml(path: Path, why: str) -> list[dict[str, Any]]:
    """All documents of a YAML file, or a ValueError that names what is missing."""
    yaml = _package("yaml", path, "pyyaml")
    if not path.exists():
        raise FileNotFoundError(f"{why}: {path.name} must lie beside it and is not there")
    try:
        documents = [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not documents or not all(isinstance(d, dict) for d in documents):
        raise ValueError(f"{path} holds no names with values: Picasso writes it beside its files")
    return documents


def open_zarr(path: Path) -> Opened:
    """Open an array of Zarr, or the finest level of an OME-Zarr image; returns as `open_tiff`."""
    zarr = _package("zarr", path)
    try:
        node = zarr.open(path, mode="r")
    except Exception as error:  # stores and codecs have errors of their own
        raise ValueError(f"{path} is no Zarr array or group ({error})") from error
    if isinstance(node, zarr.Array):
        names = getattr(node.metadata, "dimension_names", None) or ()
        letters = "".join(str(name).upper() for name in names)
        known = len(letters) == node.ndim and set(letters) <= set(AXES)
        axes = letters if known else AXES[-node.ndim :]
        return Lazy(node), axes, Calibration(), _nothing
    attributes = dict(node.attrs.get("ome", node.attrs))
    if "multiscales" not in attributes and "0" in node and "bioformats2raw.layout" in attributes:
        node = node["0"]  # a file of several images: the first
        attributes = dict(node.attrs.get("ome", node.attrs))
    if "multiscales" not in attributes:
        arrays = ", ".join(name for name, _ in node.arrays()) or "none"
        raise ValueError(
            f"{path} is a Zarr group without OME metadata: open one of its arrays ({arrays})"
        )
    image = attributes["multiscales"][0]
    level = image["datasets"][0]
    try:
        array = node[level["path"]]
    except KeyError as error:
        raise ValueError(f"{path} names the array {level['path']!r}, which is not there") from error
    listed = image.get("axes") or AXES[-array.ndim :].lower()
    described = [a if isinstance(a, dict) else {"name": a} for a in listed]
    scale = np.ones(array.ndim)
    for owner in (level, image):
        for step in owner.get("coordinateTransformations", ()):
            if step.get("type") == "scale":
                scale = scale * np.asarray(step["scale"], float)
    letters = "".join(axis["name"].upper() for axis in described)
    sizes = dict(zip(letters, scale, strict=True))
    units = {a: axis.get("unit", "") for a, axis in zip(letters, described, strict=True)}
    known = {axis: sizes[axis] for axis in "XYZ" if axis in sizes}
    channels = attributes.get("omero", {}).get("channels", [])
    names = tuple(str(channel["label"]) for channel in channels if "label" in channel)
    calibration = Calibration.from_sizes(
        known,
        {axis: units[axis] for axis in known},
        time_step=seconds(sizes.get("T"), units.get("T") or "?") if "T" in sizes else None,
        channel_names=names or None,
    )
    return Lazy(array), letters, calibration, _nothing


def open_slices(path: Path) -> Opened:
    """Open a zip file or folder with one TIFF or PNG a slice; returns as `open_tiff`."""
    if path.is_dir():
        names = natural_order(p.name for p in path.iterdir() if p.suffix.lower() in SLICES)
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if Path(n).suffix.lower() in SLICES]
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a whole zip file ({error}): copy it again") from error
        names = natural_order(n for n in names if not n.startswith("__MACOSX"))
    if not names:
        raise ValueError(f"{path} holds no slices: files that end on {', '.join(SLICES)}")
    first = _read_slice(path, names[0])

    def plane(k: int) -> np.ndarray:
        image = _read_slice(path, names[k])
        if image.shape != first.shape:
            raise ValueError(
                f"{names[k]} in {path} is {image.shape}, but {names[0]} is {first.shape}: a volume "
                "needs slices of one shape"
            )
        return image

    source = Planes(plane, (len(names), *first.shape), first.dtype)
    return source, "ZYX", Calibration(), _nothing


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names so that numbers in them count as numbers.

    Examples
    --------
    >>> natural_order(["z10.tif", "z2.tif", "a.tif"])
    ['a.tif', 'z2.tif', 'z10.tif']
    """

    def key(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", str(name))
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(names, key=key)


def in_order(source: Source, axes: str) -> tuple[Source, str]:
    """The same source with its axes in the order of "TCZYX", without leading ones of length one.

    A single image keeps one leading axis.
    """
    kept = [k for k, a in enumerate(axes) if a in "YX" or source.shape[k] > 1]
    if len(kept) == 2 and len(axes) > 2:
        kept = [axes.index(axes.replace("Y", "").replace("X", "")[0]), *kept]
    order = sorted(kept, key=lambda k: AXES.index(axes[k]))
    letters = "".join(axes[k] for k in order)
    if order != list(range(len(source.shape))):
        source = Reordered(source, order)
    return source, letters


def _read_slice(path: Path, name: str) -> np.ndarray:
    try:
        if path.is_dir():
            data = (path / name).read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                data = archive.read(name)
        if name.lower().endswith(".png"):
            from PIL import Image

            image = np.asarray(Image.open(io.BytesIO(data)))
        else:
            import tifffile

            image = tifffile.imread(io.BytesIO(data))
    except Exception as error:  # readers meet broken files with many kinds of error
        raise ValueError(f"{name} in {path} is not a whole image ({error}): copy it") from error
    if image.ndim != 2:
        raise ValueError(f"{name} in {path} is {image.shape}: slices must be grey images (Y, X)")
    return image


def _package(name: str, path: Path, install: str | None = None) -> Any:
    """Import a package that reads a format, or say how it is installed."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{path} is read by {name}: pip install {install or name}") from error


def _nothing() -> None:
    """Nothing to close: the operating system keeps a memory map as long as it is used."""
