"""Pages run side by side, once; one that fails costs one page, is marked, and fails the build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from tests.book_files import ROOT

HEADER = """---
jupytext: {{text_representation: {{extension: .md, format_name: myst}}}}
kernelspec: {{name: python3, display_name: Python 3}}
{settings}
---
"""
PAGE = """# {name}

```{{code-cell}} ipython3
import pathlib, time
from myst_nb import glue
here = pathlib.Path(r"{folder}")
runs = here / "{name}.runs"
runs.write_text(runs.read_text() + " again" if runs.exists() else "once")
deadline = time.time() + 20
while not (here / "{other}.runs").exists() and time.time() < deadline:
    time.sleep(0.05)
assert (here / "{other}.runs").exists(), "the other page never started"
print("met " + "{other}")
```

```{{code-cell}} ipython3
{second}
```

The answer is {{glue:text}}`{name}-answer`.

```{{code-cell}} ipython3
print("the last cell" + " has run")
```
"""
INDEX = """# Home

| page | run time |
| --- | --- |
| {doc}`left` | {run-time}`left` |
| {doc}`right` | {run-time}`/right` |

```{toctree}
left
right
off
```
"""
OFF = HEADER.format(
    settings="""mystnb: {execution_mode: 'off'}
language_info: {name: python, pygments_lexer: ipython3}"""
)
OFF += "# Off\n\n```{code-cell} ipython3\nraise SystemError('must not run')\n```\n"
CONF = """
import sys
sys.path.insert(0, r"{ext}")
extensions = ["myst_nb", "side_by_side", "run_report"]
nb_execution_mode = "cache"
nb_execution_cache_path = r"{folder}/cache"
nb_execution_timeout = 60
"""
BROKEN = "assert 1 == 2"


def build(folder, strict=True, workers=2, **second):
    """Build a book of two pages, each of which waits until the other has started."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    conf = CONF.format(ext=ROOT / "book" / "_ext", folder=folder)
    texts = {"conf.py": conf, "index.md": INDEX, "off.md": OFF}
    for name, other in (("left", "right"), ("right", "left")):
        cell = second.get(name, f'glue("{name}-answer", 42, display=False)')
        page = PAGE.format(name=name, other=other, folder=folder, second=cell)
        texts[f"{name}.md"] = HEADER.format(settings="orphan: false") + page
    for name, text in texts.items():
        path = source / name  # what did not change keeps its time, so Sphinx does not read it
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", source, folder / "site"]
    done = subprocess.run(
        command + (["-W", "--keep-going"] if strict else []),
        env=os.environ | {"NO_COLOR": "1", "HELPERS_BUILD_PAGES": str(workers)},
        capture_output=True,
        text=True,
    )
    return SimpleNamespace(code=done.returncode, said=done.stdout + done.stderr)


def page(folder, name):
    """The article of a built page."""
    text = Path(folder, "site", f"{name}.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser").find("div", role="main")


def cell_at(folder, code):
    """Where the page on the left has this line of code, in the words of a report."""
    lines = (folder / "source" / "left.md").read_text(encoding="utf-8").splitlines()
    return f"cell 1 (line {lines.index(code) + 1})"


def runs(folder, name):
    return (folder / f"{name}.runs").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, build(folder)


def test_pages_meet_and_their_outputs_are_shown(whole):
    folder, done = whole
    assert done.code == 0, done.said
    for name, other in (("left", "right"), ("right", "left")):
        assert runs(folder, name) == "once"
        text = page(folder, name).get_text()
        assert f"met {other}" in text and "The answer is 42." in text
    assert not page(folder, "index").select(".failed") and not (folder / "site/reports").exists()


def test_the_index_tells_the_seconds_of_this_build(whole):
    rows = page(whole[0], "index").select("tbody tr")
    seconds = [row.select("td")[1].get_text() for row in rows]
    assert len(seconds) == 2
    assert all(text.endswith(" s") and 0 <= float(text[:-2]) < 60 for text in seconds)


