"""Images under an LED array, and the directions of its LEDs, from files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from ...inr.align.leds import leds as align_leds
from ...inr.diffraction.led_array import square_spiral
from ...inr.diffraction.ptychography import led_directions
from ...io._calibration import length_in
from ...io.stacks import Stack


@dataclass(frozen=True)
class Array:
    """An LED array as its user describes it.

    Attributes
    ----------
    table : Path or None
        See `load_places`; None for a square grid.
    pitch, distance : float or None
        In mm.
    order : str
        "spiral" or "rows", of a grid without a table.
    shift : (2,) sequence of float or None
        (y, x) in mm.
    """

    table: Path | None
    pitch: float | None
    distance: float | None
    order: str
    shift: Sequence[float] | None

    def directions(self, path: Path, n_images: int) -> np.ndarray:
        """Directions (L, 2) of the LEDs of the images in a file.

        Raises
        ------
        ValueError
            Numbers that are missing or do not fit.
        """
        if self.table is None:
            if self.pitch is None or self.distance is None:
                raise ValueError(
                    "where the LEDs are is not said: give a table by leds, or pitch and distance "
                    "of a square grid, in mm"
                )
            places = _rows(path, n_images) if self.order == "rows" else square_spiral(n_images)
        else:
            places = load_places(self.table)
        if len(places) != n_images:
            raise ValueError(f"{self.table} has {len(places)} LEDs but {path} {n_images} images")
        if self.distance is not None:
            places = places * (self.pitch or 1.0) + np.asarray(self.shift or (0.0, 0.0))
            return led_directions(places, self.distance)
        largest = float(np.hypot(*places.T).max())
        if self.pitch or self.shift or largest >= 1:
            raise ValueError(
                f"the LEDs of {self.table} reach to {largest:.3g}: give the distance of the array "
                "in mm for places; without it they are directions n sin(theta), below 1"
            )
        return places


@dataclass(frozen=True)
class Recording:
    """Images (L, Y, X) of LEDs at directions (L, 2), and the size of their pixels in µm.

    Attributes
    ----------
    images, leds : array
    pixel_size : float
    told : dict
        What was found of the array.
    """

    images: np.ndarray
    leds: np.ndarray
    pixel_size: float
    told: dict[str, Any]


def record(
    path: Path,
    array: Array,
    *,
    wavelength: float,
    na: float,
    pixel_size: float | None,
    magnification: float,
    align: str,
    dataset: str | None,
    offset: float,
    crop: int | None,
) -> Recording:
    """Read the images of a file, and find their LEDs with `helpers.inr.align.leds` if need be.

    Raises
    ------
    ValueError
        Images or an array that cannot be used.
    """
    with Stack(path, dataset=dataset) as stack:
        if stack.ndim != 3 or stack.shape[0] < 2:
            raise ValueError(f"{path} is {stack.shape}: give one image an LED, (LEDs, Y, X)")
        directions = array.directions(path, len(stack))
        side = min(stack.shape[1:]) if crop is None else crop
        if side > min(stack.shape[1:]):
            raise ValueError(f"crop is {crop}, but the images of {path} are {stack.shape[1:]}")
        pixel = pixel_size or length_in("µm", stack.pixel_size, stack.unit)
        if pixel is None:
            raise ValueError(
                f"{path} does not say the size of its pixels: give pixel_size in µm, and the "
                "magnification"
            )
        images = np.asarray(stack, np.float32)
    pixel /= magnification
    bad = np.flatnonzero(~np.isfinite(images).all((1, 2)))
    if len(bad):
        raise ValueError(f"image {bad[0]} of {path} has NaN or infinity: mend it, or leave it out")
    images = np.maximum(images - np.float32(offset), 0)
    told: dict[str, Any] = {}
    if align != "no":
        found = align_leds(
            images,
            directions,
            wavelength=wavelength,
            na=na,
            pixel_size=pixel,
            scale=align == "distance",
        )
        directions = found.leds
        told = {"turn": found.turn, "moved_na": _rounded(found.offset / na)}
        told["moved_error_na"] = _rounded(found.offset_error / na)
        if align == "distance":
            told |= {"scale": round(found.scale, 4), "scale_error": round(found.scale_error, 4)}
        if align == "distance" and array.distance is not None:
            told["distance_mm"] = round(array.distance / found.scale, 2)
    if crop is not None:
        rows, columns = ((n - crop) // 2 for n in images.shape[1:])
        images = images[:, rows : rows + crop, columns : columns + crop]
    return Recording(images, directions, pixel, told)


def load_places(path: Path) -> np.ndarray:
    """Places (L, 2) of LEDs, (y, x), from a text file with one LED a line.

    Columns are separated by commas, semicolons, tabs or blanks. A first line may name them, then
    those whose names begin with y and x are taken; without, there are two: y and x. A line that
    begins with # is left out.

    Raises
    ------
    ValueError
        A line without two finite numbers, no column y or x, or no LED.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    lines = [(k, line) for k, line in enumerate(text, 1) if line.strip() and line.strip()[0] != "#"]
    if not lines:
        raise ValueError(f"{path} is empty: one line an LED is expected, y and x")
    separator = next((s for s in ",;\t" if s in lines[0][1]), None)
    words = [(k, [w.strip() for w in line.split(separator)]) for k, line in lines]
    columns: list[int | None] = [0, 1]
    if any(_number(word) is None for word in words[0][1]):
        names = [re.sub(r"\W", "", name).lower() for name in words[0][1]]
        columns = [next((k for k, n in enumerate(names) if n[:1] == a), None) for a in "yx"]
        if None in columns or len(words) == 1:
            raise ValueError(
                f"{path} begins with {lines[0][1].strip()!r}: columns named y and x are expected, "
                "and below them one line an LED"
            )
        words = words[1:]
    n_words = len(words[0][1])
    places = []
    for (number, row), line in zip(words, lines[-len(words) :], strict=True):
        values = [_number(row[c]) if c is not None and c < len(row) else None for c in columns]
        if None in values or len(row) != n_words or (columns == [0, 1] and n_words < 2):
            raise ValueError(
                f"{path}, line {number} is {line[1].strip()!r}: {n_words} columns are expected, "
                "with y and x of an LED"
            )
        places.append(values)
    return np.array(places, float)


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _rows(path: Path, n_images: int) -> np.ndarray:
    """Numbers (row, column) of a square array about its middle, row by row."""
    side = isqrt(n_images)
    if side**2 != n_images:
        raise ValueError(
            f"{path} has {n_images} images, and no square array has as many LEDs: give a table "
            "by leds"
        )
    return np.indices((side, side)).reshape(2, -1).T - (side - 1) / 2


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in values]
