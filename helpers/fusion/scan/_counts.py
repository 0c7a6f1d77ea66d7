r"""Counted maps of elements from spectra: windows, and the expected background in each of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from ._edges import edge_maps
from ._lines import choose_line, split, table
from ._read import Scan, Spectra, blocks, total
from ._spectrum import Axis, SpectrumFit, calibrate, fit

# Elements of grid, membrane, detector and air, fitted wherever they are not asked for.
STRAY = ("C", "N", "O", "Si", "Cu")
HALF_WINDOW = 0.85  # of the full width at half maximum: 2 standard deviations to each side
BACKGROUND_ERROR = 0.25  # relative error at which the smoothing of a background stops
TOO_LIKE = 0.25  # relative error of an amount above which two elements cannot be told apart
Window = tuple[float, float]


@dataclass(frozen=True)
class Counts:
    """Counted maps, and how many of the counts are not the element's; by `maps_from_spectra`.

    Attributes
    ----------
    maps : dict of (H, W) array
        All counts in the window of each element, background included. Whole numbers where the
        spectra hold whole numbers.
    background : dict of (H, W) float array
        Expected counts of everything else in the window: continuum, and lines of other elements.
        ``maps`` minus ``background`` is the net signal.
    totals : dict of (float, float)
        Net counts of the field, and their standard error.
    lines : dict of str
        The line or edge of each element, ``"Ti_Ka"`` or ``"Mn_L"``.
    windows : dict of (float, float)
        First and last energy of each window, on the calibrated axis.
    fractions : dict of float
        Share of the photons of the line's shell that fall into the window (EELS: 1).
    energies : (K,) float array
        Calibrated centres of the channels, in `energy_unit`.
    spectrum : (K,) float array
        Sum of all spectra.
    fit : dict of (K,) float array
        Expected counts of each component: the shells (``"Ti_K"``), the peaks that no element
        explains, ``"continuum"`` (EELS: the power law of each element).
    offset, gain : float
        ``energies = offset + gain * scan.energies``.
    resolution : float
        Full width at half maximum of the Mn K-alpha line, in keV; nan for EELS.
    unexplained : tuple of str
        Peaks of the sum that no element of the list makes, with elements that would.
    pixel_size : float or None
        In `unit`.
    unit, energy_unit : str
    """

    maps: dict[str, np.ndarray] = field(repr=False)
    background: dict[str, np.ndarray] = field(repr=False)
    totals: dict[str, tuple[float, float]]
    lines: dict[str, str]
    windows: dict[str, Window]
    fractions: dict[str, float]
    energies: np.ndarray = field(repr=False)
    spectrum: np.ndarray = field(repr=False)
    fit: dict[str, np.ndarray] = field(repr=False)
    offset: float
    gain: float
    resolution: float
    unexplained: tuple[str, ...]
    pixel_size: float | None
    unit: str
    energy_unit: str

    @property
    def net(self) -> dict[str, np.ndarray]:
        """Counts minus expected background, (H, W) each: negative where noise says so."""
        return {e: self.maps[e] - self.background[e] for e in self.maps}


def maps_from_spectra(
    scan: Scan,
    elements: Sequence[str],
    *,
    others: Sequence[str] = (),
    windows: Mapping[str, Window | tuple[Window, Window]] | None = None,
    calibrated: bool = False,
    resolution: float = 0.13,
) -> Counts:
    r"""Maps of the counts of elements, with the background in them, from a scan's spectra.

    Parameters
    ----------
    scan : Scan
        With spectra; from `read`.
    elements : sequence of str
        Symbols, ``["Ti", "O"]``, or lines, ``["Pd_La", "O"]``. A symbol takes the hardest shell
        below 12 keV; for energy losses the main edge.
    others : sequence of str
        Symbols of further elements that are in the specimen, fitted but not mapped. C, N, O, Si
        and Cu always are. For energy losses they are not used.
    windows : dict of (low, high), optional
        By symbol, in place of 2 standard deviations to each side of the line, in keV. For energy
        losses ``((fit_low, fit_high), (low, high))`` in eV.
    calibrated : bool
        Trust the energies of the file. Otherwise offset (up to 0.2 keV), gain (up to 1.5 %) and
        width of the lines are those that fit the sum of all spectra best. Not for energy losses.
    resolution : float
        Full width at half maximum of Mn K-alpha in keV, where the search for it begins.

    Returns
    -------
    Counts

    Raises
    ------
    ValueError
        No spectra, no counts, values that are no counts, an element without a line on the axis,
        windows that are not on it.

    Warns
    -----
    UserWarning
        Two elements whose lines overlap so far that the counts cannot tell them apart.

    Notes
    -----
    The sum of all spectra is fitted by lines and a continuum (weights :math:`W = 1/\mu`, the
    maximum of the Poisson likelihood). The amounts in a pixel are then :math:`(T^\top W T)^{-1}
    T^\top W y`, linear in its counts y and so right on average however few they are. Backgrounds
    made of them are smoothed until they are known to 25 %, which keeps their sum. For energy
    losses the background is a power law whose exponent comes from the sum and whose height comes
    from each pixel. Derived in :doc:`/book/fusion/08_your_file`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> energies = np.arange(0.0, 8.0, 0.01)
    >>> line = np.exp(-0.5 * ((energies - 4.51) / 0.05) ** 2)
    >>> spectra = rng.poisson(2e-3 + line / line.sum(), (24, 24, 800))
    >>> found = maps_from_spectra(Scan({}, spectra, energies, None, "px", None, {}), ["Ti"])
    >>> found.maps["Ti"].dtype.kind, found.lines
    ('i', {'Ti': 'Ti_Ka'})
    """
    names = _element_names(elements)
    spectra, energies = _check_scan(scan)
    extra = _element_names(others, "others") if len(others) else []
    for symbol in windows or {}:
        if symbol not in [split(name)[0] for name in names]:
            raise ValueError(f"windows has {symbol!r}, which is not among the elements {names}")
    if scan.energy_unit == "eV":
        return _from_edges(scan, spectra, energies, names, dict(windows or {}))
    if not 0.02 <= resolution <= 1:
        raise ValueError(f"resolution is {resolution}: give a width in keV, such as 0.13")
    low, high = max(float(energies[0]), 0.1), float(energies[-1])
    chosen = dict(choose_line(name, low, high) for name in names)
    summed = total(spectra)
    _check_counts(summed)
    symbols = list(dict.fromkeys([*chosen, *map(lambda n: split(n)[0], extra), *STRAY]))
    symbols = [s for s in symbols if s in table()]
    axis = Axis(energies, resolution=resolution)
    if not calibrated:
        axis = calibrate(summed, axis, symbols)
    found = fit(summed, axis, symbols, [f"{e}_{shell}" for e, shell in chosen.items()])
    return _from_lines(scan, spectra, chosen, found, summed, dict(windows or {}))


def _from_lines(
    scan: Scan,
    spectra: Spectra,
    chosen: Mapping[str, str],
    found: SpectrumFit,
    summed: np.ndarray,
    windows: Mapping[str, Window | tuple[Window, Window]],
) -> Counts:
    axis = found.axis
    components = _components(found, chosen)
    names, shapes = list(components), np.array(list(components.values()))
    spans, parts = {}, {}
    for symbol, shell in chosen.items():
        main = table()[symbol][shell].main
        half = HALF_WINDOW * float(axis.width(main))
        spans[symbol], parts[symbol] = _window(axis, symbol, windows, (main - half, main + half))
    estimator = _estimator(shapes, found.expected)
    inside = {e: shapes[:, part].sum(axis=1) for e, part in parts.items()}
    others = {}  # what the counts of a pixel say about the background of each window
    for e, shell in chosen.items():
        share = inside[e].copy()
        share[names.index(f"{e}_{shell}")] = 0
        others[e] = share @ estimator
    maps, rough = _reduce(spectra, parts, others)
    background, totals = {}, {}
    for e, part in parts.items():
        indicator = np.zeros(summed.size)
        indicator[part] = 1
        net = indicator - others[e]
        totals[e] = float(net @ summed), float(np.sqrt(net**2 @ summed))
        background[e] = _smoothed(rough[e], others[e], summed)
        _warn_of_overlap(e, totals[e], float(indicator @ summed))
    own = {e: names.index(f"{e}_{shell}") for e, shell in chosen.items()}
    return Counts(
        maps,
        background,
        totals,
        {e: f"{e}_{shell}a" for e, shell in chosen.items()},
        spans,
        {e: float(inside[e][k]) for e, k in own.items()},
        axis.energies,
        summed,
        _curves(found),
        axis.offset,
        axis.gain,
        axis.resolution,
        found.unexplained,
        scan.pixel_size,
        scan.unit,
        "keV",
    )


def _components(found: SpectrumFit, chosen: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Shapes that a pixel is fitted with: what the sum has, and one continuum as it is there."""
    wanted = {f"{e}_{shell}" for e, shell in chosen.items()}
    components = {
        name: shape
        for name, shape in found.shapes.items()
        if not name.startswith("continuum") and (name in wanted or found.amounts[name] > 0)
    }
    continuum = _continuum(found)
    if continuum.sum() > 0:
        components["continuum"] = continuum / continuum.sum()
    return components


