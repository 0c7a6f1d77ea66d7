"""What is installed from the wheel works where there is no repository and no extra.

The wheel is built from the source archive, as an installer does it, and unpacked outside of the
repository. Scripts then run with only the distributions that the core's dependencies bring.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import jupytext
import notebooks
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.book_files import ROOT

BUILD = "import hatchling.build, sys; print(hatchling.build.{kind}(sys.argv[1]))"
# Modules of other distributions are not there, nor is the repository.
PRELUDE = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.path[:] = [{site!r}] + [path for path in sys.path if path not in {roots!r}]
import helpers
assert helpers.__file__.startswith({site!r}), helpers.__file__
"""


def core(project):
    """The distributions that the project's dependencies bring, extras left out."""
    waiting, found = list(project["dependencies"]), set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
        if name in found or requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            needs = requires(name) or []
        except PackageNotFoundError:  # for another machine
            continue
        found.add(name)
        for line in needs:
            marker = Requirement(line).marker
            if marker is None or any(marker.evaluate(extra) for extra in extras):
                waiting.append(line)
    return found


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")

    def make(kind, source):
        command = [sys.executable, "-c", BUILD.format(kind=kind), str(folder)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return folder / done.stdout.split()[-1]

    with tarfile.open(make("build_sdist", ROOT)) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    with zipfile.ZipFile(make("build_wheel", source)) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def run(site, project, tmp_path_factory):
    """Run a script, or the module of a name, as after ``pip install`` of the wheel alone."""
    owners, here = packages_distributions(), core(project)
    absent = {
        module
        for module, names in owners.items()
        if module != "helpers" and not {canonicalize_name(name) for name in names} & here
    }
    prelude = PRELUDE.format(
        site=str(site),
        absent=absent,
        roots={"", str(ROOT)} | set(os.environ.get("PYTHONPATH", "").split(os.pathsep)),
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HELPERS_", "PYTHON"))}
    environ |= {"HELPERS_OFFLINE": "1", "HELPERS_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}

    def run_script(script):
        done = subprocess.run(
            [sys.executable, "-I", "-c", prelude + script],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env=environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run_script.absent = absent
    return run_script


def test_the_empty_place_is_empty(run):
    """The test would be worthless if the extras or the repository were seen."""
    assert {"pytest", "jupytext", "sphinx", "myst_nb", "nbval", "selenium"} <= run.absent
    assert not {"torch", "numpy", "scipy", "numba", "IPython"} & run.absent
    run(
        "for name in ('pytest', 'tests', 'sphinx'):\n"
        "    try: __import__(name)\n"
        "    except ModuleNotFoundError: pass\n"
        "    else: raise SystemExit(name + ' is there')\n"
    )


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "doctor", "data list", "data fetch --help"]
)
def test_the_command_answers(run, arguments):
    script = f"sys.argv[1:] = {arguments.split()!r}\nimport runpy\n"
    script += "try: runpy.run_module('helpers', run_name='__main__', alter_sys=True)\n"
    script += "except SystemExit as end: assert not end.code, end.code\n"
    said = run(script)
    assert said.strip()
    if arguments == "doctor":
        assert "dysco3: not on this machine" in said and "torch 2." in said


def test_every_network_loads_and_the_style_is_there(run):
    shipped = sorted(path.name for path in (ROOT / "data" / "checkpoints").glob("*.safetensors"))
    assert len(shipped) > 1
    run(
        f"shipped = {shipped}"
        + """
from helpers import checkpoints, plots, xray
from helpers.datasets import data_folder
from helpers.renderer import denoise
plots.use_style()
files = sorted((data_folder() / "checkpoints").glob("*.safetensors"))
assert [file.name for file in files] == shipped
for file in files:
    assert checkpoints.load(file)[1]["metric"], file
for name in ("flowfuse", "edvr", "swin", "calibrator"):
    assert xray.load(name).card["metric"]
assert denoise.load().card["metric"]
"""
    )


def test_a_method_of_each_kind_works(run):
    run("""
from helpers import fusion, metrics
from helpers.noise import Poisson
from helpers.renderer import mle
from helpers.renderer.renderers import Gaussian2D
data = fusion.simulate("core_shell", counts=1, seed=3, size=32)
haadf, maps = fusion.normalize(data.haadf, data.maps)
result = fusion.fuse(haadf, maps, ["Co", "Mn", "O"], gamma=1, n_iter=5)
assert metrics.psnr(result.maps["Mn"], data.truth["Mn"]) > 0
assert metrics.ssim(result.maps["Mn"], data.truth["Mn"]) < 1
spots = Gaussian2D((13, 13))
expected = spots.render({"x": [0.3, -1.0], "photons": 900.0, "background": 5.0})
assert abs(mle.fit(expected, spots, Poisson()).params["x"][1] + 1) < 0.01
""")


@pytest.mark.parametrize("page", ["start/setup", "fusion/index", "fusion/02_total_variation"])
def test_the_notebook_of_a_page_runs(run, page):
    source = jupytext.read(ROOT / "book" / f"{page}.md").cells
    made = notebooks.notebook("<p>The text is left out.</p>", source, {}, "not-needed")
    cells = [cell.source for cell in made.cells if cell.cell_type == "code"]
    assert "find_spec" in cells[0] and len(cells) >= 3
    run(f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for source in {cells!r}:
    shell.run_cell(source).raise_error()
""")


def run_nodes(node):
    """All nodes below one, but for what only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from run_nodes(child)


def imports():
    """The distributions' modules that the package imports anywhere, each with one of its files."""
    found = {}
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        for node in run_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                outside = isinstance(node, ast.ImportFrom) and not node.level
                names = [node.module] if outside else []
            found |= {name.partition(".")[0]: path.relative_to(ROOT) for name in names}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def test_what_the_package_imports_it_declares(project):
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["io"], *extras["scale"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    # asked for by name when they are missing: notebooks are written where the book is built, and
    # the files of a vendor are read by whichever of these is there
    declared |= {"jupytext", "bioio", "pims", "computational-microscopy-helpers"}
    owners = packages_distributions()
    undeclared = {
        f"{path}: {module}"
        for module, path in imports().items()
        if module != "helpers"
        and not {canonicalize_name(name) for name in owners.get(module, [module])} & declared
    }
    assert undeclared == set()


def test_what_it_declares_it_imports(project):
    """Save ipykernel, which runs the notebooks."""
    owners = packages_distributions()
    used = {canonicalize_name(name) for module in imports() for name in owners.get(module, [])}
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert declared - used == {"ipykernel"}
