"""A point spread function from raw beads, and a pupil from beads that are not points."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from helpers.noise import Poisson
from helpers.optics import Pupil
from helpers.renderer.mle import crlb, fit
from helpers.renderer.pupil import BeadPSF, psf_from_beads, retrieve
from helpers.renderer.renderers import Spline3D
from helpers.renderer.simulate import aberrated_psf, bead_stack, blinks

WAVES = {5: 0.08, 7: 0.03, 11: -0.03}
STEP = 0.1
Z = np.arange(-6, 7) * STEP
SIZE = 23


def field(seed, n=9, side=102):
    """Raw beads with a background, each moved by part of a pixel, and in z."""
    rng = np.random.default_rng(seed)
    image, truth = np.full((len(Z), side, side), 50.0), []
    middles = [(r, c) for r in (18, 50, 82) for c in (18, 50, 82)][:n]
    for r, c in middles:
        (dy, dx), dz, photons = rng.uniform(-0.5, 0.5, 2), rng.uniform(-0.1, 0.1), 4e4
        bead = aberrated_psf((31, 31), WAVES, x=dx, y=dy, z=Z + dz)
        image[:, r - 15 : r + 16, c - 15 : c + 16] += photons * bead
        truth.append((c + dx - (side - 1) / 2, r + dy - (side - 1) / 2, dz))
    return rng.poisson(image).astype(float), np.array(truth)


@pytest.fixture(scope="module")
def made():
    image, truth = field(0)
    return psf_from_beads(image, pixel_size=0.1, z_step=STEP, size=SIZE), truth


def test_every_bead_is_found_where_it_is(made):
    found, truth = made
    assert isinstance(found, BeadPSF) and found.beads.used.all() and len(found.beads) == len(truth)
    truth = truth[np.argsort(truth[:, 0].round(-1) * 1000 + truth[:, 1])]
    beads = found.beads[np.argsort(found.beads.x.round(-1) * 1000 + found.beads.y)]
    error = np.stack([beads.x, beads.y, beads.z], 1) - truth
    assert error.std(0).max() < 0.02  # where the middle lies is a matter of definition
    assert np.median(beads.background) == pytest.approx(50, abs=6)
    assert found.residuals.max() < 0.1


def test_fits_with_it_reach_the_bound(made):
    """That of the true point spread, in x, y and z."""
    found, _ = made
    seen = blinks(WAVES, 400, photons=(3000, 3000), background=(20, 20), depth=0.45, seed=2000)
    ideal = Spline3D((15, 15), aberrated_psf((23, 23), WAVES, z=Z), STEP)
    truth = {n: getattr(seen, n) for n in ("x", "y", "z", "photons", "background")}
    bound = crlb(ideal, truth, Poisson())
    fits = fit(seen.images, Spline3D((15, 15), found.stack, STEP), Poisson())
    for name in "xyz":
        error = fits.params[name] - truth[name]
        error = error - error.mean()  # the middle of a point spread is a matter of definition
        ratio = np.sqrt(np.mean((error / bound[name]) ** 2))
        print(name, round(ratio, 3))
        assert ratio < 1.05 + 3 / np.sqrt(2 * len(error))
    assert np.median(fits.goodness) < 1


def test_the_result_is_ready_for_localize(made):
    found, _ = made
    assert found.stack.sum((1, 2)).max() == pytest.approx(1)
    assert found.spline.image_shape == (SIZE, SIZE) and found.spline.z_step == STEP
    single = psf_from_beads(field(1, n=4)[0][6], pixel_size=0.1, size=SIZE)
    assert single.stack.shape == (1, SIZE, SIZE) and "z" not in single.spline.params


def test_a_wrong_z_step_is_flagged_and_the_right_one_is_not():
    image, _ = field(2, n=4)
    pupil = Pupil(1.4, 0.67, 1.518, 0.1, samples=48)
    options = {"pixel_size": 0.1, "size": SIZE, "pupil": pupil, "modes": (3, *range(5, 15))}
    found = psf_from_beads(image, z_step=STEP, **options)
    assert found.pupil.coefficients[5] == pytest.approx(WAVES[5], abs=0.01)
    with pytest.warns(UserWarning, match="unexplained"):
        psf_from_beads(image, z_step=0.7 * STEP, **options)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"z_step": 50}, "divide nm by 1000"),
        ({"pixel_size": 100}, "divide nm by 1000"),
        ({"size": 12}, "odd number"),
        ({"size": 61}, "none of"),
        ({"pupil": Pupil(1.4, 0.67, 1.518, 0.13)}, "both alike"),
    ],
)
def test_wrong_units_are_refused(change, match):
    image, _ = field(3, n=4)
    options = {"pixel_size": 0.1, "z_step": STEP, "size": SIZE} | change
    with pytest.raises(ValueError, match=match):
        psf_from_beads(image, **options)
    with pytest.raises(ValueError, match="no bead|none of"):
        psf_from_beads(np.random.default_rng(0).poisson(10.0, (5, 60, 60)), pixel_size=0.1)


def test_a_pupil_from_a_blurred_bead_whose_light_fades():
    """Without the blur and the light of each plane the error is many bounds."""
    waves = {5: 0.05, 8: -0.03, 12: 0.04}
    bead = bead_stack(waves, planes=9, photons=1e5, background=0, shape=(31, 31), seed=3)
    fading = np.linspace(1.0, 0.6, 9)[:, None, None]
    rate = (
        gaussian_filter(bead.expected * fading, (0, 0.7, 0.7))
        + np.linspace(20, 40, 9)[:, None, None]
    )
    images = np.random.default_rng(4).poisson(rate).astype(float)
    pupil = Pupil(1.4, 0.67, 1.518, 0.1, samples=64)
    modes = (3, 5, 6, 7, 8, 9, 10, 11, 12)

    def error(found):
        return np.sqrt(sum((c - waves.get(j, 0)) ** 2 for j, c in found.coefficients.items()))

    plain = retrieve(images, bead.planes, pupil, modes=modes)
    found = retrieve(images, bead.planes, pupil, modes=modes, blur=None, each_plane=True)
    print(error(plain), error(found), found.crlb_rms, found.blur, found.blur_std, found.goodness)
    assert error(found) < 3 * found.crlb_rms < 0.3 * error(plain)
    assert found.blur == pytest.approx(0.7, abs=0.02)
    assert found.goodness < 0.1 * plain.goodness and found.misfit < 0.2 * plain.misfit
    assert found.photons.shape == found.background.shape == (9,)
    assert np.polyfit(range(9), found.photons / found.photons[0], 1)[0] == pytest.approx(
        -0.05, abs=0.01
    )
    with pytest.raises(ValueError, match="standard deviation in px"):
        retrieve(images, bead.planes, pupil, blur=-1)
