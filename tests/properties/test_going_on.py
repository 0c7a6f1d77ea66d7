"""One rule for every training and every fit: a run goes on as itself, or is refused."""

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr import fields
from helpers.inr.diffraction import Ptychography, fit_transmission
from helpers.inr.fit import Stage, fit
from helpers.inr.fit.losses import gaussian, poisson, total_variation
from helpers.inr.lightfield import LightField
from helpers.inr.meta import reptile, shared_decoder
from helpers.noise import Poisson, PoissonGauss
from helpers.renderer.denoise import BlindSpot
from helpers.renderer.denoise import train as train_denoiser
from helpers.renderer.encoders import ConvEncoder
from helpers.renderer.mappers import Direct
from helpers.renderer.model import FitModel
from helpers.renderer.renderers import Template
from helpers.renderer.train import Trainer
from helpers.training import Schedule
from helpers.xray.calibrate.misalign import Misaligned
from helpers.xray.data.samples import Sample
from helpers.xray.train import PoissonLR, train, train_calibrator

STEPS, SAVED = 9, 3  # of a run, and between two checkpoints


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- every training and fit: path, callback, steps, and a change -> losses, state ---------------


def psf(width=1.0):
    y, x = np.mgrid[-4:4, -4:4]
    spot = np.exp(-(y**2 + x**2) / 2 / width**2)
    return np.stack([[spot, np.roll(spot, 1, 0)], [spot, np.roll(spot, 1, 1)]]).astype("float32")


def field_fit(path, callback=None, n=STEPS, stages=None, width=1.0, **change):
    stages = stages or [Stage(n, 0.1, final_rate=1.0, views=1)]
    options = {
        "loss": partial(poisson, read_noise=1.0),
        "prior": lambda volume: 0.1 * total_variation(volume),
        "data": np.random.default_rng(0).poisson(9.0, (2, 8, 8)).astype(np.float32),
        "start": 1.0,
        "seed": 3,
    } | change
    found = fit(
        fields.Voxels((2, 8, 8), fields.Softplus(options["start"])),
        LightField(psf(width), (8, 8)),
        options["data"],
        loss=options["loss"],
        prior=options["prior"],
        schedule=stages,
        generator=seeded(options["seed"]),
        checkpoint=path,
        checkpoint_every=SAVED,
        callback=callback,
        device="cpu",
    )
    return found.history["objective"], found.field.state_dict(), found.interrupted


def longer_fit(path):
    """A stage more: what a stage does to its own rate depends on its length."""
    first, more = Stage(STEPS, 0.1, views=1), Stage(4, 0.01, views=2)
    field_fit(path, stages=[first])
    return field_fit(path, stages=[first, more]), field_fit(None, stages=[first, more])


def transmission(path, callback=None, n=STEPS, light=1.0, na=0.12, **change):
    """Bright fields in the first half of the iterations, dark ones too in the second."""
    leds = 0.05 * np.mgrid[-1:2, -1:2].reshape(2, -1).T * np.array([1, 2.6])
    images = light * (1 + 0.1 * np.random.default_rng(0).random((9, 16, 16)))
    found = fit_transmission(
        Ptychography(leds, (16, 16), wavelength=0.6, na=na, pixel_size=1.5),
        images * np.where(np.hypot(*leds.T) < 0.12, 1, 0.1)[:, None, None],
        n_iter=n,
        checkpoint=path,
        checkpoint_every=SAVED,
        callback=callback,
        device="cpu",
        **change,
    )
    state = {"volume": torch.from_numpy(found.volume)} | found.model.parameters()
    return found.history["objective"], state, found.interrupted


def square(goal):
    return lambda field: ((field.volume((1, 1, 2)) - goal) ** 2).sum()


def start_by_reptile(path, callback=None, n=STEPS, goals=(1.0, 3.0), **change):
    found = reptile(
        lambda: fields.Voxels((1, 1, 2), fields.Identity()),
        [square(goal) for goal in goals],
        n_iter=n // 3,
        n_inner=3,
        checkpoint=path,
        checkpoint_every=2,  # also within a round
        callback=callback,
        device="cpu",
        **{"generator": seeded(1)} | change,
    )
    return found.history["objective"], found.field.state_dict(), found.interrupted


def make_field(seed=0):
    grid = fields.FeatureGrid([(1, 2, 2)], 2, generator=seeded(seed))
    network = fields.MLP(2, 4, 1, generator=seeded(seed))
    return fields.Field(grid, network, fields.Softplus(1.0))


def start_by_decoder(path, callback=None, n=STEPS, goals=(1.0, 3.0, 2.0), **change):
    found = shared_decoder(
        make_field,
        [square(goal) for goal in goals],
        n_iter=n // 3,
        checkpoint=path,
        checkpoint_every=2,
        callback=callback,
        device="cpu",
        **change,
    )
    return found.history["objective"], found.field.network.state_dict(), found.interrupted


