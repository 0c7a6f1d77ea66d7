r"""Simulated specimens with known chemistry, for tests and for pages without a network.

The images are drawn from columns and particles in physical units, never through the forward model
of `helpers.fusion.model`: the HAADF here is linear in the amount of matter and goes with
:math:`Z^{1.7}`, the solver's is :math:`\sum_e w_e x_e^{1.6}`. A solver that only inverts its own
assumptions shows it on these data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ._checks import atomic_number, number, whole

HAADF_EXPONENT = 1.7
KINDS = ("dysco3", "core_shell")


@dataclass(frozen=True)
class Simulation:
    """A simulated measurement and the truth behind it.

    Attributes
    ----------
    counts : dict of (H, W) int array
        Measured x-ray or electron counts of each element.
    haadf : (H, W) float array
        HAADF image, in detected electrons.
    truth : dict of (H, W) float array
        Expected counts that belong to the element: no noise, no background.
    atomic_numbers : dict of int
        By element.
    pixel_size : float
        In nm.
    """

    counts: dict[str, np.ndarray]
    haadf: np.ndarray
    truth: dict[str, np.ndarray]
    atomic_numbers: dict[str, int]
    pixel_size: float

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The counts as float arrays."""
        return {element: c.astype(float) for element, c in self.counts.items()}

    def __iter__(self) -> Iterator:
        return iter((self.counts, self.haadf, self.truth))


def simulate(
    kind: str = "dysco3",
    *,
    counts: float = 2.0,
    seed: int = 0,
    size: int = 192,
    pixel_size: float | None = None,
    peak: float = 2000.0,
) -> Simulation:
    """Simulate elemental maps with shot noise and a cleaner HAADF image.

    Parameters
    ----------
    kind : {"dysco3", "core_shell"}
        Atomic columns of DyScO3 along its pseudo-cubic [001], by x-rays; or Co3O4 particles in
        Mn3O4 shells, by energy loss.
    counts : float
        Mean counts per pixel of each map, background included (over the whole field for "dysco3",
        over the particles for "core_shell").
    seed : int
        Of the noise, and of the particles' places. The lattice does not depend on it.
    size : int
        Edge of the square field, in pixels.
    pixel_size : float, optional
        In nm. Default: 0.016 for "dysco3", 0.25 for "core_shell".
    peak : float
        HAADF electrons in the brightest pixel, which set its shot noise.

    Returns
    -------
    Simulation
        ``counts``, ``haadf``, ``truth``; iterates in that order.

    Raises
    ------
    ValueError
        An unknown kind, or a count, size or peak that is not positive.

    Notes
    -----
    Shown and used in :doc:`/book/fusion/01_model` and :doc:`/book/fusion/05_tune`.

    Examples
    --------
    >>> counts, haadf, truth = simulate("dysco3", counts=1, seed=0, size=32)
    >>> counts["Dy"].dtype.kind, haadf.shape, list(truth)
    ('i', (32, 32), ['Sc', 'Dy', 'O'])
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: use 'dysco3' or 'core_shell'")
    size = whole("size", size)
    for name, value in {"counts": counts, "peak": peak}.items():
        if not 0 < number(name, value) < np.inf:
            raise ValueError(f"{name} is {value}: it must be above 0")
    rng = np.random.default_rng(seed)
    if kind == "dysco3":
        pixel_size = pixel_size or 0.016
        amounts, matter = _perovskite(size, pixel_size)
        background = _bremsstrahlung(amounts, 0.05)
        where = np.ones((size, size), bool)
    else:
        pixel_size = pixel_size or 0.25
        amounts, matter = _particles(size, pixel_size, rng)
        # What a power law leaves under an edge: a floor everywhere, more where there is matter.
        where = np.sum(list(amounts.values()), axis=0) > 0
        inside = np.mean(list(amounts.values()), axis=0)
        background = 0.1 * inside / inside[where].mean() + 0.02
    truth, measured = {}, {}
    for element, amount in amounts.items():
        expected = amount + background * amount[where].mean()
        scale = counts / expected[where].mean()
        truth[element] = scale * amount
        measured[element] = rng.poisson(scale * expected)
    haadf = rng.poisson(peak * matter / matter.max()).astype(float)
    numbers = {element: atomic_number(element) for element in amounts}
    return Simulation(measured, haadf, truth, numbers, pixel_size)


def twin_dysco3(seed: int = 2024) -> dict[str, np.ndarray]:
    """Arrays with the names, sizes and units of the measured DyScO3 file: HAADF, Sc, Dy, O.

    The maps are atomic fractions: they add up to one in every pixel, as in the file.
    """
    rng = np.random.default_rng(seed)
    amounts, matter = _perovskite(256, 0.0262, pedestal=1.2)
    composition = {"Sc": 0.22, "Dy": 0.17, "O": 0.61}
    fractions = {
        element: composition[element] * (rng.poisson(9 * a / a.mean()) + 0.5)
        for element, a in amounts.items()
    }
    total = sum(fractions.values())
    haadf = rng.poisson(6000 * matter / matter.max())
    return {
        "HAADF": 6400 + 27000 * haadf / haadf.max(),
        **{element: f / total for element, f in fractions.items()},
    }


def twin_core_shell(seed: int = 2024) -> dict[str, np.ndarray]:
    """Arrays with the names, sizes and units of the measured Co3O4-Mn3O4 file: HAADF, Co, Mn, O.

    As in the file, a background was subtracted from the maps and what fell below zero was cut off.
    """
    data = simulate("core_shell", counts=0.5, seed=seed, size=400, peak=20000)
    arrays = {"HAADF": (1.1e7 + 4.5e7 * data.haadf / data.haadf.max()).astype(np.float32)}
    for element, counts in data.counts.items():
        arrays[element] = (0.006 * np.maximum(counts - 0.2, 0)).astype(np.float32)
    return arrays


def _perovskite(
    size: int, pixel_size: float, pedestal: float = 0.04
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Expected signal of each element and of the HAADF, for DyScO3 along pseudo-cubic [001].

    One cell is 0.395 nm wide. Dy columns are split by 0.084 nm, alternately along one diagonal and
    the other; Sc columns hold O as well; further O columns stand between them, displaced by the
    tilt of the octahedra. Three Dy columns lack most of their Dy: a defect that a fusion must keep.
    `pedestal` is the share of the signal that has spread over the whole field.
    """
    cell = 0.395 / pixel_size
    n = int(np.ceil(size / cell)) + 1
    grid = np.arange(-1, n + 1)
    columns: dict[str, list] = {"Sc": [], "Dy": [], "O": []}
    split, tilt = 0.042 / pixel_size / np.sqrt(2), 0.03 / pixel_size
    for r in grid:
        for c in grid:
            y, x = (r + 0.3) * cell, (c + 0.3) * cell
            sign = 1 if (r + c) % 2 else -1
            amount = 0.25 if (r, c) in ((1, 1), (2, 4), (4, 2)) else 1.0
            columns["Dy"] += [(y + s * split, x + s * sign * split, amount / 2) for s in (-1, 1)]
            columns["Sc"].append((y + cell / 2, x + cell / 2, 1.0))
            columns["O"] += [
                (y + cell / 2, x + cell / 2, 1.0),
                (y + cell / 2 + sign * tilt, x, 1.0),
                (y, x + cell / 2 - sign * tilt, 1.0),
            ]
    ramp = 1 + 0.15 * np.linspace(-0.5, 0.5, size)
    amounts, matter = {}, np.zeros((size, size))
    for element, sigma_nm in {"Sc": 0.045, "Dy": 0.045, "O": 0.05}.items():
        places = np.array(columns[element])
        # X-rays come from a probe that spreads; the HAADF is sharper.
        image = _blobs(places, sigma_nm / pixel_size, size) * ramp
        amounts[element] = image + pedestal * image.mean()
        sharp = _blobs(places, 0.8 * sigma_nm / pixel_size, size) * ramp
        matter = matter + atomic_number(element) ** HAADF_EXPONENT * sharp
    return amounts, matter + 0.04 * matter.mean()


