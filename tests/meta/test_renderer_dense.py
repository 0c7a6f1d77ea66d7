"""The network of the dense frames: its loss against a sum over all cases, and its read-out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from tests.benchmarks.renderer_dense import BACKGROUND, SIGMA, DenseNet, read, scene


def maps(shape, **placed):
    """Maps of a frame without molecules, but for what is placed: {name: {(row, column): value}}."""
    rows, columns = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape)
    found = {
        "logit": torch.full((1, *shape), -30.0),
        "x": columns.expand(1, *shape).clone(),
        "y": rows[:, None].expand(1, *shape).clone(),
        "photons": torch.full((1, *shape), 1000.0),
        "background": torch.tensor([BACKGROUND]),
    }
    for name, values in placed.items():
        for (row, column), value in values.items():
            found[name][0, row, column] = value
    return found


def logit(p):
    return float(np.log(p / (1 - p)))


def spot(x, y, shape):
    down, across = (
        np.diff(ndtr((np.arange(n + 1) - n / 2 - c) / SIGMA))
        for n, c in zip(shape, (y, x), strict=True)
    )
    return np.outer(down, across)


def test_mean_and_variance_are_those_over_all_cases():
    shape, places = (9, 11), {(2, 3): 0.3, (2, 4): 0.6, (6, 8): 0.9}
    found = maps(
        shape,
        logit={at: logit(p) for at, p in places.items()},
        photons={(2, 4): 700.0, (6, 8): 1500.0},
        x={(2, 3): -2.4},
    )
    spots = [1000 * spot(-2.4, -2, shape), 700 * spot(-1, -2, shape), 1500 * spot(3, 2, shape)]
    frames, chances = [], []
    for there in itertools.product((0, 1), repeat=3):
        frames.append(BACKGROUND + sum(s * image for s, image in zip(there, spots, strict=True)))
        pairs = zip(there, places.values(), strict=True)
        chances.append(np.prod([p if s else 1 - p for s, p in pairs]))
    mean = np.einsum("s,syx->yx", chances, frames)
    variance = np.einsum("s,syx->yx", chances, (np.array(frames) - mean) ** 2)
    ours = [image[0].numpy() for image in DenseNet(lens=False).expected(found)]
    np.testing.assert_allclose(ours[0], mean, rtol=1e-5)
    np.testing.assert_allclose(ours[1], variance, rtol=1e-4, atol=1e-3)


def test_one_molecule_is_better_than_two_halves():
    """The variance makes the difference: the expected frames are the same."""
    net, losses = DenseNet(lens=False), {}
    frame = torch.tensor(BACKGROUND + 1000 * spot(0.5, 0, (9, 10)), dtype=torch.float32)[None]
    whole = maps((9, 10), logit={(4, 5): 30.0})
    halves = maps((9, 10), logit={(4, 5): 0.0, (4, 4): 0.0}, x={(4, 4): 0.5})
    for name, found in {"whole": whole, "halves": halves}.items():
        net.forward = lambda frames, found=found: found
        for net.decide in (0.0, 1.0):
            losses[name, net.decide] = float(net.loss(frame)) * 90
    assert losses["halves", 0.0] - losses["whole", 0.0] < 0  # two halves cost less by their price
    assert losses["halves", 1.0] - losses["whole", 1.0] > 100  # nats


@pytest.mark.parametrize(
    "chances, rows",
    [
        ({}, []),
        ({(3, 3): 0.9}, [(3, 3)]),
        ({(3, 3): 0.9, (3, 4): 0.8}, [(3, 3), (3, 4)]),  # two molecules side by side
        ({(3, 3): 0.4, (3, 4): 0.3}, [(3, 3)]),  # one that two pixels share
        ({(3, 3): 0.9, (3, 4): 0.45}, [(3, 3)]),  # what is left over beside a molecule
        ({(3, 3): 0.3, (5, 5): 0.3}, []),  # two that are doubtful
    ],
)
def test_molecules_are_read_from_the_maps(chances, rows):
    found = maps((8, 9), logit={at: logit(p) for at, p in chances.items()})
    table = read(found)
    assert table["frame"].tolist() == [0] * len(rows)
    assert table["y"].tolist() == [row - 3.5 for row, _ in rows]
    assert table["x"].tolist() == [column - 4 for _, column in rows]


@pytest.mark.parametrize("lens", [False, True])
def test_a_network_fits_frames_of_any_size(lens):
    frames, truth = scene(lens, 3, 24, 2.0, seed=1)
    assert frames.shape == (3, 24, 24) and len(truth)
    net = DenseNet(lens)
    found = net(torch.from_numpy(frames[:, :, :20]))
    assert found["logit"].shape == (3, 24, 20) and ("z" in found) == lens
    away = found["x"][0, 0].detach() - (torch.arange(20) - 9.5)
    assert float(away.abs().max()) < 1
    net.loss(torch.from_numpy(frames)).backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.unet.parameters())
