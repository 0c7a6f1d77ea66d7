"""A second generator of melt pools: other shapes, textures and motions for the same physics.

It shares no drawing code with `specimens`. A network that was trained on the one
and works on the other has learned more than the habits of a random generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from .specimens import Canvas


def other_melt_pool(
    canvas: Canvas, rng: np.random.Generator, plate: float
) -> Callable[[float], np.ndarray]:
    """A bent keyhole, ellipsoidal pores that circle in vortices, and stretched droplets.

    As for `helpers.xray.simulate.specimens.melt_pool`. The keyhole is a string of overlapping
    spheres on a curve that bends like a J and sways; the plate has grinding marks in two directions
    instead of isotropic texture. Shown in :doc:`/book/xray/05_fuse`.
    """
    height, width = canvas.field
    y, x = canvas.y, canvas.x
    marks = _grinding_marks(canvas, rng)
    level = height * rng.uniform(0.22, 0.4)
    hills = [
        (rng.uniform(-8, 8), rng.uniform(0, width), rng.uniform(15, 60))
        for _ in range(canvas.count(rng, 2, 5))
    ]
    top = level + sum(h * np.exp(-(((x - at) / size) ** 2)) for h, at, size in hills)
    ripple, length, period = rng.uniform(0.5, 2), rng.uniform(60, 120), rng.uniform(12, 30)
    n_keyholes = max(1, round(width / 500))
    keyholes = [
        _bent_keyhole(rng, (n + rng.uniform(0.2, 0.8)) * width / n_keyholes, level)
        for n in range(n_keyholes)
    ]
    pores = [_vortex_pore(rng, level, height, width) for _ in range(canvas.count(rng, 6, 20))]
    drops = [_stretched_drop(rng, level, width) for _ in range(canvas.count(rng, 4, 10))]

    def thickness(t: float) -> np.ndarray:
        wavy = top + ripple * np.sin(2 * np.pi * (x / length - t / period))
        share = np.clip((y - wavy) / 44 + 0.5, 0, 1)
        metal = share**2 * (3 - 2 * share)
        cavity = np.zeros(canvas.shape, np.float32)
        for keyhole in keyholes:
            for centre, radius in keyhole(t):
                _ellipsoid(canvas, cavity, centre, (radius, radius), 0.0, radius, np.maximum)
        for pore in pores:
            centre, axes, tilt, deep = pore(t)
            _ellipsoid(canvas, cavity, centre, axes, tilt, deep, np.add)
        spray = np.zeros(canvas.shape, np.float32)
        for drop in drops:
            centre, axes, tilt, deep = drop(t)
            _ellipsoid(canvas, spray, centre, axes, tilt, deep, np.add)
        solid = np.maximum(plate + marks - cavity, 0) * metal
        return (solid + spray * (1 - metal)).astype(np.float32)

    return thickness


def _grinding_marks(canvas: Canvas, rng: np.random.Generator) -> Any:
    """Scratches in two directions, and blotches: thickness in um."""
    total = np.zeros(canvas.shape, np.float32)
    for size, amplitude in (((2.5, 11.0), 3.2), ((9.0, 2.8), 2.6), ((26.0, 26.0), 3.0)):
        noise = rng.standard_normal(canvas.shape, dtype=np.float32)
        layer = gaussian_filter(noise, np.divide(size, canvas.step), mode="wrap", truncate=3)
        total += amplitude * layer / layer.std()
    return total


def _bent_keyhole(rng: np.random.Generator, start: Any, level: float) -> Any:
    """Spheres (centre, radius) along a swaying curve, as a function of time."""
    depth, wide = rng.uniform(50, 120), rng.uniform(13, 22)
    bend, speed = rng.uniform(-30, 30), rng.uniform(-1.6, 1.6)
    turns = 2 * np.pi / rng.uniform(9, 22, 3)
    phases = rng.uniform(0, 2 * np.pi, 3)
    share = np.linspace(0, 1, 40)

    def spheres(t: float) -> Iterator[Any]:
        beat = np.sin(turns * t + phases)
        length = depth * (1 + 0.18 * beat[0])
        along = start + speed * t + bend * share**2 * (1 + 0.2 * beat[1])
        along = along + 2 * share * np.sin(4 * share - turns[2] * t + phases[2])
        radius = wide * (1 + 0.1 * beat[2]) * (0.3 + 0.7 * (1 - share) ** 0.7)
        for s, x, r in zip(share, along, radius, strict=True):
            yield (level - 8 + (length + 8) * s, x), r

    return spheres


def _vortex_pore(rng: np.random.Generator, level: float, height: Any, width: Any) -> Any:
    """An ellipsoidal pore on a circle around the centre of a vortex, or at rest."""
    eye = rng.uniform(level + 20, height), rng.uniform(0, width)
    away, phase = rng.uniform(3, 30), rng.uniform(0, 2 * np.pi)
    rate = rng.choice([0.0, 1.0], p=[0.3, 0.7]) * rng.uniform(-2.2, 2.2) / away
    axes = rng.uniform(4, 11) * rng.uniform(0.7, 1.6, 2)
    tilt, deep = rng.uniform(0, np.pi), rng.uniform(5, 16)

    def pore(t: float) -> Any:
        angle = phase + rate * t
        centre = eye[0] + away * np.sin(angle), eye[1] + away * np.cos(angle)
        return centre, axes, tilt + rate * t, deep

    return pore


def _stretched_drop(rng: np.random.Generator, level: float, width: Any) -> Any:
    """An elongated droplet on a straight line; it comes back on the other side of the field."""
    vy, vx = rng.uniform(-0.6, 0.6), rng.choice([-1, 1]) * rng.uniform(0.3, 2.8)
    y, x = rng.uniform(0, level - 14), rng.uniform(-30, width + 30)
    across = rng.uniform(2.5, 6)
    axes = np.array([across, across * rng.uniform(1, 2)])
    tilt = np.arctan2(vy, vx)

    def drop(t: float) -> Any:
        down = (y + vy * t) % (2 * level)  # it turns at the surface and at the upper edge
        centre = level - abs(level - down), (x + vx * t + 30) % (width + 60) - 30
        return centre, axes, tilt, across

    return drop


def _ellipsoid(
    canvas: Canvas, image: np.ndarray, centre: Any, axes: Any, tilt: Any, deep: Any, merge: Any
) -> None:
    """Merge the chord of an ellipsoid into an image: half axes across and along `tilt`, depth."""
    y, x = centre
    rows, columns = canvas.around(y, x, max(axes))
    dy, dx = canvas.y[rows] - centre[0], canvas.x[:, columns] - centre[1]
    along = dx * np.cos(tilt) + dy * np.sin(tilt)
    across = dy * np.cos(tilt) - dx * np.sin(tilt)
    inside = 1 - (across / axes[0]) ** 2 - (along / axes[1]) ** 2
    chord = 2 * deep * np.sqrt(np.maximum(inside, 0))
    image[rows, columns] = merge(image[rows, columns], chord)
