"""Jobs of the command: from files to results on disk, by options, by TOML, by a page's call."""

import inspect
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from helpers import checkpoints, fusion, inr, xray
from helpers.__main__ import main
from helpers.fusion import Fusion
from helpers.fusion.scan._twin import pd_tio2_edx
from helpers.io import Stack, load_h5, load_table, load_tif, load_tilt_angles, save_h5, save_tif
from helpers.jobs import _fuse, _xray_train, find
from helpers.jobs._command import names
from helpers.jobs._xray_infer import _late_ns
from helpers.lucy import richardson_lucy
from helpers.renderer import deconvolve, pupil
from helpers.renderer.denoise import denoise
from helpers.renderer.detect import localize
from helpers.renderer.renderers import Spline2D, Spline3D
from tests.margins.seeds import published
from tests.unit.jobs import cases
from tests.unit.jobs.cases import DEVICE, GRID, LENS, equal, kernel, run, same
from tests.unit.xray.files import write_ini


@pytest.mark.parametrize("name", names())
def test_the_record_of_a_job_gives_the_same_bits(case, name, tmp_path, capsys):
    """The TOML beside a result, run elsewhere, equals the command."""
    results = run(case(name), tmp_path / "a", capsys)
    assert all(r["new"] for r in results) and len(results) == len(case(name).files)
    folder = tmp_path / "a" / case(name).files[0].name.split(".")[0]
    kept = (folder / "job.toml").read_text()
    (tmp_path / "again.toml").write_text(kept.replace(json.dumps(str(tmp_path / "a")), '"b"'))
    assert main(["run", str(tmp_path / "again.toml"), "--json"]) == 0
    same(tmp_path / "a", tmp_path / "b")
    note = json.loads((folder / "job.json").read_text())
    assert str(case(name).files[0]) in note["inputs"] and note["versions"]["helpers"]
    assert not list((tmp_path / "a").rglob("unfinished*")), "nothing is left over"
    again = run(case(name), tmp_path / "a", capsys)
    assert [r["new"] for r in again] == [False] * len(again)
    assert [r["output"] for r in again] == [r["output"] for r in results]


def test_fuse_equals_the_page(case, tmp_path, capsys):
    field = case("fuse").files[2]
    results = run(case("fuse"), tmp_path, capsys)
    tree, _ = load_h5(field)
    haadf, maps = fusion.normalize(tree["haadf"], tree["maps"])
    expected = fusion.fuse(haadf, maps, {n: n for n in maps}, n_iter=5, device="cpu")
    found = Fusion.load(tmp_path / "f2")
    assert set(found.maps) == {"Sc", "Dy", "O"} and results[2]["n_iter"] == 5
    for name in maps:
        np.testing.assert_allclose(found.maps[name], expected.maps[name], atol=1e-5)


def test_the_default_weights_are_judged_once_by_the_first_field_that_can_be_read(
    tmp_path, capsys, monkeypatch
):
    """A broken field comes first; every record says what was found, and the note is said once."""
    judged = []
    real = _fuse.judge_defaults
    monkeypatch.setattr(_fuse, "judge_defaults", lambda *a, **k: judged.append(a) or real(*a, **k))
    (tmp_path / "a.h5").write_bytes(b"broken")
    files = [tmp_path / "a.h5"]
    for name in "bc":
        data = fusion.simulate("dysco3", counts=2, seed=0, size=96)
        files.append(tmp_path / f"{name}.h5")
        save_h5(files[-1], {"maps": dict(data.maps), "haadf": data.haadf})
    call = ["fuse", *map(str, files), "--out", str(tmp_path / "out"), *DEVICE]
    tree, _ = load_h5(files[1])
    haadf, maps = fusion.normalize(tree["haadf"], tree["maps"])
    with pytest.warns(UserWarning, match="hidden pixels") as told:
        expected = fusion.fuse(haadf, maps, {n: n for n in maps}, device="cpu")
    for _ in range(2):  # the second call takes what the first one found
        assert main(call) == 1
        said = capsys.readouterr().err.splitlines()
        assert said == [f"note: {files[1]}: {told[0].message}"]
        assert len(judged) == 1
    for name in "bc":
        note = json.loads((tmp_path / "out" / name / "job.json").read_text())
        assert note["judged"] == {"field": str(files[1]), "found": str(told[0].message)}
        found = Fusion.load(tmp_path / "out" / name)
        np.testing.assert_allclose(found.maps["Dy"], expected.maps["Dy"], atol=1e-5)
    assert main([*call, "--n-iter", "5"]) == 1 and len(judged) == 1
    assert capsys.readouterr().err == ""


