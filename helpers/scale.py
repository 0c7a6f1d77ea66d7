"""Long work in chunks: it goes on after a stop, and may be spread over processes and machines.

Dask is the scheduler. Without a client the work is done in this process, chunk by chunk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__
from ._arrays import is_tensor, to_numpy
from .io.files import atomic_path

if TYPE_CHECKING:
    import zarr
    from distributed import Client

    from .io.stacks import Stack

__all__ = ["Chunks", "map_chunks"]

FULL = (errno.ENOSPC, errno.EDQUOT)  # what is left to do would fail as well
LEVEL = 0  # of Zstandard: its default
Note = dict[str, Any]  # of a part: its kind, name and files, and their sums
MARKS = ".parts"  # folder of the notes that say which parts are whole


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Result of `map_chunks`.

    Attributes
    ----------
    out : Path
        Folder of the result.
    kind : str
        "table": a folder of Parquet files, one a chunk. "array" or "arrays": Zarr.
    n_chunks : int
        Chunks in all.
    n_new : int
        Those that were computed by this call; the others were there and whole.
    """

    out: Path
    kind: str
    n_chunks: int
    n_new: int

    def open(self) -> np.recarray | zarr.Array | dict[str, zarr.Array]:
        """Give the whole result.

        Returns
        -------
        structured array, zarr.Array, or dict of zarr.Array
            A table is loaded; arrays of Zarr are read where they are indexed.
        """
        if self.kind == "table":
            return _read_tables(sorted(self.out.glob("part-*.parquet")))
        import zarr

        if self.kind == "array":
            return zarr.open_array(self.out, mode="r")
        folders = sorted(path.parent for path in self.out.glob("*/zarr.json"))
        return {folder.name: zarr.open_array(folder, mode="r") for folder in folders}


def map_chunks(
    function: Callable[[Any, int], Any],
    source: np.ndarray | Stack | Sequence[Any],
    out: str | Path,
    *,
    chunk: int,
    client: Client | None = None,
    resume: bool = True,
    progress: bool = False,
) -> Chunks:
    """Apply a function to the chunks of a source, and keep each result as soon as it is there.

    Parameters
    ----------
    function : callable
        ``function(block, start)``, with the images ``source[start:start + chunk]`` and the number
        of the first. It gives a structured array (a table), an array with one entry for each image
        of the block, or a dict of such arrays. Settings are bound by `functools.partial`.
    source : array-like or sequence
        Anything with a length and slices: an array, a `helpers.io.Stack`, a list of paths. Paths
        stand for what is in the files.
    out : str or Path
        Folder of the result, Zarr or Parquet; it is made.
    chunk : int
        Images in a chunk; the last may have fewer.
    client : distributed.Client, optional
        Its workers do the chunks; they must see `out`. Left out, this process does.
    resume : bool
        Take the chunks that are in `out` and whole, where input, function and settings are the
        same. Otherwise begin anew.
    progress : bool
        Show a bar.

    Returns
    -------
    Chunks

    Raises
    ------
    ValueError
        An empty source, a chunk below one, a folder that holds something else, or results that do
        not fit together.
    RuntimeError
        Some chunks failed: they are listed with the reason; the others are kept.
    OSError
        The file system is full: the work ends there.

    Notes
    -----
    A chunk is known by a hash of its input, of the function's code and of its settings, so that
    nothing old passes for new. A part is written before the note that it is whole, with its
    checksum: a process that is killed loses the chunk that it works on, and no more; a machine that
    loses its power, what was not on its disk yet.

    Examples
    --------
    >>> import tempfile
    >>> movie = np.arange(40.0).reshape(10, 2, 2)
    >>> done = map_chunks(lambda block, start: 2 * block, movie, tempfile.mkdtemp(), chunk=4)
    >>> done.n_chunks, bool((done.open()[:] == 2 * movie).all())
    (3, True)
    """
    from tqdm.auto import tqdm

    if chunk != int(chunk) or chunk < 1:
        raise ValueError(f"chunk is {chunk}: give a whole number of images, at least 1")
    n_images = len(source)
    if n_images == 0:
        raise ValueError("the source is empty: give at least one image")
    out = _folder(out, resume)
    settings = digest(function, __version__)
    starts = range(0, n_images, int(chunk))
    task = partial(_work, function, settings, out=out, total=n_images, chunk=int(chunk))
    found, failed = {}, {}
    with tqdm(total=len(starts), desc="chunks", disable=not progress) as bar:
        for start, result, error in _each(task, source, starts, int(chunk), client):
            if error is None:
                found[start] = result
            elif isinstance(error, OSError) and error.errno in FULL:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: {len(found)} of {len(starts)} chunks are kept in {out}; "
                    "make room and call again",
                ) from error
            else:
                failed[start] = error
            bar.update()
    if failed:
        listed = [f"  from {k}: {type(e).__name__}: {e}" for k, e in sorted(failed.items())]
        more = [] if len(listed) <= 10 else [f"  and {len(listed) - 10} more"]
        raise RuntimeError(
            "\n".join(
                [
                    f"{len(failed)} of {len(starts)} chunks failed, the others are in {out}; "
                    "mend the cause and call again:",
                    *listed[:10],
                    *more,
                ]
            )
        ) from failed[min(failed)]
    kinds = {part["kind"] for part in found.values()}
    if len(kinds) > 1:
        raise ValueError(f"some chunks gave {', some '.join(sorted(kinds))}: give one kind")
    _remove_others(out, {part["name"] for part in found.values()})
    n_new = sum(part["new"] for part in found.values())
    return Chunks(out, kinds.pop(), len(starts), n_new)


@contextlib.contextmanager
def workers(n: int = 0, scheduler: str | None = None) -> Iterator[Client | None]:
    """Give a client of Dask for `map_chunks`: of processes of its own, or of a scheduler.

    Parameters
    ----------
    n : int
        Processes, with one thread each; 0 gives None, which is this process.
    scheduler : str, optional
        Address such as ``tcp://10.0.0.1:8786``; then its workers are taken, whatever `n` is.

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    OSError
        No scheduler answers at the address.
    """
    if scheduler is None and n == 0:
        yield None
        return
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise OSError(f"no scheduler answers at {scheduler}: check address and port") from error
        with client:
            yield client
        return
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": "CRITICAL"}
    with LocalCluster(n_workers=n, **options) as cluster, Client(cluster) as client:
        yield client


def digest(*values: Any) -> str:
    """Hash of values: numbers, text, arrays, models, functions with their code, files by content.

    Parameters
    ----------
    *values : Any
        Also containers of those, objects by their attributes; a `Path` is a file or its name.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        Something that has no content to go by.

    Examples
    --------
    >>> digest(1, "a", np.eye(2)) == digest(1, "a", np.eye(2)) != digest(1, "a", np.ones((2, 2)))
    True
    """
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        _feed(state, value)
    return state.hexdigest()


def _each(
    task: Callable[..., Note], source: Any, starts: Sequence[int], chunk: int, client: Client | None
) -> Iterator[tuple[int, Any, Exception | None]]:
    """Yield (start, result, error) for every chunk, as they are finished.

    The first chunk comes before all others: it makes the arrays that they write to.
    """
    if client is None:
        for start in starts:
            block = source[start : start + chunk]
            yield start, *_tried(partial(task, block, start, first=start == 0))
        return
    from distributed import as_completed

    # what lies in memory is cut here; what lies in a file is opened once by each worker. As results
    # of tasks both are made anew where the worker that held them is lost
    here = isinstance(source, np.ndarray | list | tuple)
    work = client.submit(_same, task, pure=False)
    shared = None if here else client.submit(_same, source, pure=False)

    def submit(start: int) -> Any:
        first = start == 0
        if here:
            return client.submit(
                _call, work, source[start : start + chunk], start, first, pure=False
            )
        return client.submit(_cut, work, shared, start, chunk, first, pure=False)

    future = submit(0)
    yield 0, *_tried(future.result)
    futures = {submit(start): start for start in starts[1:]}
    try:
        for future in as_completed(futures):
            yield futures[future], *_tried(future.result)
    except BaseException:
        client.cancel(list(futures))
        raise


def _tried(call: Callable[[], Note]) -> tuple[Any, Exception | None]:
    """Result and no error, or no result and the error."""
    try:
        return call(), None
    except Exception as error:  # the caller's function may raise anything; it is listed
        return None, error


def _same(value: Any) -> Any:
    return value


def _call(task: Callable[..., Note], block: Any, start: int, first: bool) -> Note:
    return task(block, start, first)


def _cut(task: Callable[..., Note], source: Any, start: int, chunk: int, first: bool) -> Note:
    return task(source[start : start + chunk], start, first)


