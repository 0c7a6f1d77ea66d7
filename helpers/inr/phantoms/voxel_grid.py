"""The grid that a phantom is drawn on: where its voxels lie, and how fine ones merge to coarse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def axes_of(shape: Sequence[int], voxel_size: Sequence[float]) -> list[np.ndarray]:
    """Places of the sample centres along each axis, from the centre of the field.

    Examples
    --------
    >>> axes_of((2, 3), (1.0, 0.5))
    [array([-0.5,  0.5]), array([-0.5,  0. ,  0.5])]
    """
    return [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, voxel_size, strict=True)]


def field_size(shape: Sequence[int], voxel_size: Sequence[float]) -> np.ndarray:
    """Size of the field, in the unit of `voxel_size`, once both are known to be sound.

    Raises
    ------
    ValueError
        Not three whole numbers above zero, or not three lengths above zero.
    """
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"shape is {shape}: give three whole numbers (Z, Y, X)")
    if np.shape(voxel_size) != (3,) or not all(0 < d < np.inf for d in voxel_size):
        raise ValueError(f"voxel_size is {voxel_size}: give three lengths (z, y, x)")
    return np.multiply(shape, voxel_size)


def binned(fine: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Mean over blocks of `factors` samples along the axes.

    Examples
    --------
    >>> binned(np.arange(8.0).reshape(2, 4), (2, 2))
    array([[2.5, 4.5]])
    """
    blocks = [k for n, f in zip(fine.shape, factors, strict=True) for k in (n // f, f)]
    return fine.reshape(blocks).mean(axis=tuple(range(1, 2 * fine.ndim, 2)))
