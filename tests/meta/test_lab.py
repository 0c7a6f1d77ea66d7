"""JupyterLab opens the pages as notebooks and saves them without noise."""

from __future__ import annotations

import shutil

import pytest
from jupytext import TextFileContentsManager

from tests.book_files import code_cells


@pytest.fixture
def contents(tmp_path, root):
    (tmp_path / "book").mkdir()
    shutil.copy(root / "pyproject.toml", tmp_path)
    shutil.copy(root / "book" / "start" / "setup.md", tmp_path / "book")
    manager = TextFileContentsManager()
    manager.root_dir = str(tmp_path)
    return manager


def test_a_page_opens_as_a_notebook_with_its_kernel(contents):
    model = contents.get("book/setup.md", type="notebook", content=True)
    notebook = model["content"]
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert cells == [cell.source for cell in code_cells("book/start/setup")]


def test_saving_an_unchanged_page_changes_nothing(contents, tmp_path):
    path = tmp_path / "book" / "setup.md"
    before = path.read_text(encoding="utf-8")
    model = contents.get("book/setup.md", type="notebook", content=True)
    model["content"].metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    contents.save(model, "book/setup.md")
    assert path.read_text(encoding="utf-8") == before
    assert not list(tmp_path.rglob("*.ipynb"))
