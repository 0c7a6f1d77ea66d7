"""Record beside a result: settings as TOML, versions, and the hash of the inputs."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..io.files import atomic_path
from ..scale import digest
from ._declare import COMMON, INSIDE, Job, WrongCall

LIBRARIES = ("numpy", "scipy", "torch", "numba")
BESIDE = (*COMMON, "workers", "scheduler")  # no setting of the result


def folders(files: Sequence[Path], out: Path) -> list[Path]:
    """Folder of each result, named as its file; before any work, all files must be there.

    Parameters
    ----------
    files : sequence of Path
    out : Path
    """
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"{', '.join(missing[:3])}{more} does not exist: check the names")
    names = [path.name.split(".")[0] if path.is_file() else path.name for path in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise WrongCall(f"several inputs are named {', '.join(sorted(twice))}: rename them")
    if out.exists() and not out.is_dir():
        raise WrongCall(f"{out} is a file: name a folder by out")
    out.mkdir(parents=True, exist_ok=True)
    return [out / name for name in names]


def arguments(local: dict[str, Any]) -> dict[str, Any]:
    """Settings of a job from its local names, as the first line of its function.

    Parameters
    ----------
    local : dict
    """
    return {name: value for name, value in local.items() if name not in INSIDE}


class Record:
    """Origin of one result: inputs, settings, versions.

    Parameters
    ----------
    function : callable
        Of the job.
    settings : dict
        All arguments of the job.
    path : Path
        The input: a file, or a folder of files.
    folder : Path
        Of the result.
    """

    def __init__(self, function: Any, settings: dict[str, Any], path: Path, folder: Path):
        self.job, self.settings, self.folder = Job(function), settings, folder
        extra = [v for k, v in settings.items() if isinstance(v, Path) and k not in BESIDE]
        inputs = [path, *extra]
        self.inputs = {str(p.absolute()): digest(_contents(p)) for p in inputs}
        kept = {k: v for k, v in settings.items() if k not in BESIDE and not isinstance(v, Path)}
        self.key = digest(self.job.name, kept, list(self.inputs.values()), __version__)

    def is_done(self) -> bool:
        """True if the result is there, whole, and from the same input and settings."""
        try:
            note = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            files = note["files"].items()
            return note["key"] == self.key and all(
                (self.folder / name).stat().st_size == size for name, size in files
            )
        except (OSError, ValueError, KeyError):
            return False

    def write(self, files: Iterable[Path]) -> None:
        """Write ``job.toml`` and ``job.json`` beside the files of the result.

        Parameters
        ----------
        files : iterable of Path
        """
        note = {
            "job": self.job.name,
            "key": self.key,
            "inputs": self.inputs,
            "files": {str(p.relative_to(self.folder)): p.stat().st_size for p in files},
            "versions": {"helpers": __version__, "python": platform.python_version()}
            | {name: _version(name) for name in LIBRARIES},
        }
        with atomic_path(self.folder / "job.toml") as temporary:
            temporary.write_text(self.job.toml(self.settings), encoding="utf-8")
        with atomic_path(self.folder / "job.json") as temporary:
            temporary.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _contents(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
