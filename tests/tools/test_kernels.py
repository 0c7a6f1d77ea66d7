"""Kernels of the build are copies of one loaded process, and each is as good as a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError

from tests.book_files import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from kernels import copied  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels start as always here")


@pytest.fixture(scope="module")
def manager():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")  # a kernel that sees it shows less
        with copied() as manager:
            yield manager


def run(manager, folder, *cells, timeout=60):
    """What each cell prints."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, kernel_manager_class=manager, timeout=timeout, resources=place
    ).execute()
    return ["".join(out.get("text", "") for out in cell.outputs).strip() for cell in notebook.cells]


def alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_what_all_pages_import_is_there_before_the_first_cell(manager, tmp_path):
    (said,) = run(manager, tmp_path, "import sys; print('torch' in sys.modules)")
    assert said == "True"


def test_it_starts_in_the_folder_of_the_page_with_the_paths_of_a_kernel(manager, tmp_path):
    where, path = run(
        manager, tmp_path, "import os; print(os.getcwd())", "import sys; print(sys.path)"
    )
    assert where == str(tmp_path)
    assert str(ROOT / "book" / "_ext") not in path


def test_a_page_leaves_nothing_to_the_next(manager, tmp_path):
    leave = "import builtins, torch; builtins.left = 1; torch.manual_seed(1); x = torch.rand(1)"
    draw = "import torch; print(torch.rand(3))"
    _, first = run(manager, tmp_path, "pass", draw)
    run(manager, tmp_path, leave)
    gone, second = run(manager, tmp_path, "import builtins; print(hasattr(builtins, 'left'))", draw)
    assert gone == "False" and first == second


def test_what_a_program_of_the_page_prints_is_shown(manager, tmp_path):
    (said,) = run(manager, tmp_path, "import os; _ = os.system('echo of a shell')")
    assert said == "of a shell"


def test_a_cell_that_takes_too_long_is_stopped_and_its_kernel_ends(manager, tmp_path):
    slow = (
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    with pytest.raises(CellTimeoutError):
        run(manager, tmp_path, slow, timeout=3)
    pid = (tmp_path / "pid").read_text()
    assert until(lambda: not alive(pid))


def test_kernels_end_when_the_build_is_killed(tmp_path):
    """No page goes on computing when the command that builds the book is gone."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "book" / "_ext")!r})
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from kernels import copied
from tests.tools.test_kernels import run
slow = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
with copied() as manager:
    run(manager, Path({str(tmp_path)!r}), slow)
"""
    build = subprocess.Popen([sys.executable, "-c", script])
    written = tmp_path / "pid"
    assert until(lambda: written.exists() and written.read_text(), 60)
    pid = written.read_text()
    assert alive(pid)
    build.kill()
    build.wait()
    assert until(lambda: not alive(pid))
