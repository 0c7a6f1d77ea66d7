"""What must hold for every fusion, whatever the maps and the settings."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.fusion import element_weights, fuse, haadf_from_maps, normalize

NUMBERS = [8, 21, 66]


@st.composite
def scenes(draw):
    """A HAADF image and one to three maps of a few pixels, on a grid of 0.05."""
    shape = draw(st.tuples(*[st.integers(1, 6)] * 2))
    level = st.integers(0, 20).map(lambda k: k / 20)
    n = draw(st.integers(1, 3))
    return draw(arrays(float, shape, elements=level)), draw(
        arrays(float, (n, *shape), elements=level)
    )


SETTINGS = st.fixed_dictionaries(
    {
        "gamma": st.sampled_from([1.0, 1.1, 1.6, 2.5]),
        "lambda_haadf": st.sampled_from([0.0, 0.3, 3.0]),
        "lambda_chem": st.sampled_from([0.0, 0.05, 1.0]),
        "lambda_tv": st.sampled_from([0.0, 0.02, 0.5]),
        "background": st.sampled_from([0.01, 0.24]),
        "kind": st.sampled_from(["isotropic", "anisotropic"]),
        "n_iter_tv": st.integers(1, 5),
    }
)


def run(scene, **settings):
    haadf, maps = scene
    return fuse(haadf, maps, NUMBERS[: len(maps)], **{"n_iter": 20, **settings})


@given(scenes(), SETTINGS, st.sampled_from(["wavefront", "torch"]))
def test_the_cost_never_rises_and_the_maps_never_turn_negative(scene, settings, backend):
    result = run(scene, backend=backend, **settings)
    assert (np.diff(result.cost.total) <= 0).all()
    assert (result.maps >= 0).all() and np.isfinite(result.maps).all()


@given(scenes(), SETTINGS)
def test_the_cost_never_rises_in_double_precision(scene, settings):
    result = run(scene, dtype="float64", **settings)
    assert (np.diff(result.cost.total) <= 0).all()


@given(scenes(), SETTINGS)
def test_one_step_is_the_same_in_both_backends(scene, settings):
    """Also where step 1 is too long, and in empty images."""
    a, b = (
        run(scene, backend=x, solver="tutorial", **{**settings, "n_iter": 1})
        for x in ("wavefront", "torch")
    )
    np.testing.assert_allclose(a.maps, b.maps, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(a.cost.total, b.cost.total, rtol=1e-5, atol=1e-4)


@given(scenes(), SETTINGS, st.permutations(range(3)))
def test_the_order_of_the_elements_does_not_matter(scene, settings, order):
    haadf, maps = scene
    names = ["O", "Sc", "Dy"][: len(maps)]
    order = [e for e in order if e < len(maps)]
    kw = {**settings, "n_iter": 5, "dtype": "float64"}
    straight = fuse(haadf, dict(zip(names, maps, strict=True)), names, **kw)
    shuffled = {names[e]: maps[e] for e in order}
    turned = fuse(haadf, shuffled, list(shuffled), **kw)
    for name in names:
        np.testing.assert_allclose(turned.maps[name], straight.maps[name], atol=1e-7)


@given(scenes(), st.sampled_from([1.0, 1.6, 2.0]), st.floats(0.1, 10))
def test_the_model_scales_with_its_power(scene, gamma, factor):
    maps = scene[1]
    w = element_weights(NUMBERS[: len(maps)], gamma)
    np.testing.assert_allclose(
        haadf_from_maps(factor * maps, w, gamma), factor**gamma * haadf_from_maps(maps, w, gamma)
    )


@given(scenes(), st.floats(0.5, 50), st.floats(-20, 20))
def test_normalizing_forgets_scale_and_offset(scene, scale, offset):
    haadf, maps = scene
    once = normalize(haadf, maps)
    again = normalize(scale * haadf + offset, scale * maps + offset)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
        assert a.min() == 0 and a.max() in (0, 1)
