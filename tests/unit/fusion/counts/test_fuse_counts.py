"""A fusion of counts: right in amount, never behind a filter, and blind to the counts it judges."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from helpers import io
from helpers.fusion import CountFusion, Fusion, fuse_counts, simulate
from helpers.fusion.counts._candidates import candidates, probe_basis, uses_haadf
from helpers.fusion.counts._choose import choose
from helpers.fusion.counts._vacuum import lattice_spacing, vacuum
from helpers.metrics import nrmse
from helpers.noise import Poisson


@pytest.fixture(scope="module")
def crystal():
    return simulate("dysco3", counts=1, seed=0, size=64)


@pytest.fixture(scope="module")
def fused(crystal):
    return fuse_counts(crystal.haadf, crystal.counts, background=0.05, seed=0)


def error(maps, truth):
    return np.mean([nrmse(maps[e], t, affine=True) for e, t in truth.items()])


def test_it_beats_every_gaussian_even_one_chosen_with_the_truth(crystal, fused):
    def blurred(width):
        return {e: gaussian_filter(c.astype(float), width) for e, c in crystal.counts.items()}

    best = min(error(blurred(w), crystal.truth) for w in (0.7, 1, 1.4, 2, 2.8))
    assert error(fused.maps, crystal.truth) < 0.8 * best


def test_amounts_are_those_of_the_net_counts(crystal, fused):
    for e, c in crystal.counts.items():
        net = c.sum() - 0.05 * c.size
        assert np.isclose(fused.maps[e].sum(), net, rtol=1e-4)
        assert fused.totals[e] == (pytest.approx(net), pytest.approx(np.sqrt(c.sum())))
        assert fused.maps[e].min() >= 0


def test_a_composition_has_the_error_that_repetition_shows(fused):
    factors = {"Sc": 1.0, "Dy": 2.0, "O": 0.5}
    share = fused.composition(factors)
    assert np.isclose(sum(c for c, _ in share.values()), 1)
    rng = np.random.default_rng(0)
    net = np.array([rng.normal(*fused.totals[e], 4000) for e in factors])
    amounts = np.array(list(factors.values()))[:, None] * net
    for e, found in zip(factors, (amounts / amounts.sum(0)).std(1), strict=True):
        assert np.isclose(share[e][1], found, rtol=0.1)  # nine deviations of a spread of 4000
    with pytest.raises(ValueError, match="lack"):
        fused.composition({"Sc": 1})
    with pytest.raises(ValueError, match="above 0"):
        fused.composition({"Sc": 1, "Dy": 0, "O": 1})


def test_chemistry_that_the_haadf_cannot_see_is_kept():
    """Two elements of one brightness change places; the HAADF is the same everywhere."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    columns = np.exp(4 * (np.cos(2 * np.pi * x / 16) + np.cos(2 * np.pi * y / 16) - 2))
    left = 1 / (1 + np.exp((x - 32.0) / 3))
    truth = {"Fe": 8 * columns * left, "Co": 8 * columns * (1 - left)}
    counts = {e: rng.poisson(t + 0.05) for e, t in truth.items()}
    result = fuse_counts(rng.poisson(2000 * columns + 50), counts, background=0.05)
    for e, t in truth.items():
        far = t < 0.02 * t.max()
        bright = columns > 0.5
        assert result.maps[e][far & bright].mean() < 0.15 * result.maps[e][~far & bright].mean()


def test_a_flat_map_gets_no_structure_from_the_haadf(crystal):
    """The judge finds no gain, within three of its own errors, in any of five draws."""
    for seed in range(5):
        flat = np.random.default_rng(seed).poisson(0.5, crystal.haadf.shape)
        result = fuse_counts(crystal.haadf, {"C": flat}, background=0, seed=seed)
        gain, deviation = result.score["C"]["flat"]
        assert gain < 3 * max(deviation, 1)
        assert result.maps["C"].std() < 0.2 * result.maps["C"].mean()


