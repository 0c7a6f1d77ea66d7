"""One run of a page or of test files in this process, the assertions recorded: see `__main__`."""

from __future__ import annotations

import builtins
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tests.margins.record import Recorder, Rewriter
from tests.margins.seeds import shift


def run(paths, number):
    """Run one page, or test files that share a process, with the seeds of one run.

    Parameters
    ----------
    paths : list of str
        One page, or test files, below the working folder.
    number : int
        Run, from 0: the published seeds.

    Returns
    -------
    dict
        ``records``, a list of (place, text of the assertion, evaluation); ``errors``, the first
        line of what was raised at a place; and ``drawn``, the places that asked for a seed, where
        the seeds are not the published ones. A place is ``path::test`` or ``path::Cell 3``, and
        empty before the first.
    """
    recorder = builtins.__margins__ = Recorder()
    drawn = set()
    shift(number, lambda: drawn.add(recorder.place))
    page = paths[0].endswith(".md")
    errors = run_page(paths[0], recorder) if page else run_tests(paths, recorder)
    records = [[*key, each] for key, each in recorder.records.items()]
    return {"records": records, "errors": errors, "drawn": sorted(drawn)}


def run_page(path, recorder):
    """Run the cells of a page as its test does; stop where one raises that should not."""
    import jupytext
    from IPython.core.interactiveshell import InteractiveShell

    os.environ.update(HELPERS_STATIC="1", MPLBACKEND="agg")
    cells = [c for c in jupytext.read(path, fmt="md:myst").cells if c.cell_type == "code"]
    os.chdir(Path(path).parent)
    shell = InteractiveShell.instance()
    for count, cell in enumerate(cells):
        recorder.place = f"{path}::Cell {count}"
        shell.ast_transformers = [Rewriter(recorder, cell.source)]
        with silence():
            result = shell.run_cell(cell.source, store_history=True)
        raised = result.error_before_exec or result.error_in_exec
        if raised and "raises-exception" not in cell.metadata.get("tags", ()):
            line = f"{type(raised).__name__}: {raised}".splitlines()[0]
            return {recorder.place: line[:100]}
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close("all")
    return {}


def run_tests(paths, recorder):
    """Run test files with pytest; give what their tests raised."""
    import _pytest.assertion.rewrite as rewriting
    import pytest

    rewrite = rewriting.rewrite_asserts
    targets = {Path(path).resolve() for path in paths}

    def rewrite_asserts(module, source, module_path=None, config=None):
        if module_path and Path(module_path).resolve() in targets:
            Rewriter(recorder, source.decode()).visit(module)
        rewrite(module, source, module_path, config)

    rewriting.rewrite_asserts = rewrite_asserts
    rewriting._read_pyc = lambda *_: None
    sys.dont_write_bytecode = True
    errors = {}

    class Plugin:
        def pytest_runtest_logstart(self, nodeid):
            recorder.place = nodeid

        def pytest_runtest_logreport(self, report):
            if report.failed:
                errors[report.nodeid] = crash_line(report)

        def pytest_collectreport(self, report):
            if report.failed:
                errors[f"{report.nodeid}::collection"] = crash_line(report)

    with silence(), tempfile.TemporaryDirectory() as cache:
        options = ["-q", f"--rootdir={Path.cwd()}", "-o", f"cache_dir={cache}"]
        pytest.main([*options, *paths], plugins=[Plugin()])
    return errors


def crash_line(report):
    """The first line of what a test raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).splitlines()[0][:100]


@contextlib.contextmanager
def silence():
    """Nothing is printed."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield
