"""Work in chunks: the same bits after a kill, in other processes, and with nothing done twice."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from helpers.io import Stack
from helpers.scale import digest, map_chunks

MOVIE = np.random.default_rng(0).normal(size=(23, 6, 5))


def smooth(block, start, *, power=2, log=None, end_at=None):
    """Images of a block; notes its call, and may end its process once."""
    if log is not None:
        with Path(log).open("a") as file:
            file.write(f"{start}\n")
    if end_at is not None and start == end_at[0] and not Path(end_at[1]).exists():
        Path(end_at[1]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return (block**power + start).astype("float32")


def molecules(block, start, **options):
    """A table with a row for each bright pixel."""
    smooth(block, start, **options)
    k, y, x = np.nonzero(block > 1)
    columns = [k + start, x.astype(float), y.astype(float), block[k, y, x]]
    return np.rec.fromarrays(columns, names="frame,x,y,photons")


def calls(log):
    return sorted(int(line) for line in Path(log).read_text().split()) if Path(log).exists() else []


def test_an_array_for_each_chunk_becomes_one_zarr_array(tmp_path):
    done = map_chunks(smooth, MOVIE, tmp_path / "out", chunk=5)
    assert (done.kind, done.n_chunks, done.n_new) == ("array", 5, 5)
    starts = np.repeat([0, 5, 10, 15, 20], 5)[:23, None, None]
    result = done.open()
    assert result.chunks == (5, 6, 5) and result.dtype == np.float32
    np.testing.assert_array_equal(result[:], (MOVIE**2 + starts).astype("float32"))
    with Stack(tmp_path / "out") as stack:
        np.testing.assert_array_equal(stack[21], result[21])


def test_several_arrays_and_tables(tmp_path):
    def both(block, start):
        return {"mean": block.mean((1, 2)), "zero": np.zeros(block.shape, "uint8")}

    result = map_chunks(both, MOVIE, tmp_path / "a", chunk=4).open()
    np.testing.assert_array_equal(result["mean"][:], MOVIE.mean((1, 2)))
    assert result["zero"].shape == MOVIE.shape and not result["zero"][:].any()
    assert map_chunks(both, MOVIE, tmp_path / "a", chunk=4).n_new == 0
    table = map_chunks(molecules, MOVIE, tmp_path / "b", chunk=4).open()
    np.testing.assert_array_equal(table, molecules(MOVIE, 0))
    assert table.dtype == molecules(MOVIE, 0).dtype


@pytest.mark.parametrize("dtype", [bool, "uint8", ">i2", "float16", ">f8", "complex64"])
def test_zarr_reads_the_chunks_that_are_written_here(tmp_path, dtype):
    """The last chunk is shorter; what it lacks is filled up, and never read."""
    values = (50 * MOVIE).astype(dtype)
    several = {"turned": values.transpose(0, 2, 1), "one": values[:, 0, 0]}
    done = map_chunks(lambda block, k: several["turned"][k : k + 4], MOVIE, tmp_path / "a", chunk=4)
    np.testing.assert_array_equal(done.open()[:], several["turned"])
    assert done.open().dtype == np.dtype(dtype).newbyteorder("=")
    done = map_chunks(
        lambda _, k: {name: v[k : k + 4] for name, v in several.items()},
        MOVIE,
        tmp_path / "b",
        chunk=4,
    )
    for name, array in done.open().items():
        np.testing.assert_array_equal(array[:], several[name])


def test_sources_that_are_not_in_memory(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (MOVIE > 0).astype("uint8"), photometric="minisblack")
    with Stack(tmp_path / "a.tif") as stack:
        done = map_chunks(lambda block, _: 3 * block, stack, tmp_path / "out", chunk=7)
    np.testing.assert_array_equal(done.open()[:], 3 * (MOVIE > 0))
    paths = [tmp_path / f"{k}.npy" for k in range(5)]
    for k, path in enumerate(paths):
        np.save(path, MOVIE[k])

    def means(block, start):
        return np.array([np.load(path).mean() for path in block])

    out = tmp_path / "means"
    assert map_chunks(means, paths, out, chunk=2).n_new == 3
    np.save(paths[3], MOVIE[4])  # the content counts, not the name
    done = map_chunks(means, paths, out, chunk=2)
    assert done.n_new == 1 and done.open()[3] == MOVIE[4].mean()


@pytest.mark.parametrize("function", [smooth, molecules])
def test_what_is_there_and_whole_is_not_done_again(tmp_path, function):
    log, out = tmp_path / "log", tmp_path / "out"
    work = partial(function, power=2)  # the log is no setting: bound in a global of the test
    logged = partial(function, log=str(log))
    first = map_chunks(logged, MOVIE, out, chunk=5).open()[:]
    assert calls(log) == [0, 5, 10, 15, 20]
    assert map_chunks(logged, MOVIE, out, chunk=5).n_new == 0 and len(calls(log)) == 5
    changed = MOVIE.copy()
    changed[12] += 1
    assert map_chunks(logged, changed, out, chunk=5).n_new == 1 and calls(log)[2:4] == [10, 10]
    assert map_chunks(logged, MOVIE, out, chunk=5).n_new == 1
    parts = [p for p in out.rglob("*") if p.suffix == ".parquet" or p.name == "0"]
    part = next(p for p in parts if p.is_file() and ".parts" not in p.parts)
    part.write_bytes(part.read_bytes()[:-3])
    assert map_chunks(logged, MOVIE, out, chunk=5).n_new == 1
    np.testing.assert_array_equal(map_chunks(logged, MOVIE, out, chunk=5).open()[:], first)
    assert map_chunks(work, MOVIE, out, chunk=5).n_new == 5, "another setting"
    assert map_chunks(work, MOVIE, out, chunk=5, resume=False).n_new == 5
    done = map_chunks(work, MOVIE, out, chunk=8)
    assert done.n_new == done.n_chunks == 3
    assert len(list((out / ".parts").glob("*/*.json"))) == 3, "nothing old is left"
    np.testing.assert_array_equal(
        done.open()["x"] if function is molecules else 0,
        done.open()["x"] if function is molecules else 0,
    )


SCRIPT = """
import sys
from functools import partial
from tests.unit.test_scale import MOVIE, molecules, smooth
from helpers.scale import map_chunks
name, out, log, start, flag = sys.argv[1:]
work = partial({"smooth": smooth, "molecules": molecules}[name], log=log, end_at=(int(start), flag))
print(map_chunks(work, MOVIE, out, chunk=4).n_new)
"""


@pytest.mark.parametrize(
    ("name", "start"),
    [("smooth", 0), ("smooth", 20), ("molecules", 8)],
)
def test_kill_9_loses_one_chunk_and_the_rest_is_bit_equal(tmp_path, name, start):
    function = {"smooth": smooth, "molecules": molecules}[name]
    whole = map_chunks(function, MOVIE, tmp_path / "whole", chunk=4).open()[:]
    log = tmp_path / "log"
    command = [sys.executable, "-c", SCRIPT, name, tmp_path / "out", log, str(start)]
    command.append(tmp_path / "flag")
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    killed = subprocess.run(command, cwd=root, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert calls(log) == list(range(0, start + 1, 4))
    log.unlink()
    again = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert calls(log) == list(range(start, 23, 4)), "one chunk was lost, no other is done again"
    options = {"log": log, "end_at": (start, tmp_path / "flag")}
    options = {"log": str(log), "end_at": (start, str(tmp_path / "flag"))}
    done = map_chunks(partial(function, **options), MOVIE, tmp_path / "out", chunk=4)
    assert done.n_new == 0
    assert done.open()[:].tobytes() == whole.tobytes()


@pytest.fixture(scope="module")
def cluster():
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as local, Client(local) as client:
        client.wait_for_workers(2)
        yield client


@pytest.mark.parametrize("function", [smooth, molecules])
def test_two_processes_give_the_same_bits_though_one_is_killed(tmp_path, cluster, function):
    whole = map_chunks(function, MOVIE, tmp_path / "whole", chunk=2).open()[:]
    work = partial(function, end_at=(8, str(tmp_path / "flag")))
    done = map_chunks(work, MOVIE, tmp_path / "out", chunk=2, client=cluster)
    assert (tmp_path / "flag").exists(), "a worker was killed"
    assert done.open()[:].tobytes() == whole.tobytes()
    assert map_chunks(work, MOVIE, tmp_path / "out", chunk=2, client=cluster).n_new == 0
    assert map_chunks(work, MOVIE, tmp_path / "out", chunk=2).n_new == 0, "here as well"


def test_workers_open_the_file_themselves(tmp_path, cluster):
    tifffile.imwrite(tmp_path / "a.tif", MOVIE.astype("float32"), compression="zlib")
    with Stack(tmp_path / "a.tif") as stack:
        done = map_chunks(smooth, stack, tmp_path / "out", chunk=6, client=cluster)
        whole = map_chunks(smooth, stack, tmp_path / "here", chunk=6)
    assert done.open()[:].tobytes() == whole.open()[:].tobytes()


def test_a_run_that_stopped_between_two_settings_is_not_taken_for_the_first(tmp_path):
    """Both write to the same place, and chunks of one size look alike."""
    first = map_chunks(smooth, MOVIE, tmp_path / "out", chunk=4).open()[:]

    def other(block, start):
        if start == 12:
            raise KeyboardInterrupt
        return -smooth(block, start)

    with pytest.raises(KeyboardInterrupt):
        map_chunks(other, MOVIE, tmp_path / "out", chunk=4)
    done = map_chunks(smooth, MOVIE, tmp_path / "out", chunk=4)
    assert done.n_new == 3
    np.testing.assert_array_equal(done.open()[:], first)


def test_chunks_that_fail_are_listed_and_the_others_kept(tmp_path):
    def picky(block, start):
        if start in (0, 10):
            raise ValueError("too dark")
        return block

    words = r"2 of 5 chunks failed, the others are in .*\n  from 0: ValueError: too dark\n  from 10"
    with pytest.raises(RuntimeError, match=words):
        map_chunks(picky, MOVIE, tmp_path / "out", chunk=5)
    assert len(list((tmp_path / "out" / ".parts").glob("*/*.json"))) == 3


def test_ctrl_c_stops_at_once_and_keeps_what_is_done(tmp_path):
    def stopped(block, start):
        if start == 10:
            raise KeyboardInterrupt
        return block

    with pytest.raises(KeyboardInterrupt):
        map_chunks(stopped, MOVIE, tmp_path / "out", chunk=5)
    assert len(list((tmp_path / "out" / ".parts").glob("*/*.json"))) == 2


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda block, start: block[1:], r"float64 \(4, 6, 5\) for a block of 5"),
        (lambda block, start: 3, r"an array of int64 \(\) for a block"),
        (lambda block, start: block[:, : 1 + start], r"chunk from 5 is float64 \(6, 5\) but"),
    ],
)
def test_results_that_do_not_fit_are_refused(tmp_path, function, words):
    with pytest.raises(RuntimeError, match=words):
        map_chunks(function, MOVIE, tmp_path / "out", chunk=5)


def test_calls_that_make_no_sense(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        map_chunks(smooth, MOVIE, tmp_path, chunk=5)
    with pytest.raises(ValueError, match="is a file"):
        map_chunks(smooth, MOVIE, tmp_path / "notes.txt", chunk=5)
    with pytest.raises(ValueError, match="chunk is 0"):
        map_chunks(smooth, MOVIE, tmp_path / "out", chunk=0)
    with pytest.raises(ValueError, match="source is empty"):
        map_chunks(smooth, MOVIE[:0], tmp_path / "out", chunk=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_hash_knows_content_code_and_settings(tmp_path):
    values = [1, 1.0, "1", [1], (1,), {"a": 1}, None, np.ones(1), np.ones(1, "float32"), b"1"]
    values += [np.ones((1, 1)), torch.ones(2), torch.nn.Linear(1, 1), smooth, molecules, range(3)]
    values += [partial(smooth, power=3), partial(smooth, power=4), Path("nowhere"), "nowhere"]
    values += [lambda x: x + 1, lambda x: x + 2, slice(3), slice(4), np.float32]
    hashes = [digest(value) for value in values]
    assert len(set(hashes)) == len(values)
    assert hashes == [digest(value) for value in values]
    with pytest.raises(TypeError, match="has no content to go by"):
        digest(object())
