"""Numbers of the instrument, found with the volume: shifts and gains of views, the tilt axis."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import fourier_shift

from helpers.inr import phantoms
from helpers.inr.fields import Softplus, Voxels
from helpers.inr.fit import Stage, fit, losses, reconstruct
from helpers.inr.lightfield import LightField
from helpers.inr.tomography import ParallelBeam
from helpers.metrics import psnr
from helpers.operators import check_adjoint

quality = partial(psnr, scaled=True)
LOSS = partial(losses.poisson, read_noise=1.5)


@pytest.fixture(scope="module")
def scene():
    return phantoms.simulate("mitochondria", shape=(6, 32, 32), n_tubes=4, seed=7)


def displacements(op, rms=1.0, seed=0):
    """Random shifts that no shift of the object explains."""
    shifts = torch.randn(op.out_shape[0], 2, generator=torch.Generator().manual_seed(seed))
    shifts = op.without_freedom("shifts", shifts.to(op.psf))
    return (shifts * rms / shifts.pow(2).mean().sqrt()).numpy()


def moved(views, shifts):
    """Views moved in Fourier space, in a frame that keeps the ends apart."""
    frame = np.pad(views, ((0, 0), (16, 16), (16, 16)))
    turned = [
        np.fft.ifft2(fourier_shift(np.fft.fft2(v), s)).real
        for v, s in zip(frame, shifts, strict=True)
    ]
    return np.stack(turned)[:, 16:-16, 16:-16]


def recorded(scene, shifts, gains=1.0, seed=1):
    clean = np.maximum(moved(scene.expected - 4, shifts), 0) * gains + 4
    rng = np.random.default_rng(seed)
    return rng.poisson(clean) + rng.normal(0, 1.5, clean.shape)


def by_voxels(op, views, n_steps=120, **settings):
    mean = float((views - 4).sum() / op.sensitivity.sum())
    start = Voxels(op.in_shape, Softplus(mean, scale=10 * mean))
    return fit(
        start, op, views, loss=LOSS, background=4.0, device="cpu",
        prior=lambda v: 4e-3 * losses.hessian(v, weights=(0.64, 1, 1)),
        schedule=Stage(n_steps, 0.3, betas=(0.8, 0.95)), **settings,
    )  # fmt: skip


def test_moved_views_are_those_that_scipy_moves(scene):
    shifts = displacements(scene.op)
    gains = np.linspace(0.8, 1.2, 7)
    volume = scene.truth.astype(np.float64)
    h = scene.op.psf.double()
    plain = LightField(h, volume.shape[1:], scene.op.out_shape[1:])
    op = LightField(h, volume.shape[1:], scene.op.out_shape[1:], shifts=shifts, gains=gains)
    wanted = moved(plain(volume), shifts) * gains[:, None, None]
    assert np.abs(op(volume) - wanted)[:, 4:-4, 4:-4].max() < 1e-3 * wanted.max()
    assert check_adjoint(op) < 1e-12
    assert check_adjoint(op.select([0, 4])) < 1e-12
    np.testing.assert_allclose(op.select([4])(volume)[0], op(volume)[4], atol=1e-9)
    np.testing.assert_allclose(
        plain.at({"shifts": shifts, "gains": gains})(volume), op(volume), atol=1e-8 * wanted.max()
    )


def test_a_shift_of_the_object_is_no_shift_of_the_views(scene):
    """Along the slices exactly; along the axis to what the parallax is not straight."""
    op = scene.op
    side = torch.ones(7, 2) * torch.tensor([0.7, -1.2])
    assert op.without_freedom("shifts", side).abs().max() < 1e-6
    deep = op._parallax
    assert deep.norm() > 1
    assert op.without_freedom("shifts", deep.clone()).abs().max() < 1e-5
    blob = np.zeros(op.in_shape, np.float32)
    blob[2:4, 14:18, 14:18] = 1
    up = np.roll(blob, 1, 0)
    as_shift = op.at({"shifts": deep})(blob)
    assert np.corrcoef(as_shift.ravel(), op(up).ravel())[0, 1] > 0.98
    assert np.corrcoef(op(blob).ravel(), op(up).ravel())[0, 1] < 0.95


def test_shifts_and_gains_are_found_with_the_volume(scene):
    shifts = displacements(scene.op)
    gains = 1 + np.linspace(-0.15, 0.15, 7)
    aligned = by_voxels(scene.op, recorded(scene, 0 * shifts))
    views = recorded(scene, shifts, gains[:, None, None])
    as_given, found = (
        by_voxels(scene.op, views, learn=learn) for learn in ((), ["shifts", "gains"])
    )
    error = found.learned["shifts"] - shifts
    assert np.sqrt((error**2).mean()) < 0.25
    np.testing.assert_allclose(found.learned["gains"], gains, atol=0.04)
    db = [quality(f.volume, scene.truth) for f in (aligned, as_given, found)]
    assert db[1] < db[0] - 1.5
    assert db[2] > db[0] - 1
    # an error bar for each: of the right size, if the volume were known
    ratio = error / found.errors["shifts"]
    assert 0.3 < np.sqrt((ratio**2).mean()) < 6
    assert as_given.goodness.max() / found.goodness.max() > 1.1
    assert found.operator.shifts.requires_grad is False


def test_the_axis_is_found_with_the_volume():
    series = phantoms.simulate_opt(15, shape=(24, 24, 24), seed=2)
    width = series.op.out_shape[2]
    far = phantoms.simulate_opt(15, shape=(24, 24, 24), seed=2)
    y = np.roll(far.projections, 1, -1)
    op = ParallelBeam(series.op.angles_deg, series.op.in_shape, width)
    mean = float((y - 4).sum() / op(np.ones(op.in_shape)).sum())
    result = fit(
        Voxels(op.in_shape, Softplus(mean, scale=10 * mean)), op, y, background=4.0,
        prior=lambda v: 0.05 * losses.hessian(v), learn=["offset"], device="cpu",
        schedule=Stage(120, 0.5, betas=(0.8, 0.9)),
    )  # fmt: skip
    assert float(result.learned["offset"]) == pytest.approx(1.0, abs=0.1)
    assert result.operator.offset == pytest.approx(float(result.learned["offset"]))


def test_a_checkpoint_knows_what_was_learned(scene, tmp_path):
    shifts = displacements(scene.op)
    views, path = recorded(scene, shifts), tmp_path / "a.safetensors"
    whole = by_voxels(scene.op, views, 20, learn=["shifts"])
    stopped = by_voxels(
        scene.op, views, 20, learn=["shifts"], checkpoint=path, callback=lambda step: step == 10
    )
    assert stopped.n_iter == 10
    resumed = by_voxels(scene.op, views, 20, learn=["shifts"], checkpoint=path)
    assert np.array_equal(resumed.volume, whole.volume)
    assert np.array_equal(resumed.learned["shifts"], whole.learned["shifts"])
    for change in ({"learn": ()}, {"learn": ["shifts", "gains"]}):
        with pytest.raises(ValueError, match="another (run|model)"):
            by_voxels(scene.op, views, 20, checkpoint=path, **change)
    other = scene.op.at({"shifts": shifts})
    with pytest.raises(ValueError, match="another run, with operator"):
        by_voxels(other, views, 20, checkpoint=path, learn=["shifts"])


def test_one_call_learns_under_a_mask_and_says_what_is_wrong(scene):
    shifts = displacements(scene.op)
    views = recorded(scene, shifts)
    mask = np.ones(views.shape, bool)
    mask[2, 20:24, 20:24] = False
    views[~mask] = 6e4
    settings = {"background": 4.0, "read_noise": 1.5, "n_steps": 40, "device": "cpu"}
    settings |= {"strengths": (0.2,)}
    found = reconstruct(scene.op, views, mask=mask, learn=["shifts"], **settings)
    error = found.learned["shifts"] - shifts
    assert np.sqrt((error**2).mean()) < 0.15
    assert found.goodness.shape == (7,) and found.goodness.max() < 1.5
    with pytest.warns(UserWarning, match="hot pixels"):
        reconstruct(scene.op, views, **settings)


def test_counts_below_zero_need_read_noise(scene):
    """A camera's offset is subtracted, and the dark reads less than nothing half of the time."""
    views = scene.views - 4.0
    assert views.min() < -1
    result = reconstruct(
        scene.op, views, read_noise=2.5, n_steps=40, strengths=(0.2,), device="cpu"
    )
    assert quality(result.volume, scene.truth) > 22
    with pytest.raises(ValueError, match="negative counts, down to"):
        reconstruct(scene.op, views, n_steps=40, device="cpu")
    with pytest.raises(ValueError, match="does not reach so far"):
        reconstruct(scene.op, views - 50, read_noise=1.5, n_steps=40, device="cpu")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"learn": "shifts"}, ValueError, r"learn=\['shifts'\]"),
        (
            {"learn": ["tilt"]},
            ValueError,
            r"\['tilt'\], but the operator has \['gains', 'shifts'\]",
        ),
        ({"learn": ["shifts"], "schedule": Stage(5, 0.3, views=2)}, ValueError, "looks at a part"),
    ],
)
def test_what_cannot_be_learned_is_refused(scene, change, error, words):
    start = Voxels(scene.op.in_shape, Softplus(0.3))
    settings = {"loss": LOSS, "background": 4.0, "device": "cpu"} | change
    with pytest.raises(error, match=words):
        fit(start, scene.op, scene.views, **settings)
    if "schedule" not in change:
        with pytest.raises(error, match=words):
            reconstruct(scene.op, scene.views, learn=change["learn"], device="cpu")
    with pytest.raises(TypeError, match="nothing that could be learned"):
        fit(start, lambda v: scene.op(v), scene.views, learn=["shifts"], device="cpu")
