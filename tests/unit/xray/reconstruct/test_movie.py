"""Movies of sharp frames: which inputs, which scores, what is written; never the target inside."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import metrics
from helpers.io import Stack, load_h5, load_tif, save_h5
from helpers.xray import baselines, load
from helpers.xray.cameras import BOOK_CAMERA, Transform
from helpers.xray.data import Selection
from helpers.xray.flow import FlowNet
from helpers.xray.reconstruct import reconstruct
from helpers.xray.simulate import Experiment, simulate

LONG = Experiment(shape=(32, 32), n_frames=41)


@pytest.fixture(scope="module")
def movie():
    return simulate(LONG, 2021)


class Spy:
    """A method that remembers what it was given."""

    def __init__(self):
        self.given = []

    def __call__(self, lr, hr, tau):
        self.given.append((lr.clone(), hr.clone(), float(tau[0])))
        return baselines.linear(lr, hr, tau)


def test_continuous_gives_a_frame_for_each_moment_between_key_frames(movie):
    spy = Spy()
    result = reconstruct(spy, movie, camera=BOOK_CAMERA)  # one that is found has its own gain
    assert result.times.tolist() == list(range(40))
    assert result.frames.shape == (40, 32, 32) and result.frames.dtype == np.float32
    np.testing.assert_allclose(result.tau, np.arange(40) % 10 / 10)
    for t, (lr, hr, tau) in enumerate(spy.given):
        neighbours = [max(t - 1, 0), t, t + 1]
        np.testing.assert_array_equal(lr[0, :, 0].numpy(), movie.lr[neighbours])
        np.testing.assert_array_equal(hr[0, :, 0].numpy(), movie.hr[[t // 10, t // 10 + 1]])
        assert tau == pytest.approx(t % 10 / 10)
        np.testing.assert_allclose(
            result.frames[t], baselines.linear(lr, hr, torch.tensor([tau]))[0, 0], atol=1e-6
        )


@pytest.mark.filterwarnings("ignore:hot pixels")
def test_a_movie_in_a_file_is_read_a_few_frames_at_a_time(tmp_path, monkeypatch):
    """As many for a long one as for a short one; and what is made of it is the same."""
    short = simulate(Experiment(shape=(64, 64), n_frames=21), 2022)
    read, original = [], Stack.__getitem__

    def spy(self, index):
        block = original(self, index)
        read.append(block.size / np.prod(self.shape[1:]))
        return block

    monkeypatch.setattr(Stack, "__getitem__", spy)
    most = {}
    for n in (16, 24):
        lr = np.concatenate([short.lr[:20]] * n)
        lr[:, 5, 6] = 1.3
        lr[7, 9, 9] += 0.6
        tree = {"lr": lr, "hr": np.concatenate([short.hr[:2]] * n)}
        tree |= {"key_times": np.arange(0.0, 20 * n, 10), "truth": None}
        save_h5(tmp_path / "movie.h5", tree)
        lazy, _ = load_h5(tmp_path / "movie.h5", lazy=True)
        assert isinstance(lazy["lr"], Stack) and isinstance(lazy["hr"], Stack)
        for mode in ("continuous", "double"):
            read.clear()
            fuse = partial(reconstruct, baselines.detail_injection, mode=mode, device="cpu")
            found = fuse(SimpleNamespace(**lazy))
            most[n, mode] = max(read)
            if n == 16:
                expected = fuse(SimpleNamespace(**tree))
                np.testing.assert_array_equal(found.frames, expected.frames)
                assert found.settings == expected.settings
    assert most[24, "continuous"] <= most[16, "continuous"] < 80
    assert most[24, "double"] <= most[16, "double"] < 80


def test_only_frames_that_were_not_among_the_inputs_are_scored(movie):
    result = reconstruct(baselines.linear, movie)
    assert result.times[result.scored].tolist() == [t for t in range(40) if t % 10]
    t = 17
    row = list(result.scored).index(t)
    expected = metrics.psnr(result.frames[t], movie.truth[t], data_range=1)
    assert result.table["psnr"][row] == pytest.approx(expected, abs=1e-3)
    assert result.table["aad"][row] == pytest.approx(
        np.abs(result.frames[t] - movie.truth[t]).mean(), abs=1e-6
    )
    assert result.table["time"][row] == t and result.table["tau"][row] == pytest.approx(0.7)
    assert set(result.table) == {"time", "tau", "psnr", "ssim", "aad", "moving", "moving_share"}


def test_without_a_truth_nothing_is_scored(movie):
    blind = reconstruct(baselines.linear, replace(movie, truth=None))
    assert blind.score is None and len(blind.scored) == 0 and "psnr" not in blind.table
    np.testing.assert_array_equal(blind.frames, reconstruct(baselines.linear, movie).frames)


def test_double_holds_every_inner_key_frame_out(movie):
    result = reconstruct(baselines.linear, movie, mode="double")
    assert [s.target for s in result.selections] == [1, 2, 3]
    assert [s.hr for s in result.selections] == [(0, 2), (1, 3), (2, 4)]
    assert result.times.tolist() == [10, 20, 30] and result.tau.tolist() == [0.5] * 3
    expected = metrics.psnr(result.frames[0], movie.hr[1], data_range=1)
    assert result.table["psnr"][0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("mode", ["continuous", "double"])
def test_the_target_changes_nothing(movie, mode):
    """In both modes, at both ends: ruin what a frame is scored against, and get the same frame."""
    clean = reconstruct(baselines.detail_injection, movie, mode=mode)
    for n in (clean.scored[0], clean.scored[len(clean.scored) // 2], clean.scored[-1]):
        truth, hr = movie.truth.copy(), movie.hr.copy()
        if mode == "double":
            hr[clean.selections[n].target] = 7.0
        truth[round(clean.times[n])] = 7.0
        ruined = reconstruct(
            baselines.detail_injection, replace(movie, truth=truth, hr=hr), mode=mode
        )
        np.testing.assert_array_equal(ruined.frames[n], clean.frames[n])
        row = list(clean.scored).index(n)
        assert ruined.table["psnr"][row] < 0 < clean.table["psnr"][row]


def test_key_frames_between_fast_frames_and_lost_ones(movie):
    shifted = replace(movie, key_times=movie.key_times + 0.3)
    result = reconstruct(baselines.linear, shifted)
    assert result.times[0] == 1 and result.times[-1] == 40
    assert 10 not in result.times[result.scored] and 11 in result.times[result.scored]
    assert result.tau[10 - 1] == pytest.approx(0.97)
    lost = np.array([0, 10, np.nan, 30, 40])
    gap = reconstruct(baselines.linear, replace(movie, key_times=lost))
    assert gap.selections[20].hr == (1, 3) and gap.tau[20] == 0.5
    with pytest.raises(ValueError, match="no frame can be made: continuous needs two"):
        reconstruct(baselines.linear, replace(movie, key_times=lost), mode="double")


def test_samples_of_real_experiments_are_reconstructed_too(movie):
    class Samples:
        """As ActualPairs gives them."""

        selections = [
            Selection((9, 10, 11), (0, 2), 1, 0.5),
            Selection((19, 20, 21), (1, 3), 2, 0.5),
        ]

        def __len__(self):
            return 2

        def __getitem__(self, i):
            chosen = self.selections[i]
            parts = movie.lr[list(chosen.lr)][:, None], movie.hr[list(chosen.hr)][:, None]
            return SimpleSample(*parts, np.float32(0.5), movie.hr[chosen.target][None])

    from helpers.xray.data.samples import Sample as SimpleSample

    result = reconstruct(baselines.linear, Samples(), mode="double")
    same = reconstruct(baselines.linear, movie, mode="double")
    np.testing.assert_array_equal(result.frames, same.frames[:2])
    np.testing.assert_array_equal(result.table["psnr"], same.table["psnr"][:2])
    with pytest.raises(ValueError, match="made for the double mode, not for continuous"):
        reconstruct(baselines.linear, Samples())


def test_four_ways_agree_for_a_method_that_does_not_care(movie):
    short = replace(movie, truth=None)
    once, four = (reconstruct(baselines.linear, short, ensemble_std=s) for s in (False, True))
    assert once.ensemble_std is None
    np.testing.assert_allclose(four.frames, once.frames, atol=1e-6)
    assert four.ensemble_std.max() < 1e-6

    def partial(lr, hr, tau):
        """The left half from one key frame: mirrored and reversed it says something else."""
        out = hr[:, 0].clone()
        out[..., 16:] = lr.mean()
        return out

    assert reconstruct(partial, short, ensemble_std=True).ensemble_std.max() > 0.05


def test_bfloat16_costs_next_to_nothing_and_is_no_resume_of_float32(movie, tmp_path):
    net, out = load("flowfuse", device="cpu"), tmp_path / "movie.zarr"
    exact = reconstruct(net, movie, tile=None, device="cpu", out=out)
    before = np.asarray(exact.frames[:])  # the file gets those of the second call
    short = reconstruct(net, movie, tile=None, device="cpu", out=out, precision="bfloat16")
    after = np.asarray(short.frames[:])
    assert short.n_new == exact.n_new == len(before)
    assert after.dtype == np.float32 and 0 < np.abs(after - before).max() < 0.1
    assert abs(short.score.mean("psnr") - exact.score.mean("psnr")) < 0.05
    with pytest.raises(ValueError, match="precision is 'half'"):
        reconstruct(net, movie, precision="half")


def test_a_network_goes_back_to_training_and_its_noise_is_off(movie):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, lr, hr, tau):
            return self.drop(hr[:, 0])

    net = Net()
    result = reconstruct(net, movie, device="cpu")
    assert net.training
    np.testing.assert_array_equal(result.frames[3], movie.hr[0])
    assert result.settings["network"] == "Net"


def test_what_is_written_is_read_back(movie, tmp_path):
    result = reconstruct(baselines.linear, movie, ensemble_std=True)
    result.save(tmp_path / "movie.tif")
    tif = load_tif(tmp_path / "movie.tif")
    np.testing.assert_array_equal(tif.image, result.frames)
    assert tif[1:] == (2.0, "µm")
    result.save(tmp_path / "movie.h5")
    tree, notes = load_h5(tmp_path / "movie.h5")
    np.testing.assert_array_equal(tree["frames"], result.frames)
    np.testing.assert_array_equal(tree["table"]["psnr"], result.table["psnr"])
    assert tree["inputs"]["keys"][25].tolist() == [2, 3]
    assert notes["mode"] == "continuous" and notes["pixel_size_um"] == 2.0
    with pytest.raises(ValueError, match=r"'.npz': use .tif for images, .h5 for all"):
        result.save(tmp_path / "movie.npz")


def test_callback_sees_every_frame(movie):
    seen = {}
    result = reconstruct(baselines.linear, movie, callback=lambda n, x: seen.update({n: x}))
    np.testing.assert_array_equal(np.stack(list(seen.values())), result.frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": Transform(theta=0.01)}, "register the frames first"),
        ({"time_offset": 0.4}, "the clocks differ by 0.4 frames"),
        ({"key_times": np.arange(3.0)}, "5 key frames have 3 times"),
        ({"hr": np.ones((5, 30, 32), "f4")}, "padded if need be"),
        ({"truth": np.ones((3, 32, 32), "f4")}, "expected \\(41, 32, 32\\)"),
        ({"lr": np.full((41, 8, 8), np.nan, "f4")}, "inputs of frame 0 hold NaN"),
        ({"key_times": np.full(5, np.nan)}, "no frame can be made"),
    ],
)
def test_movies_that_cannot_be_reconstructed(movie, change, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(baselines.linear, replace(movie, **change))


def test_other_refusals(movie):
    with pytest.raises(ValueError, match="mode is 'triple'"):
        reconstruct(baselines.linear, movie, mode="triple")
    with pytest.raises(ValueError, match="batch is 0"):
        reconstruct(baselines.linear, movie, batch=0)
    with pytest.raises(ValueError, match="frame 0 holds NaN or infinity: was the network"):
        reconstruct(lambda lr, hr, tau: hr[:, 0] * np.nan, movie)
    bare = SimpleNamespace(lr=movie.lr[:2], hr=movie.hr[:2], key_times=[0, 2], truth=None)
    with pytest.raises(ValueError, match="at least three"):
        reconstruct(baselines.linear, bare)


LARGE = """
import resource, numpy as np
from types import SimpleNamespace
from helpers import xray
from helpers.xray.reconstruct import reconstruct
rng = np.random.default_rng(0)
lr, hr = rng.random((3, 256, 256), "f4"), rng.random((2, 1024, 1024), "f4")
movie = SimpleNamespace(lr=lr, hr=hr, key_times=[0.5, 1.5], truth=None)
result = reconstruct(xray.load("flowfuse", device="cpu"), movie, device="cpu")
assert result.frames.shape == (1, 1024, 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_a_field_of_a_thousand_pixels_fits_into_four_gigabytes():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 4


def test_grey_levels_and_networks_that_align_are_refused():
    movie = simulate(Experiment(shape=(64, 64), n_frames=11), seed=5)
    counts = replace(movie, lr=3000 * movie.lr, hr=3000 * movie.hr)
    with pytest.raises(ValueError, match="give transmission, 1 in the open"):
        reconstruct(baselines.linear, counts)
    integers = replace(movie, lr=(3000 * movie.lr).astype(np.uint16), truth=None)
    with pytest.raises(ValueError, match="give transmission"):
        reconstruct(baselines.linear, integers)
    with pytest.raises(ValueError, match="aligns two cameras and fuses nothing"):
        reconstruct(FlowNet.preset("small"), movie)


def test_the_old_name_of_the_ensemble_works_with_a_warning():
    movie = simulate(Experiment(shape=(64, 64), n_frames=11), seed=5)
    with pytest.warns(DeprecationWarning, match="spread is now ensemble_std"):
        result = reconstruct(baselines.linear, movie, spread=True)
    with pytest.warns(DeprecationWarning, match="ensemble_std"):
        assert result.spread is result.ensemble_std
