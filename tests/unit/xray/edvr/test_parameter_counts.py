"""The shipped EDVR and Swin reach what their cards say, on movies that no training has seen."""

import numpy as np
import pytest

from helpers import xray
from helpers.xray import baselines
from helpers.xray.data import MoviePairs
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, simulate
from tests.margins.seeds import published

SEEDS = range(2000, 2012)


@pytest.fixture(scope="module")
def unseen():
    with published():  # the movies of the card
        return MoviePairs([simulate(Experiment(), seed) for seed in SEEDS], every=3)


@pytest.fixture(scope="module")
def classical(unseen):
    return evaluate(baselines.detail_injection, unseen)


@pytest.mark.parametrize("name", ["edvr", "swin"])
def test_the_card_is_true_and_every_movie_gains(name, unseen, classical):
    net = xray.load(name, device="cpu")
    card = net.card
    assert set(range(card["training_seeds"][0], card["training_seeds"][1] + 1)).isdisjoint(SEEDS)
    assert [card["test_seeds"][0], card["test_seeds"][1]] == [SEEDS[0], SEEDS[-1]]
    score = evaluate(net, unseen)
    told = card["metric"]["standard"]
    for key, tolerance in (("psnr", 0.02), ("ssim", 0.002), ("aad", 0.0005), ("moving", 0.02)):
        assert score.mean(key) == pytest.approx(told[key], abs=tolerance)
    gain = score.by_clip("psnr") - classical.by_clip("psnr")
    assert gain.mean() == pytest.approx(told["over_detail_injection"], abs=0.02)
    assert gain.mean() > 1 and gain.min() > 0.5 and np.isfinite(gain).all()