def test_fuse_of_counts_equals_the_page(tmp_path, capsys):
    data = fusion.simulate("dysco3", counts=2, seed=0, size=32)
    np.savez(tmp_path / "field.npz", haadf=data.haadf, **data.counts)
    call = ["fuse", str(tmp_path / "field.npz"), "--out", str(tmp_path / "out"), "--counts"]
    assert main([*call, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = fusion.fuse_counts(data.haadf, data.counts)
    found = fusion.CountFusion.load(tmp_path / "out" / "field")
    for name, (net, _) in expected.totals.items():
        np.testing.assert_allclose(found.maps[name], expected.maps[name], rtol=0.01, atol=0.01)
        assert told["net_counts"][name] == round(net, 1)


def test_beads_equals_the_page_for_an_astigmatic_lens(case, tmp_path, capsys):
    (result,) = run(case("beads"), tmp_path, capsys)
    with Stack(case("beads").files[0], gain=2, offset=100) as stack:
        expected = pupil.calibrate_astigmatism(stack[...], z_step=0.1)
    expected.save(tmp_path / "page.yaml")
    assert (tmp_path / "beads" / "lens.yaml").read_bytes() == (tmp_path / "page.yaml").read_bytes()
    assert result["output"] == str(tmp_path / "beads" / "lens.yaml") and result["beads"] == 2
    assert result["z_range"] == list(expected.z_range) and 0 < result["residual"] < 0.02
    more = ["--molecule", "3000", "5", "--z-range", "-0.4", "0.4", "--size", "17"]
    (result,) = run(case("beads"), tmp_path, capsys, *more)
    with Stack(case("beads").files[0], gain=2, offset=100) as stack:
        options = {"size": 17, "molecule": (3000, 5), "z_range": (-0.4, 0.4)}
        expected = pupil.calibrate_astigmatism(stack[...], z_step=0.1, **options)
    found = pupil.Astigmatism.load(result["output"])
    np.testing.assert_array_equal(found.constants, expected.constants)
    assert found.z_range == (-0.4, 0.4)


@pytest.mark.parametrize("planes", [13, 1])
def test_beads_equals_the_page_for_a_point_spread(case, planes, tmp_path, capsys):
    """And localize finds molecules by it, from command, TOML and Python alike."""
    with Stack(case("beads").files[0], gain=2, offset=100) as stack:
        counts = stack[...] if planes > 1 else stack[6]
    axes = "ZYX" if planes > 1 else "YX"
    sizes = {"pixel_size": 100, "unit": "nm", "z_step": 100 if planes > 1 else None}
    save_tif(tmp_path / "beads.tif", counts.astype("float32"), axes=axes, **sizes)
    call = ["beads", str(tmp_path / "beads.tif"), "--method", "psf", "--size", "15", *DEVICE]
    assert main([*call, "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = pupil.psf_from_beads(counts, pixel_size=0.1, z_step=0.1, size=15)
    tif = load_tif(result["output"])
    np.testing.assert_array_equal(tif.image, np.squeeze(expected.stack).astype("float32"))
    assert (tif.pixel_size, tif.unit, tif.z_step) == (0.1, "µm", 0.1 if planes > 1 else None)
    assert result["beads"] == 2 and 0 < result["residual"] < 0.1

    call = ["localize", str(tmp_path / "beads.tif"), *DEVICE]  # the beads are its molecules
    call += ["--calibration", str(tmp_path / "beads" / "psf.tif")]
    assert main([*call, "--out", str(tmp_path / "out")]) == 0
    table = load_table(json.loads(capsys.readouterr().out)["output"])
    psf = tif.image
    spots = Spline3D((15, 15), psf, 0.1) if planes > 1 else Spline2D((15, 15), psf)
    counts = counts.astype("float32").reshape(-1, *counts.shape[-2:])
    page = localize(counts, spots, device="cpu")
    assert table.dtype.names == page.dtype.names and ("z" in table.dtype.names) == (planes > 1)
    for name in page.dtype.names:
        np.testing.assert_array_equal(table[name], page[name])
    assert len(table) >= 2 * planes - 4
    written = (tmp_path / "out" / "beads" / "job.toml").read_text()
    (tmp_path / "again.toml").write_text(written.replace("out = ", 'out = "twice" # '))
    assert main(["run", str(tmp_path / "again.toml"), "--json"]) == 0
    capsys.readouterr()
    same(tmp_path / "out", tmp_path / "twice")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--z-step", "100"], "divide nm by 1000"),
        (["--size", "14"], "give an odd number of pixels"),
        (["--pixel-size", "0.1"], "astigmatism takes no pixel_size"),
        (["--method", "psf", "--molecule", "900", "5"], "psf takes no molecule"),
        (["--method", "psf", "--pixel-size", "100"], "divide nm by 1000"),
        (["--z-range", "0.2", "0.1"], "least and the largest depth"),
    ],
)
def test_beads_says_in_one_line_what_it_cannot_use(case, options, words, tmp_path, capsys):
    (result,) = run(case("beads"), tmp_path, capsys, *options, ends=1)
    assert words in result["error"] and "\n" not in result["error"]
    assert not list(tmp_path.rglob("lens.yaml")) and not list(tmp_path.rglob("psf.tif"))


def test_beads_asks_for_the_sizes_that_a_file_lacks(tmp_path, capsys):
    np.save(tmp_path / "beads.npy", np.ones((9, 30, 30)))
    call = ["beads", str(tmp_path / "beads.npy"), "--out", str(tmp_path / "out"), *DEVICE]
    for more, words in (
        ([], "give --z-step in µm"),
        (["--method", "psf", "--z-step", "0.1"], "give --pixel-size in µm"),
        (["--z-step", "0.1"], "no bead stands out"),
    ):
        assert main([*call, *more]) == 1
        assert words in json.loads(capsys.readouterr().out)["error"]
    np.save(tmp_path / "beads.npy", np.ones((30, 30)))
    assert main(call) == 1
    assert "give --z-step in µm" in json.loads(capsys.readouterr().out)["error"]
    np.save(tmp_path / "beads.npy", np.ones((2, 9, 30, 30)))
    assert main(call) == 1
    assert "give one (Z, Y, X)" in json.loads(capsys.readouterr().out)["error"]


def test_localize_equals_the_page(case, tmp_path, capsys):
    (result,) = run(case("localize"), tmp_path, capsys)
    with Stack(case("localize").files[0], gain=2, offset=100) as stack:
        expected = localize(stack[...], 1.3, batch=3, device="cpu")
    found = load_table(result["output"])
    assert result["molecules"] == len(expected) > 15 and result["frames"] == 12
    assert found.dtype.names == expected.dtype.names
    for name in expected.dtype.names:
        np.testing.assert_array_equal(found[name], expected[name])


def test_denoise_equals_the_page_and_keeps_the_pixel_size(case, tmp_path, capsys):
    (result,) = run(case("denoise"), tmp_path, capsys)
    with Stack(case("denoise").files[0], gain=1.0, offset=0.0) as stack:
        expected = denoise(stack[...], n_steps=3, width=4, device="cpu")
    tif = load_tif(result["output"])
    assert (tif.pixel_size, tif.unit, tif.axes) == (0.1, "µm", "TYX")
    np.testing.assert_array_equal(tif.image, expected.images)


def test_deconvolve_equals_the_page(case, tmp_path, capsys):
    (result,) = run(case("deconvolve"), tmp_path / "out", capsys)
    tif = load_tif(result["output"])
    assert (tif.pixel_size, tif.z_step, tif.axes) == (0.1, 0.3, "ZYX") and result["tiles"] == 4
    image = load_tif(case("deconvolve").files[0]).image
    counts = np.maximum(image.astype("float32") - 100, 0)
    solve = partial(richardson_lucy, n_iter=4, background=2.0, device="cpu")
    whole = tmp_path / "whole.npy"
    deconvolve.by_tiles(counts, kernel(), solve, whole, tile=(6, 12, 12))
    np.testing.assert_array_equal(tif.image, np.load(whole))


def test_deconvolve_takes_movies_and_finds_the_weight(case, tmp_path, capsys):
    counts = np.random.default_rng(0).poisson(30, (2, 16, 18)).astype("uint16")
    save_tif(tmp_path / "movie.tif", counts, axes="TYX", pixel_size=0.1, unit="µm")
    np.save(tmp_path / "psf.npy", kernel().sum(0))
    call = ["deconvolve", str(tmp_path / "movie.tif"), "--kernel", str(tmp_path / "psf.npy")]
    call += ["--method", "map-tv", "--n-iter", "5", "--out", str(tmp_path / "out"), *DEVICE]
    assert main(call) == 0
    result = json.loads(capsys.readouterr().out)
    op = deconvolve.Blur(kernel().sum(0), (16, 18))
    weight = deconvolve.choose_weight(op, counts[0].astype("float32"), device="cpu").weight
    assert result["weight"] == weight and result["tiles"] == 2
    op = deconvolve.Blur(kernel().sum(0), (16, 18), margin=2)
    expected = deconvolve.map_tv(op, counts[1].astype("float32"), weight, n_iter=5, device="cpu")
    np.testing.assert_allclose(load_tif(result["output"]).image[1], expected.volume, rtol=1e-4)


def test_field_equals_the_page(case, tmp_path, capsys):
    (result,) = run(case("field"), tmp_path, capsys)
    film, psf = (np.load(p) for p in (case("field").files[0], case("field").options[1]))
    size = (0.4, 0.2, 0.2)
    op = inr.lightfield.LightField(psf, shape=film.shape[-2:], voxel_size=size)
    options = {"background": 4.0, "read_noise": 1.5, "device": "cpu"}
    expected = inr.fit.reconstruct(op, film[1].astype("float32"), n_steps=6, **options)
    tif = load_tif(result["output"])
    assert (tif.pixel_size, tif.z_step, tif.unit, tif.axes) == (0.2, 0.4, "µm", "TZYX")
    np.testing.assert_array_equal(tif.image[1], expected.volume)
    case("field").options.extend(["--method", "lucy", "--n-iter", "3"])
    (result,) = run(case("field"), tmp_path, capsys)
    del case("field").options[-4:]
    expected = richardson_lucy(op, film[0].astype("float32"), 3, **options)
    np.testing.assert_array_equal(load_tif(result["output"]).image[0], expected.volume)


def test_tomogram_equals_the_page(case, tmp_path, capsys):
    series = case("tomogram").files[0]
    call = ["tomogram", str(series), "--invert", "--thickness", "12", "--n-iter", "8"]
    mrcfile = pytest.importorskip("mrcfile")
    assert main([*call, "--volume", "mrc", "--out", str(tmp_path), *DEVICE]) == 0
    images = load_tif(series).image
    signal = np.median(images, axis=(1, 2), keepdims=True) - images
    angles = load_tilt_angles(series.with_suffix(".tlt"))
    op = inr.tomography.ParallelBeam(angles, (12, *signal.shape[1:]), width=signal.shape[2])
    expected = inr.tomography.sirt(op, signal, 8, device="cpu")
    with mrcfile.open(json.loads(capsys.readouterr().out)["output"]) as file:
        np.testing.assert_array_equal(file.data, expected.volume)
        assert np.isclose(float(file.voxel_size.x), 12)  # angstrom
    (result,) = run(case("tomogram"), tmp_path, capsys)
    assert load_tif(result["output"]).pixel_size == 1.2 and result["tilts"] == 7


def test_film_equals_the_page(case, tmp_path, capsys):
    """Two chains, of two frames and of one; every one starts at the field of the first frame."""
    (result,) = run(case("film"), tmp_path, capsys)
    film, psf = (np.load(p) for p in (case("film").files[0], case("film").options[1]))
    op = inr.lightfield.LightField(psf, shape=film.shape[-2:], voxel_size=(0.4, 0.2, 0.2))
    views = film.astype("float32")
    options = {"background": 4.0, "device": "cpu"}
    first = inr.fit.reconstruct(op, views[0], n_steps=6, read_noise=1.5, **options)
    smooth, weight = 1e-3 * float(first.volume.mean()), first.settings["choice"].weight
    chain = partial(
        inr.fit.fit_sequence,
        first.field,
        op,
        loss=partial(inr.fit.losses.poisson, read_noise=1.5),
        prior=lambda v: weight * inr.fit.losses.hessian(v, weights=(0.5, 1, 1), smooth=smooth),
        schedule=inr.fit.Stage(6, 0.3),
        rounds=2,
        **options,
    )
    expected = [chain(views[:2]), chain(views[2:])]
    tif = load_tif(result["output"])
    assert (tif.pixel_size, tif.z_step, tif.unit, tif.axes) == (0.2, 0.4, "µm", "TZYX")
    np.testing.assert_array_equal(tif.image[:2], expected[0].volumes)
    np.testing.assert_array_equal(tif.image[2:], expected[1].volumes)
    assert result["chains"] == 2 and result["prior"] == weight
    assert result["n_steps"] == [*expected[0].n_steps, *expected[1].n_steps]


def test_tomogram_finds_the_axis_and_the_drift(tmp_path, capsys):
    """The simulated series is moved; the command does what the page's calls do."""
    series = inr.phantoms.simulate_opt(15, shape=(24, 24, 24), seed=1)
    angles = series.op.angles_deg
    moved = np.roll(series.projections, 2, -1).astype("float32")
    save_tif(tmp_path / "moved.tif", moved, axes="TYX")
    (tmp_path / "moved.tlt").write_text("\n".join(map(str, angles)))
    call = ["tomogram", str(tmp_path / "moved.tif"), "--align", "axis", "--background", "0"]
    assert main([*call, "--n-iter", "5", "--out", str(tmp_path / "out"), *DEVICE]) == 0
    result = json.loads(capsys.readouterr().out)
    found = inr.align.tilts(moved, angles, drift=False)
    assert result["axis_px"] == found.offset and abs(found.offset - 2) < 0.2
    assert result["unexplained"] < result["unexplained_before"]
    op = inr.tomography.ParallelBeam(
        angles, (moved.shape[2], *moved.shape[1:]), moved.shape[2], **found.geometry
    )
    expected = inr.tomography.sirt(op, moved, 5, device="cpu")
    np.testing.assert_array_equal(load_tif(result["output"]).image, expected.volume)
    call[call.index("axis")] = "drift"
    assert main([*call, "--n-iter", "5", "--out", str(tmp_path / "out"), *DEVICE]) == 0
    assert len(json.loads(capsys.readouterr().out)["drift_px"]) == len(angles)


def nearest(leds, hidden):
    """For each LED, the number of the nearest one that is not hidden."""
    apart = np.hypot(*(leds[:, None] - leds).T)
    apart[hidden] = np.inf
    return apart.argmin(0)


def test_diffraction_equals_the_page(case, tmp_path, capsys):
    """The array is found off its place, and hidden LEDs judge the transmission."""
    (result,) = run(case("diffraction"), tmp_path / "out", capsys)
    images = np.maximum(load_tif(case("diffraction").files[0]).image.astype("float32") - 100, 0)
    built = inr.diffraction.led_directions(4.0 * GRID, 90)
    placed = inr.align.leds(images, built, **LENS)
    assert result["moved_na"] == [round(float(v), 4) for v in placed.offset / LENS["na"]]
    assert np.abs(placed.offset - [0, 0.02]).max() < 0.01 and result["turn"] == "as given"
    shape = images.shape[1:]
    model = inr.diffraction.Ptychography(placed.leds, shape, finer=2, margin=8, **LENS)
    bright = model.bright.numpy()
    images /= float(np.median(images[bright]))
    hidden = np.zeros(49, bool)
    others = np.delete(np.arange(49), np.hypot(*placed.leds.T).argmin())
    hidden[np.random.default_rng(0).choice(others, 12, replace=False)] = True
    expected = inr.diffraction.fit_transmission(
        model.select(~hidden), images[~hidden], n_iter=20, device="cpu"
    )
    tif = load_tif(result["output"])
    assert (tif.axes, tif.pixel_size, tif.unit) == ("CYX", 0.75, "µm")
    assert tif.channel_names == ("amplitude", "phase")
    np.testing.assert_array_equal(tif.image[0], np.abs(expected.transmission).astype("float32"))
    rest, _ = load_h5(tmp_path / "out" / "smear" / "instrument.h5")
    np.testing.assert_array_equal(rest["transmission"], expected.transmission)
    np.testing.assert_array_equal(rest["pupil"]["phase"], expected.model.phase)
    np.testing.assert_array_equal(rest["hidden"], hidden)
    assert result["n_iter"] == expected.n_iter and result["converged"] == expected.converged
    assert result["start_defocus"] == expected.settings["defocus"]
    lens = {k: expected.model.parameters()[k] for k in ("aberration", "pupil", "absorption")}
    predicted = model.at(lens)(expected.volume)
    for field, judged in (("bright", hidden & bright), ("dark", hidden & ~bright)):
        share = inr.diffraction.explained(predicted, images)[judged]
        weight = np.sqrt(images[judged]).var((1, 2))
        np.testing.assert_allclose(
            result[f"explained_{field}"], np.average(share, weights=weight), atol=1e-3
        )
        beside = inr.diffraction.explained(images[nearest(placed.leds, hidden)], images)[judged]
        np.testing.assert_allclose(
            result[f"by_neighbour_{field}"], np.average(beside, weights=weight), atol=1e-3
        )


def test_diffraction_of_a_thick_object_equals_the_page(tmp_path, capsys):
    """Directions in a table, images in an NPZ file, a weight chosen by LEDs that are not fitted."""
    leds = inr.diffraction.spiral(16, 0.5)
    scan = inr.phantoms.simulate_diffraction(leds, shape=(6, 24, 24), photons=1e5)
    np.savez(tmp_path / "worm.npz", images=scan.intensity, leds=leds)
    np.savetxt(tmp_path / "leds.txt", leds)
    call = ["diffraction", str(tmp_path / "worm.npz"), "--leds", str(tmp_path / "leds.txt")]
    call += "--dataset images --method tomography --wavelength 0.532 --na 0.65".split()
    call += ["--pixel-size", "2", "--magnification", "10", "--z-step", "0.5", *DEVICE]
    call += ["--depths", "-1.5", "1.5", "--out", str(tmp_path / "out")]
    assert main(call) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["leds"], result["hidden"]) == (16, 4)
    tif = load_tif(result["output"])
    assert (tif.axes, tif.z_step, tif.pixel_size, tif.unit) == ("CZYX", 0.5, 0.2, "µm")
    hidden = np.zeros(16, bool)
    others = np.delete(np.arange(16), np.hypot(*leds.T).argmin())
    hidden[np.random.default_rng(0).choice(others, 4, replace=False)] = True
    images = scan.intensity / np.median(scan.intensity, (1, 2), keepdims=True)
    optics = inr.diffraction.Microscope(0.532, 0.65, 1.33, (0.5, 0.2, 0.2))
    op = inr.diffraction.Born(optics, leds, (6, 24, 24), absorption=True, on_grid=False)
    expected = inr.diffraction.linear_inverse(op.select(~hidden), images[~hidden], result["weight"])
    np.testing.assert_allclose(tif.image, expected, atol=1e-6 * np.abs(expected).max())
    y, x = images[hidden], op.select(hidden)(expected)
    y, x = (v - v.mean((1, 2), keepdims=True) for v in (y, x))
    np.testing.assert_allclose(
        result["explained"], 1 - ((x - y) ** 2).sum() / (y**2).sum(), atol=1e-3
    )
    x = images[nearest(leds, hidden)][hidden]
    x = x - x.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(
        result["by_neighbour"], 1 - ((x - y) ** 2).sum() / (y**2).sum(), atol=1e-3
    )
    assert main([*call, "--no-absorption", "--weight", "0.01", "--hidden", "0"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "explained" not in result and result["weight"] == 0.01
    assert load_tif(result["output"]).axes == "ZYX"


def test_the_noise_of_a_tilt_series_is_found_beside_edges():
    from helpers.jobs.inr._volumes import _noise

    found = []
    for seed in range(5):
        image = np.random.default_rng(seed).normal(0, 0.7, (3, 40, 40))
        image[:, 10:20, 10:25] += 9
        found.append(_noise(image))
    spread = np.std(found, ddof=1)
    assert abs(np.mean(found) - 0.7) < 0.05 and spread < 0.05


def test_xray_convert_equals_the_page(case, tmp_path, capsys):
    (result,) = run(case("xray-convert"), tmp_path / "out", capsys)
    xray.data.convert_reds(case("xray-convert").files[0], tmp_path / "page" / "reds")
    assert result["clips_train"] == 2
    same(tmp_path / "out", tmp_path / "page")


def test_xray_train_equals_the_page(case, tmp_path, capsys):
    (result,) = run(case("xray-train"), tmp_path, capsys)
    grey = case("xray-train").files[0]
    folders = grey / "train_sharp_mono_1ch", grey / "train_sharp_mono_1ch_bicubic" / "X4"
    clips = xray.data.read_meta_info(grey / "train_meta_info.txt")
    import torch

    net = xray.flowfuse.FlowFuse.preset("small", generator=torch.Generator().manual_seed(0))
    expected = xray.train.train(
        net,
        xray.data.VirtualPairs(*folders, clips[:-1]),
        schedule=xray.train.Schedule(4, batch=1, patch=16),
        noise=xray.train.PoissonLR(100, 1000),
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    assert result["loss"] == expected.history[-1]
    state, card = checkpoints.load(result["output"])
    half = {k: v.half() for k, v in expected.net.state_dict().items()}
    equal(state["net"], half)
    assert card["metric"]["psnr"] == result["psnr"] and card["steps"] == 4


def test_xray_train_takes_the_published_schedule_where_nothing_is_said(
    case, tmp_path, capsys, monkeypatch
):
    asked = {}

    def train(net, data, **options):
        asked.update(options, width=net.config.width)
        raise KeyboardInterrupt

    monkeypatch.setattr(_xray_train, "train", train)
    call = ["xray-train", str(case("xray-train").files[0]), "--out", str(tmp_path), *DEVICE]
    actual = xray.swin.SwinXVR.recipes["actual"]
    for more, schedule in (
        ([], xray.train.Schedule()),
        (["--network", "swin", "--size", "actual"], actual),
        (["--network", "swin", "--size", "actual", "--batch", "2"], replace(actual, batch=2)),
    ):
        assert main([*call, *more, "--precision", "bfloat16"]) == 1
        assert asked["schedule"] == schedule and asked["precision"] == "bfloat16"
    assert asked["width"] == 384
    capsys.readouterr()


def test_xray_train_calibrator_learns_and_starts_from_files(case, tmp_path, capsys):
    (result,) = run(case("xray-train-calibrator"), tmp_path / "a", capsys)
    net = xray.load(result["output"], device="cpu")
    assert type(net).__name__ == "FlowNet" and net.card["steps"] == 4
    assert net.card["metric"]["end_point_error_px"] == result["end_point_error_px"] > 0
    more = ["--start", result["output"], "--judge", "flowfuse"]
    (again,) = run(case("xray-train-calibrator"), tmp_path / "b", capsys, *more)
    assert again["loss"] != result["loss"]
    (other,) = run(case("xray-train-calibrator"), tmp_path / "c", capsys, "--start", "edvr", ends=1)
    assert "edvr fuses frames" in other["error"]


def test_xray_train_calibrator_equals_the_page(case, tmp_path, capsys):
    """The page's call, with the misaligned clips that the job draws."""
    (result,) = run(case("xray-train-calibrator"), tmp_path, capsys)
    grey = case("xray-train-calibrator").files[0]
    clips = xray.data.read_meta_info(grey / "train_meta_info.txt")[:-1]
    import torch

    ranges = {"turn": 0.05, "stretch": 0.02, "shift": 8.0}
    folder, frames = grey / "train_sharp_mono_1ch", [(clip.name, clip.n_frames) for clip in clips]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = xray.flow.FlowNet.preset("small")
    expected = xray.train.train_calibrator(
        net,
        None,
        _xray_train._MisalignedClips(folder, frames, 32, (3000.0, 4000.0), 20, ranges),
        schedule=xray.train.Schedule(4, learning_rate=5e-4, warmup=2, batch=1, clip=1.0),
        generator=torch.Generator().manual_seed(0),
        device="cpu",
    )
    assert result["loss"] == expected.history[-1, 0]
    state, _ = checkpoints.load(result["output"])
    equal(state["net"], {k: v.half() for k, v in expected.net.state_dict().items()})


def test_the_page_of_every_job_is_compared():
    """A new job needs its test beside these."""
    for name in names():
        wanted = f"test_{name.replace('-', '_')}_equals_the_page"
        assert any(known.startswith(wanted) for known in globals()), wanted


def test_xray_calibrate_equals_the_page_and_serves_xray_infer(case, tmp_path, capsys):
    (result,) = run(case("xray-calibrate"), tmp_path / "a", capsys)
    grid = xray.simulate.grid_image(seed=1002)
    expected = xray.calibrate.spatial(grid.hr, grid.lr)
    found = xray.calibrate.SpatialCalibration.load(result["output"])
    corners = np.array([[0, 0], [95, 0], [0, 95], [95, 95]])
    np.testing.assert_allclose(found.transform(corners), expected.transform(corners), atol=1e-6)
    assert np.abs(found.transform(corners) - grid.transform(corners)).max() < 0.05
    assert result["holes"] == len(expected.pairs.lr) and 0 < result["error_px"] < 0.05


def test_xray_calibrate_checks_the_clocks_and_xray_infer_takes_them(tmp_path, capsys):
    """One grid and one movie of cameras that lie straight, the slow one late."""
    straight = xray.cameras.Transform()
    field = {"mu": 1.64e-2, "delta": 2.71e-6, "shape": (192, 192), "transform": straight}
    late = xray.simulate.Experiment(n_frames=31, shape=(192, 192), time_offset=0.4)
    with published():  # of so small a grid not every one has holes that can be told apart
        grid = xray.simulate.grid_image(xray.simulate.Experiment(**field), seed=3)
        movie = xray.simulate.simulate(late, seed=1006)
    save_h5(tmp_path / "grid.h5", {"lr": grid.lr, "hr": grid.hr})
    keys = np.asarray(movie.key_times, float)
    save_h5(tmp_path / "late.h5", {"lr": movie.lr, "hr": movie.hr, "key_times": keys})
    call = ["xray-calibrate", str(tmp_path / "grid.h5"), "--movie", str(tmp_path / "late.h5")]
    assert main([*call, "--out", str(tmp_path / "out"), *DEVICE]) == 0
    result = json.loads(capsys.readouterr().out)
    clock = xray.calibrate.TemporalCalibration.load(tmp_path / "out" / "grid" / "clock.h5")
    assert result["offset_frames"] == clock.offset and result["rate"] == clock.rate
    assert abs(clock.offset - 0.4) < max(0.05, 4 * result["offset_error"])
    call = ["xray-infer", str(tmp_path / "late.h5"), "--chunk", "30", *DEVICE]
    clocked = ["--clock", str(tmp_path / "out" / "grid" / "clock.h5")]
    assert main([*call, "--out", str(tmp_path / "movie"), *clocked]) == 0
    rest, _ = load_h5(tmp_path / "movie" / "late" / "movie.h5")
    place, times = rest["tau"], rest["times"]
    before = clock.times(keys)[np.searchsorted(clock.times(keys), times, "right") - 1]
    gap = np.diff(clock.times(keys)).mean()
    np.testing.assert_allclose(place, (times - before) / gap, atol=1e-5)
    clocked[1] = str(tmp_path / "out" / "grid" / "calibration.h5")
    assert main([*call, "--out", str(tmp_path / "movie"), *clocked]) == 1


def test_a_clock_sets_a_recording_right_in_its_middle(tmp_path):
    write_ini(tmp_path / "fast.ini", range(0, 11_000, 1000))
    clock = xray.calibrate.TemporalCalibration(0.4, 1.01, np.eye(2), np.zeros((1, 2)))
    assert _late_ns(tmp_path, clock) == 450


def test_xray_infer_equals_the_page(case, tmp_path, capsys):
    (result,) = run(case("xray-infer"), tmp_path / "a", capsys)
    tree, _ = load_h5(case("xray-infer").files[0])
    experiment = xray.simulate.Experiment(shape=(32, 32), n_frames=21)
    movie = xray.simulate.simulate(experiment, seed=0)
    np.testing.assert_array_equal(movie.lr, tree["lr"])
    net = xray.load("flowfuse", device="cpu")
    options = {"tile": 24, "overlap": 8, "device": "cpu"}
    expected = xray.reconstruct.reconstruct(net, movie, **options)
    np.testing.assert_array_equal(load_tif(result["output"]).image, expected.frames)
    rest, _ = load_h5(tmp_path / "a" / "melt" / "movie.h5")
    np.testing.assert_array_equal(rest["times"], expected.times)
    more = ["--mode", "double", "--ensemble-std", "--pixel-size", "2"]
    (result,) = run(case("xray-infer"), tmp_path / "b", capsys, *more)
    expected = xray.reconstruct.reconstruct(net, movie, "double", ensemble_std=True, **options)
    assert load_tif(result["output"]).pixel_size == 2
    std = load_tif(tmp_path / "b" / "melt" / "ensemble_std.tif").image
    np.testing.assert_array_equal(np.atleast_3d(std), np.atleast_3d(expected.ensemble_std[0]))
    rest, _ = load_h5(tmp_path / "b" / "melt" / "movie.h5")
    np.testing.assert_allclose(rest["table"]["psnr"], expected.table["psnr"], rtol=1e-5)


def test_localize_writes_for_picasso_without_doing_the_work_again(case, tmp_path, capsys):
    assert run(case("localize"), tmp_path, capsys)[0]["chunks_new"] == 4
    (result,) = run(case("localize"), tmp_path, capsys, "--table", "picasso")
    assert result["chunks_new"] == 0
    own, theirs = (load_table(tmp_path / "movie" / f"molecules.{e}") for e in ("h5", "hdf5"))
    np.testing.assert_allclose(theirs.x, own.x, atol=3e-6)
    assert "Pixelsize: 130.0" in (tmp_path / "movie" / "molecules.yaml").read_text()
    assert run(case("localize"), tmp_path, capsys, "--no-resume")[0]["chunks_new"] == 4


def test_localize_finds_depths_by_a_calibration(tmp_path, capsys):
    """The command, the TOML and the call of a page give the same table."""
    lens = cases.lens()
    lens.save(tmp_path / "lens.yaml")
    spots = lens.renderer((24, 26))
    x, z = np.linspace(-6, 6, 8), np.linspace(-0.4, 0.4, 8)
    mean = spots.render({"x": x, "y": -x / 2, "z": z, "photons": 3000.0, "background": 5.0})
    counts = np.random.default_rng(0).poisson(mean).astype("uint16")
    save_tif(tmp_path / "movie.tif", 2 * counts + 100, pixel_size=0.13, unit="µm", axes="TYX")
    call = ["localize", str(tmp_path / "movie.tif"), "--gain", "2", "--offset", "100", *DEVICE]
    lens_is = ["--calibration", str(tmp_path / "lens.yaml")]
    assert main([*call, *lens_is, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    table = load_table(result["output"])
    expected = localize(counts, lens.renderer((19, 19)), device="cpu")
    assert table.dtype.names == expected.dtype.names and {"z", "z_std"} <= set(table.dtype.names)
    for name in expected.dtype.names:
        np.testing.assert_array_equal(table[name], expected[name])
    assert len(table) == 8 and np.abs((table.z - z) / table.z_std).max() < 5
    settings = {"job": "localize", "files": ["movie.tif"], "out": "twice", "gain": 2.0}
    settings |= {"offset": 100.0, "calibration": "lens.yaml", "device": "cpu"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (tmp_path / "job.toml").write_text("\n".join(lines), "utf-8")
    assert main(["run", str(tmp_path / "job.toml"), "--json"]) == 0
    again = load_table(json.loads(capsys.readouterr().out)["output"])
    for name in expected.dtype.names:
        np.testing.assert_array_equal(again[name], table[name])
    assert main([*call, *lens_is, "--table", "picasso", "--out", str(tmp_path / "out")]) == 0
    theirs = load_table(json.loads(capsys.readouterr().out)["output"])
    np.testing.assert_allclose(theirs.z, table.z, atol=1e-6)
    np.testing.assert_allclose(theirs.sigma_x, lens.widths(table.z)[0], rtol=1e-5)
    assert main([*call, "--out", str(tmp_path / "none")]) == 1
    assert "either psf" in capsys.readouterr().out


def test_fuse_takes_folders_of_tiff_with_their_pixel_size(tmp_path, capsys):
    data = fusion.simulate("dysco3", counts=2, seed=0, size=24)
    (tmp_path / "field").mkdir()
    for name, image in {"haadf": data.haadf, **data.maps}.items():
        path = tmp_path / "field" / f"{name}.tif"
        save_tif(path, np.asarray(image, "float32"), pixel_size=0.08, unit="nm")
    call = ["fuse", str(tmp_path / "field"), "--out", str(tmp_path / "out"), "--n-iter", "2"]
    assert main([*call, "--elements", "Dy", "O", *DEVICE]) == 0
    assert json.loads(capsys.readouterr().out)["elements"] == ["Dy", "O"]
    assert load_tif(tmp_path / "out" / "field" / "Dy.tif").pixel_size == 0.08
    assert main([*call, "--haadf", "bf", *DEVICE]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert "has no image 'bf': it has Dy, O, Sc, haadf" in error


@pytest.mark.parametrize("counts", [True, False])
def test_fuse_counts_the_maps_of_a_microscopes_file(counts, tmp_path, capsys):
    """HyperSpy's format and plain NumPy take the same way as those of the vendors."""
    twin = pd_tio2_edx(seed=0)
    np.savez(tmp_path / "scan.npz", **twin)
    call = ["fuse", str(tmp_path / "scan.npz"), "--out", str(tmp_path / "out"), "--n-iter", "5"]
    call += ["--counts"] if counts else []
    assert main([*call, *DEVICE]) == 1
    assert "name the elements to map by --elements" in json.loads(capsys.readouterr().out)["error"]
    call += ["--elements", "Ti", "O", "--others", "Pd"]
    assert main([*call, *DEVICE]) == 0
    result = json.loads(capsys.readouterr().out)
    scan = fusion.read(tmp_path / "scan.npz")
    counted = fusion.maps_from_spectra(scan, ["Ti", "O"], others=["Pd"])
    assert result["counted"] == {e: round(net, 1) for e, (net, _) in counted.totals.items()}
    if counts:
        expected = fusion.fuse_counts(scan.haadf, counted)
        found = fusion.CountFusion.load(tmp_path / "out" / "scan")
    else:
        haadf, maps = fusion.normalize(scan.haadf, counted.maps)
        expected = fusion.fuse(haadf, maps, {n: n for n in maps}, n_iter=5, device="cpu")
        found = Fusion.load(tmp_path / "out" / "scan")
    for name in ("Ti", "O"):
        np.testing.assert_allclose(found.maps[name], expected.maps[name], rtol=0.01, atol=0.01)


def test_a_toml_file_may_name_files_by_a_pattern(case, tmp_path, capsys):
    folder = case("fuse").files[0].parent
    text = f'job = "fuse"\nfiles = ["{folder.as_posix()}/*.h5"]\nout = "out"\nn_iter = 2\n'
    (tmp_path / "all.toml").write_text(text)
    assert main(["run", str(tmp_path / "all.toml"), "--json"]) == 0
    found = [json.loads(line)["input"] for line in capsys.readouterr().out.splitlines()]
    assert found == [str(p) for p in case("fuse").files]


def test_fuse_has_the_defaults_of_the_function():
    known = inspect.signature(fusion.fuse).parameters
    shared = [s for s in find("fuse").settings if s.name in known and s.name != "haadf"]
    assert len(shared) > 5
    for setting in shared:
        assert setting.default == known[setting.name].default, setting.name


@pytest.mark.parametrize("name", names())
def test_the_toml_of_a_job_is_its_defaults(name, capsys):
    assert main(["init", name]) == 0
    text = capsys.readouterr().out
    given = tomllib.loads(text)
    assert given.pop("job") == name and max(map(len, text.splitlines())) <= 80
    job = find(name)
    settings = job.check(given)
    needed = {s.name for s in job.settings if s.needed}
    for setting in job.settings:
        assert setting.help and f"{setting.name} =" in text
        if setting.name not in needed:
            assert settings[setting.name] == setting.default


@pytest.mark.parametrize("name", names())
def test_the_help_of_a_job_reads_well(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80 and "`" not in text
    for option in ("--out", "--resume", "--device", "--json", "--workers", "--scheduler"):
        assert option in text
    assert f"options of {name}:" in text or name == "xray-convert"


def test_the_help_lists_every_job_without_loading_torch():
    code = "import sys; from helpers.jobs._command import listing; print(listing()); "
    code += "print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "False", run.stderr
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert all(f"  {name} " in run.stdout for name in names())
