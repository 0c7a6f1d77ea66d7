"""Sliders over a fusion: maps and cost curves for every choice of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .._arrays import Array, to_numpy
from ..plots import MARKERS, WIDTH, add_scale_bar
from ..sliders import FrameGrid, Parameter
from ._checks import Elements, Maps
from .result import Cost, Fusion
from .solver import fuse

TERMS = {"haadf": "HAADF", "chem": "Poisson", "tv": "TV", "total": "total"}


def explore(
    haadf: Array,
    maps: Maps,
    atomic_numbers: Elements = None,
    *,
    lambda_chem: Sequence[float] = (0.01, 0.03, 0.08, 0.2, 0.6),
    lambda_tv: Sequence[float] = (0.001, 0.005, 0.015, 0.05, 0.15),
    n_iter: int = 30,
    n_iter_tv: int = 3,
    crop: tuple[slice, ...] | None = None,
    pixel_size: float | None = None,
    unit: str = "nm",
    static: bool | None = None,
    **settings: Any,
) -> FrameGrid:
    """Give sliders for `lambda_chem`, `lambda_tv` and the two iteration numbers.

    With a kernel all four sliders are live, and every move is a new fusion. On a built page there
    is one frame for each pair of the given weights.

    Parameters
    ----------
    haadf, maps, atomic_numbers
        As in `helpers.fusion.fuse`.
    lambda_chem, lambda_tv : sequence of float
        Weights of the built page's grid; live, the sliders run from a tenth of the smallest to ten
        times the largest. The third of each is where they start.
    n_iter, n_iter_tv : int
        Where the two iteration sliders start.
    crop : tuple of slices, optional
        Region that is drawn; the whole field is fused.
    pixel_size, unit
        For the scale bar; px if not given.
    static : bool, optional
        Force the built page's life, or the live one. Default: what the page runs in.
    **settings
        Other settings of `fuse`, such as ``background`` or ``solver``.

    Returns
    -------
    helpers.sliders.FrameGrid
        Displays itself as the last line of a cell.

    Notes
    -----
    Used in :doc:`/book/fusion/05_tune`.
    """
    names = list(maps) if isinstance(maps, Mapping) else [f"map {e}" for e in range(len(maps))]

    def render(chem: float, tv: float, iterations: float, sweeps: float) -> Figure:
        result = fuse(
            haadf, maps, atomic_numbers, lambda_chem=chem, lambda_tv=tv,
            n_iter=int(iterations), n_iter_tv=int(sweeps), **settings,
        )  # fmt: skip
        return _draw(result, names, crop, pixel_size, unit)

    def parameter(values: Sequence[float], label: str) -> Parameter:
        values = tuple(sorted(float(v) for v in values))
        live = (values[0] / 10, 10 * values[-1])
        return Parameter(values, label, default=values[len(values) // 2], live=live)

    return FrameGrid(
        render,
        {
            "lambda_chem": parameter(lambda_chem, "lambda_chem"),
            "lambda_tv": parameter(lambda_tv, "lambda_tv"),
            "n_iter": Parameter((n_iter,), "iterations", live=(1, max(100, n_iter))),
            "n_iter_tv": Parameter((n_iter_tv,), "TV iterations", live=(1, max(15, n_iter_tv))),
        },
        alt=lambda chem, tv, iterations, sweeps: (
            f"Fused maps of {', '.join(names)} and the three cost curves for "
            f"lambda_chem {chem:.3g} and lambda_tv {tv:.3g}"
        ),
        caption=(
            "Top: the HAADF image that the fused maps predict, and the fused maps, each on its own "
            "gray scale. Bottom: the terms of the cost, weights included."
        ),
        static=static,
    )


def plot_convergence(result: Fusion) -> Figure:
    """Draw the three terms of the cost and their total against the iteration.

    The start is left out: it is so much higher that nothing else would be seen.

    Parameters
    ----------
    result : Fusion
        What `helpers.fusion.fuse` gave for one field.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        The result is that of a batch.

    Notes
    -----
    Used in :doc:`/book/fusion/03_dysco3`, which says how to read it.
    """
    if result.cost.total.ndim != 1:
        raise ValueError(
            f"the result is a batch of {len(result.cost.total)}: give that of one field"
        )
    fig = Figure(figsize=(WIDTH, 2.2), layout="constrained")
    _draw_terms(np.ravel(fig.subplots(1, len(TERMS))), result.cost, TERMS, first=1)
    return fig


def _draw(result: Fusion, names: list[str], crop: Any, pixel_size: Any, unit: str) -> Figure:
    maps = result.maps.values() if isinstance(result.maps, dict) else result.maps
    images = dict(zip(["HAADF, model", *names], [result.haadf, *maps], strict=True))
    # Places by hand: an automatic layout would take half the time of a live move.
    fig = Figure(figsize=(WIDTH, 4.2))
    fig.set_layout_engine("none")
    top = fig.add_gridspec(1, len(images), left=0, right=1, bottom=0.46, top=0.93, wspace=0.04)
    bottom = fig.add_gridspec(1, 3, left=0.075, right=0.99, bottom=0.11, top=0.36, wspace=0.35)
    for ax, (title, image) in zip(_axes(top), images.items(), strict=True):
        image = to_numpy(image)
        ax.imshow(image if crop is None else image[crop], cmap="gray")
        ax.set_title(title)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        add_scale_bar(ax, pixel_size, unit)
    _draw_terms(_axes(bottom), result.cost, ("haadf", "chem", "tv"), first=0)
    return fig


def _axes(grid: Any) -> list:
    return list(np.ravel(grid.subplots()))


def _draw_terms(axes: Iterable, cost: Cost, names: Iterable[str], first: int) -> None:
    """One term of the cost in each of the axes, from iteration `first` on."""
    for k, (ax, name) in enumerate(zip(axes, names, strict=True)):
        values = cost[name][first:]
        at, every = np.arange(first, first + len(values)), max(1, len(values) // 6)
        ax.plot(at, values, color=f"C{k}", marker=MARKERS[k], markevery=every)
        ax.set_title(TERMS[name])
        ax.set_xlabel("iteration")
