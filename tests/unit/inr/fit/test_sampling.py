"""A part of the whole is the whole on average, and coarse is fine where nothing is fine."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.inr.fields import Identity, Voxels
from helpers.inr.fit import Stage
from helpers.inr.fit.losses import gaussian, l1, poisson
from helpers.inr.fit.sampling import sampler
from helpers.inr.lightfield import LightField, operator
from helpers.inr.lightfield.operator import reach
from helpers.inr.tomography import ParallelBeam


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def light_field(shape=(12, 16), view_shape=None, psf=(7, 9), depth=2, n_views=3, seed=0):
    """An operator with an unsymmetric PSF, in double precision."""
    h = torch.rand((n_views, depth, *psf), generator=generator(seed), dtype=torch.float64)
    return LightField(h, shape, view_shape, voxel_size=(2.0, 1.0, 1.0))


class Given(torch.nn.Module):
    """A field that is the volume it was given."""

    def __init__(self, volume):
        super().__init__()
        self.values = torch.nn.Parameter(volume)

    def volume(self, shape, roi=None):
        assert tuple(shape) == tuple(self.values.shape)
        if roi is None:
            return self.values
        (z, y, x), (d, h, w) = roi[:3], roi[3:]
        assert min(z, y, x) >= 0 and min(d, h, w) > 0
        part = self.values[z : z + d, y : y + h, x : x + w]
        assert tuple(part.shape) == (d, h, w), "the box leaves the volume"
        return part


def scene(op, seed=1):
    """A field, and views that it does not explain, with a background that differs everywhere."""
    field = Given(torch.rand(op.in_shape, generator=generator(seed), dtype=torch.float64))
    data = 20 * torch.rand(op.out_shape, generator=generator(seed + 1), dtype=torch.float64)
    background = torch.rand(op.out_shape, generator=generator(seed + 2), dtype=torch.float64)
    return field, data, background


# ---- coarse ---------------------------------------------------------------------------------


def spread(x, factor):
    """Every pixel becomes a square of `factor` x `factor` pixels."""
    return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def averaged(x, factor):
    """Means over squares of `factor` x `factor` pixels."""
    *rest, ny, nx = x.shape
    return x.reshape(*rest, ny // factor, factor, nx // factor, factor).mean((-3, -1))


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("psf", [(7, 9), (8, 6), (25, 31), (1, 2)])
@pytest.mark.parametrize(("shape", "view_shape"), [((12, 24), None), ((12, 24), (24, 36))])
def test_coarse_is_fine_averaged_wherever_blocks_are_even(factor, psf, shape, view_shape):
    fine = light_field(shape, view_shape, psf)
    coarse = fine.coarsened(factor)
    assert coarse.in_shape == (2, *(n // factor for n in shape))
    volume = torch.rand(coarse.in_shape, generator=generator(), dtype=torch.float64)
    expected = averaged(fine(spread(volume, factor)), factor)
    torch.testing.assert_close(coarse(volume), expected, rtol=1e-12, atol=1e-12)


def test_what_coarse_steps_see():
    op = light_field((12, 16), (16, 20))
    field, data, background = scene(op)
    small = Given(averaged(field.values.detach(), 2))
    seen = sampler(Stage(coarsen=2), op, data, background)(small, generator())
    torch.testing.assert_close(seen.data, averaged(data, 2))
    expected = averaged(op(spread(small.values, 2)) + background, 2)
    torch.testing.assert_close(seen.prediction, expected)
    # a mean of four counts is as telling as the four: the likelihood of their sum
    ours = poisson(seen.prediction, seen.data) / seen.share_of_data
    torch.testing.assert_close(ours, poisson(4 * seen.prediction, 4 * seen.data))


@pytest.mark.parametrize(
    ("shape", "view_shape"), [((13, 16), None), ((12, 16), (12, 18)), ((12, 14), (16, 16))]
)
def test_sizes_that_cannot_be_halved_are_named(shape, view_shape):
    with pytest.raises(ValueError, match=r"sizes \(.*\) do not divide by 4: crop or pad the views"):
        light_field(shape, view_shape).coarsened(2)


# ---- blocks ---------------------------------------------------------------------------------

SHAPES = [
    ((12, 16), (12, 16), 5),
    ((12, 16), (20, 25), 8),
    ((13, 10), (21, 11), 7),
    ((20, 21), (8, 9), 4),  # most of the volume is never in the middle of a view
    ((6, 6), (40, 31), 6),  # most tiles see nothing of the volume
    ((9, 9), (9, 9), 50),  # one tile is everything
    ((9, 9), (10, 12), 1),
]


@pytest.mark.parametrize(("shape", "view_shape", "block"), SHAPES)
@pytest.mark.parametrize("psf", [(7, 9), (4, 6)])
def test_every_block_is_the_crop_of_the_whole(shape, view_shape, block, psf, monkeypatch):
    """At the centre, at the edges, in the corners: with a halo that covers the PSF it is exact."""
    monkeypatch.setattr(operator, "reach", lambda psf, energy: max(psf.shape[-2:]) // 2)
    op = light_field(shape, view_shape, psf)
    field, data, background = scene(op)
    whole = op(field.values) + background
    blocks = sampler(Stage(block=block), op, data, background)
    covered = torch.zeros(op.out_shape)
    owned = torch.zeros(op.in_shape)
    for number, (row, column) in enumerate(blocks.tiles):
        blocks._choose = lambda field, generator, n=number: n
        seen = blocks(field, generator())
        view = (..., row.pixels, column.pixels)
        assert 1 <= max(seen.data.shape[-2:]) <= block
        torch.testing.assert_close(seen.prediction, whole[view], rtol=0, atol=1e-9)
        assert torch.equal(seen.data, data[view])
        covered[view] += 1
        if seen.volume is not None:
            y, x = row.voxels.start + row.own.start, column.voxels.start + column.own.start
            _, height, width = seen.volume.shape
            own = (slice(None), slice(y, y + height), slice(x, x + width))
            assert torch.equal(seen.volume, field.values[own])
            owned[own] += 1
    assert (covered == 1).all() and (owned == 1).all()


@pytest.mark.parametrize(("shape", "view_shape", "block"), SHAPES)
def test_steps_see_the_whole_objective_on_average(shape, view_shape, block, monkeypatch):
    """The mean over all blocks of the objective and of its gradient: the border is not left out."""
    monkeypatch.setattr(operator, "reach", lambda psf, energy: max(psf.shape[-2:]) // 2)
    op = light_field(shape, view_shape)
    field, data, background = scene(op)

    def objective(seen):
        value = poisson(seen.prediction, seen.data) / seen.share_of_data
        if seen.volume is not None:
            value = value + 0.3 * l1(seen.volume) / seen.share_of_volume
        return value, torch.autograd.grad(value, field.values, allow_unused=True)[0]

    whole, slope = objective(sampler(Stage(), op, data, background)(field, generator()))
    blocks = sampler(Stage(block=block), op, data, background)
    values, slopes = [], []
    for number in range(len(blocks.tiles)):
        blocks._choose = lambda field, generator, n=number: n
        value, gradient = objective(blocks(field, generator()))
        values.append(value)
        slopes.append(gradient)
    torch.testing.assert_close(torch.stack(values).mean(), whole)
    torch.testing.assert_close(torch.stack(slopes).mean(0), slope)


def test_blocks_are_drawn_equally_often():
    op = light_field((12, 16))
    blocks = sampler(Stage(block=4), op, *scene(op)[1:])
    assert len(blocks.tiles) == 12
    drawn = generator()
    counts = np.bincount([blocks._choose(None, drawn) for _ in range(1200)], minlength=12)
    assert ((counts - 100) ** 2 / 100).sum() < 31  # chi squared with 11 degrees: 1 in 1000


def test_the_halo_holds_nearly_all_light():
    """The reach counts pixels from the voxel itself, so parallax is within it."""
    h = torch.zeros(2, 1, 15, 15)
    h[0, 0, 7, 7] = 1
    h[1, 0, 7, 12] = 0.5  # five pixels aside
    h[1, 0, 7, 7] = 0.5
    assert reach(h[:1]) == 0
    assert reach(h) == 5
    h[1, 0, 0, 0] = 0.0099
    assert reach(h) == 5
    assert reach(h, energy=0.999) == 7
    h[1, 0] = 0  # a plane that a view cannot see asks for nothing
    assert reach(h) == 0
    even = torch.zeros(1, 1, 6, 8)
    even[0, 0, 3, 4] = 1
    assert reach(even) == 0


def test_a_small_halo_leaves_out_what_it_says():
    spot = torch.exp(-((torch.arange(31.0) - 15) ** 2) / 18)
    h = (spot[:, None] * spot).expand(2, 2, 31, 31)
    op = LightField((h / h[0].sum()).double(), (40, 40))
    field, data, background = scene(op)
    blocks = sampler(Stage(block=20), op, data, background)
    blocks._choose = lambda field, generator: 0
    with torch.no_grad():
        seen = blocks(field, generator()).prediction - background[:, :20, :20]
        share = seen / op(field.values)[:, :20, :20]
    assert reach(op.psf) < 10 and (0.98 < share).all() and share.min() < 0.9999
    torch.testing.assert_close(share[:, :10, :10], torch.ones_like(share[:, :10, :10]))


def test_error_driven_blocks_fall_where_the_error_is():
    op = light_field((16, 16))
    field, data, background = scene(op)
    data = (op(field.values) + background).detach()
    data += data.sqrt()  # as far off as noise would be
    data[:, 8:12, 4:8] += 2 * data[:, 8:12, 4:8].sqrt()  # the tile in row 2, column 1
    blocks = sampler(Stage(block=4, sampling="error"), op, data, background)
    drawn = generator()
    tiles = [blocks._choose(field, drawn) for _ in range(200)]
    assert np.mean(np.array(tiles) == 9) > 0.95
    # and everywhere, though rarely, for what is explained now need not stay so
    assert blocks.memory["chance"].min() > 0


def test_shot_noise_draws_no_blocks():
    """The map is in units of the noise: bright tiles that are explained are drawn like others."""
    op = light_field((16, 16))
    truth = torch.full(op.in_shape, 0.01, dtype=torch.float64)
    truth[:, 6:10, 6:10] = 20
    background = torch.full(op.out_shape, 2.0, dtype=torch.float64)
    expected = op(truth) + background
    noise, chances = generator(3), []
    for _ in range(40):
        data = torch.poisson(expected, generator=noise)
        blocks = sampler(Stage(block=4, sampling="error"), op, data, background)
        blocks._choose(Given(truth), generator())
        chances.append(blocks.memory["chance"] / blocks.memory["chance"].sum())
    chance = torch.stack(chances).mean(0)
    brightness = expected.reshape(3, 4, 4, 4, 4).mean((0, 2, 4)).flatten()
    assert brightness.max() > 20 * brightness.min()
    assert 0.1 / 16 < chance[brightness.argmax()] < 3 / 16
    assert 0.6 / 16 < chance[brightness.argmin()] < 1.6 / 16


def test_the_map_of_errors_is_drawn_anew_now_and_then():
    op = light_field((16, 16))
    field, data, background = scene(op)
    explained = (op(field.values) + background).detach()
    data = explained.clone()
    data[:, :4, :4] *= 4
    blocks = sampler(Stage(block=4, sampling="error", refresh=3), op, data, background)
    drawn, maps = generator(), []
    for step in range(7):
        if step == 1:
            data[:] = explained
            data[:, 12:, 12:] *= 4
        blocks._choose(field, drawn)
        maps.append(int(blocks.memory["chance"].argmax()))
    assert maps == [0, 0, 0, 15, 15, 15, 15]
    assert blocks.memory["steps"] == 7


# ---- views ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [light_field, lambda: ParallelBeam([0, 40, 80, 120], (6, 3, 5))])
def test_some_views_are_part_of_all(make):
    op = make()
    field, data, background = scene(op)
    whole = op(field.values) + background
    draw, rng = sampler(Stage(views=2), op, data, background), generator()
    chosen = set()
    for _ in range(30):
        seen = draw(field, rng)
        order = [int((data == view).flatten(1).all(1).nonzero()) for view in seen.data]
        assert len(set(order)) == 2
        torch.testing.assert_close(seen.prediction, whole[order])
        assert seen.share_of_data == pytest.approx(2 / len(data)) and seen.share_of_volume == 1
        chosen |= {tuple(sorted(order))}
    assert len(chosen) == len(data) * (len(data) - 1) / 2


def test_views_are_the_whole_on_average():
    op = light_field()
    field, data, background = scene(op)
    whole = gaussian(op(field.values) + background, data)
    draw = sampler(Stage(views=1), op, data, background)
    values = {}
    rng = generator()
    while len(values) < len(data):
        seen = draw(field, rng)
        value = (gaussian(seen.prediction, seen.data) / seen.share_of_data).item()
        values[round(value, 6)] = value
    assert np.mean(list(values.values())) == pytest.approx(whole.item())


# ---- stages ---------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls():
    stage = Stage(n_steps=200, learning_rate=0.02, final_rate=0.1)
    rates = np.array([stage.rate(step) for step in range(200)])
    np.testing.assert_allclose(rates[:20], 0.02 * np.arange(1, 21) / 20)
    assert rates.argmax() in (19, 20) and rates.max() == pytest.approx(0.02)
    assert (np.diff(rates[20:]) < 0).all()
    assert rates[110] == pytest.approx(0.02 * 0.55, rel=1e-6)  # half-way down
    assert rates[-1] == pytest.approx(0.002, rel=0.01)
    assert Stage(n_steps=1, learning_rate=0.5).rate(0) == 0.5
    assert all(Stage(n_steps=3).rate(k) > 0 for k in range(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps is 0 and learning_rate 0.01: both must be above zero"),
        ({"learning_rate": -1}, "n_steps is 300 and learning_rate -1"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"sampling": "worst"}, "sampling is 'worst': use 'uniform' or 'error'"),
        ({"coarsen": 2, "block": 8}, "coarsen, block and views exclude each other"),
        ({"views": 2, "block": 8}, "coarsen, block and views exclude each other"),
        ({"sampling": "error"}, "sampling is 'error', but there are no blocks to draw: set block"),
        ({"block": 0}, "block is 0: use a whole number, at least 1"),
        ({"coarsen": 1.5}, "coarsen is 1.5: use a whole number"),
        ({"views": 0}, "views is 0: use a whole number"),
        ({"refresh": 0}, "refresh is 0: use a whole number"),
    ],
)
def test_a_stage_that_makes_no_sense_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Stage(**settings)


def test_a_stage_that_does_not_suit_the_operator_is_named():
    beam = ParallelBeam([0, 90], (4, 4, 4))
    data = torch.zeros(beam.out_shape)
    plain = SimpleNamespace(in_shape=beam.in_shape, out_shape=beam.out_shape)
    with pytest.raises(TypeError, match="SimpleNamespace has no `block`, which"):
        sampler(Stage(block=2), plain, data, data)
    with pytest.raises(TypeError, match="SimpleNamespace has no `coarsened`, which"):
        sampler(Stage(coarsen=2), plain, data, data)
    with pytest.raises(ValueError, match="views is 3, but there are 2: use fewer"):
        sampler(Stage(views=3), beam, data, data)
    with pytest.raises(TypeError, match="function has no `select`"):
        sampler(Stage(views=1), lambda volume: volume, data, data)


@pytest.mark.parametrize("stage", [Stage(), Stage(coarsen=2), Stage(block=3), Stage(views=1)])
def test_free_voxels_can_be_looked_at_in_every_way(stage):
    op = light_field((8, 8)).to(dtype=torch.float32)
    field, data = Voxels(op.in_shape, Identity()), torch.ones(op.out_shape)
    seen = sampler(stage, op, data, data)(field, generator())
    assert seen.prediction.shape == seen.data.shape
    assert (seen.prediction == 1).all() and (seen.volume == 0).all()
