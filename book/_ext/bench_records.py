"""Sphinx extension: the records of the benchmarks as tables, with machine, date and commit.

``{bench-record} fusion_peers`` shows ``tests/benchmarks/records/fusion_peers.json`` and nothing
that is not in it. A benchmark without a record says how one is made.
"""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

BENCHMARKS = Path("tests") / "benchmarks"


def cell(value):
    """Write a cell: three digits of what was measured, 12300 and not 1.23e+04; yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{float(f'{value:.3g}'):g}"
    return str(value)


def row(cells):
    """Make a row of a table."""
    found = nodes.row()
    for text in cells:
        found += nodes.entry("", nodes.paragraph(text=text))
    return found


def table(record):
    """Make a table of a record, its title above it and its notes below."""
    group = nodes.tgroup(cols=len(record["columns"]))
    group += [nodes.colspec(colwidth=1) for _ in record["columns"]]
    group += nodes.thead("", row(record["columns"]))
    group += nodes.tbody("", *[row(map(cell, cells)) for cells in record["rows"]])
    parts = [nodes.paragraph("", "", nodes.strong(text=record["title"]))]
    parts.append(nodes.table("", group, classes=["record"]))
    if record["notes"]:
        items = [nodes.list_item("", nodes.paragraph(text=note)) for note in record["notes"]]
        parts.append(nodes.bullet_list("", *items))
    return parts


def circumstances(record):
    """Say what the numbers hang on, in one paragraph."""
    machine = record["machine"]
    cores = machine["cores"]
    place = [machine["processor"], f"{cores} core{'s' * (cores != 1)}", machine["gpu"] or "no GPU"]
    if machine["load"]:
        place.append(f"load {machine['load'][0]:.1f} at the start")
    versions = [f"{name} {machine[name]}" for name in ("python", "numpy", "torch") if machine[name]]
    text = (
        f"Measured on {record['date']}, commit {record['commit']}: {', '.join(place)}; "
        f"{', '.join(versions)}. Command: "
    )
    return nodes.paragraph("", text, nodes.literal(text=record["command"]))


class BenchRecord(SphinxDirective):
    """Show what a benchmark compares, and its record."""

    required_arguments = 1

    def run(self):
        """Read the files; the page is read again when one of them changes."""
        name, folder = self.arguments[0], Path(self.env.srcdir) / BENCHMARKS
        code, record = folder / f"{name}.py", folder / "records" / f"{name}.json"
        if not code.is_file():
            raise self.error(f"there is no benchmark {name} in {BENCHMARKS.as_posix()}")
        for path in (code, record):
            self.env.note_dependency(str(path))
        about = ast.get_docstring(ast.parse(code.read_text(encoding="utf-8"))).splitlines()[0]
        found = [nodes.paragraph(text=about)]
        if not record.is_file():
            command = nodes.literal(text=f"python -m tests.benchmarks {name}")
            note = nodes.emphasis(text="No record yet: ")
            return [*found, nodes.paragraph("", "", note, command, classes=["no-record"])]
        record = json.loads(record.read_text(encoding="utf-8"))
        tables = [part for entry in record["tables"] for part in table(entry)]
        return [*found, circumstances(record), *tables]


def setup(app):
    """Register with Sphinx."""
    app.add_directive("bench-record", BenchRecord)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
