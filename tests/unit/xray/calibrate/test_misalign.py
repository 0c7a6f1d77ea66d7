"""Training of the flow network: what it is taught, how it is judged, and that it learns."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.xray.calibrate import (
    Misalignments,
    SpatialCalibration,
    end_point_error,
    flow_to_transform,
    register,
    transform_to_flow,
)
from helpers.xray.calibrate.calibrator import flow_loss, train_calibrator
from helpers.xray.calibrate.misalign import misalign
from helpers.xray.cameras import Transform, coarsen
from helpers.xray.data import stack
from helpers.xray.flow import FlowConfig, FlowNet
from helpers.xray.flowfuse import FlowFuse, warp
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.train import Schedule

TURNED = Transform(0.04, 4.06, 3.95, -3.0, 5.0)
TINY = FlowConfig(8, 8, 8, 2, 2, 1, 2, affine=True)


def movies(seeds, shape=(64, 64), **options):
    return [simulate(Experiment(shape=shape, n_frames=11, **options), seed) for seed in seeds]


@pytest.fixture(scope="module")
def data():
    return Misalignments(movies(range(4)))


def fresh(seed=0, config=TINY):
    torch.manual_seed(seed)
    return FlowNet(config)


# What is taught


def test_the_flow_says_where_the_raw_frame_shows_a_place():
    flow, valid = transform_to_flow(TURNED, (16, 20))
    y, x = np.mgrid[:16, :20]
    raw = np.stack([x, y], -1) + np.moveaxis(flow, 0, -1)
    sharp = np.stack([x, y], -1) * 4 + 1.5
    np.testing.assert_allclose(TURNED(raw), sharp, atol=1e-4)
    inside = (raw > -0.5).all(-1) & (raw[..., 0] < 19.5) & (raw[..., 1] < 15.5)
    np.testing.assert_array_equal(valid, inside)


def test_a_frame_warped_by_the_true_flow_is_registered():
    """Flow, misalignment and `register` agree with each other and with the aligned camera."""
    movie = movies([5], (96, 96), lr_photons=1e9)[0]
    raw = misalign(movie.truth[3:4], TURNED)
    flow, valid = transform_to_flow(TURNED, (24, 24))
    warped = warp(torch.from_numpy(raw)[None], torch.from_numpy(flow)[None])[0, 0].numpy()
    aligned = coarsen(movie.truth[3])
    valid[:2] = valid[-2:] = valid[:, :2] = valid[:, -2:] = False
    before, after = (np.abs(a - aligned)[valid].mean() for a in (raw[0], warped))
    assert after < 0.3 * before
    calibration = SpatialCalibration(TURNED, np.eye(5), None, (96, 96), (24, 24), (1, 0))
    registered = register(raw[0], calibration)
    assert np.abs(registered - aligned)[valid].mean() < after


def test_without_a_transform_the_misaligned_camera_is_the_aligned_one():
    frames = movies([6])[0].truth[:2]
    np.testing.assert_allclose(misalign(frames, Transform()), coarsen(frames), atol=1e-6)


def test_drawn_transforms_stay_in_their_ranges(data):
    rng = np.random.default_rng(0)
    drawn = [data.transform(rng) for _ in range(400)]
    middle = [t([7.5, 7.5]) - 31.5 for t in drawn]
    for values, limit in (
        ([t.theta for t in drawn], 0.05),
        ([t.sx / 4 - 1 for t in drawn], 0.02),
        ([t.sy / 4 - 1 for t in drawn], 0.02),
        (np.ravel(middle), 8.0),
    ):
        assert np.abs(values).max() <= limit  # always: they are drawn inside
        assert np.abs(values).max() > 0.95 * limit
        assert abs(np.mean(values)) < 0.1 * limit


def test_a_sample_holds_no_target_among_its_inputs(data):
    """The sharp frame of the moment trains the flow; the evaluator gets its neighbours only."""
    for k in range(20):
        rng = np.random.default_rng(k)
        index = int(np.random.default_rng(k).integers(len(data)))
        number, t, before = data.pairs.places[index]
        sample, movie = data.draw(rng), data.pairs.movies[number]
        assert movie.key_times[before] < t < movie.key_times[before + 1]
        np.testing.assert_array_equal(sample.hr[:, 0], movie.hr[before : before + 2])
        away = [np.abs(sample.centre - hr).mean() for hr in sample.hr]
        assert min(away) > 0
        assert np.abs(sample.centre[0] - movie.truth[t]).mean() < 0.02


def test_samples_are_those_of_their_seed(data):
    one, two = (data.draw(np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


# Back from the flow to five numbers


def numbers(t):
    return np.array([t.theta, t.sx, t.sy, t.tx, t.ty])


@pytest.mark.parametrize("region", ["whole", "triangle"])
@pytest.mark.parametrize("gross", [0.0, 0.1])
def test_five_numbers_come_back_from_a_flow(region, gross):
    """Also from a triangle, where x and y go together, and with a tenth of gross errors."""
    flow, _ = transform_to_flow(TURNED, (24, 24))
    rng = np.random.default_rng(0)
    flow += rng.normal(0, 0.05, flow.shape)
    wrong = rng.random(flow.shape[1:]) < gross
    flow[:, wrong] += rng.uniform(-8, 8, (2, wrong.sum()))
    if region == "triangle":
        flow[:, np.add.outer(np.arange(24), np.arange(24)) > 23] = 1000  # led out of the frame
    found = flow_to_transform(flow)
    places = np.stack(np.meshgrid([0.0, 23.0], [0.0, 23.0]), -1)
    assert np.abs(found(places) - TURNED(places)).max() < 0.2


def test_a_flow_out_of_the_frame_is_refused():
    with pytest.raises(ValueError, match="share no field"):
        flow_to_transform(np.full((2, 8, 8), 100.0))
    with pytest.raises(ValueError, match=r"flow has shape \(8, 8\)"):
        flow_to_transform(np.zeros((8, 8)))


# The judges


def test_the_loss_of_a_sequence_counts_valid_places_and_late_flows_most():
    truth = torch.zeros(1, 2, 2, 2)
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0]])[None, None]
    flow = torch.ones(1, 2, 2, 2)
    flow[..., 1, 1] = 99.0
    assert float(flow_loss([flow, 2 * flow], truth, valid, 0.5)) == pytest.approx(2.5)
    assert float(flow_loss([flow], truth, 0 * valid)) == 0


def test_gradients_pass_through_the_frozen_evaluator(data):
    """Only the flow learns, and it does so from the fusion's error as well."""
    torch.manual_seed(0)
    evaluator = FlowFuse(FlowFuse.preset("small").config).train()
    before = {name: value.clone() for name, value in evaluator.state_dict().items()}
    net = fresh()
    batch = stack([data.draw(np.random.default_rng(0))])
    aligned = warp(batch.lr[:, :, 0], net(batch.lr[:, 1], batch.centre)[-1])[:, :, None]
    for parameter in evaluator.parameters():
        parameter.requires_grad_(False)
    nn.functional.mse_loss(evaluator(aligned, batch.hr, batch.tau), batch.centre).backward()
    assert net.correct[-1].weight.grad.abs().sum().log10() > -6
    assert all(p.grad is None for p in evaluator.parameters())
    evaluator.requires_grad_(True)

    judged = train_calibrator(net, evaluator, data, schedule=Schedule(2, batch=1), device="cpu")
    assert all(p.grad is None and p.requires_grad for p in evaluator.parameters())
    assert evaluator.training
    for name, value in evaluator.state_dict().items():
        assert torch.equal(value, before[name])
    assert judged.history.shape == (2, 2) and np.isfinite(judged.history).all()


