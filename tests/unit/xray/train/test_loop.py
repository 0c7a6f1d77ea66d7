"""Training: the recipe step by step, on again after a kill, and on two processes."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers import checkpoints
from helpers.xray.data.samples import Sample
from helpers.xray.flowfuse import FlowFuse, FlowFuseConfig
from helpers.xray.train import PoissonLR, Schedule, train
from helpers.xray.train import loop as module
from helpers.xray.train.loop import draw
from helpers.xray.train.losses import charbonnier

TINY = FlowFuseConfig(8, 8, 1, 8, 1)
SHORT = Schedule(12, warmup=3, batch=4, patch=16, save_every=5)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def samples(n=6, side=8, seed=0):
    """Random walks of a smooth pattern: enough to have a gradient."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        lr = rng.random((3, 1, side, side), dtype=np.float32)
        hr = np.kron(lr[[0, 2]], np.ones((1, 1, 4, 4), np.float32))
        made.append(Sample(lr, hr, np.float32(rng.random()), hr.mean(0)))
    return made


class Dropping(nn.Module):
    """Has all that a run must remember: weights, running means, and dice."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(2, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.Dropout(0.3),
                nn.Conv2d(8, 1, 1),
            )

    def forward(self, lr, hr, tau):
        return hr[:, 0] + self.layers(hr[:, :, 0]) * tau.view(-1, 1, 1, 1)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_loss_falls_and_the_mean_network_is_ready():
    data = samples()
    result = train(
        FlowFuse(TINY, generator=seeded()),
        data,
        schedule=Schedule(60, learning_rate=5e-3, warmup=5, patch=16, ema=0.9),
        device="cpu",
    )
    assert result.n_steps == 60 == len(result.history) and result.resumed == 0
    assert result.history[-10:].mean() < 0.8 * result.history[:10].mean()
    assert not result.net.training
    assert not any(p.requires_grad for p in result.net.parameters())


def test_every_step_is_the_recipe():
    """Adam, its rate, the clipped gradient and the running mean, written out once more."""
    data, schedule = samples(), replace(SHORT, clip=0.01)  # most gradients are longer
    net = FlowFuse(TINY, generator=seeded())
    result = train(net, data, schedule=schedule, generator=seeded(5), device="cpu")
    again = FlowFuse(TINY, generator=seeded())
    mean = [p.detach().clone() for p in again.parameters()]
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in mean]
    for step in range(schedule.n_steps):
        batch = draw(data, schedule, seeded(5).initial_seed(), step)
        loss = charbonnier(again(batch.lr, batch.hr, batch.tau), batch.target)
        gradients = torch.autograd.grad(loss, list(again.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        shrink = min(1, schedule.clip / (norm + 1e-6))
        memory = min(schedule.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for p, m, (first, second), g in zip(
                again.parameters(), mean, moments, gradients, strict=True
            ):
                first.lerp_(g * shrink, 0.1)
                second.lerp_((g * shrink) ** 2, 0.001)
                a, b = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
                p -= schedule.rate_at(step) * a / (b.sqrt() + 1e-8)
                m.lerp_(p, 1 - memory)
        assert result.history[step] == pytest.approx(loss.item(), rel=2e-3)
    for ours, theirs in zip(mean, result.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-3)


def test_the_rate_rises_stays_and_falls():
    schedule = Schedule(100, learning_rate=2.0, warmup=10, decay=0.5)
    rates = [schedule.rate_at(n) for n in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 5)
    assert rates[10:51] == [2.0] * 41
    assert rates[75] == pytest.approx(1.0) and 0 < rates[99] < 0.01
    steady = Schedule(100, learning_rate=2.0, warmup=10, decay=0.0)
    assert [steady.rate_at(n) for n in range(10, 100)] == [2.0] * 90


class Killed(Exception):
    pass


@pytest.mark.parametrize("make", [lambda: FlowFuse(TINY, generator=seeded()), Dropping])
@pytest.mark.parametrize("at", [5, 8])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, make, at):
    data, path = samples(), tmp_path / "run.safetensors"
    setting = {
        "schedule": SHORT,
        "noise": PoissonLR(100, 1000),
        "generator": seeded(7),
        "device": "cpu",
    }
    whole = train(make(), data, **setting)

    def kill(step):
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        train(make(), data, checkpoint=path, callback=kill, **setting)
    torch.manual_seed(99)  # another world
    rest = train(make(), data, checkpoint=path, **setting)
    assert rest.resumed == {5: 0, 8: 5}[at]  # killed before, or after, the first was written
    np.testing.assert_array_equal(rest.history, whole.history)
    assert same(weights(rest.net), weights(whole.net))
    done = train(make(), data, checkpoint=path, **setting)
    assert done.resumed == 12 and same(weights(done.net), weights(whole.net))


def test_a_run_may_become_longer_while_its_rate_is_the_same(tmp_path):
    data, path = samples(), tmp_path / "run.safetensors"
    net = FlowFuse(TINY, generator=seeded())
    steady = Schedule(4, warmup=2, decay=0.0, patch=16)
    train(net, data, schedule=steady, checkpoint=path, device="cpu")
    longer = Schedule(8, warmup=2, decay=0.5, patch=16)
    net = FlowFuse(TINY, generator=seeded())
    rest = train(net, data, schedule=longer, checkpoint=path, device="cpu")
    assert rest.resumed == 4
    whole = train(FlowFuse(TINY, generator=seeded()), data, schedule=longer, device="cpu")
    np.testing.assert_array_equal(rest.history, whole.history)


def test_a_callback_ends_the_run_and_torch_is_left_alone(tmp_path):
    torch.manual_seed(3)
    before, path = torch.random.get_rng_state(), tmp_path / "run.safetensors"
    result = train(
        Dropping(),
        samples(),
        schedule=SHORT,
        checkpoint=path,
        device="cpu",
        callback=lambda step: step == 2,
    )
    assert result.n_steps == 2 and path.exists()
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_batch_is_drawn_from_seed_and_step_alone():
    data, noise = samples(), PoissonLR()
    batch = draw(data, SHORT, 1, 2, noise)
    for other in ((1, 3), (2, 2)):
        assert not torch.equal(batch.lr, draw(data, SHORT, *other, noise).lr)
    parts = [draw(data, SHORT, 1, 2, noise, slice(k, k + 2)) for k in (0, 2)]
    for whole, *halves in zip(batch, *parts, strict=True):
        assert torch.equal(whole, torch.cat(halves))


def test_noise_falls_on_the_coarse_frames_only():
    data = samples()
    clean, noisy = (draw(data, SHORT, 1, 2, noise) for noise in (None, PoissonLR(50, 50)))
    assert torch.equal(clean.hr, noisy.hr) and torch.equal(clean.target, noisy.target)
    assert (clean.lr - noisy.lr).std() > 0.05


def test_all_samples_are_drawn():
    data = [s._replace(tau=np.float32(k / 10)) for k, s in enumerate(samples())]
    seen = {round(10 * t) for n in range(60) for t in draw(data, SHORT, 0, n).tau.tolist()}
    assert seen == {*range(6)} | {10 - k for k in range(6)}


TORCHRUN = """
import json, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tests.margins.seeds import follow
follow()
from test_loop import TINY, SHORT, samples, seeded, FlowFuse, PoissonLR, train
import os
out = train(FlowFuse(TINY, generator=seeded()), samples(), schedule=SHORT, noise=PoissonLR(),
            checkpoint={checkpoint!r}, generator=seeded(4), device="cpu")
