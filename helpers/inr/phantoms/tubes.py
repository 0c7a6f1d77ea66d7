r"""Bent tubes in micrometres that drift, wave and break, and how they are drawn on a grid.

The random walks and the motion behind `helpers.inr.phantoms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from .voxel_grid import axes_of

EDGE = 0.07  # width of a tube's sigmoid edge, in um


@dataclass(frozen=True)
class Tube:
    """A bent tube: `path` (N, 3) of (z, y, x) in um from the centre of the field, `radius` in um.

    `amplitude` is the brightness inside.
    """

    path: np.ndarray
    radius: float
    amplitude: float


def draw(tubes: Sequence[Tube], shape: Sequence[int], voxel_size: Sequence[float]) -> np.ndarray:
    """Brightness (Z, Y, X) at the voxel centres: where tubes cross, their light adds up."""
    axes = axes_of(shape, voxel_size)
    volume = np.zeros(shape, np.float32)
    for tube in tubes:
        reach = tube.radius + 8 * EDGE
        box = _box(tube.path, axes, reach)
        local = [axis[part] for axis, part in zip(axes, box, strict=True)]
        squared = np.full([len(axis) for axis in local], np.inf)
        # A short run of the path is near few voxels only: that is what makes this fast.
        for k in range(0, len(tube.path) - 1, 6):
            run = tube.path[k : k + 7]
            near = _box(run, local, reach)
            part = [axis[at] for axis, at in zip(local, near, strict=True)]
            if all(len(axis) for axis in part):
                squared[near] = np.minimum(squared[near], _squared_distance(run, part))
        volume[box] += tube.amplitude * expit((tube.radius - np.sqrt(squared)) / EDGE)
    return volume


def _squared_distance(path: np.ndarray, axes: Sequence[np.ndarray]) -> np.ndarray:
    """Squared distance (Z, Y, X) of each point of a grid from the nearest segment of `path`."""
    z, y, x = (axis[:, None] for axis in axes)
    start, along = path[:-1], np.diff(path, axis=0)
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    # The dot product and the square split into one term for each axis: (axis, segment) tables.
    dot = [(a - start[:, i]) * along[:, i] / length for i, a in enumerate((z, y, x))]
    square = [(a - start[:, i]) ** 2 for i, a in enumerate((z, y, x))]
    s = dot[0][:, None, None] + dot[1][:, None] + dot[2]
    d = square[0][:, None, None] + square[1][:, None] + square[2]
    nearest = s.clip(0, 1)
    return np.maximum(d + length * nearest * (nearest - 2 * s), 0).min(axis=-1)


def _box(path: np.ndarray, axes: Sequence[np.ndarray], reach: float) -> tuple[slice, ...]:
    lo, hi = path.min(axis=0) - reach, path.max(axis=0) + reach
    return tuple(
        slice(*np.searchsorted(axis, (a, b)).tolist())
        for axis, a, b in zip(axes, lo, hi, strict=True)
    )


def moving_tubes(
    size: np.ndarray,
    t: float,
    n_tubes: int,
    fission_time: float | None,
    speed: float,
    rng: np.random.Generator,
) -> list[Tube]:
    """The tubes of a cell at time `t`; all that is random is drawn before `t` is looked at."""
    tubes, velocities, waves = [], [], []
    for _ in range(n_tubes):
        path = walk(rng, size * (0.36, 0.41, 0.41), rng.uniform(2.5, 6), jitter=0.16, rise=0.35)
        tubes.append(Tube(path, rng.uniform(0.20, 0.32), rng.uniform(0.5, 1)))
        velocities.append(speed * rng.normal(size=3) * (0.5, 1, 1))
        waves.append((rng.uniform(1.5, 3), rng.uniform(0.3, 0.8), rng.uniform(0, 2 * np.pi)))
    shifts = [turn_back(v * t, tube.path, size) for v, tube in zip(velocities, tubes, strict=True)]
    waving = [
        shifted(_waving(tube, t, *wave), shift)
        for tube, wave, shift in zip(tubes, waves, shifts, strict=True)
    ]
    if fission_time is not None and t > fission_time:
        longest = int(np.argmax([len(tube.path) for tube in tubes]))
        waving[longest : longest + 1] = _broken(waving[longest], t - fission_time)
    return waving


def walk(
    rng: np.random.Generator,
    half: np.ndarray,
    length: float,
    *,
    jitter: float,
    rise: float,
    step: float = 0.12,
) -> np.ndarray:
    """A persistent random walk of steps of `step` um that turns back at the walls of a box."""
    at = rng.uniform(-1, 1, 3) * half
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.normal(0, rise)
    turns = rng.normal(0, jitter, (int(length / step), 2))
    path = [at]
    for turn, tilt in turns:
        azimuth += turn
        elevation = 0.95 * elevation + 0.5 * tilt
        direction = np.array(
            [
                np.sin(elevation),
                np.cos(elevation) * np.sin(azimuth),
                np.cos(elevation) * np.cos(azimuth),
            ]
        )
        outside = np.abs(at + step * direction) > half
        direction = np.where(outside, -direction, direction)
        elevation = np.arcsin(direction[0])
        azimuth = np.arctan2(direction[1], direction[2])
        at = at + step * direction
        path.append(at)
    return np.array(path)


def _waving(
    tube: Tube, t: float, wavelength: float, frequency: float, phase: float, height: float = 0.1
) -> Tube:
    """A lateral wave that runs along the tube."""
    tangent = np.gradient(tube.path, axis=0)
    across = np.stack([0 * tangent[:, 0], tangent[:, 2], -tangent[:, 1]], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    along = np.linalg.norm(np.diff(tube.path, axis=0), axis=1).cumsum()
    s = np.append(0, along)
    wave = height * np.sin(2 * np.pi * (s / wavelength - frequency * t) + phase)
    return shifted(tube, wave[:, None] * across)


def shifted(tube: Tube, shift: np.ndarray) -> Tube:
    """The same tube elsewhere: `shift` in um, one for all points of its path or one for each."""
    return Tube(tube.path + shift, tube.radius, tube.amplitude)


def turn_back(
    shift: np.ndarray, path: np.ndarray, size: np.ndarray, share: float = 0.45
) -> np.ndarray:
    """Fold a drift so that the path stays between the walls at `share` of the size."""
    lo = -share * size - path.min(axis=0)
    hi = share * size - path.max(axis=0)
    room = np.maximum(hi - lo, 1e-9)
    return lo + room - np.abs((shift - lo) % (2 * room) - room)


def _broken(tube: Tube, since: float, speed: float = 0.5, furthest: float = 0.45) -> list[Tube]:
    """Two halves, each `speed` times `since` um (at most `furthest`) from the break."""
    middle = len(tube.path) // 2
    tangent = tube.path[middle + 1] - tube.path[middle - 1]
    apart = tangent / np.linalg.norm(tangent) * (tube.radius + min(speed * since, furthest))
    halves = (tube.path[: middle + 1] - apart, tube.path[middle:] + apart)
    return [Tube(path, tube.radius, tube.amplitude) for path in halves]
