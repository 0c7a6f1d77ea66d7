"""The reference names the pages that use a function, and a page the functions that it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import used_in
from bs4 import BeautifulSoup

from tests.book_files import ROOT

PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---

# Smooth a map

```{code-cell} ipython3
:tags: [hide-input]

%matplotlib inline
from helpers import metrics, tv as total
from helpers.tv import prox_tv as prox
```

```{code-cell} ipython3
---
mystnb: {image: {alt: A square.}}
---
x = prox(y, 1)
metrics.psnr(x, total.tv(y)).item()
x.helpers.noise.sample
```

In passing, `helpers.metrics.ssim` is not called. Nor is this:

```bash
helpers.metrics.nrmse
```
"""
API = """# Metrics

```{eval-rst}
.. automodule:: helpers.metrics
   :members: psnr, ssim
```
"""
CONF = f"""
import sys
sys.path[:0] = [r"{ROOT / "book" / "_ext"}", r"{ROOT}"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc", "used_in"]
nb_execution_mode = "off"
suppress_warnings = ["mystnb.lexer", "myst-nb.lexer"]  # nothing runs, so nothing says Python
numpydoc_show_class_members = False
"""


def test_what_a_page_uses_is_read_from_its_code():
    names = used_in.used(PAGE)
    assert {"helpers.tv.prox_tv", "helpers.metrics.psnr", "helpers.tv.tv"} <= set(names)
    assert not [name for name in names if "ssim" in name or "nrmse" in name or "noise" in name]


def test_a_name_leads_to_its_definition_through_every_face():
    assert used_in.origin("helpers.xray.edvr.EDVR.preset") == ("helpers.xray.edvr.network", "EDVR")
    one, other = "helpers.fusion.fuse_counts", "helpers.fusion.counts.fuse_counts"
    assert used_in.origin(one) == used_in.origin(other) is not None
    assert used_in.origin("helpers.xray") is None
    assert used_in.origin("helpers.no_such_room.name") is None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("used")
    source = folder / "source"
    source.mkdir()
    (source / "conf.py").write_text(CONF)
    (source / "index.md").write_text("# Home\n\n```{toctree}\npage\napi\n```\n")
    (source / "page.md").write_text(PAGE)
    (source / "api.md").write_text(API)

    def build():
        command = [sys.executable, "-m", "sphinx", "-W", "-q", source, folder / "site"]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return {
            name: BeautifulSoup(
                (folder / "site" / f"{name}.html").read_text("utf-8"), "html.parser"
            )
            for name in ("page", "api")
        }

    first = build()
    (source / "page.md").write_text(PAGE.replace("metrics.psnr(x, total.tv(y))", "x"))
    return first, build()


def entry(html, name):
    return html.find(id=f"helpers.metrics.{name}").find_parent("dl")


def test_both_lead_to_each_other(built):
    first, _ = built
    assert entry(first["api"], "psnr").find("a", href="page.html").get_text() == "Smooth a map"
    section = first["page"].find(id="code-of-this-page")
    assert section.find("a", href="api.html#helpers.metrics.psnr").get_text() == "psnr"
    assert len(section.find_all("li")) == 1  # the other face has no page here
    assert "Used in" not in entry(first["api"], "ssim").get_text()


def test_the_reference_follows_a_page_that_was_edited(built):
    _, second = built
    assert "Used in" not in entry(second["api"], "psnr").get_text()
    assert second["page"].find(id="code-of-this-page") is None
