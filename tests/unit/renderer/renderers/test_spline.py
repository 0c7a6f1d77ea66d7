"""Splines against SciPy and autograd; fits of a pupil's images against the bound."""

import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from helpers.noise import Poisson
from helpers.renderer.mle import crlb, fit
from helpers.renderer.mle.cpu import dispatch as compiled
from helpers.renderer.mle.cpu import images as images_cpu
from helpers.renderer.renderers import Spline2D, Spline3D
from helpers.renderer.renderers.base import Renderer
from helpers.renderer.simulate import aberrated_psf, blinks

ABERRATIONS = {5: 0.08, 7: 0.03, 11: -0.03}
Z_STEP = 0.05


@pytest.fixture(scope="module")
def stack():
    return aberrated_psf((25, 25), ABERRATIONS, z=np.arange(-14, 15) * Z_STEP)


def test_the_samples_are_reproduced(stack):
    deep = Spline3D((25, 25), stack, Z_STEP).double()
    z = (np.arange(len(stack)) - 14) * Z_STEP
    images = deep.render({"z": torch.as_tensor(z), "photons": 1.0, "background": 0.0})
    np.testing.assert_allclose(images.detach(), stack, atol=2e-9)
    flat = Spline2D((25, 25), stack[3])
    image = flat.render({"photons": 1.0, "background": 0.5})[0]
    np.testing.assert_allclose(image, stack[3] + 0.5, atol=1e-7)


def test_between_the_samples_it_is_the_spline_of_scipy(stack):
    shift = {"x": 1.37, "y": -0.61, "z": 0.083}
    image = Spline3D((11, 13), stack, Z_STEP).render(shift | {"photons": 1e4, "background": 3.0})
    y, x = np.mgrid[:11, :13]
    places = [
        np.full(y.shape, 14 + shift["z"] / Z_STEP),
        y - 5 - shift["y"] + 12,
        x - 6 - shift["x"] + 12,
    ]
    wanted = 1e4 * map_coordinates(stack, places, order=3, mode="mirror") + 3
    np.testing.assert_allclose(image[0], wanted, atol=2e-3)


def test_outside_of_its_samples_a_point_image_is_dark():
    psf = np.full((5, 5), 0.04)
    image = Spline2D((15, 15), psf).render({"photons": 100.0, "background": 1.0})[0]
    np.testing.assert_allclose(image[5:10, 5:10], 5, atol=1e-4)
    assert abs(image[:3] - 1).max() < 0.05 and abs(image[:, -3:] - 1).max() < 0.05
    far = {"x": torch.tensor([7.4, 40.0]), "y": torch.tensor([7.4, 0.0]), "background": 1.0}
    corner, gone = Spline2D((15, 15), psf).render(far | {"photons": 100.0}).detach()
    assert corner[-1, -1] > 4 and corner[0].max() < 1.1
    torch.testing.assert_close(gone, torch.ones(15, 15))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_derivatives_are_those_of_autograd(stack, dimensions):
    rng = np.random.default_rng(2000)
    renderer = Spline2D((9, 12), stack[9]) if dimensions == 2 else Spline3D((9, 12), stack, Z_STEP)
    renderer = renderer.double()
    params = {name: torch.as_tensor(rng.uniform(-2, 2, (3, 2))) for name in "xy"}
    params["photons"] = torch.as_tensor(rng.uniform(100, 900, (3, 2)))
    if dimensions == 3:
        params["z"] = torch.as_tensor(rng.uniform(-0.7, 0.7, (3, 2)))
    images, closed = renderer.jacobian(params, list(renderer.params))
    again, traced = Renderer.jacobian(renderer, params, list(renderer.params))
    torch.testing.assert_close(images, again)
    torch.testing.assert_close(closed, traced, rtol=1e-9, atol=1e-9)


def test_the_coefficients_can_be_learned(stack):
    renderer = Spline3D((9, 9), stack, Z_STEP)
    renderer.render({"z": torch.tensor([0.08]), "photons": 100.0}).sum().backward()
    slope = renderer.coefficients.grad
    assert torch.isfinite(slope).all()
    assert (slope.abs().sum((1, 2)) > 0).sum() == 4  # the planes around that depth


def test_a_stack_in_photo_electrons_is_divided_by_its_light(stack):
    one = Spline3D((9, 9), stack / stack.sum((1, 2)).max(), Z_STEP)
    many = Spline3D((9, 9), stack * 1e5, Z_STEP)
    torch.testing.assert_close(one.coefficients, many.coefficients)


