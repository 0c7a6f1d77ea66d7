"""Richardson-Lucy: its guarantees, its stopping, and what it is given."""

import numpy as np
import pytest
import torch

from helpers.inr import lightfield
from helpers.inr.deconvolve import (
    RichardsonLucy,
    choose_iterations,
    line_psf,
    richardson_lucy,
    view_enhanced,
)
from helpers.inr.lightfield import LightField, Optics, psf
from helpers.inr.phantoms import simulate
from helpers.metrics import psnr
from helpers.noise import Poisson

SHAPE = (8, 32, 32)


@pytest.fixture(scope="module")
def sim():
    return simulate(seed=2, shape=SHAPE, n_tubes=5)


class Matrix:
    """A small operator that is a matrix: everything about it can be computed by hand."""

    def __init__(self, a):
        self.a = torch.as_tensor(a)
        self.in_shape, self.out_shape = (self.a.shape[1],), (self.a.shape[0],)

    def __call__(self, x):
        return self.a @ x

    def adjoint(self, y):
        return self.a.T @ y


def test_the_public_names_are_where_users_look():
    assert lightfield.richardson_lucy is richardson_lucy
    assert lightfield.view_enhanced is view_enhanced


def test_one_iteration_is_the_formula():
    rng = np.random.default_rng(0)
    a, y, f, b = rng.random((6, 4)), rng.random(6) * 9, rng.random(4) + 0.1, rng.random(6)
    expected = f / a.sum(axis=0) * (a.T @ ((y + 0.49) / (a @ f + b + 0.49)))
    fit = richardson_lucy(Matrix(a), y, 1, b, read_noise=0.7, start=f, device="cpu")
    np.testing.assert_allclose(fit.volume, expected, rtol=1e-6)
    before, after = (
        Poisson().deviance(a @ x + b + 0.49, y + 0.49, reduction="mean") for x in (f, expected)
    )
    np.testing.assert_allclose(fit.history, [before, after], rtol=1e-6)


def test_it_converges_to_the_maximum_of_the_likelihood():
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    a, b = rng.random((30, 4)), 0.5
    y = rng.poisson(a @ np.array([30.0, 0.0, 10.0, 20.0]) + b).astype(float)
    fit = richardson_lucy(Matrix(a), y, 20000, b, device="cpu")
    noise = Poisson()
    best = minimize(
        lambda x: noise.nll(a @ x + b, y), np.full(4, 10.0), bounds=[(0, None)] * 4, tol=1e-12
    )
    np.testing.assert_allclose(fit.volume, best.x, atol=1e-2)
    assert fit.converged


@pytest.mark.parametrize("read_noise", [0.0, 1.5])
def test_the_volume_is_not_negative_and_the_likelihood_never_falls(sim, read_noise):
    fit = richardson_lucy(sim.op, sim.views, 80, sim.background, read_noise=read_noise)
    assert fit.volume.min() >= 0 and np.isfinite(fit.volume).all()
    assert np.diff(fit.history).max() <= 1e-6 * fit.history[0]
    assert (fit.history.size, fit.n_iter) == (81, 80)


def test_the_flux_is_kept():
    """Without background exactly, from the first iteration; with a known one within 0.5 %."""
    clean = simulate(seed=3, shape=SHAPE, n_tubes=5, background=0, read_noise=0)
    fit = richardson_lucy(clean.op, clean.views, 3)
    caught = float((torch.as_tensor(fit.volume) * clean.op.sensitivity).sum())
    assert caught == pytest.approx(float(clean.views.sum()), rel=1e-4)
    truth = clean.truth.astype(float).sum()
    noisy = simulate(seed=3, shape=SHAPE, n_tubes=5, read_noise=0, photons=1000, background=4)
    for b in (4.0, np.full(noisy.views.shape, 4.0), np.full((7, 1, 1), 4.0)):
        fit = richardson_lucy(noisy.op, noisy.views, 100, b)
        assert fit.volume.sum() == pytest.approx(truth / clean.scale * noisy.scale, rel=5e-3)
    wrong = richardson_lucy(noisy.op, noisy.views, 100, 0.0)
    assert wrong.volume.sum() > 1.02 * truth / clean.scale * noisy.scale


def test_twice_the_photons_are_twice_the_volume(sim):
    once = richardson_lucy(sim.op, sim.views, 20, 4.0).volume
    twice = richardson_lucy(sim.op, 2 * sim.views, 20, 8.0).volume
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=1e-3 * once.max())


def test_moved_views_are_a_moved_volume(sim):
    op = LightField(sim.op.psf, (32, 32), (72, 72))
    y = np.random.default_rng(0).poisson(op(sim.truth)).astype(np.float32)
    moved = richardson_lucy(op, np.roll(y, 2, axis=2), 10, 0.5).volume
    still = richardson_lucy(op, y, 10, 0.5).volume
    inner = np.s_[:, 6:-6, 6:-6]
    difference = np.roll(still, 2, axis=2)[inner] - moved[inner]
    assert np.abs(difference).max() < 0.02 * still.max()


