"""A volume solved by tiles against the same volume solved at once."""

import numpy as np
import pytest

from helpers.renderer.deconvolve import Blur, by_tiles, map_tv, richardson_lucy


def scene():
    rng = np.random.default_rng(2002)
    axes = [np.arange(-3, 4)] * 3
    z, y, x = np.meshgrid(*axes, indexing="ij")
    kernel = np.exp(-(z**2 + y**2 + x**2) / 3.0)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    volume = 500 * (rng.random((20, 44, 40)) > 0.98).astype(np.float32)
    counts = rng.poisson(Blur(kernel, volume.shape)(volume).clip(min=0) + 2.0)
    return kernel, counts.astype(np.float32)


def solve(op, y):
    return map_tv(op, y, 0.01, 2.0, n_iter=60, tol=0, device="cpu")


def test_tiles_give_what_the_whole_gives_without_seams(tmp_path):
    kernel, counts = scene()
    np.save(tmp_path / "counts.npy", counts)
    on_disk = np.load(tmp_path / "counts.npy", mmap_mode="r")
    done = by_tiles(on_disk, kernel, solve, tmp_path / "out.npy", tile=(20, 20, 24), reach=6)
    tiled = np.load(done.path)
    whole = solve(Blur(kernel, counts.shape, margin=6), counts).volume
    assert done.n_tiles == 6 and done.shape == tiled.shape == counts.shape
    assert np.linalg.norm(tiled - whole) < 0.03 * np.linalg.norm(whole)
    assert done.seam < 0.05
    assert np.prod(done.largest) < np.prod([n + 12 for n in counts.shape])
    careless = by_tiles(on_disk, kernel, solve, tmp_path / "b.npy", tile=(20, 20, 24), reach=1)
    assert careless.seam > 2 * done.seam


def test_the_file_appears_only_when_all_is_done(tmp_path):
    kernel, counts = scene()
    target = tmp_path / "out.npy"
    target.write_bytes(b"older")
    calls = []

    def breaks(op, y):
        calls.append(y.shape)
        if len(calls) == 2:
            raise FloatingPointError("stop")
        return richardson_lucy(op, y, 1, 2.0, device="cpu")

    with pytest.raises(FloatingPointError):
        by_tiles(counts, kernel, breaks, target, tile=(20, 22, 40), reach=3)
    assert target.read_bytes() == b"older" and list(tmp_path.iterdir()) == [target]


def test_one_tile_and_bad_input(tmp_path):
    kernel, counts = scene()
    target = tmp_path / "out.npy"
    done = by_tiles(counts, kernel, lambda op, y: y, target, tile=64)
    assert done.n_tiles == 1 and np.isnan(done.seam)
    np.testing.assert_array_equal(np.load(target), counts)
    with pytest.raises(ValueError, match=r"ends in \.npy"):
        by_tiles(counts, kernel, solve, tmp_path / "out.tif")
    with pytest.raises(ValueError, match="tile is 0"):
        by_tiles(counts, kernel, solve, target, tile=0)
    with pytest.raises(ValueError, match="reach is"):
        by_tiles(counts, kernel, solve, target, reach=(1, -1, 0))
    with pytest.raises(ValueError, match="solve gave"):
        by_tiles(counts, kernel, lambda op, y: y[1:], target)
    late = counts.copy()
    late[-1, -1, -1] = np.nan
    with pytest.raises(ValueError, match="between"):  # before any tile is solved
        by_tiles(late, kernel, lambda op, y: 1 / 0, target, tile=16)
