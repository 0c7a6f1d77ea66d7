"""The peer of the benchmark: a recurrent video network, checked piece by piece."""

import numpy as np
import torch
import torch.nn.functional as F

from helpers.xray.data import MoviePairs, stack
from helpers.xray.flowfuse import FlowFuse
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.train import train
from tests.benchmarks.video_network import Branch, Matching, VideoConfig, VideoNetwork
from tests.benchmarks.xray_peers import Budget, Clips
from tests.unit.xray.networks import apart, disturb

TINY = VideoConfig(8, 8, 2)


def clip(n_times=5, h=8, w=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    lr = torch.rand(2, n_times, 1, h, w, generator=draw)
    hr = torch.rand(2, 2, 1, 4 * h, 4 * w, generator=draw)
    return lr, hr


def test_before_training_it_gives_what_an_untrained_flowfuse_gives():
    lr, hr = clip()
    tau = torch.tensor([[0.25, 0.75], [0.5, 0.25]])
    with torch.no_grad():
        found = VideoNetwork(TINY).eval()(lr, hr, tau)
    fuse = FlowFuse.preset("small").eval()
    for j in range(2):
        three = torch.stack([lr[b, round(4 * float(tau[b, j])) + torch.arange(-1, 2)]
                             for b in range(2)])  # fmt: skip
        with torch.no_grad():
            expected = fuse(three, hr, tau[:, j])[:, 0]
        assert apart(found[:, j], expected) < -5


def test_every_frame_of_the_clip_reaches_every_image():
    lr, hr = clip()
    net = disturb(VideoNetwork(TINY)).train()
    lr.requires_grad_(True)
    net(lr, hr, torch.tensor([0.5, 0.5])).sum().backward()
    assert lr.grad.abs().amax((2, 3, 4)).min().log10() > -12


def test_both_directions_of_time_agree_after_training():
    lr, hr = clip()
    net = disturb(VideoNetwork(TINY)).eval()
    tau = torch.tensor([0.25, 0.5])
    with torch.no_grad():
        turned = net(lr.flip(1), hr.flip(1), 1 - tau)
        assert apart(net(lr, hr, tau), turned) < -4


def test_a_branch_carries_features_along_the_flows():
    """Two steps of one pixel, the second-order flow their sum, against shifts written out."""
    branch = Branch(4, 2, 1).eval()
    with torch.no_grad():
        # before training the masks are one half; the first half of the weights sees the last time
        branch.align.weight.zero_()
        branch.align.bias.zero_()
        for c in range(4):
            branch.align.weight[c, c, 1, 1] = 2.0
            branch.align.weight[c, 4 + c, 1, 1] = 20.0
    draw = torch.Generator().manual_seed(0)
    last, before = torch.rand(2, 1, 4, 9, 10, generator=draw)
    one = torch.zeros(1, 2, 9, 10)
    one[:, 0] = 1.0  # to the right, x before y
    two = torch.zeros(1, 2, 9, 10)
    two[:, 1] = -2.0
    with torch.no_grad():
        found = branch.aligned(torch.zeros(1, 4, 9, 10), last, before, one, two)
    expected = F.pad(last, (0, 1))[..., 1:] + 10 * F.pad(before, (0, 0, 2, 0))[..., :-2, :]
    assert apart(found, expected) < -4


def test_the_matching_finds_a_shift_before_any_training():
    draw = torch.Generator().manual_seed(0)
    scene = F.avg_pool2d(torch.rand(1, 1, 34, 34, generator=draw), 3)[0]
    scene = F.interpolate(scene[None], scale_factor=3, mode="bilinear")[0]
    frames = torch.stack([scene[:, :30, :30], scene[:, :30, 1:31]])[None]
    match = Matching()
    with torch.no_grad():
        match.heat.fill_(3.0)
        (back,), (ahead,) = match(frames)
    middle = np.s_[0, :, 6:-6, 6:-6]
    assert (back[middle][0] > 0).float().mean() > 0.8  # what came was one pixel to the right
    assert (ahead[middle][0] < 0).float().mean() > 0.8


def test_clips_hold_the_targets_of_the_pairs_in_their_order():
    movies = [simulate(Experiment(shape=(32, 32), n_frames=9, key_every=4), s) for s in (1, 2)]
    pairs = MoviePairs(movies)
    clips = Clips(pairs)
    assert len(clips) == 4
    assert clips[1].lr.shape == (5, 1, 8, 8)
    targets = np.concatenate([c.target for c in clips])
    np.testing.assert_array_equal(targets, np.concatenate([p.target for p in pairs]))
    np.testing.assert_array_equal(np.concatenate([c.tau for c in clips]), [p.tau for p in pairs])
    images = VideoNetwork(TINY)(*stack([clips[0]])[:3])
    assert images.shape == (1, 3, 32, 32)


def test_it_trains_and_the_loss_falls():
    movie = simulate(Experiment(shape=(32, 32), n_frames=5, key_every=4), 1)
    seconds = {"seconds": 1e9, "start": 0.0}  # steps end it, no clock
    run = train(
        VideoNetwork(TINY, generator=torch.Generator().manual_seed(0)),
        Clips(MoviePairs([movie])),
        schedule=Budget(80, 1e-2, warmup=5, batch=1, patch=None, **seconds),
        device="cpu",
    )
    assert np.log(run.history[-5:].mean() / run.history[:5].mean()) < 0
