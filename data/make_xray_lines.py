"""Write the table of x-ray lines: ``python data/make_xray_lines.py`` (pip install xraylib).

Energies and transition probabilities are those of xraylib, T. Schoonjans et al., Spectrochim.
Acta B 66, 776 (2011), doi 10.1016/j.sab.2011.09.011. The weights inside a shell are made here: a
fast electron ionises the subshells in proportion to their electrons, vacancies move up by
Coster-Kronig transitions, and each emits with its fluorescence yield.
"""

from pathlib import Path

import xraylib as xr

PATH = Path(__file__).parents[1] / "helpers" / "fusion" / "scan" / "xray_lines.csv"
# subshells with their electrons, the innermost first
SHELLS = {
    "K": {"K": 2},
    "L": {"L1": 2, "L2": 2, "L3": 4},
    "M": {"M3": 4, "M4": 4, "M5": 6},
}
COSTER_KRONIG = {
    ("L1", "L2"): "FL12_TRANS",
    ("L1", "L3"): "FL13_TRANS",
    ("L2", "L3"): "FL23_TRANS",
    ("M3", "M4"): "FM34_TRANS",
    ("M3", "M5"): "FM35_TRANS",
    ("M4", "M5"): "FM45_TRANS",
}
OUTER = [f"{s}{k}" for s, n in (("L", 3), ("M", 5), ("N", 7), ("O", 5)) for k in range(1, n + 1)]
LEAST = 0.004  # share of its shell below which a line is left out
ELEMENTS = range(4, 95)


def value(function, *arguments):
    """Value of a function of xraylib, 0 where it has none."""
    try:
        return function(*arguments)
    except ValueError:
        return 0.0


def shell_lines(z, shell):
    """(energy in eV, weight) of the lines that end in a shell; the weights add up to 1."""
    electrons = SHELLS[shell]
    bound = [s for s in electrons if value(xr.EdgeEnergy, z, getattr(xr, f"{s}_SHELL")) > 0]
    vacancies = {s: float(electrons[s]) for s in bound}
    for s in bound:
        for t in bound:
            name = COSTER_KRONIG.get((s, t))
            moved = value(xr.CosKronTransProb, z, getattr(xr, name)) if name else 0.0
            vacancies[t] += vacancies[s] * moved
    found = []
    for s in bound:
        light = vacancies[s] * value(xr.FluorYield, z, getattr(xr, f"{s}_SHELL"))
        for t in OUTER:
            line = getattr(xr, f"{s}{t}_LINE", None)
            if line is None or t[0] == s[0]:
                continue
            energy, rate = value(xr.LineEnergy, z, line), value(xr.RadRate, z, line)
            if energy > 0.05 and rate > 0:
                found.append((1000 * energy, light * rate))
    total = sum(weight for _, weight in found)
    kept = [(e, w / total) for e, w in found if total > 0 and w / total >= LEAST]
    total = sum(weight for _, weight in kept)
    merged: list[tuple[float, float]] = []
    for e, w in sorted(kept):  # no detector tells lines apart that are this near
        if merged and e - merged[-1][0] < 4:
            e0, w0 = merged.pop()
            e, w = (e0 * w0 + e * w) / (w0 + w), w0 + w
        merged.append((e, w))
    return [(round(e, 1), round(w / total, 4)) for e, w in merged]


def main():
    """Write one row a line."""
    rows = [
        "# X-ray lines: atomic number, shell, energy in eV, share of the shell's photons.",
        f"# Made by data/make_xray_lines.py from xraylib {xr.__version__}; sources stand there.",
        "Z,shell,energy,weight",
    ]
    for z in ELEMENTS:
        for shell in SHELLS:
            rows += [f"{z},{shell},{e:g},{w:g}" for e, w in shell_lines(z, shell)]
    PATH.write_text("\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
