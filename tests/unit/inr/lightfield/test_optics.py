"""The microscope against closed forms, its two models against each other, its operator exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.inr.lightfield import LightField, Optics, lens_centres, psf

OPTICS = Optics()
STEP = 0.34
DEPTHS = (np.arange(16) - 7.5) * STEP


@pytest.fixture(scope="module")
def wide():
    """Both signs of depth and focus, on a window wide enough for nearly all of the light."""
    return psf(OPTICS, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], 128)


def small_array():
    """The published optics with microlenses 0.5 mm wide; angles and pixels in the object stay."""
    scale = 0.5 / OPTICS.pitch_mm
    return replace(
        OPTICS,
        pitch_mm=0.5,
        relay_focal_mm=scale * OPTICS.relay_focal_mm,
        lens_focal_mm=scale * OPTICS.lens_focal_mm,
        lens_pixels=77,
    )


def centroid(h):
    """Places (y, x) of the centre of mass of each image, in um from the point itself."""
    at = (np.arange(h.shape[-1]) - h.shape[-1] // 2) * OPTICS.voxel_size
    total = h.sum((-2, -1))
    return np.stack([h.sum(-1) @ at, h.sum(-2) @ at], axis=-1) / total[..., None]


def aperture_mean(centre):
    """Mean of q / sqrt(n^2 - q^2) over a view's disc, weighted with the light: by quadrature."""
    r = (np.arange(400) + 0.5) / 400 * OPTICS.lens_radius
    angle = (np.arange(720) + 0.5) / 720 * 2 * np.pi
    qy = centre[0] + r[:, None] * np.sin(angle)
    qx = centre[1] + r[:, None] * np.cos(angle)
    cosine = np.sqrt(OPTICS.index**2 - qy**2 - qx**2)
    weight = r[:, None] / cosine
    return np.array([(weight * q / cosine).sum() / weight.sum() for q in (qy, qx)])


def test_the_published_numbers_follow_from_the_parts():
    assert OPTICS.total_magnification == pytest.approx(30)
    assert pytest.approx(1.8) == OPTICS.objective_focal_mm
    assert OPTICS.voxel_size * OPTICS.lens_pixels == pytest.approx(3250 / 30)
    assert (OPTICS.lens_offset, OPTICS.lens_radius) == pytest.approx((0.8125, 0.40625))


