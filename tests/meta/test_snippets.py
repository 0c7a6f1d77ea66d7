"""Code on the pages that is shown and not run: it parses, and every call of ours can be made."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[2] / "book"
BLOCKS = {
    f"{page.relative_to(BOOK)} {k}": text
    for page in sorted(BOOK.rglob("*.md"))
    for k, text in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
}


def ours(tree):
    """What the names of a block that are imported from helpers stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
            for alias in node.names:
                names[alias.asname or alias.name] = member(node.module, alias.name)
    return names


def member(module, name):
    found = importlib.import_module(module)
    return getattr(found, name, None) or importlib.import_module(f"{module}.{name}")


def called(node, names):
    """The function or class of ours that a call calls, or None."""
    if isinstance(node, ast.Attribute):
        owner = called(node.value, names)
        return None if owner is None else getattr(owner, node.attr)
    return names.get(node.id) if isinstance(node, ast.Name) else None


def check(text):
    tree = ast.parse(text)
    names = ours(tree)
    for node in ast.walk(tree):
        function = called(node.func, names) if isinstance(node, ast.Call) else None
        if function is None or any(isinstance(a, ast.Starred) for a in node.args):
            continue
        words = {k.arg: None for k in node.keywords if k.arg}
        signature = inspect.signature(function)
        more = len(words) < len(node.keywords)  # a dict of keywords, which may be any
        (signature.bind_partial if more else signature.bind)(*node.args, **words)


def test_there_are_snippets():
    assert len(BLOCKS) > 15


@pytest.mark.parametrize("block", BLOCKS)
def test_a_snippet_calls_what_there_is(block):
    check(BLOCKS[block])


@pytest.mark.parametrize(
    "text",
    [
        "from helpers.io import save_tif\nsave_tif('a.tif', image, pixels=3)",
        "from helpers.io import load_tif\nload_tif()",
        "from helpers.renderer import mle\nmle.fitt(images)",
        "from helpers.renderer import mlee",
    ],
)
def test_what_is_not_there_is_noticed(text):
    with pytest.raises((TypeError, AttributeError, ImportError)):
        check(text)
