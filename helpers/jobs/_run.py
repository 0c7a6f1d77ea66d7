"""Run of a job over its files, and the record beside each result: settings, versions, hashes."""

from __future__ import annotations

import glob
import json
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..devices import pick_device
from ..io.files import atomic_path
from ..scale import digest, workers
from ._declare import Job, WrongCall

if TYPE_CHECKING:
    from distributed import Client

LIBRARIES = ("numpy", "scipy", "torch", "numba")
FAILURES = (ValueError, OSError, RuntimeError, ArithmeticError, ImportError)


@dataclass(frozen=True)
class Task:
    """One file of a job.

    Attributes
    ----------
    path : Path
        The input: a file, or a folder of files.
    folder : Path
        Of its results; it exists.
    key : str
        Hash of input, settings and version.
    resume : bool
        Take what a stopped run has left.
    device : str or None
    progress : bool
        Show a bar.
    """

    path: Path
    folder: Path
    key: str
    resume: bool
    device: str | None
    progress: bool

    def unfinished(self, name: str) -> Path:
        """Place in the folder for what a stopped run goes on from; of this key only.

        Parameters
        ----------
        name : str
            Of a file or folder.
        """
        folder = self.folder / f"unfinished-{self.key[:12]}"
        if not self.resume:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        return folder / name


@dataclass(frozen=True)
class Outcome:
    """Result of a job for one file.

    Attributes
    ----------
    output : Path
        The file or folder to look at.
    files : list of Path
        All files that must be whole.
    told : dict
        Numbers and names for the line of the result.
    """

    output: Path
    files: list[Path]
    told: dict[str, Any] = field(default_factory=dict)


def run(
    job: Job,
    settings: Mapping[str, Any],
    *,
    progress: bool = False,
    report: Callable[[dict[str, Any]], None] = print,
) -> int:
    """Do a job for each of its files; what cannot be done is reported, and the rest is done.

    Parameters
    ----------
    job : Job
    settings : mapping
        All of them, as `Job.check` gives them.
    progress : bool
        Show a bar.
    report : callable
        Called with a dict for each file: its input, then output and numbers, or the error.

    Returns
    -------
    int
        Files that failed.

    Raises
    ------
    WrongCall, OSError
        Before any work: see `Job.verify`; a file that is not there, a folder that cannot be
        written, a scheduler that does not answer.
    """
    job.verify(settings)
    if settings["scheduler"] is None:
        try:
            pick_device(settings["device"])
        except (ValueError, RuntimeError) as error:
            raise WrongCall(str(error)) from error
    files = expanded(settings["files"])
    targets = folders(files, settings["out"])
    with workers(settings["workers"], settings["scheduler"]) as client:
        pairs = list(zip(files, targets, strict=True))
        several = len(pairs) > 1 and not job.by_chunks
        judged = _judged(job, settings, pairs)
        if found := judged.get("found"):
            warnings.warn(f"{judged['field']}: {found}", stacklevel=2)
        work = partial(one, job, settings, judged=judged)
        results = _results(work, pairs, client, job.by_chunks, progress and not several)
        failed = 0
        for result in _with_bar(results, len(pairs), progress and several):
            failed += "error" in result
            report(result)
    return failed


