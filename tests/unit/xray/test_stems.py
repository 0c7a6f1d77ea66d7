"""The two ways in for key frames: what one of them cannot know, and what the other passes on."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers import checkpoints
from helpers.xray._shipped import weights_file
from helpers.xray.stems import PooledStem, SharpStem
from tests.unit.xray.networks import apart


def features(stem, keys):
    """Features of the key frames (B, 2, 1, y, x) without those of the border."""
    coarse = keys.new_full((len(keys), 3, 1, *(side // 4 for side in keys.shape[-2:])), 0.7)
    with torch.no_grad():
        return stem(coarse, keys, keys.new_full((len(keys),), 0.5))[:, 3:, :, 3:-3, 3:-3]


def stripes(width, across):
    """Stripes of one and zero, and their negative: the same moved by `width` pixels."""
    bars = (torch.arange(64) // width % 2).float().expand(1, 2, 1, 64, 64)
    bars = bars.mT if across else bars
    return bars, 1 - bars


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_pools_cannot_tell_stripes_from_their_negative(seed, width, across):
    torch.manual_seed(seed)
    for kind, blind in ((PooledStem, True), (SharpStem, False)):
        stem = kind(8).double()
        one, other = (features(stem, keys.double()) for keys in stripes(width, across))
        assert torch.allclose(one, other, atol=1e-12) == blind


def test_a_coarser_pattern_passes_the_pools():
    """Four pixels wide, the blindness ends: it is the pools' and not the test's."""
    stem = PooledStem(8)
    one, other = (features(stem, keys) for keys in stripes(4, False))
    assert apart(one, other) > -3


def test_the_card_of_the_study_has_a_curve_for_each_seed():
    state, card = checkpoints.load(weights_file("stems"))
    for name, kind in (("max-pool", PooledStem), ("unshuffle", SharpStem)):
        stem, back = kind(16), nn.Conv2d(16, 16, 3, padding=1)
        stem.load_state_dict(state[name]["stem"])
        back.load_state_dict(state[name]["back"])
        curves = np.array(card["quality"][name])
        assert curves.shape == (len(card["seeds"]), len(card["at"]))
        assert np.isfinite(curves).all() and len(card["seeds"]) >= 5
        assert card["rates"][name] in card["rates tried"]
    assert card["training_seeds"][1] < card["test_seeds"][0]
