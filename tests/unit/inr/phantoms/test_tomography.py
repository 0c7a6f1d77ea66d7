"""Specimens as objects in physical units, and their shadows against numerical integration."""

import numpy as np
import pytest

from helpers.inr.phantoms import apoferritin, cells, simulate_cryo, simulate_opt
from helpers.inr.phantoms.tomography import Blob, octahedral_rotations, sample, shadows, shell_blobs

SIMULATIONS = [(simulate_opt, 5), (simulate_cryo, 5)]


def tilted(axes, solid):
    """One blob that is aligned with nothing."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    matrix = turn @ np.diag(np.square(axes)) @ turn.T
    return Blob(np.array([1.3, -0.7, 2.1]), matrix, 0.8, solid)


@pytest.mark.parametrize("solid", [True, False])
@pytest.mark.parametrize("angle", [0.0, 35.0, 90.0, -50.0])
def test_a_shadow_is_the_integral_along_the_rays(solid, angle):
    blob = tilted((2.0, 3.5, 5.0) if solid else (1.0, 1.6, 2.2), solid)
    image = shadows([blob], [angle], (24, 26), 1.0, finer=1)[0]
    steps = np.linspace(-20, 20, 4001)
    form = np.linalg.inv(blob.matrix)
    rng = np.random.default_rng(1)
    for row, column in zip(rng.integers(6, 18, 40), rng.integers(6, 20, 40), strict=True):
        s, y = column - 12.5, row - 11.5
        turn = np.deg2rad(angle)
        ray = np.stack(
            [
                s * np.sin(turn) + steps * np.cos(turn),
                np.full_like(steps, y),
                s * np.cos(turn) - steps * np.sin(turn),
            ],
            axis=1,
        )
        square = np.einsum("ni,ij,nj->n", ray - blob.centre, form, ray - blob.centre)
        profile = square <= 1 if solid else np.exp(-square / 2)
        assert image[row, column] == pytest.approx(0.8 * profile.sum() * 0.01, abs=0.02)


@pytest.mark.parametrize("solid", [True, False])
def test_voxels_and_shadows_hold_the_same_amount(solid):
    blob = tilted((2.0, 3.5, 5.0) if solid else (1.0, 1.6, 2.2), solid)
    exact = (4 / 3 * np.pi if solid else (2 * np.pi) ** 1.5) * np.sqrt(np.linalg.det(blob.matrix))
    volume = sample([blob], (26, 24, 26), (1.0, 1.0, 1.0), finer=3)
    assert volume.sum() == pytest.approx(0.8 * exact, rel=0.01)
    views = shadows([blob], [0, 20, 75], (24, 26), 1.0, finer=4)
    np.testing.assert_allclose(views.sum((1, 2)), 0.8 * exact, rtol=0.005)


def test_the_symmetry_of_a_cube_has_24_rotations():
    group = octahedral_rotations()
    assert group.shape == (24, 3, 3)
    np.testing.assert_allclose(np.linalg.det(group), 1)
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 9)
    assert len(np.unique(products, axis=0)) == len(np.unique(group.reshape(-1, 9), axis=0)) == 24


def test_a_shell_is_hollow_round_and_symmetric():
    blobs = shell_blobs((16.0, 16.0, 16.0), seed=3, n_shells=1)
    assert len(blobs) == 26
    centre = blobs[0].centre
    distance = [np.linalg.norm(blob.centre - centre) for blob in blobs[2:]]
    np.testing.assert_allclose(distance, 4.9)
    volume = sample(blobs, (64, 64, 64), (0.25,) * 3, finer=1)
    axes = [(np.arange(64) - 31.5) * 0.25 - c for c in centre]
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    assert np.abs(volume[radius < 3]).max() < 1e-6 and not volume[radius > 7.3].any()
    assert 0.4 < volume[(radius > 4.6) & (radius < 5.2)].mean() < 1.3


def test_only_the_size_of_the_field_decides_what_is_in_it():
    coarse = cells((24, 20, 24), (4.0, 4.0, 4.0), seed=2)
    fine = cells((48, 40, 48), (2.0, 2.0, 2.0), seed=2)
    binned = fine.reshape(24, 2, 20, 2, 24, 2).mean(axis=(1, 3, 5))
    # edges fall into different halves of voxels
    assert np.corrcoef(coarse.ravel(), binned.ravel())[0, 1] > 0.99
    assert coarse.sum() == pytest.approx(binned.sum(), rel=0.02)
    assert coarse.std() > 0.05


def test_seeds_give_other_scenes_and_the_same_again():
    for phantom, size in ((cells, 4.0), (apoferritin, 1.0)):
        one, same, other = (phantom((20, 20, 20), (size,) * 3, seed=s) for s in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).mean() > 0.1 * one.mean()
        assert one.min() > -1e-6


@pytest.mark.parametrize(("simulate", "n"), SIMULATIONS)
def test_the_operator_explains_the_data_up_to_the_grid(simulate, n):
    """Never computed with it, yet near it: within the noise, and not exactly."""
    data = simulate(n, shape=(32, 32, 32), seed=4)
    predicted = data.op(data.truth) + data.background
    mismatch = np.std(predicted - data.expected) / np.std(data.expected)
    assert 0.002 < mismatch < 0.08
    signal = data.expected - data.background
    np.testing.assert_allclose(data.op(data.truth).sum((1, 2)), signal.sum((1, 2)), rtol=0.01)


def test_photons_are_counted():
    data = simulate_opt(7, shape=(24, 24, 24), photons=300, background=5, seed=1)
    assert (data.expected - 5).max() == pytest.approx(300, rel=1e-5)
    np.testing.assert_array_equal(data.projections, np.round(data.projections))
    z = (data.projections - data.expected) / np.sqrt(data.expected)
    assert abs(z.mean()) < 0.03 and z.std() == pytest.approx(1, abs=0.03)


def test_the_noise_of_a_tilt_series_is_what_was_asked_for():
    for snr in (0.1, 1.0):
        data = simulate_cryo(9, shape=(24, 24, 24), snr=snr, seed=1)
        noise = data.projections - data.expected
        assert data.expected.var() / noise.var() == pytest.approx(snr, rel=0.05)
        assert data.op.angles_deg[0] == -60 and data.op.angles_deg[-1] == 60


@pytest.mark.parametrize(("simulate", "n"), SIMULATIONS)
def test_scene_and_noise_have_seeds(simulate, n):
    one, same, other = (simulate(n, shape=(20, 20, 20), seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.projections, same.projections)
    assert np.abs(one.truth - other.truth).max() > 0.1 * one.truth.max()
    more = simulate(n + 2, shape=(20, 20, 20), seed=0)
    scale = one.truth.max() / more.truth.max()
    np.testing.assert_allclose(more.truth * scale, one.truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cells((4, 4), (1.0, 1.0, 1.0), seed=0), "give three whole numbers"),
        (lambda: cells((4, 4, 4), (1.0, 0.0, 1.0), seed=0), "give three lengths"),
        (lambda: cells((4, 4, 4), (1.0, 1.0, 1.0), seed=0, n_cells=-1), "give zero or more"),
        (lambda: apoferritin((20, 20, 20), (0.5,) * 3, seed=0), "a shell needs 12.8 nm"),
        (lambda: apoferritin((20, 20, 20), (1.0,) * 3, seed=0, n_shells=-1), "n_shells is -1"),
        (lambda: simulate_opt(0), "at least one view"),
        (lambda: simulate_opt(photons=0), "photons above zero"),
        (lambda: simulate_opt(background=-1), "background of zero or more"),
        (lambda: simulate_cryo(1), "at least two tilts"),
        (lambda: simulate_cryo(max_tilt=95), "at most 90 degrees"),
        (lambda: simulate_cryo(snr=0), "a ratio above zero"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
