"""The records of the benchmarks: one JSON file each, with the machine, the date and the commit.

A record is written when all tables of its benchmark are there, so an interrupted run leaves the
older one. The page *How good, how fast* shows what is in this folder and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path(__file__).parent / "records"
# What the numbers hang on; the other files of a commit may change without them.
CODE = ("helpers", "data", "tests/benchmarks", ":!tests/benchmarks/records")


def save(name, tables, machine, command, folder=FOLDER):
    """Write the record of the benchmark `name`; its tables as `harness.Table` has them."""
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "command": command,
        "machine": machine,
        "tables": [table.plain() for table in tables],
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, default=_plain) + "\n"
    part = folder / f".{name}.json.part"
    part.write_text(text, encoding="utf-8")
    os.replace(part, folder / f"{name}.json")


def commit():
    """The commit that was measured, "... with changes" if the code was edited since; or None."""
    here = Path(__file__).parent
    try:
        asked = {"cwd": here.parents[1], "capture_output": True, "text": True, "check": True}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **asked).stdout.strip()
        status = ["git", "status", "--porcelain", "--", *CODE]
        changed = subprocess.run(status, **asked).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} with changes" if changed else head


def _plain(number):
    """A number of NumPy as JSON has it."""
    return number.item()