def test_it_sharpens_what_the_views_have_blurred(sim):
    fit = richardson_lucy(sim.op, sim.views, 40, 4.0, snapshots=(0, 1, 40))
    scores = [psnr(fit.snapshots[k], sim.truth, scaled=True) for k in (0, 1, 40)]
    assert scores[2] > scores[1] + 3 > scores[0] + 3
    np.testing.assert_array_equal(fit.snapshots[40], fit.volume)
    assert np.ptp(fit.snapshots[0]) == 0


def test_read_noise_belongs_into_the_model():
    """With its variance the truth explains the views: a deviance near 1, where there is noise."""
    s = simulate(seed=4, shape=SHAPE, n_tubes=5, photons=20, background=4, read_noise=2.0)
    plain, shifted = (
        richardson_lucy(s.op, s.views, 1, 4.0, read_noise=r, start=s.truth).history[0]
        for r in (0.0, 2.0)
    )
    assert plain > 1.5 and abs(shifted - 1) < 0.15


def test_it_can_be_watched_and_stopped(sim):
    seen = []

    def watch(k, volume, deviance):
        seen.append((k, tuple(volume.shape), deviance))
        return k == 3

    fit = richardson_lucy(sim.op, sim.views, 50, 4.0, watch)
    assert [s[0] for s in seen] == [1, 2, 3] and fit.n_iter == 3
    assert seen[0][1] == SHAPE
    np.testing.assert_allclose([s[2] for s in seen], fit.history[:3])


def test_a_later_start_goes_on_where_it_stopped(sim):
    whole = richardson_lucy(sim.op, sim.views, 12, 4.0).volume
    half = richardson_lucy(sim.op, sim.views, 6, 4.0).volume
    again = richardson_lucy(sim.op, sim.views, 6, 4.0, start=half).volume
    np.testing.assert_allclose(again, whole, rtol=1e-4, atol=1e-4 * whole.max())


def test_kinds_are_kept(sim):
    as_array = richardson_lucy(sim.op, sim.views, 3, 4.0)
    as_tensor = richardson_lucy(sim.op, torch.as_tensor(sim.views), 3, 4.0, snapshots=(1,))
    assert isinstance(as_array, RichardsonLucy) and isinstance(as_array.volume, np.ndarray)
    assert torch.is_tensor(as_tensor.volume) and torch.is_tensor(as_tensor.snapshots[1])
    np.testing.assert_array_equal(as_array.volume, as_tensor.volume.numpy())


def test_voxels_that_no_view_sees_stay_dark():
    a = np.random.default_rng(0).random((5, 3))
    a[:, 1] = 0
    fit = richardson_lucy(Matrix(a), a @ np.array([1.0, 5.0, 2.0]), 300, device="cpu")
    assert fit.volume[1] == 0
    np.testing.assert_allclose(fit.volume[[0, 2]], [1, 2], rtol=1e-3)


@pytest.mark.parametrize(("photons", "n_max"), [(30, 110), (200, 300)])
def test_the_stopping_rule_loses_little_against_the_best_stop(photons, n_max):
    """The truth judges the choice, it has no part in it; it matters when the noise is large."""
    s, scores = simulate(seed=20, shape=SHAPE, n_tubes=5, photons=photons), []
    richardson_lucy(
        s.op, s.views, n_max, s.background,
        lambda k, f, _: scores.append(psnr(f, s.truth, scaled=True)),
    )  # fmt: skip
    choice = choose_iterations(
        s.op, s.views, background=s.background, read_noise=s.read_noise, n_max=n_max
    )
    assert not choice.at_edge and choice.n_iter == choice.score.argmin()
    lost, fixed = max(scores) - scores[choice.n_iter - 1], max(scores) - scores[-1]
    print(f"{photons} photons: lost {lost:.2f} dB, at {n_max} iterations {fixed:.2f} dB")
    assert lost < 0.25 and fixed > 2 * lost and fixed > 0.4


