"""A fit goes down, stops and goes on bit for bit, and refuses what it cannot fit."""

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.inr.fields import (
    MLP,
    FeatureGrid,
    Field,
    Identity,
    PositionalEncoding,
    Softplus,
    Voxels,
    pyramid,
)
from helpers.inr.fit import FieldFit, Stage, fit
from helpers.inr.fit.losses import gaussian, hessian, l1, poisson
from helpers.inr.lightfield import LightField
from tests.book_files import ROOT

SHAPE = (2, 12, 12)
fit = partial(fit, device="cpu")


def blurred(n_views=4, depth=2, side=7):
    """Point spread functions that lean to another side in every view and depth."""
    at = torch.arange(float(side)) - side // 2
    h = torch.empty(n_views, depth, side, side)
    for v in range(n_views):
        angle = torch.tensor(2 * np.pi * v / n_views)
        for z in range(depth):
            lean = 2 * (z - (depth - 1) / 2)
            y, x = at - lean * angle.sin(), at - lean * angle.cos()
            h[v, z] = torch.exp(-(y[:, None] ** 2 + x**2) / 2)
    return h / h.sum((0, 2, 3), keepdim=True)


def make_scene():
    """An operator with views larger than its volume, counts, and their background."""
    op = LightField(blurred(), SHAPE[1:], (16, 16))
    truth = torch.zeros(SHAPE)
    truth[0, 3:6, 4:7] = 800
    truth[1, 7:9, 3:10] = 1000
    noise = torch.Generator().manual_seed(1)
    return op, torch.poisson(op(truth) + 2, generator=noise).numpy(), 2.0


@pytest.fixture(scope="module")
def scene():
    return make_scene()


def grid_field(seed=0, mean=50.0):
    generator = torch.Generator().manual_seed(seed)
    levels = pyramid(SHAPE, 2)
    network = MLP(6, 8, 1, generator=generator)
    return Field(FeatureGrid(levels, 3, generator=generator), network, Softplus(mean))


def states_equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


def weak(volume):
    return 0.02 * hessian(volume, weights=(0.5, 1, 1))


SCHEDULES = {
    "whole": Stage(12, 0.1),
    "views": Stage(12, 0.1, views=2),
    "blocks": Stage(12, 0.1, block=8),
    "error": Stage(12, 0.1, block=8, sampling="error", refresh=5),
    "stages": (
        Stage(3, 0.1, coarsen=2),
        Stage(4, 0.1, block=8, sampling="error", refresh=3),
        Stage(2, 0.05, block=5, sampling="error", refresh=3),
        Stage(3, 0.05, views=3, betas=(0.8, 0.9)),
    ),
}


@pytest.fixture(scope="module")
def uninterrupted(scene):
    """Each schedule run at one go."""
    op, views, background = scene
    return {
        name: fit(
            grid_field(), op, views, background=background, prior=weak, schedule=schedule,
            generator=torch.Generator().manual_seed(5),
        )
        for name, schedule in SCHEDULES.items()
    }  # fmt: skip


