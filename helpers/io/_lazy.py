"""Arrays that are read when they are indexed, with the indexing of NumPy.

A source has `shape`, `dtype` and ``outer(positions)``: for each axis the positions that are asked
for, rising and without repeats, in; the block where they cross out. `read` turns any index of
NumPy into such a block and an index into it, so that the rules of indexing stay NumPy's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Protocol, TypeAlias

import numpy as np

Positions: TypeAlias = Sequence[np.ndarray]


class Source(Protocol):
    """Array of images that is read at the crossing of positions."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def outer(self, positions: Positions) -> np.ndarray:
        """Block at the crossing of positions."""


Opened: TypeAlias = tuple[Source, str, Any, Callable[[], object]]
"""Source, a letter for each of its axes, `Calibration`, and the function that closes the file."""


class Lazy:
    """Source of anything that can be sliced: a memory map, a data set of HDF5 or Zarr."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape = array, tuple(int(n) for n in array.shape)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")

    def outer(self, positions: Positions) -> np.ndarray:
        """Block at the crossing of positions."""
        if any(len(where) == 0 for where in positions):
            return np.empty([len(where) for where in positions], self.dtype)
        hulls = [_hull(where) for where in positions]
        # single frames from all over a movie: each on its own, never all between them
        runs = _runs(positions[0]) if hulls[0][1] is not None else [hulls[0][0]]
        first = [np.asarray(self.array[(run, *(hull for hull, _ in hulls[1:]))]) for run in runs]
        block = first[0] if len(first) == 1 else np.concatenate(first)
        for axis, (_, inside) in enumerate(hulls[1:], 1):
            block = block if inside is None else block.take(inside, axis)
        # what is mapped into memory is copied: a view would change with the file
        copy = isinstance(self.array, np.memmap) or block.dtype != self.dtype
        return block.astype(self.dtype) if copy else block


class Planes:
    """Source of a file that gives one plane (Y, X) at a time.

    Parameters
    ----------
    plane : callable
        ``plane(n)``: plane n, counted over all leading axes.
    shape : tuple of int
        (..., Y, X).
    dtype : numpy.dtype
    """

    def __init__(
        self, plane: Callable[[int], np.ndarray], shape: Sequence[int], dtype: Any
    ) -> None:
        self.plane, self.shape = plane, tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype).newbyteorder("=")

    def outer(self, positions: Positions) -> np.ndarray:
        """Block at the crossing of positions."""
        *leading, rows, columns = positions
        block = np.empty([len(where) for where in positions], self.dtype)
        if block.size == 0:
            return block
        inside = np.ix_(rows, columns)
        whole = block.shape[-2:] == self.shape[-2:]
        for place in product(*(range(len(where)) for where in leading)):
            at = [where[k] for where, k in zip(leading, place, strict=True)]
            n = int(np.ravel_multi_index(at, self.shape[:-2])) if at else 0
            plane = np.asarray(self.plane(n)).reshape(self.shape[-2:])
            block[place] = plane if whole else plane[inside]
        return block


class Reordered:
    """Source with its axes in another order, and without some of length one.

    Parameters
    ----------
    source : Lazy or Planes
    order : sequence of int
        Axes that stay, as by `numpy.transpose`.
    """

    def __init__(self, source: Source, order: Sequence[int]) -> None:
        self.source, self.order, self.dtype = source, tuple(order), source.dtype
        self.shape = tuple(source.shape[axis] for axis in self.order)

    def outer(self, positions: Positions) -> np.ndarray:
        """Block at the crossing of positions."""
        inner = [np.zeros(1, int)] * len(self.source.shape)
        for axis, where in zip(self.order, positions, strict=True):
            inner[axis] = where
        dropped = tuple(a for a in range(len(inner)) if a not in self.order)
        block = self.source.outer(inner).squeeze(dropped)
        left = sorted(self.order)
        return block.transpose([left.index(axis) for axis in self.order])


class Joined:
    """Source (N, Y, X) of one with more or fewer axes: all leading ones are joined."""

    def __init__(self, source: Source) -> None:
        self.source, self.dtype = source, source.dtype
        self.leading = source.shape[:-2]
        self.shape = (math.prod(self.leading), *source.shape[-2:])

    def outer(self, positions: Positions) -> np.ndarray:
        """Block at the crossing of positions."""
        frames, *inside = positions
        if len(self.leading) == 1:
            return self.source.outer(positions)
        block = np.empty([len(where) for where in positions], self.dtype)
        for k, n in enumerate(frames):
            at = np.unravel_index(int(n), self.leading) if self.leading else ()
            block[k] = self.source.outer([*(np.array([a]) for a in at), *inside]).reshape(
                block.shape[1:]
            )
        return block


def read(
    source: Source, index: Any, convert: Callable[[np.ndarray, Positions], np.ndarray] | None = None
) -> np.ndarray:
    """Read what a NumPy index asks for, and no more than the block about it.

    ``convert(block, positions)`` is applied before the index is.
    """
    index = _full(index, len(source.shape), source.shape)
    positions: list[np.ndarray] = []
    local: list[Any] = []
    axis = 0
    for part in index:
        if part is None:
            local.append(None)
            continue
        where, inside = _axis(part, source.shape[axis], axis)
        positions.append(where)
        local.append(inside)
        axis += 1
    block = source.outer(positions)
    if convert is not None:
        block = convert(block, positions)
    return block[tuple(local)]


def _full(index: Any, ndim: int, shape: tuple[int, ...]) -> list[Any]:
    """An index as a list with one part for each axis, and None for each new one."""
    parts: list[Any] = []
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, list) or (hasattr(part, "__array__") and not np.isscalar(part)):
            part = np.asarray(part)
            if part.size == 0 and part.dtype.kind == "f":
                part = part.astype(int)
        if isinstance(part, np.ndarray) and part.dtype == bool and part.ndim > 0:
            here = len([p for p in parts if p is not None and p is not Ellipsis])
            if Ellipsis not in [p for p in parts if not isinstance(p, np.ndarray)]:
                wanted = shape[here : here + part.ndim]
                if part.shape != tuple(wanted):
                    raise IndexError(f"a mask of shape {part.shape} on axes of shape {wanted}")
            parts += list(part.nonzero())
        else:
            parts.append(part)
    ellipses = [k for k, part in enumerate(parts) if part is Ellipsis]
    given = sum(part is not None and part is not Ellipsis for part in parts)
    if len(ellipses) > 1:
        raise IndexError("an index can have one ellipsis only")
    if given > ndim:
        raise IndexError(f"{given} indices for an array with {ndim} axes")
    at = ellipses[0] if ellipses else len(parts)
    rest = [slice(None)] * (ndim - given)
    return parts[:at] + rest + parts[at + 1 :]


def _axis(part: Any, size: int, axis: int) -> tuple[np.ndarray, Any]:
    """Positions on an axis, and the index that picks from them as `part` does from the axis."""
    if isinstance(part, slice):
        backwards = part.indices(size)[2] < 0
        chosen = np.arange(size)[part]
        return (chosen[::-1], slice(None, None, -1)) if backwards else (chosen, slice(None))
    if isinstance(part, np.ndarray) and part.ndim > 0:
        if part.dtype.kind not in "iu":
            raise IndexError(f"an array of {part.dtype} is no index: give integers or bools")
        if part.size and not (-size <= part.min() and part.max() < size):
            raise IndexError(f"indices {part.min()} to {part.max()} of axis {axis}, size {size}")
        chosen, inside = np.unique(part % size if size else part, return_inverse=True)
        return chosen.astype(np.intp), inside.reshape(part.shape)
    try:
        if isinstance(part, bool | np.bool_):
            raise TypeError
        k = part.__index__()
    except (AttributeError, TypeError):
        raise IndexError(
            f"{part!r} is no index: give integers, slices, ..., None, arrays of integers or bools"
        ) from None
    if not -size <= k < size:
        what = "frame" if axis == 0 else f"index of axis {axis},"
        raise IndexError(f"{what} {k} of {size}")
    return np.array([k % size]), 0


def _hull(where: np.ndarray) -> tuple[slice, np.ndarray | None]:
    """A slice over rising positions, and which of its members they are; None for all."""
    where = np.asarray(where)
    first, last = int(where[0]), int(where[-1])
    step = int(where[1]) - first if len(where) > 1 else 1
    if len(where) < 2 or (np.diff(where) == step).all():
        return slice(first, last + 1, step), None
    return slice(first, last + 1), where - first


def _runs(where: np.ndarray) -> list[slice]:
    """Slices over the neighbours among rising positions."""
    where = np.asarray(where)
    ends = np.flatnonzero(np.diff(where) > 1)
    starts = where[np.r_[0, ends + 1]]
    return [slice(int(a), int(b) + 1) for a, b in zip(starts, where[np.r_[ends, -1]], strict=True)]
