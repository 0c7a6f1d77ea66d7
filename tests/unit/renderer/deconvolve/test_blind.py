"""Volume and pupil from one stack, made by code that shares nothing with them."""

import numpy as np
import pytest

from helpers.lucy import Counts
from helpers.metrics import psnr
from helpers.optics import Pupil
from helpers.renderer.deconvolve import Blur, blind, map_tv, widefield_kernel
from helpers.renderer.deconvolve._blind import MODES, _Pupils
from helpers.renderer.simulate import bars, widefield
from helpers.renderer.simulate.volumes import ABERRATION

SHAPE = (12, 40, 40)
PUPIL = Pupil(1.3, 0.6, 1.515, 0.08, samples=80)
TRUTH = np.array([ABERRATION[j] for j in MODES])


def wavefront_error(zernikes):
    return float(np.linalg.norm([zernikes[j] - c for j, c in ABERRATION.items()]))


def test_the_pupil_error_is_more_than_halved_and_the_volume_gains():
    gains = [gain(seed) for seed in (2003, 2004)]
    assert np.mean(gains) > 0


def gain(seed):
    """PSNR that the pupil, checked here, brings over none, in dB."""
    stack = widefield(bars(SHAPE, seed=seed), seed=seed)
    seen = []
    found = blind(
        stack.counts, PUPIL, 3e-4, z_step=0.2, background=8.0, device="cpu",
        callback=lambda k, zernikes, x: seen.append(k),
    )  # fmt: skip
    before = float(np.linalg.norm(TRUTH))
    assert wavefront_error(found.zernikes) < 0.5 * before
    assert found.pupil.zernikes == found.zernikes
    assert found.background > 0
    assert seen == list(range(1, found.n_iter + 1))
    assert found.path.shape == (found.n_iter + 1, len(MODES)) and (found.path[0] == 0).all()
    kernel = widefield_kernel(PUPIL, [2 * n - 1 for n in SHAPE], 0.2, planes=12)
    wrong = map_tv(
        Blur(kernel.astype(np.float32), SHAPE), stack.counts, 3e-4, 5.0, n_iter=60, device="cpu"
    )
    return psnr(found.volume, stack.truth) - psnr(wrong.volume, stack.truth)


def test_without_aberration_none_is_invented():
    stack = widefield(bars(SHAPE, seed=2005), seed=2005, aberration={})
    found = blind(stack.counts, PUPIL, 3e-4, z_step=0.2, background=5.0, device="cpu")
    assert np.linalg.norm(list(found.zernikes.values())) < 0.03


def test_derivatives_are_those_of_finite_differences():
    import torch

    stack = widefield(bars((12, 24, 24), seed=2006), seed=2006)
    problem = _Pupils(stack.counts.shape, PUPIL, 0.2, (5, 8), margin=1)
    counts = stack.counts.astype(float)
    data = Counts(problem.first, counts, 5.0, None, None, "cpu")
    c = torch.tensor([0.03, -0.05], dtype=torch.float64)
    x = torch.rand(problem.first.in_shape, dtype=torch.float64) * 1000
    mean, columns = problem.derivatives(c, x, data)
    torch.testing.assert_close(mean, data.mean(problem.blur(c), x))
    for j, step in enumerate(1e-5 * torch.eye(2, dtype=torch.float64)):
        up, down = (data.mean(problem.blur(c + sign * step), x) for sign in (1, -1))
        torch.testing.assert_close(columns[j], (up - down) / 2e-5, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(columns[2].numpy(), 5.0)


def test_what_cannot_be_found_is_refused():
    counts = np.ones((12, 24, 24), np.float32)
    with pytest.raises(ValueError, match="only move"):
        blind(counts, PUPIL, 1e-3, z_step=0.2, background=5.0, modes=(4, 5))
    with pytest.raises(ValueError, match="above zero"):
        blind(counts, PUPIL, 1e-3, z_step=0.2, background=0.0)
    with pytest.raises(ValueError, match="give a stack"):
        blind(counts[0], PUPIL, 1e-3, z_step=0.2, background=5.0)
    with pytest.raises(ValueError, match="at least one"):
        blind(counts, PUPIL, 1e-3, z_step=0.2, background=5.0, n_rounds=0)
