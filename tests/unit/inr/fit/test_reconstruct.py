"""The one call: its choice of the prior, its photometry, and what it refuses."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr import phantoms
from helpers.inr.fields import Softplus, Voxels
from helpers.inr.fit import Stage, fit, losses, reconstruct
from helpers.inr.fit._reconstruct import steps
from helpers.inr.lightfield import LightField
from helpers.metrics import psnr

NOISE = {"background": 4.0, "read_noise": 1.5, "device": "cpu"}


@pytest.fixture(scope="module")
def scene():
    return phantoms.simulate("mitochondria", shape=(6, 32, 32), n_tubes=4, seed=7)


@pytest.fixture(scope="module")
def result(scene):
    return reconstruct(scene.op, scene.views, n_steps=80, **NOISE)


def test_the_volume_is_photons_of_the_object(scene, result):
    assert isinstance(result.volume, np.ndarray) and result.volume.min() >= 0
    assert result.volume.sum() == pytest.approx(scene.truth.sum(), rel=0.05)


def test_every_strength_was_judged_and_the_choice_lies_inside_the_list(result):
    choice = result.settings["choice"]
    assert len(choice.misfit) == len(choice.weights) == 6
    assert (np.diff(choice.weights) < 0).all()
    assert 0 < choice.best < 5
    # the strongest within one standard error
    inside = choice.misfit <= choice.misfit.min() + choice.standard_error
    assert choice.best == np.flatnonzero(inside)[0]


def test_far_above_and_far_below_the_chosen_strength_is_worse(scene, result):
    choice, mean = result.settings["choice"], result.field.head.mean
    quality = []
    for factor in (32, 1, 1 / 32):
        free = fit(
            Voxels(scene.truth.shape, Softplus(mean, 10 * mean)),
            scene.op,
            scene.views,
            loss=partial(losses.poisson, read_noise=scene.read_noise),
            prior=lambda v, w=factor * choice.weight: (
                w * losses.hessian(v, weights=steps(scene.op))
            ),
            schedule=Stage(200, 0.3),
            background=scene.background,
            device="cpu",
        )
        quality.append(psnr(free.volume, scene.truth, scaled=True))
    assert min(quality[1] - quality[0], quality[1] - quality[2]) > 0


def test_the_same_seed_gives_the_same_volume_and_another_seed_another(scene, result):
    again = reconstruct(scene.op, scene.views, n_steps=80, **NOISE)
    other = reconstruct(scene.op, scene.views, n_steps=80, seed=1, **NOISE)
    assert np.array_equal(again.volume, result.volume)
    assert not np.array_equal(other.volume, result.volume)


def test_hot_pixels_and_a_dead_view_are_left_out(scene, result):
    """Whatever they hold; without them the volume is nearly as good as from sound views."""
    broken = scene.views.copy()
    broken[2] = np.nan
    broken[0, 30:33, 30] = 5000
    mask = np.isfinite(broken) & (broken < 5000)
    found = reconstruct(scene.op, broken, mask=mask, n_steps=80, **NOISE)
    scores = [psnr(v, scene.truth, scaled=True) for v in (result.volume, found.volume)]
    assert scores[1] > scores[0] - 2
    assert found.volume.sum() == pytest.approx(scene.truth.sum(), rel=0.1)
    with pytest.raises(ValueError, match="the mask leaves no pixel"):
        reconstruct(scene.op, broken, mask=np.zeros_like(mask), **NOISE)
    with pytest.raises(ValueError, match="mask has shape"):
        reconstruct(scene.op, broken, mask=mask[0], **NOISE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"background": -50}, "the background is negative, down to -50"),
        ({"read_noise": -2}, "read_noise is -2"),
        ({"read_noise": np.nan}, "read_noise is nan"),
        ({"strengths": ()}, "give one number or more"),
        ({"strengths": (0, -1)}, "zero or above"),
        ({"strengths": (np.nan,)}, "zero or above"),
        ({"seed": None}, "seed is None"),
        ({"n_steps": 0}, "n_steps is 0"),
    ],
)
def test_bad_settings_are_refused_before_any_work(scene, monkeypatch, settings, message):
    monkeypatch.setattr(LightField, "adjoint", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match=message):
        reconstruct(scene.op, scene.views, **NOISE | settings)


def test_an_operator_without_an_adjoint_is_named(scene):
    with pytest.raises(TypeError, match="function has no `adjoint`.*fit_contrast for a MultiSlice"):
        reconstruct(lambda volume: volume, scene.views)


def test_torch_in_torch_out(scene):
    small = {"n_steps": 5, "strengths": (0.1,), **NOISE}
    result = reconstruct(scene.op, torch.as_tensor(scene.views), **small)
    assert isinstance(result.volume, torch.Tensor)


def test_a_gaussian_loss_takes_negative_data(scene):
    subtracted = scene.views - scene.background
    loss = partial(losses.gaussian, sigma=3.0)
    result = reconstruct(scene.op, subtracted, loss=loss, n_steps=60, device="cpu")
    assert result.volume.sum() == pytest.approx(scene.truth.sum(), rel=0.1)


def test_a_step_along_z_counts_by_its_length(scene):
    assert steps(scene.op) == pytest.approx((0.2171 / 0.34, 1, 1))
    assert steps(LightField(scene.op.psf)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: -y, "negative counts"),
        (lambda y: np.where(y > 20, np.nan, y), "NaN"),
        (lambda y: y[:6], "shape"),
        (lambda y: y[:, :-1], "shape"),
        (lambda y: np.zeros_like(y), "no light above the background"),
    ],
)
def test_bad_data_are_refused_before_any_work(scene, change, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(scene.op, change(scene.views), n_steps=10**9, **NOISE)
