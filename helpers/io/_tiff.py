"""TIFF files kept open: pages found once, checked to be whole, and read when asked for."""

from __future__ import annotations

import struct
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ._calibration import AXES, calibration_of_tiff
from ._lazy import Lazy, Opened, Planes, Source

AT_ONCE = 32  # open files of one series
NAMES = {"I": "T", "Q": "T", "R": "T", "S": "S"}  # tifffile's letters for axes without a meaning


def open_tiff(path: Path) -> Opened:
    """Open a TIFF file as a lazy source, in the order of axes of the file; see `Opened`.

    No TIFF, one that stops in the middle, and images that are not grey are errors.
    """
    import tifffile

    source: Source
    try:
        file = tifffile.TiffFile(path)
    except Exception as error:  # tifffile meets a broken file with many kinds of error
        raise ValueError(
            f"{path} stops within its first page, or is no TIFF ({error}): copy it again"
        ) from error
    stack = ExitStack()
    stack.callback(file.close)
    try:
        _check_whole(path, file)
        series = _series(path, file)
        axes = _axes(path, series)
        calibration = calibration_of_tiff(file)
        dtype = series.dtype.newbyteorder(file.byteorder)
        # a series of several files, as OME allows, lies in none of them alone
        alone = all(page is not None and page.parent is file for page in _samples(series))
        if series.dataoffset is not None and alone:
            source = Lazy(np.memmap(path, dtype, "r", series.dataoffset, series.shape))
        else:
            pages = _Pages(series)
            stack.callback(pages.close)
            source = Planes(pages, series.shape, dtype.newbyteorder("="))
    except BaseException:
        stack.close()
        raise
    return source, axes, calibration, stack.close


def _series(path: Path, file: Any) -> Any:
    """The first series of a file, or the movie of all where each page was written by itself."""
    import tifffile

    found = file.series
    first = found[0]
    if len(found) == 1 or file.is_ome:  # the images of an OME file are of several places
        return first
    if len(first.shape) == 2 and len({(s.shape, s.dtype) for s in found}) == 1:
        pages = [series.pages[0] for series in found]
        return tifffile.TiffPageSeries(pages, (len(pages), *first.shape), first.dtype, "TYX")
    warnings.warn(
        f"{path} holds {len(found)} images of several shapes: the first, {first.shape}, is opened",
        stacklevel=5,
    )
    return first


class _Pages:
    """Reads page n of a series; safe to call from several threads."""

    def __init__(self, series: Any) -> None:
        self.pages, self.lock = list(series.pages), threading.RLock()
        self.others: dict[int, Any] = {}
        self.empty = np.zeros(series.shape[-2:], series.dtype)

    def __call__(self, n: int) -> np.ndarray:
        page = self.pages[n]
        if page is None:  # a plane that an OME file names and does not hold
            return self.empty
        handle = page.parent.filehandle
        if not handle.closed:
            return page.asarray(lock=self.lock, maxworkers=1)
        with self.lock:  # another file of the series
            self.open(handle)
            return page.asarray(maxworkers=1)

    def open(self, handle: Any) -> None:
        """Open another file of the series, and close the one that was opened first of too many."""
        if len(self.others) >= AT_ONCE:
            self.others.pop(next(iter(self.others))).close()
        handle.open()
        self.others[id(handle)] = handle

    def close(self) -> None:
        """Close the other files of the series."""
        for handle in self.others.values():
            handle.close()


def _axes(path: Path, series: Any) -> str:
    """Axes of a series in letters of the book, or a ValueError for images that are not grey."""
    shape, axes = series.shape, series.axes
    letters = [NAMES.get(letter, letter) for letter in axes]
    for k, letter in enumerate(letters):  # the second axis without a meaning becomes a channel, ...
        if letter in letters[:k] or letter not in AXES:
            free = [a for a in AXES[:-2] if a not in letters]
            letters[k] = free[0] if free and letter != "S" else letter
    if len(shape) < 2 or axes[-2:] != "YX" or not set(letters) <= set(AXES):
        known = f"its axes are {axes}, use letters of {AXES} with YX at the end"
        raise ValueError(f"{path} holds {shape}, no grey images: {known}")
    return "".join(letters)


def _samples(series: Any) -> list[Any]:
    pages = series.pages
    return [pages[k] for k in {0, len(pages) // 2, len(pages) - 1}]


def _check_whole(path: Path, file: Any) -> None:
    """Raise a ValueError that names the first page whose data or directory is not there.

    Every directory is read here, once, and kept: by its place and length alone where all pages are
    like the first.
    """
    import tifffile

    pages, size, missing = file.pages, file.filehandle.size, None
    pages.cache = True
    n_pages = len(pages)
    pages.useframes = n_pages > 1 and not file.is_lsm
    k = 0
    while k < n_pages and missing is None:
        try:
            page = pages[k]
            ends = [a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True)]
        except tifffile.TiffFileError:
            missing = k
        except (RuntimeError, ValueError, struct.error):
            if not pages.useframes:
                raise
            pages.useframes = False  # this page is not like the first: it is read in full
            continue
        else:
            missing = k if max(ends, default=0) > size else None
            k += 1
    pages.useframes = False
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


def _chain_ends(file: Any) -> bool:
    """True if the directory of the last page says that no other one follows."""
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
