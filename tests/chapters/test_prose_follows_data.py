"""Pages 03 and 04 of the fusion part say what their data say: the measured ones, and the twins.

A page is run in this process, its glued values are put into its prose, and each claim below that
stands in the prose must hold for the numbers. Claims marked `former` once stood on a page and were
false for one of the two.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import jupytext
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from helpers import datasets

SET = {"03_dysco3": "dysco3", "04_core_shell": "core_shell"}
# Simulations and sliders, the slow part, are the same for both.
SHOWN = (("figure", "caption"), ("image", "alt"))  # the words of a code cell
SAME = ("sliders.", "FrameSlider", "methods(sample)", "fused(sample", "assert ", "/ 0.24")


def agreement(page, fused, sigma):
    return {
        e: np.corrcoef(gaussian_filter(page.maps[e], sigma).ravel(), other.ravel())[0, 1]
        for e, other in fused.items()
    }


def smoothed(page, run):
    return agreement(page, {e: gaussian_filter(m, 4) for e, m in run.maps.items()}, 4)


def rims(page):
    """Brightness of the first rows over that of the rows below, for every image."""
    return {e: m[:7].mean() / m[12:20].mean() for e, m in page.data.arrays.items()}


def alike(page):
    """Correlation of the first rows of the HAADF with the most similar row below."""
    rows = gaussian_filter(page.data["HAADF"].astype(float), (0, 2))
    return max(np.corrcoef(rows[:7].mean(axis=0), row)[0, 1] for row in rows[12:])


def turns(page):
    cost = page.tutorial.cost
    return {"HAADF": cost.haadf.argmin(), "Poisson": cost.chem.argmin(), "TV": cost.tv.argmin()}


def added(page, element):
    difference = page.with_it[element] - page.without[element]
    return np.corrcoef(difference.ravel(), page.haadf.ravel())[0, 1]


def cut(page):
    return [100 * (1 - page.start[e].sum() / m.sum()) for e, m in page.maps.items()]


def ratio(page, element):
    return page.published.maps[element].sum() / page.maps[element].sum()


def shells(page):
    """Whether manganese is highest on both sides of the core, by rows of the three estimates."""
    at = page.columns
    core = page.convex.maps["Co"][page.row - 6 : page.row + 7, at].mean(axis=0)
    inside = np.flatnonzero(core > core.max() / 2)
    middle = int(np.median(inside))
    for image in (gaussian_filter(page.maps["Mn"], 4), page.published.maps["Mn"]):
        line = image[page.row - 6 : page.row + 7, at].mean(axis=0)
        left, right = line[:middle].argmax(), middle + line[middle:].argmax()
        if left > inside[0] or right < inside[-1]:
            return False
    return True


def close(text, value, digits=2):
    return abs(float(text) - value) <= 0.51 * 10.0**-digits


CLAIMS = {
    "03_dysco3": [
        (r"(\w+) tells the two apart: its agreement falls from (\d+\.?\d*) to (\d+\.?\d*), and the "
         r"lattice breaks", lambda p, e, a, b: close(a, agreement(p, p.tutorial.maps, 1.5)[e])
         and close(b, agreement(p, p.runs["minimiser"], 1.5)[e]) and float(b) < float(a) / 2),
        (r"columns get flat tops, but they are all there",
         lambda p: min(agreement(p, p.runs["minimiser"], 1.5).values()) > 0.5),
        (r"the (\w+) term is smallest at iteration (\d+) and then gives way",
         lambda p, name, k: turns(p)[name] == int(k) < 30),
        (r"all three fall to the end", lambda p: min(turns(p).values()) == 30),
        (r"total is smallest at iteration (\d+) and then creeps up",
         lambda p, k: p.tutorial.cost.total.argmin() == int(k) < 30),
        (r"Here (\w+) is lost already \((\d+\.?\d*) above, (\d+\.?\d*) in this row\)",
         lambda p, e, a, b: close(a, agreement(p, p.results["under"].maps, 1.5)[e])
         and close(b, agreement(p, p.results["right"].maps, 1.5)[e]) and float(b) < 0.5),
        (r"Here all maps are kept, (\w+) least",
         lambda p, e: min(agreement(p, p.results["right"].maps, 1.5).values()) >= 0.5),
        (r"Lost here: ([\w ]+)\.", lambda p, names: set(names.split(" and ")) == {
            e for e, r in agreement(p, p.results["over"].maps, 1.5).items() if r < 0.5}),
        (r"For (\w+) it is nearly the HAADF itself \(r = (\d+\.?\d*)\)",
         lambda p, e, r: close(r, added(p, e)) and added(p, e) > 0.9),
        (r"After 20 iterations (\d+\.?\d*) % of the fall", lambda p, left: float(left) < 5),
    ],
    "04_core_shell": [
        (r"(\d+\.?\d*) times in the HAADF, (\d+) times in manganese\), and what they show is what "
         r"row \d+ shows \(r = (\d+\.?\d*)\)", lambda p, h, mn, r: close(h, rims(p)["HAADF"], 1)
         and close(mn, rims(p)["Mn"], 0) and close(r, alike(p)) and float(r) > 0.9),
        (r"this file has no such rows", lambda p: max(rims(p).values()) < 1.5 and alike(p) < 0.9),
        (r"(\d+) to (\d+) % of the signal with it", lambda p, low, high:
         close(low, min(cut(p)), 0) and close(high, max(cut(p)), 0)),
        (r"in every estimate the two maxima of manganese", shells),
        (r"for cobalt the agreement falls from (\d+\.?\d*) to (\d+\.?\d*)", lambda p, a, b:
         close(a, smoothed(p, p.published)["Co"]) and close(b, smoothed(p, p.minimum)["Co"])
         and float(b) < float(a)),
        (r"it agrees with (\d+\.?\d*)", lambda p, r: close(r, smoothed(p, p.convex)["Co"])),
        (r"which (\d+) % of the pixels are empty", lambda p, z=None:
         z is None or close(z, 100 * np.mean([p.data[e] == 0 for e in p.elements]), 0)),
    ],
}  # fmt: skip
FORMER = {
    "03_dysco3": [
        (r"HAADF term is smallest at iteration \d+ and then gives way",
         lambda p: turns(p)["HAADF"] < 30),
        (r"iteration four", lambda p: turns(p)["HAADF"] == 4),
        (r"patchy O map", lambda p: agreement(p, p.runs["minimiser"], 1.5)["O"] < 0.5),
        (r"nothing in the HAADF helps there", lambda p: added(p, "O") < 0.5),
    ],
    "04_core_shell": [
        (r"half as bright again", lambda p: 1.35 < rims(p)["HAADF"] < 1.65),
        (r"no map shows anything there",
         lambda p: max(rims(p)[e] for e in p.elements) < 1.5),
        (r"a third of the signal", lambda p: min(cut(p)) > 28 and max(cut(p)) < 40),
        (r"its oxygen is less", lambda p: ratio(p, "O") < 1),
        (r"cobalt and manganese are many times what was measured",
         lambda p: min(ratio(p, "Co"), ratio(p, "Mn")) > 4),
        (r"ten round particles|bright band along its top edge", lambda p: not p.data.is_twin),
        (r"filled shapes without cores|cobalt is left in few particles",
         lambda p: smoothed(p, p.minimum)["Co"] < 0.8),
    ],
}  # fmt: skip


@pytest.fixture
def data(monkeypatch, tmp_path):
    """Choose the measured data, or the twins that a reader without a network gets."""

    def choose(origin, name):
        if origin == "twins":
            monkeypatch.setenv("HELPERS_OFFLINE", "1")
            monkeypatch.setenv("HELPERS_CACHE_DIR", str(tmp_path))
            monkeypatch.delenv("HELPERS_DATA_DIR", raising=False)
        elif datasets.find(name) is None:
            pytest.skip(f"the measured {name} data are not here: set HELPERS_DATA_DIR")

    return choose


def run(path, monkeypatch):
    """Give the names that the page's cells define, and its prose with the glued values in it."""
    glued, names, words = {}, {}, []
    monkeypatch.setattr("myst_nb.glue", lambda key, value, display=True: glued.update({key: value}))
    for number, cell in enumerate(jupytext.read(path, fmt="md:myst").cells):
        options = cell.metadata.get("mystnb", {})
        if cell.cell_type == "code":
            words += [options.get(key, {}).get(part, "") for key, part in SHOWN]
            if not any(mark in cell.source for mark in SAME):
                exec(compile(cell.source, f"{path.stem}, cell {number}", "exec"), names)
        else:
            words.append(cell.source)
    text = re.sub(
        r"\{glue:text\}`([^`]+)`", lambda m: str(glued.get(m[1], "(left out)")), " ".join(words)
    )
    return SimpleNamespace(**names), re.sub(r"\s+", " ", text)


