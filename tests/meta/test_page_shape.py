"""Every method page has the shape that a reader of the page before it expects."""

from __future__ import annotations

import ast
import re

import pytest

from tests.book_files import code_cells, source, toc_pages

METHOD_PAGES = [page for page in toc_pages() if re.search(r"/\d\d_\w+$", page)]
ADMONITIONS = {"note", "tip", "warning", "danger", "important", "seealso"}
MAX_LINES, MAX_COLUMNS = 25, 79
MAGIC = re.compile(r"^[%!].*$", re.M)


def problems(text, cells):
    """What a page lacks or has too much of, in words; an empty list for a good page."""
    prose = re.sub(r"^(`{3,}|~{3,})\{code-cell\}.*?^\1\s*$", "", text, flags=re.M | re.S)
    yield from _structure(prose)
    yield from _exercises(prose)
    for number, cell in enumerate(cells):
        yield from (f"cell {number}: {problem}" for problem in _cell(cell))
    check = text.partition("Check yourself")[2]
    first_cell = re.search(r"\{code-cell\}.*?^```", check, re.M | re.S)
    if not first_cell or "assert" not in first_cell[0]:
        yield "no code cell with an assert follows 'Check yourself'"
    figures = ["figure" in cell.metadata.get("mystnb", {}) for cell in cells]
    if not any(figures):
        yield "no figure: the result should be seen"
    else:
        yield from _hero(text, cells[: figures.index(True) + 1])


def _hero(text, cells):
    """The first figure comes before the plan, and the code that made it is folded."""
    plan = text.find("{admonition} What you will")
    figure = re.search(r"^ *figure:", text, re.M)
    if figure and figure.start() > plan:
        yield "the plan comes before the first figure: a reader sees the result first"
    for number, cell in enumerate(cells):
        if not any(tag.startswith(("hide-", "remove-")) for tag in cell.metadata.get("tags", [])):
            yield f"cell {number} is open above the first figure: give it the tag hide-input"


def _structure(prose):
    titles = re.findall(r"^# \S.*$", prose, re.M)
    if len(titles) != 1:
        yield f"{len(titles)} first-level titles instead of one"
    if not re.search(r"\{admonition\} What you will", prose):
        yield "no admonition 'What you will ...'"
    for heading in ("Check yourself", "Recap", "Exercises"):
        if not re.search(rf"^## .*{heading}|\{{admonition\}} {heading}", prose, re.M):
            yield f"no section '{heading}'"
    for name in re.findall(r"^:{3,}\{(attention|caution|error|hint)\}", prose, re.M):
        yield f"'{name}' is not in the house's vocabulary: {', '.join(sorted(ADMONITIONS))}"


def _exercises(prose):
    exercises = re.findall(r"\{exercise(?:-start)?\}", prose)
    solutions = re.findall(r"\{solution(?:-start)?\}.*?(?=^[:`]{3,}\{|\Z)", prose, re.M | re.S)
    if not exercises:
        yield "no exercise"
    if len(solutions) != len(exercises):
        yield f"{len(exercises)} exercises but {len(solutions)} solutions"
    if not all("dropdown" in solution for solution in solutions):
        yield "a solution is not hidden (':class: dropdown')"


def _cell(cell):
    lines = cell.source.splitlines()
    if len(lines) > MAX_LINES:
        yield f"{len(lines)} lines, at most {MAX_LINES}"
    if long := [line for line in lines if len(line) > MAX_COLUMNS]:
        yield f"a line of {len(long[0])} columns, at most {MAX_COLUMNS}: {long[0].strip()}"
    options = cell.metadata.get("mystnb", {})
    if figure := options.get("figure"):
        if not figure.get("caption", "").strip().endswith("."):
            yield "a figure without a caption that ends with a full stop"
        if not figure.get("name"):
            yield "a figure without a name to refer to"
        if not options.get("image", {}).get("alt"):
            yield "a figure without alt text"
    yield from _sliders(cell.source)


def _sliders(code):
    """A slider is a figure: it has a caption, below it."""
    calls = [n for n in ast.walk(ast.parse(MAGIC.sub("", code))) if isinstance(n, ast.Call)]
    for call in calls:
        if ast.unparse(call.func).rpartition(".")[2] in ("FrameSlider", "FrameGrid"):
            caption = next((k.value for k in call.keywords if k.arg == "caption"), None)
            if not str(getattr(caption, "value", "")).endswith("."):
                yield "a slider without a caption that ends with a full stop"


@pytest.mark.parametrize("page", METHOD_PAGES)
def test_the_page_has_the_shape_of_the_house(page):
    assert list(problems(source(page), code_cells(page))) == []


GOOD = """# Denoise a map

```{code-cell} ipython3
---
tags: [hide-input]
mystnb:
  figure:
    name: fig-map
    caption: The map.
  image:
    alt: A grey square.
---
draw()
```

:::{admonition} What you will do
Something.
:::

## Check yourself

```{code-cell} ipython3
assert 1 + 1 == 2
```

## Recap

## Exercises

```{exercise}
:label: ex-one
Do it.
```

```{solution} ex-one
:class: dropdown
Done.
```
"""
PLAN = "\n:::{admonition} What you will do\nSomething.\n:::\n"
FAULTS = {
    "title": ("# Denoise", "## Denoise", "first-level titles"),
    "two titles": ("## Recap", "# Recap", "2 first-level titles"),
    "plan": ("What you will do", "About", "What you will"),
    "check": ("assert 1 + 1 == 2", "print(1 + 1)", "assert"),
    "recap": ("## Recap", "", "'Recap'"),
    "no exercise": ("```{exercise}", "```{note}", "no exercise"),
    "no solution": ("```{solution} ex-one", "```{note}", "0 solutions"),
    "open solution": (":class: dropdown\n", "", "not hidden"),
    "caption": ("The map.", "The map", "caption"),
    "slider": ("1 + 1 == 2", "FrameSlider(draw, [1], alt=str)", "a slider without a caption"),
    "alt": ("alt: A grey square.", "width: 10px", "alt text"),
    "name": ("name: fig-map", "align: left", "name to refer to"),
    "figure": ("  figure:\n    name: fig-map\n    caption: The map.\n", "", "no figure"),
    "open hero": ("tags: [hide-input]", "tags: [slow]", "open above the first figure"),
    "plan first": ("# Denoise a map\n", "# Denoise a map\n" + PLAN, "before the first figure"),
    "long line": ("draw()", "draw(" + "x" * 80 + ")", "columns"),
    "long cell": ("draw()", "draw()\n" * 26, "26 lines"),
    "words": (":::{admonition} What", ":::{hint}\n:::\n:::{admonition} What", "vocabulary"),
}


def lint(text):
    import jupytext

    header = "---\njupytext:\n  text_representation:\n    format_name: myst\n---\n\n"
    notebook = jupytext.reads(header + text, fmt="md:myst")
    return list(problems(text, [cell for cell in notebook.cells if cell.cell_type == "code"]))


def test_the_lint_accepts_a_good_page():
    assert lint(GOOD) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_the_lint_finds_a_fault(fault):
    good, bad, message = FAULTS[fault]
    assert good in GOOD
    found = lint(GOOD.replace(good, bad))
    assert [problem for problem in found if message in problem]