def test_the_evaluator_changes_what_is_learned(data):
    torch.manual_seed(0)
    evaluator = FlowFuse.preset("small")
    options = {"schedule": Schedule(2, batch=1, warmup=1), "device": "cpu"}
    nets = [fresh() for _ in range(3)]
    train_calibrator(nets[0], None, data, **options)
    train_calibrator(nets[1], evaluator, data, weight=0.0, **options)
    train_calibrator(nets[2], evaluator, data, weight=100.0, **options)
    first, second, third = (net.correct[-1].weight for net in nets)
    torch.testing.assert_close(first, second)
    assert (first - third).abs().max().log10() > -6


# Learning


def test_it_learns_and_holds_on_movies_that_it_has_not_seen():
    """Thirty steps; the shipped network took hundreds."""
    torch.manual_seed(0)
    net = FlowNet.preset("small")
    schedule = Schedule(30, learning_rate=1e-3, warmup=8, batch=2, clip=1.0)
    unseen = Misalignments(movies([2040, 2041]))
    at_first = end_point_error(net, unseen, 8, device="cpu")
    training = train_calibrator(
        net, None, Misalignments(movies(range(8))), schedule=schedule, device="cpu"
    )
    losses = training.history[:, 0]
    assert losses[-8:].mean() / losses[:8].mean() < 0.9
    errors = end_point_error(net, unseen, 8, device="cpu")
    assert errors.mean() / at_first.mean() < 1
    assert np.isnan(training.history[:, 1]).all()


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not(tmp_path, data):
    path = tmp_path / "run.safetensors"
    schedule = Schedule(6, batch=1, save_every=2)
    whole = train_calibrator(fresh(), None, data, schedule=schedule, device="cpu")
    cut = train_calibrator(
        fresh(),
        None,
        data,
        schedule=schedule,
        checkpoint=path,
        device="cpu",
        callback=lambda step: step == 4,
    )
    assert cut.n_steps == 4 and cut.resumed == 0
    rest = train_calibrator(fresh(9), None, data, schedule=schedule, checkpoint=path, device="cpu")
    assert rest.resumed == 4 and rest.n_steps == 6
    np.testing.assert_array_equal(rest.history, whole.history)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, rest.net.state_dict()[name])
    with pytest.raises(ValueError, match="is of another run, with gamma 0.8, not 0.5"):
        train_calibrator(
            fresh(), None, data, schedule=schedule, checkpoint=path, gamma=0.5, device="cpu"
        )


