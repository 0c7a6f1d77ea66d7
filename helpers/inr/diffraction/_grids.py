"""Coarser voxels behind a camera whose pixels are merged, and the reach of a point on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def check_factor(factor: int, sizes: Sequence[int]) -> int:
    """The factor as a whole number; ValueError where the sizes do not divide by it."""
    if factor != int(factor) or factor < 1:
        raise ValueError(f"factor is {factor}: give a whole number, 1 or more")
    if any(n % int(factor) for n in sizes):
        raise ValueError(
            f"sizes {tuple(sizes)} do not divide by {factor}: crop the images, or leave out the "
            "coarse stage"
        )
    return int(factor)


def refined(spectrum: torch.Tensor, factor: int) -> torch.Tensor:
    """Spectrum (..., Y, X) of the same function on a grid `factor` times as fine.

    A coarse sample lies in the middle of its fine ones; what is finer than the coarse grid is zero.
    """
    if factor == 1:
        return spectrum
    for axis in (-2, -1):
        n = factor * spectrum.shape[axis]
        cycles = _cycles(spectrum.shape[axis], spectrum.device)
        turn = cycles.to(spectrum.real.dtype) * (math.pi * (1 - factor) / n)
        turn = factor * torch.polar(torch.ones_like(turn), turn)
        turned = spectrum * (turn[:, None] if axis == -2 else turn)
        shape = [*spectrum.shape]
        shape[axis] = n
        spectrum = spectrum.new_zeros(shape).index_copy(axis, cycles % n, turned)
    return spectrum


def coarser(spectrum: torch.Tensor, factor: int) -> torch.Tensor:
    """The frequencies of a spectrum (..., Y, X) that a grid `factor` times as coarse has too."""
    for axis in (-2, -1):
        n = spectrum.shape[axis]
        kept = _cycles(n // factor, spectrum.device) % n
        spectrum = spectrum.index_select(axis, kept)
    return spectrum


def merged(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Means of `factor` x `factor` pixels of images (L, Y, X)."""
    return images if factor == 1 else F.avg_pool2d(images[:, None], factor)[:, 0]


def inner(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle of images (L, Y, X), without the margins that a block has."""
    rows, columns = (
        slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(images.shape[1:], size, strict=True)
    )
    return images[:, rows, columns]


def merging(cycles: torch.Tensor, n: int, factor: int) -> torch.Tensor:
    """Share of waves, by their cycles in `n` pixels, that the mean of `factor` pixels leaves."""
    half = math.pi * cycles / n
    return torch.where(cycles == 0, 1.0, (factor * half).sin() / (factor * half.sin()))


def reach(spectrum: torch.Tensor, energy: float) -> int:
    """Pixels on each side of a point within which lies a share of the energy of its images.

    The images (Z, Y, X), one for each depth, are given by their frequencies.
    """
    light = torch.fft.ifft2(spectrum).abs().square()
    y, x = (_cycles(n, light.device).abs() for n in light.shape[1:])
    away = torch.maximum(y[:, None], x).flatten()
    rings = light.new_zeros(len(light), int(away.max()) + 1).index_add(1, away, light.flatten(1))
    inside = rings.cumsum(1)
    enough = inside >= energy * inside[:, -1:]
    return int(enough.int().argmax(1).max())


def _cycles(n: int, device: torch.device) -> torch.Tensor:
    """Whole cycles of the frequencies of an FFT of `n` numbers, in its order."""
    return torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device="cpu").round().long().to(device)
