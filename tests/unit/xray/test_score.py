"""Scores against their formulas, and groups against sums by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.metrics import psnr, ssim
from helpers.xray import baselines
from helpers.xray.data import MoviePairs
from helpers.xray.data.samples import Sample
from helpers.xray.score import evaluate, motion_mask
from helpers.xray.simulate import Experiment, simulate


@pytest.fixture(scope="module")
def pairs():
    movies = [simulate(Experiment(shape=(48, 64)), seed) for seed in (1000, 1001)]
    return MoviePairs(movies, every=4)


def test_every_number_is_that_of_its_frame(pairs):
    score = evaluate(baselines.linear, pairs, batch=5)
    for k in range(len(pairs)):
        lr, hr, tau, target = pairs[k]
        estimate = ((1 - tau) * hr[0] + tau * hr[1])[0]
        error = estimate - target[0]
        assert score.psnr[k] == pytest.approx(psnr(estimate, target[0], data_range=1.0), abs=1e-3)
        assert score.ssim[k] == pytest.approx(ssim(estimate, target[0], data_range=1.0), abs=1e-5)
        assert score.aad[k] == pytest.approx(np.abs(error).mean(), rel=1e-4)
        assert score.tau[k] == pytest.approx(tau)
        mask = motion_mask(*(torch.from_numpy(x)[None] for x in (hr, target)))[0, 0].numpy()
        expected = -10 * np.log10((error[mask] ** 2).mean())
        assert score.moving[k] == pytest.approx(expected, abs=1e-3)
        assert score.moving_share[k] == pytest.approx(mask.mean())
    assert score.moving.mean() < score.psnr.mean()


def test_groups_are_means_of_their_members(pairs):
    score = evaluate(baselines.bicubic, pairs)
    assert score.clip.tolist() == [0] * 6 + [1] * 6
    np.testing.assert_allclose(
        score.by_clip("psnr"), [score.psnr[:6].mean(), score.psnr[6:].mean()]
    )
    taus, means = score.by_tau("aad")
    np.testing.assert_allclose(taus, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(means[1], score.aad[[1, 4, 7, 10]].mean())
    assert score.mean("ssim") == pytest.approx(score.ssim.mean())


def test_what_the_noise_does_is_not_motion():
    rng = np.random.default_rng(0)
    target = np.full((1, 1, 64, 64), 0.6, np.float32)
    hr = (rng.poisson(4000 * 0.6, (1, 2, 1, 64, 64)) / 4000).astype(np.float32)
    hr[0, 1, 0, 20:30, 20:30] += 0.1
    mask = motion_mask(torch.from_numpy(hr), torch.from_numpy(target))[0, 0].numpy()
    assert mask[21:29, 21:29].all()
    mask[18:32, 18:32] = False
    assert mask.mean() < 1e-3


def test_frames_where_nothing_moves_are_left_out_of_the_mean(pairs):
    still = pairs[0]._replace(hr=np.stack([pairs[0].target] * 2))
    score = evaluate(lambda lr, hr, tau: hr[:, 0] + 0.1, [still, pairs[1]])
    assert np.isnan(score.moving[0]) and score.moving_share[0] == 0
    assert score.mean("moving") == pytest.approx(score.moving[1])


def test_changed_inputs_do_not_change_the_question(pairs):
    plain = evaluate(baselines.bicubic, pairs)
    dark = evaluate(baselines.bicubic, pairs, change=lambda lr, hr, tau: (0 * lr, hr, tau))
    blind = evaluate(baselines.bicubic, pairs, change=lambda lr, hr, tau: (lr, 0 * hr, tau))
    np.testing.assert_array_equal(plain.moving_share, dark.moving_share)
    np.testing.assert_array_equal(plain.psnr, blind.psnr)
    assert dark.psnr.max() < 10


def test_a_module_is_judged_as_it_will_be_used(pairs):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, lr, hr, tau):
            assert not torch.is_grad_enabled()
            return self.drop(hr[:, 0])

    net = Dropping().train()
    key = evaluate(lambda lr, hr, tau: hr[:, 0], pairs)
    np.testing.assert_array_equal(evaluate(net, pairs).psnr, key.psnr)
    assert net.training  # and left as it was


@pytest.mark.parametrize(
    ("net", "data", "message"),
    [
        (baselines.linear, [], "there are no samples"),
        (
            lambda lr, hr, tau: lr[:, 1],
            None,
            r"the estimate is \(1, 1, 4, 4\) but the target \(1, 1, 16, 16\)",
        ),
        (lambda lr, hr, tau: hr[:, 0] * np.nan, None, "holds NaN or infinity"),
    ],
)
def test_bad_input_is_named(net, data, message):
    sample = Sample(np.ones((3, 1, 4, 4)), np.ones((2, 1, 16, 16)), 0.5, np.ones((1, 16, 16)))
    with pytest.raises(ValueError, match=message):
        evaluate(net, [sample] if data is None else data)
