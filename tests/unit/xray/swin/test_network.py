"""Window attention against attention written out pair by pair; the network's size and shapes."""

import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.xray.baselines import detail_injection
from helpers.xray.swin import (
    Block,
    SwinConfig,
    SwinXVR,
    WindowAttention,
    relative_positions,
    shift_mask,
    window_partition,
    window_reverse,
    wrapped_regions,
)
from helpers.xray.swin.windows import window_shift
from tests.unit.xray.networks import apart, count, disturb, frames

TINY = SwinConfig(12, (2, 1), 2, (5, 4, 4), 8, drop_path=0.0)
TINY_SHARP = SwinConfig(12, (2,), 2, (5, 4, 4), 8, drop_path=0.0, sharp=True)


def seeded_net(config, seed=0):
    return SwinXVR(config, generator=torch.Generator().manual_seed(seed))


def attention(window=(2, 4, 4), heads=2, width=8, dtype=torch.float64):
    torch.manual_seed(0)
    layer = WindowAttention(width, window, heads).to(dtype)
    torch.nn.init.normal_(layer.bias)
    return layer


# The network


@pytest.mark.parametrize(("name", "expected"), [("full", 10_009_033), ("actual", 38_294_545)])
def test_the_published_networks_have_their_parameters(name, expected):
    with torch.device("meta"):
        net = SwinXVR.preset(name)
        block = Block(192, 3, (5, 8, 8), shifted=True)
    assert count(net) == expected
    assert count(block) == 303_099
    assert [len(group.blocks) for group in net.groups] == [2, 2, 18, 2]


def test_blocks_are_left_out_more_often_towards_the_end():
    with torch.device("meta"):
        blocks = [b for group in SwinXVR.preset("full").groups for b in group.blocks]
    assert [b.drop for b in blocks] == pytest.approx([0.2 * k / 23 for k in range(24)])
    assert [b.shifted for b in blocks] == [False, True] * 12


@pytest.mark.parametrize("config", [TINY, TINY_SHARP, SwinXVR.presets["small"]], ids=str)
@pytest.mark.parametrize("size", [(8, 12), (9, 7), (1, 3)])
def test_frames_of_any_size_come_out_sharp(config, size):
    lr, hr, tau = frames(2, *size)
    assert seeded_net(config)(lr, hr, tau).shape == (2, 1, 4 * size[0], 4 * size[1])


def test_the_small_network_starts_at_the_classical_estimate():
    lr, hr, tau = frames()
    net = seeded_net(SwinXVR.presets["small"])
    assert torch.equal(net(lr, hr, tau), detail_injection(lr, hr, tau))
    assert apart(disturb(net)(lr, hr, tau), detail_injection(lr, hr, tau)) > -4


def test_tau_is_heard_by_the_small_network_alone():
    lr, hr, tau = frames()
    for config, hears in ((TINY, False), (TINY_SHARP, True)):
        net = disturb(seeded_net(config))
        assert torch.equal(net(lr, hr, tau), net(lr, hr, 1 - tau)) is not hears


def test_time_reversed_before_training_nothing_changes():
    lr, hr, tau = frames()
    net = seeded_net(TINY_SHARP)
    torch.testing.assert_close(net(lr, hr, tau), net(lr.flip(1), hr.flip(1), 1 - tau))


def test_the_published_way_out_has_no_image_underneath():
    lr, hr, tau = frames()
    net = disturb(seeded_net(TINY))
    assert math.log10(net(lr, hr, tau).detach().std()) > -3
    with torch.no_grad():
        net.head.last.weight.zero_()
        net.head.last.bias.fill_(0.25)
    assert bool((net(lr, hr, tau) == 0.25).all())


def test_features_go_round_the_attention_in_the_sharp_network_alone():
    lr, hr, tau = frames()
    for config, goes in ((TINY, False), (TINY_SHARP, True)):
        net = disturb(seeded_net(config))
        for group in net.groups:
            group.forward = torch.zeros_like
        net.head.forward = lambda features, *rest: features.mean(1, keepdim=True)
        assert torch.equal(net(lr, hr, tau), net(lr, hr.flip(-1), tau)) is not goes


def test_the_centre_frame_is_what_is_enlarged():
    lr, hr, tau = frames()
    net, seen = disturb(seeded_net(TINY)), {}
    net.groups[-1].register_forward_hook(lambda module, _, y: seen.update(volume=y))
    net.norm.register_forward_pre_hook(lambda module, inputs: seen.update(frame=inputs[0]))
    net(lr, hr, tau)
    assert torch.equal(seen["frame"], seen["volume"][:, 1])


