"""Images from disk: stacks, zipped slices and pairs, opened without being loaded, cut at random.

A `Stack` gives photo-electrons by the index of a frame. `Crops` and `Pairs` cut pieces out of it:
called with a generator they are data for `helpers.renderer.train.Trainer`, and by index they give
the same piece each time, for validation.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np

from ..io import AXES
from ..noise import to_electrons

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
    >>> tifffile.imwrite(path, np.full((4, 8, 9), 145, "uint16"))
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
        """Frame k in photo-electrons, (Y, X) float32; negative k count from the end."""
        if not -len(self) <= k < len(self):
            raise IndexError(f"frame {k} of {self.path}, which has {len(self)}")
        frame = np.asarray(self._read(int(k) % len(self)), dtype=np.float32)
        return np.asarray(to_electrons(frame, self.gain, self.offset), dtype=np.float32)

    def __array__(self, dtype=None, copy=None):
        """All frames in photo-electrons, (N, Y, X) float32: ``numpy.asarray(stack)``."""
        return np.stack([self[k] for k in range(len(self))]).astype(dtype or np.float32)

    def __repr__(self):
        return f"Stack({self.path.name}: {' x '.join(map(str, self.shape))}, {self.dtype})"


class Crops:
    """Pieces of a stack or volume, with the place that each was cut from.

    Parameters
    ----------
    source : Stack or (N, Y, X) array
        Frames, or the slices of a volume.
    shape : (int, int) or (int, int, int)
        (Y, X): pieces of single frames. (Z, Y, X): pieces of the volume.
    n : int
        How many pieces there are by index.
    seed : int
        Of the pieces by index.

    Raises
    ------
    ValueError
        A piece larger than the source.

    Examples
    --------
    >>> crops = Crops(np.arange(6 * 16 * 16).reshape(6, 16, 16), (2, 8, 8), n=4, seed=1000)
    >>> piece, place = crops[3]
    >>> piece.shape, bool((crops[3][0] == piece).all())
    ((2, 8, 8), True)
    >>> pieces, places = crops(5, np.random.default_rng(0))
    >>> pieces.shape, places.shape
    ((5, 2, 8, 8), (5, 3))
    """

    def __init__(self, source, shape, *, n=1, seed=0):
        self.source, self.shape = source, tuple(int(size) for size in shape)
        self.n, self.seed = int(n), int(seed)
        whole = tuple(source.shape)
        block = (1,) * (3 - len(self.shape)) + self.shape
        fits = len(whole) == len(block) == 3 and min(block) > 0
        if not fits or any(b > w for b, w in zip(block, whole, strict=True)):
            raise ValueError(f"pieces {self.shape} of a stack {whole}: make them fit")
        self._block = block
        self._room = np.array(whole) - block + 1

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        """Piece k and its place (z, y, x), the same in every run."""
        if not 0 <= k < self.n:
            raise IndexError(f"piece {k} of {self.n}")
        return self.draw(np.random.default_rng((self.seed, k)))

    def __call__(self, n, rng):
        """Draw n pieces (n, ...) and their places (n, 3), the first pixel of each."""
        pieces, places = zip(*(self.draw(rng) for _ in range(n)), strict=True)
        return np.stack(pieces), np.stack(places)

    def draw(self, rng):
        """Draw one piece and its place: frame or slice, row and column of its first pixel."""
        place = rng.integers(self._room)
        return self.cut(self.source, place), place

    def cut(self, source, place):
        """Cut the piece at a place out of a source, which may be another one of that shape."""
        z, y, x = (int(start) for start in place)
        depth, height, width = self._block
        piece = np.stack([source[k][y : y + height, x : x + width] for k in range(z, z + depth)])
        return piece.reshape(self.shape).astype(np.float32, copy=False)


class Pairs:
    """Pieces of a noisy stack with the same pieces of a clean one.

    Parameters
    ----------
    noisy : Stack or (N, Y, X) array
    clean : Stack or (N, Y, X) or (1, Y, X) array
        One frame serves for all noisy frames of a still scene.
    shape : (int, int)
        (Y, X) of a piece.
    n, seed : int
        See `Crops`.

    Raises
    ------
    ValueError
        Stacks of different shapes, or a piece larger than they are.

    Notes
    -----
    As data of a `Trainer` the noisy pieces are images and the clean ones what belongs to them:
    `helpers.renderer.blindspot.BlindSpot` learns to predict these. To denoise without truth, only
    look at the clean ones afterwards.

    Examples
    --------
    >>> frames = np.random.default_rng(0).random((4, 16, 16))
    >>> noisy, clean = Pairs(frames + 1, frames, (8, 8))[0]
    >>> bool(np.allclose(noisy, clean + 1))
    True
    """

    def __init__(self, noisy, clean, shape, *, n=1, seed=0):
        self.clean = clean
        self._crops = Crops(noisy, shape, n=n, seed=seed)
        sizes = [s.shape for s in (noisy, clean)]
        self._shared = sizes[1][0] == 1
        if sizes[0][1:] != sizes[1][1:] or sizes[1][0] not in (1, sizes[0][0]):
            raise ValueError(
                f"the noisy stack is {sizes[0]} but the clean one {sizes[1]}: give frames of one "
                "shape, as many of them or a single clean one"
            )

    def __len__(self):
        return len(self._crops)

    def __getitem__(self, k):
        """Noisy and clean piece k, the same in every run."""
        return self._with_clean(*self._crops[k])

    def __call__(self, n, rng):
        """Draw n pairs of pieces, both (n, Y, X)."""
        drawn = [self._with_clean(*self._crops.draw(rng)) for _ in range(n)]
        noisy, clean = zip(*drawn, strict=True)
        return np.stack(noisy), np.stack(clean)

    def _with_clean(self, piece, place):
        at = (0, *place[1:]) if self._shared else place
        return piece, self._crops.cut(self.clean, at)


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
