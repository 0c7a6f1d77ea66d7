"""What goes into a fusion and what comes out: kinds, types, batches, and errors before work."""

import numpy as np
import pytest
import torch

from helpers.fusion import element_weights, fuse
from tests.unit.fusion.equation import NUMBERS, SOLVERS, array, cost, scene


def test_the_order_of_a_dict_does_not_matter():
    haadf, maps = scene()
    given = dict(zip(["Sc", "Dy", "O"], maps, strict=True))
    turned = {e: given[e] for e in ("O", "Sc", "Dy")}
    numbers = {"Dy": 66, "O": 8, "Sc": 21}
    for solver in SOLVERS:
        a, b, c = (
            fuse(haadf, given, numbers, solver=solver, n_iter=10),
            fuse(haadf, turned, numbers, solver=solver, n_iter=10),
            fuse(haadf, maps, [21, 66, 8], solver=solver, n_iter=10),
        )
        assert list(a.maps) == ["Sc", "Dy", "O"] and list(b.maps) == ["O", "Sc", "Dy"]
        assert a.settings["atomic_numbers"] == [21, 66, 8] and b.settings["elements"][0] == "O"
        start = {e: given[e] * 0.5 for e in ("Dy", "O", "Sc")}
        one = fuse(haadf, given, numbers, solver=solver, n_iter=2, start=start)
        two = fuse(haadf, maps, [21, 66, 8], solver=solver, n_iter=2, start=maps * 0.5)
        np.testing.assert_array_equal(array(one.maps), two.maps)
        for e, element in enumerate(given):
            np.testing.assert_allclose(a.maps[element], b.maps[element], atol=1e-5)
            np.testing.assert_array_equal(a.maps[element], c.maps[e])


@pytest.mark.parametrize("numbers", [["Sc", "Dy", "O"], [21, 66, 8], np.array([21, 66, 8])])
def test_elements_by_symbol_or_number(numbers):
    haadf, maps = scene()
    result = fuse(haadf, maps, numbers, n_iter=2)
    assert result.settings["atomic_numbers"] == [21, 66, 8]
    np.testing.assert_allclose(result.settings["weights"], element_weights([21, 66, 8]))


@pytest.mark.parametrize("backend", ["wavefront", "torch"])
def test_integer_counts_are_taken_as_they_are(backend):
    haadf, maps = scene()
    counts = (maps * 9).astype("int32")
    ints = fuse((haadf * 100).astype(int), counts, NUMBERS[:3], backend=backend, n_iter=5)
    floats = fuse((haadf * 100).astype(int).astype(float), counts.astype(float), NUMBERS[:3],
                  backend=backend, n_iter=5)  # fmt: skip
    np.testing.assert_array_equal(ints.maps, floats.maps)
    assert ints.maps.dtype == np.float32 and (ints.maps != counts).any()


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_all_zero_map_stays_finite(solver):
    haadf, maps = scene()
    maps[1] = 0
    for m, h in ((maps, haadf), (maps * 0, haadf), (maps * 0, haadf * 0)):
        result = fuse(h, m, NUMBERS[:3], solver=solver, n_iter=40, n_iter_tv=20)
        assert np.isfinite(result.maps).all() and np.isfinite(result.cost.total).all()
        assert (result.maps >= 0).all()
    assert not result.maps.any() and result.cost.total[-1] == 0


