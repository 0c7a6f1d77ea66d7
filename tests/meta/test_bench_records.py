"""The page of the benchmarks shows every benchmark, and of each what its record says."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from bs4 import BeautifulSoup

from tests.benchmarks.__main__ import BENCHMARKS
from tests.book_files import ROOT, source

RECORD = {
    "benchmark": "one",
    "date": "2026-01-31",
    "commit": "0123456789ab",
    "command": "python -m tests.benchmarks one",
    "machine": {
        "processor": "A processor",
        "cores": 2,
        "load": [0.25, 0.5, 0.75],
        "gpu": None,
        "python": "3.12.1",
        "numpy": "2.0.0",
        "torch": None,
    },
    "tables": [
        {
            "title": "times",
            "columns": ["", "s", "wanted"],
            "rows": [["ours", 0.123456, "< 1"], ["peer", float("nan"), ""], ["sum", 12345.6, True]],
            "notes": ["a note"],
        }
    ],
}
CONF = f"""
import sys
sys.path.insert(0, r"{ROOT / "book" / "_ext"}")
extensions = ["myst_parser", "bench_records"]
"""


def test_the_page_shows_every_benchmark_once():
    shown = re.findall(r"^```\{bench-record\} (\w+)$", source("book/start/how_good"), re.M)
    assert sorted(shown) == sorted(BENCHMARKS)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    (folder / "conf.py").write_text(CONF)
    records = folder / "tests" / "benchmarks" / "records"
    records.mkdir(parents=True)
    for name in ("one", "two"):
        (records.parent / f"{name}.py").write_text(f'"""Ours beside {name}."""\n')
    (records / "one.json").write_text(json.dumps(RECORD))
    names = "".join(f"```{{bench-record}} {name}\n```\n\n" for name in ("one", "two"))
    (folder / "index.md").write_text(f"# Benchmarks\n\n{names}")

    def build():
        command = [sys.executable, "-m", "sphinx", "-W", "-q", folder, folder / "site"]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return BeautifulSoup((folder / "site" / "index.html").read_text("utf-8"), "html.parser")

    before = build()
    (records / "two.json").write_text(json.dumps(RECORD | {"commit": "two and with changes"}))
    return before, build()


def test_a_record_is_shown_with_its_circumstances(built):
    text = " ".join(built[0].get_text().split())
    assert "Ours beside one." in text
    assert "Measured on 2026-01-31, commit 0123456789ab: A processor, 2 cores, no GPU" in text
    assert "load 0.2 at the start; python 3.12.1, numpy 2.0.0. Command:" in text
    (table,) = built[0].find_all("table")
    cells = [[cell.get_text().strip() for cell in row.find_all("td")] for row in table("tr")[1:]]
    assert cells == [["ours", "0.123", "< 1"], ["peer", "-", ""], ["sum", "12300", "yes"]]
    assert "a note" in text


def test_a_benchmark_without_a_record_says_so(built):
    (note,) = built[0].select(".no-record")
    assert note.get_text() == "No record yet: python -m tests.benchmarks two"


def test_a_new_record_is_read(built):
    assert not built[1].select(".no-record")
    assert "commit two and with changes" in " ".join(built[1].get_text().split())
