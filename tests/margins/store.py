"""`tests/chapters/margins.json`: the margins on file, and what is missing or too small in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from tests.margins.record import digest, ordered

ROOT = Path(__file__).parents[2]
STORE = "tests/chapters/margins.json"
SEEDS = 5
Z = 3.0  # standard deviations between an assertion's mean and its threshold
STEADY_RUNS = ["native", "baseline"]  # of a file without chance, see `steady`
TWIN = " on twins"  # after the name of a page with measured data: its runs without them
STEADY = 1e-6  # spread, in parts of the margin, below which an assertion does not rest on chance


# --- the files and their assertions ------------------------------------------------------------


def measurable(root=ROOT):
    """Pages and test files with an assertion that has a distance to a threshold: name -> digest.

    A page that loads measured data is there twice: readers without them meet simulated twins.
    """
    tests = (root / "tests").rglob("test_*.py")
    kept = [path for path in tests if path.parts[len(root.parts) + 1] in ("unit", "properties")]
    texts = {path: asserted(path) for path in [*kept, *pages(root)]}
    names = {
        path.relative_to(root).as_posix(): digest(each) for path, each in texts.items() if each
    }
    names |= {f"{name}{TWIN}": names[name] for name in names if loads_data(root / name)}
    return dict(sorted(names.items()))


def loads_data(path):
    """Whether a file is a page that shows measured data where they are."""
    return path.suffix == ".md" and "datasets.load" in path.read_text(encoding="utf-8")


def file(name):
    """The file that a name of the record is about, below the root."""
    return name.removesuffix(TWIN)


def pages(root):
    """The pages of the book that have code."""
    from tests.page_collector import is_page

    found = (root / "book").rglob("*.md")
    return [path for path in found if ".ipynb_checkpoints" not in path.parts and is_page(path)]


def asserted(path):
    """The texts of a file's assertions that have a distance to a threshold."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        return ordered(source)
    import jupytext

    cells = jupytext.reads(source, fmt="md:myst").cells
    return [text for c in cells if c.cell_type == "code" for text in ordered(c.source)]


# --- from runs to entries ----------------------------------------------------------------------


def summary(name, runs, root=ROOT):
    """What is kept of a file: its digest, its runs, and each assertion that rests on chance.

    Parameters
    ----------
    name : str
        The file, below the root, or a page on twins.
    runs : list of dict
        ``processor``, ``records`` and ``errors`` of each run, in order of their seeds.

    Returns
    -------
    dict
        ``digest``, ``processors`` (one a run) and ``entries``, the smallest margin first.
    """
    return {
        "digest": digest(asserted(root / file(name))),
        "processors": [run["processor"] for run in runs],
        "entries": moved(name, runs),
    }


def moved(name, runs):
    """The entries of what rests on chance, or failed, in these runs of a file."""
    path, worst = file(name), {}
    records = {key for run in runs for key in run["records"] if key[0].startswith(f"{path}::")}
    for place, text in sorted(records):
        entry = one(text, [run["records"].get((place, text)) for run in runs])
        if entry:
            key = part(place), text
            entry = {"in": key[0]} | entry
            worst[key] = min(worst.get(key, entry), entry, key=badness)
    for k, run in enumerate(runs):
        for place, line in run["errors"].items():
            if place.startswith(f"{path}::"):
                entry = {"in": part(place), "raised": line, "failed": []}
                entry = worst.setdefault((part(place), None), entry)
                entry["failed"] = sorted({*entry["failed"], k})
    return sorted(worst.values(), key=lambda e: (*badness(e), json.dumps(e)))