def _work(
    function: Callable[..., Any],
    settings: Any,
    block: Any,
    start: int,
    first: bool = False,
    *,
    out: Path,
    total: int,
    chunk: int,
) -> Note:
    """Do one chunk unless it is there; gives a note of its part."""
    if not isinstance(block, list | tuple):
        block = np.asarray(block)
    key = digest(settings, block, start, total, chunk)
    mark = out / MARKS / f"{start:09d}" / f"{key}.json"
    note = _whole(out, mark)
    if note is not None:
        return note | {"new": False}
    result = function(block, start)
    mark.parent.mkdir(exist_ok=True)
    for other in mark.parent.iterdir():  # other input or settings, whose part is overwritten now
        other.unlink(missing_ok=True)
    if isinstance(result, np.ndarray) and result.dtype.names:
        note = _write_table(out, result, f"part-{start:09d}-{key}.parquet")
    else:
        note = _write_arrays(out, result, start, len(block), total, chunk, first)
    note["name"] = f"{start:09d}-{key}"
    with atomic_path(mark, sync=False) as temporary:
        temporary.write_text(json.dumps(note), encoding="utf-8")
    return note | {"new": True}


def _whole(out: Path, mark: Path) -> Note | None:
    """The note of a part if all of its files are there as they were written, else None."""
    try:
        note = json.loads(mark.read_text(encoding="utf-8"))
        same = all(_sum_of(out / file) == known for file, known in note["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return note if same else None


def _write_table(out: Path, table: np.ndarray, file: str) -> Note:
    import pyarrow
    from pyarrow import parquet

    names = table.dtype.names or ()
    columns = {name: pyarrow.array(np.ascontiguousarray(table[name])) for name in names}
    data = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), data)
    return {"kind": "table", "files": {file: _write(out / file, data.getvalue())}}


def _write(path: Path, data: Any) -> str:
    """Write the bytes of a part; gives their checksum, as `_sum_of` finds it in the file."""
    with atomic_path(path, sync=False) as temporary:
        temporary.write_bytes(data)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _sum_of(path: Path) -> str:
    """Checksum of a part: a machine that lost its power may have kept the name and no data."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@lru_cache(64)
def _store(path: Path, _: int) -> Any:
    """A Zarr array to write to; a process opens it once."""
    import zarr

    return zarr.open_array(path, mode="r")


def _encoded(array: np.ndarray, store: zarr.Array) -> bytes:
    """Bytes of one chunk as the codecs of `_make_arrays` have them, filled up with zeros.

    Zarr's own writing hands each chunk to another thread and back, which costs more than the rest.
    """
    from numcodecs.zstd import Zstd

    whole = np.zeros(store.chunks, store.dtype.newbyteorder("<"))  # as the codec `bytes` has it
    whole[: len(array)] = array
    return Zstd(LEVEL).encode(whole)


def _read_tables(paths: Sequence[Path]) -> np.recarray:
    from pyarrow import parquet

    tables = [parquet.read_table(path) for path in paths]
    names = tables[0].column_names
    columns = [np.concatenate([t[name].to_numpy() for t in tables]) for name in names]
    return np.rec.fromarrays(columns, names=names)


def _write_arrays(
    out: Path, result: Any, start: int, n: int, total: int, chunk: int, first: bool
) -> Note:
    """Write one chunk of each array into Zarr; the first chunk makes the arrays."""
    several = isinstance(result, dict)
    arrays = {k: to_numpy(v) for k, v in (result if several else {"": result}).items()}
    arrays = {k: v.astype(v.dtype.newbyteorder("="), copy=False) for k, v in arrays.items()}
    for name, array in arrays.items():
        if array.ndim < 1 or len(array) != n or array.dtype.kind not in "biufc":
            raise ValueError(
                f"the function gave {name or 'an array'} of {array.dtype} {array.shape} for a "
                f"block of {n}: give numbers, one entry for each image, or a table"
            )
    _make_arrays(out, arrays, total, chunk, several, first)
    files = {}
    for name, array in arrays.items():
        store = _store(out / name, (out / name / "zarr.json").stat().st_mtime_ns)
        if store.shape[1:] != array.shape[1:] or store.dtype != array.dtype:
            raise ValueError(
                f"chunk from {start} is {array.dtype} {array.shape[1:]} but the first was "
                f"{store.dtype} {store.shape[1:]}: give results of one shape and type"
            )
        place = store.metadata.encode_chunk_key((start // chunk, *(0,) * (array.ndim - 1)))
        file = f"{name}/{place}" if name else place
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        files[file] = _write(out / file, _encoded(array, store))
    return {"kind": "arrays" if several else "array", "files": files}


def _make_arrays(
    out: Path, arrays: dict[str, np.ndarray], total: int, chunk: int, several: bool, first: bool
) -> None:
    """Make the arrays that are missing; the first chunk also replaces those of other settings."""
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.errors import ContainsArrayError

    codecs = (ZstdCodec(level=LEVEL),)
    if several and not (out / "zarr.json").exists():
        zarr.open_group(out, mode="a")
    for name, array in arrays.items():
        shape, chunks = (total, *array.shape[1:]), (chunk, *array.shape[1:])
        at = out / name
        if (at / "zarr.json").exists():
            if not first:
                continue
            old = zarr.open(at, mode="r")
            known = [getattr(old, a, None) for a in ("shape", "chunks", "dtype", "compressors")]
            if known == [shape, chunks, array.dtype, codecs]:
                continue
            for mark in (out / MARKS).glob("*/*.json"):
                mark.unlink()
            shutil.rmtree(at / "c", ignore_errors=True)
            (at / "zarr.json").unlink()
        with contextlib.suppress(ContainsArrayError):  # another worker was faster
            zarr.create_array(at, shape=shape, chunks=chunks, dtype=array.dtype, compressors=codecs)


def _folder(out: str | Path, resume: bool) -> Path:
    """The folder of the result, with a place for notes; another folder's files are refused."""
    out = Path(out).absolute()
    marks = out / MARKS
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder for the result")
    if out.exists() and not marks.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something else: name an empty or a new folder")
    if not resume and marks.exists():
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    marks.mkdir(parents=True, exist_ok=True)
    return out


