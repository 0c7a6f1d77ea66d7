"""Fits on CUDA are the fits of the CPU."""

import numpy as np
import pytest
import torch

from helpers.noise import SCMOS, Poisson
from helpers.renderer.mle import crlb, fit
from helpers.renderer.renderers import Gaussian2D, Gaussian3D, Spline3D
from helpers.renderer.simulate import aberrated_psf, blinks, gaussian_spots
from helpers.renderer.simulate.spots import astigmatic_spots
from tests.gpu.timing import seconds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
LIGHT = {"photons": (500, 5000), "background": (2, 20)}


def agree(there, here, most):
    """Within `most` standard deviations of the estimate."""
    assert there.converged.all() and here.converged.all()
    for name, bound in here.crlb_std.items():
        apart = abs(there.params[name] - here.params[name]) / bound
        assert np.quantile(apart, 0.99) < most and apart.max() < 10 * most, name
        np.testing.assert_allclose(there.crlb_std[name], bound, rtol=0.02)
    np.testing.assert_allclose(there.goodness, here.goodness, atol=0.01)
    np.testing.assert_array_equal(there.n_pixels, here.n_pixels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [Poisson(), SCMOS(np.linspace(1, 30, 169).reshape(13, 13))])
def test_gaussian_spots(noise, dtype):
    images = gaussian_spots(5000, **LIGHT, seed=2000).images.astype(dtype)
    renderer = Gaussian2D((13, 13))
    kw = {"tol": 1e-3, "saturation": 900.0}
    there, gpu = seconds(lambda: fit(images, renderer, noise, device="cuda", **kw))
    here, cpu = seconds(lambda: fit(images, renderer, noise, device="cpu", **kw))
    print(f"{type(noise).__name__}, {dtype.__name__}: CUDA {gpu:.3f} s, CPU {cpu:.3f} s")
    assert there.settings["device"].startswith("cuda") and there.params["x"].dtype == dtype
    agree(there, here, 0.02 if dtype == np.float32 else 0.005)


def test_spots_in_depth():
    spots = astigmatic_spots(3000, seed=2001)
    renderer = Gaussian3D((13, 13))
    agree(
        fit(spots.images.astype(float), renderer, Poisson(), device="cuda", tol=1e-3),
        fit(spots.images.astype(float), renderer, Poisson(), device="cpu", tol=1e-3),
        0.005,
    )


def test_a_spline():
    aberrations = {5: 0.08, 7: 0.03}
    stack = aberrated_psf((21, 21), aberrations, z=np.arange(-13, 14) * 0.05)
    data = blinks(aberrations, 300, seed=2002)
    renderer = Spline3D((15, 15), stack, 0.05)
    agree(
        fit(data.images.astype(float), renderer, Poisson(), device="cuda", tol=1e-3),
        fit(data.images.astype(float), renderer, Poisson(), device="cpu", tol=1e-3),
        0.005,
    )
    assert next(renderer.parameters()).device.type == "cpu"


def test_tensors_stay_on_their_device_and_reach_the_bound():
    spots = gaussian_spots(20000, photons=1000, background=10, seed=2003)
    renderer = Gaussian2D((13, 13))
    images = torch.as_tensor(spots.images).cuda()
    fits, took = seconds(lambda: fit(images, renderer, Poisson(), chunk=len(images)))
    print(f"{len(images) / took:.0f} fits a second")
    assert all(value.is_cuda for value in (*fits.params.values(), fits.goodness))
    bound = crlb(renderer, spots.truth, Poisson())
    for name in ("x", "y"):
        error = fits.params[name].cpu().numpy() - spots.truth[name]
        assert 0.97 < np.sqrt(np.mean(error**2) / np.mean(bound[name] ** 2)) < 1.03
