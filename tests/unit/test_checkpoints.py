"""Checkpoints: exact resume, and a message of its own for every kind of wrong file."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers import checkpoints

CARD = {"data": "phantom", "seed": 3, "steps": 5, "metric": {"psnr": 30.0}}


def network(width=4):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))


def train(net, optimizer, generator, steps):
    for _ in range(steps):
        loss = net(torch.rand(8, 3, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def start():
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.8, 0.99))
    return net, optimizer, torch.Generator().manual_seed(7)


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    net, optimizer, generator = start()
    train(net, optimizer, generator, 10)
    whole = net.state_dict()

    net, optimizer, generator = start()
    train(net, optimizer, generator, 5)
    state = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "step": 5,
    }
    checkpoints.save(tmp_path / "run.safetensors", state, CARD)

    net, optimizer, generator = start()
    expect = {"model": net.state_dict()}
    state, card = checkpoints.load(tmp_path / "run.safetensors", expect=expect)
    net.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    train(net, optimizer, generator, 10 - state["step"])
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, whole[name]), name
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.99)
    assert card["metric"] == {"psnr": 30.0} and {"torch", "helpers"} <= set(card["versions"])


def test_every_kind_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(5)
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "views": [shared, shared.T, shared[0]],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 2),
        "array": np.arange(4, dtype=np.int16),
        "rng": rng.bit_generator.state,
        "pair": (1, None, "x", True, float("inf")),
        7: {},
    }
    checkpoints.save(tmp_path / "a", state, CARD)
    back, _ = checkpoints.load(tmp_path / "a")
    for mine, theirs in zip(back["views"], state["views"], strict=True):
        assert torch.equal(mine, theirs)
    for key in ("half", "scalar", "empty"):
        assert torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype
    assert isinstance(back["array"], np.ndarray) and back["array"].dtype == np.int16
    assert back["pair"] == state["pair"] and back[7] == {}
    other = np.random.default_rng(0)
    other.bit_generator.state = back["rng"]
    assert other.random() == rng.random()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.safetensors"
    checkpoints.save(path, {"model": network().state_dict(), "step": 5}, CARD)
    return path


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="net.safetensors is truncated or not a safetensors file"):
        checkpoints.load(saved)


def test_one_flipped_bit(saved):
    data = bytearray(saved.read_bytes())
    data[-3] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ValueError, match="is corrupt, its checksum differs"):
        checkpoints.load(saved)


def test_a_card_that_was_edited(saved):
    data = saved.read_bytes()
    assert data.count(b"30.0") == 1
    saved.write_bytes(data.replace(b"30.0", b"99.0"))
    with pytest.raises(ValueError, match="is corrupt"):
        checkpoints.load(saved)


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    (tmp_path / "net.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoints.load(tmp_path / "net.pt")


def test_a_file_of_somebody_else(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="has no card"):
        checkpoints.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="nothing is not a file"):
        checkpoints.load(tmp_path / "nothing")


def test_another_model(saved):
    with pytest.raises(ValueError, match=r"model/0.weight is \(4, 3\), the model has \(5, 3\)"):
        checkpoints.load(saved, expect={"model": network(5).state_dict()})
    deeper = torch.nn.Sequential(*network(), torch.nn.Linear(1, 1)).state_dict()
    with pytest.raises(ValueError, match="another model: model/2.weight is missing"):
        checkpoints.load(saved, expect={"model": deeper})
    with pytest.raises(ValueError, match="model/1.bias is not in this model"):
        checkpoints.load(saved, expect={"model": network()[:1].state_dict()})
    with pytest.raises(ValueError, match="optimizer is missing"):
        checkpoints.load(saved, expect={"optimizer": {"state": {}}})


@pytest.mark.parametrize(
    ("state", "card", "error", "message"),
    [
        ({"a": {"b": object()}}, CARD, TypeError, "/a/b is of type object"),
        ({"a": np.array(["x"])}, CARD, TypeError, "/a is an array of <U1"),
        ({1.5: 0}, CARD, TypeError, "use strings or integers"),
        ({}, {"seed": 1, "steps": 2}, ValueError, "the card lacks data, metric"),
        ({}, CARD | {"extra": object()}, TypeError, "the card holds what JSON cannot"),
    ],
)
def test_a_bad_state_is_refused_and_the_old_file_stays(saved, state, card, error, message):
    before = saved.read_bytes()
    with pytest.raises(error, match=message):
        checkpoints.save(saved, state, card)
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1