rank = int(os.environ["RANK"])
numbers = torch.cat([p.flatten() for p in out.net.parameters()]).tolist()
json.dump([out.history.tolist(), numbers], open({out!r} + str(rank), "w"))
"""


def test_two_processes_give_what_one_gives(tmp_path):
    script = tmp_path / "run.py"
    tests, out = os.path.dirname(__file__), str(tmp_path / "out")
    checkpoint = str(tmp_path / "two.safetensors")
    script.write_text(TORCHRUN.format(tests=tests, out=out, checkpoint=checkpoint))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*command, "--nproc-per-node=2", str(script)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (history, numbers), other = (json.load(open(out + rank)) for rank in "01")
    assert [history, numbers] == other  # the ranks agree to the last bit
    alone = train(
        FlowFuse(TINY, generator=seeded()),
        samples(),
        schedule=SHORT,
        noise=PoissonLR(),
        generator=seeded(4),
        device="cpu",
    )
    np.testing.assert_allclose(history, alone.history, rtol=1e-4)
    ours = torch.cat([p.flatten() for p in alone.net.parameters()])
    start = FlowFuse(TINY, generator=seeded())
    moved = ours - torch.cat([p.detach().flatten() for p in start.parameters()])
    assert float((torch.tensor(numbers) - ours).norm()) < 0.02 * float(moved.norm())
    state, card = checkpoints.load(checkpoint)
    assert card["steps"] == 12 and state["history"].tolist() == history


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, lr, hr, tau):
        return hr[:, 0] * self.weight * float("nan")


def run(net=None, data=None, **options):
    options = {"schedule": SHORT, "device": "cpu"} | options
    return train(net or FlowFuse(TINY, generator=seeded()), data or samples(), **options)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        run(Broken(), checkpoint=path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": seeded(1)}, r"with seed \d+, not \d+: choose another name"),
        ({"data": samples(5)}, "with n_samples 6, not 5"),
        ({"schedule": Schedule(12, warmup=3, patch=16, batch=2)}, "with batch 4, not 2"),
        (
            {"schedule": Schedule(12, learning_rate=1e-4, warmup=3, patch=16)},
            "another schedule: lea",
        ),
        ({"schedule": Schedule(3, warmup=3, patch=16)}, "12 steps made, not 3"),
        ({"net": FlowFuse(FlowFuseConfig(16, 8, 1, 8, 1))}, "is for another model"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path)
    with pytest.raises(ValueError, match=message):
        run(checkpoint=path, **change)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train(FlowFuse(TINY), [], device="cpu"), "there are no data"),
        (lambda: run(nn.Identity()), "has no parameter to train"),
        (lambda: Schedule(0), "n_steps is 0: give a whole number"),
        (lambda: Schedule(batch=2.5), "batch is 2.5"),
        (lambda: Schedule(learning_rate=-1), "learning_rate and clip must be positive"),
        (lambda: Schedule(ema=1.0), "decay and ema shares"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    processes = module.Processes("cpu")
    assert processes.share(6) == slice(2, 4)
    with pytest.raises(ValueError, match="a batch of 4 cannot be shared by 3 processes"):
        processes.share(4)
