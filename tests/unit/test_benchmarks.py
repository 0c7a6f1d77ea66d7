"""The benchmarks run and compare like with like. Nothing here looks at a clock."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from helpers.tv import prox_tv
from tests.benchmarks import published_loop, records
from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.harness import Table, interleaved, ratio
from tests.book_files import ROOT


def test_contenders_take_turns():
    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "ababab"
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_a_ratio_is_taken_turn_by_turn():
    # The machine was ten times slower in the second turn: the ratio of the contenders was 2.
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2


def test_a_table_lines_its_columns_up():
    lines = str(Table("times", ("", "s"), [("fast", 0.12345), ("slow", 1234.5)])).splitlines()
    assert lines[0] == "times"
    assert lines[3:5] == ["  fast     0.123", "  slow  1.23e+03"]


@pytest.mark.parametrize("n_sweeps", [1, 2, 7])
def test_the_reference_projection_is_the_proximal_map(n_sweeps):
    image = np.random.default_rng(0).normal(0.5, 0.5, (9, 14))
    expected = prox_tv(image, 0.2, n_iter=n_sweeps).x
    x = published_loop.correct_projection(image, 0.2, n_sweeps)
    np.testing.assert_allclose(x, expected, atol=1e-12)


def test_the_published_projection_drops_the_border_and_nothing_else():
    """Far from the last rows and column it is the anisotropic map; there, noise is left alone."""
    image = np.random.default_rng(0).normal(1.0, 0.1, (64, 64))
    x = published_loop.published_projection(image, 0.1, 200)
    expected = prox_tv(image, 0.1, n_iter=200, kind="anisotropic").x
    assert np.abs(x - expected)[:40, :40].max() < 0.01
    assert x[-1].std() > 1.5 * expected[-1].std()
    assert x[:, -1].std() > 1.5 * expected[:, -1].std()


def test_the_command_runs_and_its_solvers_agree(tmp_path):
    sizes = ["--sizes", "32", "--repeats", "1", "--records", str(tmp_path)]
    words = ["fusion_peers", "fusion_cuda", *sizes]
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    records = {path.stem: json.loads(path.read_text("utf-8")) for path in tmp_path.iterdir()}
    assert set(records) == {"fusion_peers", "fusion_cuda"}
    for name, record in records.items():
        assert record["benchmark"] == name
        assert record["command"] == f"python -m tests.benchmarks {shlex.join(words)}"
        assert record["machine"]["processor"] in run.stdout
        assert all(table["title"] in run.stdout for table in record["tables"])
    tables = records["fusion_peers"]["tables"]
    (agreement,) = (table for table in tables if table["title"].endswith("agreement"))
    assert len(agreement["rows"]) == 4
    for name, difference, _ in agreement["rows"]:
        assert difference < 1e-5, name


def test_a_record_says_what_was_measured_where_and_when(tmp_path):
    table = Table("times", ("", "s", "n"), [("fast", 0.25, np.int64(3))], ["a note"])
    records.save("inr_fields", [table], {"processor": "one"}, "python -m ...", tmp_path)
    record = json.loads((tmp_path / "inr_fields.json").read_text("utf-8"))
    assert record["tables"] == [
        {"title": "times", "columns": ["", "s", "n"], "rows": [["fast", 0.25, 3]],
         "notes": ["a note"]}
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["commit"] == records.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["inr_fields.json"]


def test_the_commit_tells_edited_code_from_committed(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    folder = tmp_path / "tests" / "benchmarks"
    (folder / "records").mkdir(parents=True)
    monkeypatch.setattr(records, "__file__", str(folder / "records.py"))
    assert records.commit() is None
    (folder / "case.py").write_text("a = 1\n", encoding="utf-8")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert re.fullmatch(r"[0-9a-f]{12}", records.commit())
    (folder / "records" / "case.json").write_text("{}", encoding="utf-8")
    assert re.fullmatch(r"[0-9a-f]{12}", records.commit())
    (folder / "case.py").write_text("a = 2\n", encoding="utf-8")
    assert records.commit().endswith(" with changes")


def test_the_records_belong_to_benchmarks():
    for path in records.FOLDER.glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        assert record["benchmark"] == path.stem and path.stem in BENCHMARKS
        assert record["tables"] and record["commit"] and record["machine"]["processor"]


def test_an_unknown_benchmark_is_named():
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "speed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "no benchmark begins with ['speed']: there are fusion_peers" in run.stderr
