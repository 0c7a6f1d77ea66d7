"""EDVR: parameters to the last one, shapes, what it starts from, and what each part must do."""

import pytest
import torch
import torch.nn.functional as F

from helpers.training.seeds import seeded
from helpers.xray.baselines import detail_injection
from helpers.xray.cameras import pad_to
from helpers.xray.edvr import EDVR, EDVRConfig
from helpers.xray.edvr.alignment import Pyramid, PyramidAlignment
from helpers.xray.edvr.attention import AttentionFusion
from helpers.xray.stems import CENTRE, PooledStem, SharpStem
from tests.unit.xray.networks import apart, count, disturb, frames

TINY = EDVRConfig(8, 2, 1, 1, 8)
TINY_SHARP = EDVRConfig(8, 2, 1, 1, 8, offset_gain=0.1, sharp=True)


def seeded_net(config, seed=0):
    return EDVR(config, generator=torch.Generator().manual_seed(seed))


def test_the_published_network_has_its_parameters():
    with torch.device("meta"):
        net = EDVR.preset("full")
        medium = EDVR(EDVRConfig(64, n_reconstruct=10))
    assert count(net) == 20_926_817
    assert count(medium) == 3_372_321
    parts = {name: count(part) for name, part in net.named_children()}
    assert parts == {
        "stem": 1_280 + 296_448,
        "extract": 1_475_840,
        "pyramid": 590_336,
        "align": 4_537_184,
        "fuse": 1_296_000,
        "reconstruct": 11_806_720,
        "head": 923_009,
    }


@pytest.mark.parametrize("config", [TINY, TINY_SHARP, EDVR.presets["small"]], ids=str)
@pytest.mark.parametrize("size", [(8, 12), (9, 7), (1, 3)])
def test_frames_of_any_size_come_out_sharp(config, size):
    lr, hr, tau = frames(2, *size)
    assert seeded_net(config)(lr, hr, tau).shape == (2, 1, 4 * size[0], 4 * size[1])


def test_what_is_padded_repeats_the_border_and_moves_nothing():
    lr, hr, tau = frames(1, 5, 8)
    grown_lr, grown_hr = pad_to(lr, 4), pad_to(hr, 16)
    assert grown_lr.shape == (1, 3, 1, 8, 8) and grown_hr.shape == (1, 2, 1, 32, 32)
    assert torch.equal(grown_lr[..., :5, :], lr) and torch.equal(grown_hr[..., :20, :], hr)
    assert torch.equal(grown_lr[..., 7, :], lr[..., 4, :])
    assert torch.equal(grown_hr[..., 31, :], hr[..., 19, :])
    net = disturb(seeded_net(TINY_SHARP))
    torch.testing.assert_close(net(lr, hr, tau), net(grown_lr, grown_hr, tau)[..., :20, :])


def test_without_its_last_layer_the_published_network_is_bilinear():
    lr, hr, tau = frames()
    net = disturb(seeded_net(TINY))
    centre = F.interpolate(lr[:, CENTRE], scale_factor=4, mode="bilinear", align_corners=False)
    assert apart(net(lr, hr, tau), centre) > -2.5
    with torch.no_grad():
        net.head.last.weight.zero_()
        net.head.last.bias.zero_()
    assert torch.equal(net(lr, hr, tau), centre)


def test_the_small_network_starts_at_the_classical_estimate():
    lr, hr, tau = frames()
    net = seeded_net(EDVR.presets["small"])
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
    there, back = net(lr, hr, tau), net(lr.flip(1), hr.flip(1), 1 - tau)
    torch.testing.assert_close(there, back)


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


def test_all_frames_at_once_is_one_frame_after_the_other():
    """The frames are aligned as one batch; aligned one by one they come out the same."""
    lr, hr, tau = frames(2)
    net = disturb(seeded_net(TINY))
    features = net.stem(lr, hr, tau)
    together = net.aligned(features)
    centre = net.pyramid(net.extract(features[:, CENTRE]))
    for number in range(5):
        frame = net.pyramid(net.extract(features[:, number]))
        torch.testing.assert_close(together[:, number], net.align(frame, centre))


def test_features_go_round_the_alignment_in_the_sharp_network_alone():
    lr, hr, tau = frames()
    for config, goes in ((TINY, False), (TINY_SHARP, True)):
        net = disturb(seeded_net(config))
        other = hr.flip(-1)
        net.fuse.forward = lambda frames: torch.zeros_like(frames[:, 0])
        net.head.forward = lambda features, *rest: features.mean(1, keepdim=True)
        assert torch.equal(net(lr, hr, tau), net(lr, other, tau)) is not goes


def test_alignment_offsets_double_from_level_to_level():
    """A guide from above that asks for d pixels is enlarged to ask for 2 d."""
    align = PyramidAlignment(2, groups=1)
    with torch.no_grad():
        for module in (*align.compare, *align.refine, *align.settle):
            module.weight.zero_()
            module.bias.zero_()
        align.refine[0].weight[0, 2, 1, 1] = 1.0  # hand on the first channel of above
        align.settle[0].weight[0, 0, 1, 1] = 1.0
    above = torch.full((1, 2, 4, 4), 1.5)
    guide = align.guide(0, torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), above)
    torch.testing.assert_close(guide[:, 0], torch.full((1, 8, 8), 3.0))