def test_the_judge_knows_the_truth_when_it_sees_it():
    rng = np.random.default_rng(0)
    truth = 2 + np.sin(np.arange(4000) / 20)
    unseen = rng.poisson(truth)
    predicted = np.stack([np.full(4000, unseen.mean()), truth[::-1], truth])
    found = choose(["flat", "Gaussian 1 px", "truth"], predicted[None], unseen[None], rng)
    assert found.weights["truth"] > 0.9
    assert found.score["flat"].gain > 5 * found.score["flat"].error > 0


def test_a_mixture_of_few_counts_is_never_clearly_behind_a_filter():
    """A trace element, forty counts in the field: in some draws the judge is of two minds."""
    y, x = np.mgrid[:40, :40]
    blob = np.exp(-((y - 20) ** 2 + (x - 14) ** 2) / 60)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        kept, unseen = (rng.poisson(n * blob / blob.sum() + n / 1600) for n in (32, 8))
        made = {"flat": np.full(blob.shape, kept.mean())}
        for width in (1, 2, 4, 8):
            made[f"Gaussian {width} px"] = gaussian_filter(kept.astype(float), width)
        made |= {"turned": blob[:, ::-1] * kept.mean(), "sharp": kept.mean() * blob**3 * 20}
        predicted = np.stack([m.ravel() / 4 for m in made.values()])
        found = choose(list(made), predicted[None], unseen.ravel()[None], rng)
        gain, deviation = found.score["Gaussian"]
        assert gain >= -deviation


def test_no_count_serves_the_candidates_and_the_judge(crystal, monkeypatch):
    """What is fitted and what is predicted add up to the counts, and are not the same."""
    from helpers.fusion.counts import _fuse

    made, judged = [], []
    monkeypatch.setattr(
        _fuse, "candidates", lambda y, *rest: made.append(y) or candidates(y, *rest)
    )
    monkeypatch.setattr(_fuse, "choose", lambda *given: judged.append(given[2]) or choose(*given))
    fuse_counts(crystal.haadf, {"Sc": crystal.counts["Sc"]}, n_splits=2)
    assert len(made) == 3
    for kept, rest in zip(made[:2], judged[0], strict=True):
        assert np.array_equal(kept[0].ravel() + rest, crystal.counts["Sc"].ravel())
        assert 0.1 < rest.sum() / crystal.counts["Sc"].sum() < 0.3
    assert not np.array_equal(made[0], made[1])


def test_a_candidate_uses_the_haadf_if_its_name_says_so(crystal):
    y = np.stack(list(crystal.counts.values())).astype(np.float32)
    h = (crystal.haadf / crystal.haadf.max()).astype(np.float32)
    a, b = candidates(y, h), candidates(y, h[::-1].copy())
    assert list(a) == list(b)
    assert len(a) > 60
    for name in a:
        assert uses_haadf(name) != np.allclose(a[name], b[name], atol=1e-4), name
    alone = candidates(y, None)
    assert not any(map(uses_haadf, alone))
    assert all(np.array_equal(alone[name], a[name]) for name in alone)
    some = candidates(y, h, {"Gaussian 2 px", "regression on HAADF wide, ridge 1"})
    assert len(some) < 20
    assert np.array_equal(some["regression on HAADF wide, ridge 1"],
                          a["regression on HAADF wide, ridge 1"])  # fmt: skip


def test_the_probe_basis_fits_better_with_every_step(crystal):
    y = crystal.counts["Dy"][None].astype(np.float32)
    fits = probe_basis(y, 2.2, (1, 2, 5, 20))
    deviance = [Poisson().deviance(f[0], y[0]) for f in fits.values()]
    assert deviance == sorted(deviance, reverse=True)
    assert all(np.isclose(f.mean(), y.mean(), rtol=0.02) for f in fits.values())


def test_the_unit_of_the_haadf_does_not_matter(crystal, fused):
    # By a power of two, so that no number is rounded, on which a choice of candidates may turn.
    again = fuse_counts(1024 * crystal.haadf, crystal.counts, background=0.05, seed=0)
    for e in fused.maps:
        np.testing.assert_array_equal(again.maps[e], fused.maps[e])


