"""The measuring of margins: assertions are recorded, seeds are moved, what is steady is told."""

from __future__ import annotations

import ast
import builtins

import numpy as np
import pytest
import torch

from tests.margins import store
from tests.margins.__main__ import one_run
from tests.margins.record import Recorder, Rewriter, ordered
from tests.margins.seeds import shifted

# --- one assertion -----------------------------------------------------------------------------


def record(source, **names):
    """The records of a source whose assertions were rewritten: text -> evaluation."""
    recorder = Recorder()
    tree = Rewriter(recorder, source).visit(ast.parse(source))
    builtins.__margins__ = recorder
    try:
        exec(compile(tree, "here", "exec"), {"np": np, "torch": torch, "pytest": pytest} | names)
    finally:
        del builtins.__margins__
    return {text: each for (_, text), each in recorder.records.items()}


@pytest.mark.parametrize(
    "test, slack",
    [
        ("1 < 3", 2),
        ("3 <= 1", -2),
        ("3 > 1 >= 0.5", 0.5),
        ("1 < 3 and 5 > 4", 1),
        ("1 < 3 or 5 > 4", 2),
        ("3 < 1 and 1 / 0 > 4", -2),
        ("not 3 < 1", 2),
        ("not (1 < 3 and 4 < 5)", -1),
        ("np.all(np.arange(3) < 4)", 2),
        ("(np.arange(3) > 1).any()", 1),
        ("not (np.arange(3) > 1).any()", -1),
        ("((x > -1) & (x < 7)).all()", 1),
        ("all(v < 9 for v in range(4))", 6),
        ("any(v > 2 for v in range(5))", 1),
        ("not any(v > 2 for v in range(2))", 1),
        ("torch.ones(3).min() > 0.25", 0.75),
        ("2.0 == pytest.approx(2.25, abs=0.5)", 0.5),
        ("[1.0, 2.0] == pytest.approx([1.0, 2.25], abs=0.5)", 0.5),
        ("np.allclose(2.0, 2.25, rtol=0, atol=0.5)", 0.5),
        ("torch.allclose(x, x + 0.25, rtol=0, atol=0.5)", 0.5),
        ("float('nan') < 1", np.nan),
        ("'a' < 'b'", None),
        ("2 == 2", None),
        ("{1} <= {1, 2}", None),
        ("1 < 3  # always: a bound", None),
    ],
)
def test_the_slack_is_the_distance_to_the_nearest_threshold(test, slack):
    (each,) = record(f"assert {test}", x=torch.arange(4.0)).values()
    assert each["ok"] == eval(
        test, {"np": np, "torch": torch, "pytest": pytest, "x": torch.arange(4.0)}
    )
    assert each["slack"] == (slack if slack is None else pytest.approx(slack, nan_ok=True))


def test_statements_with_tolerances_are_recorded_and_do_not_raise():
    near = "np.testing.assert_allclose([1.0, 2.0], 2.0, atol=0.5, rtol=0)"
    close = "torch.testing.assert_close(torch.ones(2), torch.ones(2) + 1e-06)"
    found = record(f"{near}\n{close}")
    assert not found[near]["ok"]
    assert (found[near]["slack"], found[near]["value"], found[near]["bound"]) == (-1.0, 2.0, 1.0)
    assert found[close]["ok"] and 0.9 < found[close]["slack"] < 0.92


def test_a_tolerance_that_moves_with_what_was_drawn_is_no_spread():
    exact, off = "x == pytest.approx(x)", "x == pytest.approx(y, rel=0.5)"
    slacks = [record(f"assert {exact}", x=x)[exact]["slack"] for x in (0.01, 100.0)]
    assert slacks == pytest.approx([1, 1], abs=1e-8) and not any(s.is_integer() for s in slacks)
    slacks = [record(f"assert {off}", x=x, y=1.25 * x)[off]["slack"] for x in (0.01, 100.0)]
    assert slacks == pytest.approx([0.6, 0.6])
    same = "np.allclose(x, x, rtol=0, atol=0)"
    assert record(f"assert {same}", x=np.zeros(2))[same]["slack"] == 1
    assert record("assert np.allclose(1.0, 2.0, rtol=0, atol=0)").popitem()[1]["slack"] == -np.inf


def test_the_worst_evaluation_of_a_loop_counts():
    found = record("for k in (3, 1, 2):\n    assert k > 0\nfor k in (3, -1):\n    assert k >= 0")
    assert found["k > 0"] == {"ok": True, "slack": 1.0, "value": 1.0, "bound": 0.0}
    assert found["k >= 0"] == {"ok": False, "slack": -1.0, "value": -1.0, "bound": 0.0}


def test_assertions_inside_of_assertions_are_kept_apart():
    source = "def half(x):\n    assert x > 0\n    return x / 2\nassert half(3) < 4"
    assert {k: v["slack"] for k, v in record(source).items()} == {"x > 0": 3.0, "half(3) < 4": 2.5}


def test_only_what_has_a_threshold_must_be_measured():
    source = "assert a == 1\nassert a < b  # always: why\nassert a < c\nassert b == approx(1)"
    assert ordered(source) == ["a < c", "b == approx(1)"]


# --- seeds and files ---------------------------------------------------------------------------


def test_a_seed_becomes_another_of_its_kind():
    assert shifted(3, 10) == 13 and shifted(np.int64(3), 10) == 13
    assert shifted((1, 2), 10) == [1, 2, 10]
    generator = np.random.default_rng(0)
    assert shifted(generator, 10) is generator and shifted(None, 10) is None


PAGE = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

```{code-cell} ipython3
import numpy as np, torch
x, y = np.random.default_rng(0).normal(), torch.rand((), generator=torch.Generator().manual_seed(0))
```

