r"""Ask a field for voxels: any number of them, any box, any span of time.

A field is a function, so only the voxels that are asked for are computed. Derived in
:doc:`/book/inr/05_dynamics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .archive import SequenceArchive
from .fields.encodings import box

__all__ = ["render", "render_sequence"]

CHUNK = 2**21  # voxels on the device at once


def render(
    field: nn.Module,
    size: Sequence[int],
    roi: Sequence[int] | None = None,
    one_based: bool = False,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Evaluate a field on a grid of any size, or in a box of that grid.

    Parameters
    ----------
    field : Field or Voxels
        On any device.
    size : (Z, Y, X)
        Voxels along each axis of the whole volume. The extent of the field stays: twice as many
        voxels are half as large.
    roi : [x, y, z, w, h, d], optional
        Corner and size of the box that is wanted, in voxels of `size`, x first.
    one_based : bool
        The corner is counted from 1, as in the published program, not from 0.
    chunk : int
        Voxels that are computed at once: bounds the memory beside the result.

    Returns
    -------
    (Z, Y, X) float32 array
        Or (d, h, w) for a box: with a coordinate network, bit for bit the crop of the whole. A
        complex contrast has an axis of 2 in front.

    Raises
    ------
    ValueError
        A size that is not three positive whole numbers; a box that is empty or leaves the volume.

    Examples
    --------
    >>> from helpers.inr.fields import paper_field
    >>> field = paper_field("cryo", generator=torch.Generator().manual_seed(0))
    >>> whole = render(field, (8, 12, 10))
    >>> part = render(field, (8, 12, 10), roi=[1, 2, 3, 6, 5, 4], one_based=True)
    >>> part.shape, bool((part == whole[2:6, 1:6, 0:6]).all())
    ((4, 5, 6), True)
    """
    corner, shape = _place(size, roi, one_based)
    channels = getattr(field, "channels", 1)
    parts = () if channels == 1 else (channels,)
    out = np.empty((*parts, *shape), np.float32)
    for part in _slabs(shape, chunk):
        first = [c + p for c, p in zip(corner, part[:3], strict=True)]
        with torch.no_grad():
            values = cast(Any, field).volume((*parts, *size), (*first, *part[3:]))
        z, y, x = box(shape, part)
        out[..., z, y, x] = values.detach().cpu().numpy()
    return out


def render_sequence(
    archive: SequenceArchive,
    t_range: Sequence[int] | None = None,
    roi: Sequence[int] | None = None,
    *,
    size: Sequence[int] | None = None,
    one_based: bool = False,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Evaluate a span of frames of an archive, in a box if one is given.

    Parameters
    ----------
    archive : SequenceArchive
        From `helpers.inr.archive.load`, or any sequence of fields with a ``shape``.
    t_range : (first, last), optional
        Frames: as everywhere in Python, counted from 0 and without the last. With `one_based`, as
        in the published program, counted from 1 and with the last. Default: all.
    roi, one_based, chunk
        As in `render`.
    size : (Z, Y, X), optional
        As in `render`. Default: the shape that was reconstructed.

    Returns
    -------
    (T, Z, Y, X) float32 array

    Raises
    ------
    ValueError
        No frame in the range, or frames that the archive does not have; else as in `render`.
    """
    size = archive.shape if size is None else size
    frames = _frames(len(archive), t_range, one_based)
    _, shape = _place(size, roi, one_based)
    out = np.empty((len(frames), *shape), np.float32)
    for volume, t in zip(out, frames, strict=True):
        volume[:] = render(archive[t], size, roi, one_based, chunk)
    return out


def _place(
    size: Sequence[int], roi: Sequence[int] | None, one_based: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Corner counted from 0 and shape, both (z, y, x), of a checked box."""
    whole = box(size)
    if roi is None:
        return (0, 0, 0), tuple(part.stop for part in whole)
    if len(roi) != 6 or any(int(n) != n for n in roi):
        raise ValueError(f"roi is {list(roi)}: expected six whole numbers [x, y, z, w, h, d]")
    corner, shape = [int(n) for n in roi[:3]], [int(n) for n in roi[3:]]
    base = int(one_based)
    for axis, first, length, part in zip("xyz", corner, shape, whole[::-1], strict=True):
        if length < 1:
            raise ValueError(f"roi is empty along {axis}: its size is {length}, at least 1")
        if first < base or first - base + length > part.stop:
            raise ValueError(
                f"roi leaves the volume along {axis}: voxels {first} to {first + length - 1}, but "
                f"counted from {base} the volume has {base} to {part.stop - 1 + base}"
            )
    return tuple(first - base for first in corner[::-1]), tuple(shape[::-1])


def _frames(n: int, t_range: Sequence[int] | None, one_based: bool) -> range:
    if t_range is None:
        return range(n)
    if len(t_range) != 2 or any(int(t) != t for t in t_range):
        raise ValueError(f"t_range is {t_range}: expected two whole numbers (first, last)")
    first, last = int(t_range[0]), int(t_range[1])
    counted = "counted from 1, the last included" if one_based else "counted from 0, the last not"
    frames = range(first - 1, last) if one_based else range(first, last)
    if len(frames) == 0:
        raise ValueError(f"t_range {first} to {last} holds no frame ({counted}): make it longer")
    if frames.start < 0 or frames.stop > n:
        end = f"1 to {n}" if one_based else f"0 to {n}"
        raise ValueError(
            f"t_range {first} to {last} leaves the sequence ({counted}): at most {end} for its "
            f"{n} frames"
        )
    return frames


def _slabs(shape: Sequence[int], chunk: int) -> Iterator[tuple[int, ...]]:
    """Boxes of at most `chunk` voxels that fill `shape`: whole planes, or rows of one plane."""
    if chunk < shape[2]:
        raise ValueError(f"chunk is {chunk}: at least a row, {shape[2]} voxels")
    rows = chunk // shape[2]
    depth, height = (rows // shape[1], shape[1]) if rows >= shape[1] else (1, rows)
    for z in range(0, shape[0], depth):
        for y in range(0, shape[1], height):
            yield z, y, 0, min(depth, shape[0] - z), min(height, shape[1] - y), shape[2]
