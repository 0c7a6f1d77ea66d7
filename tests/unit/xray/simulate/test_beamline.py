"""The physics of the simulator against closed forms and against the exact propagator."""

import math

import numpy as np
import pytest
import torch

from helpers import optics
from helpers.xray.cameras import Transform
from helpers.xray.simulate import Beamline, Experiment, count, fresnel

WAVELENGTH = 4.96e-5


def test_without_propagation_the_law_of_beer_and_lambert_holds():
    experiment = Experiment(distance=0.0)
    line = Beamline(experiment)
    thickness = np.random.default_rng(0).uniform(0, 300, line.canvas.shape).astype(np.float32)
    expected = np.exp(-experiment.mu * thickness.astype(float))
    np.testing.assert_allclose(line.intensity(thickness).numpy(), expected, atol=1e-6)


def test_propagation_keeps_the_light():
    line = Beamline(Experiment())
    thickness = 200 * np.random.default_rng(0).random(line.canvas.shape).astype(np.float32)
    before = np.exp(-3.8e-3 * thickness.astype(float)).mean()
    after = float(line.intensity(thickness).double().mean())
    assert abs(after / before - 1) < 1e-4


def test_fresnel_is_the_angular_spectrum_at_small_angles():
    generator = torch.Generator().manual_seed(0)
    wave = torch.randn(32, 32, dtype=torch.complex128, generator=generator)
    ours = fresnel(wave, 3e5, 1.0, WAVELENGTH)
    exact = optics.propagate(wave, 3e5, 1.0, WAVELENGTH)
    constant = (exact / ours).mean()  # the phase along the axis
    assert abs(abs(constant) - 1) < 1e-6
    assert torch.allclose(ours * constant, exact, atol=1e-5)


def test_a_gaussian_beam_spreads_as_it_must():
    n, waist, distance = 256, 8.0, 4e6
    y, x = (torch.arange(n, dtype=torch.float64) - n // 2 for _ in range(2))
    squared = y[:, None] ** 2 + x**2
    wave = torch.exp(-squared / waist**2).to(torch.complex128)
    light = fresnel(wave, distance, 1.0, WAVELENGTH).abs() ** 2
    reach = math.pi * waist**2 / WAVELENGTH
    wider = waist * math.sqrt(1 + (distance / reach) ** 2)
    expected = (waist / wider) ** 2 * torch.exp(-2 * squared / wider**2)
    assert wider > 1.3 * waist
    assert float((light - expected).abs().max()) < 1e-6


def fringe(thickness):
    """Mean brightness of the ring inside and outside of the rim of a sphere, over the far field."""
    line = Beamline(Experiment(shape=(64, 64)))
    y, x = line.canvas.y - 64, line.canvas.x - 64
    radius = np.hypot(y, x)
    light = line.intensity(thickness(line.canvas, radius)).numpy()
    outside = light[(radius > 20.5) & (radius < 22.5)].mean()
    return outside / light[radius > 50].mean()


def test_the_fringe_of_a_pore_is_the_negative_of_that_of_a_droplet():
    def ball(radius):
        return 2 * np.sqrt(np.maximum(20.0**2 - radius**2, 0)).astype(np.float32)

    droplet = fringe(lambda canvas, r: ball(r))
    pore = fringe(lambda canvas, r: 200 - ball(r))
    assert droplet > 1.05  # x-rays are bent outwards by matter
    assert pore < 0.95


def test_counting_is_poisson():
    frames = count(np.full((200, 200), 0.6), 500.0, np.random.default_rng(0))
    assert frames.dtype == np.float32
    assert abs(frames.mean() - 0.6) < 0.001
    assert abs(frames.var() / frames.mean() * 500 - 1) < 0.03


@pytest.mark.parametrize("transform", [Transform(), Transform(0.03, 4.05, 3.97, 0.2, 4.1)])
def test_a_coarse_pixel_sees_the_place_that_the_transform_names(transform):
    """A ramp of transmission: the mean over a pixel is the value at its centre."""
    line = Beamline(Experiment(shape=(96, 96), transform=transform, distance=0.0, mu=1e-3))
    ramp = 0.9 + 1e-3 * line.canvas.x - 0.5e-3 * line.canvas.y
    thickness = np.broadcast_to(-np.log(ramp) / 1e-3, line.canvas.shape).astype(np.float32)
    sharp, coarse = line.both(thickness)
    places = transform(np.stack(np.meshgrid(np.arange(24), np.arange(24)), axis=-1))
    x, y = 2 * (places[..., 0] + 0.5), 2 * (places[..., 1] + 0.5)  # um
    inner = np.s_[5:-5, 5:-5]
    np.testing.assert_allclose(coarse[inner], (0.9 + 1e-3 * x - 0.5e-3 * y)[inner], atol=2e-5)
    assert sharp.shape == (96, 96) and coarse.shape == (24, 24)


def test_a_coarse_camera_that_looks_beyond_gets_a_wider_canvas():
    near, far = (Beamline(Experiment(transform=Transform(tx=tx))) for tx in (1.5, -60.0))
    assert near.margin == 16 and far.margin > 60
    thickness = np.zeros(far.canvas.shape, np.float32)
    np.testing.assert_allclose(far.both(thickness)[1], 1, atol=1e-5)