def steady(n, **options):
    return Schedule(n, warmup=2, decay=0.0, batch=2, save_every=SAVED, **options)


def samples(seed=0):
    rng = np.random.default_rng(seed)
    lr = rng.random((3, 3, 1, 8, 8), dtype=np.float32)
    hr = [np.kron(x[[0, 2]], np.ones((1, 1, 4, 4), np.float32)) for x in lr]
    return [Sample(x, y, np.float32(0.5), y.mean(0)) for x, y in zip(lr, hr, strict=True)]


class Small(torch.nn.Module):
    """Has all that a run must remember: weights, running means, and dice."""

    def __init__(self, channels, out, dice=0.3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(channels, 4, 3, padding=1),
                torch.nn.BatchNorm2d(4),
                torch.nn.Dropout(dice),
                torch.nn.Conv2d(4, out, 1),
            )


class Fusion(Small):
    def forward(self, lr, hr, tau):
        return hr[:, 0] + self.layers(hr[:, :, 0])


class Flow(Small):
    def forward(self, frame, centre):
        return [0 * self.layers(frame), self.layers(frame)]


def fusion(path, callback=None, n=STEPS, data=0, clip=0.5, low=20.0, **change):
    found = train(
        Fusion(2, 1),
        samples(data),
        schedule=steady(n, patch=16, clip=clip),
        noise=PoissonLR(low, 200.0),
        checkpoint=path,
        callback=callback,
        device="cpu",
        **{"generator": seeded(1)} | change,
    )
    return found.history, found.net.state_dict(), found.interrupted


class Shifts:
    """Cameras that are out of line by some pixels."""

    def __init__(self, most=2.0):
        self.most = most

    def draw(self, rng):
        sample = samples(int(rng.integers(5)))[0]
        flow = np.full((2, 8, 8), rng.uniform(0, self.most), np.float32)
        centre = sample.hr.mean(0)
        return Misaligned(sample.lr, sample.hr, centre, 0.5, flow, np.ones((1, 8, 8)))


def calibrator(path, callback=None, n=STEPS, most=2.0, evaluator=None, **change):
    net = Flow(1, 2, dice=0.0)
    options = {"schedule": steady(n), "device": "cpu", "generator": seeded(1)} | change
    found = train_calibrator(
        net, evaluator or Fusion(2, 1), Shifts(most), checkpoint=path, callback=callback, **options
    )
    return found.history, found.net.state_dict(), found.interrupted


def spots(path, callback=None, n=STEPS, noise=None, halo=0.0, images=0, **change):
    template = Template((7, 7)).requires_grad_(False)
    template.raw += halo
    net = FitModel(ConvEncoder((7, 7), generator=seeded()), Direct(), template, noise or Poisson())
    data = np.random.default_rng(images).poisson(5.0, (20, 7, 7)).astype(np.float32)
    options = {"batch": 4, "decay": 0.0, "save_every": SAVED, "device": "cpu"} | change
    if path:
        options |= {"folder": path.parent, "name": path.name}
    found = Trainer(net, data, n_steps=n, callback=callback, **options).fit()
    return found.history, net.state_dict(), found.interrupted


def denoiser(path, callback=None, n=STEPS, line=(1.0, 0.5), patch=12, **change):
    net = BlindSpot(4, 1, centre=5.0, noise=line, generator=seeded())
    images = np.random.default_rng(0).poisson(5.0, (2, 16, 16)).astype(np.float32)
    options = {"decay": 0.0, "save_every": SAVED, "device": "cpu"} | change
    if path:
        options |= {"folder": path.parent, "name": path.name}
    found = train_denoiser(net, images, n_steps=n, patch=patch, callback=callback, **options)
    return found.history, net.state_dict(), found.interrupted


RUNS = {
    "fit": field_fit,
    "transmission": transmission,
    "reptile": start_by_reptile,
    "shared_decoder": start_by_decoder,
    "fusion": fusion,
    "calibrator": calibrator,
    "renderer": spots,
    "denoiser": denoiser,
}
every = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))


class Killed(BaseException):
    """Nothing in the house catches it, so a step ends there as it does at a power cut."""


def kill_at(step):
    def callback(made):
        if made == step:
            raise Killed

    return callback


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])


# ---- the rule -----------------------------------------------------------------------------------


@every
def test_a_killed_run_goes_on_bit_for_bit(run, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, kill_at(6))
    made = []
    found = run(path, made.append)
    assert made[0] in (4, 5, 6, 7) and made[-1] == STEPS
    assert_same(found, run(None))


