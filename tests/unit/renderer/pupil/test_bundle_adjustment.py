"""The joint fit of a pupil and many places: derivatives, equations, bounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.noise import SCMOS, Poisson
from helpers.optics import Pupil, psf_from_pupil
from helpers.renderer.pupil.bundle_adjustment import Bundle
from helpers.renderer.renderers import FourierOptics

MODES = (3, 5, 7, 12)
COEFFICIENTS = torch.tensor([0.03, -0.06, 0.05, 0.02], dtype=torch.float64)
PLACES = torch.tensor(
    [[0.3, -0.6, 0.2, 4000.0, 12.0], [-0.9, 0.1, -0.4, 6000.0, 20.0], [0, 0.5, 0, 900.0, 8.0]],
    dtype=torch.float64,
)
STAGE = torch.tensor([-0.3, 0.25], dtype=torch.float64)
OIL = Pupil(1.4, 0.67, 1.518, 0.1, samples=32, zernikes={5: 0.5, 8: 0.04})
PUPILS = {
    "plain": OIL,
    "large pixels": replace(OIL, pixel_size=0.16, oversampling=None),
    "a map, a lens": replace(OIL, phase_map=np.full((32, 32), 0.1).cumsum(0) / 9, aplanatic=True),
    "two indices": replace(OIL, medium_index=1.33, stage=-0.2),
}


def by_renderer(pupil, coefficients, places, shape=(11, 13)):
    """The same images from `psf_from_pupil`."""
    zernikes = dict(zip(MODES, coefficients, strict=True))
    full = replace(pupil, zernikes={8: 0.04, **zernikes})
    x, y, z, photons, background = places.T[..., None]
    psf = psf_from_pupil(full, shape, x, y, z + STAGE)
    return photons[..., None, None] * psf + background[..., None, None]


def bundle_of(pupil, noise=None):
    renderer = FourierOptics((11, 13), pupil, modes=MODES).double()
    rng = np.random.default_rng(2000)
    counts = rng.poisson(by_renderer(pupil, COEFFICIENTS, PLACES).numpy()).astype(float)
    mask = torch.ones(counts.shape, dtype=torch.float64)
    mask[1, 0, 4:6] = 0
    return Bundle(torch.tensor(counts), mask, STAGE, renderer, noise or Poisson())


@pytest.fixture(scope="module")
def bundle():
    return bundle_of(OIL)


@pytest.mark.parametrize("kind", PUPILS)
@pytest.mark.parametrize("noise", [Poisson(), SCMOS(9.0)], ids=["shot", "scmos"])
def test_rates_and_gradient_are_those_of_the_optics(kind, noise):
    bundle, start = bundle_of(PUPILS[kind], noise), COEFFICIENTS + 0.02
    rates = by_renderer(PUPILS[kind], start, PLACES)
    torch.testing.assert_close(bundle.rates(start, PLACES), rates, rtol=1e-10, atol=1e-9)
    deviance, gradient, _ = bundle.equations(start, PLACES)

    def loss(coefficients, places):
        rate = by_renderer(PUPILS[kind], coefficients, places)
        each = noise.nll(rate, bundle.images, reduction="none")
        return (each * bundle.mask).sum()

    by_pupil, by_place = torch.autograd.functional.jacobian(loss, (start, PLACES))
    torch.testing.assert_close(gradient[:, :4].sum(0), by_pupil, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient[:, 4:], by_place, rtol=1e-6, atol=1e-6)
    further = bundle.equations(start + 0.01, PLACES)[0].sum() - deviance.sum()
    assert float(further) == pytest.approx(
        2 * float(loss(start + 0.01, PLACES) - loss(start, PLACES)), rel=1e-6
    )


def dense(bundle, coefficients, places):
    """Gradient and information of all unknowns in one vector and one matrix."""
    _, gradient, information = bundle.equations(coefficients, places)
    k, n = len(coefficients), 5 * len(places)
    whole = torch.zeros(k + n, k + n, dtype=torch.float64)
    whole[:k, :k] = information[:, :k, :k].sum(0)
    for b in range(len(places)):
        own = slice(k + 5 * b, k + 5 * b + 5)
        whole[own, own] = information[b, k:, k:]
        whole[:k, own], whole[own, :k] = information[b, :k, k:], information[b, k:, :k]
    return torch.cat([gradient[:, :k].sum(0), gradient[:, k:].flatten()]), whole


def test_taking_the_emitters_out_first_changes_no_step_and_no_bound(bundle):
    start = COEFFICIENTS * 0.8
    gradient, whole = dense(bundle, start, PLACES)
    step = -torch.linalg.solve(whole, gradient)
    _, g, information = bundle.equations(start, PLACES)
    by_pupil, by_place, wanted = bundle._step(g, information, 0.0)
    torch.testing.assert_close(torch.cat([by_pupil, by_place.flatten()]), step, rtol=1e-6, atol=0)
    assert wanted == pytest.approx(float(step @ whole @ step))
    inverse = torch.linalg.inv(whole)
    of_pupil, of_place = bundle.covariance(start, PLACES)
    torch.testing.assert_close(of_pupil, inverse[:4, :4], rtol=1e-6, atol=0)
    for b in range(3):
        own = slice(4 + 5 * b, 9 + 5 * b)
        torch.testing.assert_close(of_place[b], inverse[own, own], rtol=1e-6, atol=0)


def test_chunks_do_not_matter(bundle, monkeypatch):
    whole = bundle.equations(COEFFICIENTS, PLACES)
    monkeypatch.setattr("helpers.renderer.pupil.bundle_adjustment.AT_ONCE", 1)
    for one, other in zip(whole, bundle.equations(COEFFICIENTS, PLACES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)


def test_the_deviance_only_falls_and_ends_where_the_gradient_vanishes(bundle):
    start = PLACES * torch.tensor([0.7, 0.7, 0.7, 0.9, 1.1])
    found, places, deviance, history, converged = bundle.minimize(0 * COEFFICIENTS, start, 50, 1e-3)
    assert converged and len(history) < 40
    assert list(history) == sorted(history, reverse=True) and history[-1] < 0.5 * history[0]
    assert float(deviance.sum()) == pytest.approx(history[-1])
    gradient, whole = dense(bundle, found, places)
    assert float(gradient @ torch.linalg.solve(whole, gradient)) < 1e-6


def test_light_stays_positive(bundle):
    start = PLACES.clone()
    start[:, 3:] = torch.tensor([10.0, 500.0])
    _, places, _, history, _ = bundle.minimize(COEFFICIENTS, start, 30, 1e-2)
    assert not torch.signbit(places[:, 3:]).any() and history[-1] < history[0]
