"""Figures of the book: images with their scale and limits, curves with their units.

Every function returns a Figure that pyplot does not know: a notebook shows it once, where it is
the last value of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import ArrayLike

from ._arrays import Array, to_numpy
from ._pictures import light_jpeg, light_png, notebook_shell

__all__ = ["add_scale_bar", "show_curves", "show_images", "use_style"]

WIDTH = 7.2  # inches: the text column
DIVERGING = "RdBu_r"
MARKERS = "osD^vPX"

Limits: TypeAlias = (
    Literal["shared", "each"] | tuple[float, float] | list[tuple[float, float] | None]
)
Crop: TypeAlias = tuple[slice, ...]

LARGER = {"pm": "nm", "nm": "µm", "µm": "mm", "um": "mm"}


def use_style() -> None:
    """Draw as the book does, from here on.

    In a notebook figures become sharp PNG, or JPEG where noise would make a PNG heavy.

    Examples
    --------
    >>> use_style()
    >>> import matplotlib
    >>> matplotlib.rcParams["figure.figsize"]
    [7.2, 3.0]
    """
    matplotlib.style.use(Path(__file__).with_name("house.mplstyle"))
    shell = notebook_shell()
    if shell and shell.display_formatter:
        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(Figure, light_png)
        formatters["image/jpeg"].for_type(Figure, light_jpeg)


def nice_length(
    pixels: float, pixel_size: float | None = None, unit: str = "nm"
) -> tuple[float, str]:
    """Choose a round length (1, 2 or 5 times a power of ten) of about a quarter of a field.

    Gives it in pixels, and as text in a larger unit from 1000 on.

    Examples
    --------
    >>> nice_length(256, 0.1, "nm")
    (50.0, '5 nm')
    >>> nice_length(256, 25.0, "nm")
    (80.0, '2 µm')
    >>> nice_length(256)
    (50.0, '50 px')
    """
    size = 1.0 if pixel_size is None else float(pixel_size)
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"pixel_size is {pixel_size!r}: give a positive length, or None for px")
    unit = "px" if pixel_size is None else unit
    target = 0.32 * pixels * size
    decade = 10.0 ** math.floor(math.log10(target))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= target)
    shown = length
    while shown >= 1000 and unit in LARGER:
        shown, unit = shown / 1000, LARGER[unit]
    return float(f"{length / size:.6g}"), f"{shown:g} {unit}"


def add_scale_bar(
    ax: Axes, pixel_size: float | None = None, unit: str = "nm", *, loc: str = "lower right"
) -> AnchoredSizeBar:
    """Draw a scale bar of a round length into image axes.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes with an image whose data coordinates are pixels.
    pixel_size : float, optional
        Size of a pixel in `unit`; without it the bar is in px.
    loc : str
        Corner, as in a matplotlib legend.

    Returns
    -------
    mpl_toolkits.axes_grid1.anchored_artists.AnchoredSizeBar

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> _ = ax.imshow([[0, 1], [1, 0]])
    >>> add_scale_bar(ax, 100, "nm").txt_label.get_text()
    '50 nm'
    """
    low, high = ax.get_xlim()
    length, label = nice_length(abs(high - low), pixel_size, unit)
    bar = AnchoredSizeBar(
        ax.transData,
        length,
        label,
        loc,
        pad=0.3,
        borderpad=0.4,
        sep=2,
        color="white",
        size_vertical=abs(high - low) / 90,
        label_top=True,
        fontproperties={"size": 8.5},
    )
    # white on a half-transparent plate is legible on any image
    bar.patch.set(facecolor="black", edgecolor="none", alpha=0.55)
    return ax.add_artist(bar)


def show_images(
    images: Mapping[str, Array],
    *,
    pixel_size: float | None = None,
    unit: str = "nm",
    limits: Limits = "shared",
    cmap: str | Mapping[str, str] = "gray",
    signed: str | Iterable[str] = (),
    columns: int | None = None,
    colorbar: bool = True,
    colorbar_label: str | Mapping[str, str] = "",
    crop: Crop | None = None,
) -> Figure:
    """Show images side by side, each with a scale bar, with their limits on colour bars.

    Parameters
    ----------
    images : dict of title -> (H, W) array or tensor
        In reading order.
    pixel_size : float, optional
        Size of a pixel in `unit`; without it the scale bars are in px.
    limits : "shared", "each", (lo, hi), or a list with one (lo, hi) or None per image
        Range of values from the first to the last colour. "shared" makes images comparable.
    cmap : str or dict of title -> str
        Colour map; titles left out of a dict are gray.
    signed : str or sequence of str
        Titles of error maps: a diverging map, symmetric about zero, apart from "shared".
    columns : int, optional
        Panels in a row; up to four if left out.
    colorbar : bool
        Draw a colour bar for each set of limits in a row.
    colorbar_label : str or dict of title -> str
        Quantity and unit.
    crop : tuple of slices, optional
        Region shown, such as ``np.s_[40:90, 20:70]``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        No image, an image that is not 2D, real and of finite extent, or titles that do not exist.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:32, :32]
    >>> fig = show_images({"Fused": y, "Truth": x, "Error": y - x}, signed="Error", pixel_size=0.2)
    >>> [ax.get_title() for ax in fig.axes[:3]]
    ['Fused', 'Truth', 'Error']
    """
    diverging = {signed} if isinstance(signed, str) else set(signed)
    arrays = _checked_images(images, crop)
    for kind, titles in (("signed", diverging), ("cmap", _titles(cmap))):
        if not titles <= set(arrays):
            raise ValueError(f"{kind} names {sorted(titles - set(arrays))}: not among the images")
    ranges = _ranges(arrays, limits, diverging)
    columns = min(len(arrays), columns or 4)
    rows = math.ceil(len(arrays) / columns)

    aspect = max(a.shape[0] / a.shape[1] for a in arrays.values())
    place = "bottom" if limits == "each" and columns > 2 else "right"
    n_bars = (1 if limits == "shared" or isinstance(limits, tuple) else columns) + bool(diverging)
    beside = 0.6 * min(n_bars, columns) if colorbar and place == "right" else 0.0
    below = 0.5 if colorbar and place == "bottom" else 0.0
    height = rows * ((WIDTH - beside) / columns * aspect + 0.3 + below)
    fig = _figure(min(height, 9.0), "compressed")
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(arrays) :]:
        ax.remove()
    groups: dict[tuple, list[tuple[Axes, AxesImage]]] = {}
    for index, (title, array) in enumerate(arrays.items()):
        ax = axes.flat[index]
        cmap_name = DIVERGING if title in diverging else _lookup(cmap, title, "gray")
        low, high = ranges[title]
        picture = ax.imshow(array, cmap=cmap_name, vmin=low, vmax=high)
        ax.set_title(title)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        add_scale_bar(ax, pixel_size, unit)
        label = _lookup(colorbar_label, title, "")
        alone = index if limits == "each" else None
        key = (index // columns, cmap_name, low, high, label, alone)
        groups.setdefault(key, []).append((ax, picture))
    if colorbar:
        for key, members in groups.items():
            axes_of_bar = [ax for ax, _ in members]
            bar = fig.colorbar(members[-1][1], ax=axes_of_bar, location=place, pad=0.02, aspect=18)
            bar.set_label(key[4])
            bar.outline.set_visible(False)
            bar.ax.grid(False)
    return fig


def show_curves(
    curves: Mapping[str, ArrayLike | Array | tuple[ArrayLike | Array, ArrayLike | Array]],
    *,
    x: ArrayLike | Array | None = None,
    xlabel: str = "",
    ylabel: str = "",
    xlog: bool = False,
    ylog: bool = False,
    legend: Literal["inside", "direct"] | None = "inside",
    height: float = 3.0,
) -> Figure:
    """Draw curves that differ by colour, dash and marker.

    Parameters
    ----------
    curves : dict of name -> y or (x, y)
        One-dimensional arrays; without any x the samples are counted from 0.
    x : array, optional
        Abscissa of the curves that have none of their own.
    xlabel, ylabel : str
        Quantity and unit.
    xlog, ylog : bool
        Logarithmic axes.
    legend : "inside", "direct" or None
        A box where there is most room, or each name at the end of its curve.
    height : float
        Height in inches; the width is the text column.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> fig = show_curves({"GP": [4, 2, 1], "FGP": [4, 1, 0.2]}, xlabel="sweeps", ylog=True)
    >>> fig.axes[0].get_yscale()
    'log'
    """
    if legend not in ("inside", "direct", None):
        raise ValueError(f"legend is {legend!r}: use 'inside', 'direct' or None")
    pairs = {name: _xy(name, curve, x) for name, curve in curves.items()}
    fig = _figure(height, "constrained")
    ax = fig.subplots()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_xscale("log" if xlog else "linear")
    ax.set_yscale("log" if ylog else "linear")
    for index, (name, (xs, ys)) in enumerate(pairs.items()):
        every = max(1, len(ys) // 8)
        marker = MARKERS[index % len(MARKERS)]
        ax.plot(xs, ys, label=name, marker=marker, markevery=(index % every, every))
    if legend == "inside" and len(pairs) > 1:
        ax.legend()
    elif legend == "direct":
        _label_ends(ax)
    return fig


def _figure(height: float, layout: Literal["compressed", "constrained"]) -> Figure:
    notebook_shell()
    return Figure(figsize=(WIDTH, height), layout=layout)


def _checked_images(images: Mapping[str, Array], crop: Crop | None) -> dict[str, np.ndarray]:
    if not images:
        raise ValueError("no images: give a dict of title -> 2D array")
    arrays = {}
    for title, image in images.items():
        array = to_numpy(image)
        if array.ndim != 2 or np.iscomplexobj(array):
            raise ValueError(
                f"image {title!r} is {array.dtype} of shape {array.shape}: give a real 2D array"
            )
        arrays[title] = array if crop is None else array[crop]
        if arrays[title].ndim != 2 or arrays[title].size == 0:
            raise ValueError(f"crop {crop} leaves nothing of {title!r}, which is {array.shape}")
        if not np.isfinite(arrays[title]).any():
            raise ValueError(f"image {title!r} has no finite value")
    return arrays


def _ranges(
    arrays: dict[str, np.ndarray], limits: Limits, signed: set[str]
) -> dict[str, tuple[float, float]]:
    """One (lo, hi) per title."""
    own = {title: _extremes([a]) for title, a in arrays.items()}
    if isinstance(limits, list):
        if len(limits) != len(arrays):
            raise ValueError(f"{len(limits)} limits for {len(arrays)} images: give one each")
        given = zip(arrays, limits, strict=True)
        ranges = {t: own[t] if pair is None else (pair[0], pair[1]) for t, pair in given}
    elif isinstance(limits, tuple):
        ranges = dict.fromkeys(arrays, limits)
    elif limits == "shared":
        ranges = dict.fromkeys(arrays, _extremes([a for t, a in arrays.items() if t not in signed]))
    elif limits == "each":
        ranges = own
    else:
        raise ValueError(f"limits is {limits!r}: use 'shared', 'each', (lo, hi) or a list of them")
    if not isinstance(limits, list):
        for title in signed:
            largest = max(abs(own[title][0]), abs(own[title][1]))
            ranges[title] = (-largest, largest)
    return ranges


def _extremes(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    finite = [a[np.isfinite(a)] for a in arrays]
    if not finite:
        return 0.0, 1.0
    return min(float(a.min()) for a in finite), max(float(a.max()) for a in finite)


def _titles(choice: str | Mapping[str, str]) -> set[str]:
    return set() if isinstance(choice, str) else set(choice)


def _lookup(choice: str | Mapping[str, str], title: str, otherwise: str) -> str:
    return choice if isinstance(choice, str) else choice.get(title, otherwise)


def _xy(name: str, curve: Any, x: ArrayLike | Array | None) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(curve, tuple):
        xs, ys = (to_numpy(part) for part in curve)
    else:
        ys = to_numpy(curve)
        xs = np.arange(len(ys)) if x is None else to_numpy(x)
    if ys.ndim != 1 or xs.shape != ys.shape:
        raise ValueError(f"curve {name!r}: x is {xs.shape} and y {ys.shape}, give equal lengths")
    return xs, ys


def _label_ends(ax: Axes) -> None:
    """Write each curve's name beside its last point, pushed apart where they would overlap."""
    ends = [(str(line.get_label()), *np.array(line.get_data())[:, -1]) for line in ax.get_lines()]
    fig: Any = ax.figure
    fig.draw_without_rendering()  # the layout decides how far apart the ends are
    points = [
        (ax.transData.transform((x, y))[1] * 72 / fig.dpi, n) for n, (_, x, y) in enumerate(ends)
    ]
    below = -math.inf
    for height, n in sorted(points):
        name, x, y = ends[n]
        place = max(height, below + 11)  # points: one line of text
        below = place
        ax.annotate(
            name,
            (x, y),
            xytext=(6, place - height),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
