"""The door of a fusion: arguments swapped, of the wrong kind, masked, or contradictory."""

import numpy as np
import pytest
import torch

from helpers import datasets
from helpers.fusion import (
    calibrate_weights,
    choose_lambda,
    element_weights,
    fuse,
    haadf_from_maps,
    normalize,
    simulate,
    subtract_power_law,
    subtract_vacuum,
)
from helpers.fusion._simulate import twin_core_shell, twin_dysco3
from tests.unit.fusion.equation import array, scene

HAADF, STACK = scene(3, (12, 10))
MAPS = dict(zip(("Sc", "Dy", "O"), STACK, strict=True))


def test_keys_that_are_symbols_say_the_elements():
    alone = fuse(HAADF, MAPS, n_iter=2)
    assert alone.settings["atomic_numbers"] == [21, 66, 8]
    given = fuse(HAADF, MAPS, ["Sc", "Dy", "O"], n_iter=2)
    np.testing.assert_array_equal(array(alone.maps), array(given.maps))
    layers = {"a": STACK[0], "b": STACK[1]}
    assert fuse(HAADF, layers, [21, 66], n_iter=1).settings["atomic_numbers"] == [21, 66]


@pytest.mark.parametrize(
    "numbers", [["Sc", "O", "Dy"], [8, 66, 21], {"Sc": 21, "Dy": 66, "O": "Dy"}]
)
@pytest.mark.parametrize("function", [fuse, choose_lambda])
def test_numbers_that_contradict_the_keys_are_refused(function, numbers):
    counts = {e: np.ones((12, 10)) for e in MAPS}
    with pytest.raises(ValueError, match="got atomic number .* leave them out"):
        function(HAADF, counts, numbers)


@pytest.mark.parametrize(
    ("haadf", "maps", "message"),
    [
        (MAPS, HAADF, "haadf is a dict: haadf and maps are swapped"),
        (STACK, HAADF, "haadf and maps are swapped, give the HAADF first"),
        (HAADF, np.moveaxis(STACK, 0, -1), "elements are last.*np.moveaxis"),
        (HAADF[None], STACK, "drop the first axis of haadf"),
        (np.dstack([HAADF] * 3), STACK, "a picture with colours"),
        (HAADF + 1j, STACK, "haadf is complex"),
        (torch.tensor(HAADF + 1j), STACK, "haadf is complex"),
        (HAADF, STACK.astype(object), "maps is of dtype object"),
        (HAADF, ["a", "b"], "maps is of dtype <U1"),
        (HAADF, [[1.0], [2.0, 3.0]], "maps is of dtype object"),
        (HAADF, {"Sc": 1.0}, "expected .H, W. each"),
        (-abs(HAADF), STACK, "haadf is nowhere above 0"),
        (HAADF, STACK, "the elements of the maps are not known"),
        (HAADF, {"left": STACK[0]}, "the elements of the maps are not known"),
    ],
)
@pytest.mark.parametrize("function", [fuse, choose_lambda, calibrate_weights])
def test_what_is_no_image_is_named(function, haadf, maps, message):
    if function is calibrate_weights and "not known" in message:
        return
    with pytest.raises(ValueError, match=message):
        function(haadf, maps)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lambda_tv": "0.1"}, "lambda_tv are '0.1': give one number, or 3"),
        ({"lambda_tv": [0.1, 0.2]}, r"lambda_tv are \[0.1, 0.2\]: give one number, or 3"),
        ({"lambda_tv": {"Sc": 1, "Dy": 2}}, "lambda_tv has the keys .* but the maps are"),
        ({"background": [0.1, 0.2, 0]}, "background is .* above 0"),
        ({"gamma": "1.6"}, "gamma is '1.6': give one number"),
        ({"gamma": [1.6]}, r"gamma is \[1.6\]: give one number"),
        ({"lambda_chem": None}, "lambda_chem is None: give one number"),
        ({"n_iter": "30"}, "n_iter is '30'"),
        ({"tol": -1}, "tol is -1"),
        ({"weights": {"Sc": 1, "Dy": 2}}, "weights has the keys"),
    ],
)
def test_settings_of_the_wrong_kind_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        fuse(HAADF, MAPS, **setting)


