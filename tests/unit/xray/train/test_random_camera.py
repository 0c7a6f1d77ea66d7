"""Samples recorded anew: with the camera that is told, and with the truth untouched."""

import numpy as np
import pytest
import torch

from helpers.xray import CoarseCamera
from helpers.xray.data import MoviePairs
from helpers.xray.flowfuse import FlowFuse, FlowFuseConfig
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.train import RandomCamera, Schedule, train
from helpers.xray.train.loop import draw
from tests.margins.seeds import within

TINY = FlowFuseConfig(width=8, deep=8, blocks=1, detail=4, detail_blocks=1, told=True)
EXACT = {"flicker": 0.0, "pattern": 0.0, "hot": 0.0, "as_recorded": 0.0, "saturated": (99, 99.1)}


@pytest.fixture(scope="module")
def pairs():
    return MoviePairs([simulate(Experiment(shape=(64, 64)), 0)], frames=True)


def test_the_frames_are_those_of_the_camera_that_is_told(pairs):
    made = RandomCamera(**EXACT, photons=(1e8, 1e8), gain_error=0, sigma_error=0, photons_error=0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        sample = made(pairs[4], rng)
        sigma, gain, offset, photons = map(float, sample.camera)
        expected = CoarseCamera(sigma, gain=gain, offset=offset)(pairs[4].seen)
        np.testing.assert_allclose(sample.lr, expected, atol=2e-3)
        assert within(sigma, 0, 3.5) and within(gain, 0.9, 1.1)
        assert photons == pytest.approx(1e8, rel=1e-5)
        assert sample.seen is None and sample.target is not None
        np.testing.assert_array_equal(sample.hr, pairs[4].hr)


def test_its_noise_is_that_of_its_photons(pairs):
    made = RandomCamera(**EXACT, sigma=(2, 2), photons=(200, 200), gain=(1, 1), photons_error=0)
    clean = CoarseCamera(2.0)(pairs[4].seen)
    samples = [made(pairs[4], np.random.default_rng(k)) for k in range(40)]
    noise = [s.lr - clean for s in samples if abs(s.camera[0] - 2) < 1]
    assert abs(np.mean(np.square(noise) / clean) * 200 - 1) < 0.1


def test_recorded_frames_stay_as_they_are(pairs):
    sample = RandomCamera(as_recorded=1.0)(pairs[4], np.random.default_rng(0))
    np.testing.assert_array_equal(sample.lr, pairs[4].lr)
    assert abs(sample.camera[0] - np.sqrt(2.2**2 - 0.6**2)) < 0.3


def test_every_sample_of_a_batch_has_its_own_camera(pairs):
    batch = draw(pairs, Schedule(batch=4, patch=32), 0, 0, record=RandomCamera())
    assert batch.camera.shape == (4, 4) and len(batch.camera[:, 0].unique()) == 4
    again = draw(pairs, Schedule(batch=4, patch=32), 0, 0, record=RandomCamera())
    assert torch.equal(batch.lr, again.lr) and torch.equal(batch.camera, again.camera)


def test_a_network_is_trained_with_them_and_told_them(pairs):
    net = FlowFuse(TINY, generator=torch.Generator().manual_seed(0))
    run = train(
        net, pairs, record=RandomCamera(), schedule=Schedule(3, patch=32, batch=2), device="cpu"
    )
    assert np.isfinite(run.history).all()
    sample = pairs[4]
    lr, hr = (torch.from_numpy(x)[None] for x in (sample.lr, sample.hr))
    tau = torch.tensor([float(sample.tau)])
    with torch.no_grad():
        one, other = (run.net(lr, hr, tau, CoarseCamera(s, photons=1e3)) for s in (0.5, 3.0))
        bright = run.net(1.1 * lr, hr, tau, CoarseCamera(0.5, gain=1.1, photons=1e3))
    assert not torch.allclose(one, other) and torch.allclose(one, bright, atol=1e-5)


def test_without_the_truth_of_its_frames_nothing_can_be_recorded(pairs):
    sample = MoviePairs(pairs.movies)[0]
    with pytest.raises(ValueError, match="frames=True"):
        RandomCamera()(sample, np.random.default_rng(0))
