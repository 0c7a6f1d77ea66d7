"""Sphinx extension: the addresses of the repository and the site, and the buttons that lead there.

The addresses come from ``[project.urls]`` of pyproject.toml (Repository, Documentation), or from
what GitHub's runners say of a fork; without either the site has no such buttons.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"
NOTEBOOKS = "notebooks"  # the branch with the notebooks of the published site: Colab opens those


def urls():
    """The addresses of pyproject.toml, keys in lower case."""
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    return {k.lower(): v for k, v in tomllib.loads(text)["project"].get("urls", {}).items()}


def repository():
    """The repository's address, without a slash at its end; empty if it has none."""
    name = os.environ.get("GITHUB_REPOSITORY")
    forked = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}" if name else ""
    return urls().get("repository", forked).rstrip("/")


def site():
    """The published site's address, with a slash at its end; empty if it has none."""
    address = urls().get("documentation", os.environ.get("BOOK_ADDRESS", "")).rstrip("/")
    return f"{address}/" if address else ""


def configure(app, config):
    """Name the addresses to Sphinx and to the theme."""
    config.html_baseurl = site()
    if repository():
        config.html_theme_options |= {
            "repository_url": repository(),
            "repository_branch": "main",
            "use_repository_button": True,
            "use_issues_button": True,
        }


def launch(app, pagename, templatename, context, doctree):
    """Add the buttons that run a page: its notebook on Colab, its source on Binder."""
    if not context.get("ipynb_source") or not repository().startswith("https://github.com/"):
        return
    name = repository().removeprefix("https://github.com/")
    notebook = f"{COLAB}/github/{name}/blob/{NOTEBOOKS}/{context['ipynb_source']}"
    page = f"{BINDER}/v2/gh/{name}/main?urlpath=lab/tree/{pagename}.md"
    for place, image, address in (
        ("Colab", "logo_colab.png", notebook),
        ("Binder", "logo_binder.svg", page),
    ):
        button = {
            "type": "link",
            "text": place,
            "tooltip": f"Run this page on {place}",
            "icon": f"_static/images/{image}",
            "url": address,
        }
        context["header_buttons"].append(button)


def setup(app):
    """Register with Sphinx; the buttons after the theme has made its own (priority 501)."""
    app.connect("config-inited", configure, priority=900)
    app.connect("html-page-context", launch, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
