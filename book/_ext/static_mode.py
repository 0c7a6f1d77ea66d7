"""Sphinx extension: pages run in static mode, and their cached outputs follow the code they call.

jupyter-cache recognises a page by its code cells alone, so it would show old outputs after an
edit in `helpers`. Here the cache's folder carries a fingerprint of everything else that a page's
outputs depend on: another fingerprint, another cache, and every page runs again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

SOURCES = ("helpers/**/*.py", "helpers/**/*.mplstyle", "data/**/*", "constraints.txt")
NO_EFFECT = (
    "HELPERS_STATIC",
    "HELPERS_BUILD_PAGES",
    "HELPERS_REQUIRE_BOOK",
    "HELPERS_REQUIRE_BROWSER",
)


def fingerprint(root, environ=os.environ):
    """Hash the package, the data, the pinned versions and the settings that change outputs.

    Parameters
    ----------
    root : pathlib.Path
        The repository's root.
    environ : mapping, optional
        Environment variables: all ``HELPERS_...`` count, and of the folder ``HELPERS_DATA_DIR``
        the files' names and sizes.

    Returns
    -------
    str
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    files = {path for pattern in SOURCES for path in root.glob(pattern) if path.is_file()}
    for path in sorted(files):
        if "__pycache__" in path.parts:
            continue
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for name in sorted(environ):
        if name.startswith("HELPERS_") and name not in NO_EFFECT:
            digest.update(f"{name}={environ[name]}\n".encode())
    data = Path(environ.get("HELPERS_DATA_DIR") or root / "no data folder")
    for path in sorted(data.glob("*")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def configure(app, config):
    """Tell the kernels that their output is a file, and give this state its own cache."""
    os.environ["HELPERS_STATIC"] = "1"
    cache = Path(app.outdir).parent / ".jupyter_cache" / fingerprint(Path(app.srcdir))
    config.nb_execution_cache_path = str(cache)


def setup(app):
    """Register with Sphinx."""
    app.connect("config-inited", configure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
