"""Twins, tilts and defocus: what images cannot tell."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.optics import Pupil, disc, psf_from_pupil
from helpers.renderer.pupil import align, twin

OIL = Pupil(1.4, 0.67, 1.518, 0.1, samples=64)
MIXED = {3: 0.04, 5: -0.07, 6: 0.03, 8: 0.06, 12: -0.05, 18: 0.02}
SHAPE = (21, 25)


def test_the_twin_makes_the_same_images_on_the_other_side():
    rng = np.random.default_rng(2000)
    pupil = replace(OIL, zernikes=MIXED, phase_map=0.05 * rng.standard_normal((64, 64)))
    other = twin(pupil)
    z = np.array([-0.5, 0.0, 0.3])
    ours = psf_from_pupil(pupil, SHAPE, 0.4, -0.7, z)
    np.testing.assert_allclose(psf_from_pupil(other, SHAPE, 0.4, -0.7, -z), ours, atol=1e-12)
    # and not the same on this side
    assert abs(psf_from_pupil(other, SHAPE, 0.4, -0.7, z) - ours).max() > 0.1 * ours.max()
    assert twin(other).zernikes == MIXED
    np.testing.assert_array_equal(twin(other).phase_map, pupil.phase_map)
    assert twin(OIL).zernikes is None


def test_offsets_are_what_positions_must_lose():
    """Images of the tilted pupil equal those of the other one at places without the offsets."""
    tilted = replace(OIL, zernikes=MIXED | {1: 0.08, 2: -0.05})
    offset = align(tilted, replace(OIL, zernikes=MIXED))
    assert offset.rms < 1e-12 and not offset.flipped and abs(offset.z) < 1e-12
    ours = psf_from_pupil(tilted, SHAPE, 0.3, 0.1, 0.2)
    theirs = psf_from_pupil(
        replace(OIL, zernikes=MIXED), SHAPE, 0.3 - offset.x, 0.1 - offset.y, 0.2
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_defocus_counts_as_depth():
    u = (np.arange(64) * 2 + 1 - 64) / 64
    squared = 1.4**2 * (u[:, None] ** 2 + u**2).clip(max=1)
    kz = np.sqrt(1.518**2 - squared) / 0.67  # waves per µm
    lifted = replace(OIL, zernikes=MIXED, phase_map=0.1 * kz)
    plain = replace(OIL, zernikes=MIXED)
    offset = align(lifted, plain)
    assert offset.rms < 1e-12 and offset.z == pytest.approx(-0.1)
    ours = psf_from_pupil(lifted, SHAPE, z=0.2)
    np.testing.assert_allclose(ours, psf_from_pupil(plain, SHAPE, z=0.2 - offset.z), atol=1e-12)
    # the Zernike of defocus is most of it, not all
    part = align(replace(OIL, zernikes=MIXED | {4: 0.1}), plain)
    assert 0.001 < part.rms < 0.05


def test_what_is_left_is_the_error():
    wrong = replace(OIL, zernikes=MIXED | {5: -0.04, 7: 0.04})
    offset = align(wrong, replace(OIL, zernikes=MIXED))
    assert offset.rms == pytest.approx(0.05, rel=0.01)
    assert np.isnan(offset.remainder[0, 0])
    np.testing.assert_array_equal(np.isnan(offset.remainder), disc(64) == 0)
    rms = np.sqrt(np.average(np.nan_to_num(offset.remainder) ** 2, weights=disc(64)))
    assert offset.rms == pytest.approx(rms)


def test_a_twin_is_recognised_only_when_asked():
    other, truth = twin(replace(OIL, zernikes=MIXED)), replace(OIL, zernikes=MIXED)
    assert align(other, truth).rms > 0.15
    found = align(other, truth, allow_twin=True)
    assert found.flipped and found.rms < 1e-12
    assert not align(truth, truth, allow_twin=True).flipped


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: twin(replace(OIL, medium_index=1.33)), "no twin"),
        (lambda: align(OIL, replace(OIL, na=1.3)), "na is 1.4 in the estimate but 1.3"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
