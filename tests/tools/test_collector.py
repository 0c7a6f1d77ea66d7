"""The page collector is itself tested: a page that is wrong must fail, and no cell may be lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbval.plugin import IPyNbFile

from tests.page_collector import OUTPUTS, STARTS, Page, is_page

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

"""


def page(*cells, tag=None):
    """The text of a page; `tag` marks its last cell."""
    fences = []
    for cell in cells:
        mark = f":tags: [{tag}]\n" if tag and cell is cells[-1] else ""
        fences.append(f"```{{code-cell}} ipython3\n{mark}{cell}\n```\n")
    return HEADER + "\nWords between cells.\n\n".join(fences)


@pytest.fixture
def run(tmp_path, root):
    """Run pytest with the collector on one page of a fresh folder."""
    (tmp_path / "book").mkdir()
    environ = {key: value for key, value in os.environ.items() if key != "HELPERS_STATIC"}
    environ["PYTHONPATH"] = str(root)

    def run_page(text, *arguments):
        (tmp_path / "book" / "page.md").write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-p", "tests.page_collector", "-rA"]
        command += ["--rootdir", ".", "-c", os.devnull, "--color=no", *arguments, "book"]
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
        ).stdout

    run_page.stored = tmp_path / OUTPUTS / "book" / "page.json"
    return run_page


def test_cells_share_a_kernel_in_static_mode_at_the_page(run):
    here = "import os\nassert os.path.exists('page.md')\nassert os.environ['HELPERS_STATIC'] == '1'"
    output = run(page("x = 2", "assert x == 2", here))
    assert "3 passed" in output
    assert "book/page.md::Cell 1" in output


def test_a_false_assertion_fails_its_cell_only(run):
    output = run(page("x = 2", "assert x == 3", "assert x == 2"))
    assert "1 failed, 2 passed" in output
    assert "FAILED book/page.md::Cell 1" in output


@pytest.mark.parametrize("cell, verdict", [("1 / 0", "1 passed"), ("1 / 1", "1 failed")])
def test_a_cell_that_should_raise_must_raise(run, cell, verdict):
    assert verdict in run(page(cell, tag="raises-exception"))


def test_a_marked_cell_is_compared_with_its_stored_output(run):
    text = page("print('first')\n6 * 7", tag="nbval-check-output")
    output = run(text)
    assert "1 failed" in output
    assert "pytest --update-outputs book/page.md" in output

    assert "1 passed" in run(text, "--update-outputs")
    stored = json.loads(run.stored.read_text())
    assert list(stored) == ["print('first')\n6 * 7"]
    assert "1 passed" in run(text)

    run.stored.write_text(run.stored.read_text().replace('"42"', '"43"'))
    output = run(text)
    assert "1 failed" in output
    assert "Cell outputs differ" in output


def test_an_edited_marked_cell_needs_a_new_reference(run):
    run(page("6 * 7", tag="nbval-check-output"), "--update-outputs")
    assert "has no stored output" in run(page("6 * 8", tag="nbval-check-output"))


def test_only_files_that_say_so_are_pages(tmp_path):
    texts = {"page.md": page("1"), "plain.md": "# Title\n", "code.py": page("1")}
    texts["quotes.md"] = "# About\n\n---\nformat_name: myst\n---\n"
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [name for name in texts if is_page(tmp_path / name)] == ["page.md"]


def test_every_code_cell_on_disk_is_collected(root):
    on_disk = {}
    for path in sorted((root / "book").rglob("*.md")):
        if ".ipynb_checkpoints" in path.parts:  # JupyterLab leaves copies there
            continue
        text = path.read_text(encoding="utf-8")
        if count := len(re.findall(r"^ *[`:~]{3,}\{code-cell\}", text, re.MULTILINE)):
            on_disk[path.relative_to(root).as_posix()] = count
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "book"]
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120).stdout
    collected = {}
    for name in re.findall(r"^(\S+\.md)::Cell \d+$", output, re.MULTILINE):
        collected[name] = collected.get(name, 0) + 1
    assert on_disk
    assert collected == on_disk


def test_no_stored_output_is_left_over(root):
    """A stored output whose cell is gone, or is no longer marked, checks nothing."""
    for path in sorted((root / OUTPUTS).rglob("*.json")):
        page_path = (root / path.relative_to(root / OUTPUTS)).with_suffix(".md")
        text = page_path.read_text(encoding="utf-8")
        marked = re.findall(r"```\{code-cell\}.*?\n```", text, re.DOTALL)
        marked = [cell for cell in marked if "nbval-check-output" in cell.lower()]
        for source in json.loads(path.read_text(encoding="utf-8")):
            assert any(source in cell for cell in marked), f"{path.name} keeps {source!r}"


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3), (3, 3)])
def test_a_kernel_that_does_not_answer_is_started_again(failures, starts, monkeypatch):
    made, told = [], []

    def setup(page):
        made.append(page)
        if len(made) <= failures:
            raise RuntimeError("Kernel didn't respond in 60 seconds")

    monkeypatch.setattr(IPyNbFile, "setup", setup)
    page = Page.__new__(Page)
    page.path, page.warn = Path("page.md"), told.append
    if failures < STARTS:
        page.setup()
    else:
        with pytest.raises(RuntimeError, match="didn't respond"):
            page.setup()
    assert len(made) == starts and len(told) == starts - 1