def test_one_element():
    haadf, maps = scene(1)
    result = fuse(haadf, {"Sc": maps[0]}, ["Sc"], n_iter=60)
    assert result.settings["lambda_haadf"] == 1 and result.settings["weights"] == [1.0]
    rough, smooth = (cost(m, haadf, maps, [1.0]) for m in (maps, array(result.maps)))
    assert smooth[0] < rough[0] and smooth[2] < rough[2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("backend", ["wavefront", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_callers_arrays_are_untouched(backend, dtype, solver):
    if (backend, dtype) == ("wavefront", "float64"):
        backend = None
    haadf, maps = (a.astype(dtype) for a in scene())
    start, weights = maps * 0.9, np.array([0.5, 2.0, 0.3])
    given = haadf, maps, start, weights
    before = [a.tobytes() for a in given]
    kw = {"solver": solver, "dtype": dtype, "backend": backend, "n_iter": 12, "weights": weights}
    for frozen in (False, True):
        for a in given:
            a.flags.writeable = not frozen
        result = fuse(haadf, maps, NUMBERS[:3], start=start, **kw)
        assert [a.tobytes() for a in given] == before
        assert not any(np.shares_memory(result.maps, a) for a in given)
    tensors = [torch.tensor(a) for a in (haadf, maps, start)]
    fuse(*tensors[:2], NUMBERS[:3], start=tensors[2], **kw)
    assert [t.numpy().tobytes() for t in tensors] == before[:3]


def test_every_memory_layout_is_taken():
    haadf, maps = scene()
    expected = fuse(haadf, maps, NUMBERS[:3], n_iter=4).maps
    flipped = haadf[::-1].copy()[::-1], maps[:, ::-1].copy()[:, ::-1]
    turned = np.asfortranarray(haadf), np.asfortranarray(maps)
    foreign = haadf.astype(">f8"), maps.astype(">f4")
    for h, m in (flipped, turned, foreign):
        np.testing.assert_allclose(fuse(h, m, NUMBERS[:3], n_iter=4).maps, expected, atol=1e-5)


def test_a_wide_image_is_the_transpose_of_a_tall_one():
    haadf, maps = scene(2, (20, 44))
    kw = {"n_iter": 8, "dtype": "float64"}
    wide = fuse(haadf, maps, NUMBERS[:2], **kw).maps
    tall = fuse(haadf.T, maps.transpose(0, 2, 1), NUMBERS[:2], **kw).maps
    np.testing.assert_allclose(wide, tall.transpose(0, 2, 1), atol=1e-10)


@pytest.mark.parametrize("backend", ["wavefront", "torch"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_is_its_scenes_one_by_one(backend, solver):
    scenes = [scene(2, (12, 15), seed) for seed in range(3)]
    haadf, maps = (np.stack(part) for part in zip(*scenes, strict=True))
    kw = {"backend": backend, "solver": solver, "n_iter": 15, "tol": 1e-3}
    together = fuse(haadf, maps, NUMBERS[:2], **kw)
    shared = fuse(haadf[0], maps, NUMBERS[:2], **kw)
    as_dict = fuse(haadf, {"Sc": maps[:, 0], "Dy": maps[:, 1]}, ["Sc", "Dy"], **kw)
    for i, (h, m) in enumerate(scenes):
        alone = fuse(h, m, NUMBERS[:2], **kw)
        np.testing.assert_array_equal(together.maps[i], alone.maps)
        np.testing.assert_array_equal(as_dict.maps["Dy"][i], alone.maps[1])
        np.testing.assert_allclose(together.haadf[i], alone.haadf, rtol=1e-6)
        assert together.n_iter[i] == alone.n_iter and together.converged[i] == alone.converged
        np.testing.assert_array_equal(together.cost.tv[i, : alone.n_iter + 1], alone.cost.tv)
        assert (together.cost.total[i, alone.n_iter :] == alone.cost.total[-1]).all()
    np.testing.assert_array_equal(shared.maps[0], together.maps[0])
    assert (shared.maps[1] != together.maps[1]).any()


def test_tensors_stay_tensors_and_learn_nothing():
    haadf, maps = (torch.tensor(a, dtype=torch.float32) for a in scene())
    result = fuse(haadf, maps.requires_grad_(), NUMBERS[:3], n_iter=3)
    for part in (result.maps, result.haadf):
        assert isinstance(part, torch.Tensor) and part.device == maps.device
        assert not part.requires_grad
    arrays = fuse(haadf.numpy(), maps.detach().numpy(), NUMBERS[:3], n_iter=3)
    np.testing.assert_array_equal(result.maps.numpy(), arrays.maps)
    mixed = fuse(haadf.numpy(), {"Sc": maps[0], "Dy": maps[1]}, ["Sc", "Dy"], n_iter=1)
    assert all(isinstance(m, torch.Tensor) for m in mixed.maps.values())


def test_double_precision_is_kept_all_the_way():
    haadf, maps = scene()
    result = fuse(haadf, maps, NUMBERS[:3], n_iter=6, dtype="float64")
    assert result.maps.dtype == result.haadf.dtype == np.float64
    assert result.settings["dtype"] == "float64" and result.settings["backend"] == "torch"
    assert (result.maps != result.maps.astype("float32")).any()
    assert fuse(haadf, maps, NUMBERS[:3], n_iter=1).settings["backend"] == "wavefront"


@pytest.fixture
def no_work(monkeypatch):
    """Fail if an iteration begins."""

    def begin(*args):
        raise AssertionError("work began before the input was checked")

    monkeypatch.setattr("helpers.fusion.solver._run", begin)


HAADF, MAPS = scene(2, (6, 5))
NAN = MAPS.copy()
NAN[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"haadf": HAADF[:5]},
            "haadf is 5 x 5 but maps are 2 x 6 x 5: crop both to the same field",
        ),
        ({"haadf": HAADF.T}, "haadf is 5 x 6 but maps are 2 x 6 x 5"),
        ({"haadf": HAADF[0]}, "haadf is 5 but maps"),
        ({"haadf": HAADF[None]}, "haadf is 1 x 6 x 5 but maps"),
        ({"maps": MAPS[0]}, r"maps have shape \(6, 5\): expected \(E, H, W\)"),
        (
            {"maps": MAPS[None], "haadf": np.stack([HAADF] * 2)},
            "2 HAADF images for 1 map sets",
        ),
        ({"maps": MAPS[:, :0], "haadf": HAADF[:0]}, "maps are 2 x 0 x 5: there are no pixels"),
        ({"maps": {}}, "maps is empty"),
        (
            {"maps": {"Sc": MAPS[0], "Dy": MAPS[1, :3]}},
            r"maps differ in shape: .*\(6, 5\).*\(3, 5\)",
        ),
        ({"maps": NAN}, "map 1 has NaN or infinite values: mask or fill them"),
        ({"maps": {"Sc": MAPS[0], "Dy": NAN[1]}}, "map Dy has NaN"),
        ({"maps": -MAPS}, "map 0 has negative values: counts are not negative; clip it at 0"),
        ({"haadf": HAADF * np.inf}, "haadf has NaN or infinite values"),
        ({"atomic_numbers": ["Sc", "Xx"]}, "unknown element 'Xx'"),
        ({"atomic_numbers": [21, 999]}, "atomic number 999: use"),
        ({"atomic_numbers": [21]}, "1 atomic numbers for 2 maps: give one for each"),
        ({"atomic_numbers": {"Sc": 21, "Dy": 66}}, "atomic_numbers is a dict but maps is not"),
        (
            {"maps": {"Sc": MAPS[0], "Dy": MAPS[1]}, "atomic_numbers": {"Sc": 21, "O": 8}},
            r"atomic_numbers lacks \['Dy'\]: it has \['Sc', 'O'\]",
        ),
        ({"gamma": 0.9}, "gamma is 0.9: below 1"),
        ({"gamma": np.nan}, "gamma is nan"),
        ({"background": 0}, "background is 0: it must be above 0"),
        ({"lambda_tv": -1}, "lambda_tv is -1: it must be finite and at least 0"),
        ({"lambda_chem": np.nan}, "lambda_chem is nan"),
        ({"lambda_haadf": np.inf}, "lambda_haadf is inf"),
        ({"n_iter": 0}, "n_iter is 0: it must be a whole number, at least 1"),
        ({"n_iter": np.nan}, "n_iter is nan"),
        ({"n_iter_tv": 2.5}, "n_iter_tv is 2.5"),
        ({"kind": "huber"}, "kind is 'huber': use 'isotropic' or 'anisotropic'"),
        ({"solver": "newton"}, "solver is 'newton': use 'accelerated' or 'tutorial'"),
        ({"backend": "fortran"}, "backend is 'fortran': use 'wavefront', 'torch'"),
        (
            {"backend": "wavefront", "dtype": "float64"},
            "'wavefront' needs numba, a CPU and float32",
        ),
        ({"dtype": "float16"}, "dtype is 'float16': use 'float32' or 'float64'"),
        ({"device": "abacus"}, "device 'abacus' is not one torch knows"),
        ({"weights": [1.0]}, r"weights are \[1.0\]: give one number, or 2 finite numbers"),
        ({"weights": [1.0, -1.0]}, "give 2 finite numbers, none negative"),
        ({"weights": [1.0, np.inf]}, "give 2 finite numbers"),
        ({"start": MAPS[:1]}, r"start has shape \(1, 6, 5\), but maps have \(2, 6, 5\)"),
        ({"start": NAN}, "map 1 has NaN"),
        (
            {"maps": {"Sc": MAPS[0], "Dy": MAPS[1]}, "start": {"Sc": MAPS[0]}},
            r"start must be a dict with the keys of maps: \['Sc', 'Dy'\]",
        ),
    ],
)
def test_bad_input_is_named_before_any_work(no_work, change, message):
    arguments = {"haadf": HAADF, "maps": MAPS, "atomic_numbers": [21, 66]} | change
    with pytest.raises(ValueError, match=message):
        fuse(**arguments)


def test_the_guard_on_work_guards(no_work):
    with pytest.raises(AssertionError, match="work began"):
        fuse(HAADF, MAPS, [21, 66])