@pytest.mark.parametrize("config", [TINY, TINY_SHARP], ids=str)
def test_every_frame_and_every_parameter_counts(config):
    lr, hr, tau = frames()
    lr.requires_grad_(), hr.requires_grad_()
    net = disturb(seeded_net(config))
    net(lr, hr, tau).square().sum().backward()
    for images in (lr, hr):
        assert bool((images.grad.abs().sum((0, 2, 3, 4)) > 0).all())
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_left_out_block_passes_its_input_on_and_the_mean_is_kept():
    torch.manual_seed(0)
    block = Block(8, 2, (5, 4, 4), shifted=False, drop=0.5)
    x = torch.randn(1, 5, 4, 4, 8)
    full = block.eval()(x)
    many = block.train()(x.expand(400, -1, -1, -1, -1))
    untouched = (many == x).flatten(1).all(1).float().mean()
    assert abs(float(untouched) - 0.25) < 0.08  # two branches, each left out every other time
    branch = block.attention(block.norm1(x))
    first_alone = (many - (x + 2 * branch)).flatten(1).abs().amax(1) < 1e-5
    assert abs(float(first_alone.float().mean()) - 0.25) < 0.08
    assert apart(full, x) > -4


# Windows


@pytest.mark.parametrize("window", [(5, 4, 4), (1, 8, 2), (5, 8, 12), (1, 1, 1)])
def test_windows_go_back_where_they_were(window):
    x = torch.randn(2, 5, 8, 12, 3)
    windows = window_partition(x, window)
    assert windows.shape == (2, 480 // math.prod(window), math.prod(window), 3)
    assert torch.equal(window_reverse(windows, window, (5, 8, 12)), x)


def test_a_window_holds_its_box_in_order():
    x = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    windows = window_partition(x, (2, 2, 3))
    assert torch.equal(windows[0, 1], x[0, :, :2, 3:].flatten())
    assert torch.equal(windows[0, 2], x[0, :, 2:, :3].flatten())


def test_time_is_not_shifted_where_the_window_spans_it():
    assert window_shift((5, 16, 8), (5, 8, 8)) == (0, 4, 0)
    assert window_shift((6, 16, 16), (2, 4, 4)) == (1, 2, 2)
    with torch.device("meta"):
        blocks = SwinXVR.preset("full").groups[0].blocks
    assert window_shift((5, 64, 64), blocks[1].attention.window)[0] == 0


def test_a_window_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"\(5, 8, 9\) \(T, h, w\) is not a multiple"):
        window_partition(torch.zeros(1, 5, 8, 9, 2), (5, 4, 4))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        WindowAttention(8, (5, 4, 4), 3)


def neighbourhood(token, sizes, window, shift):
    """Tokens in the same tile as `token`, when the tiling is moved by `shift` and nothing wraps."""

    def tile(place):
        return tuple((p - s) // side for p, s, side in zip(place, shift, window, strict=True))

    return [other for other in itertools.product(*map(range, sizes)) if tile(other) == tile(token)]


def by_hand(layer, x, shift):
    """Attention pair by pair, within the windows of the shifted tiling, cut off at the border."""
    sizes, window, heads = x.shape[1:4], layer.window, layer.heads
    width = x.shape[-1]
    depth = width // heads
    q, k, v = layer.qkv(x).split(width, dim=-1)
    y = torch.zeros_like(x)
    for b, token in itertools.product(range(len(x)), itertools.product(*map(range, sizes))):
        others = neighbourhood(token, sizes, window, shift)
        for head in range(heads):
            part = slice(head * depth, (head + 1) * depth)
            scores = []
            for other in others:
                row = 0
                for p, o, side in zip(token, other, window, strict=True):
                    row = row * (2 * side - 1) + (p - o) + side - 1
                score = q[(b, *token)][part] @ k[(b, *other)][part] / math.sqrt(depth)
                scores.append(score + layer.bias[row, head])
            weights = torch.stack(scores).softmax(0)
            y[(b, *token)][part] = sum(
                w * v[(b, *other)][part] for w, other in zip(weights, others, strict=True)
            )
    return layer.out(y)


@pytest.mark.parametrize(
    ("window", "shift"),
    [
        ((2, 4, 4), (0, 0, 0)),
        ((2, 4, 4), (0, 2, 2)),
        ((1, 4, 2), (0, 2, 1)),
        ((2, 2, 4), (1, 1, 2)),
    ],
)
def test_it_is_attention_in_the_true_neighbourhood(window, shift):
    layer = attention(window)
    sizes = (4, 4, 8) if shift[0] else (2, 8, 8)
    x = torch.randn(1, *sizes, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = by_hand(layer, x, shift)
        torch.testing.assert_close(layer(x, shift), expected, rtol=0, atol=1e-10)
        single = layer.float()(x.float(), shift)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6)


def test_a_region_does_not_hear_what_was_wrapped_beside_it():
    """A corner token shares its rolled window with three far regions and must not see them."""
    layer = attention((2, 4, 4))
    x = torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)
    region = wrapped_regions((2, 8, 8), (2, 4, 4), (0, 2, 2)).roll((2, 2), (1, 2))
    with torch.no_grad():
        before = layer(x, (0, 2, 2))
        for place in ((0, 0, 0), (1, 7, 0), (0, 3, 7)):
            moved = x.clone()
            moved[(0, *place)] += 1
            changed = (layer(moved, (0, 2, 2)) != before).any(-1)[0]
            assert changed[place]
            assert set(region[changed].tolist()) == {int(region[place])}


