"""Pupils from bead stacks that were made by quadrature, against the Cramer-Rao bound."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.noise import SCMOS
from helpers.optics import Pupil, disc
from helpers.renderer.pupil import align, retrieve
from helpers.renderer.pupil._retrieve import STACK_MODES
from helpers.renderer.simulate import bead_stack, random_aberrations

OIL = Pupil(1.4, 0.67, 1.518, 0.1, samples=64)
SEEDS = range(2000, 2005)


def stack_of(seed, **changes):
    return bead_stack(random_aberrations(0.16, STACK_MODES, seed=seed), seed=seed, **changes)


def errors(fit, truth):
    return np.array([c - truth[j] for j, c in fit.coefficients.items()])


@pytest.fixture(scope="module")
def bright():
    """Five stacks of 1e5 photons a plane, off the centre and out of focus, and their fits."""
    stacks = [stack_of(seed, x=0.4, y=-0.3, z=0.05) for seed in SEEDS]
    return [(s, retrieve(s.images, s.planes, OIL, device="cpu")) for s in stacks]


def test_a_bead_stack_gives_the_pupil_to_the_limit(bright):
    for stack, fit in bright:
        error = np.linalg.norm(errors(fit, stack.aberrations))
        assert fit.converged and error < 2 * fit.crlb_rms and error < 2e-3
        assert fit.crlb_rms < 1e-3
        aligned = align(fit.pupil, replace(OIL, zernikes=stack.aberrations))
        assert aligned.rms == pytest.approx(error, rel=0.1)
        rms = np.sqrt(np.average(np.nan_to_num(fit.wavefront) ** 2, weights=disc(64)))
        assert rms == pytest.approx(0.16, rel=0.02)
        assert np.isnan(fit.wavefront[0, 0]) and fit.gauge == {0: 0.0, 1: 0.0, 2: 0.0, 4: 0.0}


def test_its_errors_are_as_large_as_it_says(bright):
    """Coefficients by their covariance, places by their standard deviations, images by both."""
    chi = [
        error @ np.linalg.solve(fit.covariance, error)
        for stack, fit in bright
        for error in [errors(fit, stack.aberrations)]
    ]
    assert 40 < sum(chi) < 140  # 85 degrees of freedom
    for name in ("x", "y", "z", "photons", "background"):
        z = [(getattr(f, name) - getattr(s, name)[0]) / f.crlb_std[name] for s, f in bright]
        assert np.abs(z).max() < 4.5, name
    assert all(abs(fit.goodness) < 4 for _, fit in bright)
    for stack, fit in bright:
        np.testing.assert_allclose(fit.expected, stack.expected, atol=0.02 * stack.expected.max())


def test_few_photons_leave_larger_errors_but_no_larger_than_they_must():
    chi = []
    for seed in SEEDS:
        stack = stack_of(seed, photons=5e3, background=10)
        fit = retrieve(stack.images, stack.planes, OIL, device="cpu")
        error = errors(fit, stack.aberrations)
        assert 2e-3 < fit.crlb_rms < 5e-3
        chi.append(error @ np.linalg.solve(fit.covariance, error))
    assert 40 < sum(chi) < 140


def test_the_likelihood_matters(bright, monkeypatch):
    """Least squares instead of shot noise: the limit is missed."""

    class Flat:
        def deviance(self, rate, counts, *, reduction):
            return (rate - counts) ** 2

        def score(self, rate, counts):
            return rate - counts

        def information(self, rate):
            return torch.ones_like(rate)

    worse = 0
    for stack, fit in bright:
        flat = retrieve(stack.images, stack.planes, OIL, noise=Flat(), device="cpu")
        worse += np.linalg.norm(errors(flat, stack.aberrations)) / fit.crlb_rms
    assert worse / len(bright) > 1.1


def test_two_planes_are_enough():
    stack = stack_of(2000, planes=2, reach=0.3)
    fit = retrieve(stack.images, stack.planes, OIL, device="cpu")
    assert np.linalg.norm(errors(fit, stack.aberrations)) < 2 * fit.crlb_rms


def test_several_beads_share_one_pupil():
    aberrations = random_aberrations(0.16, STACK_MODES, seed=2000)
    beads = [
        bead_stack(aberrations, photons=5e3, x=x, z=z, seed=seed)
        for x, z, seed in ((0.0, 0.1, 2000), (-0.8, -0.1, 2001))
    ]
    images = np.stack([bead.images for bead in beads])
    both = retrieve(images, beads[0].planes, OIL, device="cpu")
    one = retrieve(images[0], beads[0].planes, OIL, device="cpu")
    assert both.crlb_rms == pytest.approx(one.crlb_rms / np.sqrt(2), rel=0.1)
    np.testing.assert_allclose(both.x, [0, -0.8], atol=0.05)
    np.testing.assert_allclose(both.z, [0.1, -0.1], atol=0.02)
    assert both.expected.shape == images.shape and one.expected.shape == images.shape[1:]


def test_read_noise_is_taken_into_account():
    chi = []
    for seed in SEEDS:
        stack = stack_of(seed, photons=2e3, background=1, read_noise=8.0)
        fit = retrieve(stack.images, stack.planes, OIL, noise=SCMOS(64.0), device="cpu")
        error = errors(fit, stack.aberrations)
        chi.append(error @ np.linalg.solve(fit.covariance, error))
    assert 40 < sum(chi) < 140


def test_saturated_pixels_are_found_left_out_and_reported(bright):
    stack, whole = bright[0]
    level = 0.6 * stack.images.max()
    clipped = np.minimum(stack.images, level)
    fit = retrieve(clipped, stack.planes, OIL, device="cpu")
    assert fit.n_masked == (clipped == level).sum() > 4 and fit.saturation == pytest.approx(level)
    assert np.linalg.norm(errors(fit, stack.aberrations)) < 2 * fit.crlb_rms
    assert whole.n_masked == 0 and whole.saturation is None
    told = retrieve(stack.images, stack.planes, OIL, saturation=level, device="cpu")
    assert told.n_masked == fit.n_masked
    taken = retrieve(clipped, stack.planes, OIL, saturation=1e9, device="cpu")
    assert np.linalg.norm(errors(taken, stack.aberrations)) > 2 * fit.crlb_rms
    assert taken.goodness > 10


def test_masked_pixels_do_not_count(bright):
    stack, whole = bright[0]
    broken, mask = stack.images.copy(), np.ones(stack.images.shape, bool)
    broken[:, 3, 4], mask[:, 3, 4] = np.nan, False
    broken[5], mask[5] = 1e6, False  # a lamp in one of the planes
    mask[5, 0, 0] = True
    broken[5, 0, 0] = stack.images[5, 0, 0]
    fit = retrieve(broken, stack.planes, OIL, mask=mask, device="cpu")
    assert fit.n_masked == 17 + 625 - 2
    assert np.linalg.norm(errors(fit, stack.aberrations)) < 2 * fit.crlb_rms


def test_a_stage_that_runs_backwards_gives_the_twin(bright):
    stack, fit = bright[0]
    backwards = retrieve(stack.images, -stack.planes, OIL, device="cpu")
    truth = replace(OIL, zernikes=stack.aberrations)
    assert align(backwards.pupil, truth).rms > 0.1
    found = align(backwards.pupil, truth, allow_twin=True)
    assert found.flipped and found.rms < 2e-3
    assert backwards.deviance == pytest.approx(fit.deviance, rel=1e-6)


def test_what_is_known_stays_and_where_it_starts_does_not_matter(bright):
    stack, fit = bright[0]
    known = {3: stack.aberrations[3], 20: stack.aberrations[20]}
    modes = tuple(j for j in STACK_MODES if j not in known)
    start = replace(OIL, zernikes={**known, 5: 0.1})
    steps = []
    part = retrieve(
        stack.images,
        stack.planes,
        start,
        modes=modes,
        device="cpu",
        callback=lambda k, c: steps.append((k, c[5])),
    )
    assert {j: part.pupil.zernikes[j] for j in known} == known
    assert set(part.coefficients) == set(modes)
    assert np.linalg.norm(errors(part, stack.aberrations)) < 2e-3
    assert [k for k, _ in steps] == list(range(1, len(steps) + 1))
    assert steps[-1][1] == pytest.approx(part.coefficients[5])
    assert len(part.history) == part.n_iter + 1
    assert list(part.history) == sorted(part.history, reverse=True)
    tensors = retrieve(torch.tensor(stack.images), torch.tensor(stack.planes), OIL)
    assert tensors.coefficients[5] == pytest.approx(fit.coefficients[5], abs=1e-9)


STACK = stack_of(2000, planes=5, photons=1e4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z": STACK.planes * 1000}, "counted in µm"),
        ({"z": STACK.planes * 1e-6}, "counted in µm"),
        ({"z": STACK.planes[:4]}, r"shape \(4,\) for 5 planes"),
        ({"z": STACK.planes * np.nan}, "NaN"),
        ({"z": [0.1] * 5}, "one plane cannot tell"),
        ({"stack": STACK.images[:1], "z": STACK.planes[:1]}, "one plane cannot tell"),
        ({"stack": STACK.images[0]}, r"give \(Z, Y, X\)"),
        ({"stack": np.where(STACK.images > 300, np.nan, STACK.images)}, "NaN or infinite: leave"),
        ({"stack": STACK.images - 60}, "shot noise cannot"),
        ({"stack": np.zeros_like(STACK.images), "mask": np.zeros((25, 25))}, "no pixel left"),
        ({"mask": np.ones((3, 25))}, "give it the shape"),
        ({"modes": (3, 4, 5)}, "mode 4 cannot be fitted"),
        ({"modes": (3, 3)}, "each OSA index once"),
        ({"modes": ()}, "at least one"),
        ({"pupil": replace(OIL, zernikes={5: np.ones(3)})}, "batch"),
        ({"pupil": replace(OIL, samples=8)}, "repeats"),
    ],
)
def test_wrong_stacks_are_refused(changes, message):
    call = {"stack": STACK.images, "z": STACK.planes, "pupil": OIL, **changes}
    with pytest.raises(ValueError, match=message):
        retrieve(**call, device="cpu")
