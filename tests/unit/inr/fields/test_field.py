"""Fields: the same values on every path, the published sizes, and room for a sharp object."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.inr.fields import (
    MLP,
    FeatureGrid,
    Field,
    HashGrid,
    Identity,
    PositionalEncoding,
    RadialEncoding,
    ReLU,
    Softplus,
    Voxels,
    extent_of,
    paper_field,
    pyramid,
)
from helpers.inr.fields import field as field_module
from helpers.inr.fields.encodings import AxisFeatures, box, coordinates
from helpers.inr.fields.field import Index
from helpers.inr.fields.grids import PlaneGrid, upsample

SHAPE, EXTENT = (6, 20, 18), (0.5, 1.0, 0.9)
ENCODINGS = {
    "waves": lambda g: PositionalEncoding(5),
    "waves, less in z": lambda g: PositionalEncoding(5, 2, pi=False),
    "radial": lambda g: RadialEncoding(3, 2),
    "grid": lambda g: FeatureGrid(pyramid(SHAPE, 3), 4, generator=g),
    "planes": lambda g: PlaneGrid([(3, 10, 9), SHAPE], 4, generator=g),
    "planes, added": lambda g: PlaneGrid([SHAPE], 4, combine="sum", generator=g),
    "hash": lambda g: HashGrid(4, 2, log2_size=8, generator=g),
}


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def make(name, *, seed=0, head=None, **layers):
    g = torch.Generator().manual_seed(seed)
    encoding = ENCODINGS[name](g)
    layers = {"width": 24, "depth": 3, "skips": [1]} | layers
    network = MLP(encoding.out_features, generator=g, **layers)
    with torch.no_grad():  # an output that varies as much as it is long
        network.layers[-1].weight.mul_(10)
        if name == "hash":
            for table in encoding.tables:
                table.mul_(3000)
    return Field(encoding, network, head or Softplus(mean=0.3), EXTENT)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


# -- coordinates -----------------------------------------------------------------------------------


def test_voxels_are_cell_centred_and_fill_the_extent():
    points = coordinates((4, 5, 2), (0.5, 1.0, 0.4))
    assert points.shape == (4, 5, 2, 3) and points.dtype == torch.float32
    for i in range(4):
        assert points[i, 0, 0, 0] == pytest.approx(0.5 * ((2 * i + 1) / 4 - 1))
    assert points[0, 2, 0, 1] == 0
    torch.testing.assert_close(points[0, 0, :, 2], torch.tensor([-0.2, 0.2]))
    assert abs(points.mean()) < 1e-7


def test_a_box_has_the_coordinates_it_has_in_the_volume():
    whole = coordinates((5, 7, 9), EXTENT)
    part = coordinates((5, 7, 9), EXTENT, roi=(1, 2, 3, 4, 1, 6))
    assert torch.equal(part, whole[1:5, 2:3, 3:9])


def test_extent_is_in_units_of_half_the_longest_lateral_side():
    z, y, x = extent_of((16, 56, 56), (0.34, 0.217, 0.217))
    assert (y, x) == (1, 1) and z == pytest.approx(16 * 0.34 / (56 * 0.217))
    assert extent_of((10, 20, 40), 1) == (0.25, 0.5, 1.0)
    assert extent_of((80, 20, 40), 1) == (2.0, 0.5, 1.0), "a deep volume"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: extent_of((4, 4), 1.0), "expected \\(Z, Y, X\\)"),
        (lambda: extent_of((4, 4, 4), (1, 0, 1)), "all above zero"),
        (lambda: box((4, 4)), "expected whole numbers \\(Z, Y, X\\)"),
        (lambda: box((4, 4, 0)), "at least 1"),
        (lambda: box((4, 4, 4), (0, 0, 0, 4, 4)), "expected whole numbers"),
        (lambda: box((4, 4, 4), (0, 0, 0.5, 4, 4, 1)), "expected whole numbers"),
        (lambda: box((4, 4, 4), (0, 0, 0, 4, 0, 1)), "roi is empty: 0 voxels along y"),
        (lambda: box((4, 5, 6), (0, 3, 0, 4, 3, 6)), "along y: voxels 3 to 5, but .* 0 to 4"),
        (lambda: box((4, 5, 6), (-1, 0, 0, 1, 1, 1)), "leaves the volume along z"),
        (lambda: PositionalEncoding(-1), "octaves are -1"),
        (lambda: RadialEncoding(2, -1), "octaves are 2 and -1"),
        (lambda: FeatureGrid([]), "levels is empty"),
        (lambda: FeatureGrid([(4, 4)]), "expected whole numbers"),
        (lambda: PlaneGrid([(4, 4, 4)], combine="max"), "combine is 'max'"),
        (lambda: PlaneGrid([]), "levels is empty"),
        (lambda: HashGrid(coarsest=8, finest=4), "coarsest no finer"),
        (lambda: pyramid((4, 4, 4), 0), "n_levels is 0"),
        (lambda: MLP(3, activation="tanh"), "activation is 'tanh'"),
        (lambda: MLP(3, depth=2, skips=[1]), "skips before the last"),
        (lambda: MLP(3, depth=0), "at least one hidden layer"),
        (lambda: Softplus(mean=0), "mean is 0"),
        (lambda: Softplus(mean=float("nan")), "mean is nan"),
        (lambda: Field(Identity(), Identity(), Identity(), (1, 1)), "three numbers above zero"),
        (lambda: Voxels((4, 4), Identity()), "expected whole numbers"),
        (lambda: paper_field("worm"), "name is 'worm': use one of mito, tubulin, opt, cryo, fpm"),
        (lambda: paper_field("opt", sequence=True), "only 'mito' was"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- encodings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pi", [True, False])
def test_waves_are_those_of_the_equation(pi):
    point = torch.tensor([0.3, -0.7, 0.11], dtype=torch.float64)
    found = PositionalEncoding(3, 2, pi=pi)(point)
    expected = []
    for u, n in zip(point.tolist(), (2, 3, 3), strict=True):
        phase = [2**k * (math.pi if pi else 1) * u for k in range(n)]
        expected += [u, *map(math.sin, phase), *map(math.cos, phase)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_radial_waves_look_the_same_from_four_directions():
    """A quarter turn exchanges the four directions, up to the sign of one of them."""
    encoding = RadialEncoding(3)
    points = torch.rand(7, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    turned = torch.stack([points[:, 0], -points[:, 2], points[:, 1]], dim=1)
    _, _, a, b, c, d = encoding(points).split([3, 6, 6, 6, 6, 6], dim=1)
    _, _, ta, tb, tc, td = encoding(turned).split([3, 6, 6, 6, 6, 6], dim=1)
    flip = torch.tensor([-1.0] * 3 + [1.0] * 3)
    for found, expected in ((ta, c), (tb, d * flip), (tc, a * flip), (td, b * flip)):
        assert torch.allclose(found, expected, atol=1e-5) or torch.allclose(
            found, expected * flip, atol=1e-5
        )
    assert encoding.out_features == encoding(points).shape[1] == 33


@pytest.mark.parametrize("name", sorted(ENCODINGS.keys() - {"radial", "hash"}))
def test_grid_and_points_give_the_same_features(name):
    encoding = ENCODINGS[name](torch.Generator().manual_seed(0))
    for shape, roi in ((SHAPE, None), ((9, 13, 31), (2, 3, 5, 6, 7, 20))):
        points = coordinates(shape, EXTENT, roi).reshape(-1, 3)
        features = encoding.grid(shape, EXTENT, roi)
        assert len(features) == len(points)
        if isinstance(features, AxisFeatures):
            features = features.linear(torch.eye(encoding.out_features))
        torch.testing.assert_close(features, encoding(points, EXTENT), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 5), (8, 12, 15), (3, 5, 4), (5, 6, 11)])
def test_up_sampling_is_that_of_torch(shape):
    values = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(values[None], size=shape, mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(upsample(values, shape), expected)
    roi = (1, 2, 0, 2, 3, 3)
    torch.testing.assert_close(upsample(values, shape, roi), expected[:, 1:3, 2:5, :3])


def test_a_product_of_planes_is_an_outer_product():
    planes = PlaneGrid([(3, 4, 5)], 2, generator=torch.Generator().manual_seed(0))
    zero, one, two = (plane.detach() for plane in planes.planes)  # constant along z, y, x
    found = planes.grid((3, 4, 5)).reshape(3, 4, 5, 2)
    for z, y, x in ((0, 0, 0), (2, 3, 4), (1, 2, 0)):
        expected = zero[:, 0, y, x] * one[:, z, 0, x] * two[:, z, y, 0]
        torch.testing.assert_close(found[z, y, x], expected)
    assert n_parameters(planes) == 2 * (4 * 5 + 3 * 5 + 3 * 4)


def test_pyramid_keeps_the_finest_level_and_never_reaches_zero():
    assert pyramid((41, 499, 499), 3) == ((21, 125, 125), (41, 250, 250), (41, 499, 499))
    assert pyramid((3, 5, 4), 5)[0] == (1, 1, 1)


def test_a_hashed_level_interpolates_its_nodes():
    grid = HashGrid(1, 3, log2_size=12, coarsest=4, finest=4)
    table, side = grid.tables[0], 2 * 4 + 2
    assert len(table) == side**3, "this level fits: no collisions"

    def node(z, y, x):
        return table[(z * side + y) * side + x]

    at = torch.tensor([[2, 3, 5], [2, 3, 5.5], [2.25, 3, 5]]) / 4 - 1
    found = grid(at)
    torch.testing.assert_close(found[0], node(2, 3, 5))
    torch.testing.assert_close(found[1], (node(2, 3, 5) + node(2, 3, 6)) / 2)
    torch.testing.assert_close(found[2], 0.75 * node(2, 3, 5) + 0.25 * node(3, 3, 5))


def test_a_node_that_does_not_fit_is_found_by_its_hash():
    grid = HashGrid(1, 2, log2_size=5, coarsest=16, finest=16)
    z, y, x = 3, 21, 30
    entry = ((z * 805459861) ^ (y * 2654435761) ^ x) % 32
    found = grid(torch.tensor([z, y, x]) / 16 - 1)
    torch.testing.assert_close(found, grid.tables[0][entry])


def test_hashed_tables_keep_their_size_and_use_all_of_it():
    grid = HashGrid(3, 2, log2_size=8, coarsest=8, finest=64)
    assert [len(table) for table in grid.tables] == [256] * 3 and grid.cells == [8, 23, 64]
    grid(coordinates((12, 40, 40), EXTENT)).sum().backward()
    assert all((table.grad.abs().sum(1) > 0).all() for table in grid.tables)
    assert torch.isfinite(grid(torch.tensor([[-1.0, 1.0, 1.0], [2.0, -3.0, 0.5]]))).all()


# -- networks and heads ----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sine"])
def test_a_network_with_skips_concatenates_its_input(activation):
    g = torch.Generator().manual_seed(3)
    network = MLP(5, 8, 4, skips=[0, 2], activation=activation, w0=3.0, generator=g)
    x = torch.randn(11, 5, generator=g)
    act = {
        "relu": torch.relu,
        "leaky_relu": lambda h: F.leaky_relu(h, 0.01),
        "sine": lambda h: torch.sin(3 * h),
    }[activation]
    h = x
    for k, layer in enumerate(network.layers[:-1]):
        h = act(layer(h))
        if k in (0, 2):
            h = torch.cat([x, h], dim=1)
    torch.testing.assert_close(network(x), network.layers[-1](h))


def test_siren_keeps_its_units_spread_through_all_layers():
    """With its own start, what enters each sine has a standard deviation near 1; not by chance."""
    network = MLP(3, 256, 5, activation="sine", generator=torch.Generator().manual_seed(0))
    h = 2 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) - 1
    for k, layer in enumerate(network.layers[:-1]):
        h = 30.0 * layer(h).detach()
        if k:
            assert 0.7 < float(h.std()) < 1.6
        h = torch.sin(h)
    assert 0.6 < float(h.std()) < 0.8  # arcsine distribution: 0.707


def test_heads_keep_their_promises():
    x = torch.linspace(-60, 60, 101)
    for mean in (1e-4, 0.3, 80.0):
        head = Softplus(mean)
        assert float(head(torch.zeros(()))) == pytest.approx(mean, rel=1e-5)
        assert (head(x) >= 0).all() and float(head(x)[-1]) > 100 * mean
    assert float(Softplus(2.0, scale=10.0)(torch.tensor(0.0))) == pytest.approx(2.0, rel=1e-5)
    index = Index(0.05, 1.33)(x)
    assert index.min() >= 1.28 and index.max() <= 1.3800001 and Index(0.1)(x * 0).abs().max() == 0
    assert (ReLU()(x) >= 0).all()
    assert float(ReLU(0.01)(torch.tensor(-2.0))) == pytest.approx(-0.02)


def test_the_last_bias_is_left_to_the_head():
    network = MLP(5, 8, 2, generator=torch.Generator().manual_seed(0))
    assert network.layers[-1].bias.item() == 0 and (network.layers[0].bias != 0).all()


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_untrained_field_shows_about_the_mean(name):
    encoding = ENCODINGS[name](torch.Generator().manual_seed(0))
    network = MLP(encoding.out_features, 16, 2, generator=torch.Generator().manual_seed(1))
    mean = Field(encoding, network, Softplus(mean=0.02), EXTENT).volume(SHAPE).mean()
    assert 0.5 < mean.item() / 0.02 < 2


# -- fields ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "sine"])
@pytest.mark.parametrize("name", ENCODINGS)
def test_volume_and_points_agree_with_and_without_gradients(name, activation):
    field = make(name, activation=activation)
    for shape in (SHAPE, (12, 40, 36)):
        points = coordinates(shape, EXTENT)
        volume = field.volume(shape)
        assert volume.shape == shape and volume.requires_grad
        assert len(volume.unique()) > 100
        assert relative(field(points), volume) < 1e-5
        with torch.no_grad():
            assert relative(field.volume(shape), volume) < 1e-5
            assert relative(field(points), volume) < 1e-5
    assert field(points[0, 0, 0]).shape == ()


@pytest.mark.parametrize("name", ENCODINGS)
def test_gradients_agree_on_both_paths(name):
    field = make(name, activation="sine")  # rounding turns units on and off that have a kink
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    gradients = []
    for values in (field.volume(SHAPE), field(coordinates(SHAPE, EXTENT))):
        field.zero_grad()
        (weight * values).sum().backward()
        gradients.append([p.grad.clone() for p in field.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert b.abs().max() > 0 and relative(a, b) < 1e-4


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_part_of_the_volume_is_a_crop_of_it(name):
    field = make(name)
    whole = field.volume(SHAPE).detach()
    part = field.volume(SHAPE, (1, 2, 3, 4, 15, 11)).detach()
    assert relative(part, whole[1:5, 2:17, 3:14]) < 1e-5


@pytest.mark.parametrize("name", ENCODINGS)
def test_blocks_change_nothing(name, monkeypatch):
    field = make(name)
    with torch.no_grad():
        whole = field.volume(SHAPE)
        for block in (1, 17, 64):
            monkeypatch.setattr(field_module, "BLOCK", {"cpu": block, "gpu": block})
            assert relative(field.volume(SHAPE, (1, 2, 3, 5, 9, 7)), whole[1:, 2:11, 3:10]) < 1e-5


def test_depth_matters_and_so_does_every_axis():
    """A field must not be constant along an axis, nor take one axis for another."""
    for name in ENCODINGS:
        with torch.no_grad():
            volume = make(name).volume(SHAPE)
        along = [float(volume.std(dim).mean() / volume.std()) for dim in range(3)]
        assert min(along) > 1e-3, name  # rounding alone leaves 1e-7


@pytest.mark.parametrize("name", ["grid", "planes", "hash"])
def test_a_learned_grid_can_show_a_sharp_object(name):
    """Learning: a volume of edges is fitted far better than its own blur."""
    rng = np.random.default_rng(0)
    target = torch.zeros(SHAPE)
    for _ in range(3):
        z, y, x = rng.integers(0, (3, 14, 12))
        target[z : z + 3, y : y + 5, x : x + 6] += 1
    g = torch.Generator().manual_seed(0)
    encoding = {"hash": lambda g: HashGrid(5, 4, log2_size=12, finest=16, generator=g)}.get(
        name, ENCODINGS[name]
    )(g)
    field = Field(encoding, MLP(encoding.out_features, 16, 2, generator=g), Softplus(0.1), EXTENT)
    adam = torch.optim.Adam(field.parameters(), 2e-2)
    losses = []
    for _ in range(150):
        adam.zero_grad()
        loss = (field.volume(SHAPE) - target).square().mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * float(target.var()), losses[-1] / float(target.var())


def test_seeds_decide_and_the_global_one_is_left_alone():
    state = torch.random.get_rng_state()
    first, again, other = (make("grid", seed=s).volume(SHAPE) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_free_voxels_are_their_values_and_interpolate_between_them():
    voxels = Voxels((2, 4, 4), Identity())
    with torch.no_grad():
        voxels.values.copy_(torch.arange(32.0).reshape(2, 4, 4))
    assert torch.equal(voxels.volume(), voxels.values) and n_parameters(voxels) == 32
    finer = voxels.volume((4, 8, 8))
    assert finer.shape == (4, 8, 8)
    coarse = finer.reshape(2, 2, 4, 2, 4, 2).mean((1, 3, 5))
    torch.testing.assert_close(coarse[:, 1:-1, 1:-1].mean((1, 2)), torch.tensor([9.5, 21.5]))
    assert torch.equal(voxels.volume((2, 4, 4), (1, 0, 2, 1, 4, 2)), voxels.values[1:, :, 2:])


# -- the published networks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sequence", "n"),
    [
        ("mito", False, 62_849),
        ("mito", True, 56_321),
        ("tubulin", False, 128_897),
        ("opt", False, 47 * 128 + 128 + 5 * (128 * 128 + 128) + 129),
        ("cryo", False, 39 * 64 + 64 + 5 * (64 * 64 + 64) + 65),
        ("fpm", False, 204 * 204 * 60 * 3 + (4 * 12 + 3 * 13 * 12 + 3 * 12) + 13),
    ],
)
def test_published_sizes(name, sequence, n):
    field = paper_field(name, sequence=sequence, generator=torch.Generator().manual_seed(0))
    assert n_parameters(field) == n
    with torch.no_grad():
        volume = field.volume((3, 8, 8))
    assert torch.isfinite(volume).all()
    if name == "fpm":
        assert abs(float(volume.mean()) - 1.33) < 0.3
    else:
        assert field.encoding.pi is False and field.extent[1:] == (1, 1)


def test_published_depth_is_counted_in_voxels():
    assert paper_field("mito").extent[0] == pytest.approx(51 / 499)
    assert paper_field("tubulin").extent[0] == pytest.approx(41 / 499)
