"""Stacks of images in files, opened without being loaded, and indexed as arrays are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array
from ..noise.readout import to_electrons
from ._formats import (
    HDF5,
    MRC,
    TIFF,
    TIFF_STARTS,
    in_order,
    open_h5,
    open_mat,
    open_mrc,
    open_npy,
    open_npz,
    open_raw,
    open_slices,
    open_vendor,
    open_zarr,
)
from ._lazy import Joined, Opened, Positions, Source, read
from ._tiff import open_tiff

if TYPE_CHECKING:
    import dask.array

CHUNK = 2**24  # bytes of a chunk of `to_dask`


class Stack:
    """Images of a file as an array that is read where it is indexed.

    Parameters
    ----------
    path : str or Path
        TIFF, BigTIFF, ImageJ or OME-TIFF; Zarr or OME-Zarr; ``.npy``, ``.npz``; ``.h5``;
        ``.mat``, in which images lie along the last axis; ``.mrc``, ``.st``, ``.ali``, ``.rec``;
        a ``.raw`` movie of Picasso beside its ``.yaml``; a zip file or folder with one TIFF or PNG
        a slice, in natural order, ``z2`` before ``z10``. Files of vendors through bioio or pims,
        where they are installed. Data that are not compressed are memory-mapped; of the others,
        what is asked for is read; an array of ``.npz`` or ``.mat`` is loaded.
    gain : float or array (Y, X), optional
        ADU per photo-electron. With a gain or an offset the stack gives photo-electrons as
        float32, else what is in the file.
    offset : float or array (Y, X), optional
        ADU without light.
    dataset : str, optional
        Name of the images in an HDF5, NPZ or MATLAB file that holds several.

    Attributes
    ----------
    shape : tuple of int
        In the order of `axes`, without axes of length one; a single image has one leading axis.
    axes : str
        Letters of "TCZYX", in that order. Without metadata a movie is "TYX".
    dtype : numpy.dtype
        Of what indexing gives.
    calibration : Calibration
        `pixel_size`, `pixel_size_y` and `z_step` in `unit`, `time_step` in seconds,
        `channel_names`; each is also an attribute of the stack, None where the file does not say.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A file that stops in the middle: the first page that is missing is named; slices of
        different shapes; no grey images; a format that another package reads: its name is said.

    Notes
    -----
    The file stays open until `close`, or the end of a ``with`` block. Threads may read at the
    same time. A pickled stack opens its file again, so that processes of Dask may have it.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> path = Path(tempfile.mkdtemp()) / "movie.tif"
    >>> tifffile.imwrite(path, np.full((4, 8, 9), 145, "uint16"), photometric="minisblack")
    >>> stack = Stack(path, gain=0.45, offset=100)
    >>> stack
    Stack(movie.tif: 4 x 8 x 9, float32, TYX)
    >>> stack[0].mean().item(), stack[1:3, ..., 4].shape, len(stack)
    (100.0, (2, 8), 4)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        gain: float | Array | None = None,
        offset: float | Array | None = None,
        dataset: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.gain, self.offset, self.dataset = gain, offset, dataset
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist: check the name and the folder")
        source, axes, self.calibration, self._close = _open(self.path, dataset)
        source, self.axes = in_order(source, axes)
        if len(source.shape) == 2:
            source, self.axes = Joined(source), "T" + self.axes
        self._set(source)

    def _set(self, source: Source) -> None:
        self._source: Any = source
        self.shape = source.shape
        raw = self.gain is None and self.offset is None
        self.dtype = source.dtype if raw else np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of pixels in all."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole stack in memory."""
        return self.size * self.dtype.itemsize

    @property
    def pixel_size(self) -> float | None:
        """Size of a pixel along x, in `unit`."""
        return self.calibration.pixel_size

    @property
    def pixel_size_y(self) -> float | None:
        """Size of a pixel along y, in `unit`."""
        return self.calibration.pixel_size_y

    @property
    def unit(self) -> str:
        """Unit of the sizes; "px" without a calibration."""
        return self.calibration.unit

    @property
    def z_step(self) -> float | None:
        """Distance of two slices, in `unit`."""
        return self.calibration.z_step

    @property
    def time_step(self) -> float | None:
        """Seconds from one time to the next."""
        return self.calibration.time_step

    @property
    def channel_names(self) -> tuple[str, ...] | None:
        """Names of the channels."""
        return self.calibration.channel_names

    @property
    def frames(self) -> Stack:
        """The same images as (N, Y, X): all leading axes are joined, the last runs fastest."""
        if self.ndim == 3:
            return self
        joined = object.__new__(_Frames)
        joined.__dict__ |= self.__dict__
        joined.axes = "TYX"
        joined._set(Joined(self._source))
        return joined

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a part, by any index of NumPy."""
        if self._source is None:
            raise ValueError(f"{self.path} is closed: open it again, or index inside `with`")
        try:
            return read(self._source, index, self._electrons)
        except IndexError as error:
            raise IndexError(f"{error}, in {self!r}") from error

    def _electrons(self, block: np.ndarray, positions: Positions) -> np.ndarray:
        if self.gain is None and self.offset is None:
            return block
        gain, offset = (
            default if value is None else _cut(value, positions[-2:], self.shape[-2:])
            for value, default in ((self.gain, 1.0), (self.offset, 0.0))
        )
        return np.asarray(to_electrons(block.astype(np.float32), gain, offset), np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All images: ``numpy.asarray(stack)``."""
        if copy is False:
            raise ValueError(f"{self!r} lies in a file: reading it makes a copy")
        return self[...].astype(dtype or self.dtype, copy=False)

    def to_dask(self, chunks: int | tuple[int, ...] | str | None = None) -> dask.array.Array:
        """Give the stack as a Dask array that reads its chunks when they are computed.

        Parameters
        ----------
        chunks : int, tuple or str, optional
            As for `dask.array.from_array`; left out, whole images, 16 MiB together.

        Returns
        -------
        dask.array.Array
        """
        from dask import array

        if chunks is None:
            image = self.dtype.itemsize * self.shape[-1] * self.shape[-2]
            room, chunks = max(1, CHUNK // image), self.shape[-2:]
            for n in reversed(self.shape[:-2]):
                chunks = (min(n, room), *chunks)
                room = max(1, room // n)
        meta = np.empty((0,) * self.ndim, self.dtype)
        return array.from_array(self, chunks=chunks, meta=meta, asarray=False)

    def close(self) -> None:
        """Close the file. Indexing is an error afterwards."""
        self._source = None
        self._close()

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self.path, self.gain, self.offset, self.dataset)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        stat = self.path.stat()
        name = str(self.path.resolve()), stat.st_mtime_ns, stat.st_size
        return (type(self).__name__, *name, self.gain, self.offset, self.dataset)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"Stack({self.path.name}: {shape}, {self.dtype}, {self.axes})"


def open_stack(path: str | Path, **options: Any) -> Stack:
    """Open a file as a `Stack`, which has the options.

    Parameters
    ----------
    path : str or Path
    **options : Any
        `gain`, `offset`, `dataset`.
    """
    return Stack(path, **options)


class _Frames(Stack):
    """A `Stack` whose leading axes are joined."""


def _reopened(kind: type[Stack], path: Path, gain: Any, offset: Any, dataset: str | None) -> Stack:
    stack = Stack(path, gain=gain, offset=offset, dataset=dataset)
    return stack.frames if kind is _Frames else stack


def _cut(value: Any, positions: Positions, shape: tuple[int, ...]) -> Any:
    """The part of a value for each pixel that belongs to a block; a number stays one."""
    if np.ndim(value) == 0:
        return value
    return np.broadcast_to(value, shape)[np.ix_(*positions)]


def _open(path: Path, dataset: str | None) -> Opened:
    end = path.suffix.lower()
    names = {p.name for p in path.iterdir()} if path.is_dir() else set()
    if names & {"zarr.json", ".zgroup", ".zarray"} or end == ".zarr":
        return open_zarr(path)
    if path.is_dir() or end == ".zip":
        return open_slices(path)
    if end in HDF5:
        return open_h5(path, dataset)
    if end == ".npy":
        return open_npy(path)
    if end == ".npz":
        return open_npz(path, dataset)
    if end == ".mat":
        return open_mat(path, dataset)
    if end in MRC:
        return open_mrc(path)
    if end == ".raw" and path.with_suffix(".yaml").exists():
        return open_raw(path)
    with path.open("rb") as file:
        start = file.read(4)
    if end in TIFF or start in TIFF_STARTS:
        return open_tiff(path)
    if end == ".raw":
        return open_raw(path)  # says that its YAML is missing
    return open_vendor(path)