@pytest.fixture
def one_thread():
    """Several threads may add up in another order in another process, to other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def interrupted(scene, name, path, callback=None, every=200):
    op, views, background = scene
    return fit(
        grid_field(), op, views, background=background, prior=weak, schedule=SCHEDULES[name],
        generator=torch.Generator().manual_seed(5), checkpoint=path, checkpoint_every=every,
        callback=callback,
    )  # fmt: skip


def assert_same(result, expected):
    np.testing.assert_array_equal(result.volume, expected.volume)
    np.testing.assert_array_equal(result.history["objective"], expected.history["objective"])
    assert states_equal(result.field.state_dict(), expected.field.state_dict())
    for key, moments in expected.moments["state"].items():
        assert states_equal(result.moments["state"][key], moments)


# ---- what a fit gives -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_misfit_falls(scene, uninterrupted, name):
    op, views, background = scene
    result = uninterrupted[name]

    def misfit(volume):
        return float(poisson(op(torch.as_tensor(volume)) + background, torch.tensor(views)))

    assert isinstance(result, FieldFit) and result.n_iter == 12
    before = grid_field().volume(SHAPE).detach()
    assert misfit(result.volume) < 0.8 * misfit(before)
    assert len(result.history["seconds"]) == 12


def test_the_objective_falls_to_what_noise_leaves(scene):
    """Twice the loss of Poisson counts is about their number of pixels, once it is explained."""
    op, views, background = scene
    result = fit(grid_field(), op, views, background=background, schedule=Stage(150, 0.1))
    objective = result.history["objective"]
    assert objective[-1] < 0.05 * objective[0]
    prediction = op(torch.from_numpy(result.volume)) + background
    assert 0.5 < 2 * float(poisson(prediction, torch.from_numpy(views))) / views.size < 1.2


def test_the_objective_is_the_loss_plus_the_prior(scene):
    op, views, background = scene
    field = grid_field()
    seen = []
    result = fit(
        field, op, views, background=background, loss=partial(poisson, read_noise=1.5),
        prior=lambda volume: 0.3 * l1(volume), schedule=Stage(2, 0.1),
        callback=lambda step: seen.append((step, step.loss, step.model)),
    )  # fmt: skip
    volume = field.volume(SHAPE).detach()
    expected = poisson(op(volume) + background, torch.tensor(views), read_noise=1.5)
    expected += 0.3 * volume.sum()
    assert result.history["objective"][0] == pytest.approx(float(expected), rel=1e-6)
    assert [s[:2] for s in seen] == list(enumerate(result.history["objective"], 1))
    assert seen[0][2] is result.field
    assert result.settings["loss"] == "poisson(read_noise=1.5)"
    assert result.settings["schedule"][0]["n_steps"] == 2 and result.settings["device"] == "cpu"


def test_the_steps_are_those_of_adam(scene):
    """The loop in miniature, with the rate and the memory of each stage."""
    op, views, background = scene
    stages = (Stage(4, 0.3, final_rate=0.5), Stage(3, 0.1, betas=(0.5, 0.7)))
    field = grid_field()
    adam = torch.optim.Adam(field.parameters())
    for stage in stages:
        for step in range(stage.n_steps):
            adam.param_groups[0].update(lr=stage.rate(step), betas=stage.betas)
            adam.zero_grad()
            volume = field.volume(SHAPE)
            (poisson(op(volume) + background, torch.tensor(views)) + weak(volume)).backward()
            adam.step()
    result = fit(grid_field(), op, views, background=background, prior=weak, schedule=stages)
    assert states_equal(result.field.state_dict(), field.state_dict())
    assert result.n_iter == 7


def test_the_field_that_is_passed_in_stays_as_it_was(scene):
    op, views, background = scene
    field = grid_field()
    before = copy.deepcopy(field.state_dict())
    result = fit(field, op, views, background=background, schedule=Stage(3, 0.1))
    assert states_equal(before, field.state_dict())
    assert not states_equal(before, result.field.state_dict())
    assert all(p.grad is None for p in field.parameters())
    with torch.no_grad():
        np.testing.assert_array_equal(result.volume, result.field.volume(SHAPE).numpy())


def test_numpy_gives_numpy_and_torch_gives_torch(scene):
    op, views, background = scene
    kw = {"background": background, "schedule": Stage(3, 0.1)}
    by_array = fit(grid_field(), op, views.astype(np.float64), **kw)
    by_tensor = fit(grid_field(), op, torch.from_numpy(views), **kw)
    counts = fit(grid_field(), op, views.astype(np.uint16), **kw)
    assert isinstance(by_array.volume, np.ndarray) and by_array.volume.dtype == np.float32
    assert torch.is_tensor(by_tensor.volume) and not by_tensor.volume.requires_grad
    np.testing.assert_array_equal(by_tensor.volume.numpy(), by_array.volume)
    np.testing.assert_array_equal(counts.volume, by_array.volume)


def test_nothing_is_printed_unless_asked_for(scene, capsys):
    op, views, _ = scene
    fit(grid_field(), op, views, schedule=Stage(2, 0.1))
    assert capsys.readouterr() == ("", "")
    fit(grid_field(), op, views, schedule=Stage(2, 0.1), progress=True)
    assert "0/2" in capsys.readouterr().err


def test_a_block_beside_the_volume_has_no_prior():
    op = LightField(blurred(), (6, 6), (24, 24))
    views = np.full(op.out_shape, 3.0)
    field = Voxels(op.in_shape, Softplus(50.0))
    result = fit(field, op, views, background=2, prior=weak, schedule=Stage(30, 0.1, block=4))
    assert np.isfinite(result.volume).all() and result.volume.mean() < 40


def test_any_differentiable_model_can_be_fitted():
    class Squares:
        in_shape = (2, 3, 4)

        def __call__(self, volume):
            return volume.square().sum(0)

    target = np.full((3, 4), 8.0)
    result = fit(
        Voxels((2, 3, 4), Softplus(1.0)), Squares(), target, loss=gaussian, schedule=Stage(150, 0.2)
    )
    np.testing.assert_allclose((result.volume**2).sum(0), 8, rtol=1e-2)


def test_convergence_is_told_by_the_last_stage(scene):
    op, views, background = scene

    def converged(*stages):
        start = Voxels(SHAPE, Softplus(50.0))
        return fit(start, op, views, background=background, schedule=stages).converged

    assert converged(Stage(300, 0.3))
    assert not converged(Stage(20, 0.02, final_rate=1.0))
    assert not converged(Stage(1, 0.1))
    # a coarser model explains fewer numbers: the lowest objective lies in the earlier stage
    assert not converged(Stage(60, 0.3, coarsen=2), Stage(10, 0.01, final_rate=1.0))


# ---- seeds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["views", "blocks", "error"])
def test_the_generator_decides_and_nothing_else(scene, uninterrupted, name):
    op, views, background = scene

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        result = fit(
            grid_field(), op, views, background=background, prior=weak,
            schedule=SCHEDULES[name], generator=generator,
        )  # fmt: skip
        assert result.settings["seed"] == generator.initial_seed()
        return result

    torch.manual_seed(3)
    np.random.seed(0)  # noqa: NPY002
    assert_same(run(5), uninterrupted[name])
    other = run(6)
    assert not np.array_equal(other.volume, uninterrupted[name].volume)


def test_no_global_seed_is_set(scene):
    op, views, _ = scene
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fit(grid_field(), op, views, schedule=Stage(2, block=8))
    assert torch.equal(torch.rand(3), expected)


# ---- stop and go on -------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_stopped_fit_goes_on_bit_for_bit(scene, uninterrupted, tmp_path, name, stop):
    path = tmp_path / "fit.safetensors"
    part = interrupted(scene, name, path, callback=lambda step, *_: step == stop)
    assert part.n_iter == stop
    assert not np.array_equal(part.volume, uninterrupted[name].volume)
    steps = []
    result = interrupted(scene, name, path, callback=lambda step, *_: steps.append(step))
    assert steps == list(range(stop + 1, 13))
    assert_same(result, uninterrupted[name])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_fit_that_broke_goes_on_from_its_last_save(scene, uninterrupted, tmp_path, name, error):
    path = tmp_path / "fit.safetensors"

    def broken(step, *_):
        if step == 9:
            raise error("the power failed")

    with pytest.raises(error, match="the power failed"):
        interrupted(scene, name, path, callback=broken, every=4)
    steps = []
    result = interrupted(scene, name, path, callback=lambda step, *_: steps.append(step), every=4)
    assert steps == [9, 10, 11, 12]
    assert_same(result, uninterrupted[name])


def test_a_fit_can_break_more_than_once(scene, uninterrupted, tmp_path):
    path = tmp_path / "fit.safetensors"
    for stop in (2, 3, 6, 8, 10):
        interrupted(scene, "stages", path, callback=lambda step, *_, stop=stop: step == stop)
    assert_same(interrupted(scene, "stages", path), uninterrupted["stages"])


def test_a_fit_that_is_over_is_read_back(scene, uninterrupted, tmp_path):
    path = tmp_path / "fit.safetensors"
    interrupted(scene, "blocks", path)
    again = interrupted(scene, "blocks", path, callback=lambda *_: pytest.fail("a step was taken"))
    assert_same(again, uninterrupted["blocks"])
    assert again.n_iter == 12


def test_a_fit_goes_on_in_another_interpreter(scene, one_thread, tmp_path):
    """Nothing that only this process knows, such as an address, is asked of a checkpoint."""
    uninterrupted = {"stages": interrupted(scene, "stages", tmp_path / "whole.safetensors")}
    path = tmp_path / "fit.safetensors"
    interrupted(scene, "stages", path, callback=lambda step, *_: step == 6)
    code = (
        "import sys, numpy as np, torch\n"
        "from tests.margins.seeds import follow; follow()\n"
        "from pathlib import Path\n"
        "from tests.unit.inr.fit import test_loop as t\n"
        "torch.set_num_threads(1)\n"
        "result = t.interrupted(t.make_scene(), 'stages', Path(sys.argv[1]))\n"
        "np.save(sys.argv[2], result.volume)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "volume.npy"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "volume.npy"), uninterrupted["stages"].volume)


def test_a_fit_goes_on_from_a_fit(scene):
    """It takes the field and the momentum, and leaves the first fit as it was."""
    op, views, background = scene
    kw = {"background": background, "schedule": Stage(6, 0.05)}
    first = fit(grid_field(), op, views, **kw)
    before = copy.deepcopy((first.moments, first.field.state_dict()))
    second, again = fit(first, op, views, **kw), fit(first, op, views, **kw)
    assert_same(again, second)
    assert all(
        states_equal(a, b)
        for a, b in zip(before[0]["state"].values(), first.moments["state"].values(), strict=True)
    )
    assert states_equal(before[1], first.field.state_dict())
    assert {float(s["step"]) for s in second.moments["state"].values()} == {12}
    cold = fit(first.field, op, views, **kw)
    assert not np.array_equal(cold.volume, second.volume)
    assert second.history["objective"][0] == cold.history["objective"][0]


# ---- checkpoints that are not of this fit -----------------------------------------------------


@pytest.fixture
def checkpoint(scene, tmp_path):
    path = tmp_path / "fit.safetensors"
    interrupted(scene, "whole", path, callback=lambda step, *_: step == 5)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"data": lambda views: views + 1},
        {"schedule": Stage(12, 0.2)},
        {"background": 3.0},
        {"loss": gaussian},
        {"prior": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_fit_is_refused(scene, checkpoint, change):
    op, views, background = scene
    size = checkpoint.stat().st_mtime_ns
    settings = {"background": background, "prior": weak, "schedule": SCHEDULES["whole"]} | change
    data = settings.pop("data", lambda views: views)(views)
    with pytest.raises(ValueError, match="is of another run, with .*: choose another name"):
        fit(grid_field(), op, data, checkpoint=checkpoint, **settings)
    assert checkpoint.stat().st_mtime_ns == size, "the checkpoint was written to"


def test_a_checkpoint_of_another_field_is_refused(scene, checkpoint):
    op, views, background = scene
    network = MLP(27, 8, 2, generator=torch.Generator().manual_seed(0))
    other = Field(PositionalEncoding(4), network, Softplus(2.0))
    kw = {"background": background, "prior": weak, "schedule": SCHEDULES["whole"]}
    with pytest.raises(ValueError, match="is for another model: field/"):
        fit(other, op, views, checkpoint=checkpoint, **kw)


def test_a_truncated_checkpoint_is_named(scene, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"fit.safetensors is truncated or not a safetensors file"):
        interrupted(scene, "whole", checkpoint)


def test_a_flipped_bit_is_found(scene, checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[-40] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match="is corrupt, its checksum differs"):
        interrupted(scene, "whole", checkpoint)


# ---- bad input --------------------------------------------------------------------------------


def with_nan(views):
    views = views.copy()
    views[1, 3, 4] = np.nan
    return views


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": with_nan}, "data has NaN or infinite values: replace dead pixels first"),
        ({"data": lambda v: v / 0.0}, "data has NaN or infinite values"),
        ({"data": lambda v: v[:3]}, r"data has shape \(3, 16, 16\), but the operator gives \(4, 1"),
        ({"data": lambda v: v[:, 1:]}, r"data has shape \(4, 15, 16\), but the operator gives"),
        ({"data": lambda v: v - 9}, "data has negative counts, down to"),
        ({"background": np.nan}, "background has NaN or infinite values"),
        ({"background": np.ones(4)}, r"background has shape \(4,\), which does not broadcast to"),
        ({"background": np.ones((2, 4, 16, 16))}, r"background has shape \(2, 4, 16, 16\), which"),
        ({"schedule": ()}, "schedule is empty: give at least one Stage"),
        ({"schedule": (Stage(2), Stage(2, views=5))}, "views is 5, but there are 4: use fewer"),
        ({"schedule": (Stage(2), Stage(2, coarsen=4))}, "do not divide by 8: crop or pad"),
    ],
)
def test_bad_input_is_named_before_any_step(scene, change, message):
    op, views, background = scene
    settings = {"background": background, "schedule": Stage(3)} | change
    data = settings.pop("data", lambda views: views)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        fit(
            grid_field(), op, data(views), callback=lambda *_: pytest.fail("a step was taken"),
            **settings,
        )  # fmt: skip


def test_a_background_may_differ_from_view_to_view(scene):
    op, views, _ = scene
    per_view = np.array([1.0, 2.0, 3.0, 2.0]).reshape(4, 1, 1)
    field = Voxels(SHAPE, Softplus(2.0))
    whole = np.broadcast_to(per_view, views.shape)
    for schedule in (Stage(2, 0.1), Stage(2, 0.1, coarsen=2), Stage(2, 0.1, views=2)):
        kw = {"schedule": schedule}
        small, large = (fit(field, op, views, background=b, **kw) for b in (per_view, whole))
        np.testing.assert_array_equal(small.volume, large.volume)
        other = fit(field, op, views, background=2.0, **kw)
        assert not np.array_equal(other.volume, small.volume)


def test_read_noise_may_make_counts_negative(scene):
    op, views, background = scene
    noisy = views + np.random.default_rng(0).normal(0, 1.5, views.shape) - 1
    assert (noisy < -1).any()
    kw = {"background": background - 1, "schedule": Stage(20, 0.1)}
    for loss in (partial(poisson, read_noise=1.5), partial(gaussian, sigma=2.0)):
        result = fit(grid_field(), op, noisy, loss=loss, **kw)
        assert np.isfinite(result.volume).all()
    with pytest.raises(ValueError, match="negative counts"):
        fit(grid_field(), op, noisy, loss=partial(poisson, read_noise=0.0), **kw)


def test_a_field_of_another_shape_is_interpolated_and_a_wrong_one_named(scene):
    op, views, background = scene
    coarse = fit(
        Voxels((2, 6, 8), Softplus(50.0)), op, views, background=background, schedule=Stage(5, 0.1)
    )
    assert coarse.volume.shape == SHAPE

    class Stubborn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.values = torch.nn.Parameter(torch.ones(2, 6, 8))

        def volume(self, shape, roi=None):
            return self.values

    with pytest.raises(ValueError, match=r"volume \(2, 6, 8\): this operator expects"):
        fit(Stubborn(), op, views, schedule=Stage(2))


def test_a_fit_that_diverges_says_so(scene):
    op, views, _ = scene
    start = Voxels(SHAPE, Identity())
    with pytest.raises(FloatingPointError, match=r"loss of step \d+ is (inf|nan): lower the"):
        fit(start, op, views, loss=gaussian, schedule=Stage(10, 1e30))
    # the last step has no next one to notice it: a root has no slope at zero
    with pytest.raises(FloatingPointError, match="the volume is not finite after step 1: lower"):
        fit(
            start, op, views, loss=gaussian, prior=lambda f: f.abs().sqrt().sum(), schedule=Stage(1)
        )
    assert (start.values == 0).all()


# ---- equivariance -----------------------------------------------------------------------------


def test_brighter_views_give_a_brighter_volume(scene):
    """Views times c, with the head and the rounding of the prior times c: the volume times c."""
    op = scene[0]
    truth = torch.zeros(SHAPE)
    truth[1, 4:8, 5:9] = 40
    views = op(truth).numpy()

    def volume(c):
        return fit(
            Voxels(SHAPE, Softplus(2.0 * c)), op, c * views, schedule=Stage(60, 0.2),
            prior=lambda volume: 0.05 * l1(volume) + 0.1 * hessian(volume, smooth=0.01 * c),
        ).volume  # fmt: skip

    once, more = volume(1.0), volume(7.3)
    assert once.max() > 20
    np.testing.assert_allclose(more, 7.3 * once, atol=7.3 * 1e-3 * once.max())
    # and only then: with the same head the steps are others
    fixed = fit(Voxels(SHAPE, Softplus(2.0)), op, 7.3 * views, schedule=Stage(60, 0.2)).volume
    assert abs(fixed - 7.3 * once).max() > 0.1 * 7.3 * once.max()


@pytest.mark.parametrize("shift", [(2, -3), (-1, 4)])
def test_shifted_views_give_a_shifted_volume(shift):
    op = LightField(blurred(), (34, 34))
    truth = torch.zeros(op.in_shape)
    truth[0, 14:17, 13:18] = 500
    truth[1, 15:20, 17:19] = 300
    views = op(truth)

    def volume(views):
        return fit(
            Voxels(op.in_shape, Softplus(5.0)), op, views, background=1.0, prior=weak,
            schedule=Stage(60, 0.2),
        ).volume  # fmt: skip

    moved = torch.roll(views, shift, (1, 2))
    torch.testing.assert_close(moved, op(torch.roll(truth, shift, (1, 2))), atol=1e-3, rtol=0)
    here, there = volume(views + 1), volume(moved + 1)
    expected = torch.roll(here, shift, (1, 2))
    inner = (slice(None), slice(10, 24), slice(10, 24))
    assert here[inner].max() > 200
    assert (there - expected)[inner].abs().max() < 0.01 * here.max()
    assert (there - here)[inner].abs().max() > 0.5 * here.max()


# ---- memory -----------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_the_scene_of_the_page_is_fitted_in_three_gibibytes():
    """Memory does not grow with the number of steps, so a few are enough to know it."""
    code = (
        "from functools import partial\n"
        "from helpers.inr import fields, fit, phantoms\n"
        "from helpers.inr.fit import losses\n"
        "sim = phantoms.simulate(seed=1)\n"
        "shape = sim.op.in_shape\n"
        "assert shape == (16, 56, 56)\n"
        "field = fields.Field(fields.FeatureGrid(fields.pyramid(shape, 4), 4),\n"
        "    fields.MLP(16, 16, 2), fields.Softplus(0.3))\n"
        "for field in (field, fields.Voxels(shape, fields.Softplus(0.3))):\n"
        "    fit.fit(field, sim.op, sim.views, background=sim.background, device='cpu',\n"
        "        prior=losses.hessian, loss=partial(losses.poisson, read_noise=1.5),\n"
        "        schedule=fit.Stage(3))\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(*[line.split()[1] for line in lines if line.startswith('VmHWM')])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    gibibytes = int(run.stdout) / 2**20
    print(f"peak memory {gibibytes:.2f} GiB")
    assert 0.1 < gibibytes < 3
