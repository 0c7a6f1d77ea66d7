"""The command line: ``cmx``, which is also ``python -m helpers``."""

from __future__ import annotations

import argparse
import difflib
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from . import __version__, datasets, devices
from .jobs._command import command, listing, names

LIBRARIES = "numpy scipy torch numba matplotlib ipywidgets scikit-image jupyter-book".split()


def doctor() -> int:
    """Print what this machine gives the book: versions, device, threads, memory, data."""
    memory = psutil.virtual_memory()
    print(f"helpers {__version__} in {Path(__file__).parent}")
    print(f"python {platform.python_version()} on {platform.platform()}")
    for library in LIBRARIES:
        print(f"  {library} {_version(library)}")
    print(devices.describe())
    print(f"threads: {torch.get_num_threads()} of {os.cpu_count()} cores")
    print(f"memory: {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB are free")
    if memory.available < 6 * 2**30:
        print("  below 6 GiB: close other programs before building the whole book")
    return data_verify(datasets.names(), must_be_here=False)


def data_list(names: Sequence[str], asked: bool = True) -> int:
    """Print what each data set is."""
    for name in names:
        card = datasets.describe(name)
        print(f"{name}: {card['title']}\n  {card['file']}, {card['licence']}\n  {card['source']}")
    return 0


def data_fetch(names: Sequence[str], asked: bool = True) -> int:
    """Download what is not here yet; 1 if a set that was asked for is not here afterwards."""
    missing = False
    for name in names:
        how = datasets.describe(name).get("by_hand")
        try:
            if how and datasets.find(name) is None:
                print(f"{name} is not fetched, you do it by hand: {how}", file=sys.stderr)
                missing |= asked
                continue
            path, origin = datasets.fetch(name)
            print(f"{name}: {path} ({origin})")
        except (ValueError, OSError) as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            missing = True
    return int(missing)


def data_verify(names: Sequence[str], asked: bool = True, must_be_here: bool = True) -> int:
    """Check the files on this machine: published checksums, or shapes of what came by hand.

    1 if a file is damaged, or if one is absent that was asked for or could be downloaded.
    """
    failed = False
    for name in names:
        how = datasets.describe(name).get("by_hand")
        try:
            found = datasets.find(name)
        except (ValueError, OSError) as error:
            print(f"{name}: {error}")
            failed = True
            continue
        failed |= found is None and must_be_here and (asked or not how)
        absent = how or "pages download it, or show its simulated twin"
        good = "shapes as published" if how else "checksum as published"
        here = f"{found[0]} ({found[1]}), {good}" if found else f"not on this machine: {absent}"
        print(f"{name}: {here}")
    return int(failed)


def export_notebooks(out: Path, site: Path) -> int:
    """Copy the notebooks of a built book: its pages, with their numbers, for any Jupyter."""
    notebooks = sorted((site / "_sources" / "book").rglob("*.ipynb"))
    if not notebooks:
        raise FileNotFoundError(f"no notebooks in {site}: build the book first (make book)")
    for notebook in notebooks:
        target = out / notebook.relative_to(site / "_sources" / "book")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebook, target)
    print(f"{len(notebooks)} notebooks in {out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in (*names(), "init", "run"):
        return command(arguments)
    parser = argparse.ArgumentParser(
        prog="cmx",
        usage="cmx JOB FILE [FILE ...] --out FOLDER [options]\n"
        "       cmx init JOB | run FILE.toml | doctor | data | export-notebooks",
        description=str(__doc__).splitlines()[0].replace("`", ""),
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"helpers {__version__}")
    commands = parser.add_subparsers(
        title="commands", prog="cmx", metavar="COMMAND", dest="command", required=True
    )
    commands.add_parser("doctor", help=doctor.__doc__)
    data = commands.add_parser("data", help="List, fetch or verify the measured data.")
    data.add_argument("action", choices=["list", "fetch", "verify"])
    data.add_argument("names", nargs="*", help="as `data list` gives them; all if left out")
    export = commands.add_parser("export-notebooks", help=export_notebooks.__doc__)
    export.add_argument("out", type=Path, help="folder for the notebooks")
    built = Path(__file__).parents[1] / "_build" / "html"
    export.add_argument("--site", type=Path, default=built, help="folder of the built book")
    known = [*names(), "init", "run", *commands.choices]
    if arguments and arguments[0][:1] not in ("", "-") and arguments[0] not in known:
        near = difflib.get_close_matches(arguments[0], known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "see cmx --help"
        print(f"there is no job or command {arguments[0]!r}: {hint}", file=sys.stderr)
        return 2
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "doctor":
            return doctor()
        if chosen.command == "export-notebooks":
            return export_notebooks(chosen.out, chosen.site)
        action = {"list": data_list, "fetch": data_fetch, "verify": data_verify}[chosen.action]
        return action(chosen.names or datasets.names(), asked=bool(chosen.names))
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "is not installed"


if __name__ == "__main__":
    sys.exit(main())
