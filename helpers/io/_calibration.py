"""Calibration of an image: pixel size, z step, time step, channel names; read from metadata."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
AXES = "TCZYX"  # the axis order of the whole book
METRES = {"pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
SPELLINGS = {"um": "µm", "\u03bcm": "µm", "micron": "µm", "A": "Å", "\u212b": "Å"}
SPELLINGS |= {"micrometer": "µm", "nanometer": "nm", "angstrom": "Å", "millimeter": "mm"}
SPELLINGS |= {"picometer": "pm", "centimeter": "cm", "meter": "m"}
SECONDS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
SECONDS |= {"nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3, "second": 1.0}
SECONDS |= {"us": 1e-6, "minute": 60.0, "hour": 3600.0}
DIMENSIONS = {"time": "T", "frame": "T", "channel": "C", "element": "C"}


@dataclass(frozen=True)
class Calibration:
    """Sizes of the pixels, steps between images, and names of the channels.

    Attributes
    ----------
    pixel_size, pixel_size_y : float or None
        Along x and y, in `unit`.
    unit : str
        One of pm, Å, nm, µm, mm, cm, m; "px" without a calibration.
    z_step : float or None
        Distance of two slices, in `unit`.
    time_step : float or None
        Seconds from one time to the next.
    channel_names : tuple of str or None
        One name a channel.
    """

    pixel_size: float | None = None
    pixel_size_y: float | None = None
    unit: str = "px"
    z_step: float | None = None
    time_step: float | None = None
    channel_names: tuple[str, ...] | None = None

    @classmethod
    def from_sizes(
        cls, sizes: Mapping[str, float | None], units: Mapping[str, str], **others: Any
    ) -> Calibration:
        """Calibration from sizes along "X", "Y", "Z" that may have different units.

        Parameters
        ----------
        sizes : dict of str -> float or None
        units : dict of str -> str
            All are brought to the unit of x, or the first that is there.
        others : Any
            `time_step`, `channel_names`.
        """
        known = {axis: float(size) for axis, size in sizes.items() if size}
        units = {axis: SPELLINGS.get(unit, unit) for axis, unit in units.items()}
        known = {axis: size for axis, size in known.items() if units.get(axis) in METRES}
        unit = next((units[axis] for axis in "XYZ" if axis in known), "px")

        def along(axis: str) -> float:
            if units[axis] == unit:
                return _decimal(known[axis])
            return _decimal(known[axis] * METRES[units[axis]] / METRES[unit])

        across = along("X") if "X" in known else None
        down = along("Y") if "Y" in known else across
        return cls(across, down, unit, along("Z") if "Z" in known else None, **others)

    def warn_if_not_square(self, stacklevel: int) -> None:
        """Warn that the pixels have two sizes: `pixel_size` alone is the one along x."""
        across, down = self.pixel_size, self.pixel_size_y
        if across is not None and down is not None and abs(across - down) > 1e-3 * across:
            warnings.warn(
                f"pixels are {across} x {down} {self.unit}: pixel_size is the x size, "
                "pixel_size_y the y size",
                stacklevel=stacklevel + 1,
            )


def seconds(value: Any, unit: str | None) -> float | None:
    """A time in seconds; None if there is none, or its unit is unknown."""
    scale = SECONDS.get(unit or "s")
    return None if not value or scale is None else _decimal(float(value) * scale)


def calibration_of_tiff(file: Any) -> Calibration:
    """Calibration from the ImageJ or OME metadata of an open `tifffile.TiffFile`."""
    if file.is_ome:
        return calibration_of_ome(file.ome_metadata)
    if file.is_imagej:
        return _of_imagej(file)
    return Calibration()


def calibration_of_ome(xml: str) -> Calibration:
    """Calibration from the text of OME-XML, of its first image."""
    import tifffile

    pixels = _first(_first(tifffile.xml2dict(xml)["OME"]["Image"])["Pixels"])
    sizes = {axis: pixels.get(f"PhysicalSize{axis}") for axis in "XYZ"}
    units = {axis: pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XYZ"}
    step = seconds(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    channels = pixels.get("Channel", [])
    channels = channels if isinstance(channels, list) else [channels]
    found = [channel.get("Name") for channel in channels]
    names = tuple(map(str, found)) if found and None not in found else None
    return Calibration.from_sizes(sizes, units, time_step=step, channel_names=names)


def _of_imagej(file: Any) -> Calibration:
    notes, tags = file.imagej_metadata or {}, file.pages[0].tags
    unit = str(notes.get("unit", "px"))
    unit = unit.encode("latin-1", "backslashreplace").decode("unicode_escape")
    sizes = {"Z": notes.get("spacing")}
    for axis in "XY":
        above, below = tags[f"{axis}Resolution"].value if f"{axis}Resolution" in tags else (0, 1)
        sizes[axis] = below / above if above else None
    step = seconds(notes.get("finterval"), notes.get("tunit", "s"))
    names = _names_of_labels(notes.get("Labels"), notes.get("channels", 1))
    units = dict.fromkeys("XYZ", unit)
    return Calibration.from_sizes(sizes, units, time_step=step, channel_names=names)


def _names_of_labels(labels: Sequence[str] | None, channels: int) -> tuple[str, ...] | None:
    """Names of the channels from the labels of the planes, which go round all channels."""
    labels = labels or []
    names = tuple(labels[:channels])
    whole = channels > 1 and len(names) == channels and len(set(names)) == channels
    if whole and all(label == names[k % channels] for k, label in enumerate(labels)):
        return names
    return None


def labelled(array: Any) -> tuple[np.ndarray, str, Calibration, list[str]]:
    """Split an `xarray.DataArray` into values, axes, calibration and what has no place in TIFF.

    Dimensions other than t, c, z, y, x (or time, channel), and coordinates that are not evenly
    spaced, are errors.
    """
    axes = [DIMENSIONS.get(str(d).lower(), str(d).upper()) for d in array.dims]
    if not set(axes) <= set(AXES) or len(set(axes)) < len(axes):
        raise ValueError(f"dimensions {array.dims}: name them t, c, z, y, x, or time and channel")
    sizes, units, step, names, dropped = {}, {}, None, None, [str(a) for a in array.attrs]
    for name, coordinate in array.coords.items():
        unit = str(coordinate.attrs.get("units", coordinate.attrs.get("unit", "")))
        unit = SPELLINGS.get(unit, unit)
        if name not in array.dims:
            dropped.append(str(name))
            continue
        axis, values = axes[array.dims.index(name)], np.asarray(coordinate.values)
        if axis == "C":
            names = tuple(map(str, values))
            continue
        spacing = _even(str(name), values)
        if spacing is None:
            continue
        known = SECONDS if axis == "T" else METRES
        if unit not in known:
            dropped.append(f"{name} (unit {unit!r})")
            continue
        if axis == "T":
            step = seconds(spacing, unit)
        else:
            sizes[axis], units[axis] = spacing, unit
        if abs(values[0]) > 1e-9 * abs(spacing):
            dropped.append(f"origin of {name} ({values[0]:g} {unit})")
    calibration = Calibration.from_sizes(sizes, units, time_step=step, channel_names=names)
    order = sorted(range(len(axes)), key=lambda k: AXES.index(axes[k]))
    values = np.asarray(array.values).transpose(order)
    return values, "".join(axes[k] for k in order), calibration, dropped


def _even(name: object, values: np.ndarray) -> float | None:
    """Step of an evenly spaced coordinate; None for one value or no numbers."""
    if len(values) < 2 or values.dtype.kind not in "iuf":
        return None
    steps = np.diff(values.astype(float))
    if steps[0] <= 0 or np.ptp(steps) > 1e-3 * abs(steps[0]):
        raise ValueError(f"coordinate {name} is not evenly spaced upwards: TIFF has one step only")
    return float(values[-1] - values[0]) / (len(values) - 1)


def keeps_labels(*fields: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: where the first argument is a DataArray, so are these fields of the result.

    They get its coordinates, names and attributes; where the first argument is an array, nothing
    changes. A field may be a dict of images.

    Parameters
    ----------
    *fields : str
        Of the dataclass that the function gives.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*arguments: P.args, **options: P.kwargs) -> R:
            first: Any = arguments[0] if arguments else None
            if not is_labelled(first):
                return function(*arguments, **options)
            plain: Any = (first.values, *arguments[1:])
            result: Any = function(*plain, **options)
            found = {name: _as(getattr(result, name), first) for name in fields}
            labelled_result: R = replace(result, **found)
            return labelled_result

        return called

    return decorate


def _as(value: Any, like: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as(image, like) for name, image in value.items()}
    same = value is not None and np.shape(value) == like.shape
    return like.copy(data=np.asarray(value)) if same else value


def is_labelled(x: object) -> bool:
    """True for an `xarray.DataArray`; does not import xarray."""
    return type(x).__module__.partition(".")[0] == "xarray" and hasattr(x, "dims")


def with_given(
    calibration: Calibration,
    pixel_size: Any,
    unit: str | None,
    z_step: float | None,
    time_step: float | None,
    channel_names: Sequence[str] | None,
) -> Calibration:
    """Calibration with those values replaced that a caller has given.

    `pixel_size` is one number, (y, x) or (z, y, x).
    """
    given = {}
    if pixel_size is not None:
        sizes = np.atleast_1d(pixel_size).tolist()
        if len(sizes) > 3:
            raise ValueError(f"pixel_size is {pixel_size}: give one length, (y, x) or (z, y, x)")
        given = {"pixel_size": sizes[-1], "pixel_size_y": sizes[-2:][0]}
        if len(sizes) == 3:
            given["z_step"] = sizes[0]
    given |= {
        name: value
        for name, value in (("z_step", z_step), ("time_step", time_step))
        if value is not None
    }
    if channel_names is not None:
        given["channel_names"] = tuple(map(str, channel_names))
    lengths = {"pixel_size", "z_step"} & set(given)
    if lengths and unit is not None:
        given["unit"] = SPELLINGS.get(unit, unit)
    elif lengths and calibration.unit == "px":
        given["unit"] = "nm"
    return replace(calibration, **given)


def length_in(wanted: str, length: float | None, unit: str) -> float | None:
    """Give a length in another unit; None where it, or its unit, is not known."""
    if length is None or unit not in METRES:
        return None
    return _decimal(length * METRES[unit] / METRES[wanted])


def _decimal(value: float) -> float:
    """A length without the noise of a ratio of integers: nine digits bring the decimal back."""
    return float(f"{value:.9g}")


def _first(item: Any) -> Any:
    return item[0] if isinstance(item, list) else item