def said(claims, text):
    """Every claim that stands in the text, with what it filled in."""
    for pattern, holds in claims:
        for match in re.finditer(pattern, text):
            yield match[0], holds, match.groups()


@pytest.mark.parametrize("origin", ["measured", "twins"])
@pytest.mark.parametrize("name", SET)
def test_what_the_page_says_holds(name, origin, root, data, monkeypatch):
    data(origin, SET[name])
    page, text = run(root / "book" / "fusion" / f"{name}.md", monkeypatch)
    assert page.data.is_twin is (origin == "twins")
    found = list(said(CLAIMS[name] + FORMER[name], text))
    assert len(found) >= 5, "the claims are no longer on the page: follow the new words"
    false = [words for words, holds, groups in found if not holds(page, *groups)]
    assert false == []


def test_a_false_sentence_is_found():
    """With other data the same words would be false, and the test would say so."""
    cost = SimpleNamespace(haadf=np.arange(31)[::-1], chem=np.zeros(31), tv=np.zeros(31))
    page = SimpleNamespace(tutorial=SimpleNamespace(cost=cost))
    words = "here the HAADF term is smallest at iteration 30 and then gives way to the others"
    assert [holds(page, *groups) for _, holds, groups in said(CLAIMS["03_dysco3"], words)] == [
        False
    ]
