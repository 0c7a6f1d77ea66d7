"""Richardson-Lucy: its guarantees, and what it is given."""

import numpy as np
import pytest
import torch

from helpers import lucy
from helpers.inr import deconvolve, lightfield
from helpers.inr.lightfield import LightField
from helpers.inr.phantoms import simulate
from helpers.lucy import Deconvolution, richardson_lucy
from helpers.metrics import psnr
from helpers.noise import Poisson
from helpers.renderer import deconvolve as blur

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


def test_there_is_one_and_users_find_it_where_they_look():
    assert lightfield.richardson_lucy is blur.richardson_lucy is richardson_lucy
    assert lightfield.view_enhanced is deconvolve.view_enhanced
    assert blur.Deconvolution is Deconvolution


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
    assert np.isfinite(fit.volume).all()
    assert fit.volume.min() >= 0  # always: every step multiplies by a ratio of counts
    assert np.diff(fit.history).max() <= 1e-6 * fit.history[0]
    assert (fit.history.size, fit.n_iter) == (81, 80)


def test_the_flux_is_kept():
    """Without background exactly, from the first iteration; with a known one within 1 %."""
    clean = simulate(seed=3, shape=SHAPE, n_tubes=5, background=0, read_noise=0)
    fit = richardson_lucy(clean.op, clean.views, 3)
    caught = float((torch.as_tensor(fit.volume) * clean.op.sensitivity).sum())
    assert caught == pytest.approx(float(clean.views.sum()), rel=1e-4)
    truth = clean.truth.astype(float).sum()
    noisy = simulate(seed=3, shape=SHAPE, n_tubes=5, read_noise=0, photons=1000, background=4)
    for b in (4.0, np.full(noisy.views.shape, 4.0), np.full((7, 1, 1), 4.0)):
        fit = richardson_lucy(noisy.op, noisy.views, 100, b)
        assert fit.volume.sum() == pytest.approx(truth / clean.scale * noisy.scale, rel=0.01)
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

    def watch(k, volume):
        seen.append((k, tuple(volume.shape)))
        return k == 3

    fit = richardson_lucy(sim.op, sim.views, 50, 4.0, watch)
    assert [s[0] for s in seen] == [1, 2, 3] and fit.n_iter == 3
    assert seen[0][1] == SHAPE and len(fit.history) == 4


def test_a_later_start_goes_on_where_it_stopped(sim):
    whole = richardson_lucy(sim.op, sim.views, 12, 4.0).volume
    half = richardson_lucy(sim.op, sim.views, 6, 4.0).volume
    again = richardson_lucy(sim.op, sim.views, 6, 4.0, start=half).volume
    np.testing.assert_allclose(again, whole, rtol=1e-4, atol=1e-4 * whole.max())


def test_kinds_are_kept(sim):
    as_array = richardson_lucy(sim.op, sim.views, 3, 4.0)
    as_tensor = richardson_lucy(sim.op, torch.as_tensor(sim.views), 3, 4.0, snapshots=(1,))
    assert isinstance(as_array, Deconvolution) and isinstance(as_array.volume, np.ndarray)
    assert torch.is_tensor(as_tensor.volume) and torch.is_tensor(as_tensor.snapshots[1])
    np.testing.assert_array_equal(as_array.volume, as_tensor.volume.numpy())


