"""Parts of the compiled loop beside NumPy and torch: normal equations of Gaussians, read noise."""

import math

import numpy as np
import pytest
import torch

from helpers.noise import EMCCD, SCMOS, Poisson, PoissonGauss
from helpers.renderer.mle import fit
from helpers.renderer.mle.cpu import dispatch as compiled
from helpers.renderer.mle.cpu import images, levenberg, likelihood, separable
from helpers.renderer.renderers import Gaussian2D, Gaussian3D
from helpers.renderer.simulate import gaussian_spots

VALUES = {
    "x": 0.4, "y": -0.7, "photons": 900.0, "background": 4.0, "sigma": 1.4, "sigma_x": 1.1,
    "sigma_y": 1.7, "z": 0.2,
}  # fmt: skip


def by_sums(renderer, shape, pixels):
    """Gradient and Fisher information of all parameters, from score and information `pixels`."""
    names = list(renderer.params)
    free = np.array([compiled.CODES.index(name) for name in names])
    theta = np.array([VALUES[name] for name in compiled.CODES])
    slopes = np.ones(2)
    if "sigma" in names:
        theta[[images.SIGMA_X, images.SIGMA_Y]] = theta[images.SIGMA]
    if "z" in names:
        images.set_widths(theta, renderer.calibration().double().numpy(), slopes)
    n, padded = len(names), sum(shape) + 9 & -8
    shares, edges = np.empty((3, padded)), np.zeros((3, padded + 1))
    images.profiles(theta, shape, edges, shares)
    weights = np.zeros((2, (shape[0] + 1) * shape[1] + separable.BLOCK))
    weights[:, : pixels.shape[1]] = pixels
    sums = np.full(separable.N_SUMS * (shape[1] + 15 & -16), np.nan)
    scratch = np.full(8, np.nan), np.full((8, 8), np.nan)
    gradient, fisher = np.empty(n), np.zeros((n, n))
    separable.normal_equations(
        weights, theta, free, slopes, shares, shape, sums, *scratch, gradient, fisher
    )
    return gradient, np.tril(fisher)


@pytest.mark.parametrize("kind", ["round", "elliptical", "astigmatic"])
@pytest.mark.parametrize("shape", [(4, 5), (7, 7), (9, 8), (13, 13), (6, 17), (20, 33)])
def test_sums_over_rows_and_columns_are_those_over_pixels(shape, kind):
    if kind == "astigmatic":
        renderer = Gaussian3D(shape, cubic=0.1, quartic=(0.05, 0.1)).double()
    else:
        renderer = Gaussian2D(shape, elliptical=kind == "elliptical")
    at = np.arange(math.prod(shape))
    pixels = np.stack([np.sin(at), 1.5 + np.cos(3 * at)])
    gradient, fisher = by_sums(renderer, shape, pixels)
    values = {name: torch.tensor([VALUES[name]], dtype=torch.float64) for name in renderer.params}
    with torch.no_grad():
        slopes = renderer.jacobian(values, list(renderer.params))[1][0].flatten(1).numpy()
    wanted = np.tril((slopes * pixels[1]) @ slopes.T)
    own = np.sqrt(np.diag(wanted))
    np.testing.assert_allclose(gradient / own, slopes @ pixels[0] / own, atol=1e-9)
    np.testing.assert_allclose(fisher / np.outer(own, own), wanted / np.outer(own, own), atol=1e-9)


@pytest.mark.parametrize("variance", [likelihood.WIDE, 10.0, 400.0])
@pytest.mark.parametrize("rate", [1e-6, 0.1, 2.0, 9.0, 60.0, 2000.0])
def test_the_sum_over_frequencies_is_that_over_electrons(rate, variance):
    counts = rate + np.sqrt(rate + variance) * np.linspace(-3.5, 6, 39)
    k = np.arange(1, int(counts.max() + rate) + 100)
    terms = k * np.log(rate) - np.cumsum(np.log(k)) - (counts[:, None] - k) ** 2 / (2 * variance)
    terms = np.concatenate([-(counts[:, None] ** 2) / (2 * variance), terms], 1)
    top = terms.max(1, keepdims=True)
    each = np.exp(terms - top)
    log_p = top[:, 0] + np.log(each.sum(1)) - rate - 0.5 * np.log(2 * math.pi * variance)
    mean = each[:, 1:] @ k / each.sum(1)
    for count, wanted, electrons in zip(counts, log_p, mean, strict=True):
        value, found = likelihood._by_frequencies(rate, math.log(rate), count, variance)
        assert value == pytest.approx(-wanted - math.log(math.pi), abs=1e-10, rel=1e-12)
        assert found == pytest.approx(electrons, rel=1e-10)


def test_impossible_counts_come_to_an_end():
    for count in (-1e5, 1e7):
        assert math.isfinite(likelihood._by_frequencies(0.1, math.log(0.1), count, 4.0)[0])


def test_one_compiled_loop_serves_every_fit():
    """Compiling takes ten seconds: arrays of another type or layout must not do it once more."""
    spots = gaussian_spots(3, (9, 9), seed=1)
    for dtype in (np.float32, np.float64):
        found = spots.images.astype(dtype)
        for noise in (Poisson(), SCMOS(np.full((9, 9), 2.0)), PoissonGauss(2.0), EMCCD(100.0)):
            fit(found, Gaussian2D((9, 9)), noise, device="cpu")
        fit(found[:, ::-1], Gaussian2D((9, 9), elliptical=True), Poisson(), device="cpu")
        fit(found, Gaussian3D((9, 9)), Poisson(), device="cpu")
        held = {name: 1.0 for name in ("x", "y", "background", "sigma")}
        fit(found, Gaussian2D((9, 9)), Poisson(), fixed=held, device="cpu")
    assert len(levenberg.minimize.signatures) == 1
