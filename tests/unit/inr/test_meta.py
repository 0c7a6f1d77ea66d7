"""Reptile and the shared decoder: what they compute, what they save, what they refuse."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr import fields, phantoms
from helpers.inr.fit import Stage, fit, losses
from helpers.inr.meta import fingerprint, reptile, shared_decoder

SHAPE = (8, 24, 24)
STAGE = partial(Stage, learning_rate=3e-2, betas=(0.5, 0.95))
LOSS = partial(losses.poisson, read_noise=1.5)


def record(t, seed=1):
    return phantoms.simulate(seed=seed, t=t, shape=SHAPE, n_tubes=3)


def make_field(seed=0):
    rng = torch.Generator().manual_seed(seed)
    grid = fields.FeatureGrid(fields.pyramid(SHAPE, 2), 4, generator=rng)
    network = fields.MLP(8, 8, 2, generator=rng)
    return fields.Field(grid, network, fields.Softplus(mean=5.0, scale=50.0))


def tasks(sims):
    return [(sim.op, sim.views, sim.background) for sim in sims]


@pytest.fixture(scope="module")
def target():
    return record(0.5)


@pytest.fixture(scope="module")
def keys():
    return [record(t) for t in (0.3, 0.7)]


@pytest.fixture(scope="module")
def learned(keys):
    return reptile(make_field, tasks(keys), n_iter=12, n_inner=8, loss=LOSS, device="cpu")


def error(sim, volume):
    clean = sim.expected - sim.background
    return np.linalg.norm(sim.op(volume) - clean) / np.linalg.norm(clean)


def square(goal):
    return lambda field: ((field.volume() - torch.tensor(goal)) ** 2).sum()


def voxels():
    return fields.Voxels((1, 1, 2), fields.Identity())


def test_reptile_is_its_equation():
    """One task, so the order does not matter: written down once more, without the helpers."""
    result = reptile(
        voxels, [square([1.0, 3.0])], n_iter=4, n_inner=3, epsilon=0.5, learning_rate=0.1,
        betas=(0.5, 0.9), device="cpu",
    )  # fmt: skip
    theta, v, step = np.zeros(2), np.zeros(2), 0
    for outer in range(4):
        phi, m = theta.copy(), np.zeros(2)
        for _ in range(3):
            gradient, step = 2 * (phi - [1.0, 3.0]), step + 1
            m, v = 0.5 * m + 0.5 * gradient, 0.9 * v + 0.1 * gradient**2
            phi -= 0.1 * m / (1 - 0.5**step) / (np.sqrt(v / (1 - 0.9**step)) + 1e-8)
        theta = theta + 0.5 * (1 - outer / 4) * (phi - theta)
    np.testing.assert_allclose(result.field.volume().detach().flatten().numpy(), theta, rtol=1e-4)
    assert result.n_steps == 12 and len(result.history["objective"]) == 12


def test_reptile_finds_the_middle_of_its_tasks():
    start = reptile(
        voxels, [square([0.0, 4.0]), square([2.0, 4.0])], n_iter=60, n_inner=5,
        learning_rate=0.1, device="cpu",
    )  # fmt: skip
    found = start.field.volume().detach().flatten().numpy()
    np.testing.assert_allclose(found, [1.0, 4.0], atol=0.25)


def test_every_task_is_drawn_as_often_as_any_other():
    drawn = []

    def task(number):
        def objective(field):
            drawn.append(number)
            return (field.volume() ** 2).sum()

        return objective

    reptile(voxels, [task(k) for k in range(3)], n_iter=9, n_inner=2, device="cpu")
    assert sorted(drawn) == sorted(3 * 2 * [0, 1, 2]) and drawn[:2] != drawn[2:4]


def test_a_learned_start_saves_steps_on_a_frame_that_it_has_not_seen(learned, target, keys):
    assert not learned.has_seen(target.views) and learned.has_seen(keys[0].views)
    common = dict(loss=LOSS, background=4.0, device="cpu")
    warm = fit(learned, target.op, target.views, schedule=STAGE(10), **common)
    cold = fit(make_field(), target.op, target.views, schedule=STAGE(20), **common)
    assert error(target, warm.volume) / error(target, cold.volume) < 1


def test_the_start_that_is_given_is_not_changed(keys):
    start = make_field()
    before = [p.detach().clone() for p in start.parameters()]
    reptile(start, tasks(keys), n_iter=1, n_inner=1, loss=LOSS, device="cpu")
    assert all(torch.equal(p, b) for p, b in zip(start.parameters(), before, strict=True))


def test_the_same_seed_gives_the_same_start(keys):
    def run(seed):
        rng = torch.Generator().manual_seed(seed)
        result = reptile(
            make_field, tasks(keys), n_iter=3, n_inner=2, loss=LOSS, generator=rng, device="cpu"
        )
        return result.field.volume(SHAPE).detach().numpy()

    np.testing.assert_array_equal(run(1), run(1))
    assert any((run(1) != run(seed)).any() for seed in (2, 3, 4))


def test_a_shared_decoder_saves_steps_on_another_scene(target):
    others = [record(0.0, seed) for seed in (11, 12)]
    decoder = shared_decoder(make_field, tasks(others), n_iter=60, loss=LOSS, device="cpu")
    assert decoder.n_steps == 120 and not decoder.has_seen(target.views)
    assert not any(p.requires_grad for p in decoder.field.network.parameters())
    common = dict(loss=LOSS, background=4.0, device="cpu")
    schedule = Stage(20, 0.12, betas=(0.5, 0.95))
    warm = fit(decoder, target.op, target.views, schedule=schedule, **common)
    colds = [
        fit(make_field(), target.op, target.views, schedule=Stage(20, rate, betas=(0.5, 0.95)),
            **common)
        for rate in (0.03, 0.06, 0.12)
    ]  # fmt: skip
    assert error(target, warm.volume) < min(error(target, cold.volume) for cold in colds)
    network = zip(decoder.field.network.parameters(), warm.field.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in network)


def test_the_decoder_is_shared_and_the_encoding_fresh(keys):
    scenes = []
    result = shared_decoder(
        make_field, tasks(keys), n_iter=2, loss=LOSS, freeze=False, device="cpu",
        callback=lambda n, value, fields: scenes.append(fields),
    )  # fmt: skip
    first, second = scenes[-1]
    assert first.network is second.network
    assert not torch.equal(first.encoding.tables[0], second.encoding.tables[0])
    assert torch.equal(result.field.encoding.tables[0], make_field().encoding.tables[0])
    assert all(p.requires_grad for p in result.field.network.parameters())


def test_a_fingerprint_tells_arrays_apart():
    a = np.arange(6.0)
    assert fingerprint(a) == fingerprint(torch.arange(6.0)) != fingerprint(a.reshape(2, 3))
    assert fingerprint(a) != fingerprint(a + 1e-3)


@pytest.mark.parametrize("learn", [reptile, shared_decoder])
def test_bad_tasks_are_refused_before_any_work(learn, keys):
    sim = keys[0]
    with pytest.raises(ValueError, match="no tasks"):
        learn(make_field, [])
    with pytest.raises(ValueError, match="task 0 is a int"):
        learn(make_field, [3])
    with pytest.raises(ValueError, match=r"task 0: data has shape \(6"):
        learn(make_field, [(sim.op, sim.views[:6], 4.0)])
    with pytest.raises(ValueError, match="task 1: .*NaN"):
        learn(make_field, [*tasks([sim]), (sim.op, sim.views * np.nan, 4.0)])
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        learn(make_field, [lambda field: field.volume(SHAPE).sum() * torch.inf], device="cpu")


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="epsilon 2"):
        reptile(voxels, [square([0.0, 1.0])], epsilon=2)
    with pytest.raises(ValueError, match="n_iter is 0"):
        shared_decoder(make_field, [square([0.0, 1.0])], n_iter=0)
    with pytest.raises(ValueError, match="no encoding"):
        shared_decoder(voxels, [square([0.0, 1.0])], n_iter=1)


def test_the_old_names_of_n_iter_work_with_a_warning():
    square_tasks = [square([0.0, 1.0])]
    with pytest.warns(DeprecationWarning, match="reptile: n_outer is now n_iter"):
        start = reptile(voxels, square_tasks, n_outer=2, n_inner=3, device="cpu")
    assert start.n_steps == 6 and start.settings["n_iter"] == 2
    with (
        pytest.warns(DeprecationWarning, match="shared_decoder: n_rounds is now n_iter"),
        pytest.raises(ValueError, match="n_iter is 0"),
    ):
        shared_decoder(make_field, square_tasks, n_rounds=0, device="cpu")
