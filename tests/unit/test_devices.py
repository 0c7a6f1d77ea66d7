"""The device picker: who decides, and what is said when it cannot be."""

import pytest
import torch

from helpers.devices import describe, pick_device


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv("HELPERS_DEVICE", raising=False)


def machine(monkeypatch, cuda, mps):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_taken(monkeypatch, cuda, mps, best):
    machine(monkeypatch, cuda, mps)
    assert pick_device().type == best


def test_the_argument_goes_before_the_environment(monkeypatch):
    machine(monkeypatch, cuda=True, mps=False)
    monkeypatch.setenv("HELPERS_DEVICE", "cpu")
    assert pick_device().type == "cpu"
    assert pick_device("cuda:0") == torch.device("cuda:0")
    assert pick_device(torch.device("cuda")).type == "cuda"


def test_unknown_and_missing_devices_are_named(monkeypatch):
    machine(monkeypatch, cuda=False, mps=False)
    with pytest.raises(ValueError, match="'warp' is not one torch knows"):
        pick_device("warp")
    with pytest.raises(ValueError, match="'cuda' is not on this machine: use 'cpu'"):
        pick_device("cuda")
    monkeypatch.setenv("HELPERS_DEVICE", "mps")
    with pytest.raises(ValueError, match="'mps' is not on this machine"):
        pick_device()


def test_a_page_says_what_it_ran_on(monkeypatch):
    monkeypatch.setenv("HELPERS_DEVICE", "cpu")
    assert describe().startswith("device cpu, helpers ") and torch.__version__ in describe()
