"""The recipes of CONTRIBUTING.md, carried out in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.book_files import ROOT

BLOCK = re.compile(
    r"^(?P<fence>`{3,})(?P<kind>\w+)(?: (?P<how>file|append)=\"(?P<path>[^\"]+)\")?\n"
    r"(?P<body>.*?)^(?P=fence)$",
    re.M | re.S,
)


def recipes():
    """Title -> its blocks: files to write and commands to run, in their order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Recipes")[1]
    parts = re.split(r"^### (.*)$", text, flags=re.M)[1:]
    return {
        title: [match.groupdict() for match in BLOCK.finditer(body)]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


RECIPES = recipes()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The sources as they are now, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    target = tmp_path_factory.mktemp("checkout")
    for name in listed.stdout.splitlines():
        source = ROOT / name
        if source.is_file() and not source.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    return target


def test_there_is_a_recipe_for_each_kind_of_thing():
    kinds = " ".join(RECIPES)
    for kind in ("page", "slider", "operator", "renderer", "data set", "trained network"):
        assert kind in kinds


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_it_stands(title, copy):
    """In the order of the file: the slider goes onto the page of the first recipe."""
    commands = 0
    for block in RECIPES[title]:
        if block["how"]:
            path = copy / block["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w" if block["how"] == "file" else "a", encoding="utf-8") as file:
                file.write(block["body"])
        elif block["kind"] == "bash":
            run(block["body"], copy)
            commands += 1
    assert commands


def run(script, folder):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