def _continuum(found: SpectrumFit) -> np.ndarray:
    knots = [name for name in found.shapes if name.startswith("continuum")]
    return np.sum([found.amounts[k] * found.shapes[k] for k in knots], axis=0)


def _curves(found: SpectrumFit) -> dict[str, np.ndarray]:
    curves = {
        name: found.amounts[name] * shape
        for name, shape in found.shapes.items()
        if not name.startswith("continuum") and found.amounts[name] > 0
    }
    return {**curves, "continuum": _continuum(found)}


def _estimator(shapes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Matrix (C, K) that gives the amounts in a pixel from its counts."""
    weights = 1 / np.maximum(expected, 1e-3 * max(expected.mean(), 1e-12))
    weights[expected <= 0] = 0
    gram = (shapes * weights) @ shapes.T
    return np.linalg.pinv(gram, rcond=1e-10, hermitian=True) @ (shapes * weights)


def _window(
    axis: Axis, symbol: str, windows: Mapping[str, object], default: Window
) -> tuple[Window, slice]:
    low, high = _pair(windows.get(symbol, default), symbol)
    edges = axis.edges
    first, last = np.searchsorted(axis.energies, (low, high))
    if last - first < 1 or low < edges[0] or high > edges[-1]:
        raise ValueError(
            f"the window of {symbol}, {low:.4g} to {high:.4g} keV, holds {last - first} channels: "
            f"the energies run from {axis.energies[0]:.4g} to {axis.energies[-1]:.4g} keV"
        )
    return (float(edges[first]), float(edges[last])), slice(int(first), int(last))


def _pair(given: object, symbol: str) -> Window:
    try:
        low, high = (float(x) for x in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(
            f"the window of {symbol} is {given!r}: give two energies in keV, (low, high)"
        ) from None
    if not low < high:
        raise ValueError(f"the window of {symbol} is {given!r}: low must be below high")
    return low, high


def _reduce(
    spectra: Spectra, parts: Mapping[str, slice], others: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """One pass over the spectra: counts of the windows, and the linear estimates beside them."""
    height, width, _ = spectra.shape
    whole = np.dtype(spectra.dtype).kind in "iub"
    kind = np.int64 if whole else np.float64
    maps = {e: np.zeros((height, width), kind) for e in parts}
    rough = {e: np.zeros((height, width)) for e in others}
    matrix = np.array(list(others.values())).T
    for rows, block in blocks(spectra):
        for e, part in parts.items():
            maps[e][rows] = block[..., part].sum(axis=-1, dtype=kind)
        values = block.reshape(-1, block.shape[-1]).astype(float) @ matrix
        for e, column in zip(others, values.T, strict=True):
            rough[e][rows] = column.reshape(-1, width)
    return maps, rough


def _smoothed(rough: np.ndarray, weights: np.ndarray, summed: np.ndarray) -> np.ndarray:
    """Non-negative background of the same sum, smoothed as far as its noise needs it."""
    n = rough.size
    mean, variance = float(weights @ summed) / n, float(weights**2 @ summed) / n
    if mean <= 0:
        return np.zeros(rough.shape)
    sigma = np.sqrt(variance / (4 * np.pi)) / (BACKGROUND_ERROR * mean)
    if sigma > 0.4:
        rough = gaussian_filter(rough, min(sigma, max(rough.shape) / 4), mode="reflect")
    positive = np.maximum(rough, 0)
    return positive * (mean * n / positive.sum())


def _warn_of_overlap(element: str, amount: tuple[float, float], counts: float) -> None:
    net, error = amount
    if error > max(TOO_LIKE * abs(net), 1.25 * np.sqrt(counts)):
        warnings.warn(
            f"{element}: {net:.0f} ± {error:.0f} net counts of {counts:.0f} in its window: its "
            "line cannot be told from another's; name another line, as 'Ba_La', or leave out the "
            "element that is not there",
            stacklevel=4,
        )


def _from_edges(
    scan: Scan,
    spectra: Spectra,
    energies: np.ndarray,
    names: Sequence[str],
    windows: Mapping[str, object],
) -> Counts:
    summed = total(spectra)
    _check_counts(summed)
    found = edge_maps(spectra, energies, names, windows, summed)
    return Counts(
        {e: edge.maps for e, edge in found.items()},
        {e: edge.background for e, edge in found.items()},
        {e: edge.total for e, edge in found.items()},
        {e: edge.line for e, edge in found.items()},
        {e: edge.window for e, edge in found.items()},
        dict.fromkeys(found, 1.0),
        energies,
        summed,
        {e: edge.curve for e, edge in found.items()},
        0.0,
        1.0,
        float("nan"),
        (),
        scan.pixel_size,
        scan.unit,
        "eV",
    )


def _element_names(given: Sequence[str], name: str = "elements") -> list[str]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise ValueError(f"{name} is {given!r}: give a list of symbols, such as ['Ti', 'O']")
    names = list(given)
    symbols = [split(n)[0] for n in names]
    twice = sorted({s for s in symbols if symbols.count(s) > 1})
    if not names or twice:
        told = f"has {', '.join(twice)} more than once" if twice else "is empty"
        raise ValueError(f"{name} {told}: give each element once, such as ['Ti', 'O']")
    return names


def _check_scan(scan: Scan) -> tuple[Spectra, np.ndarray]:
    if not isinstance(scan, Scan):
        raise ValueError(
            f"scan is of type {type(scan).__name__}: give what helpers.fusion.read returns"
        )
    if scan.spectra is None or scan.energies is None:
        listed = ", ".join(map(repr, scan.images)) or "nothing"
        raise ValueError(
            f"the scan has no spectra, but {listed}: maps are made from a spectrum image, "
            "(H, W, energies)"
        )
    shape = tuple(scan.spectra.shape)
    energies = np.asarray(scan.energies, float)
    if len(shape) != 3 or energies.shape != shape[-1:]:
        raise ValueError(
            f"spectra are {' x '.join(map(str, shape))} and energies {energies.shape}: expected "
            "(H, W, K) and (K,); move the energy axis to the end"
        )
    if 0 in shape or shape[-1] < 8:
        raise ValueError(f"spectra are {' x '.join(map(str, shape))}: too few to count in")
    if not np.isfinite(energies).all() or (np.diff(energies) <= 0).any():
        raise ValueError("the energies must be finite and rise: give energies= when you read")
    return scan.spectra, energies


def _check_counts(summed: np.ndarray) -> None:
    if summed.sum() <= 0:
        raise ValueError("the spectra hold no counts: is this the right data set of the file?")