def one(
    job: Job,
    settings: Mapping[str, Any],
    path: Path,
    folder: Path,
    *,
    judged: Mapping[str, Any] | None = None,
    client: Client | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Do a job for one file.

    Parameters
    ----------
    job : Job
    settings : mapping
    path, folder : Path
        Input, and folder of the results.
    judged : mapping, optional
        What the first input of the call said of the settings, for the record.
    client : distributed.Client, optional
        For a job that spreads the chunks of a file.
    progress : bool

    Returns
    -------
    dict
        Its input and output with numbers, or its input and the error.
    """
    given = {"input": str(path)}
    try:
        record = Record(job, settings, path, folder)
        if settings["resume"] and (output := record.output()):
            return given | {"output": output, "new": False}
        folder.mkdir(exist_ok=True)
        own = {k: v for k, v in settings.items() if k not in job.common}
        if job.by_chunks:
            own["client"] = client
        resume, device = settings["resume"], settings["device"]
        task = Task(path, folder, record.key, resume, device, progress)
        outcome = job.function(task, **own)
        record.write(outcome, judged)
        for left in folder.glob("unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in folder.rglob(".*.part"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
    except FAILURES as error:
        return given | {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return given | {"output": str(outcome.output), "new": True, **outcome.told}


def _judged(
    job: Job, settings: Mapping[str, Any], pairs: list[tuple[Path, Path]]
) -> dict[str, Any]:
    """Judgement of the settings by the first input that can be read, now or in a call before."""
    for path, folder in pairs if job.judge else ():
        try:
            if settings["resume"] and (folder / "job.json").exists():
                note = Record(job, settings, path, folder).note()
                if note is not None:
                    return dict(note.get("judged", {}))
            assert job.judge is not None
            return job.judge(path, settings)
        except FAILURES:
            continue  # it is told in its turn
    return {}


def _results(
    work: Callable[..., dict[str, Any]],
    pairs: list[tuple[Path, Path]],
    client: Client | None,
    by_chunks: bool,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """Result of each file as soon as it is there."""
    if client is None or by_chunks:
        for path, folder in pairs:
            yield work(path, folder, client=client, progress=progress)
        return
    from distributed import as_completed

    futures = {client.submit(work, path, folder, pure=False): path for path, folder in pairs}
    try:
        for future in as_completed(futures):
            try:
                yield future.result()
            except Exception as error:  # the worker was lost too often, or its machine has no room
                told = f"{type(error).__name__}: {' '.join(str(error).split())}"
                yield {"input": str(futures[future]), "error": told}
    except BaseException:
        client.cancel(list(futures))
        raise


def _with_bar(
    results: Iterable[dict[str, Any]], total: int, shown: bool
) -> Iterable[dict[str, Any]]:
    from tqdm.auto import tqdm

    return tqdm(results, total=total, desc="files", disable=not shown)


def expanded(files: Sequence[Path]) -> list[Path]:
    """Names with ``*``, as a TOML file has them, replaced by the files that match.

    Parameters
    ----------
    files : sequence of Path
    """
    found = []
    for path in files:
        pattern = not path.exists() and glob.has_magic(str(path))
        found += sorted(map(Path, glob.glob(str(path)))) if pattern else [path]
        if pattern and not glob.glob(str(path)):
            raise FileNotFoundError(f"{path} matches no file: check the name and the folder")
    return found


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
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except PermissionError as error:
        raise PermissionError(f"no permission to write in {out}: choose another folder") from error
    return [out / name for name in names]


def uninterrupted(result: Any) -> Any:
    """The result of a training, or a KeyboardInterrupt if Ctrl-C ended it after a step.

    Parameters
    ----------
    result : Any
        Has `interrupted`, or not.
    """
    if getattr(result, "interrupted", False):
        raise KeyboardInterrupt
    return result


@contextmanager
def assembled(folder: Path, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """Give an array of float32 that lies in a file while the block fills it.

    Parameters
    ----------
    folder : Path
    shape : sequence of int
    """
    path = folder / ".assembled.npy"
    try:
        yield np.lib.format.open_memmap(path, "w+", np.float32, tuple(shape))
    finally:
        path.unlink(missing_ok=True)


class Record:
    """Origin of one result: inputs, settings, versions.

    Parameters
    ----------
    job : Job
    settings : mapping
        All arguments of the job.
    path : Path
        The input: a file, or a folder of files.
    folder : Path
        Of the result.
    """

    def __init__(self, job: Job, settings: Mapping[str, Any], path: Path, folder: Path) -> None:
        self.job, self.settings, self.folder = job, settings, folder
        own = {k: v for k, v in settings.items() if k not in job.common}
        inputs = [path, *(v for v in own.values() if isinstance(v, Path))]
        self.inputs = {str(p.absolute()): digest(_contents(p)) for p in inputs}
        kept = {k: v for k, v in own.items() if not isinstance(v, Path)}
        self.key = digest(job.name, kept, list(self.inputs.values()), __version__)

    def output(self) -> str | None:
        """The result if it is there, whole, and from the same input and settings."""
        note = self.note()
        return None if note is None else str(self.folder / note["output"])

    def note(self) -> dict[str, Any] | None:
        """Content of ``job.json`` if its result is whole, and from the same input and settings."""
        try:
            note: dict[str, Any] = json.loads(
                (self.folder / "job.json").read_text(encoding="utf-8")
            )
            files = note["files"].items()
            whole = note["key"] == self.key and all(
                (self.folder / name).stat().st_size == size for name, size in files
            )
            return note if whole and "output" in note else None
        except (OSError, ValueError, KeyError):
            return None

    def write(self, outcome: Outcome, judged: Mapping[str, Any] | None = None) -> None:
        """Write ``job.toml`` and ``job.json`` beside the files of the result.

        Parameters
        ----------
        outcome : Outcome
        judged : mapping, optional
            What an input said of the settings.
        """
        files = {p.relative_to(self.folder).as_posix(): p.stat().st_size for p in outcome.files}
        note = {
            "job": self.job.name,
            "key": self.key,
            "inputs": self.inputs,
            "output": outcome.output.relative_to(self.folder).as_posix(),
            "files": files,
            "versions": {"helpers": __version__, "python": platform.python_version()}
            | {name: _version(name) for name in LIBRARIES},
        }
        if judged:
            note["judged"] = dict(judged)
        with atomic_path(self.folder / "job.toml") as temporary:
            temporary.write_text(self.job.toml(self.settings), encoding="utf-8")
        with atomic_path(self.folder / "job.json") as temporary:
            temporary.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _contents(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