def test_the_choice_follows_its_seed(sim):
    settings = {"background": 4.0, "read_noise": 1.5, "n_max": 12, "n_folds": 2}
    scores = [choose_iterations(sim.op, sim.views, seed=s, **settings).score for s in (1, 1, 2)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()
    three = choose_iterations(sim.op, sim.views, seed=1, **settings | {"n_folds": 3})
    assert three.score.shape == (13,) and three.at_edge and three.n_iter == 12


def test_what_judges_was_never_deconvolved(sim, monkeypatch):
    from helpers.inr import deconvolve

    given, original = [], deconvolve.richardson_lucy

    def watched(op, y, n_iter, background, *args, **kw):
        given.append((y, background))
        return original(op, y, n_iter, background, *args, **kw)

    monkeypatch.setattr(deconvolve, "richardson_lucy", watched)
    counts = np.rint(sim.views)
    choose_iterations(sim.op, counts, background=4.0, n_max=2, n_folds=3)
    kept = [y for y, _ in given]
    assert all((y <= counts).all() for y in kept)
    np.testing.assert_array_equal(sum(counts - y for y in kept), counts)  # each photon judges once
    for y, b in given:
        assert y.sum() == pytest.approx(2 / 3 * counts.sum(), rel=0.02)
        np.testing.assert_allclose(b, 4 * 2 / 3)

    given.clear()
    choose_iterations(sim.op, sim.views, background=4.0, read_noise=1.5, n_max=2, n_folds=2)
    for _, b in given:
        np.testing.assert_allclose(b, (4 + 1.5**2 + 1 / 12) / 2, rtol=1e-6)


def test_lines_follow_the_parallax():
    depths = (np.arange(9) - 4) * 0.34
    h = psf(Optics(), depths, 64)
    lines = line_psf(h)
    np.testing.assert_allclose(lines.sum((2, 3)), h.sum((2, 3)), rtol=1e-5)
    at = np.arange(64) - 32
    y = (lines.sum(3) @ at) / lines.sum((2, 3))
    x = (lines.sum(2) @ at) / lines.sum((2, 3))
    slope = np.polyfit(depths, x[1], 1)[0] * Optics().voxel_size
    assert slope == pytest.approx(0.666, abs=0.04)  # that of the peak, not of the centroid
    assert np.abs(y[1]).max() < 0.1 and np.abs(x[0]).max() < 0.1
    assert (np.count_nonzero(lines, axis=(2, 3)) <= 4).all()


def test_view_enhanced_deblurs_and_fuses(sim):
    fit = view_enhanced(sim.op, sim.views, 20, sim.background)
    assert fit.volume.shape == SHAPE and fit.volume.min() >= 0
    blurred = sim.op.adjoint(sim.views - 4.0)
    enhanced = psnr(fit.volume, sim.truth, scaled=True)
    assert enhanced > psnr(blurred, sim.truth, scaled=True) + 2
    assert fit.volume.sum() == pytest.approx(sim.truth.sum(), rel=0.1)
    seen = []
    part = view_enhanced(sim.op, sim.views, 3, 4.0, lambda k, *_: seen.append(k), snapshots=(1, 3))
    assert seen == [1, 2, 3] and list(part.snapshots) == [1, 3]
    per_view = view_enhanced(sim.op, torch.as_tensor(sim.views), 20, np.full((7, 1, 1), 4.0))
    np.testing.assert_allclose(per_view.volume.numpy(), fit.volume, atol=1e-3 * fit.volume.max())


@pytest.mark.parametrize("solver", [richardson_lucy, choose_iterations, view_enhanced])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones((6, 72, 72))}, r"\(6, 72, 72\), but the operator makes \(7, 72, 72\)"),
        ({"y": np.full((7, 72, 72), np.nan)}, "NaN or infinity"),
        ({"y": np.full((7, 72, 72), -0.5)}, "negative counts, down to -0.5"),
        ({"background": -1.0}, "background is negative or NaN"),
        ({"background": np.nan}, "background is negative or NaN"),
        ({"background": np.ones((6, 1, 1))}, "broadcast|background"),
        ({"read_noise": -1.0}, "read_noise is -1.0"),
    ],
)
def test_bad_input_is_named_before_any_work(sim, monkeypatch, solver, change, message):
    monkeypatch.setattr(LightField, "adjoint", lambda *_: pytest.fail("work began"))
    arguments = {"y": sim.views, "background": 4.0} | change
    with pytest.raises(ValueError, match=message):
        solver(sim.op, arguments.pop("y"), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_iter": 0}, "n_iter is 0"),
        ({"n_iter": 3, "snapshots": (4,)}, r"snapshots are \[4\]"),
        ({"start": np.ones((2, 2))}, r"start is \(2, 2\)"),
        ({"start": -np.ones(SHAPE)}, "start has negative"),
        ({"start": np.zeros(SHAPE)}, "nothing else than zeros"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(sim, change, message):
    with pytest.raises(ValueError, match=message):
        richardson_lucy(sim.op, sim.views, background=4.0, **change)


def test_other_faults_have_their_own_words(sim):
    with pytest.raises(ValueError, match="no light into the views"):
        richardson_lucy(Matrix(np.zeros((3, 2))), np.ones(3), 2, device="cpu")
    with pytest.raises(FloatingPointError, match="gave NaN"):
        richardson_lucy(
            type("Broken", (Matrix,), {"__call__": lambda s, x: s.a @ x * np.nan})(np.ones((3, 2))),
            np.ones(3), 2, device="cpu",
        )  # fmt: skip
    with pytest.raises(ValueError, match="n_folds is 1"):
        choose_iterations(sim.op, sim.views, n_folds=1)
    with pytest.raises(ValueError, match="Matrix has no psf"):
        view_enhanced(Matrix(np.ones((3, 2))), np.ones(3))
