"""Volumes larger than memory: tile by tile, from one file into another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..._arrays import Array, to_numpy
from ...io.files import atomic_path
from .blur import Blur


@dataclass(frozen=True)
class Tiles:
    """Result of `by_tiles`.

    Attributes
    ----------
    path : Path
        The file; ``np.load(path, mmap_mode="r")`` reads it without loading it.
    shape : tuple of int
        Of the volume in it.
    n_tiles : int
        How many were solved.
    seam : float
        RMS difference of neighbouring tiles where both know the answer, in the first layer beyond
        their border, over the RMS of the volume there. NaN for a single tile.
    largest : tuple of int
        The largest object that was in memory, with its overlap and margin.
    """

    path: Path
    shape: tuple
    n_tiles: int
    seam: float
    largest: tuple


def by_tiles(
    counts: np.ndarray,
    kernel: Array,
    solve: Callable[[Blur, np.ndarray], Any],
    path: str | Path,
    *,
    tile: int | Sequence[int] = 64,
    reach: int | Sequence[int] | None = None,
    progress: bool = False,
) -> Tiles:
    """Deconvolve a volume of any size with bounded memory, into a file.

    Parameters
    ----------
    counts : array (Z, Y, X), or (Y, X)
        Photo-electrons. A memory map, such as ``np.load(path, mmap_mode="r")``, is read tile by
        tile.
    kernel : array or tensor
        As for `Blur`.
    solve : callable
        ``solve(op, counts)`` gives a `Deconvolution`, or the volume alone, such as
        ``lambda op, y: map_tv(op, y, weight, background)``.
    path : str or Path
        The ``.npy`` file to write, float32. It appears when all is done; until then an older file
        stays.
    tile : int or tuple of int
        Size of the part that each run adds to the result.
    reach : int or tuple of int, optional
        Voxels that neighbouring tiles share at each side, and as many beyond that take up light
        from outside. Default: the radius of the kernel. A widefield kernel reaches across any
        field: give what memory allows, and look at `seam`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tiles

    Raises
    ------
    ValueError
        NaN or negative counts, found in a first pass; sizes that make no sense; an answer of
        another shape; a name that does not end in ``.npy``.

    Notes
    -----
    Shown in :doc:`/book/renderer/06_deconvolve`.

    Examples
    --------
    >>> import tempfile
    >>> from helpers.renderer.deconvolve import richardson_lucy
    >>> counts = np.random.default_rng(0).poisson(20.0, (20, 24)).astype(np.float32)
    >>> target = Path(tempfile.mkdtemp()) / "result.npy"
    >>> done = by_tiles(counts, np.ones((3, 3)) / 9, lambda op, y: richardson_lucy(op, y, 5),
    ...                 target, tile=12)
    >>> done.n_tiles, np.load(target).shape
    (4, (20, 24))
    """
    path, shape = Path(path), tuple(counts.shape)
    if path.suffix != ".npy":
        raise ValueError(f"path is {path}: give a name that ends in .npy")
    cores, around = plan(shape, kernel, tile, reach)
    for core in cores:
        part = np.asarray(counts[core])
        if not np.isfinite(part).all() or part.min() < 0:
            raise ValueError(
                f"the counts hold NaN or negative values between {_corners(core)}: replace them, "
                "or solve that part by itself with mask="
            )
    layers, largest = [], (0,) * len(shape)
    with atomic_path(path) as temporary:
        result = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for core in tqdm(cores, desc="tiles", disable=not progress):
            volume, inner = solve_tile(counts, core, around, kernel, solve)
            with_margin = tuple(n + 2 * m for n, m in zip(volume.shape, around, strict=True))
            largest = max(largest, with_margin, key=np.prod)
            result[core] = volume[inner]
            layers += _layers(core, inner, volume)
        pairs = [(layer, result[place]) for place, layer in layers]
        seam = _relative_difference(pairs)
        result.flush()
        del result, pairs
    return Tiles(path, shape, len(cores), seam, largest)


def plan(
    shape: Sequence[int],
    kernel: Array,
    tile: int | Sequence[int],
    reach: int | Sequence[int] | None,
) -> tuple[list[tuple[slice, ...]], tuple[int, ...]]:
    """Tiles that cover a field, and what each sees around it; see `by_tiles`.

    Returns
    -------
    cores : list of tuple of slice
    around : tuple of int
        One number for each axis.
    """
    shape = tuple(shape)
    whole = Blur(kernel, shape)  # checks the kernel against the volume
    sizes = _per_axis(tile, shape, "tile", least=1)
    radius = [k // 2 for k in whole.kernel.shape]
    around = _per_axis(radius if reach is None else reach, shape, "reach", least=0)
    starts = [range(0, n, t) for n, t in zip(shape, sizes, strict=True)]
    cores = [
        tuple(slice(s, min(s + t, n)) for s, t, n in zip(corner, sizes, shape, strict=True))
        for corner in itertools.product(*starts)
    ]
    return cores, around


def solve_tile(
    counts: Any,
    core: tuple[slice, ...],
    around: Sequence[int],
    kernel: Array,
    solve: Callable[[Blur, np.ndarray], Any],
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Solve one tile with what lies around it; see `by_tiles`.

    Returns
    -------
    volume : array
        Of the tile with its surroundings.
    inner : tuple of slice
        The tile in it.
    """
    outer = tuple(
        slice(max(c.start - r, 0), min(c.stop + r, n))
        for c, r, n in zip(core, around, counts.shape, strict=True)
    )
    data = np.ascontiguousarray(counts[outer])
    volume = solve(Blur(kernel, data.shape, margin=around), data)
    volume = to_numpy(getattr(volume, "volume", volume))
    if volume.shape != data.shape:
        raise ValueError(f"solve gave {volume.shape} for counts of {data.shape}")
    offset = [c.start - o.start for c, o in zip(core, outer, strict=True)]
    size = [c.stop - c.start for c in core]
    inner = tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))
    return volume, inner


def _layers(core, inner, volume):
    """The first layer beyond the core at the upper side of each axis, and where it lies."""
    for axis, (c, i) in enumerate(zip(core, inner, strict=True)):
        if i.stop < volume.shape[axis]:
            place = (*core[:axis], slice(c.stop, c.stop + 1), *core[axis + 1 :])
            local = (*inner[:axis], slice(i.stop, i.stop + 1), *inner[axis + 1 :])
            yield place, volume[local].copy()


def _relative_difference(pairs):
    if not pairs:
        return float("nan")
    squares = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    return float(np.sqrt(squares / sum(float(np.square(b).sum()) for _, b in pairs)))


def _per_axis(value, shape, name, *, least):
    sizes = (value,) * len(shape) if np.ndim(value) == 0 else tuple(value)
    if len(sizes) != len(shape) or any(n != int(n) or n < least for n in sizes):
        raise ValueError(f"{name} is {value}: give whole numbers of at least {least}, one per axis")
    return tuple(int(n) for n in sizes)


def _corners(core):
    return f"{tuple(s.start for s in core)} and {tuple(s.stop for s in core)}"
