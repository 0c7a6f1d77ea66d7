"""Bayesian fusion of two cameras: against dense matrices, and on data of its own model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d, gaussian_filter1d

from helpers.xray import baselines
from helpers.xray.cameras import CoarseCamera
from helpers.xray.data import MoviePairs, stack
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, simulate

SIDE, SCALE = 24, 4


def of_the_model(rng, sigma, photons, width=1.8, changes=(0.15, 0.05)):
    """Keys (2, Y, X), coarse frame (y, x), truth (Y, X): smooth changes, Gaussian noise."""
    smooth = matrix(SIDE, width / np.sqrt(2), 1)
    scale = 1 / np.sqrt((smooth**2).sum(1))[SIDE // 2]
    fields = scale**2 * smooth @ rng.standard_normal((2, SIDE, SIDE)) @ smooth.T
    truth = 0.8 + 0.1 * rng.standard_normal((SIDE, SIDE))
    keys = truth + np.array(changes)[:, None, None] * fields
    a = matrix(SIDE, sigma, SCALE)
    seen = a @ truth @ a.T
    return keys, seen + rng.standard_normal(seen.shape) * np.sqrt(seen / photons), truth


def matrix(n, sigma, scale):
    """Blur and bins along one axis, (n / scale, n), by SciPy."""
    blurred = gaussian_filter1d(np.eye(n), sigma, axis=0, mode="nearest") if sigma else np.eye(n)
    return blurred.reshape(n // scale, scale, n).mean(1)


def by_matrices(keys, y, sigma, photons):
    """The estimate in closed form, every operator a matrix; no code of the package."""
    a = matrix(SIDE, sigma, SCALE)
    seen = a @ keys @ a.T
    noise, rest = np.maximum(seen, 0.02) / photons, y - seen
    v = np.maximum((rest**2 - noise).mean((1, 2), keepdims=True), 1e-6)
    for _ in range(5):
        posterior = 1 / (1 / v + 1 / noise)
        v = (posterior / noise * rest) ** 2 + posterior
        for axis in (1, 2):
            v = correlate1d(v, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    d = keys[1] - keys[0]
    lags = [np.mean(d[k:] * d[:-k]) + np.mean(d[:, k:] * d[:, :-k]) for k in (1, 2)]
    squared = 1.5 / np.log(np.clip(lags[0] / max(lags[1], 1e-12), 1.05, 20))
    v = F.interpolate(torch.tensor(v)[None], scale_factor=SCALE, mode="bicubic")[0].numpy()
    v = np.maximum(v, 1e-8) * (squared + 2 * sigma**2 + SCALE**2 / 6) / squared
    mean = (keys / v).sum(0) / (1 / v).sum(0)
    deviation = (1 / v).sum(0).ravel() ** -0.5
    place = np.indices((SIDE, SIDE)).reshape(2, -1)
    apart = ((place[:, :, None] - place[:, None]) ** 2).sum(0)
    covariance = deviation[:, None] * np.exp(-apart / (2 * squared)) * deviation
    camera = np.kron(a, a)
    expected = camera @ mean.ravel()
    noise = np.diag(np.maximum(expected, 0.02) / photons)
    gain = covariance @ camera.T @ np.linalg.inv(camera @ covariance @ camera.T + noise)
    return mean + (gain @ (y.ravel() - expected)).reshape(SIDE, SIDE)


def as_inputs(keys, y):
    lr = torch.tensor(np.stack([y] * 3))[None, :, None]
    return lr, torch.tensor(keys)[None, :, None], torch.tensor([0.5])


@pytest.mark.parametrize(("sigma", "photons"), [(0.0, 300.0), (2.2, 3000.0), (1.0, 1e4)])
def test_it_is_the_posterior_mean_by_dense_matrices(sigma, photons):
    keys, y, _ = of_the_model(np.random.default_rng(3), sigma, photons)
    camera = CoarseCamera(sigma, photons=photons)
    found = baselines.bayesian_fusion(*as_inputs(keys, y), camera)[0, 0].numpy()
    expected = by_matrices(keys, y, sigma, photons)
    assert np.abs(found - expected).max() < 1e-3


def test_on_its_own_model_it_beats_the_other_fusions():
    errors = {name: [] for name in baselines.__all__}
    camera = CoarseCamera(1.0, photons=1000.0)
    for seed in range(12):
        keys, y, truth = of_the_model(np.random.default_rng(seed), 1.0, 1000.0)
        for name in errors:
            found = getattr(baselines, name)(*as_inputs(keys, y), camera)[0, 0].numpy()
            errors[name].append(np.mean((found - truth) ** 2))
    means = {name: float(np.mean(error)) for name, error in errors.items()}
    mine = means.pop("bayesian_fusion")
    assert mine < min(means.values())


def test_it_is_told_gain_offset_photons_and_ratio():
    movie = simulate(Experiment(shape=(32, 48), n_frames=11), seed=1000)
    sample = stack([MoviePairs([movie])[k] for k in (2, 5)])
    lr, hr, tau, _ = sample
    plain = baselines.bayesian_fusion(lr, hr, tau, CoarseCamera(2.2, photons=3000.0))
    scaled = baselines.bayesian_fusion(
        0.8 * lr + 0.1, hr, tau, CoarseCamera(2.2, gain=0.8, offset=0.1, photons=3000.0)
    )
    assert torch.allclose(plain, scaled, atol=1e-3)
    each = torch.full((2,), 2.2)
    batched = baselines.bayesian_fusion(lr, hr, tau, CoarseCamera(each, photons=3000.0))
    assert torch.allclose(plain, batched, atol=1e-3)
    alone = baselines.bayesian_fusion(lr[1:], hr[1:], tau[1:])
    assert torch.allclose(plain[1:], alone, atol=1e-4)
    blind = baselines.bayesian_fusion(lr, hr, tau, CoarseCamera(2.2, photons=1.0))
    assert (blind - hr[:, :, 0].mean(1, keepdim=True)).abs().mean() < 0.03
    camera = CoarseCamera(2.0, scale=2.92)
    found = baselines.bayesian_fusion(lr, hr[..., :24, :36], tau, camera)
    assert found.shape == (2, 1, 24, 36) and torch.isfinite(found).all()


def test_keys_that_are_the_same_stay_as_they_are():
    hr = torch.rand(1, 1, 1, 16, 24, generator=torch.Generator().manual_seed(0)).expand(
        1, 2, 1, 16, 24
    )
    lr = CoarseCamera(2.2)(hr[:, [0, 0, 0]])
    found = baselines.bayesian_fusion(lr, hr, torch.tensor([0.3]))
    assert (found - hr[:, 0]).abs().max() < 1e-3
    with pytest.raises(ValueError, match=r"give \(1, 2, 1, 16, 24\)"):
        baselines.bayesian_fusion(lr, hr[..., :20], torch.tensor([0.3]))


def test_on_melt_pools_it_beats_what_needs_no_covariance():
    pairs = MoviePairs([simulate(Experiment(), seed) for seed in (2000, 2001, 2002)], every=3)
    mine, other = (
        evaluate(f, pairs).by_clip("psnr")
        for f in (baselines.bayesian_fusion, baselines.detail_injection)
    )
    assert (mine > other).all()
    assert np.mean(mine - other) > 0.5
