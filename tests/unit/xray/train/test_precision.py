"""In bfloat16 the large products lose digits; flows, warps, the camera and the image do not."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import xray
from helpers.xray import cameras, flowfuse
from helpers.xray.data import MoviePairs
from helpers.xray.deform import DeformableConv
from helpers.xray.edvr import EDVR, EDVRConfig
from helpers.xray.flowfuse import FlowFuse, FlowFuseConfig
from helpers.xray.score import evaluate
from helpers.xray.simulate import Experiment, simulate
from helpers.xray.stems import Residual
from helpers.xray.swin import Block, SwinConfig, SwinXVR
from helpers.xray.train import Schedule, train
from tests.unit.xray.networks import disturb, frames
from tests.unit.xray.train.test_loop import SHORT, Killed, same, samples, seeded, weights

NETWORKS = {  # each kind, as published and with its key frames at hand
    "edvr": lambda: EDVR(EDVRConfig(16, 4, 1, 2, 8), generator=seeded()),
    "edvr, sharp": lambda: EDVR(EDVRConfig(16, 4, 1, 2, 8, sharp=True), generator=seeded()),
    "swin": lambda: SwinXVR(SwinConfig(16, (2, 2), 2, (5, 4, 4), 8), generator=seeded()),
    "swin, sharp": lambda: SwinXVR(
        SwinConfig(16, (2, 2), 2, (5, 4, 4), 8, sharp=True), generator=seeded()
    ),
    "flowfuse": lambda: FlowFuse(FlowFuseConfig(16, 16, 1, 8, 1), generator=seeded()),
    "flowfuse, told": lambda: FlowFuse(
        FlowFuseConfig(16, 16, 1, 8, 1, told=True), generator=seeded()
    ),
}
HALF = "cpu", torch.bfloat16


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_blocks_multiply_in_bfloat16_and_nothing_is_looked_up_in_it(make, monkeypatch):
    """Under autocast the blocks give bfloat16, grid_sample and the camera see float32 alone."""
    net, inputs = disturb(make()), frames()
    looked, lost = [], []
    sample, between = F.grid_sample, cameras.CoarseCamera._between
    monkeypatch.setattr(
        F, "grid_sample", lambda *a, **k: looked.extend(t.dtype for t in a) or sample(*a, **k)
    )

    def seen(self, image, *rest):
        out = between(self, image, *rest)
        looked.extend((image.dtype, out.dtype))
        return out

    monkeypatch.setattr(cameras.CoarseCamera, "_between", seen)
    for block in net.modules():
        inner = getattr(block, "conv1", getattr(block, "mlp", None))
        if isinstance(block, Residual | Block):
            inner.register_forward_hook(lambda layer, x, y: lost.append(y.dtype))
    with torch.autocast(*HALF):
        image = net(*inputs)
    assert image.dtype == torch.float32 and set(looked) <= {torch.float32}
    assert looked or not any(word in type(net).__name__ for word in ("EDVR", "FlowFuse"))
    assert set(lost) == {torch.bfloat16}


def test_places_and_the_camera_are_the_same_bits_under_autocast():
    draw = torch.Generator().manual_seed(0)
    image, guide = (torch.rand(1, 4, 24, 40, generator=draw) for _ in range(2))
    layer = disturb(DeformableConv(4, groups=2))
    flow = 3 * torch.randn(1, 2, 24, 40, generator=draw)
    whole = cameras.CoarseCamera(1.7, gain=1.1)
    parts = {
        "offsets and masks": lambda: torch.cat(layer.displacements(guide), 1),
        "warp": lambda: flowfuse.warp(image, flow),
        "camera": lambda: whole(image),
        "adjoint": lambda: whole.adjoint(image),
        "soften": lambda: whole.soften(image, 3.0)[0],
        "other pixels": lambda: cameras.CoarseCamera(1.0, scale=3).to_grid(image)[0],
    }
    for name, part in parts.items():
        expected = part()
        with torch.autocast(*HALF):
            assert torch.equal(part(), expected), name
    # and a frame that comes as bfloat16 is looked up at places of 24 bits
    there = flowfuse.warp(image.bfloat16().float(), flow)
    with torch.autocast(*HALF):
        assert torch.equal(flowfuse.warp(image.bfloat16(), flow), there)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_step_in_bfloat16_is_near_one_in_float32(make):
    """Images to 3 % of their contrast, gradients to 8 degrees; and neither is the same."""
    net, (lr, hr, tau) = disturb(make()).eval(), frames()
    target = torch.rand(2, 1, *hr.shape[-2:], generator=seeded(3))
    images, slopes = [], []
    for on in (False, True):
        twin = copy.deepcopy(net)
        with torch.autocast(*HALF, enabled=on):
            image = twin(lr, hr, tau)
        (image - target).abs().mean().backward()
        images.append(image.detach())
        slopes.append(torch.cat([p.grad.flatten() for p in twin.parameters()]))
    change = (images[1] - images[0]).norm() / images[0].std() / images[0].numel() ** 0.5
    assert float(change) < 0.03 and not torch.equal(*images)
    turn = F.cosine_similarity(*slopes, dim=0)
    assert float(turn) > 0.99


@pytest.mark.parametrize("name", ["edvr", "swin", "flowfuse"])
def test_a_shipped_network_keeps_its_score_under_autocast(name):
    net = xray.load(name, device="cpu")
    movie = simulate(Experiment(shape=(64, 64), n_frames=11), seed=2000)
    data = MoviePairs([movie], every=3)
    exact = evaluate(net, data).psnr
    with torch.autocast(*HALF):
        rounded = evaluate(net, data).psnr
    assert np.abs(rounded - exact).max() < 0.1 and not np.array_equal(rounded, exact)
    assert abs((rounded - exact).mean()) < 0.03


@pytest.mark.parametrize("kind", ["edvr", "swin", "flowfuse"])
def test_a_killed_run_in_bfloat16_goes_on_bit_for_bit(tmp_path, kind):
    make, data, path = NETWORKS[kind], samples(), tmp_path / "run.safetensors"
    setting = {"schedule": SHORT, "generator": seeded(7), "device": "cpu"}
    setting["precision"] = "bfloat16"
    whole = train(make(), data, **setting)

    def kill(step):
        if step == 8:
            raise Killed

    with pytest.raises(Killed):
        train(make(), data, checkpoint=path, callback=kill, **setting)
    rest = train(make(), data, checkpoint=path, **setting)
    assert rest.resumed == 5
    np.testing.assert_array_equal(rest.history, whole.history)
    assert same(weights(rest.net), weights(whole.net))
    assert {v.dtype for v in weights(rest.net).values()} == {torch.float32}
    with pytest.raises(ValueError, match="precision bfloat16, not None"):
        train(make(), data, checkpoint=path, **setting | {"precision": "float32"})


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("float16", "cpu", "precision is 'float16': use 'float32' or 'bfloat16'"),
        ("bfloat16", "meta", "bfloat16 is for cuda and the cpu: use float32 on meta"),
    ],
)
def test_a_precision_that_is_not_there_is_refused(precision, device, message):
    with pytest.raises(ValueError, match=message):
        train(
            NETWORKS["flowfuse"](),
            samples(),
            schedule=Schedule(1, patch=16),
            precision=precision,
            device=device,
        )
