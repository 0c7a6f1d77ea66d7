"""conda's environment.yml says the same as pyproject.toml, and the pins obey both."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def requirements(lines):
    return {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_conda_and_pip_readers_get_the_same_ranges(root, project):
    text = (root / "environment.yml").read_text(encoding="utf-8")
    listed = yaml.safe_load(text)["dependencies"]
    conda = requirements(line for line in listed if isinstance(line, str))
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e .[book,test]"]

    extras = requirements(project["optional-dependencies"]["book"])
    expected = requirements(project["dependencies"])
    expected |= {name: extras[name] for name in ("jupyterlab", "jupytext")}
    expected = {CONDA_NAMES.get(name, name): range_ for name, range_ in expected.items()}
    python = Requirement(f"python{project['requires-python']}").specifier
    assert conda == expected | {"python": python, "pip": Requirement("pip").specifier}


def test_every_pin_lies_in_its_range(root, project):
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(re.split("==", line) for line in lines if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    wanted = project["dependencies"] + [
        line for extra in ("book", "test") for line in project["optional-dependencies"][extra]
    ]
    for name, range_ in requirements(wanted).items():
        assert name.lower() in pins, f"constraints.txt has no pin for {name}"
        assert pins[name.lower()] in range_, f"{name}: {pins[name.lower()]} is outside {range_}"


def test_binder_installs_the_book_at_the_tested_versions(root, project):
    binder = root / ".binder"
    lines = (binder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (pins,) = (line.removeprefix("-c ") for line in lines if line.startswith("-c "))
    assert (binder / pins).resolve() == root / "constraints.txt"  # pip reads it from that folder
    assert "-e .[book]" in lines  # and this from the root, where Binder starts pip
    name, _, version = (binder / "runtime.txt").read_text(encoding="utf-8").strip().partition("-")
    assert name == "python"
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)
    post = (binder / "postBuild").read_text(encoding="utf-8")
    assert post.startswith("#!/bin/sh") and (binder / "postBuild").stat().st_mode & 0o111
    # A job builds it: the same files, the same Python.
    jobs = yaml.safe_load((root / ".github/workflows/test.yml").read_text("utf-8"))["jobs"]
    setup, *commands = jobs["binder"]["steps"][1:]
    assert setup["with"]["python-version"] == version
    assert [c["run"].split()[-1] for c in commands][:2] == [
        ".binder/requirements.txt",
        "./.binder/postBuild",
    ]
    # The Makefile and Binder open a page in the same way.
    viewer = "set-default-viewer markdown myst"
    assert viewer in post and viewer in (root / "Makefile").read_text(encoding="utf-8")
