"""The code for your own data on the pages of this part, on small files and arrays."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

import helpers
from helpers.renderer.simulate import aberrated_psf, bars, gaussian_spots, widefield

PAGES = Path(helpers.__file__).parents[1] / "book" / "renderer"
RNG = np.random.default_rng(2040)
SPOTS = gaussian_spots(40, photons=2000, seed=2040).images


def snippet(name):
    (block,) = re.findall(r"^```python\n(.*?)^```", (PAGES / name).read_text(), re.M | re.S)
    return block


def run(name, changes=(), **given):
    text = snippet(name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    exec(compile(text, name, "exec"), given)
    return given


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_four_lines():
    assert len(run("index.md", spots=SPOTS)["fits"].params["x"]) == len(SPOTS)


def raw(electrons, gain, offset=100):
    """What a camera of 16 bits writes, with a read noise of 2 electrons."""
    adu = gain * (electrons + RNG.normal(0, 2, electrons.shape)) + offset
    return adu.round().clip(0, 2**16 - 1).astype("uint16")


def test_camera_counts_and_a_lens():
    found = run("01_point_spread.md", frames=2.2 * SPOTS + 100, gain=2.2, offset=100, variance=4.0)
    np.testing.assert_allclose(found["counts"], SPOTS, rtol=1e-5)
    assert found["spots"].render({"z": 0.1}).shape == (1, 21, 21)


def test_an_encoder(folder):
    short = [('name="monday"', 'name="monday", n_steps=3, folder="runs"')]
    found = run("02_learn_without_labels.md", short, adu=2 * SPOTS + 100, offset=100, gain=2.0,
                read_variance=4.0)["found"]  # fmt: skip
    assert found["x"].shape == (len(SPOTS),)


def test_fits():
    psf = aberrated_psf((21, 21), {5: 0.08}, z=np.arange(-10, 11) * 0.05)
    crops = raw(SPOTS, gain=0.46)
    assert (crops < 100).any()  # as a camera gives them
    found = run("03_fit_to_the_limit.md", crops=crops, psf=psf,
                variance_crops=np.full(SPOTS.shape, 4.0))  # fmt: skip
    assert found["keep"].mean() > 0.8 and "z" in found["fits"].params


def test_pupils():
    z = np.linspace(-0.6, 0.6, 7)
    bead = 1e5 * aberrated_psf((25, 25), {5: 0.05}, z=z) + 5
    tifffile.imwrite("bead.tif", (2 * RNG.poisson(bead) + 100).astype("uint16"))
    blink = 3000 * aberrated_psf((15, 15), {5: 0.06}, z=np.linspace(-0.4, 0.4, 12)) + 10
    short = [("depth=0.6", "depth=0.6, n_iter=3")]
    found = run("04_pupil.md", short, gain=2.0, offset=100.0, z_um=z, read_variance=2.0,
                images=RNG.poisson(blink))["found"]  # fmt: skip
    assert 5 in found.coefficients


def test_a_movie(folder):
    frames = RNG.poisson(5.0, (6, 40, 40)) + np.pad(SPOTS[:6], ((0, 0), (9, 18), (12, 15)))
    adu = raw(frames, gain=2.2)
    found = run("05_many_molecules.md", adu=adu, variance_map=np.full((40, 40), 4.0))
    assert (folder / "found.csv").exists() and len(found["found"]) >= 6
    assert found["image"].shape == (320, 320)


def test_a_stack(folder):
    counts = widefield(bars((12, 24, 24), seed=2040), seed=2040).counts
    tifffile.imwrite("stack.tif", (2 * counts + 100).astype("uint16"))
    run("06_deconvolve.md")
    assert tifffile.imread("volume.tif").shape == (12, 24, 24)


def test_a_noisy_movie(folder):
    tifffile.imwrite("movie.tif", RNG.poisson(60, (6, 80, 80)).astype("uint16") + 100)
    short = [('folder="runs"', 'folder="runs", n_steps=3'), ("200", "4")]
    found = run("07_denoise.md", short)
    assert tifffile.imread("denoised.tif").shape == (4, 80, 80)
    assert found["later"].images.shape == (2, 80, 80)
