"""X-ray lines and energy-loss edges of the elements."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._checks import SYMBOLS, atomic_number

TABLE = Path(__file__).with_name("xray_lines.csv")
SHELLS = ("K", "L", "M")
# A shell whose main line lies above this (keV) is taken only where it is asked for: silicon
# detectors stop few of its photons, and electrons make few.
HARD = 12.0

# Elements that no specimen of a guess contains: radioactive, or a gas.
RARE = {"Tc", "Pm", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Pa", "Np", "Pu", "He", "Ne", "Kr", "Xe"}

# Onsets of the edges that energy-loss maps are made of, in eV, the main one of each element
# first: C. C. Ahn and O. L. Krivanek, EELS Atlas (1983), and the appendix of egerton2011.
EDGES = {
    "Li": {"K": 55},
    "B": {"K": 188},
    "C": {"K": 284},
    "N": {"K": 401},
    "O": {"K": 532},
    "F": {"K": 685},
    "Na": {"K": 1072},
    "Mg": {"K": 1305},
    "Al": {"K": 1560, "L": 73},
    "Si": {"K": 1839, "L": 99},
    "P": {"L": 132, "K": 2146},
    "S": {"L": 165},
    "Cl": {"L": 200},
    "K": {"L": 294},
    "Ca": {"L": 346},
    "Sc": {"L": 402},
    "Ti": {"L": 456},
    "V": {"L": 513},
    "Cr": {"L": 575},
    "Mn": {"L": 640},
    "Fe": {"L": 708},
    "Co": {"L": 779},
    "Ni": {"L": 855},
    "Cu": {"L": 931},
    "Zn": {"L": 1020},
    "Ga": {"L": 1115},
    "Ge": {"L": 1217},
    "As": {"L": 1323},
    "Sr": {"L": 1940},
    "Y": {"L": 2080},
    "Zr": {"L": 2222},
    "Ba": {"M": 781},
    "La": {"M": 832},
    "Ce": {"M": 883},
    "Pr": {"M": 931},
    "Nd": {"M": 978},
    "Sm": {"M": 1080},
    "Eu": {"M": 1131},
    "Gd": {"M": 1185},
    "Tb": {"M": 1241},
    "Dy": {"M": 1295},
    "Ho": {"M": 1351},
    "Er": {"M": 1409},
    "Tm": {"M": 1468},
    "Yb": {"M": 1528},
    "Lu": {"M": 1588},
    "Hf": {"M": 1662},
    "Ta": {"M": 1735},
    "W": {"M": 1809},
    "Pt": {"M": 2122},
    "Au": {"M": 2206},
}


class Shell(NamedTuple):
    """Lines that end in one shell: energies in keV, and shares that add up to 1."""

    energies: np.ndarray
    weights: np.ndarray

    @property
    def main(self) -> float:
        """Energy of the strongest line, in keV."""
        return float(self.energies[self.weights.argmax()])


@cache
def table() -> dict[str, dict[str, Shell]]:
    """Read the lines of all elements, by symbol and shell."""
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if line[0] != "#"):
            key = SYMBOLS[int(row["Z"]) - 1], row["shell"]
            rows.setdefault(key, []).append((float(row["energy"]) / 1000, float(row["weight"])))
    lines: dict[str, dict[str, Shell]] = {}
    for (symbol, shell), pairs in rows.items():
        energies, weights = np.array(pairs).T
        lines.setdefault(symbol, {})[shell] = Shell(energies, weights / weights.sum())
    return lines


def choose_line(name: str, low: float, high: float) -> tuple[str, str]:
    """Element and shell of ``"Ti"`` or ``"Ti_Ka"``, for an axis from `low` to `high` keV.

    Raises
    ------
    ValueError
        An unknown element or line, or one outside of the axis.
    """
    symbol, wanted = split(name)
    if symbol not in table():
        raise ValueError(f"{symbol} has no x-ray line above 0.1 keV: leave it out")
    shells = table()[symbol]
    inside = [s for s in SHELLS if s in shells and low < shells[s].main < high]
    told = ", ".join(f"{symbol}_{s}a at {shells[s].main:.3f}" for s in SHELLS if s in shells)
    if wanted:
        shell = wanted[:1].upper()
        if shell not in shells or wanted[1:] not in ("", "a"):
            raise ValueError(f"{name!r} is no line to count: use one of {told} keV")
        if shell not in inside:
            raise ValueError(
                f"{name} is at {shells[shell].main:.3f} keV, but the energies run from {low:.3g} "
                f"to {high:.3g} keV: use one of {told} keV"
            )
        return symbol, shell
    if not inside:
        raise ValueError(
            f"no line of {symbol} lies between {low:.3g} and {high:.3g} keV: it has {told} keV"
        )
    soft = [s for s in inside if shells[s].main < HARD]
    return symbol, (soft or inside[-1:])[0]


def choose_edge(name: str, low: float, high: float) -> tuple[str, str, float]:
    """Element, shell and onset in eV of ``"Mn"`` or ``"Mn_L"``, for an axis in eV.

    Raises
    ------
    ValueError
        An element without an edge in the table, or with none on the axis.
    """
    symbol, wanted = split(name)
    edges = EDGES.get(symbol, {})
    told = ", ".join(f"{symbol}_{s} at {e}" for s, e in edges.items()) or "none in the table"
    for shell, onset in edges.items():
        if wanted[:1].upper() in ("", shell) and low < onset < high:
            return symbol, shell, float(onset)
    raise ValueError(
        f"no edge of {name} lies between {low:.4g} and {high:.4g} eV ({told} eV): give "
        f"windows={{{symbol!r}: ((fit_low, fit_high), (low, high))}}, in eV"
    )


def split(name: str) -> tuple[str, str]:
    """Split ``"Ti_Ka"`` into element and line; the line is empty where none is named."""
    if not isinstance(name, str):
        raise ValueError(f"element {name!r}: give a symbol, 'Ti', or a line, 'Ti_Ka'")
    symbol, _, line = name.partition("_")
    atomic_number(symbol)
    return symbol, line


def candidates(energy: float, within: float) -> list[str]:
    """Elements whose main line lies within `within` keV of an energy, the nearest first."""
    found = [
        (abs(shell.main - energy), f"{symbol}_{name}a")
        for symbol, shells in table().items()
        if symbol not in RARE
        for name, shell in shells.items()
        if abs(shell.main - energy) <= within
    ]
    return [name for _, name in sorted(found)]
