"""The peer of the benchmark: a network that interpolates between key frames, piece by piece."""

import numpy as np
import torch
import torch.nn.functional as F

from helpers.xray.data import MoviePairs
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.train import train
from tests.benchmarks.interpolation_network import (
    InterFrameAttention,
    InterpolationConfig,
    InterpolationNetwork,
)
from tests.benchmarks.xray_peers import Budget
from tests.unit.xray.networks import apart, disturb, frames

TINY = InterpolationConfig((4, 8, 8, 8), heads=2, side=2, reach=2, estimate=8, detail=8)


def test_before_training_it_mixes_the_key_frames_by_their_times():
    lr, hr, _ = frames(h=7, w=10)
    tau = torch.tensor([0.25, 0.9])
    with torch.no_grad():
        found = InterpolationNetwork(TINY).eval()(lr, hr, tau)
    later = tau.view(-1, 1, 1, 1)
    assert apart(found, (1 - later) * hr[:, 0] + later * hr[:, 1]) < -5


def test_it_sees_both_key_frames_and_the_time_and_no_coarse_frame():
    lr, hr, tau = frames()
    net = disturb(InterpolationNetwork(TINY)).train()
    inputs = [x.requires_grad_(True) for x in (lr, hr, tau)]
    net(*inputs).sum().backward()
    assert lr.grad is None
    assert hr.grad.abs().amax((2, 3, 4)).min().log10() > -12
    assert tau.grad.abs().min().log10() > -12


def test_both_directions_of_time_agree_after_training():
    lr, hr, tau = frames()
    net = disturb(InterpolationNetwork(TINY)).eval()
    with torch.no_grad():
        assert apart(net(lr, hr, tau), net(lr.flip(1), hr.flip(1), 1 - tau)) < -4


def test_attention_is_the_sum_written_out():
    """Appearance and motion of one place of one head, over its window in the other frame."""
    draw = torch.Generator().manual_seed(0)
    attend = disturb(InterFrameAttention(4, 2, side=2, reach=1))
    features = torch.rand(2, 4, 6, 8, generator=draw)
    with torch.no_grad():
        weights, values = attend.attended(features)
        _, motion = attend(features)
        normed = attend.norm(features)
        query = attend.query(normed)[0, 2:, 3, 5]  # the second head at row 3, column 5
        key, value = attend.key_value(normed)[1].split(4)
        places = [(y, x) for y in range(1, 5) for x in range(3, 7)]  # the square begins at (2, 4)
        bias = attend.bias[1, 3]
        match = torch.stack([query @ key[2:, y, x] for y, x in places]) / 2**0.5 + bias
        share = match.softmax(0)
        delta = torch.tensor([(x - 5.0, y - 3.0) for y, x in places])
        found = torch.stack([value[2:, y, x] for y, x in places])
        square = 1 * 4 + 2  # four squares a row
        assert apart(weights[0, square, 1, 3] @ values[0, square, 1], share @ found) < -5
        assert apart(motion[0, 2:, 3, 5], share @ delta) < -5


def test_attention_does_not_leave_the_frame():
    attend = InterFrameAttention(4, 1, side=2, reach=2)
    features = torch.ones(2, 4, 4, 4)  # equal everywhere, so equal weights
    with torch.no_grad():
        _, motion = attend(features)
    # the window of the first square is the whole frame, seen from its first place
    assert apart(motion[0, :, 0, 0], torch.tensor([1.5, 1.5])) < -5


def test_the_attention_finds_a_shift():
    """Noise, moved by one place, and queries and keys that are the noise itself."""
    draw = torch.Generator().manual_seed(0)
    attend = InterFrameAttention(16, 1, side=4, reach=3)
    with torch.no_grad():
        for layer in (attend.query, attend.key_value):
            layer.bias.zero_()
            layer.weight.copy_(
                4 * torch.eye(16).repeat(len(layer.weight) // 16, 1)[..., None, None]
            )
        scene = torch.randn(16, 17, 16, generator=draw)
        _, motion = attend(torch.stack([scene[:, 1:], scene[:, :-1]]))
    middle = np.s_[2:-2, 2:-2]
    # what is at row r of the first frame is at r + 1 of the second
    assert motion[0, 1][middle].mean() > 0.5
    assert motion[1, 1][middle].mean() < -0.5
    assert motion[:, 0][:, 2:-2, 2:-2].abs().mean() < 0.5


def test_the_flows_of_a_level_are_in_pixels_of_all():
    """An estimate that says one place to the right at the coarsest level: eight pixels."""
    net = InterpolationNetwork(TINY).eval()
    with torch.no_grad():
        net.estimate[-1][-1].bias[0] = 1.0
    lr, hr, tau = frames(1, 16, 16)
    with torch.no_grad():
        found = net.one_way(hr[:, :, 0], tau)
    moved = F.pad(hr[:, 0], (0, 8, 0, 0), mode="replicate")[..., 8:]
    later = tau.view(-1, 1, 1, 1)
    # often to the last bit, so no power of ten
    assert (found - (1 - later) * moved - later * hr[:, 1]).abs().max() < 1e-4


def test_it_trains_and_the_loss_falls():
    movie = simulate(Experiment(shape=(32, 32), n_frames=5, key_every=4), 1)
    seconds = {"seconds": 1e9, "start": 0.0}  # steps end it, no clock
    run = train(
        InterpolationNetwork(TINY, generator=torch.Generator().manual_seed(0)),
        MoviePairs([movie]),
        schedule=Budget(120, 1e-2, warmup=5, batch=3, patch=None, **seconds),
        device="cpu",
    )
    assert np.log(run.history[-10:].mean() / run.history[:10].mean()) < 0
