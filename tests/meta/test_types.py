"""Every public signature and result field is annotated; `mypy` (in `make lint`) checks the rest."""

from __future__ import annotations

import functools
import inspect
import tomllib
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from tests.book_files import ROOT
from tests.doors import PACKAGE, faces, own_names

# Faces that are not annotated yet: one that is must leave the list.
TODO: set[str] = set()

VAGUE = ("Any", "object")
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def said(annotation):
    """An annotation as its file has it."""
    text = getattr(annotation, "__forward_arg__", annotation)  # of a NamedTuple
    return text if isinstance(text, str) else getattr(text, "__name__", "")


def gaps(thing, name):
    """What a public thing leaves unsaid: places without a type, or with one that says nothing."""
    if inspect.isclass(thing):
        yield from gaps_of_class(thing, name)
    elif callable(thing):
        yield from gaps_of_function(thing, name)


def gaps_of_function(function, name):
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        missing = parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        vague = said(parameter.annotation) in VAGUE and parameter.kind not in VARIADIC
        if missing or vague:
            yield f"{name}({parameter.name})"
    if signature.return_annotation is signature.empty or said(signature.return_annotation) in VAGUE:
        yield f"{name} ->"


def gaps_of_class(cls, name):
    result = is_dataclass(cls) or hasattr(cls, "_fields")
    types = {field.name: field.type for field in fields(cls)} if is_dataclass(cls) else {}
    types |= inspect.get_annotations(cls) if hasattr(cls, "_fields") else {}
    yield from (f"{name}.{field}" for field, type_ in types.items() if said(type_) in VAGUE)
    made = {"__init__"} if result else set()  # by @dataclass, of the fields
    for home in cls.__mro__:
        if not home.__module__.startswith("helpers"):
            continue
        for key, member in vars(home).items():
            if key in made or (key.startswith("_") and key not in ("__init__", "__call__")):
                continue
            if isinstance(member, property):
                member = member.fget
            elif isinstance(member, functools.cached_property):
                member = member.func
            elif isinstance(member, staticmethod | classmethod):
                member = member.__func__
            if inspect.isfunction(member):
                yield from gaps_of_function(member, f"{name}.{key}")


@pytest.mark.parametrize("face", faces())
def test_public_signatures_and_results_are_typed(face, request):
    if face in TODO:
        request.applymarker(pytest.mark.xfail(strict=True, reason="not annotated yet"))
    module = import_module(f"helpers.{face}")
    found = [gap for name in own_names(face) for gap in gaps(getattr(module, name), name)]
    assert found == []


def test_the_package_says_that_it_is_typed_and_mypy_reads_it_all():
    assert (PACKAGE / "py.typed").is_file()
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    assert mypy["files"] == ["helpers"] and mypy["disallow_untyped_defs"]
    lint = (ROOT / "Makefile").read_text("utf-8").split("lint:")[1].split("\n\n")[0]
    assert "$(BIN)/mypy" in lint


class Untyped:
    def __init__(self, x):
        self.x = x

    @property
    def size(self):
        return 1

    def __call__(self, x: Any, *more: Any) -> int:
        return 1


@dataclass
class Loose:
    x: Any
    y: int


class Row(NamedTuple):
    x: object


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (Untyped, []),  # not of the package
        (Loose, ["t.x"]),
        (Row, ["t.x"]),
        (lambda x: x, ["t(x)", "t ->"]),
        (Untyped.__call__, ["t(x)"]),
    ],
)
def test_gaps_are_found(thing, expected):
    assert list(gaps(thing, "t")) == expected


def test_gaps_of_methods_are_found(monkeypatch):
    monkeypatch.setattr(Untyped, "__module__", "helpers.planted")
    expected = ["t.__init__(x)", "t.__init__ ->", "t.size ->", "t.__call__(x)"]
    assert list(gaps(Untyped, "t")) == expected