def _blobs(places: np.ndarray, sigma: float, size: int) -> np.ndarray:
    """Sum of Gaussians of unit volume at (row, column, amount), integrated along each axis."""
    at = np.arange(size)
    rows = np.exp(-0.5 * ((at - places[:, :1]) / sigma) ** 2)
    columns = np.exp(-0.5 * ((at - places[:, 1:2]) / sigma) ** 2)
    return (places[:, 2:] * rows).T @ columns / (2 * np.pi * sigma**2)


def _bremsstrahlung(amounts: dict[str, np.ndarray], share: float) -> np.ndarray:
    """Continuous x-rays, as a fraction of a map's mean signal: they follow all matter."""
    matter = np.sum([atomic_number(e) * a for e, a in amounts.items()], axis=0)
    return share * matter / matter.mean()


def _particles(
    size: int, pixel_size: float, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Projected amounts for a heap of rounded cubes with a cobalt core and a manganese shell."""
    edge = size * pixel_size
    at = (np.arange(size) + 0.5) * pixel_size
    y, x = np.meshgrid(at, at, indexing="ij")
    co, mn, o = (np.zeros((size, size)) for _ in range(3))
    for k in range(9):
        angle = 2.4 * k  # the golden angle packs them like the seeds of a sunflower
        radius = 0.105 * edge * np.sqrt(k)
        cy = edge / 2 + radius * np.sin(angle) + rng.normal(0, 0.005 * edge)
        cx = edge / 2 + radius * np.cos(angle) + rng.normal(0, 0.005 * edge)
        outer = 0.095 * edge * rng.uniform(0.85, 1.1)
        turn = rng.uniform(0, np.pi / 2)
        whole = _rounded_cube(y - cy, x - cx, outer, turn)
        core = _rounded_cube(y - cy, x - cx, rng.uniform(0.5, 0.65) * outer, turn)
        co += core
        mn += whole - core
        o += 4 / 3 * whole
    numbers = {"Co": co, "Mn": mn, "O": o}
    matter = sum(atomic_number(e) ** HAADF_EXPONENT * a for e, a in numbers.items())
    # A carbon film under the particles: the HAADF sees it, the three maps do not.
    return numbers, matter + 0.04 * matter.max()


def _rounded_cube(y: np.ndarray, x: np.ndarray, half: float, turn: float) -> np.ndarray:
    """Thickness of a turned cube with rounded edges: a superellipsoid of power 4."""
    v = (np.cos(turn) * y - np.sin(turn) * x) / half
    u = (np.sin(turn) * y + np.cos(turn) * x) / half
    return 2 * half * np.clip(1 - u**4 - v**4, 0, None) ** 0.25