def test_a_page_that_is_not_to_run_does_not(whole):
    article = page(whole[0], "off")
    assert "must not run" in article.get_text() and not article.select(".output")


def test_what_is_cached_does_not_run_again(whole):
    folder, _ = whole
    assert build(folder).code == 0
    assert runs(folder, "left") == "once"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    return folder, build(folder, left=BROKEN)


def test_a_broken_page_fails_the_command_with_one_line(broken):
    folder, done = broken
    line = f"left.md, {cell_at(folder, BROKEN)}: AssertionError: {BROKEN}"
    assert done.code == 1
    assert [said for said in done.said.splitlines() if "failed: " in said and line in said]
    assert (folder / "site/reports/failed.txt").read_text() == line + "\n"


def test_there_is_no_second_try(broken):
    assert runs(broken[0], "left") == runs(broken[0], "right") == "once"


def test_its_traceback_is_kept(broken):
    reports = broken[0] / "site" / "reports"
    assert sorted(path.name for path in reports.rglob("*.log")) == ["left.err.log"]
    text = (reports / "left.err.log").read_text()
    assert "AssertionError" in text and BROKEN in text and "\x1b" not in text


def test_it_is_shown_as_far_as_it_came(broken):
    article = page(broken[0], "left")
    text = article.get_text()
    assert "met right" in text and "AssertionError" in text
    assert "has run" not in [out.get_text() for out in article.select(".cell_output")][-1]
    assert "The answer is (not computed)." in text


def test_it_says_so_at_its_top_and_at_the_cell(broken):
    article = page(broken[0], "left")
    top, there = article.select(".admonition.failed")
    assert top.find_previous("h1") and not top.find_previous("div", class_="cell")
    title = top.select_one(".admonition-title").get_text()
    assert title == f"This page failed in {cell_at(broken[0], BROKEN)}"
    assert f"AssertionError: {BROKEN}" in top.get_text()
    assert top.find("a")["href"] == "#" + there["id"]
    assert there.find_previous("div", class_="traceback").find_parent("div", class_="cell")


def test_the_other_pages_are_as_usual(broken):
    article = page(broken[0], "right")
    assert not article.select(".failed")
    assert "The answer is 42." in article.get_text()


def test_the_front_page_counts_and_names_it(broken):
    (box,) = page(broken[0], "index").select(".admonition.failed")
    assert box.select_one(".admonition-title").get_text() == "1 of 2 pages failed in this build"
    assert box.find("a")["href"] == "left.html"
    assert "cell 1" in box.get_text() and "AssertionError" in box.get_text()


def test_it_runs_again_until_it_passes(broken):
    """Last of its kind: an unchanged page stays failed, a mended one leaves no trace."""
    folder, _ = broken
    again = build(folder, strict=False, left=BROKEN)  # no -W: it fails all the same
    assert again.code == 1 and "left.md, cell 1" in again.said
    assert runs(folder, "left") == "once again" and runs(folder, "right") == "once"
    assert build(folder).code == 0
    assert not page(folder, "index").select(".failed") and not page(folder, "left").select(
        ".failed"
    )
    assert not (folder / "site" / "reports").exists()


def test_one_at_a_time_and_a_dead_kernel(tmp_path):
    """One core runs the pages the same way; a page that kills its kernel is a failed page."""
    for name in ("left", "right"):
        (tmp_path / f"{name}.runs").write_text("once")  # nobody waits for it
    deadly = "import os; os._exit(1)"
    done = build(tmp_path, workers=1, left=deadly)
    assert done.code == 1
    assert f"left.md, {cell_at(tmp_path, deadly)}: DeadKernelError: " in done.said
    assert len(page(tmp_path, "left").select(".admonition.failed")) == 2
    assert "The answer is 42." in page(tmp_path, "right").get_text()
