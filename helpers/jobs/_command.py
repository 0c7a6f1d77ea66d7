"""The commands of the jobs: ``cmx JOB FILES``, ``cmx init JOB`` and ``cmx run FILE.toml``."""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import sys
import textwrap
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ._declare import Job, WrongCall, read_toml

JOBS = {  # job: its module
    "fuse": "_fuse",
    "beads": "_renderer",
    "localize": "_renderer",
    "denoise": "_renderer",
    "deconvolve": "_renderer",
    "field": "inr._volumes",
    "film": "inr._volumes",
    "tomogram": "inr._volumes",
    "diffraction": "inr._diffraction",
    "xray-convert": "_xray_train",
    "xray-train": "_xray_train",
    "xray-train-calibrator": "_xray_train",
    "xray-calibrate": "_xray_infer",
    "xray-infer": "_xray_infer",
}


def names() -> tuple[str, ...]:
    """Names of all jobs."""
    return tuple(JOBS)


def find(name: str) -> Job:
    """Give a job by its name.

    Parameters
    ----------
    name : str

    Raises
    ------
    WrongCall
        There is no such job.

    Examples
    --------
    >>> find("fuse").check({"files": ["a.h5"], "out": "results"})["gamma"]
    1.6
    """
    if name not in JOBS:
        raise WrongCall(f"there is no job {name!r}: use {', '.join(JOBS)}")
    module = import_module(f"{__package__}.{JOBS[name]}")
    name = name.replace("-", "_")
    return Job(getattr(module, name), getattr(module, f"judge_{name}", None))


def summary(name: str) -> str:
    """First line of a job's help, without importing what it works with.

    Parameters
    ----------
    name : str
    """
    path = Path(__file__).parent.joinpath(*JOBS[name].split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name.replace("-", "_"):
            return str(ast.get_docstring(node)).splitlines()[0]
    raise LookupError(name)


def listing() -> str:
    """Lines about the jobs for the help of the command."""
    lines = ["jobs (cmx JOB --help says more):"]
    told = {name: summary(name) for name in JOBS}
    told["init JOB"] = "Print a TOML file with all settings of a job."
    told["run FILE"] = "Do the job of a TOML file."
    width = max(map(len, told))
    for name, text in told.items():
        lines += textwrap.wrap(
            f"{name:<{width}} {text}", 80, initial_indent="  ", subsequent_indent=" " * (width + 3)
        )
    return "\n".join(lines)


def command(arguments: Sequence[str]) -> int:
    """Run ``JOB ...``, ``init JOB`` or ``run FILE.toml``.

    Parameters
    ----------
    arguments : sequence of str

    Returns
    -------
    int
        0; 1 where something could not be done; 2 for a wrong call.
    """
    try:
        first, *rest = arguments
        if first == "init":
            print(find(_only(rest, "init JOB")).toml(), end="")
            return 0
        if first == "run":
            as_json = "--json" in rest
            path = Path(_only([a for a in rest if a != "--json"], "run FILE.toml [--json]"))
            job = find(str(read_toml(path).get("job")))
            return run(job, job.read(path), as_json=as_json)
        job = find(first)
        given = vars(_parser(job).parse_args(rest))
        as_json, quiet = given.pop("json"), given.pop("quiet")
        return run(job, job.check(given), as_json=as_json, quiet=quiet)
    except WrongCall as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except SystemExit as end:  # of argparse
        return int(end.code or 0)
    except KeyboardInterrupt:
        print("stopped: the same call goes on from here", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def run(job: Job, settings: dict[str, Any], *, as_json: bool = False, quiet: bool = False) -> int:
    """Do a job whose settings are checked.

    Parameters
    ----------
    job : Job
    settings : dict
    as_json : bool
        One line of JSON a result, for pipelines.
    quiet : bool
        No bar.

    Returns
    -------
    int
        0, or 1 if an input failed.
    """
    from ._run import run as work

    bar = not (as_json or quiet) and sys.stderr.isatty()
    report = _report_json if as_json else _report
    with warnings.catch_warnings():
        warnings.showwarning = _say
        return int(work(job, settings, progress=bar, report=report) > 0)


def _say(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, without the place in the code."""
    print(f"note: {' '.join(str(message).split())}", file=sys.stderr)


def _report(result: dict[str, Any]) -> None:
    told = ", ".join(f"{k} {v}" for k, v in result.items() if k not in ("input", "output", "error"))
    end = f"failed: {result['error']}" if "error" in result else f"{result['output']} ({told})"
    print(f"{result['input']}: {end}", file=sys.stderr if "error" in result else sys.stdout)


def _report_json(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


def _only(words: Sequence[str], usage: str) -> str:
    if len(words) != 1:
        raise WrongCall(f"usage: cmx {usage}")
    return words[0]


def _parser(job: Job) -> argparse.ArgumentParser:
    width = min(80, shutil.get_terminal_size().columns)
    needed = [
        f"--{s.name.replace('_', '-')} {s.kind.__name__.upper()}"
        for s in job.settings[1:]
        if s.needed
    ]
    usage = f"cmx {job.name} FILE [FILE ...] {' '.join(needed)} [options]"
    parser = argparse.ArgumentParser(
        prog=f"cmx {job.name}",
        usage=textwrap.fill(usage, width - 7, subsequent_indent=" " * 7),
        description=job.summary,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, 2, 26, width),
    )
    common = job.add_to(parser)
    common.add_argument("--json", action="store_true", help="One line of JSON a result.")
    common.add_argument("--quiet", action="store_true", help="No progress bar.")
    return parser
