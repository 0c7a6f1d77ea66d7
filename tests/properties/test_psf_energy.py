"""Energy and normalisation of every PSF: light is shared among pixels, never made or lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.inr.deconvolve import line_psf
from helpers.inr.lightfield import Optics, psf
from helpers.optics import Pupil, propagate, psf_from_pupil
from helpers.renderer.deconvolve import Blur, widefield_kernel
from helpers.renderer.renderers import (
    Convolution,
    FourierOptics,
    Gaussian2D,
    Gaussian3D,
    Spline2D,
    Spline3D,
    Template,
)
from helpers.renderer.simulate import aberrated_psf

WAVES = st.dictionaries(st.integers(3, 14), st.floats(-0.3, 0.3), max_size=4)
DEPTHS = st.floats(-1.0, 1.0)
PLACES = st.floats(-2.0, 2.0)
SEEDS = st.integers(0, 2**16)


@st.composite
def pupils(draw, na=1.2, wavelength=0.6, samples=32, n=64, medium=True):
    """A microscope whose period is exactly `n` pixels, so that its whole light is in the field."""
    pixel_size = samples * wavelength / (2 * na) / n
    depth = draw(st.booleans()) if medium else False
    return Pupil(
        na,
        wavelength,
        1.515,
        pixel_size,
        samples,
        zernikes=draw(WAVES),
        aplanatic=draw(st.booleans()),
        medium_index=draw(st.floats(1.1, 1.5)) if depth else None,
        stage=draw(DEPTHS) if depth else 0.0,
    )


def light(pupil, n=64, **where):
    image = psf_from_pupil(pupil, (n, n), **where)
    assert image.min() >= 0
    return image.sum()


@given(pupils(medium=False), PLACES, PLACES, DEPTHS)
def test_a_pupil_sends_the_same_light_wherever_it_is_aberrated(pupil, x, y, z):
    """Parseval: over one period it is the energy in the pupil, whose phase does not matter."""
    plain = light(replace(pupil, zernikes=None))
    assert light(pupil, x=x, y=y, z=z) == pytest.approx(plain, rel=1e-9)
    # the part of a rim cell that is inside shines beyond the period; finer cells have less of it
    assert 0.97 < plain < light(replace(pupil, zernikes=None, samples=64), n=128) < 1


@given(pupils(), DEPTHS)
def test_a_pupil_sends_about_one_unit_at_any_depth_in_any_medium(pupil, z):
    assert 0.97 < light(pupil, z=abs(z)) < 1


@given(WAVES, DEPTHS)
def test_the_simulated_psf_sends_no_more_than_one_unit(waves, z):
    """It is computed by another path than `psf_from_pupil`, on a field that ends."""
    small, large = (aberrated_psf((n, n), waves, z=z)[0] for n in (41, 61))
    assert small.min() >= 0 and large.sum() <= 1 + 1e-9
    np.testing.assert_allclose(large[10:-10, 10:-10], small, rtol=0, atol=1e-6 * small.max())
    assert small.sum() < large.sum() and large.sum() > 0.75


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=3), st.sampled_from(["hex7", "hex3"]))
def test_all_views_of_a_light_field_together_have_one_unit_at_each_depth(depths, views):
    h = psf(Optics(), depths, 64, views)
    assert h.min() >= 0
    np.testing.assert_allclose(h.sum((0, 2, 3)), 1, rtol=1e-5)
    lines = line_psf(h, n_planes=1)
    np.testing.assert_allclose(lines.sum((2, 3)), h.sum((2, 3)), rtol=1e-5)


@given(pupils(samples=40, n=80, medium=False), st.integers(1, 9))
def test_the_planes_of_a_stack_share_the_light_of_a_voxel(pupil, planes):
    kernel = widefield_kernel(pupil, (5, 77, 77), 0.2, planes=planes)
    share = kernel.sum((1, 2)) * planes
    assert kernel.min() > -1e-4 * kernel.max()  # three taps for a box: not quite positive
    assert (share < 1 + 1e-9).all() and (share > 0.9).all()


@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_a_periodic_blur_keeps_the_light(seed, height, width):
    rng = np.random.default_rng(seed)
    kernel = rng.random((height, width))
    op, x = Blur(kernel / kernel.sum(), (6, 7), periodic=True), rng.random((6, 7))
    assert op(x).sum() == pytest.approx(x.sum()) == op.adjoint(x).sum()


@given(SEEDS, st.floats(-50, 50))
def test_propagation_keeps_the_energy_of_what_propagates(seed, distance):
    rng = np.random.default_rng(seed)
    wave = torch.from_numpy(rng.normal(size=(12, 16)) + 1j * rng.normal(size=(12, 16)))
    there, seen = (propagate(wave, z, 0.3, 0.5) for z in (distance, 0.0))
    assert float(there.norm()) == pytest.approx(float(seen.norm()), rel=1e-9)
    torch.testing.assert_close(propagate(there, -distance, 0.3, 0.5), seen, rtol=1e-9, atol=1e-9)


def bump(shape, sigma=1.4):
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    picture = np.exp(-sum(a**2 for a in axes) / (2 * sigma**2))
    return picture / picture.sum()


def stack_of_bumps():
    return np.stack([bump((21, 21), 1.2 + 0.1 * k) for k in range(7)])


SIDE = 33
WHOLE = Pupil(1.2, 0.6, 1.33, 0.25 * 32 / SIDE, zernikes={5: 0.1, 12: -0.05}, samples=32)
RENDERERS = {
    "Gaussian2D": (Gaussian2D((SIDE, SIDE)), {"sigma": (0.6, 2.5)}),
    "Gaussian2D, elliptical": (
        Gaussian2D((SIDE, SIDE), elliptical=True),
        {"sigma_x": (0.6, 2.5), "sigma_y": (0.6, 2.5)},
    ),
    "Gaussian3D": (Gaussian3D((SIDE, SIDE)), {"z": (-0.5, 0.5)}),
    "Template": (Template((SIDE, SIDE), bump((41, 41), 3.0), oversampling=2), {}),
    "Spline2D": (Spline2D((SIDE, SIDE), bump((21, 21))), {}),
    "Spline3D": (Spline3D((SIDE, SIDE), stack_of_bumps(), 0.1), {"z": (-0.3, 0.3)}),
    "FourierOptics": (FourierOptics((SIDE, SIDE), WHOLE), {"z": (-1.0, 1.0)}),
}


@pytest.mark.parametrize("name", RENDERERS)
@given(data=st.data())
def test_a_renderer_gives_every_photon_to_a_pixel(name, data):
    renderer, own = RENDERERS[name]
    params = {key: data.draw(st.floats(*bounds), label=key) for key, bounds in own.items()}
    params |= {"x": data.draw(PLACES), "y": data.draw(PLACES)}
    photons = data.draw(st.floats(10, 1e5), label="photons")
    lit = renderer.render({**params, "photons": photons, "background": 3.0})
    dark = renderer.render({**params, "photons": 0.0, "background": 3.0})
    np.testing.assert_allclose(dark, 3.0, rtol=1e-6)
    # single precision: rounding of a background of 3 in every pixel, and of the photons
    slack = 1e-5 * photons + 1e-6 * 3 * SIDE**2
    share = light(WHOLE, SIDE) if name == "FourierOptics" else 1.0
    given_out = lit.sum(dtype=float) - dark.sum(dtype=float)
    assert given_out == pytest.approx(share * photons, abs=slack)


@given(SEEDS)
def test_a_convolution_keeps_the_light_that_does_not_leave(seed):
    rng = np.random.default_rng(seed)
    thing = np.zeros((1, 20, 20))
    thing[0, 5:15, 5:15] = rng.random((10, 10))
    blurred = Convolution((20, 20), bump((9, 9)))
    image = blurred.render({"object": thing, "background": 0.0})
    assert image.sum(dtype=float) == pytest.approx(thing.sum(), rel=1e-5)
