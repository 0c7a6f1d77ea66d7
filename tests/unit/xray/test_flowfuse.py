"""FlowFuse: where it starts, what it must not depend on, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates

from helpers.xray.cameras import bicubic, coarsen
from helpers.xray.flowfuse import DOUBT, FlowFuse, FlowFuseConfig, warp
from helpers.xray.train.losses import charbonnier

TINY = FlowFuseConfig(8, 8, 1, 8, 1)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def inputs(batch=2, h=8, w=12, seed=0):
    g = seeded(seed)
    lr = torch.rand(batch, 3, 1, h, w, generator=g)
    hr = torch.rand(batch, 2, 1, 4 * h, 4 * w, generator=g)
    return lr, hr, torch.rand(batch, generator=g)


def awake(config=TINY, seed=0):
    """A network whose last layers are no longer zero."""
    net = FlowFuse(config, generator=seeded(seed))
    with torch.no_grad():
        for layer in (net.maps, net.correct):
            layer.weight.normal_(0, 0.05, generator=seeded(1))
    return net.eval()


@pytest.mark.parametrize("name", FlowFuse.presets)
def test_before_training_it_is_half_of_detail_injection(name):
    lr, hr, tau = inputs()
    tau = 0.1 + 0.8 * tau  # the weight of a key frame has a least value
    net = FlowFuse.preset(name, generator=seeded())
    w = torch.stack([1 - tau, tau, torch.full_like(tau, np.exp(-DOUBT))], 1)
    w = (w / w.sum(1, keepdim=True))[..., None, None]
    m = (w * torch.cat([hr[:, :, 0], bicubic(lr[:, 1])], 1)).sum(1, keepdim=True)
    expected = m + 0.5 * bicubic(lr[:, 1] - coarsen(m))
    torch.testing.assert_close(net(lr, hr, tau), expected)


@pytest.mark.parametrize(("h", "w"), [(8, 8), (5, 8), (7, 9), (1, 3)])
def test_any_size_goes_in_and_comes_out(h, w):
    assert awake()(*inputs(1, h, w)).shape == (1, 1, 4 * h, 4 * w)


def test_padding_of_odd_sides_leaves_the_rest_alone():
    lr, hr, tau = inputs(1, 16, 33)
    net = awake()
    whole, part = net(lr, hr, tau), net(lr[..., :32], hr[..., :128], tau)
    torch.testing.assert_close(whole[..., :60], part[..., :60], atol=2e-4, rtol=0)


def test_each_sample_stands_alone():
    lr, hr, tau = inputs(3)
    net = awake()
    alone = torch.cat([net(lr[k, None], hr[k, None], tau[k, None]) for k in range(3)])
    torch.testing.assert_close(net(lr, hr, tau), alone)


def test_every_input_and_every_weight_matters():
    lr, hr, tau = (x.requires_grad_() for x in inputs())
    net = awake()
    net(lr, hr, tau).square().sum().backward()
    for part in (lr, hr, tau):
        assert (part.grad.flatten(1) if part.ndim > 1 else part.grad).abs().max() > 0
    for frame in range(3):
        assert lr.grad[:, frame].abs().max() > 0
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_without_alignment_nothing_is_moved():
    lr, hr, tau = inputs()
    net = awake(replace(TINY, align=False))
    still = awake(TINY)
    with torch.no_grad():  # the flows are the first half of the maps
        still.maps.weight[:16] = 0
        still.maps.bias[:16] = 0
    torch.testing.assert_close(net(lr, hr, tau), still(lr, hr, tau))
    assert not torch.allclose(net(lr, hr, tau), awake(TINY)(lr, hr, tau), atol=1e-4)


def test_both_directions_of_time_agree_when_both_are_looked_at():
    lr, hr, tau = inputs()
    once, twice = awake(), awake(replace(TINY, both_ways=True))
    there, back = once(lr, hr, tau), once(lr.flip(1), hr.flip(1), 1 - tau)
    assert (there - back).abs().max() > 1e-3
    torch.testing.assert_close(twice(lr, hr, tau), (there + back) / 2)
    torch.testing.assert_close(twice(lr.flip(1), hr.flip(1), 1 - tau), twice(lr, hr, tau))
    torch.testing.assert_close(twice.one_way(lr, hr, tau), there)
    torch.testing.assert_close(twice.train()(lr, hr, tau), there)  # training is not slowed


def test_the_generator_decides_the_weights_and_torch_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, two, three = (FlowFuse(TINY, generator=seeded(n)).stem.weight for n in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_learns_one_batch_by_heart():
    """A square that moves by eight pixels between the key frames."""
    frames = torch.full((3, 1, 64, 64), 0.5)
    for n, x in enumerate((20, 24, 28)):
        frames[n, :, 24:40, x : x + 16] = 0.8
    lr = coarsen(frames)[None]
    hr, target, tau = frames[None, [0, 2]], frames[None, 1], torch.tensor([0.5])
    net = FlowFuse(TINY, generator=seeded())
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = charbonnier(net(lr, hr, tau), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]


# Warping


def test_a_whole_flow_is_a_shift():
    image = torch.rand(1, 2, 9, 11, generator=seeded())
    flow = torch.zeros(1, 2, 9, 11)
    flow[:, 0], flow[:, 1] = 3, -2
    moved = warp(image, flow)
    torch.testing.assert_close(moved[..., 2:, :-3], image[..., :-2, 3:])
    torch.testing.assert_close(moved[..., 2:, -2:], image[..., :-2, -1:].expand(-1, -1, -1, 2))


def test_a_broken_flow_interpolates_linearly():
    image = torch.rand(1, 1, 12, 10, generator=seeded())
    flow = 5 * torch.rand(1, 2, 12, 10, generator=seeded(1)) - 2.5
    y, x = np.mgrid[:12, :10]
    at = np.stack([y + flow[0, 1].numpy(), x + flow[0, 0].numpy()])
    expected = map_coordinates(image[0, 0].numpy(), at, order=1, mode="nearest")
    np.testing.assert_allclose(warp(image, flow)[0, 0], expected, atol=1e-5)


def test_the_flow_has_a_gradient_towards_the_match():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = torch.exp(-((x - 15) ** 2 + (y - 15) ** 2) / 50)[None, None]
    target = torch.exp(-((x - 17) ** 2 + (y - 15) ** 2) / 50)[None, None]
    shift = torch.zeros(1, 2, 1, 1, requires_grad=True)
    F.mse_loss(warp(image, shift.expand(1, 2, 32, 32)), target).backward()
    assert shift.grad[0, 0] > 0 and abs(shift.grad[0, 1]) < 0.05 * shift.grad[0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlowFuseConfig(detail=7), "an even detail"),
        (lambda: FlowFuseConfig(width=0), "whole numbers from 1 on"),
        (lambda: FlowFuse.preset("huge"), "no FlowFuse is called 'huge': use one of small, full"),
        (lambda: awake()(torch.ones(1, 3, 4, 4), *inputs()[1:]), "lr is"),
        (lambda: awake()(inputs()[0], inputs(h=6)[1], inputs()[2]), "hr is"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