def test_other_functions_name_what_is_wrong():
    with pytest.raises(ValueError, match="scheme is True"):
        element_weights([8], scheme=True)
    with pytest.raises(ValueError, match="size is 64.5: it must be a whole number"):
        simulate(size=64.5)
    with pytest.raises(ValueError, match="move axis 0 to the end"):
        subtract_power_law(np.ones((60, 4, 5)), np.arange(500.0, 560.0), (510, 530), (535, 555))
    with pytest.raises(ValueError, match="spectra are masked"):
        subtract_power_law(
            np.ma.masked_equal(np.eye(60), 1), np.arange(500.0, 560.0), (510, 530), (535, 555)
        )
    for region in ((0, 10), [[0, 10], [0, 10]], np.zeros(3, bool), 4):
        with pytest.raises(ValueError, match="region is .*: give slices"):
            subtract_vacuum(HAADF, region)
    np.testing.assert_array_equal(
        subtract_vacuum(HAADF, (0, 5, 2, 8)), subtract_vacuum(HAADF, np.s_[0:5, 2:8])
    )


def test_weights_by_key_are_those_by_order():
    by_key = fuse(HAADF, MAPS, weights={"O": 0.3, "Sc": 0.7, "Dy": 2.0}, n_iter=3)
    by_order = fuse(HAADF, MAPS, weights=[0.7, 2.0, 0.3], n_iter=3)
    np.testing.assert_array_equal(array(by_key.maps), array(by_order.maps))
    np.testing.assert_array_equal(haadf_from_maps(MAPS, [1, 1, 1]), haadf_from_maps(STACK, [1] * 3))


@pytest.mark.parametrize("backend", ["wavefront", "torch"])
def test_an_element_has_its_own_weight_and_background(backend):
    """Without the HAADF the elements do not meet: each is what it would be alone."""
    own = {"lambda_tv": {"O": 0.3, "Sc": 0.02, "Dy": 0.0}, "background": [0.1, 0.2, 0.4]}
    kw = {"lambda_haadf": 0, "solver": "tutorial", "n_iter": 12, "backend": backend}
    together = fuse(HAADF, MAPS, **own, **kw)
    for k, e in enumerate(MAPS):
        alone = fuse(HAADF, {e: MAPS[e]}, lambda_tv=own["lambda_tv"][e],
                     background=own["background"][k], **kw)  # fmt: skip
        np.testing.assert_allclose(together.maps[e], alone.maps[e], atol=1e-6)
    same = fuse(HAADF, MAPS, lambda_tv=[0.1] * 3, background=[0.2] * 3, backend=backend, n_iter=5)
    one = fuse(HAADF, MAPS, lambda_tv=0.1, background=0.2, backend=backend, n_iter=5)
    np.testing.assert_array_equal(array(same.maps), array(one.maps))
    assert same.settings == one.settings and together.settings["lambda_tv"] == [0.02, 0.0, 0.3]


def junk(image, rows=4):
    """The image with nonsense in its first rows, masked."""
    broken = np.array(image, float)
    broken[:rows] = np.nan
    return np.ma.masked_invalid(broken)


