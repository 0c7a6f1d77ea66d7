"""When Richardson-Lucy should stop, and the fusion of enhanced views."""

import numpy as np
import pytest
import torch

from helpers.inr.deconvolve import (
    choose_iterations,
    line_psf,
    view_enhanced,
)
from helpers.inr.lightfield import LightField, Optics, psf
from helpers.inr.phantoms import simulate
from helpers.lucy import richardson_lucy
from helpers.metrics import psnr

SHAPE = (8, 32, 32)


@pytest.fixture(scope="module")
def sim():
    return simulate(seed=2, shape=SHAPE, n_tubes=5)


@pytest.mark.parametrize(("photons", "n_max"), [(30, 110), (200, 300)])
def test_the_stopping_rule_loses_little_against_the_best_stop(photons, n_max):
    """The truth judges the choice, it has no part in it; it matters when the noise is large."""
    s, scores = simulate(seed=20, shape=SHAPE, n_tubes=5, photons=photons), []
    richardson_lucy(
        s.op, s.views, n_max, s.background,
        lambda k, f: scores.append(psnr(f, s.truth, scaled=True)),
    )  # fmt: skip
    choice = choose_iterations(
        s.op, s.views, background=s.background, read_noise=s.read_noise, n_max=n_max
    )
    assert not choice.at_edge and choice.n_iter == choice.score.argmin()
    lost, fixed = max(scores) - scores[choice.n_iter - 1], max(scores) - scores[-1]
    print(f"{photons} photons: lost {lost:.2f} dB, at {n_max} iterations {fixed:.2f} dB")
    assert lost < 0.8 and lost / fixed < 0.8


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
    assert fit.volume.shape == SHAPE and not np.signbit(fit.volume).any()
    blurred = sim.op.adjoint(sim.views - 4.0)
    enhanced = psnr(fit.volume, sim.truth, scaled=True)
    assert enhanced > psnr(blurred, sim.truth, scaled=True) + 1
    assert fit.volume.sum() == pytest.approx(sim.truth.sum(), rel=0.1)
    seen = []
    part = view_enhanced(sim.op, sim.views, 3, 4.0, lambda k, *_: seen.append(k), snapshots=(1, 3))
    assert seen == [1, 2, 3] and list(part.snapshots) == [1, 3]
    per_view = view_enhanced(sim.op, torch.as_tensor(sim.views), 20, np.full((7, 1, 1), 4.0))
    np.testing.assert_allclose(per_view.volume.numpy(), fit.volume, atol=1e-3 * fit.volume.max())


@pytest.mark.parametrize("solver", [choose_iterations, view_enhanced])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": np.ones((6, 72, 72))}, r"\(6, 72, 72\), but the operator makes \(7, 72, 72\)"),
        ({"counts": np.full((7, 72, 72), np.nan)}, "NaN or infinity"),
        ({"counts": np.full((7, 72, 72), -0.5)}, "negative values, down to -0.5"),
        ({"background": -1.0}, "zero or more"),
        ({"background": np.nan}, "zero or more"),
        ({"background": np.ones((6, 1, 1))}, "broadcast|background"),
        ({"read_noise": -1.0}, "read_noise is -1.0"),
    ],
)
def test_bad_input_is_named_before_any_work(sim, monkeypatch, solver, change, message):
    monkeypatch.setattr(LightField, "adjoint", lambda *_: pytest.fail("work began"))
    arguments = {"counts": sim.views, "background": 4.0} | change
    with pytest.raises(ValueError, match=message):
        solver(sim.op, arguments.pop("counts"), **arguments)


def test_other_faults_have_their_own_words(sim):
    with pytest.raises(ValueError, match="n_folds is 1"):
        choose_iterations(sim.op, sim.views, n_folds=1)
    with pytest.raises(ValueError, match="no psf: give a LightField"):
        view_enhanced(sim.op.adjoint, sim.views)