```{code-cell} ipython3
assert x < 2
assert y < 90
assert len("four") < 5
assert (x, float(y)) == (0.12573022, 0.5)
```

```{code-cell} ipython3
:tags: [raises-exception]
1 / 0
```
"""


def test_fragile_and_robust_assertions_of_a_page_are_told_apart(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "tests").mkdir()
    page = tmp_path / "book" / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    (tmp_path / store.STORE).parent.mkdir()
    assert store.stale(tmp_path) == {"book/page.md": "was never measured"}

    runs = [one_run(["book/page.md"], k, p, tmp_path) for k, p in ((0, "native"), (2, "avx2"))]
    store.update({"book/page.md": store.summary("book/page.md", runs, tmp_path)}, tmp_path)
    entries = {e["assert"]: e for e in store.read(tmp_path)["files"]["book/page.md"]["entries"]}
    assert list(entries) == ["(x, float(y)) == (0.12573022, 0.5)", "x < 2", "y < 90"]
    assert entries["x < 2"]["z"] < store.Z < 100 < entries["y < 90"]["z"]
    assert entries["(x, float(y)) == (0.12573022, 0.5)"]["failed"] == [0, 1]
    assert len(store.fragile(tmp_path)) == 2
    assert "2 runs" in store.stale(tmp_path)["book/page.md"]

    kept = store.read(tmp_path)
    kept["files"]["book/page.md"]["processors"] = ["native", "avx2", "baseline"] * 2
    store.write(kept, tmp_path)
    assert not store.stale(tmp_path)
    page.write_text(PAGE.replace("y < 90", "y < 80"), encoding="utf-8")
    assert "other assertions" in store.stale(tmp_path)["book/page.md"]


def test_a_page_with_measured_data_is_measured_without_them_too(tmp_path, monkeypatch):
    """Its assertions may hold on the data, and turn with the seed of the simulated twin."""
    monkeypatch.setenv("HELPERS_DATA_DIR", str(tmp_path))
    (tmp_path / "book").mkdir()
    (tmp_path / store.STORE).parent.mkdir(parents=True)
    source = """
import os, numpy as np
have = "HELPERS_DATA_DIR" in os.environ and "HELPERS_OFFLINE" not in os.environ
x = np.random.default_rng(0).normal()  # stands for what datasets.load gives
assert x < (99 if have else 2)
"""
    head = PAGE[: PAGE.index("```{code-cell}")]
    page = f"{head}```{{code-cell}} ipython3{source}```\n"
    (tmp_path / "book" / "page.md").write_text(page, encoding="utf-8")
    names = ["book/page.md", "book/page.md on twins"]
    assert list(store.measurable(tmp_path)) == list(store.stale(tmp_path)) == names
    smallest = []
    for name in names:
        runs = [one_run([name], k, "native", tmp_path) for k in range(3)]
        assert not any(run["errors"] for run in runs)
        smallest.append(store.summary(name, runs, tmp_path)["entries"][0]["z"])
    assert smallest[1] < store.Z < smallest[0]


@pytest.mark.parametrize(
    "slacks, drawn, steady",
    [
        ((0.5, 0.5), ["tests/it.py::test"], True),
        ((0.5, 0.6), ["tests/it.py::test"], False),
        ((3.0, 3.0), ["tests/it.py::test"], False),  # a count
        ((3.0, 3.0), [""], False),
        ((3.0, 3.0), ["tests/other.py::test"], True),
        ((3.0, 3.0), [], True),
        ((None, None), ["tests/it.py::test"], True),
        ((float("inf"),) * 2, [], True),
    ],
)
def test_two_runs_tell_what_is_steady(slacks, drawn, steady):
    key = ("tests/it.py::test", "a < b")
    runs = [
        {
            "processor": processor,
            "records": {key: {"ok": True, "slack": slack, "value": slack, "bound": 0.0}},
            "errors": {},
            "drawn": drawn,
        }
        for processor, slack in zip(store.STEADY_RUNS, slacks, strict=True)
    ]
    assert store.steady("tests/it.py", runs) == steady
    other = {**runs[1], "records": {}}
    assert not store.steady("tests/it.py", [runs[0], other])
    assert not store.steady("tests/it.py", [runs[0], {**runs[1], "errors": {key[0]: "Error"}}])


TESTS = """
import numpy as np
import pytest

@pytest.mark.parametrize("wide", [1, 0.001])
def test_one(wide):
    assert wide * np.random.default_rng(0).random() < 0.7

def test_two():
    assert round(np.random.default_rng(0).random(), 3) == 0.637
    if np.random.default_rng(0).random() > 0.9:
        raise ValueError("by chance")
    assert 1 < 2

def test_three():
    assert 1 < 0
    raise ValueError("always")
"""


def test_test_files_are_measured_by_their_worst_parameter(tmp_path):
    path = tmp_path / "tests" / "unit" / "test_it.py"
    path.parent.mkdir(parents=True)
    path.write_text(TESTS, encoding="utf-8")
    name = path.relative_to(tmp_path).as_posix()
    runs = [one_run([name], k, "native", tmp_path) for k in (0, 2)]
    entries = store.summary(name, runs, tmp_path)["entries"]
    told = {(e["in"], e.get("assert", e.get("raised"))): e for e in entries}
    assert told["test_one", "wide * np.random.default_rng(0).random() < 0.7"]["z"] < 3
    assert told["test_two", "round(np.random.default_rng(0).random(), 3) == 0.637"]["failed"] == [1]
    assert told["test_three", "1 < 0"]["failed"] == [0, 1]
    assert told["test_three", "ValueError: always"]["failed"] == [0, 1]
    assert len(told) == 4