@pytest.mark.parametrize("solver", ["accelerated", "tutorial"])
def test_what_a_mask_hides_cannot_be_seen(solver):
    """Whatever lies under the masks, the result is the same, and it is filled in smoothly."""
    kw = {"solver": solver, "n_iter": 40, "lambda_tv": 0.05}
    one = fuse(junk(HAADF), dict(MAPS, Dy=junk(MAPS["Dy"])), **kw)
    haadf, dy = HAADF.copy(), MAPS["Dy"].copy()
    haadf[:4], dy[:4] = 7.0, 50.0
    hide = np.zeros(HAADF.shape, bool)
    hide[:4] = True
    masked = np.ma.masked_array(haadf, hide), dict(MAPS, Dy=np.ma.masked_array(dy, hide))
    two = fuse(*masked, **kw)
    assert one.settings["masked"] and one.settings["backend"] == "torch"
    np.testing.assert_array_equal(array(one.maps), array(two.maps))
    assert one.maps["Dy"].max() < 5
    told = np.abs(array(fuse(HAADF, MAPS, **kw).maps) - array(one.maps)).max()
    assert np.log10(told) > -4


def test_an_empty_mask_changes_nothing():
    bare = fuse(HAADF, MAPS, n_iter=5)
    masked = fuse(np.ma.array(HAADF), {e: np.ma.array(m) for e, m in MAPS.items()}, n_iter=5)
    np.testing.assert_array_equal(array(masked.maps), array(bare.maps))
    assert isinstance(masked.maps["Sc"], np.ndarray) and not masked.settings["masked"]


def test_a_mask_of_everything_is_refused():
    with pytest.raises(ValueError, match="map Dy is masked everywhere"):
        fuse(HAADF, dict(MAPS, Dy=np.ma.masked_all(HAADF.shape)))


