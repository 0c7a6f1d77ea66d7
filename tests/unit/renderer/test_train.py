"""Training: it goes on after a kill as if nothing had happened, and writes where it was told to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import helpers
from helpers import checkpoints
from helpers.noise import Poisson
from helpers.renderer.encoders import ConvEncoder, PerImage
from helpers.renderer.mappers import Direct, ImageMapper
from helpers.renderer.model import FitModel
from helpers.renderer.renderers import Gaussian2D, Passthrough
from helpers.renderer.train import OverBound, Trainer
from helpers.training import read_curves
from helpers.training.log import runs_folder

SHAPE = (11, 13)
SPOTS = Gaussian2D(SHAPE)
PACKAGE = Path(helpers.__file__).parent


def fresh(n, rng):
    """Images of spots, never the same twice."""
    x, y = rng.uniform(-2, 2, (2, n))
    params = {"x": x, "y": y, "photons": rng.uniform(500, 1500, n)}
    return rng.poisson(SPOTS.render(params)).astype(np.float32)


IMAGES = fresh(50, np.random.default_rng(0))


def model(seed=0, renderer=SPOTS, **settings):
    encoder = ConvEncoder(SHAPE, generator=torch.Generator().manual_seed(seed), **settings)
    return FitModel(encoder, Direct(), renderer, Poisson())


def trainer(folder, data=IMAGES, *, net=None, **settings):
    settings = {"n_steps": 30, "batch": 4, "save_every": 10, "name": "run"} | settings
    return Trainer(net or model(), data, folder=folder, device="cpu", **settings)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# A kill


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from tests.margins.seeds import follow
follow()
import test_train as t


def kill(step):
    if step == 14:  # between two checkpoints
        run.writer.flush()  # a part of what came after the first is in the event file
        os.kill(os.getpid(), signal.SIGKILL)


one = lambda model: {{"one": 1.0}}
run = t.trainer({folder!r}, t.fresh, callback=kill, metric=one, metric_every=7)
run.fit()
"""