def test_a_seed_is_a_run(data):
    options = {"schedule": Schedule(2, batch=1), "device": "cpu"}
    runs = [
        train_calibrator(
            fresh(), None, data, generator=torch.Generator().manual_seed(seed), **options
        ).history[:, 0]
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_another_precision_is_another_run(data, tmp_path):
    torch.manual_seed(0)
    evaluator, path = FlowFuse.preset("small"), tmp_path / "run.safetensors"
    options = {"schedule": Schedule(2, batch=1), "device": "cpu"}
    exact = train_calibrator(fresh(), evaluator, data, checkpoint=path, **options)
    fewer = {"precision": "bfloat16", **options}
    rounded = train_calibrator(fresh(), evaluator, data, **fewer)
    assert rounded.settings["precision"] == "bfloat16" and np.isfinite(rounded.history).all()
    assert not np.array_equal(exact.history, rounded.history)
    with pytest.raises(ValueError, match="is of another run"):
        train_calibrator(fresh(), evaluator, data, checkpoint=path, **fewer)
    with pytest.raises(ValueError, match="use 'float32' or 'bfloat16'"):
        train_calibrator(fresh(), None, data, precision="float16", **options)


def test_bad_settings_are_named(data):
    for options in ({"weight": -1.0}, {"gamma": 0.0}, {"gamma": 1.5}):
        with pytest.raises(ValueError, match="give 0 or more, and up to 1"):
            train_calibrator(fresh(), None, data, device="cpu", **options)
    net = fresh()
    with torch.no_grad():
        net.heat.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        train_calibrator(net, None, data, schedule=Schedule(2, batch=1), device="cpu")


@pytest.fixture(scope="module")
def shipped():
    from helpers.xray import load

    return load("calibrator", device="cpu")


def test_the_shipped_network_reaches_what_its_card_says(shipped):
    """Below one sharp pixel, on movies of seeds that it has not seen."""
    card = shipped.card
    validation = Misalignments(movies(range(1000, 1004), (96, 96)))
    assert end_point_error(shipped, validation, 12, device="cpu").mean() == pytest.approx(
        card["metric"]["epe"], abs=0.12
    )
    unseen = Misalignments(movies(range(2060, 2064), (96, 96)))
    errors = end_point_error(shipped, unseen, 16, device="cpu")
    assert errors.mean() < 0.6 and errors.max() < 1.5


def test_the_shipped_network_works_on_other_sizes(shipped):
    unseen = Misalignments(movies([2064], (128, 160)))
    assert end_point_error(shipped, unseen, 4, device="cpu").mean() < 1


def test_both_trainings_are_found_in_one_place():
    from helpers.xray import train

    assert train.train_calibrator is train_calibrator