def test_the_gradient_with_masks_against_finite_differences():
    from helpers.fusion.backends.steps import TorchSteps

    haadf, maps = (torch.tensor(a) for a in scene(2, (5, 4)))
    seen = torch.ones_like(maps), torch.ones_like(haadf)
    seen[0][0, 1], seen[1][2:] = 0, 0
    each = [torch.full((2,), v, dtype=torch.float64) for v in (0.0, 0.24)]
    weights = torch.tensor([0.7, 1.3], dtype=torch.float64)
    steps = TorchSteps(maps * seen[0], haadf * seen[1], weights, 1.6, 0.5, 0.08, *each,
                       "isotropic", seen[1], seen[0])  # fmt: skip
    x = torch.rand(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    found, h = steps._gradient(x)[0].clone(), 1e-6
    for i in np.ndindex(*x.shape):
        up, down = x.clone(), x.clone()
        up[i], down[i] = x[i] + h, x[i] - h
        slope = (sum(steps.evaluate(up, up)[0]) - sum(steps.evaluate(down, down)[0])) / (2 * h)
        assert float(found[i]) == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert not found[:, 2:][~seen[0][:, 2:].bool()].any()


def test_other_functions_honour_a_mask():
    haadf, maps = normalize(junk(HAADF), {e: junk(m) for e, m in MAPS.items()})
    assert haadf.mask[:4].all() and maps["Dy"].mask[:4].all() and haadf.max() == 1
    np.testing.assert_allclose(maps["Sc"][4:], normalize(HAADF[4:], STACK[:, 4:])[1][0])
    x = np.random.default_rng(0).random((2, 32, 32))
    h = haadf_from_maps(x, [2.0, 0.5]) + 1
    fit = calibrate_weights(junk(h), [junk(m) for m in x], smooth=0)
    np.testing.assert_allclose([*fit.weights, fit.offset], [2.0, 0.5, 1.0])
    image = subtract_vacuum(junk(HAADF + 3), np.s_[:6])
    assert image.mask[:4].all() and not image.mask[4:].any()
    assert image[5].mean() == pytest.approx(np.maximum(HAADF - HAADF[4:6].mean(), 0)[5].mean())


def test_the_choice_of_lambda_does_not_see_masked_counts():
    sample = simulate("core_shell", counts=1, seed=0, size=40)
    haadf, counts = sample.haadf / sample.haadf.max(), dict(sample.counts)
    hide = np.zeros((40, 40), bool)
    hide[:, 30:] = True
    kw = {"scale": 8.0, "lambdas": [0.003, 0.03, 0.3], "n_iter": 8, "n_repeats": 1}
    scores = []
    for value in (1, 999):
        broken = {e: np.where(hide, value, c) for e, c in counts.items()}
        masked = {e: np.ma.masked_array(c, hide) for e, c in broken.items()}
        scores.append(choose_lambda(haadf, masked, **kw).score)
    np.testing.assert_array_equal(*scores)
    with pytest.raises(ValueError, match="takes no masked counts"):
        choose_lambda(haadf, masked, rule="l_curve", **kw)


def test_the_old_order_of_normalize_works_for_one_release():
    haadf, maps = normalize(HAADF, MAPS)
    with pytest.warns(DeprecationWarning, match="normalize takes haadf first"):
        old = normalize(MAPS, HAADF)
    np.testing.assert_array_equal(old[0]["Dy"], maps["Dy"])
    np.testing.assert_array_equal(old[1], haadf)
    with pytest.warns(DeprecationWarning):
        assert normalize(STACK, HAADF)[0].shape == STACK.shape


def test_a_saturated_haadf_is_said():
    sample = simulate("core_shell", counts=1, seed=0, size=48)
    bright = sample.haadf / sample.haadf.max()
    clipped = np.minimum(bright, np.quantile(bright, 0.9))
    for function in (calibrate_weights, lambda *a: fuse(*a, n_iter=1)):
        with pytest.warns(UserWarning, match=r"1\d\.\d % of the pixels of haadf .* saturated"):
            function(clipped, sample.maps)
    masked = np.ma.masked_greater_equal(clipped, clipped.max())
    levels = np.round(bright * 10) / 10  # a drawing of eleven levels
    for image in (masked, bright, levels):
        assert quiet(lambda image=image: calibrate_weights(image, sample.maps))


def quiet(function):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function()
    return True


def test_units_that_do_not_fit_are_said():
    sample = simulate("core_shell", counts=1, seed=0, size=40)
    with pytest.warns(UserWarning, match="scale both"):
        fuse(sample.haadf * 1e4, sample.maps, n_iter=1)
    assert quiet(lambda: fuse(sample.haadf / sample.haadf.max(), sample.maps, n_iter=1))


def test_the_default_runs_until_it_has_converged():
    result = fuse(HAADF, MAPS)
    assert result.converged and result.settings["tol"] == 1e-4 and result.n_iter < 500
    assert fuse(HAADF, MAPS, solver="tutorial").n_iter == 30
    assert fuse(HAADF, MAPS, n_iter=7).n_iter == 7


def test_a_default_run_that_does_not_converge_is_said(monkeypatch):
    monkeypatch.setattr("helpers.fusion.solver.MOST", 12)
    with pytest.warns(UserWarning, match="not converged after 12 iterations"):
        assert not fuse(HAADF, MAPS, lambda_chem=1e-3, tol=1e-12).converged
    assert quiet(lambda: fuse(HAADF, MAPS, n_iter=3))


@pytest.mark.parametrize("gain", [2, 3, 7])
def test_counts_times_a_whole_gain_are_refused(gain):
    sample = simulate("core_shell", counts=1, seed=0, size=32)
    with pytest.raises(ValueError, match=f"multiple of {gain}: these are counts times a gain"):
        choose_lambda(sample.haadf, {e: gain * c for e, c in sample.counts.items()})


def test_two_lone_counts_are_no_gain():
    sample = simulate("core_shell", counts=1, seed=0, size=32)
    few = np.zeros((32, 32), int)
    few[3, 4] = few[9, 9] = 2
    kw = {"lambdas": [0.01, 0.1, 1.0], "n_iter": 1, "n_repeats": 1}
    haadf = sample.haadf / sample.haadf.max()
    assert choose_lambda(haadf, {"Co": few, "Mn": sample.counts["Mn"]}, **kw).score.size == 3


@pytest.mark.parametrize("kind", ["dysco3", "core_shell"])
@pytest.mark.parametrize("dose", [0.5, 4, 20])
def test_the_dispersion_of_counts_is_one_and_that_of_a_gain_is_the_gain(kind, dose):
    """A gain of 2.6, rounded; the bounds are those of the warning, for the mean of five seeds.

    One map of 96 x 96 scatters more: among hundreds, one comes up to 1.5.
    """
    from helpers.fusion.tune import _dispersion

    plain, gained = [], []
    for seed in range(5):
        sample = simulate(kind, counts=dose, seed=seed, size=96)
        y = np.stack(list(sample.counts.values())).astype(float)
        plain.append(_dispersion(y, None))
        gained.append(_dispersion(np.round(2.6 * y), None))
        assert np.isfinite(plain[-1]).any()
    seen = np.isfinite(plain).any(0)
    mean = np.nanmean(np.array(plain)[:, seen], axis=0)
    assert (0.6 < mean).all() and (mean < 1.5).all()
    assert (np.nanmean(np.array(gained)[:, seen], axis=0) > 1.7).all()
    assert np.isnan(_dispersion(np.zeros((1, 20, 20)), None)).all()


def test_a_gain_is_said():
    sample = simulate("dysco3", counts=2, seed=0, size=48)
    gained = {e: np.round(2.6 * c).astype(int) for e, c in sample.counts.items()}
    kw = {"scale": 20.0, "lambdas": [0.01, 0.1, 1.0], "n_iter": 1, "n_repeats": 1}
    haadf = sample.haadf / sample.haadf.max()
    with pytest.warns(UserWarning, match="times the variance of Poisson counts"):
        choice = choose_lambda(haadf, gained, **kw)
    assert choice.dispersion.shape == (3,)
    assert quiet(lambda: choose_lambda(haadf, sample.counts, **kw))


def judged_in(name, arrays, crop):
    haadf, maps = normalize(arrays["HAADF"][crop], {e: arrays[e][crop] for e in ELEMENTS[name]})
    return haadf, maps


ELEMENTS = {"dysco3": ("Sc", "Dy", "O"), "core_shell": ("Co", "Mn", "O")}
CROPS = {"dysco3": np.s_[:96, :96], "core_shell": np.s_[100:196, 100:196]}
TWINS = {"dysco3": twin_dysco3, "core_shell": twin_core_shell}


@pytest.mark.parametrize("name", ELEMENTS)
def test_defaults_that_know_hidden_pixels_less_than_a_filter_say_so(name):
    """On the maps of both of the guide's data sets, and on their twins."""
    measured = [datasets.load(name)] if datasets.find(name) else []
    for arrays in (TWINS[name](), *measured):
        haadf, maps = judged_in(name, arrays, CROPS[name])
        with pytest.warns(UserWarning, match="hidden pixels .*Gaussian filter .*fuse_counts"):
            result = fuse(haadf, maps)
        assert quiet(lambda h=haadf, m=maps: fuse(h, m, lambda_tv=0.01))
        assert quiet(lambda h=haadf, m=maps: fuse(h, m, n_iter=5))
        again = fuse(haadf, maps, n_iter=result.n_iter, tol=1e-4)  # the check changes nothing
        for e in maps:
            np.testing.assert_array_equal(again.maps[e], result.maps[e])


def test_defaults_that_a_filter_cannot_beat_say_nothing():
    """Blocks of one element, noisy in the map and clear in a HAADF that follows the model."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.uniform(0.1, 1, (24, 24)), np.ones((4, 4)))
    maps = {"Fe": rng.poisson(20 * blocks) / 20}
    image = haadf_from_maps({"Fe": blocks}, [1.0])
    assert quiet(lambda: fuse(image, maps))
    hole = np.ma.masked_array(maps["Fe"], rng.random(image.shape) < 0.2)
    assert quiet(lambda: fuse(np.ma.masked_less(image, 0.05), {"Fe": hole}))
    with pytest.warns(UserWarning, match="Gaussian filter"):  # of another field
        fuse(rng.permutation(image.ravel()).reshape(image.shape), maps)