def test_a_killed_process_goes_on_with_the_same_curve(tmp_path):
    """SIGKILL between two checkpoints; losses, weights and events are those of a whole run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = {"metric": lambda model: {"one": 1.0}, "metric_every": 7}
    try:
        whole = model()
        expected = trainer(tmp_path / "whole", fresh, net=whole, **settings).fit()
        code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
        child = subprocess.run([sys.executable, "-c", code], env=environment)
        assert child.returncode == -signal.SIGKILL
        rest = model(seed=1)  # its weights come from the file
        result = trainer(tmp_path / "killed", fresh, net=rest, **settings).fit()
    finally:
        torch.set_num_threads(threads)
    assert result.resumed == 10 and result.n_steps == 30
    np.testing.assert_array_equal(result.history, expected.history)
    assert same(rest, whole)
    first, second = read_curves(expected.folder), read_curves(result.folder)
    assert first.keys() == second.keys() == {"loss", "rate", "metric/one"}
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_array_equal(second["loss"][0], np.arange(1, 31))
    assert result.metrics["one"][0].tolist() == [7, 14, 21, 28, 30]


def test_an_interrupt_ends_after_the_step_and_can_go_on(tmp_path):
    def interrupt(step):
        if step == 13:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    first = trainer(tmp_path, callback=interrupt).fit()
    assert first.interrupted and first.n_steps == 13 and len(first.history) == 13
    assert signal.getsignal(signal.SIGINT) is before
    net = model(seed=2)
    second = trainer(tmp_path, net=net).fit()
    assert second.resumed == 13 and not second.interrupted
    whole = trainer(tmp_path, net=model(), name="whole").fit()
    np.testing.assert_array_equal(second.history, whole.history)


def test_a_finished_run_is_not_made_again(tmp_path):
    first = trainer(tmp_path).fit()
    net = model(seed=1)
    second = trainer(tmp_path, net=net).fit()
    assert second.resumed == second.n_steps == 30
    np.testing.assert_array_equal(first.history, second.history)
    with torch.no_grad():
        assert float(net.loss(torch.from_numpy(IMAGES))) < float(
            model().loss(torch.from_numpy(IMAGES))
        )


def test_checkpoints_of_another_model_or_run_are_refused(tmp_path):
    trainer(tmp_path).fit()
    with pytest.raises(ValueError, match=r"is for another model: model/encoder\.\S+ is"):
        trainer(tmp_path, net=model(width=12)).fit()
    with pytest.raises(ValueError, match="with another schedule: learning rate 0.00015, not"):
        trainer(tmp_path, learning_rate=0.1).fit()
    file = tmp_path / "run" / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        trainer(tmp_path).fit()


# What a training does


def test_images_alone_teach_how_many_photons_there_are(tmp_path):
    rng = np.random.default_rng(2000)
    truth = {"x": rng.uniform(-2, 2, 300), "photons": rng.uniform(500, 1500, 300)}
    images = rng.poisson(SPOTS.render(truth)).astype(np.float32)
    net = model()
    before = net.estimate(images)["photons"] - truth["photons"]
    run = trainer(tmp_path, fresh, net=net, n_steps=60, batch=32).fit()
    after = net.estimate(images)["photons"] - truth["photons"]
    assert run.history[-20:].mean() < run.history[:5].mean()
    assert np.sqrt(np.mean(after**2)) < 0.6 * np.sqrt(np.mean(before**2))


def test_numbers_of_each_image_are_an_ordinary_fit(tmp_path):
    truth = np.linspace(-1.5, 1.5, 10)
    images = SPOTS.render({"x": truth, "photons": 2000.0})
    guess = {"x": truth + 0.5, "photons": np.full(10, 1000.0)}
    net = FitModel(PerImage(SHAPE, 10, start=guess), Direct(), SPOTS, Poisson())
    np.testing.assert_allclose(net.estimate(images)["x"], truth + 0.5, atol=1e-5)
    trainer(tmp_path, images, net=net, n_steps=400, learning_rate=0.05, batch=10).fit()
    np.testing.assert_allclose(net.estimate(images)["x"], truth, atol=0.01)


def test_tiles_of_one_image_fill_the_field(tmp_path):
    truth = torch.from_numpy(np.random.default_rng(0).uniform(5, 20, (18, 21))).float()
    net = FitModel(PerImage((6, 6), field=(18, 21)), ImageMapper(), Passthrough((6, 6)), Poisson())

    def tiles(n, rng):
        corners = rng.integers((13, 16), size=(n, 2))
        cut = [truth[y : y + 6, x : x + 6] for y, x in corners]
        return torch.stack(cut), torch.from_numpy(corners)

    trainer(tmp_path, tiles, net=net, n_steps=250, learning_rate=0.2, batch=16, clip=10).fit()
    whole = net.mapper.maps[0].value(net.encoder.numbers[0, 0]).detach()
    assert (whole - truth).square().mean().sqrt() < 0.5


def test_a_frozen_renderer_stays_and_a_free_one_learns(tmp_path):
    from helpers.renderer.renderers import Template

    for frozen in (True, False):
        template = Template(SHAPE)
        before = template.raw.detach().clone()
        template.requires_grad_(not frozen)
        trainer(tmp_path / str(frozen), net=model(renderer=template), n_steps=5).fit()
        assert torch.equal(template.raw, before) is frozen


def test_the_same_seed_gives_the_same_run_and_leaves_the_global_stream_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    runs = [trainer(tmp_path / str(n), seed=s).fit() for n, s in enumerate((3, 3, 4))]
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(runs[0].history, runs[1].history)
    assert not np.array_equal(runs[0].history, runs[2].history)


def test_the_rate_rises_and_falls(tmp_path):
    rates = [
        trainer(tmp_path, n_steps=100, learning_rate=1.0, warmup=10).rate_at(n) for n in range(100)
    ]
    assert rates[0] == 0.1 and np.argmax(rates) == 9 and rates[-1] < 1e-3
    assert np.all(np.diff(rates[10:]) < 0)


# The record


def test_curves_and_pictures_are_in_the_event_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    bound = {"x": np.full(50, 0.1)}
    metric = OverBound(IMAGES, {"x": np.zeros(50)}, bound, ["x"])
    run = trainer(tmp_path, metric=metric, metric_every=10, show_every=15).fit()
    curves = read_curves(run.folder)
    np.testing.assert_allclose(curves["loss"][1], run.history, rtol=1e-6)
    np.testing.assert_allclose(curves["metric/x"], run.metrics["x"], rtol=1e-6)
    assert run.metrics["x"][0].tolist() == [10, 20, 30]
    events = EventAccumulator(str(run.folder)).Reload()
    (tag,) = events.Tags()["images"]
    pictures = events.Images(tag)
    assert [p.step for p in pictures] == [15, 30]
    assert (pictures[0].height, pictures[0].width) == (4 * SHAPE[0], 3 * SHAPE[1])
    state, card = checkpoints.load(run.folder / "checkpoint.safetensors")
    assert {"model", "optimizer", "generator", "history", "metrics", "identity"} <= state.keys()
    assert card["steps"] == 30 and card["metric"]["loss"] == run.history[-1]
    with pytest.raises(FileNotFoundError, match="has no event file"):
        read_curves(tmp_path)


def test_the_profiler_says_where_the_time_goes(tmp_path):
    run = trainer(tmp_path, profile=3).fit()
    assert "convolution" in run.profile and (run.folder / "trace.json").stat().st_size > 1000
    assert trainer(tmp_path, name="without").fit().profile == ""
    short = trainer(tmp_path, name="short", profile=9, n_steps=5).fit()
    assert "convolution" in short.profile


def test_metrics_are_over_the_bound():
    class Off:
        def estimate(self, images):
            return {"x": np.array([0.3, 0.3]), "y": np.array([1.0, -1.0])}

    truth = {"x": np.zeros(2), "y": np.zeros(2)}
    bound = {"x": np.array([0.1, 0.1]), "y": np.array([1.0, np.sqrt(7)])}
    over = OverBound(np.zeros((2, 3, 3)), truth, bound)
    assert over(Off()) == pytest.approx({"x": 3.0, "y": 0.5})
    with pytest.raises(ValueError, match="no truth or no bound for z"):
        OverBound(np.zeros((2, 3, 3)), truth, bound, ["x", "z"])


# Where it is written


def test_the_folder_is_the_argument_then_the_environment_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HELPERS_RUNS_DIR", raising=False)
    assert runs_folder() == tmp_path / "cache" / "runs"
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "environment"))
    assert runs_folder() == tmp_path / "environment"
    assert runs_folder(tmp_path / "argument") == tmp_path / "argument"
    run = trainer(None, n_steps=2, name=None).fit()
    assert run.folder.parent == tmp_path / "environment"
    assert {path.name.split(".")[0] for path in run.folder.iterdir()} == {"checkpoint", "events"}


def test_nothing_is_written_into_the_package(tmp_path, monkeypatch):
    before = set(PACKAGE.rglob("*"))
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path))
    trainer(None, n_steps=2, profile=1, show_every=1).fit()
    new = set(PACKAGE.rglob("*")) - before
    assert not [path for path in new if path.suffix != ".pyc" and path.name != "__pycache__"]
    for inside in (PACKAGE, PACKAGE / "renderer" / "runs"):
        with pytest.raises(ValueError, match="inside the package: give another folder"):
            trainer(inside)
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(PACKAGE / "runs"))
    with pytest.raises(ValueError, match="inside the package"):
        trainer(None)


class Explodes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def loss(self, images, index):
        return (self.weight / 0).sum()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: trainer(f, n_steps=0), ValueError, "n_steps is 0: give a whole number"),
        (lambda f: trainer(f, batch=2.5), ValueError, "batch is 2.5: give a whole number"),
        (
            lambda f: trainer(f, learning_rate=0),
            ValueError,
            "learning_rate=0.*must be positive",
        ),
        (lambda f: trainer(f, IMAGES[:0]), ValueError, "there are no images"),
        (lambda f: trainer(f, net=model().requires_grad_(False)), ValueError, "no parameter to"),
        (lambda f: trainer(f, IMAGES[:, :5]).fit(), ValueError, r"give \(B, 11, 13\)"),
        (lambda f: trainer(f, net=Explodes()).fit(), FloatingPointError, "loss of step 0 is inf"),
    ],
)
def test_bad_input_is_named(call, error, message, tmp_path):
    with pytest.raises(error, match=message):
        call(tmp_path)