def test_the_cascade_looks_at_the_reference_once_more():
    torch.manual_seed(0)
    align, pyramid = PyramidAlignment(4, groups=2), Pyramid(4)
    frame, reference = (pyramid(x) for x in torch.randn(2, 1, 4, 8, 8))
    seen = []
    align.cascade_guide.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    align(frame, reference)
    assert torch.equal(seen[0][:, 4:], reference[0])
    assert not torch.equal(seen[0][:, :4], reference[0])


def test_the_pyramid_halves_the_sides():
    levels = Pyramid(4)(torch.randn(3, 4, 16, 8))
    assert [tuple(level.shape) for level in levels] == [(3, 4, 16, 8), (3, 4, 8, 4), (3, 4, 4, 2)]


def test_weights_compare_with_the_centre():
    torch.manual_seed(0)
    fuse = AttentionFusion(6, 5)
    x = torch.randn(2, 5, 6, 8, 8)
    weights = fuse.weights(x)
    for number in range(5):
        product = fuse.embed(x[:, number]) * fuse.embed_centre(x[:, CENTRE])
        torch.testing.assert_close(weights[:, number], product.sum(1).sigmoid())
    moved = x.clone()
    moved[:, 3] += 1
    changed = (fuse.weights(moved) != weights).flatten(2).any(2).any(0)
    assert changed.tolist() == [False, False, False, True, False]


def test_the_pooled_stem_forgets_where_a_maximum_was():
    """Two bright points, each the largest in its neighbourhood, a pixel apart: the same features.

    The sharp stem tells them apart.
    """
    torch.manual_seed(0)
    pooled, sharp = PooledStem(8), SharpStem(8)
    with torch.no_grad():  # let the convolutions pass the image on
        for conv in pooled.hr:
            conv.weight.zero_()
            conv.bias.zero_()
            conv.weight[:, 0, 1, 1] = 1.0
    lr, tau = torch.zeros(1, 3, 1, 6, 6), torch.zeros(1)
    one, other = torch.zeros(2, 1, 2, 1, 24, 24)
    one[..., 11, 11], other[..., 11, 10] = 1.0, 1.0
    assert torch.equal(pooled(lr, one, tau)[:, 3:], pooled(lr, other, tau)[:, 3:])
    assert apart(sharp(lr, one, tau)[:, 3:], sharp(lr, other, tau)[:, 3:]) > -4


def test_the_sharp_stem_is_told_what_is_new():
    """A key frame that the fast camera confirms, and one that it does not."""
    stem = SharpStem(4)
    with torch.no_grad():
        stem.hr.weight.zero_()
        stem.hr.bias.zero_()
        stem.hr.weight[:, 16, 1, 1] = 1.0
    lr, hr = torch.full((1, 3, 1, 6, 6), 0.5), torch.full((1, 2, 1, 24, 24), 0.5)
    hr[:, 1] = 0.25
    before, after = stem(lr, hr, torch.zeros(1))[0, 3:]
    torch.testing.assert_close(before, torch.zeros_like(before), atol=1e-6, rtol=0)
    torch.testing.assert_close(after, torch.ones_like(after))


def test_the_sharp_stem_is_told_how_far_away_a_key_frame_is():
    stem = SharpStem(4)
    with torch.no_grad():
        stem.hr.weight.zero_()
        stem.hr.bias.zero_()
        stem.hr.weight[:, 17, 1, 1] = 1.0
    lr, hr, _ = frames(1)
    before, after = stem(lr, hr, torch.tensor([0.1]))[0, 3:]
    torch.testing.assert_close(before, torch.full_like(before, -0.04))
    torch.testing.assert_close(after, torch.full_like(after, 0.4))


def test_the_seed_makes_the_weights_and_leaves_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (seeded_net(TINY, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    state, again, third = (net.state_dict() for net in (one, same, other))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not torch.equal(state["stem.lr.weight"], third["stem.lr.weight"])
    with seeded(None):
        torch.testing.assert_close(torch.rand(1).shape, torch.Size([1]))


LR, HR, TAU = frames()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LR[:, :2], HR, TAU), r"lr is \(2, 2, 1, 8, 12\): give \(B, 3, 1, h, w\)"),
        ((LR[:, :, 0], HR, TAU), r"lr is \(2, 3, 8, 12\)"),
        ((LR, HR[..., :40], TAU), r"hr is .* give \(2, 2, 1, 32, 48\)"),
        ((LR, HR[:, :1], TAU), r"hr is \(2, 1, 1, 32, 48\)"),
        ((LR, HR, TAU[:1]), r"tau is \(1,\): give one number for each of 2"),
    ],
)
def test_bad_frames_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        seeded_net(TINY)(*arguments)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="no EDVR is called 'large': use one of full, small"):
        EDVR.preset("large")


def test_groups_that_do_not_divide_the_width_are_refused_when_built():
    with pytest.raises(ValueError, match="4 groups do not divide a width of 18"):
        EDVRConfig(width=18, groups=4)
