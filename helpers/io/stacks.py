"""Stacks of images in files, opened without being loaded: TIFF, zipped slices, or a folder."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np

from ..noise.readout import to_electrons
from .files import AXES

SLICES = (".tif", ".tiff", ".png")


class Stack:
    """Frames or slices of a file, read when they are asked for.

    Parameters
    ----------
    path : str or Path
        A TIFF stack, or a zip file or folder with one TIFF or PNG for each slice, which are taken
        in natural order: ``z2`` before ``z10``. TIFF that is not compressed is memory-mapped.
    gain : float
        ADU per photo-electron.
    offset : float
        ADU without light.

    Attributes
    ----------
    shape : (int, int, int)
        (N, Y, X). Longer axes than three are joined, the last two stay.
    dtype : numpy.dtype
        Of the file: 8, 16 or 32 bit.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A TIFF that stops in the middle: the first page that is missing is named; slices of
        different shapes, or a file that holds no images.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> path = Path(tempfile.mkdtemp()) / "movie.tif"
    >>> tifffile.imwrite(path, np.full((4, 8, 9), 145, "uint16"), photometric="minisblack")
    >>> stack = Stack(path, gain=0.45, offset=100)
    >>> stack.shape, stack.dtype, stack[2].dtype, float(stack[2].mean())
    ((4, 8, 9), dtype('uint16'), dtype('float32'), 100.0)
    """

    def __init__(self, path, *, gain=1.0, offset=0.0):
        self.path = Path(path)
        self.gain, self.offset = gain, offset
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist: check the name and the folder")
        if self.path.is_dir() or self.path.suffix.lower() == ".zip":
            self._read, self.shape, self.dtype = _slices(self.path)
        else:
            self._read, self.shape, self.dtype = _pages(self.path)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, k):
        """Frame k in photo-electrons, (Y, X) float32, or several for a slice (n, Y, X)."""
        if isinstance(k, slice):
            chosen = [self[n] for n in range(*k.indices(len(self)))]
            return np.stack(chosen) if chosen else np.empty((0, *self.shape[1:]), np.float32)
        if not -len(self) <= k < len(self):
            raise IndexError(f"frame {k} of {self.path}, which has {len(self)}")
        frame = np.asarray(self._read(int(k) % len(self)), dtype=np.float32)
        return np.asarray(to_electrons(frame, self.gain, self.offset), dtype=np.float32)

    def __array__(self, dtype=None, copy=None):
        """All frames in photo-electrons, (N, Y, X) float32: ``numpy.asarray(stack)``."""
        return self[:].astype(dtype or np.float32, copy=False)

    def __repr__(self):
        return f"Stack({self.path.name}: {' x '.join(map(str, self.shape))}, {self.dtype})"


def natural_order(names):
    """Sort names so that numbers in them count as numbers.

    Examples
    --------
    >>> natural_order(["z10.tif", "z2.tif", "a.tif"])
    ['a.tif', 'z2.tif', 'z10.tif']
    """

    def key(name):
        parts = re.split(r"(\d+)", str(name))
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(names, key=key)


def _pages(path):
    """How to read a page of a TIFF stack, its shape and type; checked to be whole."""
    import tifffile

    try:
        file = tifffile.TiffFile(path)
    except Exception as error:  # tifffile meets a broken file with many kinds of error
        raise ValueError(
            f"{path} stops within its first page, or is no TIFF ({error}): copy it again"
        ) from error
    with file:
        _check_whole(path, file)
        series = file.series[0]
        whole, axes, offset = series.shape, series.axes, series.dataoffset
        dtype = series.dtype.newbyteorder(file.byteorder)
    if len(whole) < 2 or axes[-2:] != "YX":
        known = f"its axes are {axes}, use letters of {AXES} with YX at the end"
        raise ValueError(f"{path} holds {whole}, no grey images: {known}")
    shape = (int(np.prod(whole[:-2], dtype=int)), *whole[-2:])
    if offset is not None:
        mapped = np.memmap(path, dtype, "r", offset, shape)
        return mapped.__getitem__, shape, mapped.dtype.newbyteorder("=")
    return lambda k: tifffile.imread(path, key=k, series=0), shape, dtype.newbyteorder("=")


def _check_whole(path, file):
    """Raise a ValueError that names the first page whose data or directory is not there."""
    import tifffile

    size, missing, n_pages = file.filehandle.size, None, len(file.pages)
    for k in range(n_pages):
        try:
            page = file.pages[k]
        except tifffile.TiffFileError:
            missing = k
            break
        ends = [a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if max(ends, default=0) > size:
            missing = k
            break
    if missing is None and not _chain_ends(file):
        missing = n_pages
    if missing is None and file.is_imagej and n_pages == 1:
        # ImageJ writes a very large stack as one block with a single directory; tifffile gives
        # the first image of it when the block is too short
        page, promised = file.pages[0], (file.imagej_metadata or {}).get("images", 1)
        held = (size - page.dataoffsets[0]) // sum(page.databytecounts)
        missing = held if held < promised else None
    if missing is not None:
        raise ValueError(
            f"{path} stops in the middle: page {missing}, counted from 0, is not whole, and "
            f"{size} bytes are all there is: copy it again, or save the {missing} pages before it"
        )


def _chain_ends(file):
    """Whether the directory of the last page says that no other one follows."""
    last, kind = file.pages[-1], file.tiff
    handle = file.filehandle
    try:
        handle.seek(last.offset)
        (tags,) = struct.unpack(kind.tagnoformat, handle.read(kind.tagnosize))
        handle.seek(last.offset + kind.tagnosize + tags * kind.tagsize)
        (following,) = struct.unpack(kind.offsetformat, handle.read(kind.offsetsize))
    except struct.error:
        return False
    return following == 0


def _slices(path):
    """How to read a slice of a zip file or folder, the shape of all and their type."""
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

    def read(k):
        image = _read_slice(path, names[k])
        if image.shape != first.shape:
            raise ValueError(
                f"{names[k]} in {path} is {image.shape}, but {names[0]} is {first.shape}: a volume "
                "needs slices of one shape"
            )
        return image

    return read, (len(names), *first.shape), first.dtype


def _read_slice(path, name):
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
