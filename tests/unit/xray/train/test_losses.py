"""The loss and the photon noise against their formulas."""

import numpy as np
import pytest
import torch

from helpers.xray.train import PoissonLR
from helpers.xray.train.losses import charbonnier, negative_psnr


def test_charbonnier_is_its_formula_and_does_not_grow_with_the_patch():
    a, b = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    expected = np.sqrt((a - b).numpy() ** 2 + 0.01**2).mean()
    assert float(charbonnier(a, b, eps=0.01)) == pytest.approx(expected)
    assert float(charbonnier(a.repeat(1, 1, 2, 2), b.repeat(1, 1, 2, 2), eps=0.01)) == (
        pytest.approx(expected)
    )


def test_it_can_be_differentiated_where_nothing_is_wrong():
    a = torch.zeros(4, requires_grad=True)
    charbonnier(a, torch.zeros(4)).backward()
    assert a.grad.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("photons", [50, 5000])
def test_the_noise_is_that_of_photons(photons):
    lr = np.full((3, 1, 100, 100), 0.4, np.float32)
    noisy = PoissonLR(photons, photons)(lr, np.random.default_rng(0))
    assert noisy.dtype == np.float32 and noisy.mean() == pytest.approx(0.4, rel=0.01)
    assert noisy.var() == pytest.approx(0.4 / photons, rel=0.05)


def test_exposures_are_drawn_evenly_in_their_logarithm():
    lr, noise = np.full((1, 1, 40, 40), 1.0, np.float32), PoissonLR(1e2, 1e4)
    rng = np.random.default_rng(0)
    exposures = np.log10([1 / noise(lr, rng).var() for _ in range(300)])
    assert 1.9 < exposures.min() < 2.1 and 3.9 < exposures.max() < 4.1
    assert np.median(exposures) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("bounds", [(0, 10), (10, 5), (1, np.inf), (np.nan, 2)])
def test_bad_exposures_are_named(bounds):
    with pytest.raises(ValueError, match="give photons with 0 < low <= high"):
        PoissonLR(*bounds)


def test_a_loss_in_decibels_is_minus_the_psnr_of_each_sample():
    a, b = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    each = [10 * np.log10(float(((x - y) ** 2).mean())) for x, y in zip(a, b, strict=True)]
    assert float(negative_psnr(a, b, floor=0)) == pytest.approx(np.mean(each))
    assert float(negative_psnr(a, a)) == pytest.approx(-60)
