"""Renderers and cameras: the same images and derivatives on CUDA as on the CPU."""

import numpy as np
import pytest
import torch

from helpers.interpolate import spline_prefilter, spline_sample
from helpers.noise import EMCCD, SCMOS, Poisson, PoissonGauss
from helpers.optics import Pupil
from helpers.renderer.renderers import Convolution, FourierOptics, Gaussian2D, Template

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
PUPIL = Pupil(1.4, 0.67, 1.518, 0.1, samples=40, zernikes={5: 0.08})
SPOTS = [
    Gaussian2D((15, 15)),
    Template((15, 15)),
    FourierOptics((15, 15), PUPIL, modes=[5, 7], learn_map=True),
]


def places(renderer):
    rng = np.random.default_rng(2000)
    ranges = {"x": (-2, 2), "y": (-2, 2), "z": (-0.4, 0.4), "photons": (300, 900)}
    params = {
        name: torch.from_numpy(rng.uniform(*span, (64, 2))).float()
        for name, span in ranges.items()
        if name in renderer.params
    }
    return params | {"background": torch.full((64,), 3.0)}


@pytest.mark.parametrize("renderer", SPOTS, ids=lambda r: type(r).__name__)
def test_spots_are_the_same(renderer):
    params = places(renderer)
    there = {name: value.cuda() for name, value in params.items()}
    here, slopes = renderer.jacobian(params, list(params))
    renderer = renderer.to("cuda")
    image, columns = renderer.jacobian(there, list(params))
    renderer.to("cpu")
    assert image.is_cuda and columns.is_cuda
    torch.testing.assert_close(image.cpu(), here, rtol=1e-4, atol=1e-4 * float(here.max()))
    torch.testing.assert_close(columns.cpu(), slopes, rtol=1e-3, atol=1e-4 * float(slopes.max()))


def test_blurred_objects_are_the_same():
    kernel, thing = torch.rand(5, 7), torch.rand(3, 24, 30) * 50
    for learn in (False, True):
        blurred = Convolution((24, 30), kernel, learn_kernel=learn)
        here = blurred.render({"object": thing})
        there = blurred.to("cuda").render({"object": thing.cuda()})
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "noise", [Poisson(), SCMOS(4.0), PoissonGauss(np.full((5, 40), 2.0)), EMCCD(300, 900.0)]
)
def test_cameras_are_the_same(noise):
    rate = torch.linspace(0.1, 300, 200).view(5, 40)
    counts = noise.sample(rate.cuda(), torch.Generator("cuda").manual_seed(2000))
    assert counts.is_cuda
    for function in (noise.nll, noise.deviance):
        there = function(rate.cuda(), counts, reduction="none").cpu()
        here = function(rate, counts.cpu(), reduction="none")
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)
    score = noise.score(rate, counts.cpu())
    torch.testing.assert_close(noise.score(rate.cuda(), counts).cpu(), score, rtol=1e-3, atol=1e-3)
    information = noise.information(rate)
    torch.testing.assert_close(
        noise.information(rate.cuda()).cpu(), information, rtol=1e-4, atol=1e-6
    )


def test_splines_are_the_same():
    volume = torch.rand(9, 20, 21)
    places = [torch.rand(50) * n for n in volume.shape]
    here = spline_sample(spline_prefilter(volume), places)
    there = spline_sample(spline_prefilter(volume.cuda()), [p.cuda() for p in places])
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)
