"""Pupils from single blinks that were made by quadrature; the twin; wrong input."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from helpers.optics import Pupil
from helpers.renderer.pupil import PupilFit, align, retrieve_from_blinks, twin
from helpers.renderer.pupil._retrieve import BLINK_MODES
from helpers.renderer.simulate import blinks, random_aberrations

COARSE = Pupil(1.4, 0.67, 1.518, 0.1, samples=32)
SEEDS = range(2000, 2005)


def blinks_of(seed, n_blinks=200, **changes):
    """Aberrations of 85 milliwaves besides an astigmatism of known sign."""
    others = [j for j in BLINK_MODES if j != 5]
    sign = 1 if seed % 2 else -1
    aberrations = random_aberrations(0.085, others, seed=seed) | {5: sign * 0.08}
    return blinks(aberrations, n_blinks, seed=seed, **changes), sign


@pytest.mark.parametrize("seed", SEEDS)
def test_two_hundred_blinks_give_the_pupil(seed):
    seen, sign = blinks_of(seed)
    start = replace(COARSE, zernikes={5: 0.05 * sign})
    fit = retrieve_from_blinks(seen.images, start, device="cpu")
    offset = align(fit.pupil, replace(COARSE, zernikes=seen.aberrations))
    assert isinstance(fit, PupilFit) and fit.converged
    assert offset.rms < 5e-3 and offset.rms < 2 * fit.crlb_rms
    assert np.sign(fit.coefficients[5]) == sign
    errors = {
        "x": fit.x - offset.x - seen.x,
        "y": fit.y - offset.y - seen.y,
        "z": fit.z - offset.z - seen.z,
    }
    for name, error in errors.items():
        ratio = np.sqrt(np.mean((error / fit.crlb_std[name]) ** 2))
        assert 0.75 < ratio < 1.25, name
    assert np.abs(fit.goodness).max() < 7 and fit.expected.shape == seen.images.shape


def test_a_molecule_in_the_wrong_plane_is_found_again():
    """With the pupil of the start one of these ends on the wrong side of the focus."""
    others = [j for j in BLINK_MODES if j != 5]
    aberrations = random_aberrations(0.13, others, seed=2008) | {5: -0.08}
    seen = blinks(aberrations, 40, seed=2008)
    start = replace(COARSE, zernikes={5: -0.05})
    fit = retrieve_from_blinks(seen.images, start, device="cpu")
    assert fit.converged and np.abs(fit.goodness).max() < 5
    assert np.abs(fit.z - seen.z).max() < 0.1


def test_the_wrong_prior_gives_the_twin_and_nothing_tells():
    seen, sign = blinks_of(2000, 60)
    truth = replace(COARSE, zernikes=seen.aberrations)
    right, wrong = (
        retrieve_from_blinks(
            seen.images, replace(COARSE, zernikes={5: s * 0.05 * sign}), device="cpu"
        )
        for s in (1, -1)
    )
    assert align(right.pupil, truth).rms < 5e-3
    assert align(wrong.pupil, truth).rms > 0.1
    offset = align(wrong.pupil, truth, allow_twin=True)
    assert offset.flipped and offset.rms < 5e-3
    assert wrong.deviance.sum() == pytest.approx(right.deviance.sum(), abs=1.0)
    assert np.std(-wrong.z - offset.z - seen.z) < 0.02
    both = twin(right.pupil).zernikes
    assert all(abs(both[j] - c) < 1e-3 for j, c in wrong.coefficients.items())


def test_a_start_that_tells_no_side_is_reported():
    seen, _ = blinks_of(2001, 20)
    with pytest.warns(UserWarning, match="same from above and below"):
        retrieve_from_blinks(seen.images, COARSE, n_iter=1, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retrieve_from_blinks(
            seen.images, replace(COARSE, zernikes={3: 0.01}), n_iter=1, device="cpu"
        )


def test_a_run_that_was_stopped_goes_on():
    seen, sign = blinks_of(2002, 40)
    start = replace(COARSE, zernikes={5: 0.05 * sign})
    whole = retrieve_from_blinks(seen.images, start, device="cpu")
    part = retrieve_from_blinks(seen.images, start, n_iter=2, device="cpu")
    assert not part.converged and part.n_iter == 2
    rest = retrieve_from_blinks(seen.images, start, start=part, device="cpu")
    assert rest.converged and max(*rest.history, part.history[-1]) == part.history[-1]
    for j, c in whole.coefficients.items():
        assert rest.coefficients[j] == pytest.approx(c, abs=1e-4)
    with pytest.raises(ValueError, match="40 emitters but there are 39 images"):
        retrieve_from_blinks(seen.images[1:], start, start=part, device="cpu")


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (np.ones((15, 15)), {}, r"give \(B, Y, X\)"),
        (np.ones((1, 15, 15)), {}, "give more or larger"),
        (np.ones((9, 2, 2)), {}, "give more or larger"),
        (np.ones((9, 15, 15)), {"depth": 600}, "not nm"),
        (np.full((9, 15, 15), np.nan), {}, "NaN"),
        (-np.ones((9, 15, 15)), {}, "shot noise cannot"),
        (np.ones((9, 15, 15)), {"modes": (0, 3)}, "mode 0"),
    ],
)
def test_wrong_blinks_are_refused(images, changes, message):
    with pytest.raises(ValueError, match=message):
        retrieve_from_blinks(images, replace(COARSE, zernikes={5: 0.05}), **changes, device="cpu")
