"""Pages run side by side, once; one that fails fails the build."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.book_files import ROOT

PAGE = """---
jupytext: {{text_representation: {{extension: .md, format_name: myst}}}}
kernelspec: {{name: python3, display_name: Python 3}}
---
# {name}

```{{code-cell}} ipython3
import pathlib, time
here = pathlib.Path("{folder}")
runs = here / "{name}.runs"
runs.write_text(runs.read_text() + "again" if runs.exists() else "once")
deadline = time.time() + 20
while not (here / "{other}.runs").exists() and time.time() < deadline:
    time.sleep(0.05)
assert (here / "{other}.runs").exists(), "the other page never started"
print("met " + "{other}")
{last}
```
"""
CONF = """
import sys
sys.path.insert(0, r"{ext}")
extensions = ["myst_nb", "side_by_side"]
nb_execution_mode = "cache"
nb_execution_cache_path = r"{folder}/cache"
nb_execution_raise_on_error = True
"""


def build(folder, last="", **environ):
    """Build a book of two pages, each of which waits until the other has started."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "conf.py").write_text(CONF.format(ext=ROOT / "book" / "_ext", folder=folder))
    (source / "index.md").write_text("# Home\n\n```{toctree}\nleft\nright\n```\n")
    for name, other in (("left", "right"), ("right", "left")):
        page = PAGE.format(name=name, other=other, folder=folder, last=last)
        (source / f"{name}.md").write_text(page)
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", source, folder / "site"],
        env=os.environ | {"NO_COLOR": "1", "HELPERS_BUILD_PAGES": "2"} | environ,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("book")


def test_pages_meet_and_their_outputs_are_shown(folder):
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, other in (("left", "right"), ("right", "left")):
        assert (folder / f"{name}.runs").read_text() == "once"
        assert f"met {other}" in (folder / "site" / f"{name}.html").read_text()


def test_what_is_cached_does_not_run_again(folder):
    assert build(folder).returncode == 0
    assert (folder / "left.runs").read_text() == "once"


def test_a_page_that_fails_fails_the_build(tmp_path):
    done = build(tmp_path, last="assert 1 == 2")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "left" in said and "failed" in said
