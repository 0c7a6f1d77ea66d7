"""The words of the field: docstrings that name the thing, and pages that use its name."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module

import pytest

from tests.book_files import source, toc_pages
from tests.doors import PACKAGE, dotted

FILES = sorted(PACKAGE.rglob("*.py"))
PAGES = [page for page in toc_pages() if "/api/" not in page]
RIDDLE = re.compile(r"(what|how|where|which|whether)\b", re.I)

# Not done yet; each of these must leave its list when it is done.
TODO_FILES: set[str] = set()

# What a reader types into a search box, as a pattern where there is more than one spelling.
SEARCHED = """
inverse problem; ill-posed; regulari[sz]ation; Bayesian; maximum a posteriori; gradient descent
ADMM; alternating direction; plug-and-play; variance-stabili[sz]ing; compressed sensing
phase retrieval; optical flow; neural network; deep learning; autoencoder; self-supervised
unsupervised; hyperparameter; overfit; early stopping; cross-validation; transfer learning
exponential moving average; soft-argmax; GRU; test-time augmentation; locali[sz]ation microscopy
super-resolution; point spread function; missing wedge; ptychography
"""
SEARCHED = [word.strip() for word in re.split(r"[;\n]", SEARCHED.strip())]


@cache
def prose(page):
    """The text of a page without its code, white space squeezed."""
    text = re.sub(r"^(`{3,}|~{3,})\{code-cell\}.*?^\1\s*$", "", source(page), flags=re.M | re.S)
    return " ".join(text.split())


def glossary():
    """Its entries: term, page, and the roles that link to the package."""
    text = source("book/start/notation").split("## Glossary")[1].split("\n## ")[0]
    for term, meaning in re.findall(r"^(\S.*)\n: (.*)$", text, re.M):
        page = re.search(r"\{doc\}`/(book/[\w/]+)`", meaning)
        yield term, page and page[1], re.findall(r"\{(?:func|class|mod|meth)\}`([\w.]+)`", meaning)


GLOSSARY = list(glossary())


def docstrings(tree):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in map(ast.get_docstring, nodes) if text]


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_a_docstring_opens_with_what_the_thing_is(path, request):
    if dotted(path) in TODO_FILES:
        request.applymarker(pytest.mark.xfail(strict=True, reason="not done yet"))
    texts = docstrings(ast.parse(path.read_text(encoding="utf-8")))
    assert [text.splitlines()[0] for text in texts if RIDDLE.match(text)] == []


@pytest.mark.parametrize("word", SEARCHED)
def test_a_searched_word_stands_in_the_prose_of_a_page(word):
    pages = [page for page in PAGES if page != "book/start/notation"]
    assert any(re.search(word, prose(page), re.I) for page in pages)


def test_the_glossary_has_sixty_terms_in_order():
    terms = [term for term, _, _ in GLOSSARY]
    assert len(terms) >= 60 and terms == sorted(terms, key=str.casefold)
    assert len(set(terms)) == len(terms)


@pytest.mark.parametrize(("term", "page", "names"), GLOSSARY, ids=[term for term, _, _ in GLOSSARY])
def test_a_term_stands_on_its_page_and_links_to_the_package(term, page, names):
    assert page in PAGES and names
    assert term.casefold() in prose(page).casefold(), f"{page} does not say {term}"
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_a_riddle_is_found():
    tree = ast.parse('"""Where it lies."""\ndef f():\n    """How far.\n\n    x\n    """')
    assert [bool(RIDDLE.match(text)) for text in docstrings(tree)] == [True, True]
    assert not RIDDLE.match("Whatever the network gives.") and not RIDDLE.match("Show what it is.")
