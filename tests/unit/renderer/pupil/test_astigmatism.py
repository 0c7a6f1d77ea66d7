"""Widths at each depth, from beads that other code draws: Gaussian, and through a pupil."""

import numpy as np
import pytest
import yaml
from scipy.special import ndtr

from helpers.noise import Poisson
from helpers.renderer.mle import crlb, fit
from helpers.renderer.pupil import Astigmatism, calibrate_astigmatism
from helpers.renderer.renderers import Gaussian3D, Spline3D
from helpers.renderer.simulate import aberrated_psf, blinks

# width, focus, depth, cubic, quartic along x and y; both widths are equal at CROSSING
TRUTH = np.array([[1.25, 1.4], [0.28, -0.22], [0.38, 0.42], [0.1, -0.08], [0.05, 0.04]])
CROSSING = -0.01055
STEP = 0.06
STAGE = STEP * np.arange(-10, 11)
BESIDE = 0.07  # µm that the stage is off


def true_widths(z):
    t = [(z - focus) / depth for focus, depth in zip(TRUTH[1], TRUTH[2], strict=True)]
    return [
        TRUTH[0, k] * np.sqrt(1 + t[k] ** 2 + TRUTH[3, k] * t[k] ** 3 + TRUTH[4, k] * t[k] ** 4)
        for k in (0, 1)
    ]


def shares(centre, sigma, n):
    edges = np.arange(n + 1) - n / 2
    t = (edges - np.reshape(centre, (-1, 1))) / np.reshape(sigma, (-1, 1))
    return np.diff(ndtr(t), axis=1)


def spots(x, y, z, n):
    """Shares of the light of Gaussian spots, (B, n, n)."""
    along, down = true_widths(z)
    return shares(y, down, n)[:, :, None] * shares(x, along, n)[:, None, :]


def bead_field(image, stage, seed, photons=2e4, background=30.0, side=66):
    """Raw beads, each moved by part of a pixel, and in z."""
    rng = np.random.default_rng(seed)
    stack, depths = np.full((len(stage), side, side), background), []
    for row in (16, 49):
        for column in (16, 49):
            (dx, dy), dz = rng.uniform(-0.5, 0.5, 2), rng.uniform(-0.1, 0.1)
            part = np.s_[:, row - 15 : row + 16, column - 15 : column + 16]
            stack[part] += photons * image(dx, dy, stage + dz)
            depths.append((column, dz))
    return rng.poisson(stack).astype(float), np.array([dz for _, dz in sorted(depths)])


@pytest.fixture(scope="module")
def made():
    beads, depths = bead_field(lambda x, y, z: spots(x, y, z, 31), STAGE + BESIDE, 1)
    return calibrate_astigmatism(beads, z_step=STEP), depths


def test_the_constants_are_those_of_the_beads_within_their_errors(made):
    found, depths = made
    truth = TRUTH.copy()
    truth[1] -= CROSSING
    z = np.abs((found.constants - truth) / found.constants_std)
    assert z.max() < 5 and found.constants_std[:3].max() < 0.01
    assert found.residual < 0.02 and found.beads.used.all()
    # beads of one column come in either order
    expected = depths + BESIDE - CROSSING
    np.testing.assert_allclose(np.sort(found.beads.z), np.sort(expected), atol=0.005)
    assert found.z_range[0] < -0.3 and found.z_range[1] > 0.3


def test_depths_of_molecules_are_at_the_bound(made):
    found, _ = made
    rng = np.random.default_rng(2000)
    n, z = 600, rng.uniform(-0.45, 0.45, 600)
    x, y = rng.uniform(-1, 1, (2, n))
    images = rng.poisson(2000 * spots(x, y, z + CROSSING, 15) + 10.0)
    values = dict(zip(("sigma", "focus", "depth", "cubic", "quartic"), TRUTH, strict=True))
    values["focus"] = TRUTH[1] - CROSSING
    true = Gaussian3D((15, 15), **{name: tuple(v) for name, v in values.items()})
    bound = crlb(true, {"x": x, "y": y, "z": z, "photons": 2000.0, "background": 10.0}, Poisson())
    fits = fit(images, found.renderer((15, 15)), Poisson())
    error = fits.params["z"] - z
    ratio = np.sqrt(np.mean(error**2) / np.mean(bound["z"] ** 2))
    print("z over its bound:", round(float(ratio), 3))
    assert ratio < 1.1 + 3 / np.sqrt(2 * n)
    assert abs(error.mean()) < 0.005


def test_a_point_spread_that_is_no_gaussian_gives_depths_without_bias():
    """A bead is weighed as a molecule; weighed as the bright thing it is, depths are off."""
    waves, stage = {5: 0.08}, 0.07 * np.arange(-10, 11)
    stack, _ = bead_field(
        lambda x, y, z: aberrated_psf((31, 31), waves, x=x, y=y, z=z), stage, 2, 3e4
    )
    light = (3000.0, 20.0)
    seen = blinks(waves, 400, photons=light[:1] * 2, background=light[1:] * 2, depth=0.3, seed=2001)
    truth = {n: getattr(seen, n) for n in ("x", "y", "z", "photons", "background")}
    ideal = Spline3D((15, 15), aberrated_psf((23, 23), waves, z=stage), 0.07)
    bound = crlb(ideal, truth, Poisson())["z"]
    ratio = {}
    for name, molecule in {"as a molecule": light, "as a bead": (3e4, 30.0)}.items():
        found = calibrate_astigmatism(stack, z_step=0.07, z_range=(-0.35, 0.35), molecule=molecule)
        error = fit(seen.images, found.renderer((15, 15)), Poisson()).params["z"] - seen.z
        error = error - np.median(error)
        ratio[name] = float(np.sqrt(np.mean(error**2) / np.mean(bound**2)))
    print(ratio)
    assert ratio["as a molecule"] < 1.6 < 1.8 < ratio["as a bead"]


