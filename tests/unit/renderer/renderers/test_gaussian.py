"""Gaussian spots against SciPy's error function, autograd and simple sums."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from helpers.renderer.mle.cpu import images
from helpers.renderer.renderers import Gaussian2D, Gaussian3D
from helpers.renderer.renderers.base import Renderer
from helpers.renderer.simulate import gaussian_spots
from helpers.renderer.simulate.spots import astigmatic_spots


def test_spots_are_those_that_scipy_draws():
    spots = gaussian_spots(50, (11, 14), photons=(100, 5000), sigma=(0.6, 3.0), seed=2000)
    np.testing.assert_allclose(Gaussian2D((11, 14)).render(spots.truth), spots.expected, rtol=1e-10)
    widths = {"sigma_x": (0.6, 3.0), "sigma_y": (0.6, 3.0)}
    spots = gaussian_spots(50, (11, 14), sigma=widths, seed=2001)
    both = Gaussian2D((11, 14), elliptical=True)
    np.testing.assert_allclose(both.render(spots.truth), spots.expected, rtol=1e-10)
    spots = astigmatic_spots(50, (11, 14), seed=2002)
    deep = Gaussian3D((11, 14)).double()  # its constants are float32 else
    truth = {name: torch.as_tensor(value) for name, value in spots.truth.items()}
    image = deep.render(truth).detach()
    np.testing.assert_allclose(image, spots.expected, rtol=1e-6)


def test_the_axes_and_the_centre():
    image = Gaussian2D((9, 13)).render({"x": 3.0, "y": -2.0, "sigma": 0.4, "background": 0.0})[0]
    assert np.unravel_index(image.argmax(), image.shape) == (2, 9)
    assert image.sum() == pytest.approx(1000, rel=1e-6)
    wide = Gaussian2D((9, 13), elliptical=True).render({"sigma_x": 2.0, "sigma_y": 0.5})[0]
    assert wide[4, 8] > 10 * wide[6, 6] - 100


def test_background_counts_once_and_light_adds_up():
    spots = Gaussian2D((24, 40))
    both = {"x": [[-5.0, 9.0]], "y": [[2.0, -3.0]], "photons": [[400.0, 900.0]]}
    together = spots.render(both | {"background": 7.0})
    one, two = (
        spots.render({k: [v[0][n]] for k, v in both.items()} | {"background": 0.0})
        for n in range(2)
    )
    np.testing.assert_allclose(together, one + two + 7, rtol=1e-12)


def test_single_precision_keeps_the_digits_that_a_fit_needs():
    """Shares are differences of numbers near one."""
    params = {"x": 0.3, "y": -0.4, "photons": 2e4, "background": 10.0, "sigma": 1.3}
    rough = {name: torch.tensor([value], dtype=torch.float32) for name, value in params.items()}
    fine = Gaussian2D((13, 13)).render({k: v.double() for k, v in rough.items()})
    close = Gaussian2D((13, 13)).render(rough).double()
    assert ((close - fine).abs() / fine).max() < 3e-7


@pytest.mark.parametrize(
    "renderer",
    [
        Gaussian2D((9, 12)),
        Gaussian2D((9, 12), elliptical=True),
        Gaussian3D((9, 12), sigma=(1.2, 1.4), depth=(0.4, 0.5), cubic=0.1, quartic=(0.05, 0.1)),
    ],
    ids=["round", "elliptical", "astigmatic"],
)
def test_derivatives_are_those_of_autograd(renderer):
    rng = np.random.default_rng(2003)
    params = {name: torch.as_tensor(rng.uniform(-2, 2, (3, 2))) for name in "xy"}
    params["photons"] = torch.as_tensor(rng.uniform(100, 900, (3, 2)))
    for name in set(renderer.params) & {"sigma", "sigma_x", "sigma_y"}:
        params[name] = torch.as_tensor(rng.uniform(0.8, 2, (3, 2)))
    if "z" in renderer.params:
        renderer, params["z"] = renderer.double(), torch.as_tensor(rng.uniform(-0.5, 0.5, (3, 2)))
    images, closed = renderer.jacobian(params, list(renderer.params))
    again, traced = Renderer.jacobian(renderer, params, list(renderer.params))
    torch.testing.assert_close(images, again)
    torch.testing.assert_close(closed, traced, rtol=1e-9, atol=1e-9)
    named = renderer.jacobian(params, ["background", "y"])[1]
    torch.testing.assert_close(named[:, 1:], closed[:, 2:4])


def test_the_astigmatic_constants_can_be_learned():
    deep = Gaussian3D((9, 9))
    deep.render({"z": torch.tensor([0.1, 0.3])}).square().sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in deep.parameters())
    assert all((weight.grad != 0).all() for weight in (deep.sigma, deep.focus, deep.depth))


@pytest.mark.parametrize("sigma", [0.2, 1.3, 9.0])
def test_the_compiled_error_function_is_that_of_scipy(sigma):
    for centre in (0.0, 0.37, -7.0, 60.0):
        theta, shares = np.zeros(8), np.empty((3, 32))
        theta[[images.X, images.Y]] = centre, -centre
        theta[[images.SIGMA_X, images.SIGMA_Y]] = sigma, sigma
        images.profiles(theta, (15, 14), np.zeros((3, 33)), shares)  # rows follow columns
        shares[1:] *= -1 / np.sqrt(2 * np.pi) / sigma
        for n, at, profile in ((14, centre, shares[:, :14]), (15, -centre, shares[:, 15:30])):
            edges = (np.arange(n + 1) - n / 2 - at) / sigma
            bell = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi) / sigma
            np.testing.assert_allclose(profile[0], np.diff(erf(edges / np.sqrt(2))) / 2, atol=1e-12)
            np.testing.assert_allclose(profile[1], -np.diff(bell), atol=1e-12)
            np.testing.assert_allclose(profile[2], -np.diff(edges * bell), atol=1e-12)


def test_what_makes_no_spot_is_refused():
    with pytest.raises(ValueError, match="a spot's image is"):
        Gaussian2D((3, 9, 9))
    with pytest.raises(ValueError, match="sigma is 0"):
        Gaussian3D((9, 9), sigma=0)
    with pytest.raises(ValueError, match="a width of zero"):
        Gaussian3D((9, 9), cubic=-5.0)
    for changed, message in (
        ({"sigma": 0.0}, "a width is zero"),
        ({"photons": -1.0}, "negative light"),
        ({"read_variance": -1.0}, "negative variance"),
    ):
        with pytest.raises(ValueError, match=message):
            gaussian_spots(2, **changed)


def test_simulated_noise_is_as_said():
    spots = gaussian_spots(20000, (5, 5), photons=0, background=6.0, read_variance=3.0, seed=2004)
    assert spots.images.mean() == pytest.approx(6, abs=0.02)
    assert spots.images.var() == pytest.approx(9, abs=0.1)
    again = gaussian_spots(20000, (5, 5), photons=0, background=6.0, read_variance=3.0, seed=2004)
    np.testing.assert_array_equal(spots.images, again.images)