def _remove_others(out: Path, names: set[str]) -> None:
    """Remove notes and tables of other input or settings."""
    for folder in os.scandir(out / MARKS):
        for note in os.scandir(folder):
            if f"{folder.name}-{note.name.removesuffix('.json')}" not in names:
                os.unlink(note)
    for part in out.glob("part-*.parquet"):
        if part.name.removeprefix("part-").removesuffix(".parquet") not in names:
            part.unlink()


def _feed(state: Any, value: Any) -> None:
    """Add a value to a hash, with its type, so that 1, "1" and [1] differ."""
    state.update(f"<{type(value).__module__}.{type(value).__qualname__}>".encode())
    if is_tensor(value) or isinstance(value, np.ndarray | np.generic):
        array = to_numpy(value)
        if array.dtype.kind == "O":
            return _feed(state, array.tolist())
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        state.update(repr(value).encode())
    elif isinstance(value, Path):
        _feed_file(state, value)
    elif isinstance(value, dict):
        for name in sorted(value, key=str):
            _feed(state, name)
            _feed(state, value[name])
    elif isinstance(value, list | tuple | set | frozenset | range):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        state.update(str(len(items)).encode())
        for item in items:
            _feed(state, item)
    elif isinstance(value, partial):
        _feed(state, [value.func, list(value.args), value.keywords])
    elif hasattr(value, "__code__"):
        _feed_function(state, value)
    elif hasattr(value, "__func__"):
        _feed(state, [value.__func__, value.__self__])
    elif hasattr(value, "__dask_tokenize__"):
        _feed(state, list(value.__dask_tokenize__()))
    elif hasattr(value, "state_dict"):  # a model: what it was trained to, and how it is built
        own = {name: v for name, v in vars(value).items() if name[0] != "_" and not callable(v)}
        _feed(state, [own, dict(value.state_dict()), list(value.children())])
    elif isinstance(value, type):
        state.update(f"{value.__module__}.{value.__qualname__}".encode())
    elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
        slots = getattr(type(value), "__slots__", ())
        _feed(state, getattr(value, "__dict__", None) or {s: getattr(value, s) for s in slots})
    elif (text := repr(value)) and " at 0x" not in text:
        state.update(text.encode())
    else:
        raise TypeError(
            f"a {type(value).__name__} has no content to go by: bind numbers, arrays or functions"
        )


def _feed_function(state: Any, function: Any) -> None:
    code = function.__code__
    state.update(f"{function.__module__}.{function.__qualname__}".encode())
    state.update(code.co_code)
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):  # a function inside
            state.update(constant.co_code)
        else:
            _feed(state, constant)
    _feed(state, [code.co_names, function.__defaults__, function.__kwdefaults__])
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    _feed(state, [cell for cell in cells if cell is not function])


def _feed_file(state: Any, path: Path) -> None:
    if not path.is_file():
        state.update(str(path).encode())
        return
    with path.open("rb") as file:
        while block := file.read(2**20):
            state.update(block)