def test_a_file_gives_the_same_and_picasso_can_read_it(made, tmp_path):
    found, _ = made
    found.save(tmp_path / "lens.yaml")
    again = Astigmatism.load(tmp_path / "lens.yaml")
    np.testing.assert_array_equal(again.constants, found.constants)
    np.testing.assert_array_equal(again.constants_std, found.constants_std)
    assert again.z_range == found.z_range and again.residual == found.residual
    document = yaml.safe_load((tmp_path / "lens.yaml").read_text("utf-8"))
    z = np.linspace(*found.z_range, 50)
    for name, width in zip("XY", found.widths(z), strict=True):
        theirs = np.polyval(document[f"{name} Coefficients"], 1000 * z)
        np.testing.assert_allclose(theirs, width, rtol=0.01)
    assert (document["Number of frames"] - 1) * document["Step size in nm"] / 2 == pytest.approx(
        1000 * max(np.abs(found.z_range))
    )


def picasso_file(path, **more):
    z = np.linspace(-600, 600, 41)
    widths = [1.2 * np.hypot(1, (z - focus) / 400) for focus in (250, -250)]
    document = {
        f"{name} Coefficients": np.polyfit(z, width, 6).tolist()
        for name, width in zip("XY", widths, strict=True)
    }
    document |= {"Number of frames": 61, "Step size in nm": 20.0, "Magnification factor": 1.0}
    document = {name: value for name, value in (document | more).items() if value is not None}
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path


def test_a_calibration_of_picasso_is_read(tmp_path):
    found = Astigmatism.load(picasso_file(tmp_path / "theirs.yaml"))
    assert found.z_range == (-0.6, 0.6) and found.residual < 0.01
    expected = [[1.2, 1.2], [0.25, -0.25], [0.4, 0.4]]
    np.testing.assert_allclose(found.constants[:3], expected, atol=0.02)
    factor = {"Magnification factor": 0.8}
    scaled = Astigmatism.load(picasso_file(tmp_path / "oil.yaml", **factor))
    assert scaled.z_range == pytest.approx((-0.48, 0.48))
    np.testing.assert_allclose(scaled.widths(0.2), found.widths(0.25), rtol=0.005)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="check the name"):
        Astigmatism.load(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="is a .yaml file"):
        Astigmatism.load(tmp_path / "lens.txt")
    old = picasso_file(tmp_path / "old.yaml", **{"Number of frames": None})
    with pytest.raises(ValueError, match="z_range="):
        Astigmatism.load(old)
    assert Astigmatism.load(old, z_range=(-0.5, 0.5)).z_range == (-0.5, 0.5)
    (tmp_path / "other.yaml").write_text("Width: 3\n", "utf-8")
    with pytest.raises(ValueError, match="X Coefficients"):
        Astigmatism.load(tmp_path / "other.yaml")
    with pytest.raises(ValueError, match="no width above zero"):
        Astigmatism.load(old, z_range=(-5, 5))


def round_spots(x, y, z):
    width = 1.3 * np.hypot(1, z / 0.4)
    return shares(y, width, 31)[:, :, None] * shares(x, width, 31)[:, None, :]


def test_stacks_that_tell_no_depth_are_refused():
    def beads(x, y, z):
        return spots(x, y, z, 31)

    with pytest.raises(ValueError, match="give at least 7"):
        calibrate_astigmatism(bead_field(beads, STAGE[:5], 3)[0], z_step=STEP)
    with pytest.raises(ValueError, match="divide nm by 1000"):
        calibrate_astigmatism(bead_field(beads, STAGE[:7], 3)[0], z_step=60)
    with pytest.raises(ValueError, match="equal in no plane"):
        calibrate_astigmatism(bead_field(beads, STAGE[:8] + 1.0, 3)[0], z_step=STEP)
    with pytest.raises(ValueError, match="tells no depth|equal"):
        calibrate_astigmatism(bead_field(round_spots, STAGE, 3)[0], z_step=STEP)
    with pytest.raises(ValueError, match="narrow it"):
        calibrate_astigmatism(bead_field(beads, STAGE, 3)[0], z_step=STEP, z_range=(-0.9, 0.9))
    with pytest.raises(ValueError, match="least and the largest"):
        calibrate_astigmatism(bead_field(beads, STAGE[:7], 3)[0], z_step=STEP, z_range=(1, -1))
    with pytest.raises(ValueError, match="its photons and its background"):
        calibrate_astigmatism(bead_field(beads, STAGE[:7], 3)[0], z_step=STEP, molecule=(0.0, 10.0))
