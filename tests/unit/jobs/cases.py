"""Every job of the command with a small input, and the call of a page that does the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from helpers import checkpoints, fusion, inr
from helpers.__main__ import main
from helpers.io import load_h5, load_table, load_tif, save_h5, save_tif
from helpers.renderer import pupil
from helpers.renderer.simulate import crowded_frames
from helpers.xray.simulate import Experiment, grid_image, simulate

DEVICE = ["--device", "cpu", "--json"]


@dataclass
class Case:
    """A job, its files and its options."""

    name: str
    files: list[Path]
    options: list[str]

    def call(self, out, *more):
        return [self.name, *map(str, self.files), "--out", str(out), *self.options, *more, *DEVICE]


def run(case, out, capsys, *more, ends=0):
    """Results of a call, one dict a file."""
    capsys.readouterr()
    code = main(case.call(out, *more))
    told = capsys.readouterr()
    assert code == ends, told.err
    return [json.loads(line) for line in told.out.splitlines()]


def make(name, folder):
    """The input of a job in a folder."""
    return {
        "fuse": _fields,
        "beads": _beads,
        "localize": _movie,
        "denoise": _grainy,
        "deconvolve": _blurred,
        "field": _views,
        "film": _film,
        "tomogram": _tilts,
        "diffraction": _leds,
        "xray-convert": _reds,
        "xray-train": _clips,
        "xray-train-calibrator": _turned_clips,
        "xray-calibrate": _grid,
        "xray-infer": _two_cameras,
    }[name](folder)


def _fields(folder):
    for seed in range(3):
        data = fusion.simulate("dysco3", counts=2, seed=seed, size=24)
        save_h5(folder / f"f{seed}.h5", {"maps": dict(data.maps), "haadf": data.haadf})
    return Case("fuse", sorted(folder.glob("*.h5")), ["--n-iter", "5"])


def lens():
    """An astigmatic lens, as if it had been calibrated."""
    constants = np.array([[1.2, 1.3], [0.25, -0.25], [0.4, 0.4], [0, 0], [0, 0]])
    return pupil.Astigmatism(constants, 0 * constants, (-0.5, 0.5), 0.0, np.zeros(0))


def _beads(folder):
    z = 0.1 * np.arange(-6, 7)[:, None]
    light = {"x": [[-10.3, 9.6]], "y": [[0.2, -0.4]], "photons": 2e4, "background": 30.0}
    mean = lens().renderer((21, 42)).render({**light, "z": np.repeat(z, 2, 1)})
    counts = np.random.default_rng(0).poisson(mean).astype("uint16")
    sizes = {"pixel_size": 0.1, "unit": "µm", "z_step": 0.1}
    save_tif(folder / "beads.tif", 2 * counts + 100, axes="ZYX", **sizes)
    return Case("beads", [folder / "beads.tif"], ["--gain", "2", "--offset", "100"])


def _movie(folder):
    options = {"emitters": 3, "photons": (900, 1100), "sigma": 1.3, "background": (5, 5)}
    frames, _ = crowded_frames(12, (24, 26), read_noise=0, present=1.0, seed=3, **options)
    save_tif(
        folder / "movie.tif",
        2 * frames.astype("uint16") + 100,
        pixel_size=0.13,
        unit="µm",
        axes="TYX",
    )
    options = ["--psf", "1.3", "--gain", "2", "--offset", "100", "--chunk", "3"]
    return Case("localize", [folder / "movie.tif"], options)


def _grainy(folder):
    clean = 40 + 30 * np.sin(np.arange(32) / 4)[:, None] * np.ones((3, 32, 32))
    noisy = np.random.default_rng(0).poisson(clean).astype("uint16")
    save_tif(folder / "grainy.tif", noisy, pixel_size=0.1, unit="µm", axes="TYX")
    return Case("denoise", [folder / "grainy.tif"], ["--n-steps", "3", "--width", "4"])


def kernel():
    z, y, x = np.indices((3, 5, 5)) - np.array([1, 2, 2])[:, None, None, None]
    psf = np.exp(-(z**2 + y**2 + x**2) / 2).astype("float32")
    return psf / psf.sum()


def _blurred(folder):
    counts = np.random.default_rng(0).poisson(20, (6, 20, 22)).astype("uint16")
    size = {"pixel_size": 0.1, "unit": "µm", "z_step": 0.3}
    save_tif(folder / "volume.tif", counts + 100, axes="ZYX", **size)
    np.save(folder / "psf.npy", kernel())
    options = ["--kernel", str(folder / "psf.npy"), "--offset", "100", "--background", "2"]
    return Case("deconvolve", [folder / "volume.tif"], [*options, "--tile", "12", "--n-iter", "4"])


def _views(folder):
    sims = [inr.phantoms.simulate(shape=(4, 24, 24), seed=1, n_tubes=2, t=t) for t in (0, 0.1)]
    film = np.stack([sim.views for sim in sims])
    np.save(folder / "film.npy", film[..., 16:-16, 16:-16])
    np.save(folder / "psf.npy", sims[0].op.psf.numpy())
    options = ["--psf", str(folder / "psf.npy"), "--background", "4", "--read-noise", "1.5"]
    options += ["--n-steps", "6", "--voxel-size", "0.4", "0.2", "0.2"]
    return Case("field", [folder / "film.npy"], options)


def _film(folder):
    case = _views(folder)
    film = np.load(case.files[0])
    np.save(case.files[0], np.concatenate([film, film[::-1]])[:3])
    return Case("film", case.files, [*case.options, "--chain", "2", "--rounds", "2"])


def _tilts(folder):
    angles = np.arange(-60, 61, 20)
    truth = np.zeros((12, 8, 16))
    truth[4:8, 2:6, 5:9] = 1
    clean = inr.tomography.ParallelBeam(angles, truth.shape, 16)(truth)
    noisy = 120 - clean + np.random.default_rng(0).normal(0, 0.2, clean.shape)
    save_tif(folder / "series.tif", noisy.astype("float32"), pixel_size=1.2, axes="TYX")
    (folder / "series.tlt").write_text("\n".join(map(str, angles)))
    options = ["--method", "field", "--invert", "--thickness", "12", "--n-steps", "6"]
    return Case("tomogram", [folder / "series.tif"], options)


LENS = {"wavelength": 0.6, "na": 0.12, "pixel_size": 1.5}
GRID = np.indices((7, 7)).reshape(2, -1).T - 3


def led_images(moved=(0.0, 0.0)):
    """Discs under 49 LEDs, by the whole Fourier transform of a field wider than the camera."""
    wide, n, camera = 32, 64, 24
    y, x = np.mgrid[:n, :n] / n
    thick = np.zeros((n, n))
    for k in range(9):
        row, column = (0.37 + 0.618 * k) % 1, (0.11 + 0.755 * k) % 1
        away = np.hypot((y - row + 0.5) % 1 - 0.5, (x - column + 0.5) % 1 - 0.5)
        thick += 0.6 / (1 + np.exp((away - 0.08 - 0.004 * k) * 90))
    transmission = np.exp((1j - 0.1) * thick)
    place, along = np.arange(n) * 0.75, np.fft.fftfreq(n, 0.75) * 0.6
    pupil = 1 / (1 + np.exp((np.hypot(along[:, None], along) / 0.12 - 1) / 0.05))
    step, images = 0.6 / (wide * 1.5), []
    for q in np.rint((inr.diffraction.led_directions(4.0 * GRID, 90) + moved) / step) * step:
        wave = np.exp(2j * np.pi * (q[0] * place[:, None] + q[1] * place) / 0.6)
        field = np.fft.ifft2(np.fft.fft2(wave * transmission) * pupil)[::2, ::2]
        images.append(np.abs(field[:camera, :camera]) ** 2)
    return np.array(images)


def _leds(folder):
    counts = np.rint(9000 * led_images((0.0, 0.02)) + 100).astype("uint16")
    save_tif(folder / "smear.tif", counts, pixel_size=1.5, unit="µm", axes="TYX")
    np.savetxt(folder / "leds.csv", GRID[:, ::-1], "%d", ",", header="x (column),y", comments="")
    options = "--wavelength 0.6 --na 0.12 --pitch 4 --distance 90 --align place --offset 100"
    options = ["--leds", str(folder / "leds.csv"), *options.split(), "--finer", "2"]
    return Case("diffraction", [folder / "smear.tif"], [*options, "--n-iter", "20"])


def _reds(folder):
    rng = np.random.default_rng(0)
    for clip in ("000", "001"):
        for part, side in (("train_sharp", 32), ("train_sharp_bicubic/X4", 8)):
            at = folder / "reds" / part / clip
            at.mkdir(parents=True)
            for k in range(4):
                picture = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
                Image.fromarray(picture).save(at / f"{k:08d}.png")
    return Case("xray-convert", [folder / "reds"], [])


def _clips(folder):
    case = _reds(folder)
    assert main([*case.call(folder / "grey"), "--quiet"]) == 0
    options = ["--n-steps", "4", "--batch", "1", "--patch", "16", "--save-every", "2"]
    return Case("xray-train", [folder / "grey" / "reds"], [*options, "--photons", "100", "1000"])


def _turned_clips(folder):
    case = _clips(folder)
    options = ["--n-steps", "4", "--batch", "1", "--patch", "32", "--save-every", "2"]
    return Case("xray-train-calibrator", case.files, options)


def _grid(folder):
    grid = grid_image(seed=1002)
    save_h5(folder / "grid.h5", {"lr": np.stack([grid.lr] * 2), "hr": grid.hr})
    return Case("xray-calibrate", [folder / "grid.h5"], [])


def _two_cameras(folder):
    movie = simulate(Experiment(shape=(32, 32), n_frames=21), seed=0)
    tree = {"lr": movie.lr, "hr": movie.hr, "key_times": np.asarray(movie.key_times, float)}
    save_h5(folder / "melt.h5", tree)
    return Case(
        "xray-infer", [folder / "melt.h5"], ["--chunk", "6", "--tile", "24", "--overlap", "8"]
    )


def same(one, two):
    """Assert that two folders hold the same results, bit for bit."""
    names = sorted(p.relative_to(one) for p in one.rglob("*") if _is_result(p))
    assert names and names == sorted(p.relative_to(two) for p in two.rglob("*") if _is_result(p))
    for name in names:
        first, second = one / name, two / name
        if name.suffix == ".h5" and name.stem == "molecules":
            np.testing.assert_array_equal(load_table(first), load_table(second))
        elif name.suffix == ".h5":
            equal(load_h5(first)[0], load_h5(second)[0])
        elif name.suffix == ".safetensors":
            equal(checkpoints.load(first)[0], checkpoints.load(second)[0])
        elif name.suffix == ".tif":
            np.testing.assert_array_equal(load_tif(first).image, load_tif(second).image)
            assert load_tif(first).calibration == load_tif(second).calibration
        else:
            assert first.read_bytes() == second.read_bytes(), name


def _is_result(path):
    inside = "chunks" in path.parts or any(part.startswith("unfinished") for part in path.parts)
    return path.is_file() and path.name not in ("job.toml", "job.json") and not inside


def equal(one, two):
    """Assert that two trees of arrays are the same."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            equal(one[name], two[name])
    else:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