@every
def test_more_steps_go_on_where_the_past_is_the_same(run, tmp_path):
    if run in (transmission, start_by_reptile, start_by_decoder):
        run(tmp_path / "run")
        changed = "(defocus|epsilon|learning rate)"
        with pytest.raises(ValueError, match=f"another schedule: {changed} .*, not"):
            run(tmp_path / "run", n=STEPS + 3)
        return
    if run is field_fit:
        found, expected = longer_fit(tmp_path / "run")
    else:
        run(tmp_path / "run")
        made = []
        found, expected = run(tmp_path / "run", made.append, n=STEPS + 4), run(None, n=STEPS + 4)
        assert made == list(range(STEPS + 1, STEPS + 5))
    assert_same(found, expected)
    with pytest.raises(ValueError, match=rf"{STEPS + 4} steps made, not {STEPS}: choose another"):
        run(tmp_path / "run")


@pytest.mark.parametrize(
    ("run", "change", "told"),
    [
        (field_fit, {"data": np.full((2, 8, 8), 9.0)}, "data"),
        (field_fit, {"width": 1.2}, "operator LightField #"),
        (field_fit, {"loss": gaussian}, r"loss poisson\(read_noise=1.0\) #.*, not gaussian"),
        (field_fit, {"loss": partial(poisson, read_noise=2.0)}, r"loss .*, not poisson\(read_noi"),
        (field_fit, {"prior": lambda v: 0.2 * total_variation(v)}, "prior <lambda> #"),
        (field_fit, {"prior": None}, "prior .*, not None"),
        (field_fit, {"start": 2.0}, "start"),
        (field_fit, {"seed": 4}, "seed 3, not 4"),
        (field_fit, {"stages": [Stage(STEPS, 0.2)]}, "schedule: learning rate 0.1, not 0.2, at st"),
        (
            field_fit,
            {"stages": [Stage(STEPS, 0.1, final_rate=1.0)]},
            "views 1, not None, at step 1",
        ),
        (transmission, {"light": 1.1}, "data"),
        (transmission, {"na": 0.13}, "model Ptychography #"),
        (transmission, {"n": 2}, "3 steps made, not 2"),
        (start_by_reptile, {"goals": (1.0, 4.0)}, "tasks"),
        (start_by_reptile, {"epsilon": 0.5}, "epsilon 1.0, not 0.5, at step 1"),
        (start_by_reptile, {"generator": seeded(2)}, "seed 1, not 2"),
        (start_by_decoder, {"goals": (1.0, 3.0, 4.0)}, "tasks"),
        (start_by_decoder, {"learning_rate": 0.01}, "learning rate 0.03, not 0.01"),
        (fusion, {"data": 1}, "data"),
        (fusion, {"clip": 0.25}, "clip 0.5, not 0.25"),
        (fusion, {"low": 30.0}, "noise PoissonLR #"),
        (fusion, {"loss": torch.nn.functional.mse_loss}, "loss charbonnier #.*, not mse_loss #"),
        (fusion, {"generator": seeded(2)}, "seed 1, not 2"),
        (calibrator, {"gamma": 0.5}, "gamma 0.8, not 0.5"),
        (calibrator, {"weight": 1.0}, "weight 10.0, not 1.0"),
        (calibrator, {"most": 3.0}, "data Shifts #"),
        (calibrator, {"evaluator": Fusion(2, 1, dice=0.2)}, "evaluator Fusion #"),
        (spots, {"images": 1}, "data"),
        (spots, {"noise": PoissonGauss(1.0)}, "model FitModel #"),
        (spots, {"halo": 0.1}, "model FitModel #"),
        (spots, {"batch": 5}, "batch 4, not 5"),
        (spots, {"learning_rate": 0.1}, "learning rate 0.00015, not 0.005, at step 1"),
        (denoiser, {"line": (1.0, 0.6)}, "model BlindSpot #"),
        (denoiser, {"patch": 14}, "data draw #"),
    ],
)
def test_another_setting_is_refused_and_named(run, change, told, tmp_path):
    run(tmp_path / "run", n=3)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    with pytest.raises(ValueError, match=f"is of another run, with .*{told}.*: choose another"):
        run(tmp_path / "run", **({"n": 3} if "stages" not in change else {}) | change)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}


@every
def test_a_path_that_cannot_be_written_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    made = []
    with pytest.raises(OSError, match="checkpoint .* cannot be written .*: choose another place"):
        run(tmp_path / "file" / "run", made.append)
    assert not made


@every
def test_ctrl_c_ends_after_the_step_and_goes_on(run, tmp_path):
    def interrupt(made):
        if made == 6:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    history, _, interrupted = run(tmp_path / "run", interrupt)
    assert interrupted and len(history) == 6
    assert signal.getsignal(signal.SIGINT) is before
    found = run(tmp_path / "run")
    assert not found[2]
    assert_same(found, run(None))