def steady(name, runs):
    """Whether runs with two kinds of seeds on two processors leave nothing to chance in a file.

    Nothing failed, the same assertions were met, no distance to a threshold has moved, and none is
    a whole number where a seed was asked for: a count may be the same for two seeds by chance.
    """
    path = file(name)
    met = [{key for key in run["records"] if key[0].startswith(f"{path}::")} for run in runs]
    if len(runs) < 2 or met[0] != met[1] or moved(name, runs):
        return False
    asked = any(not place or place.startswith(f"{path}::") for place in runs[1]["drawn"])
    slacks = [runs[1]["records"][key]["slack"] for key in met[1]]
    return not (asked and any(s is not None and s.is_integer() for s in slacks))


def part(place):
    """The test or the cell of a place, without a test's parameters."""
    return place.split("::", 1)[1].split("[")[0]


def one(text, records):
    """The entry of an assertion at one place, or None when no seed moves it."""
    failed = [k for k, record in enumerate(records) if record and not record["ok"]]
    entry = {"assert": text}
    kept = [record for record in records if record and record["slack"] is not None]
    slack, value, bound = (np.array([r[key] for r in kept]) for key in ("slack", "value", "bound"))
    if len(kept) > 1 and np.isfinite(slack).all():
        mean, spread = slack.mean(), slack.std(ddof=1)
        if spread > STEADY * abs(mean):
            entry |= {"value": short(value.mean()), "bound": short(bound.mean())}
            entry |= {"spread": short(spread), "z": round(min(mean / spread, 1e4), 1)}
    if failed:
        entry["failed"] = failed
    return entry if len(entry) > 1 else None


def short(number):
    """A number in four digits."""
    return float(f"{number:.4g}")


def badness(entry):
    """What sorts the worst first: a failure, then the smallest margin."""
    return "failed" not in entry, entry.get("z", 0.0)


# --- the file ----------------------------------------------------------------------------------


def read(root=ROOT):
    """The margins on file; an empty record without a file."""
    path = root / STORE
    if not path.exists():
        return {"files": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def update(measured, root=ROOT):
    """Put newly measured files on file; forget files that are gone."""
    known, kept = measurable(root), read(root)
    files = {path: each for path, each in (kept["files"] | measured).items() if path in known}
    kept["files"] = dict(sorted(files.items()))
    write(kept, root)


def write(kept, root=ROOT):
    """Write the file, one line an entry, so that two branches merge line by line."""
    lines = ["{", '"files": {']
    for path, each in kept["files"].items():
        head = {key: each[key] for key in ("digest", "processors")}
        entries = ",\n".join(f"  {json.dumps(e, ensure_ascii=False)}" for e in each["entries"])
        head = json.dumps(head)[:-1] + ', "entries": ['
        lines.append(f"{json.dumps(path)}: {head}" + (f"\n{entries}\n" if entries else "") + "]},")
    lines[-1] = lines[-1].removesuffix(",")
    text = "\n".join([*lines, "}", "}"]) + "\n"
    new = root / f"{STORE}.new"
    new.write_text(text, encoding="utf-8")
    os.replace(new, root / STORE)


# --- the gate ----------------------------------------------------------------------------------


def stale(root=ROOT):
    """What must be measured: name -> why."""
    kept, why = read(root), {}
    for name, now in measurable(root).items():
        each = kept["files"].get(name)
        if each is None:
            why[name] = "was never measured"
        elif each["digest"] != now:
            why[name] = "has other assertions than when it was measured"
        elif not each["entries"] and each["processors"] == STEADY_RUNS:
            continue
        elif len(each["processors"]) < SEEDS or len(set(each["processors"])) < 3:
            why[name] = (
                f"was measured in {len(each['processors'])} runs, of {SEEDS} on 3 processors"
            )
    return why


def fragile(root=ROOT):
    """Entries with too small a margin, or that failed: (path, entry), the worst first."""
    entries = [(p, e) for p, each in read(root)["files"].items() for e in each["entries"]]
    found = [(p, e) for p, e in entries if "failed" in e or e.get("z", Z) < Z]
    return sorted(found, key=lambda pair: (*badness(pair[1]), pair[0]))