def test_voxels_that_no_view_sees_stay_dark():
    a = np.random.default_rng(0).random((5, 3))
    a[:, 1] = 0
    fit = richardson_lucy(Matrix(a), a @ np.array([1.0, 5.0, 2.0]), 300, device="cpu")
    assert fit.volume[1] == 0
    np.testing.assert_allclose(fit.volume[[0, 2]], [1, 2], rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_iter": 0}, "n_iter is 0"),
        ({"n_iter": 3, "snapshots": (4,)}, r"snapshots are \[4\]"),
        ({"start": np.ones((2, 2))}, r"start has shape \(2, 2\)"),
        ({"start": -np.ones(SHAPE)}, "start has negative"),
        ({"start": np.zeros(SHAPE)}, "nothing else than zeros"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(sim, change, message):
    with pytest.raises(ValueError, match=message):
        richardson_lucy(sim.op, sim.views, background=4.0, **change)


def test_masked_and_saturated_pixels_have_no_say(sim):
    """Whatever stands in them; without them the likelihood is that of the others."""
    hot = sim.views.copy()
    hot[:, 30:33, 20] = 5000
    clean = hot < 5000
    known = {"background": 4.0, "read_noise": 1.5, "device": "cpu"}
    masked = richardson_lucy(sim.op, np.where(clean, hot, np.nan), 20, mask=clean, **known)
    saturated = richardson_lucy(sim.op, hot, 20, saturation=5000, **known)
    np.testing.assert_allclose(masked.volume, saturated.volume, rtol=1e-5, atol=1e-5)
    assert masked.n_masked == saturated.n_masked == (~clean).sum()
    unaware = richardson_lucy(sim.op, hot, 20, **known)
    scores = [psnr(fit.volume, sim.truth, scaled=True) for fit in (masked, unaware)]
    assert scores[0] > scores[1] + 1
    z = (hot - (sim.op(masked.volume) + 4.0))[clean]
    assert masked.history[-1] == pytest.approx(
        Poisson().deviance(
            hot[clean] + 1.5**2 - z.astype(float), hot[clean] + 1.5**2, reduction="mean"
        ),
        rel=1e-3,
    )


def test_acceleration_is_ahead_and_ends_at_the_same_place(sim):
    known = {"background": 4.0, "read_noise": 1.5, "device": "cpu"}
    plain, fast = (
        richardson_lucy(sim.op, sim.views, n, accelerate=a, **known)
        for n, a in ((45, False), (15, True))
    )
    assert fast.history[-1] < plain.history[-1] and fast.volume.min() >= 0


def test_old_names_of_arguments_are_taken_with_a_warning(sim):
    with pytest.warns(DeprecationWarning, match="y is now counts"):
        old = richardson_lucy(sim.op, y=sim.views, n_iter=2, background=4.0)
    new = richardson_lucy(sim.op, sim.views, 2, 4.0)
    np.testing.assert_array_equal(old.volume, new.volume)
    with pytest.raises(TypeError, match="give counts alone"):
        richardson_lucy(sim.op, y=sim.views, counts=sim.views)


BAD = [
    ({"counts": np.ones((6, 72, 72))}, r"\(6, 72, 72\), but the operator makes \(7, 72, 72\)"),
    ({"counts": np.full((7, 72, 72), np.nan)}, "NaN or infinity: exclude them"),
    ({"counts": np.full((7, 72, 72), -0.5)}, "negative values, down to -0.5"),
    ({"background": -1.0}, "the background is -1.0: give"),
    ({"background": np.nan}, "the background is nan: give"),
    ({"background": np.ones((6, 1, 1))}, "a number or an image"),
    ({"read_noise": -1.0}, "read_noise is -1.0"),
    ({"mask": np.zeros((7, 72, 72))}, "no pixel is left"),
    ({"mask": np.ones((7, 72))}, "mask has shape"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named_before_any_work(sim, monkeypatch, change, message):
    monkeypatch.setattr(LightField, "adjoint", lambda *_: pytest.fail("work began"))
    arguments = {"counts": sim.views, "background": 4.0} | change
    with pytest.raises(ValueError, match=message):
        richardson_lucy(sim.op, arguments.pop("counts"), **arguments)


def test_other_faults_have_their_own_words():
    with pytest.raises(ValueError, match="no light into the images"):
        richardson_lucy(Matrix(np.zeros((3, 2))), np.ones(3), 2, device="cpu")
    with pytest.raises(FloatingPointError, match="gave NaN"):
        richardson_lucy(
            type("Broken", (Matrix,), {"__call__": lambda s, x: s.a @ x * np.nan})(np.ones((3, 2))),
            np.ones(3), 2, device="cpu",
        )  # fmt: skip


def test_where_there_is_no_float64_none_is_made(monkeypatch, sim):
    """As on a Mac's graphics processor, whose tensors have 32 bits at most."""
    data = lucy.Counts(sim.op, sim.views.astype(float), 4.0, device="cpu")
    wide = data.half_deviance(data.mean(sim.op, torch.as_tensor(sim.truth)))
    data.device = type("Device", (), {"type": "mps"})()
    data.y, data.used, data.background = data.y.float(), data.used.float(), data.background.float()
    monkeypatch.setattr(torch.Tensor, "double", lambda _: pytest.fail("a float64 was made"))
    narrow = data.half_deviance(data.mean(sim.op, torch.as_tensor(sim.truth)))
    assert narrow == pytest.approx(wide, rel=1e-5)
