"""Sphinx extension: every page runs before Sphinx reads it, side by side, once.

Each page has a kernel of its own, so a machine with two cores builds the book in half the time.
What a page gave goes into the execution cache, where myst-nb finds it. A page whose cell raises is
kept as far as it came, marked as failed: it is shown like that, and it runs again in the next
build. `run_report` tells the readers of the site and of the command.
"""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePath

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from kernels import copied
from myst_nb.core.read import create_nb_reader
from nbclient import NotebookClient
from sphinx.util import logging

MOST = 4  # kernels at once: each holds torch and a page's data
GLUE = "application/papermill.record/"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
logger = logging.getLogger(__name__)


def workers(environ=os.environ):
    """How many pages run at once: ``HELPERS_BUILD_PAGES``, else one a core, up to four."""
    return int(environ.get("HELPERS_BUILD_PAGES") or min(os.cpu_count() or 1, MOST))


def notebook_of(env, docname):
    """Read a page as Sphinx will: its path, its notebook, its settings; None without code."""
    path, config = Path(env.doc2path(docname)), env.mystnb_config
    text = path.read_text(encoding="utf-8")
    reader = create_nb_reader(str(path), env.myst_config, config, text)
    notebook = reader and reader.read(text)
    if not notebook or all(cell.cell_type != "code" for cell in notebook.cells):
        return None
    own = notebook.metadata.get(config.metadata_key, {})
    return path, notebook, config.copy(**{key: own[key] for key in own if key != "output_folder"})


def is_run(path, config):
    """Tell if the page's own settings let the cache keep it."""
    excluded = any(PurePath(path).match(pattern) for pattern in config.execution_excludepatterns)
    return config.execution_mode == "cache" and not excluded


def length_of_code(notebook):
    """Characters in the cells of a notebook."""
    return sum(len(cell.source) for cell in notebook.cells if cell.cell_type == "code")


def execute(path, notebook, config, manager):
    """Run the cells in the page's folder until one raises; `manager` starts the kernel.

    Returns
    -------
    dict
        ``execution_seconds``, and ``failure``: None, or where and why the page stopped.
    """
    reached = []
    client = NotebookClient(
        notebook,
        kernel_manager_class=manager,
        extra_arguments=["--log-level=ERROR"],  # each kernel warns of a network: there is none
        timeout=config.execution_timeout,
        allow_errors=config.execution_allow_errors,
        record_timing=False,  # it would change the metadata, and with it the key of the cache
        resources={"metadata": {"path": str(path.parent.resolve())}},
        on_cell_execute=lambda cell, cell_index: reached.append(cell_index),
    )
    begin, failure = time.perf_counter(), None
    try:
        client.execute()
    except Exception as error:  # a cell, its time limit, a dead kernel: none may cost the book
        failure = failed(notebook, reached[-1] if reached else None, error)
        blank_glue(notebook, path.read_text(encoding="utf-8"))
    return {"execution_seconds": time.perf_counter() - begin, "failure": failure}


def failed(notebook, index, error):
    """Describe the cell at `index` that stopped a notebook, and give it an error to show."""
    code = [k for k, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    index = code[0] if index is None else index
    outputs = notebook.cells[index].outputs
    raised = next((output for output in outputs if output.output_type == "error"), None)
    if raised is None:
        said = {"ename": type(error).__name__, "evalue": str(error), "traceback": [str(error)]}
        raised = nbformat.v4.new_output("error", **said)
        outputs.append(raised)
    traceback = ANSI.sub("", "\n".join(raised.traceback))
    why = raised.evalue.strip().partition("\n")[0]
    if not why and (line := re.search(r"^-+> *\d+ +(.+)$", traceback, re.MULTILINE)):
        why = line[1]  # a bare assert says nothing: its line does
    return {
        "cell": code.index(index),  # counted as the tests count it
        "index": index,
        "line": notebook.metadata.get("source_map", [0] * (index + 1))[index] + 1,
        "error": f"{raised.ename}: {why}",
        "traceback": traceback,
    }


def blank_glue(notebook, text):
    """Say "not computed" in the prose for every number that the page did not reach."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    known = {
        output.metadata.get("scrapbook", {}).get("name")
        for cell in cells
        for output in cell.outputs
        if "metadata" in output
    }
    for key in sorted(set(re.findall(r"\{glue:text\}`([^`:]+)", text)) - known):
        data = {GLUE + "text/plain": "(not computed)"}
        metadata = {"scrapbook": {"name": key, "mime_prefix": GLUE}}
        output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
        cells[-1].outputs.append(output)


def run_pages(app, env, docnames):
    """Execute the pages among `docnames` that the cache does not hold whole.

    ``env.page_runs`` gets what `execute` gives, by page, and keeps it between builds.
    """
    before = getattr(env, "page_runs", {})
    runs = env.page_runs = {k: before[k] for k in set(before) & env.found_docs - set(docnames)}
    cache = get_cache(env.mystnb_config.execution_cache_path)
    waiting = {}
    for docname in docnames:
        page = notebook_of(env, docname)
        if page is None or not is_run(page[0], page[2]):
            continue
        try:
            run = cache.match_cache_notebook(page[1]).data
        except KeyError:
            run = {"failure": "not yet run"}
        if run.get("failure"):
            waiting[docname] = page
        else:
            runs[docname] = run
    if not waiting:
        return
    # pages with much code, which take long, first: no core is left with one at the end
    queue = sorted(waiting, key=lambda docname: -length_of_code(waiting[docname][1]))
    with copied() as manager, ThreadPoolExecutor(workers()) as pool:
        started = {pool.submit(execute, *waiting[name], manager): name for name in queue}
        for number, future in enumerate(as_completed(started), 1):
            docname = started[future]
            run = runs[docname] = future.result()
            took = f"{run['execution_seconds']:.0f} s" + ", FAILED" * bool(run["failure"])
            logger.info("%d of %d: %s, %s", number, len(waiting), docname, took)
            path, notebook, _ = waiting[docname]
            bundle = CacheBundleIn(notebook, str(path), data=run)
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def failed_before(app, env, added, changed, removed):
    """Name the pages that failed in the build before: they are read, and run, once more."""
    return [page for page, run in getattr(env, "page_runs", {}).items() if run["failure"]]


def write_side_by_side(app, env):
    """Let Sphinx write as many pages at once; it reads them one by one, for `used_in`."""
    if workers() > 1:
        app.parallel = workers() + 1  # one of them only resolves references


def setup(app):
    """Register with Sphinx."""
    app.connect("env-get-outdated", failed_before)
    app.connect("env-updated", write_side_by_side)
    app.connect("env-before-read-docs", run_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
