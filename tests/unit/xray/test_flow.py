"""The parts of the flow network against plain loops, and what it must not depend on."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.xray.calibrate.misalign import misalign
from helpers.xray.cameras import Transform, coarsen
from helpers.xray.flow import (
    FlowConfig,
    FlowNet,
    affine,
    convex_upsampling,
    correlation_lookup,
    correlations,
    soft_argmax,
)
from helpers.xray.simulate import Experiment, count, simulate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(h=24, w=28, seed=0):
    """A sharp frame (1, 1, 4h, 4w) with structure of the size of coarse pixels."""
    noise = torch.randn(1, 1, h, w, generator=seeded(seed))
    return 0.6 + 0.1 * F.interpolate(noise, scale_factor=4, mode="bicubic")


def test_the_correlation_is_that_of_all_places_with_all():
    f, g = (torch.randn(2, 5, 4, 6, generator=seeded(n)) for n in (0, 1))
    maps = correlations(f, g, 3)
    assert [tuple(m.shape) for m in maps] == [(48, 1, 4, 6), (48, 1, 2, 3), (48, 1, 1, 1)]
    for b, y, x, v, u in ((0, 0, 0, 3, 5), (1, 2, 4, 1, 0), (1, 3, 5, 2, 2)):
        found = maps[0][b * 24 + y * 6 + x, 0, v, u]
        assert float(found) == pytest.approx(float(f[b, :, y, x] @ g[b, :, v, u]) / 5**0.5, 1e-5)
    np.testing.assert_allclose(maps[1][:, 0, 0, 0], maps[0][:, 0, :2, :2].mean((1, 2)), rtol=1e-5)


def test_a_level_without_pixels_repeats_the_last_one():
    maps = correlations(torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2), 4)
    assert [m.shape[-1] for m in maps] == [2, 1, 1, 1]


def test_the_look_up_reads_around_where_the_flow_points():
    f, g = (torch.randn(1, 3, 6, 7, generator=seeded(n)) for n in (2, 3))
    maps = correlations(f, g, 1)
    flow = torch.randint(-2, 3, (1, 2, 6, 7), generator=seeded(4)).float()
    found = correlation_lookup(maps, flow, 1).reshape(3, 3, 6, 7)
    whole = maps[0].reshape(6, 7, 6, 7)
    for y in range(6):
        for x in range(7):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    v, u = y + int(flow[0, 1, y, x]) + dy, x + int(flow[0, 0, y, x]) + dx
                    expected = float(whole[y, x, v, u]) if 0 <= v < 6 and 0 <= u < 7 else 0.0
                    assert float(found[dy + 1, dx + 1, y, x]) == pytest.approx(expected, abs=1e-5)


def test_the_look_up_at_a_coarse_level_meets_the_same_places():
    """A correlation that rises with x is read as the same ramp at every level."""
    x = torch.arange(16.0).expand(16, 16)
    maps = [x.expand(256, 1, 16, 16)]
    maps.append(F.avg_pool2d(maps[0], 2))
    flow = 0.5 * torch.ones(1, 2, 16, 16)
    fine, coarse = correlation_lookup(maps, flow, 1)[0, [4, 13], 6:10, 6:10]
    torch.testing.assert_close(fine, x[6:10, 6:10] + 0.5)
    torch.testing.assert_close(coarse, x[6:10, 6:10] + 0.5)


def test_the_soft_argmax_is_where_the_correlation_is_largest():
    match = torch.zeros(1, 25, 6, 6)
    match[:, 2 * 5 + 4] = 10.0  # row 0, column +2
    match[:, 1 * 5 + 4] = 10.0  # row -1
    torch.testing.assert_close(
        soft_argmax(match, torch.tensor(3.0))[0, :, 3, 3],
        torch.tensor([2.0, -0.5]),
        atol=1e-3,
        rtol=0,
    )
    assert soft_argmax(torch.zeros(1, 9, 3, 3), torch.tensor(1.0)).abs().max() < 1e-6


def test_the_affine_fit_finds_turns_and_leaves_out_what_weighs_nothing():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    truth = torch.stack([1 + 0.1 * x - 0.2 * y, -2 + 0.05 * x + 0.3 * y])[None]
    spoilt, weight = truth.clone(), torch.ones(1, 1, 6, 8)
    spoilt[..., 2:4, 3:5] += 50
    weight[..., 2:4, 3:5] = 1e-6
    same, fine = affine(spoilt, weight, 2)
    torch.testing.assert_close(same, truth, atol=5e-3, rtol=0)
    places = torch.arange(16.0) / 2 - 0.25  # two points to a place, centred on it
    expected = 1 + 0.1 * places[None] - 0.2 * (torch.arange(12.0) / 2 - 0.25)[:, None]
    torch.testing.assert_close(fine[0, 0], expected, atol=5e-3, rtol=0)


def test_convex_upsampling_takes_the_neighbour_that_the_network_names():
    flow = torch.randn(1, 2, 3, 4, generator=seeded(5))
    for k, (dy, dx) in enumerate((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
        mix = torch.full((1, 36, 3, 4), -60.0)
        mix.view(1, 9, 4, 3, 4)[:, k] = 60.0
        padded = F.pad(flow, (1, 1, 1, 1), mode="replicate")
        moved = padded[..., 1 + dy : 4 + dy, 1 + dx : 5 + dx]
        expected = 2 * moved.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(convex_upsampling(flow, mix, 2), expected)


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("shape", [(16, 20), (13, 17)])
def test_sizes_that_do_not_divide_are_padded(preset, shape):
    net = FlowNet(FlowConfig(8, 8, 8, 2, 2, 2, 2)) if preset == "full" else FlowNet.preset("small")
    h, w = shape
    flows = net(torch.rand(2, 1, h, w), torch.rand(2, 1, 4 * h, 4 * w), n_iter=3)
    assert len(flows) == 3 and flows[-1].shape == (2, 2, h, w)


def test_without_training_it_walks_towards_the_match():
    """The encoders are equal at first: a shifted picture is found, by the sum of its places."""
    torch.manual_seed(0)
    sharp = picture(seed=7)
    shift = 8  # sharp pixels: the coarse camera looks two of its own to the left
    net = FlowNet.preset("small").eval()
    with torch.no_grad():
        flow = net(coarsen(sharp.roll(shift, 3)), sharp, n_iter=8)[-1]
        still = net(coarsen(sharp), sharp, n_iter=8)[-1]
    assert abs(float(flow[0, 0].mean()) - 2) < 0.7 and abs(float(flow[0, 1].mean())) < 0.7
    assert still.abs().max() < 0.5


@pytest.mark.parametrize("seed", [2065, 2066, 2067])
def test_the_border_is_no_feature_that_matches_at_rest(seed):
    """Melt pools are bright above and dark below, and noisy: all places together find the shift."""
    torch.manual_seed(0)
    net = FlowNet.preset("small")
    movie = simulate(Experiment(shape=(96, 96), n_frames=3), seed)
    sharp = torch.from_numpy(movie.truth[1:2])[None]
    coarse = misalign(movie.truth[1:2], Transform(tx=1.5 - 8.0))  # two coarse pixels
    coarse = torch.from_numpy(count(coarse, 3000, np.random.default_rng(seed)))[None]
    with torch.no_grad():
        maps = correlations(net.sharp(coarsen(sharp)), net.coarse(coarse), 1)
        total = correlation_lookup(maps, torch.zeros(1, 2, 24, 24), 3).mean((0, 2, 3)).reshape(7, 7)
    assert divmod(int(total.argmax()), 7) == (3, 5)


def test_gain_and_offset_of_a_camera_do_not_matter():
    torch.manual_seed(0)
    net, sharp = FlowNet.preset("small").eval(), picture(seed=8)
    coarse = coarsen(sharp.roll(4, 2))
    with torch.no_grad():
        plain, other = net(coarse, sharp)[-1], net(3 * coarse + 0.2, sharp)[-1]
    torch.testing.assert_close(plain, other, atol=2e-2, rtol=0)


def test_gradients_reach_every_weight():
    net = FlowNet(FlowConfig(8, 8, 8, 2, 2, 2, 2))
    flows = net(torch.rand(1, 1, 12, 12), torch.rand(1, 1, 48, 48))
    sum(f.square().mean() for f in flows).backward()
    net_small = FlowNet(FlowConfig(8, 8, 8, 2, 2, 1, 2, affine=True))
    torch.nn.init.normal_(net_small.correct[-1].weight, std=0.1)
    sum(
        f.square().mean() for f in net_small(torch.rand(1, 1, 12, 12), torch.rand(1, 1, 48, 48))
    ).backward()
    for name, parameter in net_small.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or "layers" in name and "bias" in name, name


def test_the_presets_have_the_sizes_that_are_told():
    assert FlowNet.preset("full").config == FlowConfig()
    count = sum(p.numel() for p in FlowNet.preset("small").parameters())
    assert 1e5 < count < 3e5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlowNet.preset("raft"), "no preset 'raft': use one of small, full"),
        (lambda: FlowConfig(radius=0), "give whole numbers from 1 on"),
        (
            lambda: NET(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 30, 32)),
            r"\(B, 1, 4h, 4w\), padded",
        ),
        (lambda: NET(torch.rand(1, 2, 8, 8), torch.rand(1, 1, 32, 32)), r"lr is \(1, 2, 8, 8\)"),
        (lambda: NET(torch.rand(2, 1, 8, 8), torch.rand(1, 1, 32, 32)), "give"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


NET = FlowNet(FlowConfig(8, 8, 8, 2, 2, 2, 1))


def test_fits_and_refinements_of_a_flow_keep_their_digits_under_autocast():
    flow, weight = (torch.rand(1, n, 6, 8, generator=seeded(n)) for n in (2, 1))
    match, logits = (torch.randn(1, n, 6, 8, generator=seeded(n)) for n in (25, 36))
    calls = (
        lambda: affine(8 * flow, weight, 2),
        lambda: (convex_upsampling(8 * flow, logits, 2),),
        lambda: (soft_argmax(match, torch.tensor(2.0)),),
    )
    for call in calls:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = call()
        for a, b in zip(call(), rounded, strict=True):
            assert torch.equal(a, b)
