"""Movies written as they are made: the same bits, and a stop that loses one frame at most."""

import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from helpers.io import load_h5, load_tif, open_stack, save_h5, save_tif
from helpers.xray import CoarseCamera, baselines
from helpers.xray.data import Selection
from helpers.xray.data.samples import Sample
from helpers.xray.reconstruct import reconstruct
from helpers.xray.reconstruct._writer import OnDisk
from helpers.xray.reconstruct.movie import MovieSamples, share
from helpers.xray.simulate import Experiment, simulate

SHORT = Experiment(shape=(32, 32), n_frames=11)


@pytest.fixture(scope="module")
def movie():
    return simulate(SHORT, 2021)


class Counted:
    """A method that counts its calls; what it counts is no part of what it is."""

    __slots__ = ()
    calls = 0

    def __call__(self, lr, hr, tau):
        type(self).calls += 1
        return baselines.linear(lr, hr, tau)


def calls_of(movie, **options):
    Counted.calls = 0
    result = reconstruct(Counted(), movie, **options)
    return Counted.calls, result


@pytest.mark.parametrize("ending", ["zarr", "h5", "tif"])
def test_a_movie_on_disk_has_the_bits_of_one_in_memory(movie, tmp_path, ending):
    out = tmp_path / f"movie.{ending}"
    std = ending != "tif"
    here = reconstruct(baselines.linear, movie, ensemble_std=std)
    there = reconstruct(baselines.linear, movie, ensemble_std=std, out=out)
    assert isinstance(here.frames, np.ndarray) and not isinstance(there.frames, np.ndarray)
    np.testing.assert_array_equal(np.asarray(there.frames), here.frames)
    np.testing.assert_array_equal(there.frames[3], here.frames[3])
    for name, column in here.table.items():
        np.testing.assert_array_equal(there.table[name], column)
    if std:
        np.testing.assert_array_equal(np.asarray(there.ensemble_std), here.ensemble_std)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_both_ways_to_a_file_write_the_same(movie, tmp_path):
    reconstruct(baselines.linear, movie, ensemble_std=True).save(tmp_path / "saved.h5")
    reconstruct(baselines.linear, movie).save(tmp_path / "saved.tif")
    reconstruct(baselines.linear, movie, ensemble_std=True, out=tmp_path / "made.h5")
    reconstruct(baselines.linear, movie, ensemble_std=False, out=tmp_path / "made.tif")
    (saved, notes), (made, also) = (load_h5(tmp_path / f"{n}.h5") for n in ("saved", "made"))
    del made["frame_keys"]
    np.testing.assert_equal(made, saved)
    assert {k: v for k, v in also.items() if k != "created"} == {
        k: v for k, v in notes.items() if k != "created"
    }
    saved, made = (load_tif(tmp_path / f"{n}.tif") for n in ("saved", "made"))
    assert made.calibration == saved.calibration and made.pixel_size == 2.0
    np.testing.assert_array_equal(made.image, saved.image)


@pytest.mark.parametrize("ending", ["zarr", "h5", "tif"])
def test_a_complete_movie_is_not_made_again(movie, tmp_path, ending):
    out = tmp_path / f"movie.{ending}"
    n_calls, first = calls_of(movie, out=out)
    assert n_calls == first.n_new == 10
    n_calls, again = calls_of(movie, out=out)
    assert n_calls == again.n_new == 0 and np.isnan(again.rate)
    np.testing.assert_array_equal(
        np.asarray(again.frames), reconstruct(baselines.linear, movie).frames
    )
    assert calls_of(movie, out=out, resume=False)[0] == 10


def test_frames_of_a_tif_that_changed_are_made_again(movie, tmp_path):
    out = tmp_path / "movie.tif"
    camera = {"camera": CoarseCamera(2.2, photons=3000.0)}
    calls_of(movie, out=out, **camera)
    lr = movie.lr.copy()
    lr[7] += 0.001  # is an input of three frames
    n_calls, again = calls_of(replace(movie, lr=lr), out=out, **camera)
    assert n_calls == 3
    whole = reconstruct(baselines.linear, replace(movie, lr=lr), **camera)
    np.testing.assert_array_equal(np.asarray(again.frames), whole.frames)
    save_tif(out, whole.frames, axes="TYX")  # by another program: no keys
    assert calls_of(replace(movie, lr=lr), out=out, **camera)[0] == 10
    longer, one = simulate(replace(SHORT, n_frames=21), 0), tmp_path / "one.tif"
    assert [calls_of(longer, mode="double", out=one)[0] for _ in range(2)] == [1, 0]


def test_processes_that_share_a_movie_give_the_bits_of_one(movie, tmp_path):
    """The frames of a .zarr made in four calls of any order, then put together."""
    out, options = tmp_path / "movie.zarr", {"tile": None, "overlap": 0, "ensemble_std": True}
    samples = MovieSamples(movie, "continuous")
    for numbers, new in ((range(1), 1), (range(7, 10), 3), (range(1, 5), 4), (range(3, 6), 1)):
        assert share(baselines.linear, samples, numbers, out, device="cpu", **options) == new
    found = reconstruct(baselines.linear, movie, out=out, device="cpu", **options)
    assert found.n_new == 1  # frame 6
    whole = reconstruct(baselines.linear, movie, device="cpu", **options)
    np.testing.assert_array_equal(np.asarray(found.frames), whole.frames)
    np.testing.assert_array_equal(np.asarray(found.ensemble_std), whole.ensemble_std)
    np.testing.assert_array_equal(found.table["psnr"], whole.table["psnr"])