def test_the_same_seed_gives_the_same_maps_and_no_array_is_changed(crystal, fused):
    haadf = crystal.haadf.copy()
    counts = {e: c.copy() for e, c in crystal.counts.items()}
    again = fuse_counts(haadf, counts, background=0.05, seed=0)
    assert np.array_equal(haadf, crystal.haadf)
    for e in counts:
        assert np.array_equal(counts[e], crystal.counts[e])
        assert np.array_equal(again.maps[e], fused.maps[e])


def test_an_element_without_counts_stays_empty(crystal):
    counts = {**crystal.counts, "C": np.zeros((64, 64), int)}
    result = fuse_counts(crystal.haadf, counts, background=0)
    assert not result.maps["C"].any()
    assert result.totals["C"][0] == 0
    assert np.isfinite(result.unexplained).all()


def test_an_array_has_names_from_its_atomic_numbers(crystal):
    stack = np.stack(list(crystal.counts.values()))[:, :, :40]
    found = fuse_counts(crystal.haadf[:, :40], stack, atomic_numbers=[21, 66, 8], background=0)
    assert list(found.maps) == ["Sc", "Dy", "O"]
    assert found.maps["Sc"].shape == (64, 40)


def test_an_element_without_a_map_is_left_over():
    data = simulate("core_shell", counts=8, seed=0, size=64)
    some = fuse_counts(data.haadf, {"Co": data.counts["Co"]}, background=0)
    every = fuse_counts(data.haadf, data.counts, background=0)
    alike = np.corrcoef(some.unexplained.ravel(), data.truth["Mn"].ravel())[0, 1]
    assert alike > 0.5
    assert every.unexplained.std() < 0.5 * some.unexplained.std()
    assert np.allclose(some.haadf + some.unexplained, data.haadf)


def test_the_background_is_taken_from_the_vacuum_and_its_error_counts():
    data = simulate("core_shell", counts=4, seed=0, size=96)
    result = fuse_counts(data.haadf, data.counts)
    assert "vacuum" in result.settings["background"]
    for e, c in data.counts.items():
        assert 0.01 < result.background[e].mean() / c.mean() < 0.2
        assert result.totals[e][1] > np.sqrt(c.sum())


@pytest.mark.parametrize("cell", [12, 25, 40])
@pytest.mark.parametrize("turned", [0.0, 0.4])
def test_what_is_dark_between_columns_of_atoms_is_no_vacuum(cell, turned):
    """Oxygen may stand there: a wide part without columns is another matter."""
    y, x = np.mgrid[:160, :160].astype(float)
    u, v = np.cos(turned) * x + np.sin(turned) * y, np.cos(turned) * y - np.sin(turned) * x
    near = [(w + 0.3 * cell + cell / 2) % cell - cell / 2 for w in (u, v)]
    columns = np.exp(-(near[0] ** 2 + near[1] ** 2) / (2 * (cell / 9) ** 2))
    rng = np.random.default_rng(0)
    assert not vacuum(rng.poisson(2000 * columns + 5).astype(float)).any()
    half = np.where(x < 80, 2000 * columns, 0) + 5
    empty = vacuum(rng.poisson(half).astype(float))
    assert empty.mean() > 0.3 and not empty[:, : 80 - cell].any()


def test_few_particles_are_no_lattice():
    for size in (64, 128, 200):
        image = simulate("core_shell", counts=1, seed=0, size=size).haadf
        assert lattice_spacing(gaussian_filter(image, 2)) == 0
    assert lattice_spacing(np.ones((32, 32))) == 0


def test_an_element_in_the_dark_is_kept():
    """Of this crystal a hole between the heavy columns was once taken for vacuum."""
    data = simulate("dysco3", counts=2, seed=1_000_003, size=96)
    result = fuse_counts(data.haadf, data.counts, n_splits=1)
    assert nrmse(result.maps["O"], data.truth["O"], affine=True) < 0.5