def test_the_views_stand_on_a_hexagon():
    centres = lens_centres("hex7")
    assert (centres[0] == 0).all()
    between = np.linalg.norm(centres[1:] - np.roll(centres[1:], 1, axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(centres[1:], axis=1), 1)
    np.testing.assert_allclose(between, 1)
    three = lens_centres("hex3")
    np.testing.assert_allclose(three.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(three, centres[[1, 3, 5]], atol=1e-12)


def test_defocus_moves_light_but_loses_none(wide):
    energy = wide.astype(float).sum((2, 3))
    np.testing.assert_allclose(energy, energy[:, :1] * np.ones(7), rtol=1e-6)
    np.testing.assert_allclose(energy.sum(axis=0), 1, rtol=1e-6)
    # The aplanatic pupil gives the outer views more light; an even one does not.
    assert energy[0, 0] / energy[1, 0] == pytest.approx(0.82, abs=0.01)
    flat = psf(replace(OPTICS, apodized=False), [0.0], 128).sum((1, 2, 3))
    np.testing.assert_allclose(flat, 1 / 7, rtol=0.01)


def test_a_window_keeps_what_the_tails_of_an_airy_disc_leave():
    """Outside the radius r is a share of 2 / (pi v) with v = 2 pi a r / wavelength."""
    h = psf(OPTICS, [-3.2, 0.0, 3.2], 512, views=lens_centres()[:2])
    kept = h[:, :, 196:316, 196:316].sum((2, 3)) / h.sum((2, 3))
    v = 2 * np.pi * OPTICS.lens_radius * 60 * OPTICS.voxel_size / OPTICS.wavelength
    np.testing.assert_allclose(1 - kept, 2 / (np.pi * v), rtol=0.25)
    small = psf(OPTICS, [-3.2, 0.0, 3.2], 128)
    assert (small[:, :, 4:124, 4:124].sum((2, 3)) / small.sum((2, 3))).min() >= 0.995


@pytest.mark.parametrize(("n_pixels", "tolerance"), [(128, 0.03), (512, 0.01)])
def test_parallax_is_the_mean_tangent_over_the_aperture(n_pixels, tolerance):
    depths = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    h = psf(OPTICS, depths, n_pixels, views=lens_centres("hex7")[[0, 1, 2, 4]])
    places = centroid(h.astype(float))
    slopes = np.polyfit(depths, places.reshape(4, 5, 2).transpose(1, 0, 2).reshape(5, -1), 1)[0]
    slopes = slopes.reshape(4, 2)
    for k, view in ((1, 1), (2, 2), (3, 4)):
        expected = aperture_mean(OPTICS.lens_offset * lens_centres()[view])
        assert np.linalg.norm(expected) == pytest.approx(0.711, abs=0.001)
        assert np.linalg.norm(slopes[k] - expected) < tolerance * 0.711
    np.testing.assert_allclose(slopes[0], 0, atol=1e-5)
    np.testing.assert_allclose(slopes[3], -slopes[1], atol=2e-3)  # opposite views
    straight = places[1, :, 1] - slopes[1, 1] * depths
    assert np.ptp(straight) < 0.02 * np.ptp(places[1, :, 1])


def test_the_focus_is_as_wide_as_the_aperture_lets_it(wide):
    from scipy.interpolate import CubicSpline

    at = (np.arange(128) - 64) * OPTICS.voxel_size
    fine = np.linspace(-1, 1, 4001)
    for view in (0, 1, 4):
        line = CubicSpline(at, wide[view, 3, :, 64])(fine)  # y is across the parallax of 1 and 4
        width = np.ptp(fine[line > line.max() / 2])
        assert width == pytest.approx(0.51 * OPTICS.wavelength / OPTICS.lens_radius, rel=0.05)


def test_above_and_below_the_focus_are_point_mirrored(wide):
    above, below = wide[:, 4:, 1:, 1:], wide[:, 2::-1, 1:, 1:]
    np.testing.assert_allclose(above, below[..., ::-1, ::-1], atol=1e-7 * wide.max())


@pytest.mark.parametrize("n_pixels", [64, 63])
def test_the_whole_field_through_the_array_gives_the_same_views(n_pixels):
    optics, depths = small_array(), [-3.0, 0.0, 1.5]
    assert optics.lens_offset == pytest.approx(OPTICS.lens_offset)
    fast = psf(optics, depths, n_pixels).astype(float)
    full = psf(optics, depths, n_pixels, path="full").astype(float)
    norms = np.sqrt((fast**2).sum((2, 3)) * (full**2).sum((2, 3)))
    assert ((fast * full).sum((2, 3)) / norms).min() > 0.999
    np.testing.assert_allclose(full.sum((2, 3)), fast.sum((2, 3)), rtol=0.02)


def shapes():
    for views in ("hex7", "hex3"):
        yield views, 32, (20, 24), (36, 30)
        yield views, 31, (21, 17), (33, 25)
        yield views, 20, (21, 40), (20, 41)  # a PSF smaller than the volume, odd and even mixed
        yield views, 33, (15, 16), None


@pytest.mark.parametrize(("views", "n_pixels", "shape", "view_shape"), list(shapes()))
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-10)])
def test_the_adjoint_is_exact_relative_to_light(views, n_pixels, shape, view_shape, dtype, bound):
    """The error relative to the product itself, of vectors that are not negative."""
    h = torch.as_tensor(psf(OPTICS, DEPTHS[5:10], n_pixels, views)).to(getattr(torch, dtype))
    op = LightField(h, shape, view_shape)
    rng = np.random.default_rng(0)
    x, y = rng.random(op.in_shape).astype(dtype), rng.random(op.out_shape).astype(dtype)
    left = np.vdot(op(x).astype(float), y)
    assert abs(left - np.vdot(x.astype(float), op.adjoint(y))) < bound * left


@pytest.mark.parametrize(("n", "m", "p"), [(12, 20, 40), (13, 20, 41), (12, 21, 40), (13, 8, 17)])
def test_the_views_are_the_sum_of_direct_convolutions(n, m, p):
    from scipy.signal import convolve2d

    rng = np.random.default_rng(0)
    h, x = rng.random((2, 3, p, p)), rng.random((3, n, n))
    op = LightField(h, (n, n), (m, m))
    first = p // 2 + n // 2 - m // 2  # the pixel m // 2 sees the voxel n // 2 by the middle of h
    for v in range(2):
        whole = np.pad(sum(convolve2d(x[z], h[v, z]) for z in range(3)), m)
        part = slice(m + first, m + first + m)
        np.testing.assert_allclose(op(x)[v], whole[part, part], rtol=1e-10)


def test_a_point_gives_the_psf_exactly():
    h = psf(OPTICS, DEPTHS, 64)
    op = LightField(h, (24, 24), (64, 64))
    for z in (0, 7, 15):
        point = np.zeros(op.in_shape, np.float32)
        point[z, 12, 12] = 1
        np.testing.assert_allclose(op(point), h[:, z], atol=1e-6 * h[:, z].max())


