"""The networks in data/checkpoints: how they are kept, and that what their cards say is true."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers import checkpoints, xray
from helpers.xray import CoarseCamera, baselines
from helpers.xray._shipped import NETWORKS, weights_file
from helpers.xray.cameras import coarsen
from helpers.xray.data import MoviePairs
from helpers.xray.edvr import EDVR
from helpers.xray.flowfuse import FlowFuse, FlowFuseConfig
from helpers.xray.reconstruct import reconstruct
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, simulate
from tests.margins.seeds import published

TEST_SEEDS = range(2000, 2012)
CARD = {"data": "none", "seed": 0, "steps": 0, "metric": {}}
TINY = FlowFuseConfig(8, 8, 1, 8, 1)


@pytest.fixture(scope="module")
def flowfuse():
    return xray.load("flowfuse", device="cpu")


@pytest.mark.parametrize("generator", ["standard", "other"])
def test_the_card_of_flowfuse_is_true(flowfuse, generator):
    with published():  # the movies of the card
        movies = [simulate(Experiment(generator=generator), seed) for seed in TEST_SEEDS]
    data = MoviePairs(movies, every=3)
    assert len(data) == 72
    said, score = flowfuse.card["metric"][generator], evaluate(flowfuse, data)
    for name, tolerance in (("psnr", 0.01), ("ssim", 2e-4), ("aad", 1e-4), ("moving", 0.01)):
        assert score.mean(name) == pytest.approx(said[name], abs=tolerance)
    for baseline in (baselines.bicubic, baselines.linear, baselines.detail_injection):
        gain = score.by_clip("psnr") - evaluate(baseline, data).by_clip("psnr")
        assert gain.mean() == pytest.approx(said[f"over_{baseline.__name__}"], abs=0.03)
        assert gain.min() == pytest.approx(said[f"over_{baseline.__name__}_worst"], abs=0.03)
        assert gain.min() > 0


def test_what_the_shipped_flowfuse_must_reach(flowfuse):
    standard = flowfuse.card["metric"]["standard"]
    assert standard["over_bicubic"] > 7.5
    assert standard["over_linear"] > 4.5
    assert standard["over_detail_injection"] > 3.5
    other = flowfuse.card["metric"]["other"]  # whose movies have less motion to undo
    assert other["over_bicubic"] > 7.5
    assert other["over_linear"] > 4
    assert other["over_detail_injection"] > 3.5
    for net, best in flowfuse.card["cameras"].values():  # of the others; with nine cameras
        assert net > best + 2


def test_a_camera_on_the_card_is_judged_once_more(flowfuse):
    said, found = flowfuse.card["cameras"]["sigma 0"], []
    camera = CoarseCamera(0.0, photons=3000.0)
    for seed in TEST_SEEDS[:4]:
        with published():  # the movies of the card
            movie = simulate(Experiment(), seed)
            light = np.random.default_rng(seed).poisson(camera(movie.truth).clip(0) * 3000) / 3000
        data = MoviePairs([replace(movie, lr=light.astype(np.float32))], every=3)
        found.append(
            [
                evaluate(f, data, camera=camera).mean("psnr")
                for f in (flowfuse, baselines.adaptive_blend)
            ]
        )
    np.testing.assert_allclose(np.mean(found, axis=0), said, atol=0.02)


def test_no_test_movie_was_trained_on(flowfuse):
    first, last = flowfuse.card["training_seeds"]
    assert last < 1000 <= TEST_SEEDS[0] and first <= last
    assert flowfuse.card["test_seeds"] == [TEST_SEEDS[0], TEST_SEEDS[-1]]


def test_time_may_run_backwards_where_nothing_moves(flowfuse):
    movie = simulate(Experiment(shape=(64, 64), n_frames=11), 1000)
    hr = torch.from_numpy(movie.truth[[5, 5]])[None, :, None]
    lr = coarsen(hr[:, [0, 0, 0]])
    for tau in (0.2, 0.5):
        with torch.no_grad():
            there = flowfuse(lr, hr, torch.tensor([tau]))
            back = flowfuse(lr.flip(1), hr.flip(1), torch.tensor([1 - tau]))
        assert (there - back).abs().max() < 1e-2
        assert float((there[0, 0] - hr[0, 0, 0]).abs().mean()) < 0.01


def test_the_spread_is_that_of_single_answers(flowfuse):
    """Averaged over both directions of time, a network would seem surer than it is."""
    movie = simulate(Experiment(shape=(32, 32), n_frames=11), 1000)
    single = FlowFuse(replace(flowfuse.config, both_ways=False))
    single.load_state_dict(flowfuse.state_dict())
    ours, theirs = (
        reconstruct(net, movie, ensemble_std=True, device="cpu").ensemble_std
        for net in (flowfuse, single)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.max() > 0.01


def test_shipped_files_are_small():
    for name in NETWORKS:
        path = weights_file(name)
        if path.exists():
            assert path.stat().st_size < 3e6


# Writing and reading


@pytest.mark.parametrize(
    "net", [FlowFuse(replace(TINY, align=False)), EDVR.preset("small")], ids=["flowfuse", "edvr"]
)
def test_what_was_saved_is_loaded(tmp_path, net):
    path = tmp_path / "net.safetensors"
    xray.save(net, path, CARD)
    again = xray.load(str(path), device="cpu")
    assert type(again) is type(net) and again.config == net.config and not again.training
    for name, value in net.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype
        torch.testing.assert_close(again.state_dict()[name], value.half().to(value.dtype))
    once, twice = (xray.load(path, device="cpu").state_dict() for _ in range(2))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert again.card["steps"] == 0 and "versions" in again.card


def test_an_unknown_network_is_named():
    with pytest.raises(FileNotFoundError, match="no network 'raft': use one of flowfuse, edvr"):
        xray.load("raft")
    with pytest.raises(ValueError, match="net is a Identity: give one of FlowFuse"):
        xray.save(nn.Identity(), "net.safetensors", CARD)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    checkpoints.save(path, {"net": {"weight": torch.ones(2)}}, CARD)
    with pytest.raises(ValueError, match="holds no network of helpers.xray"):
        xray.load(path)
    state = {"kind": "flowfuse", "config": {"width": 8}, "net": {"weight": torch.ones(2)}}
    checkpoints.save(path, state, CARD)
    with pytest.raises(ValueError, match="is for another model"):
        xray.load(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="truncated or not a safetensors file|corrupt"):
        xray.load(path)


def test_half_precision_costs_nothing_that_can_be_seen(tmp_path):
    net = FlowFuse(TINY, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    xray.save(net, tmp_path / "net.safetensors", CARD)
    g = torch.Generator().manual_seed(2)
    inputs = torch.rand(1, 3, 1, 8, 8, generator=g), torch.rand(1, 2, 1, 32, 32, generator=g)
    half = xray.load(tmp_path / "net.safetensors", device="cpu")
    tau = torch.tensor([0.3])
    with torch.no_grad():
        np.testing.assert_allclose(half(*inputs, tau), net(*inputs, tau), atol=3e-3)