def test_the_background_of_spectra_is_used(crystal):
    class Counted:
        maps = crystal.counts
        background = {e: np.full((64, 64), 0.1) for e in crystal.counts}

    result = fuse_counts(crystal.haadf, Counted())
    assert result.settings["background"] == "under the lines"
    assert all((b == 0.1).all() for b in result.background.values())


def test_saturated_pixels_are_masked_or_said(crystal):
    top = np.quantile(crystal.haadf, 0.9)
    clipped = np.minimum(crystal.haadf, top) + 0.0
    with pytest.warns(UserWarning, match="saturated"):
        fuse_counts(clipped, crystal.counts, background=0)
    result = fuse_counts(np.ma.masked_greater_equal(clipped, top), crystal.counts, background=0)
    assert error(result.maps, crystal.truth) < 0.3
    junk = np.where(clipped >= top, 1e9, clipped)
    same = fuse_counts(np.ma.masked_array(junk, clipped >= top), crystal.counts, background=0)
    assert all(np.array_equal(same.maps[e], result.maps[e]) for e in same.maps)


BAD = {
    "whole": lambda c: ({e: m + 0.5 for e, m in c.items()}, {}),
    "multiple of 3": lambda c: ({e: 3 * m for e, m in c.items()}, {}),
    "negative": lambda c: ({e: m - 1 for e, m in c.items()}, {}),
    "counts are masked": lambda c: ({e: np.ma.masked_less(m, 1) for e, m in c.items()}, {}),
    "all zero|are zero": lambda c: ({e: 0 * m for e, m in c.items()}, {}),
    "swapped|haadf is": lambda c: (np.stack(list(c.values()))[:, :20], {}),
    "one by one": lambda c: (np.stack(list(c.values()))[None], {}),
    "between 0 and 1": lambda c: (c, {"fraction": 1.0}),
    "n_splits": lambda c: (c, {"n_splits": 0}),
    "a number or an image": lambda c: (c, {"background": np.ones(3)}),
    "has the keys": lambda c: (c, {"background": {"Sc": 0.1}}),
    "not finite": lambda c: (c, {"background": -1.0}),
    "counts a pixel, of the same": lambda c: (c, {"background": 50.0}),
    "got atomic number": lambda c: (c, {"atomic_numbers": [8, 66, 21]}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_answered(crystal, message):
    counts, options = BAD[message](crystal.counts)
    with pytest.raises(ValueError, match=message):
        fuse_counts(crystal.haadf, counts, **options)


def test_a_small_field_and_a_swap_are_answered(crystal):
    with pytest.raises(ValueError, match="at least 16"):
        fuse_counts(crystal.haadf[:9], {e: c[:9] for e, c in crystal.counts.items()})
    with pytest.raises(ValueError, match="swapped"):
        fuse_counts(crystal.counts, crystal.haadf)


def test_everything_comes_back_from_disk(tmp_path, fused):
    (tmp_path / "Sc.tif").write_bytes(b"old")
    path = fused.save(tmp_path, pixel_size=0.016, unit="nm")
    again = CountFusion.load(tmp_path)
    assert again.settings == fused.settings
    assert again.totals == fused.totals
    assert again.weights == fused.weights
    assert again.score == fused.score
    assert list(again.maps) == list(fused.maps)
    for e in fused.maps:
        assert np.array_equal(again.maps[e], fused.maps[e])
        assert np.array_equal(again.counts[e], fused.counts[e])
    assert np.array_equal(again.unexplained, fused.unexplained)
    tif = io.load_tif(tmp_path / "Sc.tif")
    assert tif.pixel_size == 0.016
    assert np.array_equal(tif.image, fused.maps["Sc"])
    _, attributes = io.load_h5(path)
    assert json.loads(attributes["elements"]) == ["Sc", "Dy", "O"]


def test_files_of_an_earlier_fusion_go_and_the_other_kind_is_named(tmp_path, crystal, fused):
    fused.save(tmp_path)
    one = fuse_counts(crystal.haadf, {"Sc": crystal.counts["Sc"]}, background=0)
    one.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Sc.tif", "fusion.h5", "haadf.tif"]
    with pytest.raises(ValueError, match="no fusion"):
        Fusion.load(tmp_path)