def test_moving_the_object_moves_the_views():
    op = LightField(psf(OPTICS, DEPTHS[:4], 96), (40, 40), (56, 56))
    x = np.zeros(op.in_shape, np.float32)
    x[:, 14:22, 12:20] = np.random.default_rng(0).random((4, 8, 8))
    moved = op(np.roll(x, (3, -5), axis=(1, 2)))
    np.testing.assert_allclose(moved[:, 3:, :-5], op(x)[:, :-3, 5:], atol=1e-5 * op(x).max())


def test_an_even_volume_gives_even_views():
    op = LightField(psf(OPTICS, DEPTHS[6:10], 64), (100, 100))
    middle = op(np.ones(op.in_shape, np.float32))[:, 40:60, 40:60]
    light = psf(OPTICS, DEPTHS[6:10], 64).sum((1, 2, 3))
    np.testing.assert_allclose(middle, light[:, None, None] * np.ones((20, 20)), rtol=1e-3)


def test_one_photon_in_a_voxel_is_one_photon_in_the_views():
    op = LightField(psf(OPTICS, DEPTHS, 96), (16, 16), (96, 96))
    seen = op.sensitivity[:, 8, 8]
    assert float(seen.min()) > 0.985 and float(seen.max()) <= 1 + 1e-5
    cropped = LightField(psf(OPTICS, DEPTHS, 96), (16, 16), (16, 16)).sensitivity
    assert float(cropped[0, 8, 8]) < 0.8 * float(cropped[8, 8, 8]), "parallax leaves the views"


def test_kinds_batches_views_and_precision_are_kept():
    op = LightField(psf(OPTICS, DEPTHS[:3], 32), (16, 16))
    x = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    both = op(x)
    assert isinstance(both, np.ndarray) and both.dtype == np.float32
    assert both.shape == (2, 7, 16, 16)
    np.testing.assert_allclose(both[1], op(x[1]), atol=1e-6)
    np.testing.assert_allclose(op.adjoint(both)[1], op.adjoint(both[1]), atol=1e-6)
    assert torch.is_tensor(op(torch.as_tensor(x)))
    np.testing.assert_allclose(op.select([2, 5])(x[0]), both[0, [2, 5]], atol=1e-6)
    assert op.to(dtype=torch.float64)(torch.as_tensor(x).double()).dtype == torch.float64


def test_the_operator_can_be_differentiated():
    op = LightField(psf(OPTICS, DEPTHS[:2], 16).astype(np.float64), (5, 6), (7, 6))
    x = torch.rand(op.in_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, x)


H = np.full((2, 3, 8, 8), 1 / 64, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Optics(numerical_aperture=1.6), "between 0 and the index"),
        (lambda: psf(OPTICS, [0], 32, views="hex5"), "use 'hex7', 'hex3', or coordinates"),
        (lambda: psf(OPTICS, [0], 32, views=[(0, 0, 1)]), r"views has shape \(1, 3\)"),
        (lambda: psf(OPTICS, [0], 32, views=[(0, 1.5)]), "but the pupil ends at"),
        (lambda: psf(OPTICS, [0], 32, path="short"), "use 'sub_pupil' or 'full'"),
        (lambda: psf(replace(OPTICS, lens_pixels=100), [0], 32), "use more lens_pixels"),
        (lambda: psf(small_array(), [0], 78, path="full"), "shows the next view"),
        (lambda: Optics(pitch_mm=-3.25), "pitch_mm is -3.25: it must be above zero"),
        (lambda: Optics(wavelength=np.nan), "wavelength is nan"),
        (lambda: Optics(lens_pixels=0), "lens_pixels is 0"),
        (lambda: Optics(wavelength=510), "are these nanometres"),
        (lambda: psf(OPTICS, [], 32), "give one distance in um or more"),
        (lambda: psf(OPTICS, None, 32), "each finite"),
        (lambda: psf(OPTICS, [0], 33.5), "n_pixels is 33.5"),
        (lambda: psf(OPTICS, [0], 0), "n_pixels is 0"),
        (lambda: LightField(H, (24.7, 24.2)), "whole numbers"),
        (lambda: LightField(H, voxel_size=0.2), r"give \(z, y, x\) in um"),
        (lambda: LightField(H, voxel_size=(0, 1, 1)), "each above zero"),
        (lambda: LightField(H, voxel_size=(-0.3, 0.2, 0.2)), "each above zero"),
        (lambda: LightField(H[0]), r"give \(views, depths, Y, X\)"),
        (lambda: LightField(H * np.nan), "NaN or negative"),
        (lambda: LightField(-H), "NaN or negative"),
        (lambda: LightField(H * [[[[1]]], [[[0]]]]), "has no energy"),
        (lambda: LightField(H, (8, 0)), "give \\(height, width\\)"),
        (lambda: LightField(H)(np.ones((3, 8, 9))), "this operator expects"),
        (lambda: LightField(H).adjoint(np.ones((3, 8, 8))), "this operator expects"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
