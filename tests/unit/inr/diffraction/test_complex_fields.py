"""A field of a complex contrast behind the models of diffraction, judged by LEDs it never saw."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr import archive
from helpers.inr.diffraction import Microscope, MultiSlice, Ptychography
from helpers.inr.fields import (
    MLP,
    Contrast,
    Field,
    Identity,
    PositionalEncoding,
    Transmission,
    Voxels,
    paper_field,
)
from helpers.inr.fit import Stage, fit, losses
from helpers.inr.fit.spacetime import LowRank
from helpers.inr.render import render

WAVE, NA, MEDIUM, DZ, PIXEL, N, Z = 0.6, 0.25, 1.33, 4.0, 0.6, 32, 8
STEP = WAVE / (N * PIXEL)
# (y, x), cycles in the field; beyond 8 they are dark fields
RINGS = [(round(r * np.sin(a)), round(r * np.cos(a))) for r, n in ((7, 14), (4, 8), (10, 5))
         for a in 2 * np.pi * np.arange(n) / n]  # fmt: skip
BINS = np.array([(0, 0), *RINGS])
HIDDEN = np.arange(len(BINS)) % 4 == 2


def cells(seed, depth, n, slices):
    """Complex contrast (Z, n, n) of a few lumps that delay, with darker grains in them."""
    rng = np.random.default_rng(seed)
    z = ((np.arange(slices) + 0.5) / slices - 0.5)[:, None, None] * depth
    y, x = ((np.arange(n) + 0.5) * N / n)[:, None], (np.arange(n) + 0.5) * N / n
    contrast = np.zeros((slices, n, n), complex)
    for _ in range(5):
        row, column = rng.uniform(9, N - 9, 2)
        high, wide = rng.uniform(-0.3, 0.3) * depth, rng.uniform(2.0, 4.0)
        near = ((y - row) ** 2 + (x - column) ** 2) / wide**2 + ((z - high) / 5.0) ** 2
        contrast += 0.012 * np.exp(-near)
        grain = ((y - row - 1) ** 2 + (x - column) ** 2) / 2.0 + ((z - high) / 4.0) ** 2
        contrast += (0.004 + 0.006j) * np.exp(-grain)
    return contrast


def recorded(contrast, depth):
    """Images of thin slices on a fine grid, by numpy alone: screens, free space, lens, camera."""
    slices, n, _ = contrast.shape
    place, dz = np.arange(n) * N * PIXEL / n, depth / slices
    k = np.fft.fftfreq(n, N * PIXEL / n) * WAVE
    up = np.sqrt((MEDIUM**2 - k[:, None] ** 2 - k**2).clip(0))
    images = []
    for q in BINS * STEP:
        cosine = np.sqrt(MEDIUM**2 - q @ q) / MEDIUM
        wave = np.exp(2j * np.pi / WAVE * (q[0] * place[:, None] + q[1] * place))
        for layer in contrast:
            wave = wave * np.exp(2j * np.pi / WAVE * dz / cosine * layer)
            wave = np.fft.ifft2(np.fft.fft2(wave) * np.exp(2j * np.pi / WAVE * dz * up))
        # the focus is in the middle of the slices
        spectrum = np.fft.fft2(wave) * np.exp(-2j * np.pi / WAVE * (depth / 2) * up)
        light = np.abs(np.fft.ifft2(spectrum * (k[:, None] ** 2 + k**2 <= NA**2))) ** 2
        images.append(light.reshape(N, n // N, N, n // N).mean((1, 3)))
    return np.array(images)


def judged(model, start, images, photons, rate, n_steps=120):
    """Share of the hidden images that a fit to the others explains, and the fit.

    Of what an empty field leaves of their amplitudes; hidden is every fourth LED.
    """
    hidden = np.arange(len(images)) % 4 == 2
    found = fit(
        start, model.select(~hidden), images[~hidden], schedule=Stage(n_steps, rate),
        loss=partial(losses.amplitude, sigma=0.5 / photons**0.5), device="cpu",
    )  # fmt: skip
    left, empty = (
        ((np.sqrt(model.select(hidden)(v).clip(0)) - np.sqrt(images[hidden])) ** 2).sum()
        for v in (found.volume, np.zeros(model.in_shape, np.float32))
    )
    return 1 - left / empty, found


def alike(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_published_field_finds_a_thick_object_from_few_photons():
    """Index and absorption, by 25 photons a pixel; with many, free voxels predict better."""
    contrast, photons = cells(3, Z * DZ, 2 * N, 2 * Z), 25
    images = np.random.default_rng(5).poisson(photons * recorded(contrast, Z * DZ)) / photons
    optics = Microscope(WAVE, NA, MEDIUM, (DZ, PIXEL, PIXEL))
    model = MultiSlice(optics, BINS * STEP, (Z, N, N), absorption=True)
    field = paper_field("fpm", head=Contrast(), shape=(Z, N, N), generator=chance())
    by_field, found = judged(model, field, images, photons, 0.01)
    assert found.volume.shape == (2, Z, N, N) and not np.signbit(found.volume[1]).any()
    free = [
        judged(model, Voxels(model.in_shape, Contrast()), images, photons, rate)
        for rate in (0.02, 0.05)
    ]
    by_voxels, voxels = max(free, key=lambda entry: entry[0])
    assert by_field > by_voxels and by_field > 0.25
    truth = contrast.reshape(Z, 2, N, 2, N, 2).mean((1, 3, 5))
    assert alike(found.volume[0], truth.real) > alike(voxels.volume[0], truth.real)
    assert alike(found.volume[0], truth.real) > 0.3 and alike(found.volume[1], truth.imag) > 0.3


# -- a thin object, on a camera too coarse for it --------------------------------------------------

CAMERA, FINER, THIN_NA, THIN_PIXEL = 24, 3, 0.12, 1.5
THIN_STEP = WAVE / (CAMERA * THIN_PIXEL)
SQUARE = 4 * np.mgrid[-3:4, -3:4].reshape(2, -1).T


def discs(seed, n):
    """Transmission (n, n) of discs with soft edges."""
    rng = np.random.default_rng(seed)
    y, x = ((np.arange(n) + 0.5) / n)[:, None], (np.arange(n) + 0.5) / n
    delay = np.zeros((n, n))
    for _ in range(6):
        (row, column), radius = rng.uniform(0.2, 0.8, 2), rng.uniform(0.04, 0.1)
        edge = (np.hypot(y - row, x - column) - radius) * 60
        delay += rng.uniform(0.4, 1.0) / (1 + np.exp(edge))
    return np.exp((1j - 0.25) * delay)


def photographed(t):
    """Images of a transmission, one LED at a time: plane wave, lens, every so-many-th value."""
    n, images = len(t), []
    place, k = np.arange(n), np.fft.fftfreq(n, CAMERA * THIN_PIXEL / n) * WAVE
    pupil = np.clip(0.5 + (THIN_NA - np.hypot(k[:, None], k)) / THIN_STEP, 0, 1)
    for row, column in SQUARE:
        wave = np.exp(2j * np.pi * (row * place[:, None] + column * place) / n)
        light = np.fft.ifft2(np.fft.fft2(wave * t) * pupil)[:: n // CAMERA, :: n // CAMERA]
        images.append(np.abs(light) ** 2)
    return np.array(images)


def test_the_published_field_finds_a_thin_object_finer_than_the_camera():
    t, photons = discs(1, 2 * CAMERA * FINER), 200
    images = np.random.default_rng(6).poisson(photons * photographed(t)) / photons
    model = Ptychography(
        SQUARE * THIN_STEP, (CAMERA, CAMERA), wavelength=WAVE, na=THIN_NA, pixel_size=THIN_PIXEL,
        finer=FINER,
    )  # fmt: skip
    shape = (1, *model.in_shape[1:])
    field = paper_field("fpm", head=Transmission(), shape=shape, generator=chance())
    by_field, found = judged(model, field, images, photons, 0.01, 250)
    assert found.volume.shape == model.in_shape
    assert by_field > 0.5
    assert alike(np.angle(model.transmission(found.volume)), np.angle(t[::2, ::2])) > 0.6


# -- fields of two numbers -------------------------------------------------------------------------


def small(head, out_features=2):
    waves = PositionalEncoding(3)
    network = MLP(waves.out_features, 8, 2, out_features=out_features, generator=chance(1))
    return Field(waves, network, head, (0.5, 1.0, 1.0))


def test_a_field_gives_both_numbers_on_any_grid_and_in_any_box():
    field = small(Contrast(0.05, 0.01))
    whole = field.volume((2, 4, 6, 8))
    assert whole.shape == (2, 4, 6, 8)
    part = field.volume((2, 4, 6, 8), (1, 2, 3, 2, 3, 4))
    torch.testing.assert_close(part, whole[:, 1:3, 2:5, 3:7])
    with torch.no_grad():
        torch.testing.assert_close(field.volume((2, 4, 6, 8)), whole)
    point = field(torch.tensor([[-0.375, -5 / 6, -0.875]]))
    torch.testing.assert_close(point[0], whole[:, 0, 0, 0])
    torch.testing.assert_close(field.volume((2, 6, 8)), field.volume((2, 1, 6, 8))[:, 0])
    np.testing.assert_allclose(render(field, (4, 6, 8), chunk=50), whole.detach(), atol=1e-7)


def test_free_voxels_have_two_numbers_too():
    for shape in ((2, 4, 6, 8), (2, 6, 8)):
        voxels = Voxels(shape, Contrast(0.05, 0.01))
        with torch.no_grad():
            voxels.values.copy_(torch.linspace(-4, 4, voxels.values.numel()).reshape(shape))
        volume = voxels.volume()
        torch.testing.assert_close(volume[0], 0.05 * voxels.values[0].tanh())
        assert volume.shape == shape and not np.signbit(volume[1].detach().numpy()).any()
        wider = voxels.volume((*shape[:-2], 3, 4))
        assert wider.shape == (*shape[:-2], 3, 4)
    plain = Voxels((2, 4, 6, 8), Identity())
    assert plain.volume(roi=(1, 0, 2, 2, 6, 3)).shape == (2, 2, 6, 3)


def test_a_transmission_neither_amplifies_nor_forgets_its_phase():
    x = torch.stack([torch.linspace(-3, 3, 50), torch.linspace(4, -4, 50)], 1)
    real, imaginary = Transmission(0.5)(x).unbind(-1)
    t = torch.complex(1 + real, imaginary)
    assert not (t.abs() > 1).any()
    torch.testing.assert_close(t / t.abs(), torch.polar(torch.ones(50), x[:, 0]))


@pytest.mark.parametrize("head", [Contrast(0.03, 0.02), Transmission(0.7)])
def test_it_is_kept_in_a_file_and_comes_back(head, tmp_path):
    field = paper_field("fpm", head=head, shape=(4, 10, 10), generator=chance())
    card = {"data": "none", "seed": 0, "steps": 0, "metric": {}}
    film = archive.SequenceArchive.from_fields([field], (4, 10, 10), card=card)
    archive.save(tmp_path / "field.safetensors", film)
    again = archive.load(tmp_path / "field.safetensors")[0]
    expected = field.volume((2, 4, 10, 10))
    torch.testing.assert_close(again.volume((2, 4, 10, 10)), expected, atol=2e-3, rtol=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(Contrast(), out_features=1), "give a network with out_features=2"),
        (lambda: small(Contrast()).volume((4, 6, 8)), r"each point has 2 numbers"),
        (lambda: Voxels((3, 6, 8), Contrast()), r"each point has 2 numbers"),
        (lambda: Voxels((2, 4, 6, 8), Contrast()).volume((2, 6, 8)), "these are voxels"),
        (lambda: Contrast(0.05, 0), "sizes above zero"),
        (lambda: Transmission(-1), "above zero"),
        (lambda: LowRank(small(Contrast()), n_frames=2), "a film has one number in each voxel"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