def test_frames_of_other_inputs_or_settings_are_made_again(movie, tmp_path):
    out = tmp_path / "movie.zarr"
    calls_of(movie, out=out)
    hr = movie.hr.copy()
    hr[1] += 0.01  # changes every frame
    assert calls_of(replace(movie, hr=hr), out=out)[0] == 10
    lr = movie.lr.copy()
    lr[7] += 0.001  # is an input of three frames
    changed = replace(movie, hr=hr, lr=lr)
    camera = {"camera": CoarseCamera(2.2, photons=3000.0)}
    calls_of(replace(movie, hr=hr), out=out, **camera)
    assert calls_of(changed, out=out, **camera)[0] == 3
    assert calls_of(changed, out=out, ensemble_std=True, **camera)[0] == 40
    n_calls, result = calls_of(changed, out=out, **camera)
    assert n_calls == 10 and result.ensemble_std is None
    assert not (out / "ensemble_std").exists()


KILLED = """
import os, signal, sys
from helpers.xray import baselines
from helpers.xray.reconstruct import reconstruct
from helpers.xray.simulate import Experiment, simulate

movie = simulate(Experiment(shape=(32, 32), n_frames=11), 2021)

def stop(n, frame):
    if n == 4:
        os.kill(os.getpid(), signal.SIGKILL)

reconstruct(baselines.linear, movie, out=sys.argv[1], callback=stop)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
@pytest.mark.parametrize("ending", ["zarr", "h5", "tif"])
def test_a_kill_loses_one_frame_at_most(movie, tmp_path, ending, monkeypatch):
    """Killed after the fifth frame; then half of a chunk is torn off as well."""
    out = tmp_path / f"movie.{ending}"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(out)])
    assert ended.returncode == -signal.SIGKILL
    folder = out if ending == "zarr" else out.with_name(out.name + ".unfinished")
    assert folder.is_dir() and (ending == "zarr" or not out.exists())
    chunk = folder / "frames" / "c" / "2" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    written = []
    put = OnDisk.put

    def noted(self, n, key, values):
        written.append(n)
        put(self, n, key, values)

    monkeypatch.setattr(OnDisk, "put", noted)
    result = reconstruct(baselines.linear, movie, out=out)
    assert written == [2, 5, 6, 7, 8, 9]
    here = reconstruct(baselines.linear, movie)
    np.testing.assert_array_equal(np.asarray(result.frames), here.frames)
    np.testing.assert_array_equal(result.table["ssim"], here.table["ssim"])
    assert out.exists() and (ending == "zarr" or not folder.exists())


class Long:
    """Samples without an end, made when they are asked for."""

    def __init__(self, n):
        self.selections = [Selection((k, k + 1, k + 2), (0, 1), None, 0.5) for k in range(n)]

    def __len__(self):
        return len(self.selections)

    def __getitem__(self, n):
        lr = np.full((3, 1, 16, 16), 0.5 + 0.001 * n, np.float32)
        return Sample(lr, np.full((2, 1, 64, 64), 0.5, np.float32), np.float32(0.5), None)


def test_the_memory_does_not_grow_with_the_movie(tmp_path):
    """In memory 150 more frames are kept, on disk none."""

    def peak(n, out):
        tracemalloc.start()
        reconstruct(baselines.linear, Long(n), out=out)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    more = 150 * 64 * 64 * 4  # bytes
    peak(3, tmp_path / "first.zarr")  # imports
    for ending in ("zarr", "h5", "tif"):
        few, many = (peak(n, tmp_path / f"{n}.{ending}") for n in (10, 160))
        assert round((many - few) / more) == 0
    assert round((peak(160, None) - peak(10, None)) / more) == 1


def test_what_cannot_be_written_is_said_before_any_work(movie, tmp_path):
    def never(lr, hr, tau):
        raise AssertionError("was called")

    def said(kind, match, **options):
        with pytest.raises(kind, match=match):
            reconstruct(never, movie, **options)

    said(ValueError, r"out ends in '.mp4': use .zarr, .h5 or .tif", out=tmp_path / "a.mp4")
    said(ValueError, "use .h5 or .zarr with", out=tmp_path / "a.tif", ensemble_std=True)
    said(FileNotFoundError, "not a folder: make it first", out=tmp_path / "no" / "a.h5")
    other = tmp_path / "other.zarr"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    said(FileExistsError, "holds something else", out=other)
    said(FileExistsError, "holds something else", out=other, resume=False)
    assert (other / "notes.txt").read_text() == "mine"


def test_a_stack_goes_through_the_writers_image_by_image(tmp_path):
    image = np.random.default_rng(0).random((5, 6, 7), np.float32)
    save_h5(tmp_path / "a.h5", {"movie": image})
    stack = open_stack(tmp_path / "a.h5")
    save_h5(tmp_path / "b.h5", {"in": {"movie": stack}})
    np.testing.assert_array_equal(load_h5(tmp_path / "b.h5")[0]["in"]["movie"], image)
    for axes in ("TYX", "ZYX", "CYX"):
        save_tif(tmp_path / "b.tif", stack, axes=axes, pixel_size=2.0, unit="µm")
        save_tif(tmp_path / "c.tif", image, axes=axes, pixel_size=2.0, unit="µm")
        assert (tmp_path / "b.tif").read_bytes() == (tmp_path / "c.tif").read_bytes()