def test_regions_of_the_last_window_are_nine_in_space():
    region = wrapped_regions((1, 8, 8), (1, 4, 4), (0, 2, 2))[0]
    assert region[:4, :4].unique().tolist() == [0]
    assert len(region.unique()) == 9
    assert len(region[4:, 4:].unique()) == 4
    mask = shift_mask((1, 8, 8), (1, 4, 4), (0, 2, 2))
    assert mask.shape == (4, 16, 16)
    assert [int((m == 0).sum()) for m in mask] == [256, 128, 128, 64]
    assert sorted(mask.unique().tolist()) == [-100.0, 0.0]


def test_the_bias_has_one_row_for_each_displacement():
    window = (5, 8, 8)
    rows = relative_positions(window)
    assert rows.shape == (320, 320)
    assert rows.unique().numel() == int(rows.max()) + 1 == 9 * 15 * 15 == 2025
    assert WindowAttention(192, window, 3).bias.shape == (2025, 3)
    assert rows.diagonal().unique().numel() == 1
    places = list(itertools.product(*map(range, (2, 3, 3))))
    small = relative_positions((2, 3, 3))
    seen = {}
    for i, j in itertools.product(range(18), range(18)):
        step = tuple(a - b for a, b in zip(places[i], places[j], strict=True))
        assert seen.setdefault(step, int(small[i, j])) == int(small[i, j])
    assert len(set(seen.values())) == len(seen) == 3 * 5 * 5


def test_a_batch_is_attended_one_by_one():
    layer = attention()
    x = torch.randn(3, 2, 8, 8, 8, dtype=torch.float64)
    together = layer(x, (0, 2, 2))
    for number in range(3):
        torch.testing.assert_close(together[number], layer(x[number : number + 1], (0, 2, 2))[0])


def test_derivatives_are_right():
    layer = attention((1, 2, 2), width=4)
    x = torch.randn(1, 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)

    def attend(x, bias):
        layer.bias.data = bias.detach()
        return torch.func.functional_call(layer, {"bias": bias}, (x, (0, 1, 1)))

    bias = layer.bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(attend, (x, bias))


LR, HR, TAU = frames()


def test_bad_frames_and_names_are_named():
    with pytest.raises(ValueError, match=r"hr is .* give \(2, 2, 1, 32, 48\)"):
        seeded_net(TINY)(LR, HR[..., :40], TAU)
    with pytest.raises(ValueError, match="no SwinXVR is called 'tiny': use one of full, actual"):
        SwinXVR.preset("tiny")


@pytest.mark.parametrize("window", [(3, 4, 4), (8, 4, 4), (5, 4)])
def test_windows_and_heads_that_cannot_work_are_refused_when_built(window):
    with pytest.raises(ValueError, match="so that it divides the five frames"):
        SwinConfig(window=window)
    with pytest.raises(ValueError, match="3 heads do not divide a width of 32"):
        SwinConfig(width=32)


def test_the_published_training_takes_3e16_operations():
    """By hand: 24 blocks and 4 convolutions on 5 frames of 24 x 24, forwards and twice back."""
    schedule, config = SwinXVR.recipes["full"], SwinConfig()
    side, width, blocks = schedule.patch // 4, config.width, sum(config.depths)
    partners = 5 * config.window[1] * config.window[2]
    dense = 2 * 8 * width**2 + 4 * width * partners  # qkv, out and the two layers; scores and sums
    tokens = 5 * side**2
    body = tokens * (blocks * dense + len(config.depths) * 2 * 9 * width**2)
    expected = 3 * body * schedule.batch * schedule.n_steps
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        frames = torch.empty(1, 3, 1, side, side), torch.empty(1, 2, 1, 4 * side, 4 * side)
        SwinXVR.preset("full")(*frames, torch.empty(1)).mean().backward()
    counted = counter.get_total_flops() * schedule.batch * schedule.n_steps
    assert expected < counted < 1.3 * expected  # the ways in and out come on top
    assert 2.5e16 < counted < 3.5e16
