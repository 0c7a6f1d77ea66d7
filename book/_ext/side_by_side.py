"""Sphinx extension: pages that must run, run side by side before Sphinx reads them one by one.

Each page has a kernel of its own, so a machine with two cores builds the book in half the time. A
page that fails is not kept; Sphinx then runs it again, alone, and reports the error where it
always does.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import create_nb_reader
from sphinx.util import logging

MOST = 4  # kernels at once: each holds torch and a page's data
logger = logging.getLogger(__name__)


def workers(environ=os.environ):
    """How many pages run at once: ``HELPERS_BUILD_PAGES``, else one a core, up to four."""
    return int(environ.get("HELPERS_BUILD_PAGES") or min(os.cpu_count() or 1, MOST))


def notebook_of(env, docname):
    """The page as Sphinx will read it, or None when it holds no code."""
    path = Path(env.doc2path(docname))
    text = path.read_text(encoding="utf-8")
    reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
    notebook = reader and reader.read(text)
    has_code = notebook and any(cell.cell_type == "code" for cell in notebook.cells)
    return (path, notebook) if has_code else None


def run(path, notebook, timeout):
    """Execute one page in its own folder."""
    return single_nb_execution(
        notebook, cwd=str(path.parent.resolve()), timeout=timeout, allow_errors=False
    )


def run_pages(app, env, docnames):
    """Execute the pages among `docnames` that the cache does not hold."""
    config = env.mystnb_config
    if config.execution_mode != "cache" or workers() < 2:
        return
    cache = get_cache(config.execution_cache_path)
    pages = []
    for docname in docnames:
        page = notebook_of(env, docname)
        if page is None:
            continue
        try:
            cache.match_cache_notebook(page[1])
        except KeyError:
            pages.append(page)
    with ThreadPoolExecutor(workers()) as pool:
        started = {
            pool.submit(run, path, notebook, config.execution_timeout): path
            for path, notebook in pages
        }
        for number, future in enumerate(as_completed(started), 1):
            path, result = started[future], future.result()
            if result.err is not None:
                logger.info("%s failed; it runs again alone", path.stem)
                continue
            logger.info("%d of %d: %s, %.0f s", number, len(pages), path.stem, result.time)
            data = {"execution_seconds": result.time}
            cache.cache_notebook_bundle(
                CacheBundleIn(result.nb, str(path), data=data),
                check_validity=False,
                overwrite=True,
            )


def setup(app):
    """Register with Sphinx."""
    app.connect("env-before-read-docs", run_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
