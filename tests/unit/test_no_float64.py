"""Every function that takes a device works on one without float64, such as Apple's GPU.

Their documented examples run again with the device that `tests.no_float64` stands for.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import torch

import helpers
from helpers._arrays import to_tensor, wide
from helpers.inr.fit import loop
from tests.no_float64 import device

# The stand-in has no derivatives of derivatives and no forward mode, and safetensors reads past it.
BEYOND_IT = {
    "inr.fit._reconstruct.reconstruct",
    "renderer.deconvolve._blind.blind",
    "renderer.denoise.blindspot.load",
    "xray._shipped.load",
}


def documented():
    """The examples of every function and method of `helpers` that takes a device."""
    found = {}
    for info in pkgutil.walk_packages(helpers.__path__, "helpers."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, info.name):
            thing = module
            for part in test.name.removeprefix(info.name).strip(".").split("."):
                thing = getattr(thing, part) if part else thing
            if inspect.isfunction(thing) and "device" in inspect.signature(thing).parameters:
                found[test.name.removeprefix("helpers.")] = test
    return {name: test for name, test in found.items() if test.examples}


EXAMPLES = documented()


def on(place, example):
    """The source of an example, with the device instead of the host."""
    return example.source.replace('device="cpu"', f'device="{place}"')


def test_each_solver_is_there():
    solvers = (
        "fuse sirt richardson_lucy map_tv fit_sequence localize retrieve denoise train".split()
    )
    assert set(solvers) <= {name.rpartition(".")[2] for name in EXAMPLES}
    assert set(BEYOND_IT) <= set(EXAMPLES), "it works now, or has another name"


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - BEYOND_IT))
def test_the_documented_example_runs_there(name, monkeypatch):
    # how well each view fits is judged by a derivative of a derivative
    monkeypatch.setattr(loop, "goodness_of_views", lambda *args, **kwargs: None)
    with device() as place:
        names = dict(EXAMPLES[name].globs)
        for example in EXAMPLES[name].examples:
            exec(compile(on(place, example), name, "exec"), names)


def test_the_stand_in_refuses_what_the_device_refuses():
    with device() as place:
        there, here = torch.ones(3, device=place), torch.ones(3)
        assert there.device == place and (there + there).cpu().tolist() == [2, 2, 2]
        for index in ([2, 0], np.array([2, 0]), (..., [2, 0]), torch.tensor([2, 0])):
            assert torch.arange(3.0).to(place)[index].cpu().tolist() == [2, 0]
        for wrong in (
            lambda: there.double(),
            lambda: there.sum(dtype=torch.float64),
            lambda: torch.fft.fftfreq(3, dtype=torch.float64, device=place),
            lambda: here.double().to(place),
        ):
            with pytest.raises(TypeError, match="has no torch.float64"):
                wrong()
        with pytest.raises(RuntimeError, match="still on the CPU"):
            there + here
        assert wide(there).dtype == torch.float64 and wide(there).device.type == "cpu"
        assert to_tensor(here.double().numpy(), place).dtype == torch.float32
