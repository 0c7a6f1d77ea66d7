r"""Moving specimens: how much metal the beam crosses at every place and time.

A scene is a function of time that gives the projected thickness in micrometres on a `Canvas`.
Time counts frames of the fast camera and is continuous, so that two cameras can look at
different moments. Everything is drawn from the seed at the start; nothing depends on how many
frames are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

UNIT_FIELD = 256.0**2  # um^2: the numbers of pores and droplets below are for this area


@dataclass(frozen=True)
class Canvas:
    """Grid on which the thickness is sampled, with a margin around the field of view.

    Attributes
    ----------
    field : (float, float)
        Height and width of the field of view in um.
    margin : float
        Border beyond it, in um.
    step : float
        Distance of the samples in um.
    """

    field: tuple[float, float]
    margin: float
    step: float

    @cached_property
    def y(self) -> np.ndarray:
        """(Y, 1) coordinates in um, 0 at the upper edge of the field of view."""
        return self._axis(self.field[0])[:, None]

    @cached_property
    def x(self) -> np.ndarray:
        """(1, X) coordinates in um, 0 at the left edge of the field of view."""
        return self._axis(self.field[1])[None, :]

    @property
    def shape(self) -> tuple[int, int]:
        """Samples (Y, X)."""
        return self.y.shape[0], self.x.shape[1]

    def _axis(self, length: float) -> np.ndarray:
        n = round((length + 2 * self.margin) / self.step)
        return ((np.arange(n) + 0.5) * self.step - self.margin).astype(np.float32)

    def count(self, rng: np.random.Generator, low: int, high: int) -> int:
        """A number of things between `low` and `high` for the unit field, more for a larger one."""
        area = self.field[0] * self.field[1] / UNIT_FIELD
        return max(1, round(area * rng.integers(low, high + 1)))

    def around(self, y: float, x: float, reach: float) -> tuple[slice, slice]:
        """Slices of the samples within `reach` um of a place."""
        rows, columns = (
            slice(
                max(0, int((at - reach + self.margin) / self.step)),
                max(0, int((at + reach + self.margin) / self.step) + 1),
            )
            for at in (y, x)
        )
        return rows, columns

    def add_sphere(self, image: np.ndarray, y: float, x: float, radius: float) -> None:
        """Add the chord of a sphere, in um, to an image on this canvas."""
        rows, columns = self.around(y, x, radius)
        squared = (self.y[rows] - y) ** 2 + (self.x[:, columns] - x) ** 2
        image[rows, columns] += 2 * np.sqrt(np.maximum(radius**2 - squared, 0))

    def texture(self, rng: np.random.Generator, size: float) -> np.ndarray:
        """Noise with unit variance and features of about `size` um, periodic on the canvas."""
        noise = np.fft.rfft2(rng.standard_normal(self.shape, dtype=np.float32))
        fy = np.fft.fftfreq(self.shape[0], self.step)[:, None]
        fx = np.fft.rfftfreq(self.shape[1], self.step)[None, :]
        noise *= np.exp(-2 * (np.pi * size / 2) ** 2 * (fy**2 + fx**2))
        noise[0, 0] = 0
        smooth = np.fft.irfft2(noise, self.shape)
        return (smooth / smooth.std()).astype(np.float32)


def swing(
    rng: np.random.Generator, amplitude: float, periods: tuple[float, float]
) -> Callable[[float], float]:
    """A sine in time of random phase: a function of t."""
    period, phase = rng.uniform(*periods), rng.uniform(0, 2 * np.pi)
    return lambda t: amplitude * np.sin(2 * np.pi * t / period + phase)


def bounce(start: float, speed: float, low: float, high: float) -> Callable[[float], float]:
    """A place that moves at constant speed and turns at two walls: a function of t."""
    span = high - low
    return lambda t: low + span - abs((start - low + speed * t) % (2 * span) - span)


def edge(distance: np.ndarray, width: float) -> np.ndarray:
    """A smooth step from 0 to 1 across a distance of zero."""
    return 1 / (1 + np.exp(-np.clip(distance / width, -30, 30)))


def melt_pool(
    canvas: Canvas, rng: np.random.Generator, plate: float
) -> Callable[[float], np.ndarray]:
    """A laser melts a metal plate: a keyhole below the surface, pores, spatter above it.

    Gives ``thickness(t)``, (Y, X) in um, for t in frames of the fast camera; `plate` is the
    thickness along the beam. The keyhole travels, breathes and has wobbling walls; half of the
    pores stand still, half drift and swing; droplets fly on parabolas, half of them out of the
    keyhole. Shown in :doc:`/book/xray/01_two_cameras`.
    """
    height, width = canvas.field
    level = height * rng.uniform(0.27, 0.34)
    surface = level + sum(
        rng.uniform(1, 4) * np.sin(2 * np.pi * canvas.x / rng.uniform(60, 200) + rng.uniform(0, 6))
        for _ in range(2)
    )
    rough = 4.0 * canvas.texture(rng, 7.5) + 3.0 * canvas.texture(rng, 40.0)
    keyholes = [
        _keyhole(canvas, rng, width * (n + rng.uniform(0.25, 0.75)) / beams, level, height - level)
        for beams in [max(1, round(width / 400))]
        for n in range(beams)
    ]
    pores = [_pore(canvas, rng, level, height) for _ in range(canvas.count(rng, 8, 18))]
    droplets = [_droplet(rng, keyholes, width, level) for _ in range(canvas.count(rng, 6, 14))]

    def thickness(t: float) -> np.ndarray:
        top = surface
        for keyhole in keyholes:
            top = top - keyhole.bump(t)
        inside = edge(canvas.y - top, 7.0)
        missing = np.zeros(canvas.shape, np.float32)
        for keyhole in keyholes:
            keyhole.carve(missing, t)
        for place, radius in pores:
            y, x = place(t)
            canvas.add_sphere(missing, y, x, radius)
        flying = np.zeros(canvas.shape, np.float32)
        for place, radius in droplets:
            y, x = place(t)
            canvas.add_sphere(flying, y, x, radius)
        metal = np.maximum(plate + rough - missing, 0) * inside
        return (metal + flying * (1 - inside)).astype(np.float32)

    return thickness


class _keyhole:
    """The vapour cavity under one laser beam."""

    def __init__(
        self, canvas: Canvas, rng: np.random.Generator, start: Any, level: float, room: Any
    ) -> None:
        self.canvas, self.level = canvas, level
        speed = rng.uniform(0.4, 1.6) * rng.choice([-1, 1])
        width = canvas.field[1]
        self.x = bounce(start, speed, 0.12 * width, 0.88 * width)
        depth, half = rng.uniform(60, 110), rng.uniform(13, 22)
        depth = min(depth, 0.7 * room)
        slow, fast = (10, 24), (6, 14)
        deep, wide = swing(rng, 0.12, slow), swing(rng, 0.10, slow)
        self.depth = lambda t: depth * (1 + deep(t))
        self.half = lambda t: half * (1 + wide(t))
        self.lean = -np.sign(speed) * rng.uniform(0.05, 0.35)
        self.wobble = [swing(rng, rng.uniform(0.7, 2.5), fast) for _ in range(2)]
        self.twist = rng.uniform(0.8, 2.0, 2)
        rise = rng.uniform(3, 9)
        heave = swing(rng, 0.5, slow)
        self.rise = lambda t: rise * (1 + heave(t))

    def bump(self, t: float) -> Any:
        """(1, X): how far the melt stands above the surface, in um."""
        return self.rise(t) * np.exp(-(((self.canvas.x - self.x(t)) / 45) ** 2))

    def carve(self, missing: Any, t: float) -> None:
        """Add the path of the beam through the cavity."""
        depth, half = self.depth(t), self.half(t)
        top = self.level - 25  # above the highest melt, where there is no metal to remove
        rows, _ = self.canvas.around(top + (depth + 25) / 2, 0, (depth + 25) / 2)
        below = self.canvas.y[rows] - top
        share = np.clip(below / (depth + 25), 0, 1)  # 0 at the mouth, 1 at the tip
        middle = self.x(t) + self.lean * below
        for wobble, twist in zip(self.wobble, self.twist, strict=True):
            middle = middle + share * wobble(t - 3 * twist * share)
        radius = half * np.sqrt(1 - share**2) * (1 + 0.15 * np.sin(9 * share + t))
        chord = 2 * np.sqrt(np.maximum(radius**2 - (self.canvas.x - middle) ** 2, 0))
        missing[rows] += chord


def _pore(canvas: Canvas, rng: np.random.Generator, level: float, height: Any) -> Any:
    """A gas sphere in the metal: its path (y, x) and radius."""
    radius = 4 + 14 * rng.random() ** 1.5
    y, x = rng.uniform(level + 25, height - 5), rng.uniform(0, canvas.field[1])
    if rng.random() < 0.5:
        return (lambda t: (y, x)), radius
    vy, vx = rng.uniform(-1.0, 1.0, 2)
    along_y = bounce(y, vy, level + 25, height + 10)
    along_x = bounce(x, vx, -10, canvas.field[1] + 10)
    sway_y, sway_x = (swing(rng, rng.uniform(1, 4), (10, 24)) for _ in range(2))
    return (lambda t: (along_y(t) + sway_y(t), along_x(t) + sway_x(t))), radius


def _droplet(rng: np.random.Generator, keyholes: Any, width: Any, level: float) -> Any:
    """A droplet that is thrown up again and again: its path (y, x) and radius."""
    radius, climb, life = rng.uniform(3, 8), rng.uniform(15, 1.1 * level), rng.uniform(40, 110)
    first, drift, origin = rng.uniform(0, life), rng.uniform(-1.5, 1.5), rng.uniform(0, width)
    keyhole = keyholes[rng.integers(len(keyholes))] if rng.random() < 0.5 else None

    def place(t: float) -> Any:
        flight, age = divmod(t - first, life)
        start = keyhole.x(first + flight * life) if keyhole else origin
        return level + radius - 4 * climb * (age / life) * (1 - age / life), start + drift * age

    return place, radius


def bubbles(
    canvas: Canvas, rng: np.random.Generator, plate: float
) -> Callable[[float], np.ndarray]:
    """Bubbles of gas rise through a molten plate, the large ones faster, on swaying paths.

    Parameters and result as for `melt_pool`.
    """
    height, width = canvas.field
    rough = 4.0 * canvas.texture(rng, 7.5) + 3.0 * canvas.texture(rng, 40.0)
    crowd = [_bubble(rng, height, width) for _ in range(canvas.count(rng, 14, 28))]

    def thickness(t: float) -> np.ndarray:
        missing = np.zeros(canvas.shape, np.float32)
        for place, radius in crowd:
            y, x = place(t)
            canvas.add_sphere(missing, y, x, radius)
        return np.maximum(plate + rough - missing, 0).astype(np.float32)

    return thickness


def _bubble(rng: np.random.Generator, height: Any, width: Any) -> Any:
    """A bubble that comes in again below when it has left above: its path (y, x) and radius."""
    radius = 5 + 21 * rng.random() ** 1.5
    start, x = rng.uniform(0, height), rng.uniform(-10, width + 10)
    rise = rng.uniform(0.2, 0.5) + 0.05 * radius
    beyond = radius + 40  # it turns up again out of sight
    sway = swing(rng, rng.uniform(1, 5), (10, 24))
    way = height + 2 * beyond
    return (lambda t: ((start + beyond - rise * t) % way - beyond, x + sway(t))), radius


def cracks(canvas: Canvas, rng: np.random.Generator, plate: float) -> Callable[[float], np.ndarray]:
    """Cracks run through a brittle plate, stop and go, and open behind their tips.

    Parameters and result as for `melt_pool`.
    """
    height, width = canvas.field
    rough = 4.0 * canvas.texture(rng, 7.5) + 3.0 * canvas.texture(rng, 40.0)
    for _ in range(canvas.count(rng, 6, 12)):
        place = rng.uniform(0, height), rng.uniform(0, width)
        canvas.add_sphere(rough, *place, -rng.uniform(4, 10))
    paths = [_crack(rng, height, width) for _ in range(canvas.count(rng, 3, 6))]

    def thickness(t: float) -> np.ndarray:
        open_share = np.zeros(canvas.shape, np.float32)
        for path, length, opening in paths:
            _open_crack(canvas, open_share, path, length(t), opening(t))
        return np.maximum((plate + rough) * (1 - open_share), 0).astype(np.float32)

    return thickness


STRIDE = 2.0  # um between the points of the path of a crack


def _crack(rng: np.random.Generator, height: Any, width: Any) -> Any:
    """The path (n, 2) of a crack, its length and its opening in um as functions of time."""
    from_left = rng.random() < 0.5
    n = int(1.4 * width / STRIDE)
    heading = np.cumsum(rng.normal(0, 0.12, n)) * 0.35 + rng.normal(0, 0.6)
    heading += np.cumsum(rng.choice([0, 1], n, p=[0.97, 0.03]) * rng.normal(0, 0.4, n))
    heading = 1.1 * np.tanh(heading)
    y = rng.uniform(0.1, 0.9) * height + np.cumsum(STRIDE * np.sin(heading))
    x = np.cumsum(STRIDE * np.cos(heading)) - 40
    path = np.stack([y, x if from_left else width - x], axis=1)
    speed, period, phase = rng.uniform(2, 6), rng.uniform(8, 16), rng.uniform(0, 2 * np.pi)
    begin, wide, widen = (
        rng.uniform(60, 0.6 * width + 40),
        rng.uniform(2, 5),
        rng.uniform(0.02, 0.12),
    )
    pause = 0.9 * speed * period / (2 * np.pi)  # its speed never falls below zero

    def length(t: float) -> Any:
        return begin + speed * t + pause * np.sin(2 * np.pi * t / period + phase)

    return path, length, lambda t: wide + widen * max(t, 0)


def _open_crack(canvas: Canvas, share: Any, path: Any, length: int, opening: Any) -> None:
    """Stamp the open part of the plate along a path, tapered to nothing at the tip."""
    from_tip = length - STRIDE * np.arange(len(path))
    for (y, x), behind in zip(path[from_tip > 0], from_tip[from_tip > 0], strict=True):
        half = opening * min(1.0, (behind / 60) ** 0.5)
        rows, columns = canvas.around(y, x, 3 * half + canvas.step)
        squared = (canvas.y[rows] - y) ** 2 + (canvas.x[:, columns] - x) ** 2
        stamp = 0.35 * np.exp(-squared / (half**2 + 0.5))
        share[rows, columns] = np.maximum(share[rows, columns], stamp)
