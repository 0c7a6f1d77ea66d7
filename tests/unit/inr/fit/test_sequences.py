"""Sequences: starts that save steps, frames at once, photometry, resuming, and what is refused."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr import fields, phantoms
from helpers.inr.fit import Stage, fit, fit_sequence, losses
from helpers.inr.fit.spacetime import Frames, LowRank, space_time_hessian
from helpers.metrics import psnr

SHAPE = (8, 24, 24)
LOSS = partial(losses.poisson, read_noise=1.5)
SCHEDULE = Stage(80, 0.6, betas=(0.5, 0.95))


def film(times, seed=1, **settings):
    return [phantoms.simulate(seed=seed, t=t, shape=SHAPE, n_tubes=3, **settings) for t in times]


def views(sims):
    return np.stack([sim.views for sim in sims])


def voxels(mean=5.0):
    return fields.Voxels(SHAPE, fields.Softplus(mean, 10 * mean))


def grid():
    rng = torch.Generator().manual_seed(0)
    table = fields.FeatureGrid(fields.pyramid(SHAPE, 2), 4, generator=rng)
    return fields.Field(table, fields.MLP(8, 8, 2, generator=rng), fields.Softplus(5.0, 50.0))


def prior(volume):
    return 2e-3 * losses.hessian(volume, weights=(0.64, 1, 1))


COMMON = dict(loss=LOSS, prior=prior, background=4.0, schedule=SCHEDULE, device="cpu")


@pytest.fixture(scope="module")
def slow():
    return film((0.0, 0.1, 0.2))


@pytest.fixture(scope="module")
def chain(slow):
    return fit_sequence(voxels(), slow[0].op, views(slow), **COMMON)


def quality(result, sims):
    pairs = zip(result.volumes, sims, strict=True)
    return np.array([psnr(volume, sim.truth, scaled=True) for volume, sim in pairs])


def test_a_chain_is_as_good_as_scratch_in_half_of_the_steps(chain, slow):
    scratch = fit_sequence(voxels(), slow[2].op, views(slow[2:]), "scratch", **COMMON)
    assert scratch.n_steps == [80] and (chain.n_steps[1:] <= 40).all()
    assert quality(chain, slow)[2] > quality(scratch, slow[2:]) - 0.1
    assert chain.reached.all() and chain.n_steps[0] == 80


def test_a_frame_stops_by_its_own_misfit(chain, slow):
    level = chain.misfit[0]
    for number, sim in enumerate(slow):
        prediction = torch.as_tensor(sim.op(chain.volumes[number]) + 4.0)
        by_hand = float(LOSS(prediction, torch.as_tensor(sim.views))) / sim.views.size
        assert chain.misfit[number] == pytest.approx(by_hand, rel=1e-5)
    near = 1 + 0.01 + 3 * np.sqrt(2 * 2 / slow[0].views.size)  # two frames of noisy pixels
    assert chain.reached.tolist() == (chain.misfit <= near * level).tolist()
    moved = film((0.0, 1.0))
    far = fit_sequence(chain.fits[0], moved[0].op, views(moved), **COMMON)
    assert far.n_steps[1] > chain.n_steps[1:].max()


def test_a_start_helps_by_what_it_knows_of_the_scene(slow):
    """Negative control: a field that was fitted to another scene saves no steps."""
    before, frame = slow[:2]
    known = dict(loss=LOSS, prior=prior, background=4.0, device="cpu")
    long, short = (Stage(n, 3e-2, betas=(0.5, 0.95)) for n in (80, 20))
    starts = {"scratch": grid()}
    for name, sim in {"same scene": before, "wrong scene": film((0.0,), seed=5)[0]}.items():
        starts[name] = fit(grid(), sim.op, sim.views, schedule=long, **known)
    error = {}
    for name, start in starts.items():
        result = fit(start, frame.op, frame.views, schedule=short, **known)
        error[name] = np.linalg.norm(frame.op(result.volume) + 4.0 - frame.expected)
    assert np.log2(error["wrong scene"] / error["same scene"]) > 1
    assert np.log2(error["scratch"] / error["same scene"]) > 1


def test_bleaching_keeps_its_photometry():
    sims = film((0.0, 0.5), bleaching=np.log(2) / 0.5)
    result = fit_sequence(voxels(), sims[0].op, views(sims), **COMMON)
    fitted = result.volumes.sum((1, 2, 3))
    true = np.array([sim.truth.sum() for sim in sims])
    assert true[1] < 0.6 * true[0]  # a half, but for what drifts in and out
    np.testing.assert_allclose(fitted[1] / fitted[0], true[1] / true[0], atol=0.03)


def test_later_frames_leave_the_network_alone(slow):
    settings = COMMON | {"schedule": Stage(20, 3e-2), "rounds": 1}
    for fixed in (True, False):
        result = fit_sequence(grid(), slow[0].op, views(slow[:2]), fix_network=fixed, **settings)
        before, after = (f.field.network.state_dict() for f in result.fits)
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert same is fixed
        tables = [f.field.encoding.tables[0] for f in result.fits]
        assert not torch.equal(*tables)


def test_a_coordinate_network_is_never_fixed(slow):
    """Its encoding has no parameters: nothing would be left to fit."""
    encoding = fields.PositionalEncoding(2)
    rng = torch.Generator().manual_seed(0)
    network = fields.MLP(encoding.out_features, 8, 2, generator=rng)
    start = fields.Field(encoding, network, fields.Softplus(5.0, 50.0))
    settings = COMMON | {"schedule": Stage(3, 1e-2), "rounds": 1}
    result = fit_sequence(start, slow[0].op, views(slow[:2]), **settings)
    assert (result.volumes[0] != result.volumes[1]).any()


def test_meta_starts_every_frame_at_the_same_place(slow):
    settings = COMMON | {"schedule": Stage(5, 0.6), "rounds": 1}
    same = np.stack([slow[0].views] + 2 * [slow[1].views])
    meta = fit_sequence(voxels(), slow[0].op, same, "meta", **settings)
    np.testing.assert_array_equal(meta.volumes[1], meta.volumes[2])
    previous = fit_sequence(voxels(), slow[0].op, same, "previous", **settings)
    assert (previous.volumes[1] != previous.volumes[2]).any()


def test_together_beats_frame_by_frame_on_fast_motion():
    sims = film(0.5 * np.arange(3))

    def together(volumes):
        return 2e-3 * space_time_hessian(volumes, weights=(1, 0.64, 1, 1))

    chain = fit_sequence(voxels(), sims[0].op, views(sims), **COMMON)
    joint = fit_sequence(
        voxels(), sims[0].op, views(sims), "joint",
        **COMMON | {"prior": together, "schedule": Stage(120, 0.6, betas=(0.5, 0.95))},
    )  # fmt: skip
    assert quality(joint, sims).mean() > quality(chain, sims).mean()
    assert joint.volumes.shape == chain.volumes.shape and (joint.n_steps == 120).all()
    seen = joint.fits[2].field.volume(SHAPE).detach().numpy()
    np.testing.assert_allclose(seen, joint.volumes[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "window"), [(1, 4), (4, 4), (5, 4), (9, 4), (7, 1), (11, 8)])
def test_windows_give_every_frame_once(slow, n, window):
    data = np.stack([slow[k % 3].views for k in range(n)])
    settings = COMMON | {"schedule": Stage(1, 0.1), "prior": None}
    result = fit_sequence(voxels(), slow[0].op, data, "joint", window=window, **settings)
    assert len(result.volumes) == n and result.volumes.shape[1:] == SHAPE


def test_low_rank_is_its_equation():
    start = fields.Voxels((2, 3, 3), fields.Identity())
    field = LowRank(start, n_frames=4, rank=3)
    rng = torch.Generator().manual_seed(0)
    for part in field.parts:
        part.values.data = torch.randn(part.values.shape, generator=rng)
    expected = torch.einsum(
        "tr,rzyx->tzyx", field.weights, torch.stack([part.values for part in field.parts])
    )
    torch.testing.assert_close(field.volume((2, 3, 3)), expected)
    torch.testing.assert_close(field.frame(2).volume((2, 3, 3)), expected[2])
    assert np.linalg.matrix_rank(expected.detach().reshape(4, -1).numpy()) == 3
    roi = (0, 1, 1, 2, 2, 2)
    torch.testing.assert_close(field.volume((2, 3, 3), roi), expected[:, :, 1:, 1:])


def test_the_prior_in_time_prefers_motion_to_flicker():
    x = torch.arange(12.0) - 2 * torch.arange(6.0)[:, None]
    moving = torch.sigmoid(x)[:, None, None].expand(6, 4, 12, 12)
    still = moving[2:3].expand(6, 4, 12, 12)
    shuffled = moving[[3, 0, 4, 1, 5, 2]]
    cost = {n: float(space_time_hessian(v)) for n, v in
            {"still": still, "moving": moving, "shuffled": shuffled}.items()}  # fmt: skip
    assert cost["still"] < cost["moving"] < cost["shuffled"]
    alone = sum(float(losses.hessian(frame)) for frame in still)
    assert cost["still"] == pytest.approx(alone, rel=1e-4)
    torch.testing.assert_close(
        space_time_hessian(moving, weights=(0.0, 1, 1, 1)), losses.hessian(moving)
    )


def test_the_operator_of_some_frames_is_that_of_each(slow):
    op = slow[0].op
    volumes = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(0))
    together = Frames(op, 3)(volumes)
    torch.testing.assert_close(together[1], op(volumes[1]))
    assert Frames(op, 3).out_shape == (3, *op.out_shape)


def test_an_interrupted_sequence_goes_on_bit_for_bit(slow, chain, tmp_path):
    stopped = fit_sequence(
        voxels(), slow[0].op, views(slow), checkpoint=tmp_path,
        callback=lambda number, fitted: number == 1, **COMMON,
    )  # fmt: skip
    assert len(stopped.volumes) == 2
    went_on = []
    result = fit_sequence(
        voxels(), slow[0].op, views(slow), checkpoint=tmp_path,
        callback=lambda number, fitted: went_on.append(number), **COMMON,
    )  # fmt: skip
    assert went_on == [0, 1, 2]
    np.testing.assert_array_equal(result.volumes, chain.volumes)
    np.testing.assert_array_equal(result.n_steps, chain.n_steps)
    with pytest.raises(ValueError, match="another sequence"):
        fit_sequence(voxels(), slow[0].op, views(slow) + 1, checkpoint=tmp_path, **COMMON)


def test_torch_in_torch_out_and_one_background_for_each_frame(slow):
    settings = COMMON | {"schedule": Stage(2, 0.1), "rounds": 1}
    frames = torch.as_tensor(views(slow[:2]))
    result = fit_sequence(voxels(), slow[0].op, frames, **settings)
    assert isinstance(result.volumes, torch.Tensor)
    apart = torch.tensor([4.0, 4.0]).reshape(2, 1, 1, 1)
    again = fit_sequence(voxels(), slow[0].op, frames, **settings | {"background": apart})
    torch.testing.assert_close(again.volumes, result.volumes, rtol=0, atol=0)


def test_bad_sequences_are_refused_before_any_work(slow):
    good, op = views(slow), slow[0].op
    broken = good.copy()
    broken[1, 0, 0, 0] = np.nan
    cases = {
        "the sequence is empty": (good[:0], {}),
        "frame 1: data has NaN": (broken, {}),
        r"frame 0: data has shape \(6": (good[:, :6], {}),
        "different shapes": ([good[0], good[1][:, 1:]], {}),
        "init is 'last'": (good, {"init": "last"}),
        "rounds is 0": (good, {"rounds": 0}),
        "the background is": (good, {"background": np.zeros((5, 1, 1, 1))}),
        "rank is 9 for": (good, {"init": "joint", "rank": 9, "window": 9}),
    }
    for message, (frames, settings) in cases.items():
        if message.startswith("rank"):
            with pytest.raises(ValueError, match=message):
                LowRank(voxels(), 3, 9)
            continue
        with pytest.raises(ValueError, match=message):
            fit_sequence(voxels(), op, frames, **COMMON | settings)


def test_a_flash_costs_its_second_differences_in_time():
    flash = torch.tensor([0.0, 0, 1, 0, 0, 0])[:, None, None, None].expand(6, 2, 3, 3)
    cost = float(space_time_hessian(flash, weights=(2.0, 1, 1, 1), smooth=0))
    assert cost == pytest.approx(2 * 3 * 3 * 2.0**2 * (1 + 2 + 1))


def test_going_on_from_a_fit_leaves_its_moments_as_they_were(slow):
    settings = {key: COMMON[key] for key in ("loss", "background", "device")}
    first = fit(voxels(), slow[0].op, slow[0].views, schedule=Stage(3, 0.1), **settings)
    before = first.moments["state"][0]["exp_avg"].clone()
    fit(first, slow[1].op, slow[1].views, schedule=Stage(3, 0.1), **settings)
    assert torch.equal(first.moments["state"][0]["exp_avg"], before)