def test_fits_of_a_pupil_reach_the_bound_in_three_dimensions(stack):
    """The data come from a quadrature over the pupil, the model from its samples."""
    light = {"photons": (3000.0, 3000.0), "background": (20.0, 20.0)}
    data = blinks(ABERRATIONS, 800, shape=(15, 15), **light, seed=2001)
    truth = {name: getattr(data, name) for name in ("x", "y", "z", "photons", "background")}
    renderer = Spline3D((15, 15), stack, Z_STEP)
    fits = fit(data.images, renderer, Poisson())
    bound = crlb(renderer, truth, Poisson())
    wrong = abs(fits.params["z"] - truth["z"]) > 0.3
    assert wrong.mean() < 0.01 and fits.converged.all()
    for name in ("x", "y", "z"):
        error = (fits.params[name] - truth[name])[~wrong]
        assert 0.9 < np.sqrt(np.mean(error**2) / np.mean(bound[name] ** 2)) < 1.1, name
    assert abs(np.median(fits.goodness)) < 0.3
    ideal = aberrated_psf((25, 25), {}, z=np.arange(-14, 15) * Z_STEP)
    fooled = fit(data.images[:200], Spline3D((15, 15), ideal, Z_STEP), Poisson())
    assert np.median(fooled.goodness) > 4


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_compiled_loop_gives_what_the_torch_loop_gives(stack, dimensions, monkeypatch):
    data = blinks(ABERRATIONS, 30, shape=(13, 11), depth=0.3 * (dimensions - 2), seed=2002)
    images = data.images.astype(np.float64)
    renderer = Spline2D((13, 11), stack[14]) if dimensions == 2 else Spline3D((13, 11), stack, 0.05)
    fast = fit(images, renderer, Poisson(), tol=1e-5)
    monkeypatch.setattr(compiled, "serves", lambda problem: False)
    slow = fit(images, renderer, Poisson(), tol=1e-5)
    assert fast.converged.all() and slow.converged.all()
    for name, value in slow.params.items():
        np.testing.assert_allclose(fast.params[name], value, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(fast.crlb_std[name], slow.crlb_std[name], rtol=1e-5)


@pytest.mark.parametrize("z", [-0.7, 0.01, 0.69, 0.7])
@pytest.mark.parametrize("x", [0.2, 14.6, -30.0])
def test_the_compiled_spline_is_right_where_its_samples_end(stack, x, z):
    renderer = Spline3D((9, 12), stack, Z_STEP).double()
    names = ["x", "y", "photons", "background", "z"]
    values = dict(zip(names, (x, -13.3, 500.0, 2.0, z), strict=True))
    image, slopes = renderer.jacobian(values, names)
    codes = np.array([compiled.CODES.index(name) for name in names])
    theta, drawn = np.zeros(len(compiled.CODES)), np.empty((6, 108))
    theta[codes] = list(values.values())
    scratch = np.empty((3, 2, 4)), np.empty((2, 12, 15)), np.empty(15)
    coefficients = renderer.coefficients.detach().numpy()
    images_cpu.spline(theta, codes, coefficients, Z_STEP, *scratch, drawn)
    np.testing.assert_allclose(drawn[0].reshape(9, 12), image[0].detach(), atol=1e-9)
    np.testing.assert_allclose(drawn[1:].reshape(5, 9, 12), slopes[0].detach(), atol=1e-7)


def test_what_is_no_point_image_is_refused(stack):
    with pytest.raises(ValueError, match=r"give \(Z, Y, X\)"):
        Spline3D((9, 9), stack[0], Z_STEP)
    with pytest.raises(ValueError, match=r"give \(Y, X\)"):
        Spline2D((9, 9), stack)
    with pytest.raises(ValueError, match="z_step is 0"):
        Spline3D((9, 9), stack, 0)
    with pytest.raises(ValueError, match="NaN"):
        Spline2D((9, 9), np.full((5, 5), np.nan))
    with pytest.raises(ValueError, match="it needs light"):
        Spline2D((9, 9), np.zeros((5, 5)))


def test_a_bead_as_it_comes_is_flagged():
    """Background and place of a raw bead; the ideal stack and its light in photons are quiet."""
    z = np.arange(-13, 14) * 0.05
    clean = aberrated_psf((23, 23), {5: 0.08, 7: 0.03, 11: -0.03}, z=z)
    moved = aberrated_psf((23, 23), {5: 0.08, 7: 0.03, 11: -0.03}, x=0.4, y=-0.3, z=z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Spline3D((15, 15), clean, 0.05)
        Spline3D((15, 15), 2e4 * clean, 0.05)
    raw = np.random.default_rng(0).poisson(2e4 * moved + 50)
    with pytest.warns(UserWarning, match=r"its rim holds .* \+0\.\d+ px along x and -0\."):
        Spline3D((15, 15), raw, 0.05)
    with pytest.warns(UserWarning, match="it lies"):
        Spline3D((15, 15), raw - 50.0, 0.05)
    with pytest.raises(ValueError, match="spans 1300 µm: divide nm by 1000"):
        Spline3D((15, 15), clean, 50)
