"""pytest plugin: a MyST page is a test file, and each of its code cells is a test.

The page is read as a notebook in memory and given to nbval. A cell fails when it raises, when it
is tagged ``raises-exception`` and does not, and when it is tagged ``nbval-check-output`` and its
text output differs from the stored one. Stored outputs are written by ``pytest --update-outputs``
to ``tests/chapters/outputs``, one JSON file a page: cell source -> outputs.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from unittest import mock

import jupytext
import nbformat
import pytest
from nbval.kernel import CURRENT_ENV_KERNEL_NAME
from nbval.plugin import IPyNbCell, IPyNbFile, find_comment_markers, find_metadata_tags

OUTPUTS = "tests/chapters/outputs"
STARTS = 3  # of a kernel: two that choose their ports at one moment may choose the same
HEAD = 2000  # characters in which a page's front matter names its format


def pytest_addoption(parser):
    parser.addoption(
        "--update-outputs",
        action="store_true",
        help="store the text outputs of the cells tagged nbval-check-output, compare nothing",
    )


def pytest_collect_file(file_path, parent):
    if is_page(file_path):
        return Page.from_parent(parent, path=file_path)


def is_page(path):
    """True for a MyST file whose front matter says that it is a notebook."""
    if path.suffix != ".md":
        return False
    with path.open(encoding="utf-8") as file:
        head = file.read(HEAD)
    return head.startswith("---\n") and "format_name: myst" in head.split("\n---\n")[0]


def text_outputs(outputs):
    """Keep what can be compared: streams and plain text; not images, HTML or metadata."""
    kept = []
    for output in outputs:
        if output["output_type"] == "stream":
            kept.append({key: output[key] for key in ("output_type", "name", "text")})
        elif text := output.get("data", {}).get("text/plain"):
            data = {"text/plain": text}
            kept.append({"output_type": "display_data", "data": data, "metadata": {}})
    return [nbformat.from_dict(output) for output in kept]


class Page(IPyNbFile):
    """One page, with the kernel that runs its cells in order."""

    def collect(self):
        self.nb = jupytext.read(self.path, fmt="md:myst")
        # The pages are tested with the Python that runs the tests, not with a kernel of that name.
        self.nb.metadata["kernelspec"]["name"] = CURRENT_ENV_KERNEL_NAME
        relative = self.path.relative_to(self.config.rootpath)
        self.stored_path = (self.config.rootpath / OUTPUTS / relative).with_suffix(".json")
        self.updating = self.config.getoption("--update-outputs")
        self.stored = {}
        if self.stored_path.exists() and not self.updating:
            self.stored = json.loads(self.stored_path.read_text(encoding="utf-8"))
        code_cells = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code_cells):
            options = defaultdict(bool, find_metadata_tags(cell.metadata))
            options.update(find_comment_markers(cell.source))
            yield PageCell.from_parent(
                self, name=f"Cell {number}", cell_num=number, cell=cell, options=options
            )

    def setup(self):
        # Only the kernel inherits this: the tests beside it see the live sliders.
        with mock.patch.dict(os.environ, HELPERS_STATIC="1"):
            for left in reversed(range(STARTS)):
                try:
                    return super().setup()
                except RuntimeError as error:  # of a kernel that does not answer: no cell has run
                    if not left:
                        raise
                    self.warn(
                        pytest.PytestWarning(f"{self.path.name}: {error}; another is started")
                    )

    def store(self, cell, outputs):
        """Write the text outputs of one marked cell beside those of the cells before it."""
        self.stored[cell.source] = text_outputs(outputs)
        self.stored_path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.stored, indent=2, ensure_ascii=False)
        self.stored_path.write_text(text + "\n", encoding="utf-8")


class PageCell(IPyNbCell):
    """One code cell of a page."""

    def runtest(self):
        marked = self.options["check"]
        if marked and not self.parent.updating:
            self.load_reference()
        super().runtest()
        raised = any(output["output_type"] == "error" for output in self.test_outputs)
        if self.options["check_exception"] and not raised:
            self.raise_cell_error("The cell is tagged raises-exception but raised nothing")
        if marked and self.parent.updating:
            self.parent.store(self.cell, self.test_outputs)

    def load_reference(self):
        """Give the cell its stored outputs; nbval compares where a cell says that it was run."""
        if self.cell.source not in self.parent.stored:
            self.raise_cell_error(
                "The cell is tagged nbval-check-output but this source has no stored output in "
                f"{self.parent.stored_path.relative_to(self.config.rootpath)}: run "
                f"pytest --update-outputs {self.path.relative_to(self.config.rootpath)} "
                "and read what it stored"
            )
        self.cell.outputs = text_outputs(self.parent.stored[self.cell.source])
        self.cell.execution_count = 1

    def reportinfo(self):
        return self.path, None, self.name

    def compare_outputs(self, test, ref, skip_compare=None):
        return super().compare_outputs(text_outputs(test), ref, skip_compare)
